//! A CoRIM signed with a key that an operator gives.
//!
//! ```text
//! COSE_Sign1, tag 18 [
//!   protected { 1 alg: -7, 3 content type: "application/rim+cbor",
//!               4 kid: SHA-256 of the public key, 8 CoRIM meta: { signer: { name: "casemate" } } },
//!   {},
//!   payload: the unsigned CoRIM with its tag 501,
//!   signature
//! ]
//! ```
//!
//! (draft-ietf-rats-corim-11, section 4.2.) The algorithms are ES256, ES384 and EdDSA, although
//! RFC 9864 has newer numbers that name the curve too: verifiers of today know the older ones, and
//! ES256 is what Cocos signs with. Signing takes no random number (RFC 6979 and RFC 8032), so a
//! document signed again is the same document.
//!
//! `kid` is what `openssl pkey -in KEY -pubout -outform DER | sha256sum` prints.

use std::fmt;

use corim::cbor::DecodeLimits;
use corim::types::corim::{CorimMetaMap, CorimSignerMap};
use corim::types::signed::{CoseAlgorithm, SignedCorimBuilder};
use corim::validate::decode_and_validate_structure_with_limits;
use p256::ecdsa::signature::Signer as _;
use p256::pkcs8::der::{Decode as _, Document};
use p256::pkcs8::{EncodePublicKey, ObjectIdentifier, PrivateKeyInfo, SecretDocument};
use sec1::{EcParameters, EcPrivateKey};
use sha2::{Digest as _, Sha256};

use crate::register::hexadecimal;

/// Who signed, as the document has it. Who that is, is the key's to prove.
pub const SIGNER: &str = "casemate";

/// What blocks of PEM are called. A message shows no other name: in a damaged file it may be the key.
const LABELS: [&str; 18] = [
    "PRIVATE KEY",
    "EC PRIVATE KEY",
    "ENCRYPTED PRIVATE KEY",
    "RSA PRIVATE KEY",
    "DSA PRIVATE KEY",
    "OPENSSH PRIVATE KEY",
    "PGP PRIVATE KEY BLOCK",
    "PUBLIC KEY",
    "RSA PUBLIC KEY",
    "CERTIFICATE",
    "TRUSTED CERTIFICATE",
    "X509 CERTIFICATE",
    "CERTIFICATE REQUEST",
    "X509 CRL",
    "PKCS7",
    "DSA PARAMETERS",
    "DH PARAMETERS",
    "EC PARAMETERS",
];

/// Of a file with several keys. A bundle of certificates may have hundreds.
const SHOWN_LABELS: usize = 4;

const CURVE_P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const CURVE_P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const ALGORITHM_EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ALGORITHM_ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const ALGORITHM_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ALGORITHM_RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

/// Why a signing key is not taken. No message has a part of the key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "the signing key has no line \"-----BEGIN PRIVATE KEY-----\"; wanted is a private key as \
         PEM, as `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` makes it"
    )]
    NoPem,
    #[error(
        "the signing key's file has a line \"-----BEGIN …\" that is damaged, or of a kind that is not \
         known; wanted is \"-----BEGIN PRIVATE KEY-----\", so copy the file anew, or write it with \
         `openssl pkcs8 -topk8 -nocrypt -in KEY`"
    )]
    Begin,
    #[error("the signing key's file has {labels}, and one private key is wanted; keep that only")]
    Several { labels: String },
    #[error(
        "the signing key is encrypted, and nobody is there to be asked for its password; write it \
         without one with `openssl pkcs8 -topk8 -nocrypt -in KEY -out NEW`, readable by the \
         service only"
    )]
    Encrypted,
    #[error(
        "the signing key is an RSA key; wanted is one for ES256, ES384 or Ed25519, as `openssl \
         genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` makes it"
    )]
    Rsa,
    #[error("the signing key is a public key, which cannot sign; give the private key of the pair")]
    PublicKey,
    #[error(
        "the signing key is a certificate, which cannot sign; give the private key that belongs to it"
    )]
    Certificate,
    #[error(
        "the signing key is a {label:?}; wanted is a \"PRIVATE KEY\" or an \"EC PRIVATE KEY\", \
         which `openssl pkcs8 -topk8 -nocrypt -in KEY` or `ssh-keygen -p -m PKCS8` writes"
    )]
    Label { label: String },
    #[error("the signing key is damaged PEM; copy the file anew: {0}")]
    Pem(p256::pkcs8::der::Error),
    #[error("the signing key is a damaged PKCS#8 document; copy the file anew: {0}")]
    Pkcs8(p256::pkcs8::Error),
    #[error(
        "the signing key is a damaged SEC1 document, or one with its curve's numbers instead of its name; copy it anew, or make a new one: {0}"
    )]
    Sec1(sec1::der::Error),
    #[error(
        "the signing key is damaged: its number is not one of the curve {curve}, or its public \
         half belongs to another; make a new one"
    )]
    Number { curve: &'static str },
    #[error(
        "the signing key is on the curve {curve}; wanted is P-256 or P-384, as `openssl genpkey \
         -algorithm EC -pkeyopt ec_paramgen_curve:P-256` makes it"
    )]
    Curve { curve: String },
    #[error(
        "the signing key does not name the curve it is on; write it with its curve with `openssl \
         pkcs8 -topk8 -nocrypt -in KEY -out NEW`"
    )]
    NoCurve,
    #[error(
        "the signing key is for the algorithm {algorithm}; wanted is one for ES256, ES384 or \
         Ed25519, as `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` makes it"
    )]
    Algorithm { algorithm: String },
    #[error("the signing key's public half could not be written; this is a fault of Casemate: {0}")]
    Public(p256::pkcs8::spki::Error),
}

