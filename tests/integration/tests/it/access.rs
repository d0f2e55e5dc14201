//! Who may call: clients by token, certificate and user, their roles, and how often they call. With
//! the scripted QEMU, because no guest is the subject.

mod limits;
mod local;

use casemate_integration::certificates::{self, Authority, Leaf, Validity};
use casemate_integration::daemon::{Daemon, Setup, eventually};
use casemate_integration::predecessor as predecessor_api;
use casemate_integration::predecessor::manager_service_client::ManagerServiceClient;
use casemate_integration::tls_client::{
    Client, PATIENCE, alert, ask, channel, client_config, list,
};
use casemate_proto::v1;
use casemate_proto::v1::config_service_client::ConfigServiceClient;
use casemate_proto::v1::vm_service_client::VmServiceClient;
use rustix::process::Signal;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::AlertDescription;
use tokio_rustls::rustls::version::TLS13;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

fn setup() -> Setup {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup
}

/// A `[[client]]` with one thing that it is recognised by.
fn client(name: &str, roles: &[&str], key: &str, mark: impl Into<toml::Value>) -> toml::Value {
    let mut table = toml::Table::new();
    table.insert("name".to_owned(), name.into());
    table.insert("roles".to_owned(), roles.to_vec().into());
    table.insert(key.to_owned(), mark.into());
    table.into()
}

pub(crate) fn token_of(name: &str) -> String {
    format!("canary-token-of-{name}")
}

pub(crate) fn token_client(name: &str, roles: &[&str]) -> toml::Value {
    let digest = hex::encode(Sha256::digest(token_of(name)));
    client(name, roles, "token_sha256", digest)
}

pub(crate) fn with_clients(setup: &mut Setup, clients: Vec<toml::Value>) {
    setup.set("client", toml::Value::Array(clients));
}

/// A request with a token, or without.
pub(crate) fn with_token<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().expect("a header");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// A GET with further header lines: status and the whole answer.
async fn get(daemon: &Daemon, path: &str, token: Option<&str>) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(daemon.http)
        .await
        .expect("it connects");
    let header = token.map_or_else(String::new, |token| {
        format!("Authorization: Bearer {token}\r\n")
    });
    let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n{header}\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    (status.expect("a status"), answer)
}

/// What is asked of the daemon, one for each role.
const CALLS: [&str; 5] = ["list", "create", "console", "explain", "policy"];

async fn call(channel: &Channel, call: &str, token: Option<&str>) -> Result<(), Status> {
    let mut vms = VmServiceClient::new(channel.clone());
    let id = "00000000-0000-4000-8000-000000000000".to_owned();
    let status = match call {
        "list" => {
            let request = with_token(v1::ListVmsRequest::default(), token);
            vms.list_vms(request).await.map(drop)
        }
        "create" => {
            let request = with_token(v1::CreateVmRequest::default(), token);
            vms.create_vm(request).await.map(drop)
        }
        "console" => {
            let request = v1::GetConsoleRequest {
                id,
                ..Default::default()
            };
            vms.get_console(with_token(request, token)).await.map(drop)
        }
        "explain" => {
            let mut config = ConfigServiceClient::new(channel.clone());
            let request = with_token(v1::ExplainConfigRequest {}, token);
            config.explain_config(request).await.map(drop)
        }
        "policy" => {
            let mut manager = ManagerServiceClient::new(channel.clone());
            let request = predecessor_api::AttestationPolicyReq { id };
            manager
                .attestation_policy(with_token(request, token))
                .await
                .map(drop)
        }
        other => panic!("{other}?"),
    };
    match status {
        // The role was enough: there is no such VM.
        Err(status) if status.code() == Code::NotFound => Ok(()),
        status => status,
    }
}

