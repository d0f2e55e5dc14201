//! TLS to the daemon: whom it trusts, and who it is.

use std::path::{Path, PathBuf};

use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::{Address, innermost_cause};
use crate::connection::{Connection, Source, Sourced};
use crate::error::CliError;

/// Files that a flag names for an endpoint without TLS are a mistake; those that the environment or
/// a context names are for others, and not used.
pub(super) fn applied(
    endpoint: Endpoint,
    address: &Address,
    connection: &Connection,
) -> Result<Endpoint, CliError> {
    let files = [
        &connection.ca_cert,
        &connection.client_cert,
        &connection.client_key,
    ];
    if !matches!(address, Address::Https { .. }) {
        let by_flag = files
            .into_iter()
            .flatten()
            .find_map(|file| match file.source {
                Source::Flag(flag) => Some(flag),
                _ => None,
            });
        return match by_flag {
            None => Ok(endpoint),
            Some(flag) => Err(CliError::Tls {
                reason: format!(
                    "{flag} is for TLS, and {} speaks none",
                    connection.endpoint.value
                ),
            }),
        };
    }
    let mut tls = ClientTlsConfig::new();
    tls = match &connection.ca_cert {
        None => tls.with_native_roots(),
        Some(file) => tls.ca_certificate(Certificate::from_pem(certificates(file)?)),
    };
    tls = match (&connection.client_cert, &connection.client_key) {
        (None, None) => tls,
        (Some(certificate), Some(key)) => {
            tls.identity(Identity::from_pem(read(certificate)?, read(key)?))
        }
        (Some(Sourced { source, .. }), None) => {
            return Err(CliError::Tls {
                reason: format!("{source} names a certificate, and nobody names its key"),
            });
        }
        (None, Some(Sourced { source, .. })) => {
            return Err(CliError::Tls {
                reason: format!("{source} names a key, and nobody names its certificate"),
            });
        }
    };
    endpoint.tls_config(tls).map_err(|error| CliError::Tls {
        reason: format!(
            "the files {} cannot be used: {}",
            names(&files.map(|file| file.as_ref().map(|file| file.value.as_path()))),
            innermost_cause(&error)
        ),
    })
}

/// A file without any would make nobody trusted, which is told too late and otherwise.
fn certificates(file: &Sourced<PathBuf>) -> Result<Vec<u8>, CliError> {
    let pem = read(file)?;
    match CertificateDer::pem_slice_iter(&pem).next() {
        Some(Ok(_)) => Ok(pem),
        Some(Err(_)) | None => Err(CliError::Tls {
            reason: format!("{} holds no certificate in PEM", file.value.display()),
        }),
    }
}

fn read(file: &Sourced<PathBuf>) -> Result<Vec<u8>, CliError> {
    std::fs::read(&file.value).map_err(|source| CliError::Input {
        path: file.value.clone(),
        source,
    })
}

fn names(files: &[Option<&Path>]) -> String {
    let names: Vec<String> = files
        .iter()
        .flatten()
        .map(|path| path.display().to_string())
        .collect();
    if names.is_empty() {
        return "of the system's authorities".to_owned();
    }
    names.join(", ")
}

/// rustls' word for what the other end says. Of an error on a connection that is in use, h2 keeps
/// the words alone.
const ALERT: &str = "received fatal alert";

/// Whether TLS itself failed, at whichever end.
pub(super) fn is_distrust(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(found) = cause {
        let inner = found
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if found.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        cause = found.source();
    }
    innermost_cause(error).starts_with(ALERT)
}
