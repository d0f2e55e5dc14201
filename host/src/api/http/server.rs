//! Serves connections, each in a task of its own. A client has a time for the head of a request, and a
//! connection one for the next request: whoever says nothing holds no place for long.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::extract::connect_info::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tonic::transport::server::Connected as _;
use tower::ServiceExt as _;

use crate::api::listener::Listener;

/// More than a slow line needs for a head, and as long as clients keep connections for another
/// request.
const HEAD_TIME: Duration = Duration::from_secs(30);

/// Serves until `stop` resolves, and then until the requests under way are answered.
pub(super) async fn serve(
    mut listener: Listener,
    router: Router,
    stop: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME);
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let connection = tokio::select! {
            (connection, ()) = axum::serve::Listener::accept(&mut listener) => connection,
            () = &mut stop => break,
        };
        let peer = ConnectInfo(connection.connect_info());
        let router = router.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer.clone());
            router.clone().oneshot(request)
        });
        let served = builder.serve_connection(TokioIo::new(connection), service);
        let served = graceful.watch(served);
        tokio::spawn(async move {
            if let Err(error) = served.await {
                // A client that left, or said nothing in time.
                tracing::debug!(%error, "an HTTP connection ended");
            }
        });
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}