#[tokio::test]
async fn each_role_may_do_what_it_says_and_no_more() {
    let mut setup = setup();
    let roles = ["viewer", "operator", "admin", "secrets"];
    with_clients(
        &mut setup,
        roles.map(|role| token_client(role, &[role])).to_vec(),
    );
    let daemon = setup.start();
    let channel = daemon.channel().await;
    for (role, allowed) in [
        ("viewer", &["list", "policy"][..]),
        ("operator", &["list", "create", "policy"]),
        ("admin", &["list", "create", "explain", "policy"]),
        ("secrets", &["console"]),
    ] {
        let token = token_of(role);
        for name in CALLS {
            let answer = call(&channel, name, Some(&token)).await;
            if allowed.contains(&name) {
                answer.unwrap_or_else(|status| panic!("{role} {name}: {status}"));
                continue;
            }
            let status = answer.expect_err("the role is missing");
            assert_eq!(
                status.code(),
                Code::PermissionDenied,
                "{role} {name}: {status}"
            );
            for part in [
                &format!("client \"{role}\""),
                "remedy: add ",
                "`roles`",
                "role-missing",
            ] {
                assert!(status.message().contains(part), "{part}: {status}");
            }
        }
        let (status, _) = get(&daemon, "/metrics", Some(&token)).await;
        let is_allowed = allowed.contains(&"list");
        assert_eq!(status, if is_allowed { 200 } else { 403 }, "{role}");
    }
    let log = daemon.log();
    let refusal = log.lines().find(|line| {
        line.contains("audit")
            && line.contains("role-missing")
            && line.contains("client=\"viewer\"")
    });
    let refusal = refusal.unwrap_or_else(|| panic!("{log}"));
    assert!(
        refusal.contains("/casemate.v1.VmService/CreateVm"),
        "{refusal}"
    );
    assert!(refusal.contains("127.0.0.1:"), "{refusal}");
    let deed = log
        .lines()
        .find(|line| line.contains("action=\"create\"") && line.contains("client=\"operator\""));
    deed.unwrap_or_else(|| panic!("{log}"));
    let (_, metrics) = get(&daemon, "/metrics", Some(&token_of("viewer"))).await;
    let counted = metrics.contains("casemate_api_refusals_total{reason=\"role-missing\"} 11");
    assert!(counted, "{metrics}");
    assert!(!log.contains("canary-token"), "{log}");
}

#[tokio::test]
async fn who_is_no_client_is_refused_but_for_probes() {
    let mut setup = setup();
    with_clients(&mut setup, vec![token_client("ci", &["viewer"])]);
    let daemon = setup.start();
    let channel = daemon.channel().await;
    // Few are wrong: after ten they would not be looked at.
    for (token, calls) in [
        (None, &CALLS[..]),
        (Some("canary-token-of-nobody"), &CALLS[..4]),
        (Some("a b"), &CALLS[..1]),
    ] {
        for name in calls {
            let status = call(&channel, name, token).await.expect_err("a stranger");
            assert_eq!(status.code(), Code::Unauthenticated, "{name}: {status}");
            assert!(status.message().contains("\nremedy: "), "{status}");
        }
    }
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let checked = health
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await;
    assert_eq!(checked.expect("it is open").into_inner().status, 1);

    for (path, token, wanted) in [
        ("/health", None, 200),
        ("/ready", None, 200),
        ("/metrics", None, 401),
        ("/nowhere", None, 401),
        ("/metrics", Some("canary-token-of-nobody"), 401),
        ("/health", Some("canary-token-of-nobody"), 401),
        ("/metrics", Some("canary-token-of-ci"), 200),
        ("/nowhere", Some("canary-token-of-ci"), 404),
    ] {
        let answer = get(&daemon, path, token).await;
        // Whether it can start VMs is another question.
        let is_right = answer.0 == wanted || (path == "/ready" && answer.0 == 503);
        assert!(is_right, "{path} {token:?}: {answer:?}");
        if wanted == 401 {
            let lower = answer.1.to_ascii_lowercase();
            for part in [
                "www-authenticate: bearer",
                "application/problem+json",
                "unauthenticated",
            ] {
                assert!(lower.contains(part), "{part}: {answer:?}");
            }
        }
    }
    let log = daemon.log();
    assert!(!log.contains("canary-token"), "{log}");
    let refused = log
        .lines()
        .filter(|line| line.contains("audit") && line.contains("outcome=\"unauthenticated\""));
    assert!(refused.count() >= 10, "{log}");
}

