//! Certificates of the tests' own: authorities, and what they sign.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber,
};
use sha2::{Digest as _, Sha256};

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    serial: Vec<u8>,
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub certificate: String,
    pub key: String,
    pub serial: Vec<u8>,
    pub der: Vec<u8>,
}

impl Leaf {
    /// SHA-256 of the certificate, as `certificate_sha256` of the config wants it.
    pub fn fingerprint(&self) -> String {
        hex::encode(Sha256::digest(&self.der))
    }
}

/// When something ends that is valid for some time.
#[derive(Clone, Copy, Debug)]
pub enum Validity {
    ForYears,
    /// It ended yesterday.
    Over,
}

impl Validity {
    fn end(self) -> SystemTime {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        match self {
            Self::ForYears => SystemTime::now() + 3_650 * DAY,
            Self::Over => SystemTime::now() - DAY,
        }
    }
}

impl Authority {
    pub fn root(name: &str) -> Self {
        let (params, key, serial) = authority(name);
        let issuer = CertifiedIssuer::self_signed(params, key).expect("it can be signed");
        Self { issuer, serial }
    }

    /// An authority that this one vouches for.
    pub fn intermediate(&self, name: &str) -> Self {
        let (params, key, serial) = authority(name);
        let issuer =
            CertifiedIssuer::signed_by(params, key, &self.issuer).expect("it can be signed");
        Self { issuer, serial }
    }

    /// The serial number of its certificate.
    pub fn serial(&self) -> Vec<u8> {
        self.serial.clone()
    }

    pub fn certificate(&self) -> String {
        pem("CERTIFICATE", self.issuer.der())
    }

    /// For a server on loopback.
    pub fn server(&self) -> Leaf {
        self.leaf(ExtendedKeyUsagePurpose::ServerAuth, &[], Validity::ForYears)
    }

    /// For a server at that address or name.
    pub fn server_at(&self, name: &str) -> Leaf {
        let names = vec![name.to_owned()];
        self.leaf_of(
            names,
            ExtendedKeyUsagePurpose::ServerAuth,
            &[],
            Validity::ForYears,
        )
    }

    pub fn client(&self) -> Leaf {
        self.client_of(&[], Validity::ForYears)
    }

    /// A client with these URIs in its certificate.
    pub fn client_of(&self, uris: &[&str], validity: Validity) -> Leaf {
        self.leaf(ExtendedKeyUsagePurpose::ClientAuth, uris, validity)
    }

    /// A list of certificates of this authority that are revoked.
    pub fn revocation_list(&self, revoked: &[&Leaf], validity: Validity) -> String {
        let long_ago = SystemTime::now() - Duration::from_secs(7 * 24 * 60 * 60);
        let revoked = revoked.iter().map(|leaf| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&leaf.serial),
            revocation_time: long_ago.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: long_ago.into(),
            next_update: validity.end().into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("it can be signed");
        pem("X509 CRL", list.der())
    }

    fn leaf(&self, usage: ExtendedKeyUsagePurpose, uris: &[&str], validity: Validity) -> Leaf {
        let names = ["127.0.0.1", "::1", "localhost"].map(str::to_owned);
        self.leaf_of(names.to_vec(), usage, uris, validity)
    }

    fn leaf_of(
        &self,
        names: Vec<String>,
        usage: ExtendedKeyUsagePurpose,
        uris: &[&str],
        validity: Validity,
    ) -> Leaf {
        let mut params = CertificateParams::new(names).expect("good names");
        params.extended_key_usages = vec![usage];
        for uri in uris {
            let uri = (*uri).try_into().expect("a URI is ASCII");
            params.subject_alt_names.push(SanType::URI(uri));
        }
        params.not_after = validity.end().into();
        let key = new_key();
        let serial = serial_of(&key);
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("it can be signed");
        Leaf {
            certificate: pem("CERTIFICATE", certificate.der()),
            key: pem("PRIVATE KEY", &key.serialize_der()),
            serial,
            der: certificate.der().to_vec(),
        }
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key can be made")
}

/// A serial number of no other key, below 2^159 as it has to be.
fn serial_of(key: &KeyPair) -> Vec<u8> {
    let mut serial = Sha256::digest(key.public_key_raw())[..16].to_vec();
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

fn authority(name: &str) -> (CertificateParams, KeyPair, Vec<u8>) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = new_key();
    let serial = serial_of(&key);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    (params, key, serial)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = tail;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

/// Replaces a file as a whole, as who renews certificates does.
pub fn replace(path: &Path, content: &str) {
    let name = path.file_name().expect("a name").to_string_lossy();
    let folder = path.parent().expect("a folder");
    let new = write(folder, &format!("{name}.new"), content);
    std::fs::rename(new, path).expect("it can be renamed");
}

/// Writes a file that only its owner can read.
pub fn write(folder: &Path, name: &str, content: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join(name);
    std::fs::write(&path, content).expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .expect("the mode can be set");
    path
}
