//! The PEM files themselves: read with a limit, and refused with the key that names them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
};

use super::TlsError;
use crate::regular_file::{self, ReadError};

/// Largest PEM file. A chain has some kilobytes; this holds a hundred certificates and more, and a
/// device or a disk image that was named by mistake is not read into memory.
const MAX_FILE: u64 = 256 << 10;

/// Largest file of revocation lists: a revoked certificate takes some 50 bytes, so this holds a
/// hundred thousand and more.
const MAX_LISTS: u64 = 8 << 20;

/// Mode bits of a key file that let others than its owner at it.
const OTHERS: u32 = 0o077;

const CERTIFICATES: &str =
    "a PEM file with one certificate or more (`-----BEGIN CERTIFICATE-----`)";
pub(super) const PRIVATE_KEY: &str =
    "a PEM file with a private key that has no passphrase (PKCS#8, SEC1 or PKCS#1)";
const LISTS: &str = "a PEM file with one revocation list or more (`-----BEGIN X509 CRL-----`)";

pub(super) fn certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = read(key, path, CERTIFICATES, MAX_FILE)?;
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

pub(super) fn anchors(key: &'static str, path: &Path) -> Result<RootCertStore, TlsError> {
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

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let key = "server_key";
    let content = read(key, path, PRIVATE_KEY, MAX_FILE)?;
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

/// Lists that webpki can use. One that is outdated is taken: it refuses chains, and is replaced.
pub(super) fn revocation_lists(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let content = read(key, path, LISTS, MAX_LISTS)?;
    let form = |what| TlsError::Form {
        key,
        path: path.to_owned(),
        what,
        wanted: LISTS,
    };
    let found: Vec<_> = CertificateRevocationListDer::pem_slice_iter(&content)
        .collect::<Result<_, _>>()
        .map_err(|_| form("is broken PEM"))?;
    if found.is_empty() {
        return Err(form("holds no revocation list"));
    }
    // rustls would say it of all of them together, and not of which file.
    for list in &found {
        webpki::BorrowedCertRevocationList::from_der(list)
            .map_err(|_| form("holds a revocation list that cannot be used"))?;
    }
    Ok(found)
}

fn read(
    key: &'static str,
    path: &Path,
    wanted: &'static str,
    limit: u64,
) -> Result<Vec<u8>, TlsError> {
    regular_file::read(path, limit).map_err(|error| match error {
        ReadError::Io(source) => TlsError::Unreadable {
            key,
            path: path.to_owned(),
            wanted,
            source,
        },
        ReadError::TooLarge => TlsError::TooLarge {
            key,
            path: path.to_owned(),
            kibibytes: limit >> 10,
            wanted,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_up_to_a_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.pem");
        let size = usize::try_from(MAX_FILE).unwrap();
        std::fs::write(&path, vec![b'\n'; size]).unwrap();
        assert_eq!(
            read("server_cert", &path, "", MAX_FILE).unwrap().len(),
            size
        );
        std::fs::write(&path, vec![b'\n'; size + 1]).unwrap();
        let error = read("server_cert", &path, "", MAX_FILE)
            .unwrap_err()
            .to_string();
        assert!(error.contains("larger than 256 KiB"), "{error}");
    }
}
