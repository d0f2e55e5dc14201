//! The tier `std`: a component that imports all of WASI 0.2 is served, and reaches nothing by it.
//!
//! The fixture `worldly` says in its plans what it saw, and tries what should not work.

use std::time::{Duration, Instant};

use casemate_integration::daemon::{Daemon, Setup};
use casemate_proto::v1;
use tonic::{Code, Status};

const BACKEND: &str = "worldly";

/// All interfaces of WASI 0.2 but those of HTTP; a component that calls what the fixture calls
/// imports each of them.
const WASI: [&str; 27] = [
    "wasi:cli/environment@0.2.6",
    "wasi:cli/exit@0.2.6",
    "wasi:cli/stderr@0.2.6",
    "wasi:cli/stdin@0.2.6",
    "wasi:cli/stdout@0.2.6",
    "wasi:cli/terminal-input@0.2.6",
    "wasi:cli/terminal-output@0.2.6",
    "wasi:cli/terminal-stderr@0.2.6",
    "wasi:cli/terminal-stdin@0.2.6",
    "wasi:cli/terminal-stdout@0.2.6",
    "wasi:clocks/monotonic-clock@0.2.6",
    "wasi:clocks/wall-clock@0.2.6",
    "wasi:filesystem/preopens@0.2.6",
    "wasi:filesystem/types@0.2.6",
    "wasi:io/error@0.2.6",
    "wasi:io/poll@0.2.6",
    "wasi:io/streams@0.2.6",
    "wasi:random/insecure@0.2.6",
    "wasi:random/insecure-seed@0.2.6",
    "wasi:random/random@0.2.6",
    "wasi:sockets/instance-network@0.2.6",
    "wasi:sockets/ip-name-lookup@0.2.6",
    "wasi:sockets/network@0.2.6",
    "wasi:sockets/tcp@0.2.6",
    "wasi:sockets/tcp-create-socket@0.2.6",
    "wasi:sockets/udp@0.2.6",
    "wasi:sockets/udp-create-socket@0.2.6",
];

/// A config in which the fixture has that tier, or none that is written down.
fn setup(tier: Option<&str>) -> Setup {
    let mut setup = Setup::new();
    setup.add_backend(BACKEND, toml::Table::new());
    let backends = setup.config["backend"].as_array_mut().expect("an array");
    let added = backends.last_mut().and_then(toml::Value::as_table_mut);
    if let Some(tier) = tier {
        let added = added.expect("a table");
        added.insert("tier".to_owned(), tier.into());
    }
    setup
}

async fn backend(daemon: &Daemon) -> v1::Backend {
    let request = v1::GetBackendRequest {
        name: BACKEND.to_owned(),
    };
    let answer = daemon.backends().await.get_backend(request).await;
    let backend = answer.expect("it is configured").into_inner().backend;
    backend.expect("a backend")
}

async fn plan(daemon: &Daemon, act: &str) -> Result<v1::PlanVmResponse, Status> {
    let request = v1::PlanVmRequest {
        spec: Some(v1::VmSpec {
            backend: BACKEND.to_owned(),
            settings: [("act".to_owned(), act.to_owned())].into(),
            ..v1::VmSpec::default()
        }),
        ..v1::PlanVmRequest::default()
    };
    Ok(daemon.vms().await.plan_vm(request).await?.into_inner())
}

/// What the fixture saw of the world: subject and detail.
fn seen(planned: &v1::PlanVmResponse) -> Vec<(&str, &str)> {
    let findings = planned.findings.iter();
    let findings = findings.filter(|finding| finding.id.starts_with("worldly."));
    findings
        .map(|finding| (finding.subject.as_str(), finding.detail.as_str()))
        .collect()
}

#[tokio::test]
async fn what_imports_wasi_is_served_in_std_and_refused_in_strict_with_every_import_named() {
    for tier in [None, Some("strict")] {
        let daemon = setup(tier).start();
        let refused = backend(&daemon).await;
        assert_eq!((&*refused.status, &*refused.tier), ("failed", "strict"));
        for part in WASI.iter().chain(&[
            "which the `strict` tier does not offer",
            "build it for wasm32-unknown-unknown",
            "or set `tier = \"std\"` for this backend",
        ]) {
            assert!(refused.error.contains(part), "{part}: {}", refused.error);
        }
        let named = refused.error.matches("wasi:").count();
        assert_eq!(named, WASI.len(), "{}", refused.error);
    }
    let daemon = setup(Some("std")).start();
    let served = backend(&daemon).await;
    assert_eq!((&*served.status, &*served.tier), ("in-service", "std"));
    assert_eq!(served.error, "");
    let plain = v1::GetBackendRequest {
        name: "plain-kvm".to_owned(),
    };
    let plain = daemon.backends().await.get_backend(plain).await;
    let plain = plain.expect("it is configured").into_inner().backend;
    assert_eq!(plain.expect("a backend").tier, "strict");
    plan(&daemon, "look").await.expect("it plans");
}

