//! The sockets of both servers, and the TLS that may be read anew.

use std::sync::Arc;

use super::problem::BuildError;
use crate::api::config::Listener as ListenerConfig;
use crate::api::listener::{Listener, LocalSocket};
use crate::api::tls::reload::{Prepared, ReloadableTls};
use crate::api::tls::{Alpn, ClientCertificates, TlsConfig, TlsError};
use crate::config::Config;
use crate::metrics::Metrics;

/// The TLS of both listeners, where there is any.
#[derive(Clone, Debug)]
pub(super) struct ListenersTls {
    grpc: Option<Arc<ReloadableTls>>,
    http: Option<Arc<ReloadableTls>>,
}

/// Files of both that were read and wait to be taken.
#[derive(Debug)]
pub(super) struct PreparedTls(Vec<(Arc<ReloadableTls>, Prepared)>);

/// Where somebody may come with a token, nobody has to come with a certificate.
fn wanted(config: &Config) -> ClientCertificates {
    if config.has_tokens() {
        ClientCertificates::Optional
    } else {
        ClientCertificates::Mandatory
    }
}

impl ListenersTls {
    pub(super) fn new(config: &Config) -> Result<Self, BuildError> {
        let tls = |listener, files: &TlsConfig, alpn| {
            ReloadableTls::new(listener, alpn, files, wanted(config))
                .map(|tls| tls.map(Arc::new))
                .map_err(|source| BuildError::Tls {
                    listener,
                    source: Box::new(source),
                })
        };
        Ok(Self {
            grpc: tls("grpc", &config.grpc.listener.tls, Alpn::H2)?,
            http: tls("http", &config.http.listener.tls, Alpn::Http11)?,
        })
    }

    /// Reads the files of `config` and changes nothing; the listener whose files cannot be used.
    pub(super) fn prepare(
        &self,
        config: &Config,
    ) -> Result<PreparedTls, (&'static str, Box<TlsError>)> {
        let mut prepared = Vec::new();
        for (listener, tls, files, alpn) in [
            ("grpc", &self.grpc, &config.grpc.listener.tls, Alpn::H2),
            ("http", &self.http, &config.http.listener.tls, Alpn::Http11),
        ] {
            let refused = |error| (listener, Box::new(error));
            match tls {
                Some(tls) => {
                    let set = tls.prepare(files, wanted(config)).map_err(refused)?;
                    prepared.extend(set.map(|set| (Arc::clone(tls), set)));
                }
                // Files that would do nothing are no better at a reload than at a start.
                None => {
                    ReloadableTls::new(listener, alpn, files, wanted(config)).map_err(refused)?;
                }
            }
        }
        Ok(PreparedTls(prepared))
    }

    /// Looks after the files for as long as the runtime lives.
    pub(super) fn watch(&self, metrics: &Arc<Metrics>) {
        for tls in [&self.grpc, &self.http].into_iter().flatten() {
            tokio::spawn(Arc::clone(tls).watch(Arc::clone(metrics)));
        }
    }
}

impl PreparedTls {
    pub(super) fn take(self, metrics: &Metrics) {
        for (tls, set) in self.0 {
            tls.take(set);
            metrics.tls_reloaded(tls.listener(), "applied");
        }
    }
}

/// Both servers' sockets.
pub(super) async fn listen(
    config: &Config,
    tls: &ListenersTls,
) -> Result<(Listener, Listener), BuildError> {
    Ok((
        bind("grpc", &config.grpc.listener, tls.grpc.as_deref()).await?,
        bind("http", &config.http.listener, tls.http.as_deref()).await?,
    ))
}

/// What of the sockets can be told without listening.
pub(super) fn check(config: &Config) -> Result<(), BuildError> {
    for (listener, config) in [
        ("grpc", &config.grpc.listener),
        ("http", &config.http.listener),
    ] {
        if let Some(path) = &config.socket {
            LocalSocket::check(listener, path, config.socket_group.as_deref())?;
        }
    }
    Ok(())
}

async fn bind(
    listener: &'static str,
    config: &ListenerConfig,
    tls: Option<&ReloadableTls>,
) -> Result<Listener, BuildError> {
    let local = match &config.socket {
        None => None,
        Some(path) => {
            Some(LocalSocket::bind(listener, path, config.socket_group.as_deref()).await?)
        }
    };
    let address = config.address();
    Listener::bind(listener, address, tls.map(ReloadableTls::acceptor), local)
        .await
        .map_err(|source| BuildError::Listen {
            listener,
            address,
            source,
        })
}
