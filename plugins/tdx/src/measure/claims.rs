//! What a quote tells of a guest and is no digest of its memory: its attributes, and the three
//! registers that are set for it. They are those of the object that protects it, where the plan has
//! one, and otherwise what the settings would make of it.

use casemate_backend::answer::invalid_request;
use casemate_backend::bindings::casemate::tee::types::{
    Error, LaunchRequest, Register, Typed, Value,
};
use casemate_backend::identity;
use casemate_backend::register::{
    self, CORIM, RAW, Source, computed, hex, named, one_of, property_of,
};

use super::alternative;
use crate::facts::OBJECT;
use crate::plan::{MR_CONFIG_ID, guest};
use crate::settings::{DEFAULT_ATTRIBUTES, REGISTER_BYTES, Settings};

pub(super) fn claims(
    request: &LaunchRequest,
    objects: &[Typed],
    settings: &Settings,
) -> Result<Vec<Register>, Error> {
    let guard = objects.iter().find(|object| object.kind == OBJECT);
    let identity = match &request.identity {
        Some(identity) => Some(identity::carried(identity, REGISTER_BYTES, MR_CONFIG_ID)?),
        None => None,
    };
    let mut claims = vec![attributes(guard, settings)?];
    for (name, set, source) in [
        (MR_CONFIG_ID, &identity, Source::Request),
        ("mrowner", &settings.mr_owner, Source::Setting),
        ("mrownerconfig", &settings.mr_owner_config, Source::Setting),
    ] {
        let value = match guard {
            Some(guard) => bytes(guard, name)?,
            None => set.clone(),
        };
        // It has no name in a policy then, which would keep out every VM that has an identity.
        if guard.is_none() && value.is_none() && name == MR_CONFIG_ID {
            let reason = "each VM carries its own identity, and none is named";
            claims.push(register::unknown(name, RAW, reason, Vec::new()));
            continue;
        }
        claims.push(claim(name, value.as_deref(), source));
    }
    Ok(claims)
}

/// What is not set is zeros: QEMU passes them to the TDX module.
fn claim(name: &str, value: Option<&[u8]>, source: Source) -> Register {
    let (value, inputs) = match value {
        Some(value) => (value, vec![register::input(name, &hex(value), source)]),
        None => ([0; REGISTER_BYTES].as_slice(), Vec::new()),
    };
    named(computed(name, RAW, value, inputs), &[(CORIM, name)])
}

fn bytes(guard: &Typed, name: &str) -> Result<Option<Vec<u8>>, Error> {
    match property_of(guard, name).map(|property| &property.value) {
        None => Ok(None),
        Some(Value::Bytes(bytes)) if bytes.len() == REGISTER_BYTES => Ok(Some(bytes.clone())),
        Some(_) => Err(wrong_form(name, "48 bytes")),
    }
}

/// Little-endian, as TD_PARAMS and quotes have it. QEMU adds the bit for supervisor keys (PKS) where
/// the CPU has them, which is not known here; it adds PERFMON for no plan of ours, which do not ask
/// for a PMU.
fn attributes(guard: Option<&Typed>, settings: &Settings) -> Result<Register, Error> {
    const NAME: &str = "attributes";
    let set = match guard {
        Some(guard) => attributes_of(guard)?,
        None => guest::attributes(settings, &mut Vec::new())?,
    };
    let inputs = vec![register::input(NAME, &format!("{set:#x}"), Source::Setting)];
    let register = if set & guest::PKS != 0 {
        computed(NAME, RAW, &set.to_le_bytes(), inputs)
    } else {
        let with = set | guest::PKS;
        let alternatives = vec![
            alternative(
                "the CPU has protection keys for supervisor pages (PKS), so QEMU adds bit 30",
                &with.to_le_bytes(),
            ),
            alternative(
                "the CPU has no protection keys for supervisor pages (PKS)",
                &set.to_le_bytes(),
            ),
        ];
        one_of(NAME, RAW, alternatives, inputs)
    };
    Ok(named(register, &[(CORIM, NAME)]))
}

fn attributes_of(guard: &Typed) -> Result<u64, Error> {
    let value = |path| property_of(guard, path).map(|property| &property.value);
    let set = match value("attributes") {
        None => DEFAULT_ATTRIBUTES,
        Some(Value::Unsigned(set)) => *set,
        Some(_) => return Err(wrong_form("attributes", "a number")),
    };
    match value("sept-ve-disable") {
        None => Ok(set),
        Some(Value::Boolean(true)) => Ok(set | guest::SEPT_VE_DISABLE_BIT),
        Some(Value::Boolean(false)) => Ok(set & !guest::SEPT_VE_DISABLE_BIT),
        Some(_) => Err(wrong_form("sept-ve-disable", "true or false")),
    }
}

fn wrong_form(name: &str, wanted: &str) -> Error {
    invalid_request(
        name,
        &format!(
            "{name} of {OBJECT} in the plan has a value of the wrong form, wanted is {wanted}"
        ),
        "measure a plan of this backend",
    )
}
