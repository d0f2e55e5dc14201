//! TLS on both listeners: who is served and who is not, and what files are refused. With the
//! scripted QEMU, because no VM is the subject.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use casemate_integration::certificates::{self, Authority, Leaf};
use casemate_integration::daemon::{Setup, eventually, get_http};
use casemate_integration::tls_client::{Client, PATIENCE, client_config, get, list};
use casemate_proto::v1;
use casemate_proto::v1::vm_service_client::VmServiceClient;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tonic::transport::Channel;

mod renewal;
mod revocation;

fn setup() -> Setup {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup
}

/// Writes a file beside the config and names it there.
fn name_file(setup: &mut Setup, key: &str, content: &str) {
    let path = certificates::write(setup.folder.path(), &format!("{key}.pem"), content);
    setup.set(key, path.display().to_string());
}

fn serve_with(setup: &mut Setup, listener: &str, leaf: &Leaf) {
    name_file(setup, &format!("{listener}.server_cert"), &leaf.certificate);
    name_file(setup, &format!("{listener}.server_key"), &leaf.key);
}

#[tokio::test]
async fn over_tls_only_clients_that_trust_the_server_are_served() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let mut setup = setup();
    serve_with(&mut setup, "grpc", &root.server());
    serve_with(&mut setup, "http", &root.server());
    let daemon = setup.start();
    let trusting = |trusted| Client {
        trusted,
        identity: None,
    };

    assert_eq!(list(&daemon, &trusting(&root)).await, Ok(0));
    let error = list(&daemon, &trusting(&other))
        .await
        .expect_err("a stranger");
    assert!(error.contains("UnknownIssuer"), "{error}");
    let plain = Channel::from_shared(daemon.endpoint()).expect("a URL");
    let plain = async {
        let channel = plain.connect().await.map_err(|_| ())?;
        let mut vms = VmServiceClient::new(channel);
        vms.list_vms(v1::ListVmsRequest::default())
            .await
            .map_err(|_| ())
    };
    let plain = tokio::time::timeout(PATIENCE, plain).await;
    plain.expect("it does not hang").expect_err("no TLS");

    let mut config = client_config(&trusting(&root), &[&TLS13]);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let answer = get(daemon.http, config).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    assert!(answer.contains("\"status\":\"pass\""), "{answer}");
    let config = client_config(&trusting(&other), &[&TLS13]);
    get(daemon.http, config).await.expect_err("a stranger");
    let config = client_config(&trusting(&root), &[&TLS12]);
    get(daemon.http, config).await.expect_err("an old protocol");
    let mut config = client_config(&trusting(&root), &[&TLS13]);
    config.alpn_protocols = vec![b"h2".to_vec()];
    get(daemon.http, config).await.expect_err("HTTP/2 alone");
    let plain = get_http(daemon.http, "/health").await;
    assert!(!plain.is_ok_and(|(status, _)| status == 200));

    let log = daemon.log();
    assert!(log.contains("TLS handshake failed"), "{log}");
    assert!(!log.contains("chmod"), "{log}");
    assert_eq!(list(&daemon, &trusting(&root)).await, Ok(0));
}

#[tokio::test]
async fn with_client_authentication_only_clients_of_that_authority_are_served() {
    let (root, clients) = (Authority::root("root"), Authority::root("clients"));
    let mut setup = setup();
    for listener in ["grpc", "http"] {
        serve_with(&mut setup, listener, &root.server());
        let key = format!("{listener}.client_ca_certs");
        name_file(&mut setup, &key, &clients.certificate());
    }
    let daemon = setup.start();
    let trusted = &root;
    for (case, identity, is_served) in [
        ("none", None, false),
        ("of another authority", Some(root.client()), false),
        ("a server's", Some(clients.server()), false),
        ("of the authority", Some(clients.client()), true),
    ] {
        let client = Client { trusted, identity };
        let listed = list(&daemon, &client).await;
        assert_eq!(listed.is_ok(), is_served, "{case}: {listed:?}");
        let answer = get(daemon.http, client_config(&client, &[&TLS13])).await;
        assert_eq!(answer.is_ok(), is_served, "{case}: {answer:?}");
    }
}