#[tokio::test]
async fn clients_are_reloaded_as_a_whole() {
    let mut setup = setup();
    with_clients(&mut setup, vec![token_client("old", &["viewer"])]);
    let mut daemon = setup.start();
    let channel = daemon.channel().await;
    let (old, new) = (token_of("old"), token_of("new"));
    call(&channel, "list", Some(&old)).await.expect("a client");

    // A mistake in one leaves all as they are.
    let wrong = client("wrong", &["viewer"], "token_sha256", "canary-token-itself");
    with_clients(
        &mut daemon.setup,
        vec![token_client("new", &["viewer"]), wrong],
    );
    daemon.setup.write_config();
    daemon.signal(Signal::HUP);
    eventually("the refusal", PATIENCE, || async {
        daemon.log().contains("config not reloaded").then_some(())
    })
    .await;
    let log = daemon.log();
    assert!(log.contains("client \"wrong\": `token_sha256`"), "{log}");
    assert!(!log.contains("canary-token-itself"), "{log}");
    call(&channel, "list", Some(&old))
        .await
        .expect("still a client");
    call(&channel, "list", Some(&new))
        .await
        .expect_err("not yet");

    with_clients(&mut daemon.setup, vec![token_client("new", &["admin"])]);
    daemon.setup.write_config();
    daemon.signal(Signal::HUP);
    // Not by trying: wrong tokens are counted.
    eventually("the reload", PATIENCE, || async {
        daemon.log().contains("config reloaded").then_some(())
    })
    .await;
    assert!(daemon.log().contains("clients changed"));
    call(&channel, "explain", Some(&new))
        .await
        .expect("an admin");
    let status = call(&channel, "list", Some(&old)).await;
    assert_eq!(
        status.expect_err("no client any more").code(),
        Code::Unauthenticated
    );
    let mut config = ConfigServiceClient::new(channel);
    let request = with_token(v1::ExplainConfigRequest {}, Some(&new));
    let explained = config.explain_config(request).await.expect("an admin");
    let values = explained.into_inner().values;
    let shown: Vec<(&str, &str)> = values
        .iter()
        .filter(|value| value.key.starts_with("client."))
        .map(|value| (&*value.key, &*value.value))
        .collect();
    assert_eq!(
        shown,
        [
            ("client.new.roles", "[\"admin\"]"),
            ("client.new.token_sha256", "a digest that is not shown"),
        ]
    );
}

/// A stream goes on for as long as its client is one, and the events that it misses are nobody's.
#[tokio::test]
async fn a_stream_ends_when_its_client_is_one_no_more() {
    let mut setup = setup();
    let (stays, goes) = (token_of("stays"), token_of("goes"));
    with_clients(
        &mut setup,
        vec![
            token_client("stays", &["operator"]),
            token_client("goes", &["viewer"]),
        ],
    );
    let mut daemon = setup.start();
    let mut vms = VmServiceClient::new(daemon.channel().await);
    let mut watches = Vec::new();
    for token in [&stays, &goes] {
        let request = with_token(v1::WatchVmsRequest::default(), Some(token));
        let watch = vms.watch_vms(request).await.expect("a viewer");
        let mut watch = watch.into_inner();
        watch.message().await.expect("it is let in");
        watches.push(watch);
    }
    with_clients(
        &mut daemon.setup,
        vec![token_client("stays", &["operator"])],
    );
    daemon.setup.write_config();
    daemon.signal(Signal::HUP);
    eventually("the reload", PATIENCE, || async {
        daemon.log().contains("config reloaded").then_some(())
    })
    .await;
    let create = with_token(v1::CreateVmRequest::default(), Some(&stays));
    vms.create_vm(create).await.expect("an operator");
    let [mut of_stays, mut of_goes] = <[_; 2]>::try_from(watches).expect("two");
    let next = of_stays.message().await.expect("it is a client still");
    assert!(next.is_some());
    let status = of_goes.message().await.expect_err("it is none any more");
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(status.message().contains("kept back"), "{status}");
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("action=\"refused\"") && line.contains("client=\"goes\""));
    line.unwrap_or_else(|| panic!("{log}"));
}

fn name_files(setup: &mut Setup, root: &Authority, clients: &Authority) {
    for listener in ["grpc", "http"] {
        let leaf = root.server();
        for (key, content) in [
            ("server_cert", leaf.certificate),
            ("server_key", leaf.key),
            ("client_ca_certs", clients.certificate()),
        ] {
            let key = format!("{listener}.{key}");
            let path = certificates::write(setup.folder.path(), &format!("{key}.pem"), &content);
            setup.set(&key, path.display().to_string());
        }
    }
}

#[tokio::test]
async fn clients_are_recognised_by_what_their_certificate_has() {
    let (root, clients) = (Authority::root("root"), Authority::root("clients"));
    let pinned = clients.client();
    let named = clients.client_of(&["spiffe://example/ops"], Validity::ForYears);
    let stranger = clients.client_of(&["spiffe://example/ops/2"], Validity::ForYears);
    let mut setup = setup();
    name_files(&mut setup, &root, &clients);
    with_clients(
        &mut setup,
        vec![
            client(
                "pinned",
                &["viewer"],
                "certificate_sha256",
                pinned.fingerprint(),
            ),
            client(
                "named",
                &["admin"],
                "certificate_uri",
                "spiffe://example/ops",
            ),
        ],
    );
    let daemon = setup.start();
    let client = |identity: Option<Leaf>| Client {
        trusted: &root,
        identity,
    };
    for (case, leaf, allowed) in [
        ("pinned", &pinned, &["list", "policy"][..]),
        ("named", &named, &["list", "create", "explain", "policy"]),
        ("stranger", &stranger, &[]),
    ] {
        let channel = channel(&daemon, &client(Some(leaf.clone()))).await;
        let channel = channel.expect("its chain is good");
        for name in CALLS {
            let answer = call(&channel, name, None).await;
            assert_eq!(
                answer.is_ok(),
                allowed.contains(&name),
                "{case} {name}: {answer:?}"
            );
            if case == "stranger" {
                assert_eq!(
                    answer.map_err(|status| status.code()),
                    Err(Code::Unauthenticated)
                );
            }
        }
    }
    // Nobody has a token, so there is no reason to let anybody in without a certificate.
    let heard = alert(daemon.grpc, &client(None), "h2").await;
    assert_eq!(heard, Some(AlertDescription::CertificateRequired));
}

