//! Lets callers in, or says why not. It knows no protocol; `layer` puts it around the servers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::clients::{ClientConfig, Clients};
use super::peer::Peer;
use super::rate::{Buckets, Key, Rate};
use super::{AccessError, Caller, Reach, Role, Standing};
use crate::api::audit;
use crate::api::config::{Limits, Reflection};
use crate::metrics::Metrics;
use crate::vm::catalogued::Catalogued as _;

/// Wrong tokens of one address: who mistypes has some tries, and who guesses has ten a minute.
const WRONG_TOKENS: Rate = Rate::new(Duration::from_secs(6), 10);

/// Lines of the audit log about one client that calls too often.
const AUDIT_LINES: Rate = Rate::new(Duration::from_secs(1), 1);

/// What the gate goes by. A reload replaces it as a whole.
#[derive(Debug)]
struct Rules {
    clients: Clients,
    rate: Option<Rate>,
}

impl Rules {
    fn new(clients: &[ClientConfig], limits: Limits) -> Self {
        Self {
            clients: Clients::new(clients),
            rate: Rate::per_second(limits.calls_per_second, limits.call_burst),
        }
    }
}

/// Stands before every call.
#[derive(Debug)]
pub struct Gate {
    rules: ArcSwap<Rules>,
    reflection: Reflection,
    /// The daemon's own.
    uid: u32,
    calls: Buckets,
    wrong_tokens: Buckets,
    refusals: Arc<Refusals>,
}

/// What a call says of who makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Credentials<'a> {
    None,
    Token(&'a [u8]),
    /// A header that is there and holds no token.
    Malformed,
}

/// Who is asked to be known for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Openness {
    /// Probes have no credentials.
    Everybody,
    Known,
    /// What has no handler of ours that would ask.
    Has(Role),
}

const REFLECTION: &str = "/grpc.reflection.";

fn openness(path: &str) -> Openness {
    let is_open = ["/health", "/ready", "/v1/openapi.json"].contains(&path)
        || path == "/docs"
        || path.starts_with("/docs/")
        || path.starts_with("/grpc.health.v1.Health/");
    if is_open {
        Openness::Everybody
    } else if path == "/metrics" || path.starts_with(REFLECTION) {
        Openness::Has(Role::Viewer)
    } else {
        Openness::Known
    }
}

