//! Detached signatures of components, checked before anything of a component is parsed.
//!
//! Two forms are known, each by the keys that its tool makes: `cosign sign-blob` (ECDSA P-256 over
//! SHA-256, DER in base64, alone or in the bundle that cosign 3 writes; `FILE.sig`) and minisign (Ed25519; `FILE.minisig`). Both work without a
//! network. One valid signature of one trusted key is enough.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_catalogue::ErrorId;
use p256::ecdsa::signature::Verifier as _;
use p256::pkcs8::{DecodePublicKey as _, EncodePublicKey as _};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::regular_file::{self, ReadError};

/// Largest file of a key or a signature. Most have less than 1 KiB; a bundle with the proofs of a
/// transparency log has some ten.
pub const MAX_FILE: u64 = 64 << 10;
const PEM_BEGIN: &str = "-----BEGIN ";
const PUBLIC_KEY: &str = "PUBLIC KEY";
/// Algorithm, key id and key of minisign, in base64.
const MINISIGN_KEY_CHARACTERS: usize = 56;
/// How such a line begins: the algorithm `Ed`.
const MINISIGN_KEY_BEGIN: &str = "RW";

/// Why a component is not taken for signed.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    #[error("the signature key {path:?} cannot be read", path = .path.display())]
    KeyUnreadable {
        path: PathBuf,
        #[source]
        source: ReadError,
    },
    #[error(
        "the signature key {place} is {found}; wanted is a public key: PEM of P-256, as `cosign generate-key-pair` writes cosign.pub, or minisign's .pub"
    )]
    KeyForm { place: String, found: String },
    #[error("`signature_keys` is empty, so no signature could be valid")]
    NoKeys,
    #[error("{component} has no signature, and its keys ask for one: looked for {looked}")]
    Missing { component: String, looked: String },
    #[error("the signature {path:?} cannot be read", path = .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: ReadError,
    },
    #[error("the signature {place} is malformed: wanted is {wanted}")]
    Form { place: String, wanted: &'static str },
    #[error("the signature {place} was made with the key {found}; trusted are {trusted}")]
    OtherKey {
        place: String,
        found: String,
        trusted: String,
    },
    #[error(
        "the signature {place} is not one of {component} by any of the keys {trusted}: the component was changed, or somebody else signed it"
    )]
    Mismatch {
        place: String,
        component: String,
        trusted: String,
    },
}

impl SignatureError {
    pub fn id(&self) -> ErrorId {
        match self {
            Self::KeyUnreadable { .. } | Self::KeyForm { .. } | Self::NoKeys => {
                ErrorId::SignatureKey
            }
            Self::Missing { .. } => ErrorId::SignatureMissing,
            Self::Unreadable { .. } | Self::Form { .. } => ErrorId::SignatureForm,
            Self::OtherKey { .. } => ErrorId::SignatureOtherKey,
            Self::Mismatch { .. } => ErrorId::SignatureMismatch,
        }
    }

    /// Of several things that are wrong, the one that says most about the component comes first.
    fn weight(&self) -> u8 {
        match self {
            Self::Mismatch { .. } => 4,
            Self::OtherKey { .. } => 3,
            Self::Form { .. } | Self::Unreadable { .. } => 2,
            Self::Missing { .. } => 1,
            Self::KeyUnreadable { .. } | Self::KeyForm { .. } | Self::NoKeys => 0,
        }
    }
}

/// A form of signatures, with the tool that makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Cosign,
    Minisign,
}

impl Form {
    pub const ALL: [Self; 2] = [Self::Cosign, Self::Minisign];

    /// Ending of a signature's file, after the component's whole name.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Cosign => "sig",
            Self::Minisign => "minisig",
        }
    }

    /// Of a signature's file, by its ending.
    pub fn of_file(path: &Path) -> Option<Self> {
        let ending = path.extension()?;
        Self::ALL.into_iter().find(|form| ending == form.ending())
    }

    /// Where the signature of `component` lies.
    pub fn beside(self, component: &Path) -> PathBuf {
        let mut path = component.as_os_str().to_owned();
        path.push(".");
        path.push(self.ending());
        PathBuf::from(path)
    }

    fn wanted(self) -> &'static str {
        match self {
            Self::Cosign => {
                "base64 of an ECDSA signature (DER), or the bundle that `cosign sign-blob --key` writes"
            }
            Self::Minisign => "the four lines that `minisign -S` writes",
        }
    }
}