/// The clients know the root alone.
#[tokio::test]
async fn intermediates_are_sent_along() {
    let root = Authority::root("root");
    let intermediate = root.intermediate("intermediate");
    let leaf = intermediate.server();
    let client = Client {
        trusted: &root,
        identity: None,
    };
    let mut without = setup();
    serve_with(&mut without, "grpc", &leaf);
    let mut with = setup();
    serve_with(&mut with, "grpc", &leaf);
    name_file(
        &mut with,
        "grpc.server_ca_certs",
        &intermediate.certificate(),
    );
    let mut chained = setup();
    let chain = Leaf {
        certificate: leaf.certificate.clone() + &intermediate.certificate(),
        ..leaf
    };
    serve_with(&mut chained, "grpc", &chain);
    for (case, setup, is_served) in [
        ("without", without, false),
        ("of their own file", with, true),
        ("in the certificate's file", chained, true),
    ] {
        let listed = list(&setup.start(), &client).await;
        assert_eq!(listed.is_ok(), is_served, "{case}: {listed:?}");
    }
}

/// The predecessor's variables, each needed: a client that knows the root alone, and that has a
/// certificate, is served, and nobody else.
#[tokio::test]
async fn the_files_may_be_named_by_variables() {
    let (root, clients) = (Authority::root("root"), Authority::root("clients"));
    let intermediate = root.intermediate("intermediate");
    let leaf = intermediate.server();
    let mut setup = setup();
    for (name, content) in [
        ("MANAGER_GRPC_SERVER_CERT", &leaf.certificate),
        ("MANAGER_GRPC_SERVER_KEY", &leaf.key),
        ("MANAGER_GRPC_SERVER_CA_CERTS", &intermediate.certificate()),
        ("MANAGER_GRPC_CLIENT_CA_CERTS", &clients.certificate()),
        ("MANAGER_HTTP_SERVER_CERT", &leaf.certificate),
        ("MANAGER_HTTP_SERVER_KEY", &leaf.key),
        ("MANAGER_HTTP_SERVER_CA_CERTS", &intermediate.certificate()),
        ("MANAGER_HTTP_CLIENT_CA_CERTS", &clients.certificate()),
    ] {
        let path = certificates::write(setup.folder.path(), name, content);
        setup.variable(name, path.to_str().expect("UTF-8"));
    }
    let daemon = setup.start();
    for (identity, is_served) in [(Some(clients.client()), true), (None, false)] {
        let client = Client {
            trusted: &root,
            identity,
        };
        let listed = list(&daemon, &client).await;
        assert_eq!(listed.is_ok(), is_served, "{listed:?}");
        let answer = get(daemon.http, client_config(&client, &[&TLS13])).await;
        assert_eq!(answer.is_ok(), is_served, "{answer:?}");
    }
}

