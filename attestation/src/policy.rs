//! The formats that a measurement is rendered in, and what a policy may be made of.
//!
//! A policy has reference values, and a verifier trusts a guest for having them. So there is no
//! default: a register that the format names and that is not known, a digest that cannot be one, or
//! a document that would hold nothing is refused as a whole. A verifier given a part of a policy
//! would accept more guests than it should.

use std::collections::BTreeMap;
use std::fmt;

use crate::pcr::PcrValues;
use crate::register::{Algorithm, Measurement, Register, RegisterValue};
use crate::{corim, json, text, trustee};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyFormat {
    Json,
    Corim,
    Trustee,
    Text,
}

impl PolicyFormat {
    pub const ALL: [Self; 4] = [Self::Json, Self::Corim, Self::Trustee, Self::Text];

    /// As a user writes it. It is also the key of a register's alias in the format.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Corim => "corim",
            Self::Trustee => "trustee",
            Self::Text => "text",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }
}

impl fmt::Display for PolicyFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error(
        "register {register:?} is not known, so there is no {format} policy: {reason}; give what \
         it depends on, or read the measurement as json, which shows it as unknown"
    )]
    Unknown {
        register: String,
        reason: String,
        format: PolicyFormat,
    },
    #[error(
        "{count} combinations of values may hold, and a CoRIM would need a triple for each; settings \
         of the backend or facts of the host decide on some of them"
    )]
    TooManyCombinations { count: usize },
    #[error(
        "there is no reference value for a {format} policy: {reason}; a policy without one would \
         accept every guest"
    )]
    Empty {
        format: PolicyFormat,
        reason: String,
    },
    #[error(
        "register {register:?} is made with {algorithm}, which has no number in IANA's registry \
         of hash algorithms that CoRIM uses (sha-256, sha-384 and sha-512 have one); the backend \
         should not name it in corim"
    )]
    NoAlgorithmNumber {
        register: String,
        algorithm: Algorithm,
    },
    #[error(
        "register {register:?} has {actual} bytes and a {algorithm} digest has {expected}; the \
         backend that computed it is at fault"
    )]
    WrongLength {
        register: String,
        algorithm: Algorithm,
        expected: usize,
        actual: usize,
    },
    #[error(
        "register {register:?} is a {algorithm} digest of zeros only, which no launch has; the \
         backend that computed it is at fault"
    )]
    AllZero {
        register: String,
        algorithm: Algorithm,
    },
    #[error(
        "register {register:?} is a claim without a byte; the backend that computed it is at fault"
    )]
    NoBytes { register: String },
    #[error(
        "register {register:?} has {count} alternatives, and two are the least; the backend that \
         computed it is at fault"
    )]
    TooFewAlternatives { register: String, count: usize },
    #[error(
        "register {register:?} has an empty name in {format}; the backend should give it one, or \
         leave it out there"
    )]
    EmptyAlias {
        register: String,
        format: PolicyFormat,
    },
    #[error(
        "{first:?} and {second:?} are both {alias:?} in {format}, where a verifier could not tell \
         them apart; the backend should name each differently"
    )]
    DuplicateAlias {
        alias: String,
        first: String,
        second: String,
        format: PolicyFormat,
    },
    #[error("the CoRIM could not be put together; this is a fault of Casemate")]
    Corim(#[from] ::corim::BuilderError),
    #[error("the document could not be written as JSON; this is a fault of Casemate")]
    Json(#[from] serde_json::Error),
}

/// Renders in any format. Trustee's message has no PCR values: it has a guest's launch only.
///
/// # Errors
///
/// [`PolicyFormat::Json`] and [`PolicyFormat::Text`] show what is not known; the others refuse it.
pub fn render_policy(
    format: PolicyFormat,
    measurement: &Measurement,
    pcrs: Option<&PcrValues>,
) -> Result<Vec<u8>, PolicyError> {
    Ok(match format {
        PolicyFormat::Json => {
            let mut bytes = serde_json::to_vec_pretty(&json::document(measurement, pcrs))?;
            bytes.push(b'\n');
            bytes
        }
        PolicyFormat::Corim => corim::render(measurement, pcrs)?,
        PolicyFormat::Trustee => trustee::render(measurement)?,
        PolicyFormat::Text => text::render(measurement, pcrs).into_bytes(),
    })
}

/// A register that a format names, with the values of which one has to be seen.
#[derive(Debug)]
pub(crate) struct Reference<'a> {
    pub(crate) alias: &'a str,
    pub(crate) register: &'a Register,
    /// At least one, each once.
    pub(crate) values: Vec<&'a [u8]>,
}

/// The registers that a format names, in their order. There may be none.
pub(crate) fn references(
    measurement: &Measurement,
    format: PolicyFormat,
) -> Result<Vec<Reference<'_>>, PolicyError> {
    let mut named = BTreeMap::new();
    let mut references = Vec::new();
    for register in &measurement.registers {
        let Some(alias) = register.alias(format.as_str()) else {
            continue;
        };
        if alias.is_empty() {
            return Err(PolicyError::EmptyAlias {
                register: register.name.clone(),
                format,
            });
        }
        if let Some(first) = named.insert(alias, &register.name) {
            return Err(PolicyError::DuplicateAlias {
                alias: alias.to_owned(),
                first: first.clone(),
                second: register.name.clone(),
                format,
            });
        }
        references.push(Reference {
            alias,
            register,
            values: values(register, format)?,
        });
    }
    Ok(references)
}

fn values(register: &Register, format: PolicyFormat) -> Result<Vec<&[u8]>, PolicyError> {
    match &register.value {
        RegisterValue::Unknown(reason) => {
            return Err(PolicyError::Unknown {
                register: register.name.clone(),
                reason: reason.clone(),
                format,
            });
        }
        RegisterValue::OneOf(alternatives) if alternatives.len() < 2 => {
            return Err(PolicyError::TooFewAlternatives {
                register: register.name.clone(),
                count: alternatives.len(),
            });
        }
        RegisterValue::OneOf(_) | RegisterValue::Computed(_) => {}
    }
    let mut values = Vec::new();
    for value in register.value.candidates() {
        plausible(register, value)?;
        // Two conditions may lead to one value.
        if !values.contains(&value) {
            values.push(value);
        }
    }
    Ok(values)
}

fn plausible(register: &Register, value: &[u8]) -> Result<(), PolicyError> {
    let algorithm = register.algorithm;
    match algorithm.length() {
        // A claim may well be zero: a guest policy, or host data that nobody set.
        None if value.is_empty() => Err(PolicyError::NoBytes {
            register: register.name.clone(),
        }),
        None => Ok(()),
        Some(expected) if value.len() != expected => Err(PolicyError::WrongLength {
            register: register.name.clone(),
            algorithm,
            expected,
            actual: value.len(),
        }),
        Some(_) if value.iter().all(|byte| *byte == 0) => Err(PolicyError::AllZero {
            register: register.name.clone(),
            algorithm,
        }),
        Some(_) => Ok(()),
    }
}

/// Why a format names nothing of a measurement.
pub(crate) fn nothing(measurement: &Measurement, format: PolicyFormat) -> PolicyError {
    let backend = &measurement.backend.name;
    let reason = match measurement.registers.len() {
        0 => format!("backend {backend:?} computed no register"),
        count => format!(
            "backend {backend:?} gives none of its registers ({count}) a name in this format"
        ),
    };
    PolicyError::Empty { format, reason }
}
