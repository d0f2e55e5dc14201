//! The object that protects the guest, `tdx-guest` (QEMU, qapi/qom.json, `TdxGuestProperties`).

use casemate_backend::answer::{invalid_request, warn};
use casemate_backend::bindings::casemate::tee::types::{
    Error, Finding, LaunchRequest, Typed, Value,
};
use casemate_backend::identity;
use casemate_backend::memory::property;

use super::{MR_CONFIG_ID, quotes};
use crate::facts::{Facts, OBJECT};
use crate::settings::{ATTRIBUTES, REGISTER_BYTES, SEPT_VE_DISABLE, Settings};

/// Bits of TD attributes ("TDX Module ABI Reference", ATTRIBUTES).
const DEBUG: u64 = 1;
pub(crate) const SEPT_VE_DISABLE_BIT: u64 = 1 << 28;
pub(crate) const PKS: u64 = 1 << 30;
const PERFMON: u64 = 1 << 63;
/// What QEMU takes; it refuses the others when the first vCPU is made.
const TAKEN: u64 = SEPT_VE_DISABLE_BIT | PKS | PERFMON;

pub(super) fn object(
    request: &LaunchRequest,
    facts: &Facts,
    settings: &Settings,
    findings: &mut Vec<Finding>,
) -> Result<Typed, Error> {
    let attributes = attributes(settings, findings)?;
    let mut properties = vec![
        property("attributes", Value::Unsigned(attributes)),
        property(
            "sept-ve-disable",
            Value::Boolean(attributes & SEPT_VE_DISABLE_BIT != 0),
        ),
    ];
    if let Some(identity) = &request.identity {
        let carried = identity::carried(identity, REGISTER_BYTES, MR_CONFIG_ID)?;
        properties.push(property(MR_CONFIG_ID, Value::Bytes(carried)));
    }
    for (name, value) in [
        ("mrowner", &settings.mr_owner),
        ("mrownerconfig", &settings.mr_owner_config),
    ] {
        if let Some(value) = value {
            properties.push(property(name, Value::Bytes(value.clone())));
        }
    }
    properties.extend(quotes::service(facts, settings, findings)?.properties());
    Ok(Typed {
        kind: OBJECT.to_owned(),
        id: Some(settings.guard_id.clone()),
        properties,
    })
}

/// Attributes with their one bit that has a property of its own.
pub(crate) fn attributes(settings: &Settings, findings: &mut Vec<Finding>) -> Result<u64, Error> {
    let set = settings.attributes.value;
    let refusal = |message: &str, remedy: &str| {
        Err(invalid_request(
            ATTRIBUTES,
            &format!("attributes {set:#x} {message}"),
            remedy,
        ))
    };
    if set & DEBUG != 0 {
        return refusal(
            "have bit 0 (DEBUG) set, with which the host can read the guest",
            &format!("clear bit 0: {:#x}", set & !DEBUG),
        );
    }
    if set & !TAKEN != 0 {
        return refusal(
            &format!("have bits set that QEMU refuses: {:#x}", set & !TAKEN),
            "set none but bits 28 (SEPT_VE_DISABLE), 30 (PKS) and 63 (PERFMON)",
        );
    }
    let wanted = settings.sept_ve_disable.value;
    let has = set & SEPT_VE_DISABLE_BIT != 0;
    if settings.attributes.is_named() && settings.sept_ve_disable.is_named() && wanted != has {
        return refusal(
            &format!("and {SEPT_VE_DISABLE}={wanted} contradict each other in bit 28"),
            &format!("leave {SEPT_VE_DISABLE} out, or set bit 28 as it says"),
        );
    }
    // The one that somebody said.
    let disabled = if settings.attributes.is_named() {
        has
    } else {
        wanted
    };
    if !disabled {
        findings.push(warn(
            "attributes.sept-ve",
            SEPT_VE_DISABLE,
            "SEPT_VE_DISABLE is off, and Linux guests do not start without it",
            &format!("leave {SEPT_VE_DISABLE} out unless the guest is known to handle it"),
        ));
    }
    Ok(if disabled {
        set | SEPT_VE_DISABLE_BIT
    } else {
        set & !SEPT_VE_DISABLE_BIT
    })
}
