//! SHA-256 digests, in the form that registries write: `sha256:` and 64 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

const PREFIX: &str = "sha256:";
const BYTES: usize = 32;

#[derive(Debug, thiserror::Error)]
#[error("{text:?} is no digest: wanted are `sha256:` and 64 hexadecimal digits")]
pub struct DigestError {
    text: String,
}

/// Content by its hash. Other algorithms are not taken: a pin is SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; BYTES]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// 64 hexadecimal digits, as config and `sha256sum` have them.
    pub fn from_hex(text: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; BYTES];
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(_) => Err(DigestError {
                text: text.chars().take(80).collect(),
            }),
        }
    }

    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

/// With or without `sha256:`.
impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::from_hex(text.strip_prefix(PREFIX).unwrap_or(text))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        match text.strip_prefix(PREFIX) {
            Some(digits) => Self::from_hex(digits),
            None => Err(DigestError {
                text: text.chars().take(80).collect(),
            }),
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sha256_is_a_digest() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), format!("sha256:{empty}"));
        assert_eq!(empty.to_uppercase().parse::<Digest>().unwrap(), digest);
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        for text in ["", "sha256:", "sha512:00", &empty[1..], "sha256:zz"] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
        assert!(
            Digest::try_from(empty.to_owned()).is_err(),
            "a registry writes the algorithm"
        );
    }
}