/// A signature apart from what it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detached {
    pub form: Form,
    /// Where it came from, for messages.
    pub place: String,
    pub bytes: Vec<u8>,
}

/// A key of which signatures are believed.
#[derive(Clone)]
pub struct TrustedKey {
    key: Key,
    id: String,
}

#[derive(Clone)]
enum Key {
    Cosign(p256::ecdsa::VerifyingKey),
    Minisign(minisign_verify::PublicKey),
}

impl std::fmt::Debug for TrustedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustedKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl TrustedKey {
    /// From a key itself (PEM, or the line of a minisign key), or else from the file of that path.
    pub fn read(source: &str) -> Result<Self, SignatureError> {
        let source = source.trim();
        if source.starts_with(PEM_BEGIN) || is_minisign_line(source) {
            return Self::parse(source, "that is written out");
        }
        let path = Path::new(source);
        let content =
            regular_file::read(path, MAX_FILE).map_err(|source| SignatureError::KeyUnreadable {
                path: path.to_owned(),
                source,
            })?;
        let place = format!("{:?}", path.display().to_string());
        match std::str::from_utf8(&content) {
            Ok(text) => Self::parse(text, &place),
            Err(_) => Err(SignatureError::KeyForm {
                place,
                found: "no text".to_owned(),
            }),
        }
    }

    fn parse(text: &str, place: &str) -> Result<Self, SignatureError> {
        let form = |found: String| SignatureError::KeyForm {
            place: place.to_owned(),
            found,
        };
        if let Some((_, rest)) = text.split_once(PEM_BEGIN) {
            let label = rest.split_once("-----").map_or("", |(label, _)| label);
            if label != PUBLIC_KEY {
                let label: String = label.chars().take(32).collect();
                return Err(form(format!("a PEM of {label:?}")));
            }
            let key = p256::ecdsa::VerifyingKey::from_public_key_pem(text.trim())
                .map_err(|error| form(format!("no PEM of a P-256 key ({error})")))?;
            let der = key
                .to_public_key_der()
                .map_err(|error| form(format!("a key that has no DER ({error})")))?;
            return Ok(Self {
                key: Key::Cosign(key),
                id: format!("sha256:{}", hex::encode(Sha256::digest(der.as_bytes()))),
            });
        }
        // A comment comes before the key in a file, and not where it is copied.
        let line = text
            .lines()
            .map(str::trim)
            .find(|line| is_minisign_line(line));
        let line = line.ok_or_else(|| form("neither PEM nor a key of minisign".to_owned()))?;
        let damaged = || form("a damaged key of minisign".to_owned());
        let key = minisign_verify::PublicKey::from_base64(line).map_err(|_| damaged())?;
        let bytes = STANDARD.decode(line).map_err(|_| damaged())?;
        Ok(Self {
            key: Key::Minisign(key),
            id: minisign_id(&bytes).ok_or_else(damaged)?,
        })
    }

    /// `sha256:…` of the public key's DER, or `minisign:…` with the id that minisign shows.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn form(&self) -> Form {
        match self.key {
            Key::Cosign(_) => Form::Cosign,
            Key::Minisign(_) => Form::Minisign,
        }
    }
}

fn is_minisign_line(text: &str) -> bool {
    text.len() == MINISIGN_KEY_CHARACTERS && text.starts_with(MINISIGN_KEY_BEGIN)
}

/// The id in what minisign writes: after two letters of the algorithm, the lowest byte first.
fn minisign_id(bytes: &[u8]) -> Option<String> {
    let id: [u8; 8] = bytes.get(2..10)?.try_into().ok()?;
    Some(format!("minisign:{:X}", u64::from_le_bytes(id)))
}

/// All keys of which one has to have signed.
#[derive(Clone, Debug)]
pub struct TrustedKeys(Vec<TrustedKey>);

impl TrustedKeys {
    /// See [`TrustedKey::read`].
    pub fn read(sources: &[String]) -> Result<Self, SignatureError> {
        if sources.is_empty() {
            return Err(SignatureError::NoKeys);
        }
        let keys: Result<_, _> = sources.iter().map(|one| TrustedKey::read(one)).collect();
        Ok(Self(keys?))
    }

    /// The forms in which signatures of these keys come.
    pub fn forms(&self) -> impl Iterator<Item = Form> {
        let has = |form: &Form| self.0.iter().any(|key| key.form() == *form);
        Form::ALL.into_iter().filter(has)
    }

