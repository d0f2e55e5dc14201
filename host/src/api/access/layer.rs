//! The gate around the servers: one layer, with the answers of either protocol.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::connect_info::ConnectInfo;
use axum::response::IntoResponse as _;
use http_body::{Body, Frame};
use tonic::Status;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response, header};
use tonic_types::StatusExt as _;
use tower::{Layer, Service};

use super::gate::{Credentials, Gate};
use super::outgoing::Outgoing;
use super::{AccessError, Peer};
use crate::api::refused::Refused;
use crate::api::status;

/// How a server says no.
pub(in crate::api) trait Protocol: Send + Sync + Sized + 'static {
    type Body: Body<Data = Bytes> + Unpin + Send + 'static;

    fn refuse(error: &AccessError) -> Response<Self::Body>;

    /// What an answer ends with whose rest is kept back.
    fn last(error: &AccessError) -> Result<Frame<Bytes>, <Self::Body as Body>::Error>;

    fn body(outgoing: Outgoing<Self>) -> Self::Body;
}

#[derive(Debug)]
pub(in crate::api) enum Grpc {}

impl Protocol for Grpc {
    type Body = tonic::body::Body;

    fn refuse(error: &AccessError) -> Response<Self::Body> {
        status_of(error).into_http()
    }

    fn last(error: &AccessError) -> Result<Frame<Bytes>, Status> {
        let mut trailers = HeaderMap::new();
        status_of(error).add_header(&mut trailers)?;
        Ok(Frame::trailers(trailers))
    }

    fn body(outgoing: Outgoing<Self>) -> Self::Body {
        tonic::body::Body::new(outgoing)
    }
}

#[derive(Debug)]
pub(in crate::api) enum Http {}

impl Protocol for Http {
    type Body = axum::body::Body;

    fn refuse(error: &AccessError) -> Response<Self::Body> {
        let mut answer = Refused::of(error).into_response();
        if answer.status() == axum::http::StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer");
            answer
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(retry) = error.retry() {
            // Whole seconds, and not too early.
            let seconds = retry.as_millis().div_ceil(1_000).max(1);
            if let Ok(seconds) = HeaderValue::from_str(&seconds.to_string()) {
                answer.headers_mut().insert(header::RETRY_AFTER, seconds);
            }
        }
        answer
    }

    /// HTTP has no word for it: the answer is cut off.
    fn last(error: &AccessError) -> Result<Frame<Bytes>, axum::Error> {
        Err(axum::Error::new(error.clone()))
    }

    fn body(outgoing: Outgoing<Self>) -> Self::Body {
        axum::body::Body::new(outgoing)
    }
}

/// With `google.rpc.RetryInfo` where it makes sense to call again.
pub(super) fn status_of(error: &AccessError) -> Status {
    let status = status::of(error);
    let Some(retry) = error.retry() else {
        return status;
    };
    let mut details = status.get_error_details();
    // A client that waits for 0 ms calls too early.
    details.set_retry_info(Some(retry.max(Duration::from_millis(1))));
    Status::with_error_details(status.code(), status.message(), details)
}

/// Puts the gate around a server.
#[derive(Debug)]
pub(in crate::api) struct GateLayer<P> {
    gate: Arc<Gate>,
    protocol: PhantomData<fn() -> P>,
}

impl<P> Clone for GateLayer<P> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.gate))
    }
}

impl<P> GateLayer<P> {
    pub(in crate::api) fn new(gate: Arc<Gate>) -> Self {
        Self {
            gate,
            protocol: PhantomData,
        }
    }
}

impl<P, S> Layer<S> for GateLayer<P> {
    type Service = Guarded<P, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guarded {
            gate: self.clone(),
            inner,
        }
    }
}

/// A server behind the gate.
#[derive(Debug)]
pub(in crate::api) struct Guarded<P, S> {
    gate: GateLayer<P>,
    inner: S,
}

