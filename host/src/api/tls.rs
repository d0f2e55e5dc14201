//! TLS for the listeners: which files the config names, what of them is refused, and the rustls
//! configuration that they become.
//!
//! Only TLS 1.3 is spoken: every client that this daemon has knows it, and it leaves nothing to
//! configure.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

use crate::regular_file::{self, ReadError};

/// Largest PEM file. A chain has some kilobytes; this holds a hundred certificates and more, and a
/// device or a disk image that was named by mistake is not read into memory.
const MAX_FILE: u64 = 256 << 10;

/// Mode bits of a key file that let others than its owner at it.
const OTHERS: u32 = 0o077;

const CERTIFICATES: &str =
    "a PEM file with one certificate or more (`-----BEGIN CERTIFICATE-----`)";
const PRIVATE_KEY: &str =
    "a PEM file with a private key that has no passphrase (PKCS#8, SEC1 or PKCS#1)";

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
    #[error("`client_ca_certs`: {path:?} cannot be used to check clients", path = .path.display())]
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

/// Makes TLS servers of accepted connections.
#[derive(Clone, Debug)]
pub struct TlsAcceptor {
    config: Arc<ServerConfig>,
}

impl TlsAcceptor {
    pub(super) fn accept(&self, stream: TcpStream) -> tokio_rustls::Accept<TcpStream> {
        tokio_rustls::TlsAcceptor::from(Arc::clone(&self.config)).accept(stream)
    }
}

impl TlsConfig {
    /// Whether only clients with a certificate are served.
    pub fn is_authenticated(&self) -> bool {
        self.server_cert.is_some() && self.server_key.is_some() && self.client_ca_certs.is_some()
    }

    /// Reads the files; none if the config names none.
    pub fn acceptor(&self, alpn: Alpn) -> Result<Option<TlsAcceptor>, TlsError> {
        let Some((certificate_path, key_path)) = self.server_files()? else {
            return Ok(None);
        };
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::Provider)?;
        let builder = match &self.client_ca_certs {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(
                    Arc::new(anchors("client_ca_certs", path)?),
                    provider,
                )
                .build()
                .map_err(|source| TlsError::Verifier {
                    path: path.clone(),
                    source,
                })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut chain = certificates("server_cert", certificate_path)?;
        if let Some(path) = &self.server_ca_certs {
            chain.extend(certificates("server_ca_certs", path)?);
        }
        let key = private_key(key_path)?;
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
        Ok(Some(TlsAcceptor {
            config: Arc::new(config),
        }))
    }

    /// Certificate and key. Files that would do nothing are an error: whoever names them believes
    /// to be protected by them.
    fn server_files(&self) -> Result<Option<(&Path, &Path)>, TlsError> {
        let half = |given, path: &Path, missing| TlsError::Half {
            given,
            path: path.to_owned(),
            missing,
        };
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

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = read(key, path, CERTIFICATES)?;
    let form = |what| TlsError::Form {
        key,
        path: path.to_owned(),
        what,
        wanted: CERTIFICATES,
    };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&content)
        .collect::<Result<_, _>>()
        .map_err(|_| form("is broken PEM"))?;
    if found.is_empty() {
        return Err(form("holds no certificate"));
    }
    // Else a broken intermediate would be noticed by the clients only.
    for certificate in &found {
        anchor(&mut RootCertStore::empty(), key, path, certificate)?;
    }
    Ok(found)
}

fn anchors(key: &'static str, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(key, path)? {
        anchor(&mut store, key, path, &certificate)?;
    }
    Ok(store)
}

fn anchor(
    store: &mut RootCertStore,
    key: &'static str,
    path: &Path,
    certificate: &CertificateDer<'static>,
) -> Result<(), TlsError> {
    store
        .add(certificate.clone())
        .map_err(|source| TlsError::Refused {
            key,
            path: path.to_owned(),
            wanted: CERTIFICATES,
            source,
        })
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let key = "server_key";
    let content = read(key, path, PRIVATE_KEY)?;
    if let Ok(metadata) = std::fs::metadata(path)
        && metadata.permissions().mode() & OTHERS != 0
    {
        let mode = format!("{:04o}", metadata.permissions().mode() & 0o7777);
        tracing::warn!(path = %path.display(), mode, "others than its owner can use this private key; `chmod 600` it");
    }
    // What the parser says quotes the file, which may be a key all the same.
    PrivateKeyDer::from_pem_slice(&content).map_err(|_| TlsError::Form {
        key,
        path: path.to_owned(),
        what: "holds no private key",
        wanted: PRIVATE_KEY,
    })
}

fn read(key: &'static str, path: &Path, wanted: &'static str) -> Result<Vec<u8>, TlsError> {
    regular_file::read(path, MAX_FILE).map_err(|error| match error {
        ReadError::Io(source) => TlsError::Unreadable {
            key,
            path: path.to_owned(),
            wanted,
            source,
        },
        ReadError::TooLarge => TlsError::Form {
            key,
            path: path.to_owned(),
            what: "is larger than 256 KiB",
            wanted,
        },
    })
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
        ] {
            let error = config.acceptor(Alpn::H2).unwrap_err().to_string();
            for part in parts.iter().chain(&["\"/etc/casemate/x.pem\""]) {
                assert!(error.contains(part), "{config:?}: {error}");
            }
            assert!(!config.is_authenticated());
        }
        assert!(none().acceptor(Alpn::H2).unwrap().is_none());
    }

    #[test]
    fn files_are_read_up_to_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.pem");
        let size = usize::try_from(MAX_FILE).unwrap();
        std::fs::write(&path, vec![b'\n'; size]).unwrap();
        assert_eq!(read("server_cert", &path, "").unwrap().len(), size);
        std::fs::write(&path, vec![b'\n'; size + 1]).unwrap();
        let error = read("server_cert", &path, "").unwrap_err().to_string();
        assert!(error.contains("larger than 256 KiB"), "{error}");
    }
}
