//! A client's connection, however it came.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::api::access::{Peer, Reach};
use crate::api::tls::TlsAcceptor;

/// A client's connection, ready for its first request.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    reach: Reach,
    /// Until its first byte came.
    silence: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

/// How long a client may take for its first byte: each connection takes one of a few places.
const SILENCE_TIME: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>, TlsAcceptor),
    /// With the user at the other end.
    Local(UnixStream, u32),
}

impl Connection {
    pub(super) fn new(transport: Transport, reach: Reach, permit: OwnedSemaphorePermit) -> Self {
        Self {
            transport,
            reach,
            silence: Some(Box::pin(tokio::time::sleep(SILENCE_TIME))),
            _permit: permit,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        let of_network = |socket: &TcpStream| Peer {
            address: socket.peer_addr().ok(),
            uid: None,
            reach: self.reach,
            tls: None,
        };
        match &self.transport {
            Transport::Plain(stream) => of_network(stream),
            Transport::Tls(stream, acceptor) => Peer {
                tls: Some(acceptor.peer(stream)),
                ..of_network(stream.get_ref().0)
            },
            Transport::Local(_, uid) => Peer {
                address: None,
                uid: Some(*uid),
                reach: self.reach,
                tls: None,
            },
        }
    }
}

/// Does the same with the stream of whichever kind.
macro_rules! with_stream {
    ($transport:expr, $stream:ident => $act:expr) => {
        match $transport {
            Transport::Plain($stream) => $act,
            Transport::Tls($stream, _) => $act,
            Transport::Local($stream, _) => $act,
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read =
            with_stream!(&mut this.transport, stream => Pin::new(stream).poll_read(cx, buffer));
        if read.is_ready() {
            this.silence = None;
        } else if let Some(silence) = &mut this.silence
            && silence.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        with_stream!(&mut self.get_mut().transport, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        with_stream!(
            &mut self.get_mut().transport,
            stream => Pin::new(stream).poll_write_vectored(cx, slices)
        )
    }

    fn is_write_vectored(&self) -> bool {
        with_stream!(&self.transport, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(&mut self.get_mut().transport, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(&mut self.get_mut().transport, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
