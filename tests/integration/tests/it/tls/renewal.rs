//! Certificates of the server that are renewed while it serves.

use std::time::Duration;

use casemate_integration::certificates::{self, Authority};
use casemate_integration::daemon::{Daemon, eventually};
use casemate_integration::tls_client::{Client, client_config, get, list};
use rustix::process::Signal;
use tokio_rustls::rustls::version::TLS13;

use super::{serve_with, setup};

/// The daemon looks at its files every 10 s.
const NOTICED: Duration = Duration::from_secs(40);

fn replace(daemon: &Daemon, key: &str, content: &str) {
    certificates::replace(&daemon.folder.path().join(format!("{key}.pem")), content);
}

async fn count(daemon: &Daemon, name: &str) -> u64 {
    let (_, metrics) = daemon.get_http("/metrics").await;
    let name = format!("{name} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |count| count.parse().expect("a number"))
}

#[tokio::test]
async fn a_renewed_certificate_is_served_and_a_bad_one_is_not() {
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let mut setup = setup();
    serve_with(&mut setup, "grpc", &old.server());
    let daemon = setup.start();
    let trusting = |trusted| Client {
        trusted,
        identity: None,
    };
    const APPLIED: &str = "casemate_tls_reloads_total{listener=\"grpc\",outcome=\"applied\"}";
    const REFUSED: &str = "casemate_tls_reloads_total{listener=\"grpc\",outcome=\"refused\"}";
    assert_eq!(list(&daemon, &trusting(&old)).await, Ok(0));

    // Half of a set is none, and is told once.
    let renewed = new.server();
    replace(&daemon, "grpc.server_cert", &renewed.certificate);
    eventually("the refusal", NOTICED, || async {
        (count(&daemon, REFUSED).await == 1).then_some(())
    })
    .await;
    let log = daemon.log();
    for part in [
        "is not the key",
        "grpc.server_cert.pem",
        "reload-tls",
        "serve on",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert_eq!(list(&daemon, &trusting(&old)).await, Ok(0));

    replace(&daemon, "grpc.server_key", &renewed.key);
    eventually("the renewal", NOTICED, || async {
        list(&daemon, &trusting(&new)).await.ok()
    })
    .await;
    list(&daemon, &trusting(&old))
        .await
        .expect_err("it is gone");
    assert_eq!(count(&daemon, APPLIED).await, 1);
    assert_eq!(count(&daemon, REFUSED).await, 1);
}

#[tokio::test]
async fn a_reload_reads_the_files_and_refuses_bad_ones_as_a_whole() {
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let mut setup = setup();
    serve_with(&mut setup, "http", &old.server());
    let daemon = setup.start();
    let trusting = |trusted| {
        let client = Client {
            trusted,
            identity: None,
        };
        get(daemon.http, client_config(&client, &[&TLS13]))
    };
    let renewed = new.server();
    replace(&daemon, "http.server_cert", "no certificate\n");
    daemon.signal(Signal::HUP);
    eventually("the refusal", NOTICED, || async {
        daemon.log().contains("config not reloaded").then_some(())
    })
    .await;
    let log = daemon.log();
    for part in ["TLS of `[http]`", "holds no certificate", "reload-tls"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    trusting(&old).await.expect("the old one serves");
    replace(&daemon, "http.server_cert", &renewed.certificate);
    replace(&daemon, "http.server_key", &renewed.key);
    daemon.signal(Signal::HUP);
    // Sooner than the daemon would look by itself.
    eventually("the reload", Duration::from_secs(8), || async {
        trusting(&new).await.ok()
    })
    .await;
}

/// Files that would do nothing are no better at a reload than at a start.
#[tokio::test]
async fn a_reload_refuses_files_for_a_listener_without_tls() {
    let mut daemon = setup().start();
    let path = daemon.folder.path().join("any.crl");
    daemon
        .setup
        .set("http.client_crl", path.display().to_string());
    daemon.setup.write_config();
    daemon.signal(Signal::HUP);
    eventually("the refusal", NOTICED, || async {
        daemon.log().contains("config not reloaded").then_some(())
    })
    .await;
    let log = daemon.log();
    for part in ["TLS of `[http]`", "`client_crl`", "any.crl"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    let name = "casemate_tls_reloads_total{listener=\"http\",outcome=\"refused\"}";
    assert_eq!(count(&daemon, name).await, 1);
}
