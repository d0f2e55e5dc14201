//! Roles, and whom the gate lets in, without sockets.

use std::net::SocketAddr;
use std::time::Instant;

use super::clients::{ClientConfig, Mark, TokenDigest};
use super::gate::{Credentials, Gate};
use super::*;
use crate::api::config::{Limits, Reflection};
use crate::metrics::Metrics;

const LIMITS: Limits = Limits {
    calls_per_second: 1,
    call_burst: 3,
};
const LIST: &str = "/casemate.v1.VmService/ListVms";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

fn client(name: &str, roles: &[Role], mark: Mark) -> ClientConfig {
    ClientConfig {
        name: name.to_owned(),
        roles: roles.iter().copied().collect(),
        marks: vec![mark],
    }
}

fn token(name: &str, roles: &[Role]) -> ClientConfig {
    let digest = TokenDigest::of(format!("token of {name}").as_bytes());
    client(name, roles, Mark::Token(digest))
}

struct Site {
    gate: Gate,
    metrics: Arc<Metrics>,
    start: Instant,
}

fn site(clients: &[ClientConfig], reflection: Reflection) -> Site {
    let metrics = Arc::new(Metrics::new("1", "test").unwrap());
    Site {
        gate: Gate::new(clients, LIMITS, reflection, Arc::clone(&metrics)),
        metrics,
        start: Instant::now(),
    }
}

impl Site {
    /// A call so many seconds after the start; the bucket has filled where they are many.
    fn call(
        &self,
        peer: &Peer,
        token: Option<&str>,
        path: &str,
        after: u64,
    ) -> Result<Caller, AccessError> {
        let credentials = token.map_or(Credentials::None, |token| {
            Credentials::Token(token.as_bytes())
        });
        let now = self.start + Duration::from_secs(after);
        self.gate.admit(Some(peer.clone()), credentials, path, now)
    }

    fn refusals(&self, reason: &str) -> u64 {
        let text = self.metrics.render([], []);
        let name = format!("casemate_api_refusals_total{{reason=\"{reason}\"}} ");
        let count = text.lines().find_map(|line| line.strip_prefix(&name));
        count.map_or(0, |count| count.parse().unwrap())
    }
}

fn network(address: &str) -> Peer {
    let address: SocketAddr = address.parse().unwrap();
    Peer {
        address: Some(address),
        uid: None,
        reach: if address.ip().is_loopback() {
            Reach::Host
        } else {
            Reach::Network
        },
        tls: None,
    }
}

fn local(uid: u32) -> Peer {
    Peer {
        address: None,
        uid: Some(uid),
        reach: Reach::Host,
        tls: None,
    }
}

#[test]
fn roles_include_each_other_as_documented() {
    use Role::{Admin, Operator, Secrets, Viewer};
    for (role, included) in [
        (Viewer, &[Viewer][..]),
        (Operator, &[Viewer, Operator]),
        (Admin, &[Viewer, Operator, Admin]),
        (Secrets, &[Secrets]),
    ] {
        for other in Role::ALL {
            assert_eq!(
                role.includes(other),
                included.contains(&other),
                "{role:?} {other:?}"
            );
        }
        assert_eq!(Role::parse(role.as_str()), Some(role));
    }
}

#[test]
fn a_refusal_names_client_role_and_key_and_is_counted() {
    let site = site(&[token("ci", &[Role::Viewer])], Reflection::Loopback);
    let caller = site.call(&network("127.0.0.1:1"), Some("token of ci"), LIST, 0);
    let caller = caller.unwrap();
    assert_eq!(caller.name(), "ci");
    assert_eq!(caller.require(Role::Viewer), Ok(()));
    let error = caller.require(Role::Operator).unwrap_err();
    assert_eq!(
        error.to_string(),
        "client \"ci\" does not have the role operator"
    );
    assert_eq!(
        error.remedy(),
        "add \"operator\" to `roles` of the `[[client]]` \"ci\" in the config file, and send SIGHUP"
    );
    assert_eq!(
        tonic::Status::from(error).code(),
        tonic::Code::PermissionDenied
    );
    assert_eq!(site.refusals("role-missing"), 1);
    // Nobody was asked who calls: a mistake of ours lets nobody in.
    let unknown = Caller::of(&Extensions::new());
    for role in Role::ALL {
        assert!(unknown.require(role).is_err(), "{role:?}");
    }
}

#[test]
fn without_clients_all_are_served_but_other_users_of_a_socket() {
    let site = site(&[], Reflection::Loopback);
    let own = rustix::process::geteuid().as_raw();
    let other = own + 4_711;
    let mut after = 0;
    for (peer, is_served) in [
        (network("127.0.0.1:1"), true),
        (network("192.0.2.1:1"), true),
        (local(0), true),
        (local(own), true),
        (local(other), false),
    ] {
        // A token is nobody's business there.
        for token in [None, Some("whatever")] {
            after += 60;
            let called = site.call(&peer, token, LIST, after);
            match called {
                Ok(caller) => {
                    assert!(is_served, "{peer:?}");
                    assert!(Role::ALL.iter().all(|role| caller.has(*role)), "{peer:?}");
                    assert_eq!(caller.name(), "");
                }
                Err(error) => {
                    assert!(!is_served, "{peer:?}");
                    assert_eq!(error, AccessError::ForeignUser { uid: other });
                }
            }
        }
    }
    assert_eq!(site.refusals("unauthenticated"), 2);
}

