//! A register: one value that a verifier will see, what it was made from, or why it is not known.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How a value was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    #[serde(rename = "sha-256")]
    Sha256,
    #[serde(rename = "sha-384")]
    Sha384,
    #[serde(rename = "sha-512")]
    Sha512,
    #[serde(rename = "sm3")]
    Sm3,
    /// No digest: a claim such as a guest policy or host data.
    #[serde(rename = "raw")]
    Raw,
}

impl Algorithm {
    pub const ALL: [Self; 5] = [
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
        Self::Sm3,
        Self::Raw,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha-256",
            Self::Sha384 => "sha-384",
            Self::Sha512 => "sha-512",
            Self::Sm3 => "sm3",
            Self::Raw => "raw",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == text)
    }

    /// Bytes of a digest; a claim has any number.
    #[must_use]
    pub fn length(self) -> Option<usize> {
        match self {
            Self::Sha256 | Self::Sm3 => Some(32),
            Self::Sha384 => Some(48),
            Self::Sha512 => Some(64),
            Self::Raw => None,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where an input of a register comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputSource {
    Request,
    File,
    Fact,
    Setting,
    /// Nobody said it, and it could not be looked up.
    Assumed,
}

impl InputSource {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "request" => Self::Request,
            "file" => Self::File,
            "fact" => Self::Fact,
            "setting" => Self::Setting,
            "assumed" => Self::Assumed,
            _ => return None,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    pub name: String,
    pub value: String,
    pub source: InputSource,
}

/// A value that holds under a condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alternative {
    pub condition: String,
    #[serde(with = "hexadecimal")]
    pub value: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterValue {
    Computed(Vec<u8>),
    /// Which one holds depends on a property of the host that could not be read. At least two.
    OneOf(Vec<Alternative>),
    /// The reason. There is no default for a value that attestation relies on.
    Unknown(String),
}

impl RegisterValue {
    /// Every value that may hold; none where it is not known.
    pub fn candidates(&self) -> impl Iterator<Item = &[u8]> {
        let (one, several) = match self {
            Self::Computed(value) => (Some(value.as_slice()), [].as_slice()),
            Self::OneOf(alternatives) => (None, alternatives.as_slice()),
            Self::Unknown(_) => (None, [].as_slice()),
        };
        one.into_iter().chain(
            several
                .iter()
                .map(|alternative| alternative.value.as_slice()),
        )
    }
}

/// One value that a verifier will see. In JSON: `name`, `algorithm`, `value` (lower-case
/// hexadecimal or null), `alternatives`, `unknown` (null where it is known), `inputs`, `aliases`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Flat", into = "Flat")]
pub struct Register {
    pub name: String,
    pub algorithm: Algorithm,
    pub value: RegisterValue,
    pub inputs: Vec<Input>,
    /// Names that policy formats have for it: key `trustee` or `corim`. A format leaves out what
    /// has no name in it, and is refused as a whole where a register with a name in it is unknown.
    pub aliases: BTreeMap<String, String>,
}

impl Register {
    /// Its name in a format, if it has one there.
    #[must_use]
    pub fn alias(&self, format: &str) -> Option<&str> {
        self.aliases.get(format).map(String::as_str)
    }
}

/// A register as JSON has it.
#[derive(Clone, Serialize, Deserialize)]
struct Flat {
    name: String,
    algorithm: Algorithm,
    value: Option<String>,
    #[serde(default)]
    alternatives: Vec<Alternative>,
    #[serde(default)]
    unknown: Option<String>,
    #[serde(default)]
    inputs: Vec<Input>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
}

impl From<Register> for Flat {
    fn from(register: Register) -> Self {
        let (value, alternatives, unknown) = match register.value {
            RegisterValue::Computed(value) => (Some(hexadecimal::text(&value)), Vec::new(), None),
            RegisterValue::OneOf(alternatives) => (None, alternatives, None),
            RegisterValue::Unknown(reason) => (None, Vec::new(), Some(reason)),
        };
        Self {
            name: register.name,
            algorithm: register.algorithm,
            value,
            alternatives,
            unknown,
            inputs: register.inputs,
            aliases: register.aliases,
        }
    }
}

impl TryFrom<Flat> for Register {
    type Error = String;

    fn try_from(flat: Flat) -> Result<Self, String> {
        let value = match (flat.value, flat.alternatives.as_slice(), flat.unknown) {
            (Some(text), [], None) => RegisterValue::Computed(hexadecimal::bytes(&text)?),
            (None, [_, _, ..], None) => RegisterValue::OneOf(flat.alternatives),
            (None, [], Some(reason)) => RegisterValue::Unknown(reason),
            _ => {
                return Err(format!(
                    "register {:?} has to have a value, alternatives or a reason, and only one of these",
                    flat.name
                ));
            }
        };
        Ok(Self {
            name: flat.name,
            algorithm: flat.algorithm,
            value,
            inputs: flat.inputs,
            aliases: flat.aliases,
        })
    }
}

/// A file that was started from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// As in the contract: `kernel`, `initrd`, `firmware`, `firmware-code`, `firmware-vars`, `igvm`.
    pub role: String,
    /// Lower-case hexadecimal.
    pub sha384: String,
}

/// The component that computed registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendIdentity {
    pub name: String,
    /// The technology, as the backend calls it.
    pub tee: String,
    pub vendor: String,
    pub version: String,
    /// Of the component, lower-case hexadecimal.
    pub sha256: String,
    /// How a CoRIM names the environment (`AMD`, `SEV-SNP`), where the backend says it.
    #[serde(default)]
    pub corim_vendor: Option<String>,
    #[serde(default)]
    pub corim_model: Option<String>,
}

/// All that is known of what a guest was, or would be, launched from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measurement {
    pub registers: Vec<Register>,
    pub files: Vec<FileDigest>,
    pub backend: BackendIdentity,
    /// None where no QEMU was asked.
    #[serde(default)]
    pub qemu_version: Option<String>,
}

pub(crate) mod hexadecimal {
    //! Bytes as lower-case hexadecimal text.

    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(crate) fn text(bytes: &[u8]) -> String {
        hex::encode(bytes)
    }

    pub(crate) fn bytes(text: &str) -> Result<Vec<u8>, String> {
        hex::decode(text)
            .map_err(|_| format!("{text:?} is not hexadecimal with two digits for each byte"))
    }

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&text(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        bytes(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