#[tokio::test]
async fn a_token_stands_in_for_a_certificate_and_a_bad_certificate_is_none() {
    let (root, clients) = (Authority::root("root"), Authority::root("clients"));
    let mut setup = setup();
    name_files(&mut setup, &root, &clients);
    with_clients(
        &mut setup,
        vec![
            token_client("ci", &["viewer"]),
            client("host", &["viewer"], "certificate_dns", "LOCALHOST"),
        ],
    );
    let daemon = setup.start();
    let client = |identity| Client {
        trusted: &root,
        identity,
    };
    let token = token_of("ci");
    let bare = channel(&daemon, &client(None)).await.expect("it is let in");
    call(&bare, "list", Some(&token)).await.expect("a client");
    let status = call(&bare, "list", None).await.expect_err("nobody");
    assert_eq!(status.code(), Code::Unauthenticated);
    let header = format!("Authorization: Bearer {token}\r\n");
    for (headers, wanted) in [(&*header, "HTTP/1.0 200"), ("", "HTTP/1.0 401")] {
        let config = client_config(&client(None), &[&TLS13]);
        let answer = ask(daemon.http, config, "/metrics", headers).await;
        let answer = answer.expect("an answer");
        assert!(answer.starts_with(wanted), "{answer}");
    }
    assert_eq!(list(&daemon, &client(Some(clients.client()))).await, Ok(0));
    for (leaf, wanted) in [
        (root.client(), AlertDescription::UnknownCA),
        (
            clients.client_of(&[], Validity::Over),
            AlertDescription::CertificateExpired,
        ),
    ] {
        let heard = alert(daemon.grpc, &client(Some(leaf)), "h2").await;
        assert_eq!(heard, Some(wanted));
    }
}

/// Whether a certificate is needed changes with the clients, for those that are connected too.
#[tokio::test]
async fn the_first_token_of_a_config_lets_in_without_a_certificate_and_the_last_no_more() {
    let (root, clients) = (Authority::root("root"), Authority::root("clients"));
    let mut setup = setup();
    name_files(&mut setup, &root, &clients);
    let mut daemon = setup.start();
    let bare = Client {
        trusted: &root,
        identity: None,
    };
    let heard = alert(daemon.grpc, &bare, "h2").await;
    assert_eq!(heard, Some(AlertDescription::CertificateRequired));
    with_clients(&mut daemon.setup, vec![token_client("ci", &["viewer"])]);
    daemon.setup.write_config();
    daemon.signal(Signal::HUP);
    let open = eventually("the token", PATIENCE, || async {
        (alert(daemon.grpc, &bare, "h2").await)
            .is_none()
            .then_some(())?;
        channel(&daemon, &bare).await.ok()
    })
    .await;
    let token = token_of("ci");
    call(&open, "list", Some(&token)).await.expect("a client");
    daemon.setup.unset("client");
    daemon.setup.write_config();
    daemon.signal(Signal::HUP);
    eventually("the end of it", PATIENCE, || async {
        alert(daemon.grpc, &bare, "h2").await
    })
    .await;
    let status = call(&open, "list", Some(&token))
        .await
        .expect_err("it has no certificate");
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    let client = Client {
        trusted: &root,
        identity: Some(clients.client()),
    };
    assert_eq!(list(&daemon, &client).await, Ok(0));
}

/// What gRPC says of itself.
async fn reflection_of(channel: Channel) -> Result<(), Status> {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let answers = reflection
        .server_reflection_info(tokio_stream::iter([request]))
        .await?;
    let answer = answers.into_inner().message().await?;
    answer.map(drop).ok_or_else(|| Status::unknown("no answer"))
}

