//! What can be wrong with a config, and what is only worth a word.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use casemate_catalogue::ErrorId;

use super::clients::ClientError;
use crate::backend::canary::CanaryError;
use crate::vm::catalogued::Catalogued;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("config file {path:?} cannot be read: {source}", path = .path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("config file {path:?}: {message}", path = .path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("{place} is {value:?}; wanted is {wanted}")]
    Value {
        /// Variable, or file, line and key.
        place: String,
        value: String,
        wanted: String,
    },
    #[error("{place}: there is no key {key:?}; the closest one is {closest:?}")]
    UnknownKey {
        place: String,
        key: String,
        closest: String,
    },
    #[error("there is no variable {name}; the closest one is {closest}")]
    UnknownVariable { name: String, closest: String },
    #[error("`--set {text}` is not of the form KEY=VALUE")]
    Flag { text: String },
    #[error("two sources of the same rank differ on {key}: {first}, and {second}")]
    Conflict {
        key: String,
        first: String,
        second: String,
    },
    #[error(
        "two sources name different default backends: {first} means {first_backend:?}, and {second} means {second_backend:?}"
    )]
    BackendConflict {
        first: String,
        first_backend: String,
        second: String,
        second_backend: String,
    },
    #[error(
        "{place} makes {name:?} the default backend, which no `[[backend]]` has as its name; configured are {known}"
    )]
    UnknownBackend {
        place: String,
        name: String,
        known: String,
    },
    #[error("config file {path:?}: two backends are named {name:?}", path = .path.display())]
    DuplicateBackend { path: PathBuf, name: String },
    #[error("config file {path:?}: `[backend.canary]` of {name:?}: {source}", path = .path.display())]
    Canary {
        path: PathBuf,
        name: String,
        source: CanaryError,
    },
    #[error("{place}: {source}")]
    Client {
        /// File and line.
        place: String,
        source: ClientError,
    },
    #[error("{variable} asks for {feature}, which this version does not have")]
    NotSupportedYet {
        variable: String,
        feature: &'static str,
        remedy: &'static str,
    },
    #[error(
        "the {listener} listener would be on {address} ({place}), which is not loopback, without TLS and authentication: anyone who reaches it could run VMs"
    )]
    Exposed {
        listener: &'static str,
        address: SocketAddr,
        place: String,
    },
    /// Every value has been checked, so this is a mistake of ours.
    #[error("the config does not fit together: {0}")]
    Shape(#[from] toml::de::Error),
}

impl Catalogued for ConfigError {
    fn id(&self) -> ErrorId {
        match self {
            Self::Unreadable { .. } => ErrorId::ConfigUnreadable,
            Self::Syntax { .. } => ErrorId::ConfigForm,
            Self::Value { .. } => ErrorId::ConfigValue,
            Self::UnknownKey { .. } => ErrorId::ConfigUnknownKey,
            Self::UnknownVariable { .. } => ErrorId::ConfigUnknownVariable,
            Self::Flag { .. } => ErrorId::ConfigFlag,
            Self::Conflict { .. } => ErrorId::ConfigConflict,
            Self::BackendConflict { .. } => ErrorId::ConfigBackendConflict,
            Self::UnknownBackend { .. } => ErrorId::ConfigBackendUnknown,
            Self::DuplicateBackend { .. } => ErrorId::ConfigDuplicateBackend,
            Self::Canary { .. } => ErrorId::ConfigCanary,
            Self::Client { .. } => ErrorId::ConfigClient,
            Self::NotSupportedYet { .. } => ErrorId::ConfigNotSupportedYet,
            Self::Exposed { .. } => ErrorId::ListenerExposed,
            Self::Shape(_) => ErrorId::ConfigShape,
        }
    }

    fn subject(&self) -> Option<String> {
        Some(match self {
            Self::Unreadable { path, .. } | Self::Syntax { path, .. } => path.display().to_string(),
            Self::Value { place, .. } => place.clone(),
            Self::UnknownKey { key, .. } | Self::Conflict { key, .. } => key.clone(),
            Self::UnknownVariable { name, .. } => name.clone(),
            Self::Flag { text } => text.clone(),
            Self::BackendConflict { .. } => "default_backend".to_owned(),
            Self::UnknownBackend { name, .. }
            | Self::DuplicateBackend { name, .. }
            | Self::Canary { name, .. } => name.clone(),
            Self::Client { place, .. } => place.clone(),
            Self::NotSupportedYet { variable, .. } => variable.clone(),
            Self::Exposed { listener, .. } => (*listener).to_owned(),
            Self::Shape(_) => return None,
        })
    }

    fn remedy(&self) -> String {
        match self {
            Self::Value { place, wanted, .. } => {
                format!("set {place} to {wanted}, or leave it out")
            }
            Self::UnknownVariable { name, closest } => {
                format!("write {closest} if that is meant, or unset {name}")
            }
            Self::NotSupportedYet { remedy, .. } => (*remedy).to_owned(),
            _ => self.id().entry().remedy.to_owned(),
        }
    }
}

/// All that is wrong with a config.
#[derive(Debug)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// What an operator should know, and what stops nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    UnknownVariable {
        name: String,
        closest: String,
    },
    Ignored {
        variable: String,
        why: &'static str,
    },
    Later {
        variable: String,
        feature: &'static str,
    },
    /// A file that somebody named.
    UnusableFile {
        key: String,
        path: PathBuf,
        source: String,
        reason: String,
    },
    /// An image root that somebody named.
    UnusableRoot {
        path: PathBuf,
        source: String,
        reason: String,
    },
    /// A setting for every backend that none announces.
    UnheardSetting {
        key: String,
        source: String,
        closest: String,
    },
    /// A client that no listener can recognise.
    UnseenClient {
        client: String,
        needs: &'static str,
    },
    /// The identity is for guests that are protected.
    IdentityUnused {
        backend: String,
    },
    /// Granted, and never asked for.
    GrantUnused {
        backend: String,
        what: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownVariable { name, closest } => {
                write!(
                    f,
                    "{name} is no variable of this daemon (the closest one is {closest}); ignored"
                )
            }
            Self::Ignored { variable, why } => write!(f, "{variable} has no effect: {why}"),
            Self::Later { variable, feature } => {
                write!(
                    f,
                    "{variable} has no effect yet: this version does not have {feature}"
                )
            }
            Self::UnusableFile {
                key,
                path,
                source,
                reason,
            } => write!(
                f,
                "{key} is {:?} ({source}), which cannot be used: {reason}; VMs that need it are refused",
                path.display()
            ),
            Self::UnusableRoot {
                path,
                source,
                reason,
            } => write!(
                f,
                "images.roots has {:?} ({source}), which cannot be used: {reason}; requests that name images are refused",
                path.display()
            ),
            Self::UnheardSetting {
                key,
                source,
                closest,
            } => write!(
                f,
                "setting {key:?} ({source}) is announced by no backend in service (the closest one is {closest:?}); it has no effect"
            ),
            Self::UnseenClient { client, needs } => write!(
                f,
                "client {client:?} is never recognised: that takes {needs}"
            ),
            Self::GrantUnused { backend, what } => write!(
                f,
                "[backend.grants] of {backend:?} has {what}, which the backend does not announce; `casemate backend show` lists what it does"
            ),
            Self::IdentityUnused { backend } => write!(
                f,
                "vm.identity has no effect on VMs of backend {backend:?}, which carries no identity"
            ),
        }
    }
}
