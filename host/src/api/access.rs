//! Who makes a call, and what that client may do.
//!
//! ```text
//!  connection ──▶ Peer (address, certificate, user) ─┐
//!  `authorization: Bearer …` ────────────────────────┼─▶ Gate ──▶ Caller, or AccessError
//!  `[[client]]` of the config ───────────────────────┘
//! ```
//!
//! The gate stands around both servers (`layer`). It finds out who calls and whether that one calls
//! too often; what the call needs is asked by the call itself, with `Caller::require`. Where no
//! client is configured, whoever reaches a listener has every role.

pub mod clients;
pub mod gate;

pub(super) mod layer;
mod outgoing;
mod peer;
mod rate;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use casemate_catalogue::ErrorId;
use tonic::codegen::http::Extensions;

use super::audit::{self, Deed};
use crate::spec::VmId;
use crate::spec::files::FileAuthority;
use crate::vm::catalogued::Catalogued;
use clients::Known;
use gate::Refusals;
pub use peer::{Peer, Reach};

/// What a client may do. A client has any number of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sees VMs, backends and the host.
    Viewer,
    /// Makes, changes and removes VMs too.
    Operator,
    /// Names files of the host by absolute paths and reads the config, too.
    Admin,
    /// Reads consoles. No other role has it.
    Secrets,
}

impl Role {
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::Admin, Self::Secrets];

    /// As in the config.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Secrets => "secrets",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }

    /// All of them, for messages.
    pub fn names() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }

    /// Whether who has this role may do what takes the other.
    pub fn includes(self, other: Self) -> bool {
        match self {
            Self::Viewer | Self::Secrets => self == other,
            Self::Operator => matches!(other, Self::Viewer | Self::Operator),
            Self::Admin => matches!(other, Self::Viewer | Self::Operator | Self::Admin),
        }
    }
}

/// Why a call is not even looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AccessError {
    #[error(
        "{peer} is no client of this daemon: no `[[client]]` of the config is recognised by it"
    )]
    Stranger { peer: String },
    #[error("the token is none of a client's")]
    WrongToken,
    #[error("the header `authorization` is not of the form `Bearer TOKEN`")]
    AuthorizationForm,
    #[error(
        "user {uid} may not call: the config has no `[[client]]`, so the socket serves root and the daemon's own user alone"
    )]
    ForeignUser { uid: u32 },
    #[error("the certificate that this connection began with is not accepted any more")]
    CertificateLapsed,
    #[error(
        "what the caller was recognised by is not good any more, so the rest of the answer is kept back"
    )]
    Withdrawn,
    #[error("client {client:?} does not have the role {}", .role.as_str())]
    RoleMissing { client: String, role: Role },
    #[error("{who} calls too often; the next call is welcome in {} ms", .retry.as_millis())]
    CallRate { who: String, retry: Duration },
    #[error("too many wrong tokens came from {who}; the next is looked at in {} ms", .retry.as_millis())]
    AuthenticationRate { who: String, retry: Duration },
    #[error("gRPC does not describe itself here; see `grpc.reflection`")]
    NoReflection,
}

impl AccessError {
    /// When it makes sense to call again.
    pub(super) fn retry(&self) -> Option<Duration> {
        match self {
            Self::CallRate { retry, .. } | Self::AuthenticationRate { retry, .. } => Some(*retry),
            _ => None,
        }
    }
}

impl Catalogued for AccessError {
    fn id(&self) -> ErrorId {
        match self {
            Self::Stranger { .. }
            | Self::WrongToken
            | Self::AuthorizationForm
            | Self::ForeignUser { .. }
            | Self::CertificateLapsed
            | Self::Withdrawn => ErrorId::Unauthenticated,
            Self::RoleMissing { .. } => ErrorId::RoleMissing,
            Self::CallRate { .. } => ErrorId::CallRate,
            Self::AuthenticationRate { .. } => ErrorId::AuthenticationRate,
            Self::NoReflection => ErrorId::MethodUnknown,
        }
    }