#[test]
fn a_tier_that_is_none_is_an_error_of_the_config_file() {
    let log = setup(Some("lenient")).try_start();
    let log = log.expect_err("there is no such tier");
    for part in ["tier", "lenient", "strict", "std"] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

/// By two daemons, for what one process has chosen by chance is the same in all of its calls.
#[tokio::test]
async fn it_sees_the_same_each_time_and_nothing_of_the_host() {
    let mut daemon = setup(Some("std")).start();
    let mut plans = vec![plan(&daemon, "look").await.expect("it plans")];
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    plans.push(plan(&daemon, "look").await.expect("it plans"));
    assert_eq!(daemon.stop(), Some(0));
    daemon.restart();
    plans.push(plan(&daemon, "look").await.expect("it plans"));
    let first = seen(&plans[0]);
    for other in &plans[1..] {
        assert_eq!(seen(other), first);
    }
    for (subject, detail) in [
        ("environment", "[]"),
        ("arguments", "[]"),
        ("directory", "None"),
        ("files", "[]"),
        ("input", "closed"),
        ("terminals", "[false, false, false]"),
        // 2000-01-01T00:00:00Z, and a day.
        ("wall-clock", "946684800.000000000"),
        ("monotonic-clock", "86400000000000"),
        ("tcp", "access-denied"),
        ("udp", "access-denied"),
        ("names", "permanent-resolver-failure"),
    ] {
        assert!(first.contains(&(subject, detail)), "{subject}: {first:?}");
    }
    // Bytes that are all alike would be the same each time too.
    for subject in ["random", "insecure"] {
        let found = first.iter().find(|(name, _)| *name == subject);
        let (_, detail) = found.expect("it looked");
        assert!(!detail.contains("[0, 0, 0"), "{detail}");
    }
}

#[tokio::test]
async fn what_it_writes_is_in_the_log_of_the_daemon_within_limits() {
    let daemon = setup(Some("std")).start();
    plan(&daemon, "chatter").await.expect("it plans");
    let log = daemon.log();
    let lines = log.lines().filter(|line| line.contains("chatter "));
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len(), 100, "{lines:?}");
    for line in &lines {
        assert!(line.contains(BACKEND), "{line}");
    }
    let (errors, outputs): (Vec<&str>, _) = lines.iter().partition(|line| line.contains("WARN"));
    assert_eq!((errors.len(), outputs.len()), (50, 50));
    assert!(log.contains("log lines dropped"), "{log}");
}

#[tokio::test]
async fn what_goes_too_far_is_ended_and_the_next_call_is_served() {
    let daemon = setup(Some("std")).start();
    for (act, part) in [
        ("flood", "it wrote more than 10000 log lines in one call"),
        ("endless", "it wrote more than 10000 log lines in one call"),
        ("last-words", "(it said: the last words)"),
        ("exit", "it trapped: it ended itself with status 1"),
        ("random", "requested len 1073741824 exceeds limit 65536"),
        ("hoard", "it trapped: "),
    ] {
        let status = plan(&daemon, act).await.expect_err(act);
        assert_eq!(status.code(), Code::Internal, "{act}: {status}");
        let whose = format!("backend \"{BACKEND}\" is at fault: ");
        for part in [&*whose, part, "\nremedy: report it to the backend's vendor"] {
            assert!(status.message().contains(part), "{act}: {status}");
        }
        plan(&daemon, "look").await.expect("it is served on");
    }
    let log = daemon.log();
    assert!(log.matches("flood ").count() < 1_000, "it is not written");
}

/// The clock stands still for a component, and the deadline does not.
#[tokio::test]
async fn a_wait_is_ended_by_the_deadline_and_holds_up_nobody() {
    let daemon = setup(Some("std")).start();
    let started = Instant::now();
    let others = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..5 {
            plan(&daemon, "look").await.expect("others are served");
        }
        assert!(started.elapsed() < Duration::from_secs(5), "meanwhile");
    };
    let (sleep, poll, spin, ()) = tokio::join!(
        plan(&daemon, "sleep"),
        plan(&daemon, "poll"),
        plan(&daemon, "spin"),
        others
    );
    for (act, answer) in [("sleep", sleep), ("poll", poll), ("spin", spin)] {
        let status = answer.expect_err(act);
        assert_eq!(status.code(), Code::Internal, "{act}: {status}");
        let part = "it did not answer within 5000 ms";
        assert!(status.message().contains(part), "{act}: {status}");
    }
    assert!(started.elapsed() < Duration::from_secs(30));
}
