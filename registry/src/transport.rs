//! HTTP to one host: TLS, times, redirects, and bodies that are no larger than they may be.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION,
    USER_AGENT,
};
use hyper::{Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls;

use crate::address::{Address, Host, Scheme};
use crate::error::RegistryError;

/// Registries send a blob's reader on once, to where it is stored.
const MOST_REDIRECTS: usize = 5;
/// All transfers of a [`Transport`] end after so many times the time of one piece: a host that sends a
/// byte now and then, or says again and again where there is more, must not hold its reader for ever.
const WHOLE_PER_PIECE: u32 = 15;
/// Nobody means a longer one, and the clock has an end.
const LONGEST_PIECE: Duration = Duration::from_secs(24 * 3600);
/// Bytes that are on their way at once.
const QUICKLY_SENT: usize = 64 << 10;
/// What is shown of an answer that is an error.
const LONGEST_DETAIL: usize = 300;
/// What is read of one.
const LARGEST_DETAIL: u64 = 16 << 10;
const AGENT: &str = concat!("casemate/", env!("CARGO_PKG_VERSION"));

#[derive(Clone, Debug)]
pub struct Options {
    /// For a connection, and for each piece of an answer. A day at most; all that is transferred has
    /// fifteen times that.
    pub timeout: Duration,
    /// Hosts that are asked without TLS, as this machine is.
    pub plain_http: Vec<Host>,
    /// Hosts to which an answer may be redirected.
    pub redirect_hosts: Vec<Host>,
}

/// Serves one operation with one host, which ends in good time: see [`Options::timeout`].
#[derive(Clone, Debug)]
pub struct Transport {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    options: Options,
    patience: Patience,
}

/// How long is waited for a piece, and for everything.
#[derive(Clone, Copy, Debug)]
struct Patience {
    piece: Duration,
    deadline: Instant,
}

impl Patience {
    fn of(piece: Duration) -> Self {
        let piece = piece.min(LONGEST_PIECE);
        Self {
            piece,
            deadline: Instant::now() + piece * WHOLE_PER_PIECE,
        }
    }

    /// What comes of it within the time of a piece, or else why it is not waited for.
    async fn piece<T>(&self, coming: impl Future<Output = T>) -> Result<T, String> {
        let until = Instant::now() + self.piece;
        if until > self.deadline {
            return self.whole(coming).await;
        }
        let late = timeout_at(until, coming).await;
        late.map_err(|_| format!("it was silent for {:?}", self.piece))
    }

    async fn whole<T>(&self, coming: impl Future<Output = T>) -> Result<T, String> {
        let time = self.piece * WHOLE_PER_PIECE;
        let late = timeout_at(self.deadline, coming).await;
        late.map_err(|_| format!("all of it took more than {time:?}, {WHOLE_PER_PIECE} timeouts"))
    }
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) url: Address,
    pub(crate) accept: Option<&'static str>,
    pub(crate) body: Option<(&'a str, &'a [u8])>,
    pub(crate) authorization: Option<HeaderValue>,
}

impl<'a> Ask<'a> {
    pub(crate) fn get(url: Address) -> Self {
        Self {
            method: Method::GET,
            url,
            accept: None,
            body: None,
            authorization: None,
        }
    }
}

/// An answer whose body has not been read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Who answered, in the end.
    pub(crate) url: Address,
    body: Incoming,
    patience: Patience,
}

/// How long a body may be, and has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    /// As somebody trusted less said: another length is an error.
    Exactly(u64),
    AtMost(u64),
}

impl Transport {
    pub fn new(options: Options) -> Result<Self, RegistryError> {
        let patience = Patience::of(options.timeout);
        let mut roots = rustls::RootCertStore::empty();
        // A certificate that cannot be read is one less to trust; with none, TLS says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| RegistryError::Client {
                reason: error.to_string(),
            })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(patience.piece));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            options,
            patience,
        })
    }

    /// With all the time again, for another host: one that drips must not cost what the next one needs.
    pub fn renewed(&self) -> Self {
        Self {
            patience: Patience::of(self.options.timeout),
            ..self.clone()
        }
    }

    /// Where a registry's API begins: this machine is asked without TLS.
    pub(crate) fn base(&self, host: &str) -> Result<Address, RegistryError> {
        let address = |scheme| {
            Address::of(scheme, host).ok_or_else(|| RegistryError::Client {
                reason: format!("{host:?} is no host"),
            })
        };
        let url = address(Scheme::Http)?;
        match self.may_be_plain(&url) {
            true => Ok(url),
            false => address(Scheme::Https),
        }
    }

    fn may_be_plain(&self, url: &Address) -> bool {
        let mut named = self.options.plain_http.iter();
        url.is_loopback() || named.any(|host| host.is_of(url))
    }

    /// Refuses plain HTTP to other machines, if it was not allowed.
    pub(crate) fn check_scheme(&self, url: &Address) -> Result<(), RegistryError> {
        match url.scheme == Scheme::Https || self.may_be_plain(url) {
            true => Ok(()),
            false => Err(RegistryError::PlainHttp {
                host: url.authority(),
            }),
        }
    }

    /// The answer, whatever its status, after redirects that may be followed.
    pub(crate) async fn send(&self, ask: &Ask<'_>) -> Result<Answer, RegistryError> {
        let mut url = ask.url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.send_once(ask, &url).await?;
            let Some(next) = redirected(ask, &answer)? else {
                return Ok(answer);
            };
            if next.origin() != ask.url.origin() && !self.is_named(&next) {
                return Err(RegistryError::Redirect {
                    from: url.to_string(),
                    to: next.to_string(),
                });
            }
            url = next;
        }
        Err(RegistryError::Redirects {
            from: ask.url.to_string(),
            most: MOST_REDIRECTS,
        })
    }

    async fn send_once(&self, ask: &Ask<'_>, url: &Address) -> Result<Answer, RegistryError> {
        self.check_scheme(url)?;
        let unreachable = |reason: String| RegistryError::Unreachable {
            host: url.authority(),
            reason,
        };
        let mut request = Request::builder()
            .method(ask.method.clone())
            .header(USER_AGENT, AGENT);
        if let Some(uri) = url.uri() {
            request = request.uri(uri);
        }
        if let Some(accept) = ask.accept {
            request = request.header(ACCEPT, accept);
        }
        let mut content = Bytes::new();
        if let Some((media_type, body)) = ask.body {
            request = request.header(CONTENT_TYPE, media_type);
            content = Bytes::copy_from_slice(body);
        }
        // What is for one host is not shown to another.
        if let Some(authorization) = &ask.authorization
            && url.origin() == ask.url.origin()
        {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let request = request.body(Full::new(content));
        let request = request.map_err(|error| unreachable(error.to_string()))?;
        let coming = self.client.request(request);
        let answer = match ask.body {
            // What is sent takes its time, too.
            Some((_, body)) if body.len() > QUICKLY_SENT => self.patience.whole(coming).await,
            _ => self.patience.piece(coming).await,
        };
        let answer = answer.map_err(unreachable)?;
        let answer = answer.map_err(|error| unreachable(causes(&error)))?;
        let (head, body) = answer.into_parts();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            url: url.clone(),
            body,
            patience: self.patience,
        })
    }

    fn is_named(&self, url: &Address) -> bool {
        let mut hosts = self.options.redirect_hosts.iter();
        hosts.any(|host| host.is_of(url))
    }
}

