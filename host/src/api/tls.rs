//! TLS for the listeners: which files the config names, what of them is refused, and the rustls
//! configuration that they become.
//!
//! Only TLS 1.3 is spoken: every client that this daemon has knows it, and it leaves nothing to
//! configure. The files are read anew while the daemon serves ([`reload`]).

mod acceptor;
mod files;
pub mod reload;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::{
    NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier,
};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ServerConfig};

use acceptor::TlsServer;
pub use acceptor::{ClientCertificate, TlsAcceptor, TlsPeer};
use files::PRIVATE_KEY;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(
        "`{given}` is {path:?} and `{missing}` is not given: TLS takes a certificate and its key; set both or none",
        path = .path.display()
    )]
    Half {
        given: &'static str,
        path: PathBuf,
        missing: &'static str,
    },
    #[error(
        "`{key}` is {path:?} and there is no TLS for it; set `server_cert` and `server_key` as well, or leave it out",
        path = .path.display()
    )]
    WithoutTls { key: &'static str, path: PathBuf },
    #[error(
        "`client_crl` is {path:?} and no client needs a certificate; set `client_ca_certs` as well, or leave it out",
        path = .path.display()
    )]
    WithoutAuthority { path: PathBuf },
    #[error("`{key}`: {path:?} cannot be read; wanted is {wanted}", path = .path.display())]
    Unreadable {
        key: &'static str,
        path: PathBuf,
        wanted: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("`{key}`: {path:?} {what}; wanted is {wanted}", path = .path.display())]
    Form {
        key: &'static str,
        path: PathBuf,
        what: &'static str,
        wanted: &'static str,
    },
    #[error("`{key}`: {path:?} is larger than {kibibytes} KiB; wanted is {wanted}", path = .path.display())]
    TooLarge {
        key: &'static str,
        path: PathBuf,
        kibibytes: u64,
        wanted: &'static str,
    },
    #[error(
        "`server_key`: {key_path:?} is not the key of the first certificate in `server_cert`, {path:?}; wanted is the key that this certificate was made with",
        path = .path.display(),
        key_path = .key_path.display()
    )]
    KeyMismatch { path: PathBuf, key_path: PathBuf },
    #[error("`{key}`: {path:?} cannot be used; wanted is {wanted}", path = .path.display())]
    Refused {
        key: &'static str,
        path: PathBuf,
        wanted: &'static str,
        #[source]
        source: rustls::Error,
    },
    #[error("`client_ca_certs`: {path:?} cannot be used to check clients with", path = .path.display())]
    Verifier {
        path: PathBuf,
        #[source]
        source: VerifierBuilderError,
    },
    #[error("TLS cannot be set up")]
    Provider(#[source] rustls::Error),
}

/// The TLS files of one listener, all optional, all PEM.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct TlsConfig {
    /// The server's certificate, and intermediates after it. Turns TLS on.
    #[serde(default)]
    pub server_cert: Option<PathBuf>,
    /// The certificate's key.
    #[serde(default)]
    pub server_key: Option<PathBuf>,
    /// Certificates that are sent along with the server's own: its intermediates.
    #[serde(default)]
    pub server_ca_certs: Option<PathBuf>,
    /// What a client's certificate must chain to. Turns client authentication on.
    #[serde(default)]
    pub client_ca_certs: Option<PathBuf>,
    /// Which certificates of these chains are revoked.
    #[serde(default)]
    pub client_crl: Option<PathBuf>,
}

/// What is spoken over TLS, as it is negotiated (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    H2,
    Http11,
}

impl Alpn {
    fn id(self) -> &'static [u8] {
        match self {
            Self::H2 => b"h2",
            Self::Http11 => b"http/1.1",
        }
    }
}

/// What a client brings to the handshake, where `client_ca_certs` is set. One that it brings has to
/// be good in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Nobody is let in without.
    Mandatory,
    /// Who has none brings a token with each call.
    Optional,
}

impl TlsConfig {
    /// Whether a certificate is named.
    pub fn is_on(&self) -> bool {
        self.server_cert.is_some() && self.server_key.is_some()
    }

    /// Every file that is named.
    fn paths(&self) -> impl Iterator<Item = &Path> {
        [
            &self.server_cert,
            &self.server_key,
            &self.server_ca_certs,
            &self.client_ca_certs,
            &self.client_crl,
        ]
        .into_iter()
        .filter_map(|path| path.as_deref())
    }