#[test]
fn with_clients_whoever_is_none_is_refused_but_for_probes() {
    let clients = [
        token("ci", &[Role::Operator]),
        client("local", &[Role::Admin], Mark::Uid(1_000)),
        token("reader", &[Role::Secrets]),
    ];
    let site = site(&clients, Reflection::On);
    let peer = network("192.0.2.1:1");
    let health = "/grpc.health.v1.Health/Check";
    let mut after = 0;
    for (peer, token, path, wanted) in [
        (&peer, None, LIST, Err(ErrorId::Unauthenticated)),
        (
            &peer,
            Some("token of cj"),
            LIST,
            Err(ErrorId::Unauthenticated),
        ),
        (&peer, Some("token of ci"), LIST, Ok("ci")),
        (&local(1_000), None, LIST, Ok("local")),
        // The token says who calls, whoever the user is.
        (&local(1_000), Some("token of ci"), LIST, Ok("ci")),
        (&local(0), None, LIST, Err(ErrorId::Unauthenticated)),
        (&peer, None, "/health", Ok("")),
        (&peer, None, "/ready", Ok("")),
        (&peer, None, health, Ok("")),
        (
            &peer,
            Some("token of cj"),
            "/health",
            Err(ErrorId::Unauthenticated),
        ),
        (&peer, None, "/metrics", Err(ErrorId::Unauthenticated)),
        (
            &peer,
            Some("token of reader"),
            "/metrics",
            Err(ErrorId::RoleMissing),
        ),
        (&peer, Some("token of ci"), "/metrics", Ok("ci")),
        (&peer, None, REFLECTION, Err(ErrorId::Unauthenticated)),
        (
            &peer,
            Some("token of reader"),
            REFLECTION,
            Err(ErrorId::RoleMissing),
        ),
        (&peer, Some("token of ci"), REFLECTION, Ok("ci")),
    ] {
        after += 60;
        let called = site.call(peer, token, path, after);
        let called = called.as_ref().map(Caller::name).map_err(Catalogued::id);
        assert_eq!(called, wanted, "{peer:?} {token:?} {path}");
    }
    let probe = site.call(&peer, None, "/ready", after + 60).unwrap();
    assert!(Role::ALL.iter().all(|role| !probe.has(*role)));
}

#[test]
fn reflection_is_for_who_config_says() {
    for (reflection, peer, is_served) in [
        (Reflection::Loopback, network("127.0.0.1:1"), true),
        (Reflection::Loopback, local(0), true),
        (Reflection::Loopback, network("192.0.2.1:1"), false),
        (Reflection::On, network("192.0.2.1:1"), true),
    ] {
        let site = site(&[], reflection);
        let called = site.call(&peer, None, REFLECTION, 0);
        assert_eq!(called.is_ok(), is_served, "{reflection:?} {peer:?}");
        if let Err(error) = called {
            assert_eq!(error, AccessError::NoReflection);
        }
    }
}

#[test]
fn each_client_has_its_own_rate() {
    let clients = [token("a", &[Role::Viewer]), token("b", &[Role::Viewer])];
    let site = site(&clients, Reflection::Loopback);
    let peer = network("192.0.2.1:1");
    for _ in 0..LIMITS.call_burst {
        site.call(&peer, Some("token of a"), LIST, 0).unwrap();
    }
    let refused = site.call(&network("192.0.2.2:1"), Some("token of a"), LIST, 0);
    let error = refused.unwrap_err();
    assert_eq!(error.id(), ErrorId::CallRate);
    assert_eq!(error.retry(), Some(Duration::from_secs(1)));
    assert!(error.to_string().contains("client \"a\""), "{error}");
    site.call(&peer, Some("token of b"), LIST, 0).unwrap();
    site.call(&peer, Some("token of a"), LIST, 1).unwrap();
    // Strangers are counted by their address.
    for _ in 0..LIMITS.call_burst {
        site.call(&peer, None, "/health", 1).unwrap();
    }
    let error = site.call(&peer, None, LIST, 1).unwrap_err();
    assert_eq!(error.id(), ErrorId::CallRate);
    site.call(&network("192.0.2.3:1"), None, "/health", 1)
        .unwrap();
    // A reload changes the limit for all.
    site.gate.set(
        &clients,
        Limits {
            calls_per_second: 0,
            ..LIMITS
        },
    );
    for _ in 0..100 {
        site.call(&peer, Some("token of a"), LIST, 1).unwrap();
    }
}

#[test]
fn guessing_is_slow_and_hinders_nobody_elsewhere() {
    let site = site(&[token("a", &[Role::Viewer])], Reflection::Loopback);
    let (guesser, other) = (network("192.0.2.1:1"), network("192.0.2.2:1"));
    let mut after = 0;
    let mut looked_at = 0;
    loop {
        // Slow enough for the limit of all calls.
        after += 1;
        let error = site.call(&guesser, Some("guess"), LIST, after).unwrap_err();
        match error.id() {
            ErrorId::Unauthenticated => looked_at += 1,
            id => {
                assert_eq!(id, ErrorId::AuthenticationRate);
                break;
            }
        }
        assert!(looked_at < 100, "nobody slows it");
    }
    assert!(looked_at >= 10, "{looked_at}");
    // A guess that is right is not found out either.
    let right = site.call(&guesser, Some("token of a"), LIST, after);
    assert_eq!(right.unwrap_err().id(), ErrorId::AuthenticationRate);
    site.call(&other, Some("token of a"), LIST, after).unwrap();
    site.call(&guesser, Some("token of a"), LIST, after + 10)
        .unwrap();
}