/// Why a document was not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error(
        "only an unsigned CoRIM (tag 501) is signed, and this is none; give what was rendered as \
         corim"
    )]
    NotACorim(#[source] corim::ValidationError),
    #[error("the signed CoRIM could not be put together; this is a fault of Casemate")]
    Encode(#[from] corim::EncodeError),
    #[error("the key did not sign; this is a fault of Casemate: {0}")]
    Signature(p256::ecdsa::Error),
}

/// A private key. It is overwritten when dropped, and never shown.
pub struct SigningKey {
    pair: Pair,
    id: Vec<u8>,
}

enum Pair {
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    Ed25519(ed25519_dalek::SigningKey),
}

impl SigningKey {
    /// From a PEM with one private key: PKCS#8 ("PRIVATE KEY") or SEC1 ("EC PRIVATE KEY", before
    /// which `openssl ecparam` writes the curve once more).
    ///
    /// # Errors
    ///
    /// With what the text holds instead.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let (label, block) = only_block(pem)?;
        let pair = match label {
            "PRIVATE KEY" => from_pkcs8(decoded(block)?.as_bytes())?,
            "EC PRIVATE KEY" if block.contains("ENCRYPTED") => return Err(KeyError::Encrypted),
            "EC PRIVATE KEY" => from_sec1(decoded(block)?.as_bytes(), None)?,
            "ENCRYPTED PRIVATE KEY" => return Err(KeyError::Encrypted),
            "RSA PRIVATE KEY" => return Err(KeyError::Rsa),
            "PUBLIC KEY" | "RSA PUBLIC KEY" => return Err(KeyError::PublicKey),
            "CERTIFICATE" | "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => {
                return Err(KeyError::Certificate);
            }
            _ => {
                return Err(KeyError::Label {
                    label: label.to_owned(),
                });
            }
        };
        let public = pair.public().map_err(KeyError::Public)?;
        Ok(Self {
            pair,
            id: Sha256::digest(public.as_bytes()).to_vec(),
        })
    }

    /// As COSE names it: `ES256`, `ES384` or `EdDSA`.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::P256(_) => "ES256",
            Pair::P384(_) => "ES384",
            Pair::Ed25519(_) => "EdDSA",
        }
    }

    /// SHA-256 of the public key, by which a verifier finds it.
    #[must_use]
    pub fn id(&self) -> &[u8] {
        &self.id
    }

    /// # Errors
    ///
    /// Where the bytes are not an unsigned CoRIM: this key vouches for nothing else.
    pub fn sign_corim(&self, corim: &[u8]) -> Result<Vec<u8>, SignError> {
        decode_and_validate_structure_with_limits(corim, &DecodeLimits::default())
            .map_err(SignError::NotACorim)?;
        let mut signed = SignedCorimBuilder::new(self.pair.cose(), corim.to_vec())
            .kid(self.id.clone())
            .set_corim_meta(CorimMetaMap {
                signer: CorimSignerMap {
                    signer_name: SIGNER.to_owned(),
                    signer_uri: None,
                },
                signature_validity: None,
            });
        let signature = self.pair.sign(&signed.to_be_signed(&[])?);
        let signature = signature.map_err(SignError::Signature)?;
        Ok(signed.build_with_signature(signature)?)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("algorithm", &self.algorithm())
            .field("id", &hexadecimal::text(&self.id))
            .finish_non_exhaustive()
    }
}

impl Pair {
    fn cose(&self) -> CoseAlgorithm {
        match self {
            Self::P256(_) => CoseAlgorithm::Es256,
            Self::P384(_) => CoseAlgorithm::Es384,
            Self::Ed25519(_) => CoseAlgorithm::EdDsa,
        }
    }