    fn subject(&self) -> Option<String> {
        match self {
            Self::RoleMissing { client, .. } => Some(client.clone()),
            Self::CallRate { who, .. } | Self::AuthenticationRate { who, .. } => Some(who.clone()),
            Self::WrongToken | Self::AuthorizationForm => Some("authorization".to_owned()),
            Self::ForeignUser { uid } => Some(uid.to_string()),
            Self::NoReflection => Some("grpc.reflection".to_owned()),
            Self::Stranger { .. } | Self::CertificateLapsed | Self::Withdrawn => None,
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::RoleMissing { client, role } => format!(
                "add {:?} to `roles` of the `[[client]]` {client:?} in the config file, and send SIGHUP",
                role.as_str()
            ),
            Self::ForeignUser { uid } => {
                format!("call as root, or add a `[[client]]` with `uid = {uid}` to the config file")
            }
            Self::CertificateLapsed | Self::Withdrawn => {
                "connect again, with a token of now or a certificate that is neither expired nor revoked"
                    .to_owned()
            }
            Self::NoReflection => {
                "use the .proto files, or set `grpc.reflection` in the config file".to_owned()
            }
            _ => self.id().entry().remedy.to_owned(),
        }
    }
}

/// For calls: `caller.require(Role::Operator)?`.
impl From<AccessError> for tonic::Status {
    fn from(error: AccessError) -> Self {
        layer::status_of(&error)
    }
}

/// What is known of the client.
#[derive(Clone, Debug)]
enum Standing {
    /// No client is configured: whoever reaches the listener.
    Unrestricted,
    Client(Arc<Known>),
    /// Nobody that is known. Only what is open to everybody is served.
    Stranger,
}

/// Who makes a call.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    peer: Option<Peer>,
    standing: Standing,
    /// What is called, for the log.
    call: Arc<str>,
    refusals: Option<Arc<Refusals>>,
}

impl Caller {
    /// The caller that the gate let in. Without a gate nobody is known.
    pub(super) fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_else(|| Self {
            peer: None,
            standing: Standing::Stranger,
            call: "".into(),
            refusals: None,
        })
    }

    /// As the config has it; empty where no client is configured, and for strangers.
    pub(super) fn name(&self) -> &str {
        match &self.standing {
            Standing::Client(client) => &client.name,
            Standing::Unrestricted | Standing::Stranger => "",
        }
    }

    pub(super) fn has(&self, role: Role) -> bool {
        match &self.standing {
            Standing::Unrestricted => true,
            Standing::Client(client) => client.roles.iter().any(|own| own.includes(role)),
            Standing::Stranger => false,
        }
    }

    /// No client is configured, and the caller came by a loopback address: a browser does so, too.
    pub(super) fn is_anybody_on_loopback(&self) -> bool {
        let by_loopback = self
            .peer
            .as_ref()
            .is_some_and(|peer| peer.uid.is_none() && peer.reach == Reach::Host);
        matches!(self.standing, Standing::Unrestricted) && by_loopback
    }

    /// Which files of the host a request may name.
    pub(super) fn file_authority(&self) -> FileAuthority {
        if self.has(Role::Admin) {
            FileAuthority::WholeHost
        } else {
            FileAuthority::BelowRoots
        }
    }

    /// A refusal is written down.
    pub(super) fn require(&self, role: Role) -> Result<(), AccessError> {
        if self.has(role) {
            return Ok(());
        }
        let error = match &self.standing {
            Standing::Client(client) => AccessError::RoleMissing {
                client: client.name.to_string(),
                role,
            },
            Standing::Unrestricted | Standing::Stranger => AccessError::Stranger {
                peer: self.described(),
            },
        };
        self.refused(&error);
        Err(error)
    }

    fn refused(&self, error: &AccessError) {
        match &self.refusals {
            Some(refusals) => refusals.write_down(self, error),
            None => audit::refused(self, error),
        }
    }

    /// For messages.
    fn described(&self) -> String {
        match &self.peer {
            Some(peer) => peer.described(),
            None => "the caller".to_owned(),
        }
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.peer.as_ref().and_then(|peer| peer.address)
    }

    /// Of a caller by a UNIX socket.
    pub(super) fn uid(&self) -> Option<u32> {
        self.peer.as_ref().and_then(|peer| peer.uid)
    }

    /// SHA-256 of the client's certificate, hexadecimal.
    pub(super) fn certificate(&self) -> Option<&str> {
        self.peer.as_ref()?.fingerprint()
    }

    pub(super) fn call(&self) -> &str {
        &self.call
    }

    /// Begins a line of the audit log.
    pub(super) fn begins(self, action: &'static str, vm: Option<VmId>) -> Deed {
        Deed::begins(self, action, vm)
    }
}

#[cfg(test)]
mod tests;