/// As `grpcurl` and the clients of the predecessor are, who know nothing of all this but TLS.
#[tokio::test]
async fn over_mutual_tls_reflection_and_the_predecessors_client_work() {
    let (root, clients) = (Authority::root("root"), Authority::root("clients"));
    let (operator, reader) = (clients.client(), clients.client());
    let mut plain = setup();
    name_files(&mut plain, &root, &clients);
    let mut with_roles = setup();
    name_files(&mut with_roles, &root, &clients);
    with_clients(
        &mut with_roles,
        vec![
            client(
                "operator",
                &["operator"],
                "certificate_sha256",
                operator.fingerprint(),
            ),
            client(
                "reader",
                &["secrets"],
                "certificate_sha256",
                reader.fingerprint(),
            ),
        ],
    );
    let mut off = setup();
    name_files(&mut off, &root, &clients);
    off.set("grpc.reflection", "off");
    for (case, setup, leaf, reflected, removed) in [
        ("all may", plain, &operator, Ok(()), Code::NotFound),
        ("an operator", with_roles, &operator, Ok(()), Code::NotFound),
        (
            "nobody",
            off,
            &operator,
            Err(Code::Unimplemented),
            Code::NotFound,
        ),
    ] {
        let daemon = setup.start();
        let client = Client {
            trusted: &root,
            identity: Some(leaf.clone()),
        };
        let open = channel(&daemon, &client).await.expect("it is let in");
        let answer = reflection_of(open.clone()).await;
        let answer = answer.map_err(|status| status.code());
        assert_eq!(answer, reflected, "{case}");
        let mut manager = ManagerServiceClient::new(open.clone());
        let created = manager
            .create_vm(predecessor_api::CreateReq::default())
            .await;
        let id = created.expect("it runs").into_inner().cvm_id;
        let remove = predecessor_api::RemoveReq { cvm_id: id };
        manager.remove_vm(remove.clone()).await.expect("it goes");
        let again = manager.remove_vm(remove).await.expect_err("it is gone");
        assert_eq!(again.code(), removed, "{case}");
        if case == "an operator" {
            let client = Client {
                trusted: &root,
                identity: Some(reader.clone()),
            };
            let open = channel(&daemon, &client).await.expect("it is let in");
            let answer = reflection_of(open.clone()).await;
            assert_eq!(
                answer.map_err(|status| status.code()),
                Err(Code::PermissionDenied)
            );
            let mut manager = ManagerServiceClient::new(open);
            let created = manager
                .create_vm(predecessor_api::CreateReq::default())
                .await;
            assert_eq!(
                created.expect_err("no operator").code(),
                Code::PermissionDenied
            );
        }
    }
}

/// A reload must not open what the start had closed.
#[tokio::test]
async fn an_open_listener_off_loopback_does_not_come_up_by_start_or_reload() {
    for key in ["grpc.host", "http.host"] {
        let mut open = setup();
        open.set(key, "0.0.0.0");
        let log = open.try_start().expect_err("anyone could run VMs");
        for part in [
            "listener-exposed",
            "without TLS and authentication",
            "`[[client]]`",
        ] {
            assert!(log.contains(part), "{part}: {log}");
        }
    }
    let root = Authority::root("root");
    let mut closed = setup();
    name_files(&mut closed, &root, &root);
    closed
        .unset("grpc.client_ca_certs")
        .unset("http.client_ca_certs");
    closed.set("grpc.host", "0.0.0.0");
    with_clients(&mut closed, vec![token_client("ci", &["viewer"])]);
    let mut daemon = closed.start();
    let client = Client {
        trusted: &root,
        identity: None,
    };
    let open = channel(&daemon, &client).await.expect("TLS");
    let token = token_of("ci");
    call(&open, "list", Some(&token)).await.expect("a client");
    // The new file is a good one, but the address stays until a restart.
    daemon.setup.set("grpc.host", "127.0.0.1").unset("client");
    daemon.setup.write_config();
    daemon.signal(Signal::HUP);
    eventually("the refusal", PATIENCE, || async {
        let log = daemon.log();
        (log.contains("config not reloaded") && log.contains("listener-exposed")).then_some(())
    })
    .await;
    let status = call(&open, "list", None).await.expect_err("nobody");
    assert_eq!(status.code(), Code::Unauthenticated);
    call(&open, "list", Some(&token))
        .await
        .expect("a client still");
}

#[tokio::test]
async fn ipv6_loopback_serves_as_ipv4_does() {
    let mut setup = setup();
    setup.set("grpc.host", "::1").set("http.host", "::1");
    let daemon = setup.start();
    assert!(daemon.grpc.is_ipv6() && daemon.http.is_ipv6());
    assert!(daemon.list().await.is_empty());
    let (status, _) = daemon.get_http("/health").await;
    assert_eq!(status, 200);
}
