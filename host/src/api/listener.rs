//! A listening socket that gives connections, plain or over TLS, to either server.
//!
//! A handshake is a task of its own, so that a client which connects and says nothing holds nobody
//! else. Nothing that one connection does ends the listener.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::tls::TlsAcceptor;

/// A handshake takes two round trips; this is enough for a bad line and short for a silent client.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Handshakes under way at once: each holds a descriptor and some tens of kilobytes. One more ends
/// the oldest, so that silent clients cannot keep others out for [`HANDSHAKE_TIME`].
const MAX_HANDSHAKES: usize = 256;

/// Connections of one listener at once. Each holds a descriptor, of which the VMs need some too.
const MAX_CONNECTIONS: usize = 1_024;

/// After an error that is not one connection's, such as no free descriptor: something must end
/// first.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    /// For the log: `grpc` or `http`.
    name: &'static str,
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    handshakes: JoinSet<Option<Accepted>>,
    /// Of `handshakes`, the oldest first.
    by_age: VecDeque<AbortHandle>,
    pause: Option<Pin<Box<Sleep>>>,
    free: Arc<Semaphore>,
}

type Accepted = (Connection, SocketAddr);

impl Listener {
    /// Listens on `address`, over TLS if there is an acceptor for it.
    pub async fn bind(
        name: &'static str,
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
    ) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        Ok(Self {
            name,
            address: socket.local_addr()?,
            socket,
            tls,
            handshakes: JoinSet::new(),
            by_age: VecDeque::new(),
            pause: None,
            free: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        })
    }

    /// The address with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Accepted> {
        loop {
            match self.handshakes.poll_join_next(cx) {
                Poll::Ready(Some(Ok(Some(accepted)))) => return Poll::Ready(accepted),
                // It failed, which was logged, or it was ended for another.
                Poll::Ready(Some(_)) => continue,
                Poll::Ready(None) | Poll::Pending => {}
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.socket.poll_accept(cx)) {
                Ok((stream, peer)) => {
                    let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
                        tracing::warn!(
                            listener = self.name, %peer,
                            "{MAX_CONNECTIONS} connections are open: closed"
                        );
                        continue;
                    };
                    // Both protocols write small frames that somebody waits for. The connection is
                    // as good without it.
                    let _ = stream.set_nodelay(true);
                    match &self.tls {
                        None => {
                            let connection = Connection::new(Transport::Plain(stream), permit);
                            return Poll::Ready((connection, peer));
                        }
                        Some(tls) => {
                            let handshake = handshake(self.name, tls.clone(), stream, peer, permit);
                            self.begin(handshake);
                        }
                    }
                }
                // The client left before it was accepted.
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(listener = self.name, %error, "cannot accept connections; trying again");
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
            }
        }
    }

    fn begin(&mut self, handshake: impl Future<Output = Option<Accepted>> + Send + 'static) {
        self.by_age.retain(|handle| !handle.is_finished());
        if self.by_age.len() >= MAX_HANDSHAKES
            && let Some(oldest) = self.by_age.pop_front()
        {
            tracing::debug!(
                listener = self.name,
                "too many handshakes: the oldest is ended"
            );
            oldest.abort();
        }
        self.by_age.push_back(self.handshakes.spawn(handshake));
    }
}

async fn handshake(
    listener: &'static str,
    tls: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) -> Option<Accepted> {
    match tokio::time::timeout(HANDSHAKE_TIME, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let transport = Transport::Tls(Box::new(stream));
            Some((Connection::new(transport, permit), peer))
        }
        Ok(Err(error)) => {
            tracing::info!(listener, %peer, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::info!(listener, %peer, "TLS handshake not ended in time");
            None
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// For tonic.
impl Stream for Listener {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_accept(cx)
            .map(|(connection, _)| Some(Ok(connection)))
    }
}

/// For axum.
impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Accepted {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// A client's connection, ready for its first request.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    fn new(transport: Transport, permit: OwnedSemaphorePermit) -> Self {
        Self {
            transport,
            _permit: permit,
        }
    }
}

/// Whose connection a request came by.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: Option<SocketAddr>,
    /// SHA-256 of the client's certificate, hexadecimal.
    pub certificate: Option<Arc<str>>,
}

fn fingerprint(certificate: &[u8]) -> String {
    use sha2::Digest as _;
    hex::encode(sha2::Sha256::digest(certificate))
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match &self.transport {
            Transport::Plain(stream) => Peer {
                address: stream.peer_addr().ok(),
                certificate: None,
            },
            Transport::Tls(stream) => {
                let (socket, session) = stream.get_ref();
                let certificate = session.peer_certificates().and_then(|chain| chain.first());
                Peer {
                    address: socket.peer_addr().ok(),
                    certificate: certificate.map(|certificate| fingerprint(certificate).into()),
                }
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
