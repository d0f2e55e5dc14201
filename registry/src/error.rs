//! What can go wrong between this program, a registry and a mirror.

use crate::credentials::CredentialError;
use crate::digest::Digest;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(
        "{host} would be asked over plain HTTP, where everybody on the way reads and changes what is sent"
    )]
    PlainHttp { host: String },
    #[error("no HTTP client can be made: {reason}")]
    Client { reason: String },
    #[error("{url:?} is no address of a mirror: {reason}")]
    MirrorAddress { url: String, reason: String },
    #[error("the mirror's file {place} cannot be read")]
    MirrorFile {
        place: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot reach {host}: {reason}")]
    Unreachable { host: String, reason: String },
    #[error("{from} sends on to {to}, which is another host and was not named")]
    Redirect { from: String, to: String },
    #[error("{from} sends on more than {most} times")]
    Redirects { from: String, most: usize },
    #[error("{host} does not let {who} have {what} ({status})")]
    Denied {
        host: String,
        who: &'static str,
        what: String,
        status: u16,
    },
    #[error("{what} is not there")]
    Unknown { what: String },
    #[error("{host} answered {status} when asked for {what}{}", of_detail(.detail))]
    Answer {
        host: String,
        what: String,
        status: u16,
        detail: String,
    },
    #[error("{what} has {size} bytes, and {limit} are the most that is taken")]
    TooLarge { what: String, size: u64, limit: u64 },
    #[error("{what} goes on after its {limit} bytes")]
    GoesOn { what: String, limit: u64 },
    #[error("{what} ended after {found} of {expected} bytes")]
    Short {
        what: String,
        found: u64,
        expected: u64,
    },
    #[error(
        "{what} has the digest {actual}, and {expected} is what it has to have: it was changed on its way or where it lies"
    )]
    DigestMismatch {
        what: String,
        expected: Digest,
        actual: Digest,
    },
    #[error("{what} is no backend: {reason}")]
    Form { what: String, reason: String },
    #[error("{what} is {found}, not a WebAssembly component")]
    NotAComponent { what: String, found: &'static str },
    #[error(transparent)]
    Credentials(#[from] CredentialError),
}

fn of_detail(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(": {detail}")
    }
}
