//! What the config says about attestation, and the policies that are made of it and of a VM's
//! measurement.

use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_attestation::pcr::{self, PcrError};
use casemate_attestation::sign::{KeyError, SignError};
use casemate_attestation::{
    Measurement, PcrValues, PolicyError, PolicyFormat, SigningKey, render_policy,
};
use casemate_catalogue::ErrorId;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::catalogued::Catalogued;
use super::config::duration;
use crate::config::form::Form;
use crate::config::key::Key;
use crate::regular_file::{self, ReadError};

/// Largest PEM file of a key; one of P-384 has some 300 bytes.
const LARGEST_KEY: u64 = 64 << 10;

/// Keys of this module, in the order of the documented file.
pub const KEYS: &[Key] = &[
    Key::unset(
        "attestation.pcr_values",
        Form::Path,
        "policies have no PCR values",
        "/etc/casemate/pcr-values.json",
        "Expected values of a guest's vTPM, which are merged into its policies: \
         `{\"pcr_values\":{\"sha256\":{\"0\":\"<hex>\"},\"sha384\":{}}}`. Read for each policy.",
    ),
    Key::unset(
        "attestation.signing_key",
        Form::Path,
        "CoRIMs are not signed",
        "/etc/casemate/corim-key.pem",
        "Key that signs CoRIMs (COSE_Sign1): PEM of EC P-256, P-384 or Ed25519. Read for each policy.",
    ),
    Key::unset(
        "attestation.tool",
        Form::Path,
        "no program is run",
        "/usr/libexec/igvmmeasure",
        "Program that may measure what a VM starts from, beside its backend: a file, or a folder that \
         holds it. It runs where a backend asks for a program of that name, as a user without rights; \
         a value of it that is not the backend's ends the launch.",
    ),
    Key::unset(
        "attestation.tool_sha256",
        Form::Sha256,
        "any content of the file is run",
        "the SHA-256 of the file, in hexadecimal",
        "SHA-256 that the program has to have.",
    ),
    Key::new(
        "attestation.tool_time",
        Form::Duration,
        "30s",
        "How long the program may run.",
    ),
];

#[derive(Clone, Debug, Deserialize)]
pub struct AttestationConfig {
    #[serde(default)]
    pub pcr_values: Option<PathBuf>,
    #[serde(default)]
    pub signing_key: Option<PathBuf>,
    #[serde(default)]
    pub tool: Option<PathBuf>,
    #[serde(default)]
    pub tool_sha256: Option<String>,
    #[serde(deserialize_with = "duration")]
    pub tool_time: Duration,
}

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyRefusal {
    #[error(transparent)]
    Measurement(#[from] PolicyError),
    #[error("{key}: {path:?} cannot be read: {source}", path = .path.display())]
    Unreadable {
        key: &'static str,
        path: PathBuf,
        source: ReadError,
    },
    #[error("attestation.pcr_values: {path:?}: {source}", path = .path.display())]
    Pcr { path: PathBuf, source: PcrError },
    #[error("attestation.signing_key: {path:?}: {source}", path = .path.display())]
    Key { path: PathBuf, source: KeyError },
    #[error("the CoRIM cannot be signed: {0}")]
    Sign(#[from] SignError),
}

/// A policy, and how it is called on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub document: Vec<u8>,
    pub media_type: &'static str,
}

impl AttestationConfig {
    /// The policy of a VM in a format. CoRIMs are signed where a key is configured.
    pub fn policy(
        &self,
        measurement: &Measurement,
        format: PolicyFormat,
    ) -> Result<Policy, PolicyRefusal> {
        let pcrs = self.pcr_values.as_deref().map(read_pcrs).transpose()?;
        let document = render_policy(format, measurement, pcrs.as_ref())?;
        // RFC 8259; draft-ietf-rats-corim, section 12.
        let (document, media_type) = match (&self.signing_key, format) {
            (Some(path), PolicyFormat::Corim) => {
                let signed = read_key(path)?.sign_corim(&document)?;
                (signed, "application/rim+cose")
            }
            (None, PolicyFormat::Corim) => (document, "application/rim+cbor"),
            (_, PolicyFormat::Json | PolicyFormat::Trustee) => (document, "application/json"),
            (_, PolicyFormat::Text) => (document, "text/plain; charset=utf-8"),
        };
        Ok(Policy {
            document,
            media_type,
        })
    }
}

pub fn read_pcrs(path: &Path) -> Result<PcrValues, PolicyRefusal> {
    let text = read("attestation.pcr_values", path, pcr::LARGEST_FILE as u64)?;
    PcrValues::parse(&text).map_err(|source| PolicyRefusal::Pcr {
        path: path.to_owned(),
        source,
    })
}

pub fn read_key(path: &Path) -> Result<SigningKey, PolicyRefusal> {
    let pem = Zeroizing::new(read("attestation.signing_key", path, LARGEST_KEY)?);
    // What is no text is no PEM either, and is told so.
    let text = Zeroizing::new(String::from_utf8_lossy(&pem).into_owned());
    SigningKey::from_pem(&text).map_err(|source| PolicyRefusal::Key {
        path: path.to_owned(),
        source,
    })
}

fn read(key: &'static str, path: &Path, limit: u64) -> Result<Vec<u8>, PolicyRefusal> {
    regular_file::read(path, limit).map_err(|source| PolicyRefusal::Unreadable {
        key,
        path: path.to_owned(),
        source,
    })
}

impl Catalogued for PolicyRefusal {
    fn id(&self) -> ErrorId {
        match self {
            Self::Measurement(_) => ErrorId::NoMeasurement,
            Self::Unreadable { .. } | Self::Pcr { .. } | Self::Key { .. } | Self::Sign(_) => {
                ErrorId::PolicyFiles
            }
        }
    }

    fn subject(&self) -> Option<String> {
        Some(match self {
            Self::Measurement(PolicyError::Unknown { register, .. }) => register.clone(),
            Self::Measurement(_) => return None,
            Self::Unreadable { key, .. } => (*key).to_owned(),
            Self::Pcr { .. } => "attestation.pcr_values".to_owned(),
            Self::Key { .. } | Self::Sign(_) => "attestation.signing_key".to_owned(),
        })
    }
}
