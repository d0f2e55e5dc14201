//! The proxy in front of a daemon: two listeners on the loopback, in a thread of their own, because a
//! daemon is started and ended by tests with and without a runtime.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::JoinHandle;

use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use xtask::effects::PROXY_THREAD;

use super::part::Part;
use super::{grpc, http};

pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;
pub(super) type Body = UnsyncBoxBody<Bytes, Error>;

/// A running proxy. Dropping it ends it and its connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    /// Its thread ends when this is dropped.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// In front of a daemon's two listeners.
    pub(crate) fn start(part: &Part, grpc: SocketAddr, http: SocketAddr) -> Self {
        let (grpc_listener, http_listener) = (listener(), listener());
        let address = |listener: &std::net::TcpListener| listener.local_addr().expect("an address");
        let (own_grpc, own_http) = (address(&grpc_listener), address(&http_listener));
        let (stop, stopped) = oneshot::channel::<()>();
        let part = Arc::new(part.clone());
        let serving = async move {
            let of_grpc = serve(grpc_listener, {
                let part = Arc::clone(&part);
                move |stream| grpc::connection(stream, grpc, Arc::clone(&part))
            });
            let site = Arc::new(http::Site::new(http, part));
            let of_http = serve(http_listener, move |stream| {
                http::connection(stream, Arc::clone(&site))
            });
            tokio::select! {
                () = of_grpc => {}
                () = of_http => {}
                // The other end is dropped.
                _ = stopped => {}
            }
        };
        let thread = std::thread::Builder::new().name(PROXY_THREAD.to_owned());
        let thread = thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(serving);
        });
        Self {
            grpc: own_grpc,
            http: own_http,
            stop: Some(stop),
            thread: Some(thread.expect("a thread")),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn listener() -> std::net::TcpListener {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.set_nonblocking(true).expect("it can be set");
    listener
}

async fn serve<F>(listener: std::net::TcpListener, connection: impl Fn(TcpStream) -> F)
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let listener = TcpListener::from_std(listener).expect("a listener");
    while let Ok((stream, _)) = listener.accept().await {
        let served = connection(stream);
        // A connection ends with an error when daemon or client go, which is theirs to tell.
        tokio::spawn(async move { drop(served.await) });
    }
}