    fn public(&self) -> Result<Document, p256::pkcs8::spki::Error> {
        match self {
            Self::P256(pair) => pair.verifying_key().to_public_key_der(),
            Self::P384(pair) => pair.verifying_key().to_public_key_der(),
            Self::Ed25519(pair) => pair.verifying_key().to_public_key_der(),
        }
    }

    /// As COSE has it: both numbers in full length, not as DER (RFC 9053).
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, p256::ecdsa::Error> {
        Ok(match self {
            Self::P256(pair) => {
                let signature: p256::ecdsa::Signature = pair.try_sign(message)?;
                signature.to_bytes().to_vec()
            }
            Self::P384(pair) => {
                let signature: p384::ecdsa::Signature = pair.try_sign(message)?;
                signature.to_bytes().to_vec()
            }
            Self::Ed25519(pair) => pair.try_sign(message)?.to_bytes().to_vec(),
        })
    }
}

/// The label and the text of the one block, without what is around it.
fn only_block(pem: &str) -> Result<(&str, &str), KeyError> {
    const BEGIN: &str = "-----BEGIN ";
    let mut found: Vec<(&str, &str)> = Vec::new();
    let mut rest = pem;
    while let Some(start) = rest.find(BEGIN) {
        let block = &rest[start..];
        let Some((label, _)) = block[BEGIN.len()..].split_once("-----") else {
            break;
        };
        // Where dashes are missing from the line, what comes before the next ones is the key itself.
        if !LABELS.contains(&label) {
            return Err(KeyError::Begin);
        }
        // A block without an end goes on to the text's, and is judged as damaged.
        let end = format!("-----END {label}-----");
        let length = block.find(&end).map_or(block.len(), |at| at + end.len());
        // Says the curve, which the key after it says too.
        if label != "EC PARAMETERS" {
            found.push((label, &block[..length]));
        }
        rest = &block[length..];
    }
    match found.as_slice() {
        [] => Err(KeyError::NoPem),
        [one] => Ok(*one),
        several => {
            let mut labels: Vec<String> = several
                .iter()
                .take(SHOWN_LABELS)
                .map(|(label, _)| format!("{label:?}"))
                .collect();
            if several.len() > SHOWN_LABELS {
                labels.push(format!("{} more", several.len() - SHOWN_LABELS));
            }
            Err(KeyError::Several {
                labels: labels.join(" and "),
            })
        }
    }
}

fn decoded(block: &str) -> Result<SecretDocument, KeyError> {
    let (_, document) = SecretDocument::from_pem(block).map_err(KeyError::Pem)?;
    Ok(document)
}

fn from_pkcs8(der: &[u8]) -> Result<Pair, KeyError> {
    let malformed = |error: p256::pkcs8::der::Error| KeyError::Pkcs8(error.into());
    let key = PrivateKeyInfo::from_der(der).map_err(malformed)?;
    match key.algorithm.oid {
        ALGORITHM_EC => {
            let parameters = key.algorithm.parameters.ok_or(KeyError::NoCurve)?;
            let curve = parameters
                .decode_as::<ObjectIdentifier>()
                .map_err(|_| KeyError::NoCurve)?;
            from_sec1(key.private_key, Some(curve))
        }
        ALGORITHM_ED25519 => ed25519_dalek::SigningKey::try_from(key)
            .map(Pair::Ed25519)
            .map_err(KeyError::Pkcs8),
        ALGORITHM_RSA | ALGORITHM_RSA_PSS => Err(KeyError::Rsa),
        other => Err(KeyError::Algorithm {
            algorithm: other.to_string(),
        }),
    }
}

/// The curve is looked at before the number, which would be one of most curves.
fn from_sec1(der: &[u8], outer: Option<ObjectIdentifier>) -> Result<Pair, KeyError> {
    let key = EcPrivateKey::from_der(der).map_err(KeyError::Sec1)?;
    let inner = key.parameters.and_then(EcParameters::named_curve);
    match outer.or(inner) {
        Some(CURVE_P256) => p256::SecretKey::try_from(key)
            .map(|key| Pair::P256(key.into()))
            .map_err(|_| KeyError::Number { curve: "P-256" }),
        Some(CURVE_P384) => p384::SecretKey::try_from(key)
            .map(|key| Pair::P384(key.into()))
            .map_err(|_| KeyError::Number { curve: "P-384" }),
        Some(curve) => Err(KeyError::Curve {
            curve: curve_name(curve),
        }),
        None => Err(KeyError::NoCurve),
    }
}

fn curve_name(curve: ObjectIdentifier) -> String {
    let known = [
        ("1.3.132.0.35", "P-521"),
        ("1.3.132.0.10", "secp256k1"),
        ("1.3.132.0.33", "P-224"),
    ];
    let identifier = curve.to_string();
    known
        .iter()
        .find(|(number, _)| *number == identifier)
        .map_or(identifier.clone(), |(_, name)| (*name).to_owned())
}