impl Gate {
    pub fn new(
        clients: &[ClientConfig],
        limits: Limits,
        reflection: Reflection,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            rules: ArcSwap::from_pointee(Rules::new(clients, limits)),
            reflection,
            uid: rustix::process::geteuid().as_raw(),
            calls: Buckets::default(),
            wrong_tokens: Buckets::default(),
            refusals: Arc::new(Refusals {
                metrics,
                lines: Buckets::default(),
            }),
        }
    }

    /// For the calls that come from now on.
    pub fn set(&self, clients: &[ClientConfig], limits: Limits) {
        self.rules.store(Arc::new(Rules::new(clients, limits)));
    }

    pub(in crate::api) fn reflection(&self) -> Reflection {
        self.reflection
    }

    /// The caller of a call, or why there is none. A refusal is written down.
    pub(super) fn admit(
        &self,
        peer: Option<Peer>,
        credentials: Credentials<'_>,
        path: &str,
        now: Instant,
    ) -> Result<Caller, AccessError> {
        let rules = self.rules.load();
        let mut caller = Caller {
            peer,
            standing: Standing::Stranger,
            call: brief(path),
            refusals: Some(Arc::clone(&self.refusals)),
        };
        let admitted = self.admit_by(&rules, &mut caller, credentials, path, now);
        if let Err(error) = admitted {
            // Nothing was tried that somebody should know of.
            if error != AccessError::NoReflection {
                caller.refused(&error);
            }
            return Err(error);
        }
        if let Openness::Has(role) = openness(path) {
            caller.require(role)?;
        }
        Ok(caller)
    }

    /// Whether a caller of before would be let in as the same one now. Who has got other roles
    /// meanwhile is another one.
    pub(super) fn admits_still(&self, caller: &Caller) -> bool {
        let tls = caller.peer.as_ref().and_then(|peer| peer.tls.as_ref());
        if tls.is_some_and(|tls| !tls.is_accepted_still()) {
            return false;
        }
        let rules = self.rules.load();
        match &caller.standing {
            Standing::Unrestricted => rules.clients.is_empty(),
            Standing::Client(client) => rules.clients.has(client),
            Standing::Stranger => true,
        }
    }

    fn admit_by(
        &self,
        rules: &Rules,
        caller: &mut Caller,
        credentials: Credentials<'_>,
        path: &str,
        now: Instant,
    ) -> Result<(), AccessError> {
        let found = self.find(rules, caller.peer.as_ref(), credentials, now);
        if let Ok(standing) = &found {
            caller.standing = standing.clone();
        }
        if let Some(rate) = rules.rate {
            let key = key_of(caller);
            self.calls
                .take(key.clone(), rate, now)
                .map_err(|retry| AccessError::CallRate {
                    who: key.described(),
                    retry,
                })?;
        }
        match found? {
            Standing::Stranger if openness(path) != Openness::Everybody => {
                return Err(match caller.uid() {
                    Some(uid) if rules.clients.is_empty() => AccessError::ForeignUser { uid },
                    _ => AccessError::Stranger {
                        peer: caller.described(),
                    },
                });
            }
            _ => {}
        }
        let reach = caller.peer.as_ref().map(|peer| peer.reach);
        if path.starts_with(REFLECTION)
            && self.reflection == Reflection::Loopback
            && reach != Some(Reach::Host)
        {
            return Err(AccessError::NoReflection);
        }
        Ok(())
    }

    /// A token that is wrong is refused everywhere, also where none is needed: an answer would say
    /// that it is wrong.
    fn find(
        &self,
        rules: &Rules,
        peer: Option<&Peer>,
        credentials: Credentials<'_>,
        now: Instant,
    ) -> Result<Standing, AccessError> {
        if let Some(tls) = peer.and_then(|peer| peer.tls.as_ref())
            && !tls.is_accepted_still()
        {
            return Err(AccessError::CertificateLapsed);
        }
        if rules.clients.is_empty() {
            let is_own = |uid: u32| uid == 0 || uid == self.uid;
            return Ok(match peer {
                Some(peer) if peer.uid.is_none_or(is_own) => Standing::Unrestricted,
                Some(_) | None => Standing::Stranger,
            });
        }
        let token = match credentials {
            Credentials::Token(token) => token,
            Credentials::Malformed => return Err(AccessError::AuthorizationForm),
            Credentials::None => {
                let client = peer.and_then(|peer| rules.clients.by_peer(peer));
                return Ok(client.map_or(Standing::Stranger, Standing::Client));
            }
        };
        let key = peer.map_or(Key::Others, origin_of);
        let too_many = |retry| AccessError::AuthenticationRate {
            who: key.described(),
            retry,
        };
        self.wrong_tokens
            .look(&key, WRONG_TOKENS, now)
            .map_err(too_many)?;
        match rules.clients.by_token(token) {
            Some(client) => Ok(Standing::Client(client)),
            None => {
                // It was looked at: another call may have emptied the bucket meanwhile.
                let _ = self.wrong_tokens.take(key, WRONG_TOKENS, now);
                Err(AccessError::WrongToken)
            }
        }
    }
}

/// Whose calls are counted together.
fn key_of(caller: &Caller) -> Key {
    match (&caller.standing, &caller.peer) {
        (Standing::Client(client), _) => Key::Client(Arc::clone(&client.name)),
        (_, Some(peer)) => match peer.certificate() {
            Some(certificate) => Key::Certificate(Arc::clone(&certificate.fingerprint)),
            None => origin_of(peer),
        },
        (_, None) => Key::Others,
    }
}

fn origin_of(peer: &Peer) -> Key {
    match (peer.uid, peer.address) {
        (Some(uid), _) => Key::User(uid),
        (None, Some(address)) => Key::address(address.ip()),
        (None, None) => Key::Others,
    }
}

/// What is called, short and on one line.
fn brief(path: &str) -> Arc<str> {
    /// The longest method of ours has some 50 characters.
    const MOST: usize = 80;
    crate::spec::printable_start(path, MOST).into()
}

/// Counts refusals and writes them down.
#[derive(Debug)]
pub(super) struct Refusals {
    metrics: Arc<Metrics>,
    lines: Buckets,
}

impl Refusals {
    pub(super) fn write_down(&self, caller: &Caller, error: &AccessError) {
        self.metrics.refused(error.id().as_str());
        // Who calls too often shall not fill the log with it.
        let is_said = error.retry().is_none()
            || self
                .lines
                .take(key_of(caller), AUDIT_LINES, Instant::now())
                .is_ok();
        if is_said {
            audit::refused(caller, error);
        }
    }
}
