//! How long a gRPC call may take: as long as its `grpc-timeout` says, or the default of the config.
//!
//! At the end the call is dropped, which is to the rest of the daemon as if its caller had left: a
//! VM that was being made is unmade. The caller is answered DEADLINE_EXCEEDED.
//!
//! tonic has a timer for `grpc-timeout` too, whose answer is CANCELLED. It wraps this one, and asks
//! this one first; that this one is never the later is said where it is set.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use casemate_catalogue::ErrorId;
use tokio::time::Instant;
use tonic::Status;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tower::{Layer, Service};

use super::status;
use crate::vm::catalogued::Catalogued;

/// Most digits that a client may send, by the gRPC protocol.
const MAX_DIGITS: usize = 8;

/// The time of a call that brings none of its own. Clones share it, so that it can be changed while
/// calls are served; calls under way keep theirs.
#[derive(Clone, Debug)]
pub struct DefaultDeadline {
    millis: Arc<AtomicU64>,
}

impl DefaultDeadline {
    pub fn new(time: Duration) -> Self {
        let default = Self {
            millis: Arc::default(),
        };
        default.set(time);
        default
    }

    pub fn set(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    pub fn get(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }
}

/// Puts [`Deadlines`] around the services.
#[derive(Clone, Debug)]
pub(super) struct DeadlineLayer {
    pub(super) default: DefaultDeadline,
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadlines<S>;

    fn layer(&self, inner: S) -> Deadlines<S> {
        Deadlines {
            inner,
            default: self.default.clone(),
        }
    }
}

/// Ends calls in time.
#[derive(Clone, Debug)]
pub(super) struct Deadlines<S> {
    inner: S,
    default: DefaultDeadline,
}

/// Who set the time of a call.
#[derive(Clone, Copy, Debug)]
enum Limit {
    Caller(Duration),
    Default(Duration),
}

type Answer<Body, Error> = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

impl<S, RequestBody, ResponseBody> Service<Request<RequestBody>> for Deadlines<S>
where
    S: Service<Request<RequestBody>, Response = Response<ResponseBody>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    ResponseBody: Default + Send + 'static,
{
    type Response = Response<ResponseBody>;
    type Error = S::Error;
    type Future = Answer<ResponseBody, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
        let limit = match request.headers().get("grpc-timeout") {
            None => Limit::Default(self.default.get()),
            Some(value) => match parse(value) {
                Some(time) => Limit::Caller(time),
                None => {
                    let refusal = malformed(value).into_http();
                    return Box::pin(std::future::ready(Ok(refusal)));
                }
            },
        };
        let (Limit::Caller(time) | Limit::Default(time)) = limit;
        // Set here and not when the future is first polled: tonic sets its own right after this
        // function returns.
        let end = Instant::now().checked_add(time);
        let answer = self.inner.call(request);
        Box::pin(async move {
            // A time beyond what the clock can count is none.
            let Some(end) = end else {
                return answer.await;
            };
            match tokio::time::timeout_at(end, answer).await {
                Ok(answer) => answer,
                Err(_) => Ok(exceeded(limit).into_http()),
            }
        })
    }
}

/// `TimeoutValue TimeoutUnit` of the gRPC protocol over HTTP/2.
fn parse(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let unit_at = text.len().checked_sub(1)?;
    let (digits, unit) = text.split_at_checked(unit_at)?;
    let is_number =
        (1..=MAX_DIGITS).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        // Eight digits of hours are below u64::MAX seconds.
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

fn malformed(value: &HeaderValue) -> Status {
    let value = crate::spec::printable_start(&String::from_utf8_lossy(value.as_bytes()), 64);
    status::of(&DeadlineError::Malformed { value })
}

fn exceeded(limit: Limit) -> Status {
    status::of(&match limit {
        Limit::Caller(time) => DeadlineError::OfCaller { time },
        Limit::Default(time) => DeadlineError::OfConfig { time },
    })
}

/// The end of an HTTP request, which brings no time of its own.
#[derive(Debug, thiserror::Error)]
#[error("the request was not done within {time:?}")]
pub(super) struct HttpLimit {
    pub(super) time: Duration,
}

impl Catalogued for HttpLimit {
    fn id(&self) -> ErrorId {
        ErrorId::DeadlineExceeded
    }

    fn subject(&self) -> Option<String> {
        Some("grpc.timeout".to_owned())
    }

    fn remedy(&self) -> String {
        "ask again, or raise `timeout` of `[grpc]` in the config file, which holds for HTTP too"
            .to_owned()
    }
}

#[derive(Debug, thiserror::Error)]
enum DeadlineError {
    #[error("grpc-timeout is {value:?}, which is no time")]
    Malformed { value: String },
    #[error("the call was not done within {time:?}, the deadline that its caller set")]
    OfCaller { time: Duration },
    #[error("the call was not done within {time:?}, the time of calls that bring no deadline")]
    OfConfig { time: Duration },
}

impl Catalogued for DeadlineError {
    fn id(&self) -> ErrorId {
        match self {
            Self::Malformed { .. } => ErrorId::DeadlineForm,
            Self::OfCaller { .. } | Self::OfConfig { .. } => ErrorId::DeadlineExceeded,
        }
    }

    fn subject(&self) -> Option<String> {
        Some("grpc-timeout".to_owned())
    }

    fn remedy(&self) -> String {
        match self {
            Self::Malformed { .. } => self.id().entry().remedy.to_owned(),
            Self::OfCaller { .. } => {
                "call again with a later deadline (`casemate --timeout`)".to_owned()
            }
            Self::OfConfig { .. } => {
                "call again with a deadline of your own, or raise `timeout` of \
                                      `[grpc]` in the config file"
                    .to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_as_the_protocol_writes_them() {
        for (text, time) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("10S", Some(Duration::from_secs(10))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("100000000S", None),
            ("S", None),
            ("10", None),
            ("", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            ("1 S", None),
            ("10s", None),
            ("1µ", None),
        ] {
            let value = HeaderValue::from_str(text).unwrap();
            assert_eq!(parse(&value), time, "{text:?}");
        }
    }

    #[derive(Clone)]
    struct Never;

    impl Service<Request<()>> for Never {
        type Response = Response<()>;
        type Error = std::convert::Infallible;
        type Future = std::future::Pending<Result<Response<()>, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            std::future::pending()
        }
    }

    async fn answer(service: &mut Deadlines<Never>, timeout: Option<&str>) -> Status {
        let mut request = Request::new(());
        if let Some(timeout) = timeout {
            let value = HeaderValue::from_str(timeout).unwrap();
            request.headers_mut().insert("grpc-timeout", value);
        }
        let answer = service.call(request).await.unwrap();
        Status::from_header_map(answer.headers()).unwrap()
    }

    #[tokio::test]
    async fn the_default_is_for_calls_without_a_time_and_can_be_changed() {
        let default = DefaultDeadline::new(Duration::from_millis(10));
        let mut service = DeadlineLayer {
            default: default.clone(),
        }
        .layer(Never);
        let status = answer(&mut service, None).await;
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert!(status.message().contains("within 10ms"), "{status}");
        assert!(status.message().contains("\nremedy: "), "{status}");
        default.set(Duration::from_millis(20));
        let status = answer(&mut service, None).await;
        assert!(status.message().contains("within 20ms"), "{status}");
        let status = answer(&mut service, Some("30m")).await;
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert!(status.message().contains("within 30ms"), "{status}");
        let status = answer(&mut service, Some("soon")).await;
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains("\"soon\""), "{status}");
    }
}