#[test]
fn files_that_do_not_serve_are_refused_at_the_start() {
    let root = Authority::root("root");
    let (leaf, other) = (root.server(), root.server());
    let authority = root.certificate();
    let missing = "/no-such-folder/file.pem".to_owned();
    let broken = leaf.certificate.replace("-----END", "----END");
    // A frame of PEM around what is no certificate.
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let encrypted = leaf.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    type Files<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(&str, Files<'_>, &[&str])] = &[
        (
            "no key",
            &[("server_cert", &leaf.certificate)],
            &[
                "`server_cert`",
                "grpc.server_cert.pem",
                "`server_key` is not given",
            ],
        ),
        (
            "no certificate",
            &[("server_key", &leaf.key)],
            &[
                "`server_key`",
                "grpc.server_key.pem",
                "`server_cert` is not given",
            ],
        ),
        (
            "clients' authority without TLS",
            &[("client_ca_certs", &leaf.certificate)],
            &[
                "`client_ca_certs`",
                "grpc.client_ca_certs.pem",
                "set `server_cert`",
            ],
        ),
        (
            "a key that is none",
            &[
                ("server_cert", &leaf.certificate),
                ("server_key", "no key\n"),
            ],
            &[
                "`server_key`",
                "grpc.server_key.pem",
                "holds no private key",
                "wanted",
            ],
        ),
        (
            "a key with a passphrase",
            &[
                ("server_cert", &leaf.certificate),
                ("server_key", &encrypted),
            ],
            &["`server_key`", "holds no private key", "no passphrase"],
        ),
        (
            "another's key",
            &[
                ("server_cert", &leaf.certificate),
                ("server_key", &other.key),
            ],
            &[
                "`server_key`",
                "grpc.server_key.pem",
                "is not the key",
                "grpc.server_cert.pem",
            ],
        ),
        (
            "an empty certificate",
            &[("server_cert", ""), ("server_key", &leaf.key)],
            &[
                "`server_cert`",
                "grpc.server_cert.pem",
                "holds no certificate",
            ],
        ),
        (
            "broken PEM",
            &[("server_cert", &broken), ("server_key", &leaf.key)],
            &["`server_cert`", "grpc.server_cert.pem", "is broken PEM"],
        ),
        (
            "no certificate in the PEM",
            &[("server_cert", no_certificate), ("server_key", &leaf.key)],
            &["`server_cert`", "grpc.server_cert.pem", "cannot be used"],
        ),
        (
            "an empty authority",
            &[
                ("server_cert", &leaf.certificate),
                ("server_key", &leaf.key),
                ("client_ca_certs", ""),
            ],
            &[
                "`client_ca_certs`",
                "grpc.client_ca_certs.pem",
                "holds no certificate",
            ],
        ),
        (
            "revocations without an authority",
            &[
                ("server_cert", &leaf.certificate),
                ("server_key", &leaf.key),
                ("client_crl", &leaf.certificate),
            ],
            &[
                "`client_crl`",
                "grpc.client_crl.pem",
                "set `client_ca_certs`",
            ],
        ),
        (
            "revocations that are none",
            &[
                ("server_cert", &leaf.certificate),
                ("server_key", &leaf.key),
                ("client_ca_certs", &authority),
                ("client_crl", &leaf.certificate),
            ],
            &[
                "`client_crl`",
                "grpc.client_crl.pem",
                "holds no revocation list",
            ],
        ),
        (
            "empty intermediates",
            &[
                ("server_cert", &leaf.certificate),
                ("server_key", &leaf.key),
                ("server_ca_certs", "\n"),
            ],
            &[
                "`server_ca_certs`",
                "grpc.server_ca_certs.pem",
                "holds no certificate",
            ],
        ),
    ];
    let refusal = |setup: Setup, case: &str| match setup.try_start() {
        Ok(_) => panic!("{case}: it started"),
        Err(log) => log,
    };
    for (case, files, parts) in cases {
        let mut setup = setup();
        for (key, content) in *files {
            name_file(&mut setup, &format!("grpc.{key}"), content);
        }
        let log = refusal(setup, case);
        for part in parts.iter().chain(&["[grpc]"]) {
            assert!(log.contains(part), "{case}: {part} in\n{log}");
        }
        assert!(!log.contains("no key\\n"), "{case}: {log}");
    }
    let mut absent = setup();
    serve_with(&mut absent, "http", &leaf);
    absent.set("http.server_cert", missing.clone());
    let log = refusal(absent, "missing");
    for part in ["[http]", "`server_cert`", &missing, "No such file"] {
        assert!(log.contains(part), "{part} in\n{log}");
    }
}

#[test]
fn a_key_that_others_can_read_is_a_warning() {
    let leaf = Authority::root("root").server();
    let mut setup = setup();
    serve_with(&mut setup, "grpc", &leaf);
    let path = setup.folder.path().join("grpc.server_key.pem");
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(path, open).expect("the mode can be set");
    let log = setup.start().log();
    assert!(log.contains("grpc.server_key.pem"), "{log}");
    assert!(log.contains("0644") && log.contains("chmod 600"), "{log}");
}