    /// Looks for signatures beside the component. The key that signed it, or what is wrong.
    pub fn verify_beside(&self, path: &Path, bytes: &[u8]) -> Result<&TrustedKey, SignatureError> {
        let mut found = Vec::new();
        let mut unreadable = None;
        for form in self.forms() {
            match read_beside(form, path) {
                Ok(signature) => found.extend(signature),
                Err(error) => unreadable = Some(error),
            }
        }
        let component = format!("{:?}", path.display().to_string());
        match (self.verify(bytes, &found, &component), unreadable) {
            (Err(error), Some(unreadable)) if error.weight() < unreadable.weight() => {
                Err(unreadable)
            }
            (result, _) => result.map_err(|error| match error {
                SignatureError::Missing { component, .. } => {
                    let looked = self.forms().map(|form| form.beside(path));
                    let looked = looked.map(|path| path.display().to_string());
                    SignatureError::Missing {
                        component,
                        looked: looked.collect::<Vec<_>>().join(" and "),
                    }
                }
                error => error,
            }),
        }
    }

    /// The key that signed these bytes, or what is wrong with all of the signatures.
    pub fn verify(
        &self,
        bytes: &[u8],
        signatures: &[Detached],
        component: &str,
    ) -> Result<&TrustedKey, SignatureError> {
        let wanted: Vec<_> = self
            .forms()
            .map(|form| format!(".{}", form.ending()))
            .collect();
        let mut worst = SignatureError::Missing {
            component: component.to_owned(),
            looked: wanted.join(" and "),
        };
        for signature in signatures {
            match self.verify_one(bytes, signature, component) {
                Ok(Some(key)) => return Ok(key),
                Ok(None) => {}
                Err(error) if error.weight() > worst.weight() => worst = error,
                Err(_) => {}
            }
        }
        Err(worst)
    }

    /// None where no key makes signatures of that form.
    fn verify_one(
        &self,
        bytes: &[u8],
        signature: &Detached,
        component: &str,
    ) -> Result<Option<&TrustedKey>, SignatureError> {
        let keys: Vec<_> = self
            .0
            .iter()
            .filter(|key| key.form() == signature.form)
            .collect();
        if keys.is_empty() {
            return Ok(None);
        }
        let place = signature.place.clone();
        let trusted = || {
            let ids: Vec<_> = keys.iter().map(|key| key.id()).collect();
            ids.join(", ")
        };
        let read = Signature::read(signature).ok_or_else(|| SignatureError::Form {
            place: place.clone(),
            wanted: signature.form.wanted(),
        })?;
        if let Some(key) = keys.iter().find(|key| read.is_of(key, bytes)) {
            return Ok(Some(key));
        }
        match read.key_id() {
            Some(id) if keys.iter().all(|key| key.id != id) => Err(SignatureError::OtherKey {
                place,
                found: id.to_owned(),
                trusted: trusted(),
            }),
            _ => Err(SignatureError::Mismatch {
                place,
                component: component.to_owned(),
                trusted: trusted(),
            }),
        }
    }
}

