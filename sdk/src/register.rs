//! Registers that a verifier will see, and what they were made from.

use crate::answer::shown;
use crate::bindings::casemate::tee::types::{
    Alternative, Extra, Input, Property, Register, RegisterValue, Typed, Value,
};

pub const SHA_384: &str = "sha-384";
/// A claim that is no digest, such as a policy.
pub const RAW: &str = "raw";

/// Key of the alias by which a CoRIM names a register.
pub const CORIM: &str = "corim";
/// Key of the alias by which Trustee's reference values name it.
pub const TRUSTEE: &str = "trustee";

/// Where an input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Request,
    File,
    Fact,
    Setting,
    /// Nobody said it and it could not be looked up.
    Assumed,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::File => "file",
            Self::Fact => "fact",
            Self::Setting => "setting",
            Self::Assumed => "assumed",
        }
    }
}

pub fn input(name: &str, value: &str, source: Source) -> Input {
    Input {
        name: name.to_owned(),
        value: shown(value),
        source: source.as_str().to_owned(),
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn computed(name: &str, algorithm: &str, value: &[u8], inputs: Vec<Input>) -> Register {
    register(
        name,
        algorithm,
        RegisterValue::Computed(value.to_vec()),
        inputs,
    )
}

pub fn one_of(
    name: &str,
    algorithm: &str,
    alternatives: Vec<Alternative>,
    inputs: Vec<Input>,
) -> Register {
    register(name, algorithm, RegisterValue::OneOf(alternatives), inputs)
}

pub fn unknown(name: &str, algorithm: &str, reason: &str, inputs: Vec<Input>) -> Register {
    register(
        name,
        algorithm,
        RegisterValue::Unknown(shown(reason)),
        inputs,
    )
}

fn register(name: &str, algorithm: &str, value: RegisterValue, inputs: Vec<Input>) -> Register {
    Register {
        name: name.to_owned(),
        algorithm: algorithm.to_owned(),
        value,
        inputs,
        aliases: Vec::new(),
    }
}

/// The register with the names that policies have for it.
pub fn named(mut register: Register, aliases: &[(&str, &str)]) -> Register {
    register.aliases = aliases
        .iter()
        .map(|(key, value)| Extra {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        })
        .collect();
    register
}

/// A property of an object of the plan, as bytes.
pub fn bytes_of<'a>(object: &'a Typed, path: &str) -> Option<&'a [u8]> {
    match &property_of(object, path)?.value {
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

pub fn property_of<'a>(object: &'a Typed, path: &str) -> Option<&'a Property> {
    object
        .properties
        .iter()
        .find(|property| property.path == path)
}