/// Where an answer sends a reader. What is sent is never sent on.
fn redirected(ask: &Ask<'_>, answer: &Answer) -> Result<Option<Address>, RegistryError> {
    let follows = matches!(
        answer.status,
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let reads = ask.method == Method::GET || ask.method == Method::HEAD;
    let Some(location) = answer.headers.get(LOCATION).filter(|_| follows && reads) else {
        return Ok(None);
    };
    let next = location.to_str().ok();
    let next = next.and_then(|location| answer.url.join(location));
    next.map(Some).ok_or_else(|| RegistryError::Redirect {
        from: answer.url.to_string(),
        to: "an address that is none".to_owned(),
    })
}

impl Answer {
    /// The body, as far as it may be long. `seen` sees all that has come, after each piece.
    pub(crate) async fn body(
        mut self,
        what: &str,
        length: Length,
        mut seen: impl FnMut(&[u8]) -> Result<(), RegistryError>,
    ) -> Result<Vec<u8>, RegistryError> {
        let (Length::Exactly(limit) | Length::AtMost(limit)) = length;
        let announced = self.headers.get(CONTENT_LENGTH);
        let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if let Some(size) = announced.filter(|size| *size > limit) {
            return Err(RegistryError::TooLarge {
                what: what.to_owned(),
                size,
                limit,
            });
        }
        // It grows with what comes, not with what is announced.
        let mut content = Vec::new();
        while let Some(piece) = self.piece().await? {
            if content.len() as u64 + piece.len() as u64 > limit {
                return Err(RegistryError::GoesOn {
                    what: what.to_owned(),
                    limit,
                });
            }
            content.extend_from_slice(&piece);
            seen(&content)?;
        }
        match length {
            Length::Exactly(expected) if content.len() as u64 != expected => {
                Err(RegistryError::Short {
                    what: what.to_owned(),
                    found: content.len() as u64,
                    expected,
                })
            }
            _ => Ok(content),
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let host = self.url.authority();
        let unreachable = |reason: String| RegistryError::Unreachable {
            host: host.clone(),
            reason,
        };
        loop {
            let frame = self.patience.piece(self.body.frame()).await;
            let frame = frame.map_err(unreachable)?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| unreachable(causes(&error)))?;
            // Trailers say nothing that is needed.
            if let Ok(piece) = frame.into_data() {
                return Ok(Some(piece));
            }
        }
    }
}

/// The error of an answer that is none of what was hoped for.
pub(crate) async fn refused(answer: Answer, what: &str, is_known: bool) -> RegistryError {
    let host = answer.url.authority();
    let what = what.to_owned();
    match answer.status {
        status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => RegistryError::Denied {
            host,
            who: match is_known {
                true => "this user",
                false => "anybody who does not log in",
            },
            what,
            status: status.as_u16(),
        },
        StatusCode::NOT_FOUND => RegistryError::Unknown { what },
        status => {
            let text = answer
                .body(&what, Length::AtMost(LARGEST_DETAIL), |_| Ok(()))
                .await;
            RegistryError::Answer {
                host,
                what,
                status: status.as_u16(),
                detail: detail(&text.unwrap_or_default()),
            }
        }
    }
}

/// What a registry says of an error: `{"errors": [{"code", "message"}]}`.
fn detail(text: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<Said>,
    }
    #[derive(serde::Deserialize)]
    struct Said {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(Errors { errors }) = serde_json::from_slice(text) else {
        return String::new();
    };
    let said = errors
        .iter()
        .map(|one| format!("{} {}", one.code, one.message));
    let said = said.collect::<Vec<_>>().join("; ");
    let shown = said.chars().filter(|one| !one.is_control());
    shown
        .take(LONGEST_DETAIL)
        .collect::<String>()
        .trim()
        .to_owned()
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