/// The signature that lies beside a component, if one does.
pub fn read_beside(form: Form, component: &Path) -> Result<Option<Detached>, SignatureError> {
    let path = form.beside(component);
    match read_file(form, &path) {
        Err(SignatureError::Unreadable {
            source: ReadError::Io(error),
            ..
        }) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

pub fn read_file(form: Form, path: &Path) -> Result<Detached, SignatureError> {
    let bytes =
        regular_file::read(path, MAX_FILE).map_err(|source| SignatureError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
    Ok(Detached {
        form,
        place: format!("{:?}", path.display().to_string()),
        bytes,
    })
}

/// The signature in a Sigstore bundle. What else a bundle has, such as the proofs of a log, speaks for
/// keys that nobody knows; here one is trusted by itself.
fn bundled(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Bundle {
        message_signature: MessageSignature,
    }
    #[derive(Deserialize)]
    struct MessageSignature {
        signature: String,
    }
    let bundle: Bundle = serde_json::from_str(text).ok()?;
    Some(bundle.message_signature.signature)
}

enum Signature {
    Cosign(p256::ecdsa::Signature),
    Minisign {
        signature: minisign_verify::Signature,
        key_id: String,
    },
}

impl Signature {
    fn read(detached: &Detached) -> Option<Self> {
        let text = std::str::from_utf8(&detached.bytes).ok()?;
        match detached.form {
            Form::Cosign => {
                let text = match text.trim_start().starts_with('{') {
                    true => bundled(text)?,
                    false => text.split_ascii_whitespace().collect(),
                };
                let der = STANDARD.decode(text).ok()?;
                p256::ecdsa::Signature::from_der(&der)
                    .ok()
                    .map(Self::Cosign)
            }
            Form::Minisign => {
                let signature = minisign_verify::Signature::decode(text).ok()?;
                let bytes = STANDARD.decode(text.lines().nth(1)?.trim()).ok()?;
                Some(Self::Minisign {
                    signature,
                    key_id: minisign_id(&bytes)?,
                })
            }
        }
    }

    fn is_of(&self, key: &TrustedKey, bytes: &[u8]) -> bool {
        match (self, &key.key) {
            (Self::Cosign(signature), Key::Cosign(key)) => key.verify(bytes, signature).is_ok(),
            // Both of minisign's algorithms: a hash is signed by default, the file itself with `-l`.
            (Self::Minisign { signature, .. }, Key::Minisign(key)) => {
                key.verify(bytes, signature, true).is_ok()
            }
            _ => false,
        }
    }

    /// A signature of ECDSA does not say who made it.
    fn key_id(&self) -> Option<&str> {
        match self {
            Self::Cosign(_) => None,
            Self::Minisign { key_id, .. } => Some(key_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As `minisign -V` 0.11 prints the key id of a public key of these bytes, without zeros in front.
    #[test]
    fn an_id_is_written_as_minisign_writes_it() {
        let key = [b'E', b'd', 0xbe, 0x82, 0x13, 0xe1, 0xa0, 0x7d, 0xe0, 0x05];
        assert_eq!(
            minisign_id(&key).as_deref(),
            Some("minisign:5E07DA0E11382BE")
        );
    }

    /// Published with RFC 6979's curve: any P-256 key will do.
    fn key() -> TrustedKey {
        let secret = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let pem = secret
            .verifying_key()
            .to_public_key_pem(p256::pkcs8::LineEnding::LF)
            .unwrap();
        TrustedKey::read(&pem).unwrap()
    }

    proptest! {
        /// Nothing that is read is a signature by chance, and nothing makes the reader panic.
        #[test]
        fn no_bytes_are_taken_for_a_signature(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            text in "[A-Za-z0-9+/=\\n :]{0,200}",
        ) {
            let keys = TrustedKeys(vec![key()]);
            for form in Form::ALL {
                for bytes in [bytes.clone(), text.clone().into_bytes()] {
                    let signature = Detached { form, place: "x".to_owned(), bytes };
                    prop_assert!(keys.verify(b"component", &[signature], "x").is_err());
                }
            }
        }

        #[test]
        fn no_text_is_taken_for_a_key(text in "(-----BEGIN )?(RW)?[A-Za-z0-9+/=\\n -]{0,80}") {
            // A file of such a name is not there, either.
            prop_assert!(TrustedKey::parse(&text, "x").is_err() || is_minisign_line(text.trim()));
        }
    }

    #[test]
    fn what_says_most_about_the_component_is_told() {
        let keys = TrustedKeys(vec![key()]);
        let detached = |bytes: &[u8]| Detached {
            form: Form::Cosign,
            place: "x".to_owned(),
            bytes: bytes.to_vec(),
        };
        let stranger = p256::ecdsa::SigningKey::from_slice(&[9; 32]).unwrap();
        let signature: p256::ecdsa::Signature =
            p256::ecdsa::signature::Signer::sign(&stranger, b"component");
        let foreign = detached(STANDARD.encode(signature.to_der()).as_bytes());
        let malformed = detached(b"%");
        let minisign = Detached {
            form: Form::Minisign,
            ..malformed.clone()
        };
        for (signatures, id) in [
            (&[][..], "signature-missing"),
            (std::slice::from_ref(&minisign), "signature-missing"),
            (&[malformed.clone(), minisign.clone()], "signature-form"),
            (&[foreign.clone(), malformed.clone()], "signature-mismatch"),
            (&[malformed, foreign], "signature-mismatch"),
        ] {
            let error = keys.verify(b"component", signatures, "x").unwrap_err();
            assert_eq!(error.id().as_str(), id);
        }
    }
}
