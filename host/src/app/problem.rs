//! Why the daemon does not start, or ended.

use std::net::SocketAddr;

use casemate_catalogue::ErrorId;

use crate::api;
use crate::api::listener::SocketError;
use crate::api::tls::TlsError;
use crate::backend::engine::EngineError;
use crate::store::StoreError;
use crate::vm::catalogued::Catalogued;

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{listener} cannot listen on {address}: another program may have the port")]
    Listen {
        listener: &'static str,
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("TLS of `[{listener}]`")]
    Tls {
        listener: &'static str,
        #[source]
        source: Box<TlsError>,
    },
    #[error("metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
    #[error("{what} cannot be had")]
    Process {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
}

impl Catalogued for BuildError {
    fn id(&self) -> ErrorId {
        match self {
            Self::Store(error) => error.id(),
            Self::Engine(_) => ErrorId::Engine,
            Self::Listen { .. } => ErrorId::PortInUse,
            Self::Socket(_) => ErrorId::SocketUnusable,
            Self::Tls { .. } => ErrorId::TlsFiles,
            Self::Metrics(_) | Self::Process { .. } => ErrorId::StartFailed,
        }
    }

    fn subject(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.subject(),
            Self::Listen { listener, .. } | Self::Tls { listener, .. } => {
                Some((*listener).to_owned())
            }
            Self::Process { what, .. } => Some((*what).to_owned()),
            Self::Socket(error) => Some(error.key()),
            Self::Engine(_) | Self::Metrics(_) => None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Grpc(#[from] api::grpc::GrpcError),
    #[error("the HTTP server failed")]
    Http(#[source] std::io::Error),
}

impl Catalogued for RunError {
    fn id(&self) -> ErrorId {
        ErrorId::ServerFailed
    }

    fn subject(&self) -> Option<String> {
        Some(match self {
            Self::Grpc(_) => "grpc".to_owned(),
            Self::Http(_) => "http".to_owned(),
        })
    }
}
