//! Clients over TLS, as the tests need them: who they trust, who they are, and what they hear when
//! they are refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use casemate_proto::v1;
use casemate_proto::v1::vm_service_client::VmServiceClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, AlertDescription, ClientConfig, HandshakeKind, RootCertStore};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::certificates::{Authority, Leaf};
use crate::daemon::Daemon;

/// A served client has its answer long before, and one that is not served must not hang.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a client trusts, and who it is.
#[derive(Debug)]
pub struct Client<'a> {
    pub trusted: &'a Authority,
    pub identity: Option<Leaf>,
}

/// Off loopback the daemon is reached at loopback as well.
pub fn on_loopback(address: SocketAddr) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], address.port()))
}

/// A channel to the gRPC listener, which is on IPv4, or why there is none.
pub async fn channel(daemon: &Daemon, client: &Client<'_>) -> Result<Channel, String> {
    let mut tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(client.trusted.certificate()));
    if let Some(leaf) = &client.identity {
        tls = tls.identity(Identity::from_pem(&leaf.certificate, &leaf.key));
    }
    let endpoint = Channel::from_shared(format!("https://{}", on_loopback(daemon.grpc)))
        .expect("a URL")
        .tls_config(tls)
        .expect("good files");
    let connected = tokio::time::timeout(PATIENCE, endpoint.connect()).await;
    let connected = connected.expect("it does not hang");
    connected.map_err(|error| format!("{error:?}"))
}

/// The number of VMs that the daemon lists over TLS.
pub async fn list(daemon: &Daemon, client: &Client<'_>) -> Result<usize, String> {
    let channel = channel(daemon, client).await?;
    let mut vms = VmServiceClient::new(channel);
    let call = vms.list_vms(v1::ListVmsRequest::default());
    let answer = tokio::time::timeout(PATIENCE, call).await;
    let answer = answer.expect("it does not hang");
    let answer = answer.map_err(|status| format!("{status:?}"))?;
    Ok(answer.into_inner().vms.len())
}

pub fn client_config(
    client: &Client<'_>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let certificate =
        |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots
        .add(certificate(&client.trusted.certificate()))
        .expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("known versions")
        .with_root_certificates(roots);
    match &client.identity {
        None => builder.with_no_client_auth(),
        Some(leaf) => builder
            .with_client_auth_cert(
                CertificateDer::pem_slice_iter(leaf.certificate.as_bytes())
                    .collect::<Result<_, _>>()
                    .expect("a chain"),
                PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).expect("a key"),
            )
            .expect("they fit"),
    }
}

/// A GET of `/health` over TLS: the answer, or why there is none.
pub async fn get(address: SocketAddr, config: ClientConfig) -> std::io::Result<String> {
    ask(address, config, "/health", "").await
}

/// A GET over TLS with further header lines: the answer, or why there is none.
pub async fn ask(
    address: SocketAddr,
    config: ClientConfig,
    path: &str,
    headers: &str,
) -> std::io::Result<String> {
    let exchange = async {
        let stream = TcpStream::connect(on_loopback(address)).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        // An end without TLS's own close is an error here.
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .expect("it does not hang")
}

/// How the handshake of a GET of `/health` went.
pub async fn handshake_kind(
    address: SocketAddr,
    config: ClientConfig,
) -> std::io::Result<HandshakeKind> {
    let exchange = async {
        let stream = TcpStream::connect(on_loopback(address)).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await?;
        stream
            .write_all(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
            .await?;
        // Tickets come with the answer.
        stream.read_to_end(&mut Vec::new()).await?;
        let kind = stream.get_ref().1.handshake_kind();
        Ok(kind.expect("the handshake is done"))
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .expect("it does not hang")
}

/// What TLS says to a client before the first byte of an answer; nothing to one that is let in.
/// `protocol` is what the client speaks (`h2`, `http/1.1`).
pub async fn alert(
    address: SocketAddr,
    client: &Client<'_>,
    protocol: &str,
) -> Option<AlertDescription> {
    let mut config = client_config(client, &[&rustls::version::TLS13]);
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let exchange = async {
        let stream = TcpStream::connect(on_loopback(address)).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await?;
        // By either protocol this begins a connection, and the server says something.
        stream
            .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .await?;
        stream.read_u8().await
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await;
    let error = answer.expect("it does not hang").err()?;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
        _ => panic!("refused without an alert: {error:?}"),
    }
}