impl<P, S: Clone> Clone for Guarded<P, S> {
    fn clone(&self) -> Self {
        Self {
            gate: self.gate.clone(),
            inner: self.inner.clone(),
        }
    }
}

type Answer<Body, Error> = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

impl<P, S, RequestBody> Service<Request<RequestBody>> for Guarded<P, S>
where
    P: Protocol,
    S: Service<Request<RequestBody>, Response = Response<P::Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<P::Body>;
    type Error = S::Error;
    type Future = Answer<P::Body, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<RequestBody>) -> Self::Future {
        let extensions = request.extensions();
        let peer = extensions.get::<Peer>().or_else(|| {
            let connection = extensions.get::<ConnectInfo<Peer>>();
            connection.map(|ConnectInfo(peer)| peer)
        });
        let admitted = self.gate.gate.admit(
            peer.cloned(),
            credentials(request.headers()),
            request.uri().path(),
            Instant::now(),
        );
        match admitted {
            Ok(caller) => {
                request.extensions_mut().insert(caller.clone());
                let gate = Arc::clone(&self.gate.gate);
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let answer = answer.await?;
                    Ok(answer.map(|body| P::body(Outgoing::new(body, gate, caller))))
                })
            }
            Err(error) => Box::pin(std::future::ready(Ok(P::refuse(&error)))),
        }
    }
}

/// RFC 6750. The scheme's name is the same in any case.
fn credentials(headers: &HeaderMap) -> Credentials<'_> {
    const SCHEME: &[u8] = b"bearer ";
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = given.next() else {
        return Credentials::None;
    };
    let split = value.as_bytes().split_at_checked(SCHEME.len());
    match split {
        Some((scheme, token))
            if scheme.eq_ignore_ascii_case(SCHEME)
                && !token.trim_ascii().is_empty()
                && given.next().is_none() =>
        {
            Credentials::Token(token.trim_ascii())
        }
        _ => Credentials::Malformed,
    }
}

/// The HTTP routes behind the gate.
pub(in crate::api) fn guarded(router: Router, gate: Arc<Gate>) -> Router {
    router.layer(GateLayer::<Http>::new(gate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_out_of_the_header_or_the_header_is_refused() {
        let token = |token: &'static str| Credentials::Token(token.as_bytes());
        let cases: &[(&[&'static str], Credentials<'_>)] = &[
            (&[], Credentials::None),
            (&["Bearer abc"], token("abc")),
            (&["bearer  abc "], token("abc")),
            (&["BEARER a=b"], token("a=b")),
            (&["Bearer "], Credentials::Malformed),
            (&["Bearer"], Credentials::Malformed),
            (&["Basic YWJj"], Credentials::Malformed),
            (&["abc"], Credentials::Malformed),
            (&[""], Credentials::Malformed),
            (&["Bearer abc", "Bearer abc"], Credentials::Malformed),
        ];
        for (values, wanted) in cases {
            let mut headers = HeaderMap::new();
            for value in *values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            assert_eq!(credentials(&headers), *wanted, "{values:?}");
        }
    }

    #[test]
    fn who_calls_too_often_is_told_when_to_call_again() {
        let error = AccessError::CallRate {
            who: "client \"ci\"".to_owned(),
            retry: Duration::from_millis(1_200),
        };
        let status = status_of(&error);
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        let details = status.get_error_details();
        let retry = details.retry_info().and_then(|info| info.retry_delay);
        assert_eq!(retry, Some(Duration::from_millis(1_200)));
        let info = details.error_info().unwrap();
        assert_eq!(info.reason, "CALL_RATE");
        let answer = Http::refuse(&error);
        assert_eq!(answer.status().as_u16(), 429);
        assert_eq!(answer.headers()[header::RETRY_AFTER], "2");
        assert!(!answer.headers().contains_key(header::WWW_AUTHENTICATE));
        let stranger = Http::refuse(&AccessError::WrongToken);
        assert_eq!(stranger.status().as_u16(), 401);
        assert_eq!(stranger.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }
}
