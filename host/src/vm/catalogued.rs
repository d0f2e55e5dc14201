//! What every error says of itself to a client, beside its words: which entry of the catalogue it
//! is, what it is about, and what to do.

use casemate_catalogue::ErrorId;

use super::manager::{ConsoleError, RemoveError};
use super::task::GenerationChanged;
use crate::backend::{BackendErrorKind, CallError};
use crate::store::StoreError;
use crate::vm::events::WatchEnd;

pub trait Catalogued: std::error::Error {
    fn id(&self) -> ErrorId;

    /// A field, a file's role, a path, a setting's key, a backend's name, `qemu`.
    fn subject(&self) -> Option<String> {
        None
    }

    /// The entry's, unless this case is known better.
    fn remedy(&self) -> String {
        self.id().entry().remedy.to_owned()
    }

    /// The field of the request that is at fault, where one is.
    fn field(&self) -> Option<String> {
        None
    }

    /// QEMU's last lines, where it ended.
    fn qemu_stderr(&self) -> Option<&str> {
        None
    }

    /// For a person at a terminal: what happened, what to do, which error it is.
    fn report(&self) -> String
    where
        Self: Sized,
    {
        let subject = self
            .subject()
            .map(|subject| crate::spec::printable(&subject));
        format!(
            "{}\nremedy: {}\n{}",
            crate::backend::catalog::chain(self),
            self.remedy(),
            self.id().label(subject.as_deref())
        )
    }
}

impl Catalogued for StoreError {
    fn id(&self) -> ErrorId {
        match self {
            Self::Io { .. } => ErrorId::StateDirIo,
            Self::Owner { .. } => ErrorId::StateDirOwner,
            Self::Mode { .. } => ErrorId::StateDirMode,
            Self::Locked { .. } => ErrorId::StateDirLocked,
            Self::NotADirectory { .. } => ErrorId::StateDirNotADirectory,
        }
    }

    fn subject(&self) -> Option<String> {
        let (Self::Io { path, .. }
        | Self::Owner { path, .. }
        | Self::Mode { path, .. }
        | Self::Locked { path, .. }
        | Self::NotADirectory { path }) = self;
        Some(path.display().to_string())
    }
}

impl Catalogued for CallError {
    fn id(&self) -> ErrorId {
        match self {
            Self::Backend(error) => match error.kind {
                BackendErrorKind::InvalidRequest => ErrorId::BackendRefusedRequest,
                BackendErrorKind::UnsupportedHost => ErrorId::BackendRefusedHost,
                BackendErrorKind::UnsuitableFile => ErrorId::BackendRefusedFile,
                BackendErrorKind::Unavailable => ErrorId::BackendRefusedForNow,
                BackendErrorKind::Other => ErrorId::BackendRefusedOther,
            },
            Self::Fault { .. } => ErrorId::BackendFault,
        }
    }

    fn subject(&self) -> Option<String> {
        let subject = match self {
            Self::Backend(error) => &error.subject,
            Self::Fault { backend, .. } => backend,
        };
        Some(subject.clone())
    }

    fn remedy(&self) -> String {
        match self {
            Self::Backend(error) if !error.remedy.trim().is_empty() => error.remedy.clone(),
            Self::Backend(_) | Self::Fault { .. } => self.id().entry().remedy.to_owned(),
        }
    }
}

impl Catalogued for RemoveError {
    fn id(&self) -> ErrorId {
        match self {
            Self::NotFound(_) => ErrorId::NoSuchVm,
            Self::Lost { .. } => ErrorId::VmLost,
            Self::FilesLeft { .. } => ErrorId::FilesLeft,
            Self::Closing { .. } => ErrorId::ShuttingDown,
            Self::Changed(_) => ErrorId::GenerationChanged,
            Self::Internal { .. } => ErrorId::Internal,
        }
    }

    fn subject(&self) -> Option<String> {
        let (Self::NotFound(id)
        | Self::Changed(GenerationChanged { id, .. })
        | Self::Lost { id, .. }
        | Self::FilesLeft { id }
        | Self::Closing { id }
        | Self::Internal { id }) = self;
        Some(id.to_string())
    }
}

impl Catalogued for WatchEnd {
    fn id(&self) -> ErrorId {
        match self {
            Self::TooSlow { .. } => ErrorId::WatchTooSlow,
            Self::Closing => ErrorId::ShuttingDown,
        }
    }
}

impl Catalogued for ConsoleError {
    fn id(&self) -> ErrorId {
        match self {
            Self::NotFound(_) => ErrorId::NoSuchVm,
            Self::Open(_) | Self::Read(_) => ErrorId::ConsoleUnreadable,
        }
    }

    fn subject(&self) -> Option<String> {
        match self {
            Self::NotFound(id) => Some(id.to_string()),
            Self::Open(error) => error.subject(),
            Self::Read(_) => None,
        }
    }
}