/// More of them than handshakes that the daemon holds at once, which is 256.
#[tokio::test]
async fn silent_clients_keep_nobody_from_being_served() {
    let root = Authority::root("root");
    let mut setup = setup();
    serve_with(&mut setup, "grpc", &root.server());
    serve_with(&mut setup, "http", &root.server());
    let daemon = setup.start();
    let client = Client {
        trusted: &root,
        identity: None,
    };
    let mut silent = Vec::new();
    for address in [daemon.grpc, daemon.http] {
        for _ in 0..300 {
            silent.push(TcpStream::connect(address).await.expect("it connects"));
        }
    }
    // Below the time that the daemon gives a handshake.
    let served = async {
        let listed = list(&daemon, &client).await;
        let answer = get(daemon.http, client_config(&client, &[&TLS13])).await;
        (listed, answer)
    };
    let served = tokio::time::timeout(Duration::from_secs(8), served).await;
    let (listed, answer) = served.expect("nobody waits for silent clients");
    assert_eq!(listed, Ok(0));
    answer.expect("an answer");
    // The oldest was ended for others, the last is given its time and no more.
    let mut ends = [silent.remove(0), silent.pop().expect("there are more")];
    for stream in &mut ends {
        let mut byte = [0];
        let end = tokio::time::timeout(PATIENCE, stream.read(&mut byte)).await;
        let end = end.expect("it is ended");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}

/// The daemon has no descriptor for a while: whoever came then is served afterwards.
#[tokio::test]
async fn a_listener_outlives_a_time_without_descriptors() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let root = Authority::root("root");
    let mut setup = setup();
    serve_with(&mut setup, "http", &root.server());
    let daemon = setup.start();
    let pid = i32::try_from(daemon.pid()).ok().and_then(Pid::from_raw);
    // The least that the process has open already.
    let none = Rlimit {
        current: Some(3),
        ..rustix::process::getrlimit(Resource::Nofile)
    };
    let before = prlimit(pid, Resource::Nofile, none).expect("it is our process");
    let client = Client {
        trusted: &root,
        identity: None,
    };
    let secure = get(daemon.http, client_config(&client, &[&TLS13]));
    let plain = daemon.list();
    let restore = async {
        eventually("both to be refused", PATIENCE, || async {
            let log = daemon.log();
            let is_said = |listener: &str| {
                log.lines().any(|line| {
                    line.contains("cannot accept connections") && line.contains(listener)
                })
            };
            (is_said("grpc") && is_said("http")).then_some(())
        })
        .await;
        prlimit(pid, Resource::Nofile, before).expect("it is our process");
    };
    let (answer, vms, ()) = tokio::join!(secure, plain, restore);
    answer.expect("an answer");
    assert!(vms.is_empty());
}

#[tokio::test]
async fn off_loopback_tls_alone_is_not_enough() {
    let (root, clients) = (Authority::root("root"), Authority::root("clients"));
    let mut exposed = setup();
    exposed.set("grpc.host", "0.0.0.0");
    serve_with(&mut exposed, "grpc", &root.server());
    let log = exposed.try_start().expect_err("anyone could run VMs");
    for part in [
        "the gRPC listener would be on 0.0.0.0",
        "client_ca_certs",
        "insecure = true",
    ] {
        assert!(log.contains(part), "{log}");
    }

    let mut authenticated = setup();
    authenticated.set("grpc.host", "0.0.0.0");
    serve_with(&mut authenticated, "grpc", &root.server());
    let authority = clients.certificate();
    name_file(&mut authenticated, "grpc.client_ca_certs", &authority);
    let daemon = authenticated.start();
    assert!(daemon.grpc.ip().is_unspecified(), "{}", daemon.grpc);
    let mut client = Client {
        trusted: &root,
        identity: Some(clients.client()),
    };
    assert_eq!(list(&daemon, &client).await, Ok(0));
    client.identity = None;
    list(&daemon, &client).await.expect_err("a stranger");
}
