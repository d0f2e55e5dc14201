//! TLS of one listener as it is now: handshakes go by it, and so do the calls of connections that
//! began under an earlier one.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::server::TlsStream;

use super::ClientCertificates;

/// For how long a certificate that was looked at is good on a connection that stays open. Then it
/// may have expired, or the list that it is not on.
const GOOD_FOR: Duration = Duration::from_secs(60);

/// What was read from one set of files.
pub(super) struct TlsServer {
    config: Arc<ServerConfig>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    wanted: ClientCertificates,
    /// No other set has it.
    generation: u64,
}

impl TlsServer {
    pub(super) fn new(
        config: ServerConfig,
        verifier: Option<Arc<dyn ClientCertVerifier>>,
        wanted: ClientCertificates,
    ) -> Self {
        static GENERATIONS: AtomicU64 = AtomicU64::new(0);
        Self {
            config: Arc::new(config),
            verifier,
            wanted,
            generation: GENERATIONS.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for TlsServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsServer")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// Makes TLS servers of accepted connections. Clones share what they go by.
#[derive(Clone)]
pub struct TlsAcceptor {
    now: Arc<ArcSwap<TlsServer>>,
}

impl fmt::Debug for TlsAcceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = self.now.load().generation;
        f.debug_struct("TlsAcceptor")
            .field("generation", &generation)
            .finish_non_exhaustive()
    }
}

impl TlsAcceptor {
    pub(super) fn new(server: TlsServer) -> Self {
        Self {
            now: Arc::new(ArcSwap::from_pointee(server)),
        }
    }

    pub(super) fn set(&self, server: TlsServer) {
        self.now.store(Arc::new(server));
    }

    pub(in crate::api) fn accept(&self, stream: TcpStream) -> tokio_rustls::Accept<TcpStream> {
        let config = Arc::clone(&self.now.load().config);
        tokio_rustls::TlsAcceptor::from(config).accept(stream)
    }

    /// The other end of a connection whose handshake is done.
    pub(in crate::api) fn peer(&self, stream: &TlsStream<TcpStream>) -> TlsPeer {
        let (_, session) = stream.get_ref();
        let chain = session.peer_certificates();
        TlsPeer {
            acceptor: self.clone(),
            certificate: chain.and_then(ClientCertificate::new).map(Arc::new),
        }
    }
}

/// The other end of a TLS connection.
#[derive(Clone, Debug)]
pub struct TlsPeer {
    acceptor: TlsAcceptor,
    pub certificate: Option<Arc<ClientCertificate>>,
}

impl TlsPeer {
    /// Whether the handshake would succeed now as well: the files may be others, and time passes.
    pub fn is_accepted_still(&self) -> bool {
        let now = self.acceptor.now.load();
        match (&now.verifier, &self.certificate) {
            (None, None) => true,
            // Nobody vouches for it any more.
            (None, Some(_)) => false,
            (Some(_), None) => now.wanted == ClientCertificates::Optional,
            (Some(verifier), Some(certificate)) => {
                certificate.is_good(&**verifier, now.generation, Instant::now())
            }
        }
    }
}

/// A client's certificate, with what its chain vouches for.
pub struct ClientCertificate {
    /// SHA-256, hexadecimal.
    pub fingerprint: Arc<str>,
    /// In small letters.
    pub dns: Vec<String>,
    pub uris: Vec<String>,
    leaf: CertificateDer<'static>,
    intermediates: Vec<CertificateDer<'static>>,
    /// When it was found good last, and by which set of files.
    good: Mutex<Option<(u64, Instant)>>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

impl ClientCertificate {
    /// Names that are none, as webpki has it, are left out.
    fn new(chain: &[CertificateDer<'static>]) -> Option<Self> {
        let (leaf, intermediates) = chain.split_first()?;
        let parsed = webpki::EndEntityCert::try_from(leaf).ok()?;
        Some(Self {
            fingerprint: fingerprint(leaf).into(),
            dns: parsed
                .valid_dns_names()
                .map(str::to_ascii_lowercase)
                .collect(),
            uris: parsed.valid_uri_names().map(str::to_owned).collect(),
            leaf: leaf.clone(),
            intermediates: intermediates.to_vec(),
            good: Mutex::new(None),
        })
    }

    fn is_good(&self, verifier: &dyn ClientCertVerifier, generation: u64, now: Instant) -> bool {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((by, at)) = *good
            && by == generation
            && now.saturating_duration_since(at) < GOOD_FOR
        {
            return true;
        }
        let verified =
            verifier.verify_client_cert(&self.leaf, &self.intermediates, UnixTime::now());
        *good = verified.is_ok().then_some((generation, now));
        verified.is_ok()
    }
}

fn fingerprint(certificate: &[u8]) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(certificate))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
    use tokio_rustls::rustls::pki_types::UnixTime;
    use tokio_rustls::rustls::server::danger::ClientCertVerified;
    use tokio_rustls::rustls::{
        CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    };

    use super::*;

    /// Counts how often it is asked, and says yes the first so many times.
    #[derive(Debug)]
    struct Counting {
        asked: AtomicUsize,
        good: usize,
    }

    impl ClientCertVerifier for Counting {
        fn root_hint_subjects(&self) -> &[DistinguishedName] {
            &[]
        }

        fn verify_client_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: UnixTime,
        ) -> Result<ClientCertVerified, Error> {
            if self.asked.fetch_add(1, Ordering::Relaxed) < self.good {
                Ok(ClientCertVerified::assertion())
            } else {
                Err(CertificateError::Expired.into())
            }
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(CertificateError::BadSignature.into())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(CertificateError::BadSignature.into())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            Vec::new()
        }
    }

    #[test]
    fn a_certificate_is_looked_at_again_with_new_files_and_as_time_passes() {
        let certificate = ClientCertificate {
            fingerprint: "ab".into(),
            dns: Vec::new(),
            uris: Vec::new(),
            leaf: vec![0].into(),
            intermediates: Vec::new(),
            good: Mutex::new(None),
        };
        let verifier = Counting {
            asked: AtomicUsize::new(0),
            good: 3,
        };
        let start = Instant::now();
        for (generation, after, is_good, asked) in [
            (1, Duration::ZERO, true, 1),
            (1, Duration::from_secs(1), true, 1),
            (2, Duration::from_secs(1), true, 2),
            (2, GOOD_FOR, true, 2),
            (2, GOOD_FOR + Duration::from_secs(1), true, 3),
            (2, 3 * GOOD_FOR, false, 4),
            (2, 3 * GOOD_FOR, false, 5),
        ] {
            let now = start + after;
            assert_eq!(certificate.is_good(&verifier, generation, now), is_good);
            assert_eq!(verifier.asked.load(Ordering::Relaxed), asked, "{after:?}");
        }
    }
}