    /// Reads the files; none if the config names none.
    fn server(
        &self,
        alpn: Alpn,
        wanted: ClientCertificates,
    ) -> Result<Option<TlsServer>, TlsError> {
        let Some((certificate_path, key_path)) = self.server_files()? else {
            return Ok(None);
        };
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::Provider)?;
        let verifier = match &self.client_ca_certs {
            None => None,
            Some(path) => {
                let anchors = Arc::new(files::anchors("client_ca_certs", path)?);
                let mut verifier = WebPkiClientVerifier::builder_with_provider(anchors, provider);
                if let Some(path) = &self.client_crl {
                    // For each certificate of a chain somebody has to say, and not too long ago,
                    // that it is not revoked.
                    verifier = verifier
                        .with_crls(files::revocation_lists("client_crl", path)?)
                        .enforce_revocation_expiration();
                }
                if wanted == ClientCertificates::Optional {
                    verifier = verifier.allow_unauthenticated();
                }
                let verifier = verifier.build().map_err(|source| TlsError::Verifier {
                    path: path.clone(),
                    source,
                })?;
                Some(verifier)
            }
        };
        let builder = match &verifier {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        };
        let mut chain = files::certificates("server_cert", certificate_path)?;
        if let Some(path) = &self.server_ca_certs {
            chain.extend(files::certificates("server_ca_certs", path)?);
        }
        let key = files::private_key(key_path)?;
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|source| match source {
                rustls::Error::InconsistentKeys(_) => TlsError::KeyMismatch {
                    path: certificate_path.to_owned(),
                    key_path: key_path.to_owned(),
                },
                // The certificates' form was checked when they were read.
                source => TlsError::Refused {
                    key: "server_key",
                    path: key_path.to_owned(),
                    wanted: PRIVATE_KEY,
                    source,
                },
            })?;
        config.alpn_protocols = vec![alpn.id().to_vec()];
        if verifier.is_some() {
            // A session that is resumed brings the certificate of its beginning, which nobody would
            // look at again.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Some(TlsServer::new(config, verifier, wanted)))
    }

    /// Certificate and key. Files that would do nothing are an error: whoever names them believes
    /// to be protected by them.
    fn server_files(&self) -> Result<Option<(&Path, &Path)>, TlsError> {
        let half = |given, path: &Path, missing| TlsError::Half {
            given,
            path: path.to_owned(),
            missing,
        };
        if let (Some(path), None) = (&self.client_crl, &self.client_ca_certs) {
            return Err(TlsError::WithoutAuthority { path: path.clone() });
        }
        match (&self.server_cert, &self.server_key) {
            (Some(certificate), Some(key)) => return Ok(Some((certificate, key))),
            (Some(path), None) => return Err(half("server_cert", path, "server_key")),
            (None, Some(path)) => return Err(half("server_key", path, "server_cert")),
            (None, None) => {}
        }
        for (key, path) in [
            ("client_ca_certs", &self.client_ca_certs),
            ("server_ca_certs", &self.server_ca_certs),
        ] {
            if let Some(path) = path {
                return Err(TlsError::WithoutTls {
                    key,
                    path: path.clone(),
                });
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files themselves are the subject of the integration tests.
    #[test]
    fn files_that_would_do_nothing_are_refused() {
        let some = || Some(PathBuf::from("/etc/casemate/x.pem"));
        let none = TlsConfig::default;
        for (config, parts) in [
            (
                TlsConfig {
                    server_cert: some(),
                    ..none()
                },
                ["`server_cert`", "`server_key` is not given"],
            ),
            (
                TlsConfig {
                    server_key: some(),
                    ..none()
                },
                ["`server_key`", "`server_cert` is not given"],
            ),
            (
                TlsConfig {
                    client_ca_certs: some(),
                    ..none()
                },
                ["`client_ca_certs`", "no TLS"],
            ),
            (
                TlsConfig {
                    server_ca_certs: some(),
                    ..none()
                },
                ["`server_ca_certs`", "no TLS"],
            ),
            (
                TlsConfig {
                    client_crl: some(),
                    ..none()
                },
                ["`client_crl`", "set `client_ca_certs`"],
            ),
        ] {
            let error = config
                .server(Alpn::H2, ClientCertificates::Mandatory)
                .unwrap_err()
                .to_string();
            for part in parts.iter().chain(&["\"/etc/casemate/x.pem\""]) {
                assert!(error.contains(part), "{config:?}: {error}");
            }
        }
        assert!(
            none()
                .server(Alpn::H2, ClientCertificates::Mandatory)
                .unwrap()
                .is_none()
        );
    }
}
