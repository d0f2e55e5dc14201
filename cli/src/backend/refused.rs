//! Why a component was not pushed, pulled, pinned or believed.

use std::io;
use std::path::PathBuf;

use casemate_catalogue::ErrorId;
use casemate_host::backend::signature::SignatureError;
use casemate_registry::{CredentialError, Digest, ReferenceError, RegistryError};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("{what} has SHA-256 {}, but {by} pins {}: it is another component than the one that was trusted", .actual.hex(), .expected.hex())]
    Pin {
        what: String,
        expected: Digest,
        actual: Digest,
        /// `--sha256`, or the lock file.
        by: String,
    },
    #[error(
        "{what} is {found}, and {by} pins {pinned}: an older version may have faults that are mended in the pinned one"
    )]
    Older {
        what: String,
        found: String,
        pinned: String,
        by: String,
    },
    #[error(
        "{what} would take the place of {name}, which {lock} pins from {from}: pin it under a name of its own (`casemate backend pin --name`) before it is pulled"
    )]
    NameTaken {
        what: String,
        name: String,
        lock: String,
        from: String,
    },
    #[error("a mirror has files by their digest, and none is known of {what}")]
    MirrorNeedsDigest { what: String },
    #[error("{what} is pinned by nothing in {lock}")]
    NotPinned { what: String, lock: String },
    #[error("the lock file {} cannot be {what}: {reason}", .path.display())]
    Lock {
        path: PathBuf,
        what: &'static str,
        reason: String,
    },
    #[error("{what} is {found}, not a WebAssembly component")]
    NotAComponent { what: String, found: &'static str },
    #[error("{what} cannot be read as a component: {reason}")]
    Component { what: String, reason: String },
    #[error("{what} exports no casemate:tee/backend interface, so it is no backend")]
    NoBackend { what: String },
    #[error("{} has more than {limit} bytes, the most that is taken", .path.display())]
    TooLarge { path: PathBuf, limit: u64 },
    #[error("{} cannot be read", .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} cannot be written", .path.display())]
    Unwritable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{wanted:?} is neither a file that is there nor a reference: {reason}")]
    Neither { wanted: String, reason: String },
    #[error("{} is named neither .sig nor .minisig", .path.display())]
    SignatureEnding { path: PathBuf },
    #[error("{reference} has no tag to push to")]
    NoTag { reference: String },
    #[error(
        "{name:?} is no name of a backend: wanted are 1 to 63 letters, digits, `.`, `_` and `-`"
    )]
    Name { name: String },
    #[error(
        "{name:?} is no name of a project: wanted are 1 to 63 lower-case letters, digits and `-`, with a letter first"
    )]
    ProjectName { name: String },
    #[error("{} is there already", .path.display())]
    ProjectExists { path: PathBuf },
    #[error("{} cannot be printed as config: {reason}", .path.display())]
    ProjectConfig { path: PathBuf, reason: String },
    #[error("`{program} build` made no component: {reason}")]
    Cargo { program: String, reason: String },
    #[error("{} does not make a component: {reason}", .module.display())]
    NoComponent { module: PathBuf, reason: String },
}

impl From<CredentialError> for Refused {
    fn from(error: CredentialError) -> Self {
        Self::Registry(error.into())
    }
}

impl Refused {
    pub(crate) fn id(&self) -> ErrorId {
        match self {
            Self::Reference(_) | Self::Neither { .. } | Self::NoTag { .. } => {
                ErrorId::ReferenceForm
            }
            Self::Registry(error) => of_registry(error),
            Self::Signature(error) => error.id(),
            Self::Pin { .. } | Self::NameTaken { .. } => ErrorId::PinMismatch,
            Self::Older { .. } => ErrorId::OlderThanPinned,
            Self::MirrorNeedsDigest { .. } => ErrorId::MirrorNeedsDigest,
            Self::NotPinned { .. } => ErrorId::NotPinned,
            Self::Lock { .. } => ErrorId::LockFile,
            Self::NotAComponent { .. } | Self::Component { .. } | Self::NoBackend { .. } => {
                ErrorId::NotAComponent
            }
            Self::TooLarge { .. } => ErrorId::ComponentTooLarge,
            Self::Unreadable { .. } => ErrorId::InputUnreadable,
            Self::Unwritable { .. } => ErrorId::OutputUnwritable,
            Self::SignatureEnding { .. } => ErrorId::SignatureEnding,
            Self::Name { .. } | Self::ProjectName { .. } => ErrorId::BackendName,
            Self::ProjectExists { .. } => ErrorId::ProjectExists,
            Self::ProjectConfig { .. } => ErrorId::ProjectConfig,
            Self::Cargo { .. } | Self::NoComponent { .. } => ErrorId::BackendBuild,
        }
    }

    pub(crate) fn subject(&self) -> Option<String> {
        let subject = match self {
            Self::Pin { what, .. }
            | Self::NameTaken { what, .. }
            | Self::Older { what, .. }
            | Self::MirrorNeedsDigest { what }
            | Self::NotPinned { what, .. }
            | Self::NotAComponent { what, .. }
            | Self::Component { what, .. }
            | Self::NoBackend { what } => what.clone(),
            Self::Lock { path, .. }
            | Self::TooLarge { path, .. }
            | Self::Unreadable { path, .. }
            | Self::Unwritable { path, .. }
            | Self::SignatureEnding { path } => path.display().to_string(),
            Self::Neither { wanted, .. } => wanted.clone(),
            Self::NoTag { reference } => reference.clone(),
            Self::Name { name } | Self::ProjectName { name } => name.clone(),
            Self::ProjectExists { path } | Self::ProjectConfig { path, .. } => {
                path.display().to_string()
            }
            Self::Cargo { program, .. } => program.clone(),
            Self::NoComponent { module, .. } => module.display().to_string(),
            Self::Reference(_) | Self::Registry(_) | Self::Signature(_) => return None,
        };
        Some(subject)
    }
}

fn of_registry(error: &RegistryError) -> ErrorId {
    match error {
        RegistryError::PlainHttp { .. } => ErrorId::PlainHttp,
        RegistryError::Client { .. } => ErrorId::ClientStart,
        RegistryError::MirrorAddress { .. } => ErrorId::MirrorAddress,
        RegistryError::MirrorFile { .. } => ErrorId::InputUnreadable,
        RegistryError::Unreachable { .. } => ErrorId::RegistryUnreachable,
        RegistryError::Redirect { .. } | RegistryError::Redirects { .. } => {
            ErrorId::RedirectRefused
        }
        RegistryError::Denied { .. } => ErrorId::RegistryDenied,
        RegistryError::Unknown { .. } => ErrorId::ArtifactUnknown,
        RegistryError::Answer { .. } => ErrorId::RegistryAnswer,
        RegistryError::TooLarge { .. } | RegistryError::GoesOn { .. } => ErrorId::ComponentTooLarge,
        RegistryError::Short { .. } => ErrorId::ComponentShort,
        RegistryError::DigestMismatch { .. } => ErrorId::DigestMismatch,
        RegistryError::Form { .. } => ErrorId::ArtifactForm,
        RegistryError::NotAComponent { .. } => ErrorId::NotAComponent,
        RegistryError::Credentials(_) => ErrorId::CredentialsUnusable,
    }
}
