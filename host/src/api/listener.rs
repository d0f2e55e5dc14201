//! Listening sockets that give connections to either server: an address, plain or over TLS, and a
//! UNIX socket beside it.
//!
//! A handshake is a task of its own, so that a client which connects and says nothing holds nobody
//! else. Nothing that one connection does ends the listener.

mod connection;
mod local;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Sleep;
use tokio_stream::Stream;

pub use connection::Connection;
use connection::Transport;
pub use local::{LocalSocket, SocketError};

use super::access::Reach;
use super::tls::TlsAcceptor;
use crate::config::is_loopback;

/// A handshake takes two round trips; this is enough for a bad line and short for a silent client.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Handshakes under way at once: each holds a descriptor and some tens of kilobytes. One more ends
/// the oldest, so that silent clients cannot keep others out for [`HANDSHAKE_TIME`].
const MAX_HANDSHAKES: usize = 256;

/// Connections of one listener at once. Each holds a descriptor, of which the VMs need some too.
const MAX_CONNECTIONS: usize = 1_024;

/// Connections by a UNIX socket at once. They are counted apart: whoever fills the others keeps no
/// administrator of this host out.
const MAX_LOCAL_CONNECTIONS: usize = 256;

/// What is read, and for how long, from a client whose handshake failed. Its end of the connection
/// would else be reset with the alert unread, which says why.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 64 << 10;

/// After an error that is not one connection's, such as no free descriptor: something must end
/// first.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The bound sockets of one server.
#[derive(Debug)]
pub struct Listener {
    /// For the log: `grpc` or `http`.
    name: &'static str,
    socket: TcpListener,
    address: SocketAddr,
    reach: Reach,
    tls: Option<TlsAcceptor>,
    handshakes: JoinSet<Option<Connection>>,
    /// Of `handshakes`, the oldest first.
    by_age: VecDeque<AbortHandle>,
    pause: Option<Pin<Box<Sleep>>>,
    free: Arc<Semaphore>,
    local: Option<LocalSocket>,
    free_local: Arc<Semaphore>,
    /// Which of the two is asked first: neither waits for the other.
    first: First,
}

#[derive(Clone, Copy, Debug)]
enum First {
    Network,
    Local,
}

enum Incoming {
    Network(TcpStream, SocketAddr),
    Local(UnixStream),
}

impl Listener {
    /// Listens on `address`, over TLS if there is an acceptor for it, and on a UNIX socket if there
    /// is one.
    pub async fn bind(
        name: &'static str,
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        local: Option<LocalSocket>,
    ) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Self {
            name,
            address,
            socket,
            reach: if is_loopback(address.ip()) {
                Reach::Host
            } else {
                Reach::Network
            },
            tls,
            handshakes: JoinSet::new(),
            by_age: VecDeque::new(),
            pause: None,
            free: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            local,
            free_local: Arc::new(Semaphore::new(MAX_LOCAL_CONNECTIONS)),
            first: First::Network,
        })
    }

    /// The address with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Connection> {
        loop {
            match self.handshakes.poll_join_next(cx) {
                Poll::Ready(Some(Ok(Some(connection)))) => return Poll::Ready(connection),
                // It failed, which was logged, or it was ended for another.
                Poll::Ready(Some(_)) => continue,
                Poll::Ready(None) | Poll::Pending => {}
            }
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.poll_sockets(cx)) {
                Ok(incoming) => {
                    if let Some(connection) = self.begin_connection(incoming) {
                        return Poll::Ready(connection);
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

    fn poll_sockets(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        let order = match self.first {
            First::Network => [First::Network, First::Local],
            First::Local => [First::Local, First::Network],
        };
        for socket in order {
            let accepted = match socket {
                First::Network => self
                    .socket
                    .poll_accept(cx)
                    .map_ok(|(stream, peer)| Incoming::Network(stream, peer)),
                First::Local => match &self.local {
                    Some(local) => local.poll_accept(cx).map_ok(Incoming::Local),
                    None => Poll::Pending,
                },
            };
            if accepted.is_ready() {
                self.first = match socket {
                    First::Network => First::Local,
                    First::Local => First::Network,
                };
                return accepted;
            }
        }
        Poll::Pending
    }

    /// A connection that can be served; none where there is no room, or a handshake to be made.
    fn begin_connection(&mut self, incoming: Incoming) -> Option<Connection> {
        match incoming {
            Incoming::Local(stream) => {
                let Ok(permit) = Arc::clone(&self.free_local).try_acquire_owned() else {
                    tracing::warn!(
                        listener = self.name,
                        "{MAX_LOCAL_CONNECTIONS} connections are open by the UNIX socket: closed"
                    );
                    return None;
                };
                // Whose it is the kernel always knows; who it does not know is not served.
                let uid = stream.peer_cred().ok()?.uid();
                Some(Connection::new(
                    Transport::Local(stream, uid),
                    Reach::Host,
                    permit,
                ))
            }
            Incoming::Network(stream, peer) => {
                let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
                    tracing::warn!(
                        listener = self.name, %peer,
                        "{MAX_CONNECTIONS} connections are open: closed"
                    );
                    return None;
                };
                // Both protocols write small frames that somebody waits for. The connection is as
                // good without it.
                let _ = stream.set_nodelay(true);
                let Some(tls) = self.tls.clone() else {
                    return Some(Connection::new(
                        Transport::Plain(stream),
                        self.reach,
                        permit,
                    ));
                };
                let handshake = handshake(self.name, tls, stream, peer, self.reach, permit);
                self.begin(handshake);
                None
            }
        }
    }

    fn begin(&mut self, handshake: impl Future<Output = Option<Connection>> + Send + 'static) {
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
    reach: Reach,
    permit: OwnedSemaphorePermit,
) -> Option<Connection> {
    let accept = tls.accept(stream).into_fallible();
    match tokio::time::timeout(HANDSHAKE_TIME, accept).await {
        Ok(Ok(stream)) => {
            let transport = Transport::Tls(Box::new(stream), tls);
            Some(Connection::new(transport, reach, permit))
        }
        Ok(Err((error, stream))) => {
            tracing::info!(listener, %peer, %error, "TLS handshake failed");
            linger(stream).await;
            None
        }
        Err(_) => {
            tracing::info!(listener, %peer, "TLS handshake not ended in time");
            None
        }
    }
}

/// Waits until the client has read why it is not served, or would have.
async fn linger(mut stream: TcpStream) {
    let read = async {
        stream.shutdown().await?;
        let mut rest = stream.take(LINGER_BYTES);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // However it ends, the connection does too.
    let _ = tokio::time::timeout(LINGER_TIME, read).await;
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
        self.poll_accept(cx).map(|connection| Some(Ok(connection)))
    }
}

/// For axum. Who is at the other end is the connection's to say.
impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = ();

    async fn accept(&mut self) -> (Connection, ()) {
        let connection = std::future::poll_fn(|cx| self.poll_accept(cx)).await;
        (connection, ())
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}
