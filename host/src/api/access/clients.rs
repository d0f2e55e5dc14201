//! The clients of the config, and what each is recognised by.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use super::{Peer, Role};

/// A `[[client]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    pub name: String,
    pub roles: BTreeSet<Role>,
    /// One at least.
    pub marks: Vec<Mark>,
}

/// What a client is recognised by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    Token(TokenDigest),
    /// SHA-256 of a certificate, hexadecimal.
    Certificate(String),
    /// A DNS name of a certificate, in small letters.
    Dns(String),
    /// A URI of a certificate.
    Uri(String),
    /// A user of this host.
    Uid(u32),
}

impl Mark {
    /// Its key in the config.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Token(_) => "token_sha256",
            Self::Certificate(_) => "certificate_sha256",
            Self::Dns(_) => "certificate_dns",
            Self::Uri(_) => "certificate_uri",
            Self::Uid(_) => "uid",
        }
    }
}

/// SHA-256 of a token. Two are compared in a time that says nothing of where they differ.
#[derive(Clone)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    pub fn from_hex(text: &str) -> Option<Self> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).ok()?;
        Some(Self(digest))
    }
}

impl PartialEq for TokenDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenDigest {}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest")
    }
}

/// A client that was recognised.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::api) struct Known {
    pub(in crate::api) name: Arc<str>,
    pub(in crate::api) roles: BTreeSet<Role>,
    marks: Vec<Mark>,
}

/// All clients, as the gate looks for one.
#[derive(Debug, Default)]
pub(super) struct Clients {
    clients: Vec<Arc<Known>>,
}

impl Clients {
    pub(super) fn new(configs: &[ClientConfig]) -> Self {
        let known = |config: &ClientConfig| {
            Arc::new(Known {
                name: config.name.as_str().into(),
                roles: config.roles.clone(),
                marks: config.marks.clone(),
            })
        };
        Self {
            clients: configs.iter().map(known).collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Whether a client is there that has all of one of before.
    pub(super) fn has(&self, known: &Known) -> bool {
        self.clients.iter().any(|client| **client == *known)
    }

    /// Looks at every client, so that the time does not say which one it is.
    pub(super) fn by_token(&self, token: &[u8]) -> Option<Arc<Known>> {
        let presented = TokenDigest::of(token);
        let mut found = None;
        for known in &self.clients {
            let is_this = known
                .marks
                .iter()
                .fold(Choice::from(0), |is_this, mark| match mark {
                    Mark::Token(digest) => is_this | digest.0.ct_eq(&presented.0),
                    _ => is_this,
                });
            if bool::from(is_this) {
                found = Some(Arc::clone(known));
            }
        }
        found
    }

    /// By the certificate itself before a name in it, and then by the user; the first of the config
    /// where several have a name of the certificate.
    pub(super) fn by_peer(&self, peer: &Peer) -> Option<Arc<Known>> {
        let find = |fits: &dyn Fn(&Mark) -> bool| {
            let mut clients = self.clients.iter();
            clients.find(|known| known.marks.iter().any(fits)).cloned()
        };
        let by_certificate = peer.certificate().and_then(|certificate| {
            find(&|mark| matches!(mark, Mark::Certificate(digest) if **digest == *certificate.fingerprint))
                .or_else(|| {
                    find(&|mark| match mark {
                        Mark::Dns(name) => certificate.dns.contains(name),
                        Mark::Uri(uri) => certificate.uris.contains(uri),
                        _ => false,
                    })
                })
        });
        by_certificate.or_else(|| {
            let uid = peer.uid?;
            find(&|mark| *mark == Mark::Uid(uid))
        })
    }
}
