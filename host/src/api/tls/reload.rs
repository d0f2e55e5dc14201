//! TLS whose files are read again: at a reload of the config, and when one of them changed.
//!
//! A set of files is taken as a whole or not at all. One that cannot be used leaves the old one
//! serving and is told once, until a file changes again: certificate and key may come one after the
//! other.

use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::acceptor::TlsServer;
use super::{Alpn, ClientCertificates, TlsAcceptor, TlsConfig, TlsError};
use crate::backend::catalog::chain;
use crate::metrics::Metrics;

/// How often the files are looked at. A revocation is not to wait for long, and five calls of stat
/// cost nothing.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The TLS of one listener.
#[derive(Debug)]
pub struct ReloadableTls {
    listener: &'static str,
    alpn: Alpn,
    acceptor: TlsAcceptor,
    source: Mutex<Source>,
}

/// From where the TLS of now is, or was to be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    config: TlsConfig,
    wanted: ClientCertificates,
    /// Of the files when they were looked at last.
    stamps: Vec<Option<Stamp>>,
}

/// A file is another one, or has other content, where this differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Source {
    /// With the stamps of now: what is read after them is at least as new.
    fn look(config: &TlsConfig, wanted: ClientCertificates) -> Self {
        let stamp = |path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some(Stamp {
                device: metadata.dev(),
                inode: metadata.ino(),
                size: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
            })
        };
        Self {
            config: config.clone(),
            wanted,
            stamps: config.paths().map(stamp).collect(),
        }
    }
}

/// A set of files that was read and can serve.
#[derive(Debug)]
pub struct Prepared {
    server: TlsServer,
    source: Source,
}

impl ReloadableTls {
    /// Reads the files; none if the config names none. `listener` is for the log and the metrics.
    pub fn new(
        listener: &'static str,
        alpn: Alpn,
        config: &TlsConfig,
        wanted: ClientCertificates,
    ) -> Result<Option<Self>, TlsError> {
        let source = Source::look(config, wanted);
        let server = config.server(alpn, wanted)?;
        Ok(server.map(|server| Self {
            listener,
            alpn,
            acceptor: TlsAcceptor::new(server),
            source: Mutex::new(source),
        }))
    }

    pub fn listener(&self) -> &'static str {
        self.listener
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// Reads the files that a config names, and changes nothing. None where it names none: who
    /// serves TLS does so until a restart.
    pub fn prepare(
        &self,
        config: &TlsConfig,
        wanted: ClientCertificates,
    ) -> Result<Option<Prepared>, TlsError> {
        let source = Source::look(config, wanted);
        match config.server(self.alpn, wanted) {
            Ok(server) => Ok(server.map(|server| Prepared { server, source })),
            Err(error) => {
                // The caller says so, and nobody needs to a second time.
                let mut own = self.source.lock().unwrap_or_else(PoisonError::into_inner);
                if own.config == source.config && own.wanted == source.wanted {
                    *own = source;
                }
                Err(error)
            }
        }
    }

    pub fn take(&self, prepared: Prepared) {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        self.acceptor.set(prepared.server);
        *source = prepared.source;
    }

    /// Reads the files where one of them changed since they were looked at. Nothing comes of files
    /// that did not.
    fn look(&self) -> Option<Result<(), TlsError>> {
        // Held while they are read: a reload of the config comes after it, and wins.
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Source::look(&source.config, source.wanted);
        if now == *source {
            return None;
        }
        *source = now;
        match source.config.server(self.alpn, source.wanted) {
            Ok(Some(server)) => {
                self.acceptor.set(server);
                Some(Ok(()))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Looks at the files for as long as it is polled.
    pub async fn watch(self: Arc<Self>, metrics: Arc<Metrics>) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let this = Arc::clone(&self);
            // Files may lie on a slow disk.
            let looked = tokio::task::spawn_blocking(move || this.look()).await;
            match looked {
                Ok(Some(Ok(()))) => {
                    metrics.tls_reloaded(self.listener, "applied");
                    tracing::info!(listener = self.listener, "TLS files changed: read again");
                }
                Ok(Some(Err(error))) => {
                    metrics.tls_reloaded(self.listener, "refused");
                    let id = casemate_catalogue::ErrorId::ReloadTls;
                    tracing::error!(
                        listener = self.listener,
                        error = %chain(&error),
                        remedy = id.entry().remedy,
                        id = id.as_str(),
                        "TLS files changed and cannot be used: those read before serve on"
                    );
                }
                Ok(None) => {}
                Err(error) => tracing::error!(%error, "TLS files could not be looked at"),
            }
        }
    }
}
