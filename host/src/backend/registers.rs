//! Registers as a backend answers them. A verifier will be told of them, so nothing is let through that
//! could be mistaken for a value: no length that is not the algorithm's, no digest of zeros, no
//! register twice, no choice of one.

use std::collections::{BTreeMap, BTreeSet};

use casemate_attestation::{Algorithm, Alternative, Input, InputSource, Register, RegisterValue};

use super::bindings::casemate::tee::types as wit;
use super::convert::{Violation, bounded, name, plain};

/// Most registers of a launch; the technology with most has a dozen.
const MAX_REGISTERS: usize = 64;
/// Longest claim: an ID block with its signatures.
const MAX_CLAIM: usize = 4 << 10;
/// Keys of aliases: formats of policies.
const MAX_KEY: usize = 32;

pub(super) fn from_wit(registers: Vec<wit::Register>) -> Result<Vec<Register>, Violation> {
    if registers.len() > MAX_REGISTERS {
        return Err(Violation::new(
            "registers",
            format!("{} are more than {MAX_REGISTERS}", registers.len()),
        ));
    }
    let registers: Vec<Register> = registers
        .into_iter()
        .enumerate()
        .map(|(index, register)| one(&format!("registers[{index}]"), register))
        .collect::<Result<_, _>>()?;
    let mut names = BTreeSet::new();
    let mut aliases = BTreeSet::new();
    for register in &registers {
        if !names.insert(&register.name) {
            return Err(Violation::new(&register.name, "there are two of this name"));
        }
        for alias in &register.aliases {
            if !aliases.insert(alias) {
                return Err(Violation::new(
                    &register.name,
                    format!(
                        "another register is called {:?} in {} too",
                        alias.1, alias.0
                    ),
                ));
            }
        }
    }
    Ok(registers)
}

fn one(at: &str, register: wit::Register) -> Result<Register, Violation> {
    let name = name(&format!("{at}.name"), register.name)?;
    let at = format!("register {name}");
    let algorithm = Algorithm::parse(&register.algorithm).ok_or_else(|| {
        let known = Algorithm::ALL.map(Algorithm::as_str).join(", ");
        Violation::new(
            format!("{at}.algorithm"),
            format!("{:?} is none of {known}", register.algorithm),
        )
    })?;
    bounded(&at, register.inputs.len())?;
    bounded(&at, register.aliases.len())?;
    Ok(Register {
        value: value(&at, algorithm, register.value)?,
        name,
        algorithm,
        inputs: register
            .inputs
            .into_iter()
            .map(|one| input(&at, one))
            .collect::<Result<_, _>>()?,
        aliases: aliases(&at, register.aliases)?,
    })
}

fn value(
    at: &str,
    algorithm: Algorithm,
    value: wit::RegisterValue,
) -> Result<RegisterValue, Violation> {
    Ok(match value {
        wit::RegisterValue::Computed(value) => {
            RegisterValue::Computed(bytes(at, algorithm, value)?)
        }
        wit::RegisterValue::OneOf(alternatives) => {
            bounded(at, alternatives.len())?;
            let alternatives = alternatives.into_iter().map(|alternative| {
                Ok(Alternative {
                    condition: said(at, "condition", alternative.condition)?,
                    value: bytes(at, algorithm, alternative.value)?,
                })
            });
            let alternatives: Vec<Alternative> = alternatives.collect::<Result<_, Violation>>()?;
            let values: BTreeSet<&Vec<u8>> = alternatives.iter().map(|one| &one.value).collect();
            if values.len() < 2 || values.len() != alternatives.len() {
                return Err(Violation::new(
                    at,
                    "a choice has two values at least, and none of them twice",
                ));
            }
            RegisterValue::OneOf(alternatives)
        }
        wit::RegisterValue::Unknown(reason) => {
            RegisterValue::Unknown(said(at, "the reason of an unknown value", reason)?)
        }
    })
}

fn said(at: &str, what: &str, text: String) -> Result<String, Violation> {
    let text = plain(at, text)?;
    if text.trim().is_empty() {
        return Err(Violation::new(at, format!("{what} is empty")));
    }
    Ok(text)
}

fn bytes(at: &str, algorithm: Algorithm, bytes: Vec<u8>) -> Result<Vec<u8>, Violation> {
    match algorithm.length() {
        Some(length) if bytes.len() != length => Err(Violation::new(
            at,
            format!("it has {} bytes, and {algorithm} has {length}", bytes.len()),
        )),
        // No content is known to have it. It stands where somebody forgot to compute one.
        Some(_) if bytes.iter().all(|byte| *byte == 0) => {
            Err(Violation::new(at, "a digest of zeros is no digest"))
        }
        None if bytes.len() > MAX_CLAIM => Err(Violation::new(
            at,
            format!("{} bytes are more than {MAX_CLAIM}", bytes.len()),
        )),
        None if bytes.is_empty() => Err(Violation::new(at, "a claim without a byte says nothing")),
        Some(_) | None => Ok(bytes),
    }
}

fn input(at: &str, input: wit::Input) -> Result<Input, Violation> {
    let source = InputSource::parse(&input.source).ok_or_else(|| {
        Violation::new(
            format!("{at}.inputs"),
            format!(
                "{:?} is none of request, file, fact, setting, assumed",
                input.source
            ),
        )
    })?;
    Ok(Input {
        name: name(&format!("{at}.inputs"), input.name)?,
        value: plain(&format!("{at}.inputs"), input.value)?,
        source,
    })
}

fn aliases(at: &str, aliases: Vec<wit::Extra>) -> Result<BTreeMap<String, String>, Violation> {
    let at = format!("{at}.aliases");
    let mut found = BTreeMap::new();
    for alias in aliases {
        let (key, value) = (name(&at, alias.key)?, name(&at, alias.value)?);
        if key.len() > MAX_KEY {
            return Err(Violation::new(&at, "a key is the name of a format"));
        }
        if found.insert(key.clone(), value).is_some() {
            return Err(Violation::new(&at, format!("{key:?} is there twice")));
        }
    }
    Ok(found)
}
