//! The HTTP routes, by what changes them. With the scripted QEMU, because the states of VMs are the
//! subject, not their guests.

use casemate_integration::daemon::Setup;
use casemate_integration::processes;
use casemate_proto::v1;
use rustix::process::Signal;
use serde_json::json;

fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[tokio::test]
async fn health_names_this_instance_for_as_long_as_its_state_lives() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    let (status, body) = daemon.get_http("/health").await;
    assert_eq!(status, 200);
    let health: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(health["status"], "pass");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert!(
        health["build_time"]
            .as_str()
            .is_some_and(|time| time.ends_with('Z')),
        "{body}"
    );
    assert!(health["description"].is_string());
    let kept = std::fs::read_to_string(daemon.state_dir.join("instance-id")).expect("it is kept");
    assert_eq!(health["instance_id"], kept.as_str());
}

/// Problems (RFC 9457), with the ids of the catalogue.
#[tokio::test]
async fn what_is_no_route_is_a_problem() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    for (method, path, status, id) in [
        ("GET", "/no-such-route", 404, "route-unknown"),
        ("POST", "/no-such-route", 404, "route-unknown"),
        ("POST", "/health", 405, "http-method"),
        ("DELETE", "/metrics", 405, "http-method"),
    ] {
        let answer = daemon.ask_http(method, path).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let head = head.to_lowercase();
        assert!(
            head.contains("content-type: application/problem+json"),
            "{head}"
        );
        assert_eq!(head.contains("allow: get"), status == 405, "{head}");
        let problem: serde_json::Value = serde_json::from_str(body).expect("a problem is JSON");
        assert!(head.starts_with(&format!("http/1.0 {status}")), "{head}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:casemate:error:{id}"));
        for member in ["title", "detail", "remedy"] {
            assert!(
                problem[member]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{member} in {problem}"
            );
        }
    }
}

#[tokio::test]
async fn ready_says_which_check_fails() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    assert_eq!(daemon.get_http("/ready").await.0, 200);
    std::fs::remove_file(daemon.folder.path().join("fake/fake-qemu")).expect("it was there");
    let (status, body) = daemon.get_http("/ready").await;
    assert_eq!(status, 503);
    let ready: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(ready["status"], "fail", "{body}");
    let checks = ready["checks"].as_array().expect("a list");
    let failed: Vec<_> = checks.iter().filter(|c| c["status"] == "fail").collect();
    assert_eq!(failed.len(), 1, "{body}");
    assert_eq!(failed[0]["id"], "host.qemu", "{body}");
    for member in ["detail", "remedy"] {
        let text = failed[0][member].as_str().unwrap_or_default();
        assert!(!text.is_empty(), "{member}: {body}");
    }
    let last = checks.last().expect("a check");
    assert_eq!(
        (&last["id"], &last["status"]),
        (&json!("backend"), &json!("pass")),
        "{body}"
    );
}

#[tokio::test]
async fn metrics_follow_what_happens() {
    let mut setup = Setup::new();
    setup.set("max_vms", 1);
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    let (_, before) = daemon.get_http("/metrics").await;
    assert_eq!(metric(&before, "casemate_vm_limit"), Some(1.0));
    assert_eq!(metric(&before, "casemate_vms{state=\"running\"}"), None);
    let instance = std::fs::read_to_string(daemon.state_dir.join("instance-id"));
    let version = format!(
        "casemate_build_info{{instance=\"{}\",version=\"{}\"}}",
        instance.expect("it is kept"),
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(metric(&before, &version), Some(1.0));

    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    daemon
        .create(v1::VmSpec::default())
        .await
        .expect_err("the limit is 1");
    let bad = v1::VmSpec {
        machine: "pdp11".to_owned(),
        ..v1::VmSpec::default()
    };
    daemon
        .vms()
        .await
        .plan_vm(v1::PlanVmRequest {
            spec: Some(bad),
            ..v1::PlanVmRequest::default()
        })
        .await
        .expect_err("no machine");
    let (_, after) = daemon.get_http("/metrics").await;
    for (name, value) in [
        ("casemate_vms{state=\"running\"}", 1.0),
        ("casemate_create_seconds_count{outcome=\"running\"}", 1.0),
        ("casemate_create_seconds_count{outcome=\"exhausted\"}", 1.0),
        ("casemate_qemu_start_seconds_count", 1.0),
        (
            "casemate_backend_call_seconds_count{backend=\"plain-kvm\"}",
            1.0,
        ),
    ] {
        assert_eq!(metric(&after, name), Some(value), "{name} in\n{after}");
    }
    // QEMU's start is a part of the create, never all of it.
    let seconds = |name: &str| metric(&after, name).expect("it is there");
    let qemu_start = seconds("casemate_qemu_start_seconds_sum");
    let create = seconds("casemate_create_seconds_sum{outcome=\"running\"}");
    assert!(0.0 < qemu_start && qemu_start < create, "{after}");
    daemon.remove(&vm.id).await.expect("removal works");
    let (_, last) = daemon.get_http("/metrics").await;
    assert_eq!(metric(&last, "casemate_vms{state=\"running\"}"), None);
    assert!(!last.contains(&vm.id));
}

#[tokio::test]
async fn ends_and_what_was_found_at_the_start_are_counted() {
    let mut setup = Setup::new();
    setup.set("on_shutdown", "leave");
    setup.use_fake_qemu(&json!({}));
    let mut daemon = setup.start();
    let create = async || daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let (panics, killed, removed, stays) = (
        create().await,
        create().await,
        create().await,
        create().await,
    );
    processes::signal(panics.pid, Signal::USR2);
    processes::signal(killed.pid, Signal::KILL);
    for vm in [&panics, &killed] {
        daemon.in_state(&vm.id, v1::VmState::Exited).await;
    }
    // That one was told to, and so is no end to be looked into.
    daemon.remove(&removed.id).await.expect("it goes");
    let (_, ends) = daemon.get_http("/metrics").await;
    let counted = |text: &str, name: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(
        counted(&ends, "casemate_vm_exits_total"),
        [
            "casemate_vm_exits_total{reason=\"guest-panic\"} 1",
            "casemate_vm_exits_total{reason=\"signal\"} 1"
        ]
    );
    daemon.kill();
    daemon.restart();
    daemon.in_state(&stays.id, v1::VmState::Running).await;
    let (_, found) = daemon.get_http("/metrics").await;
    assert_eq!(
        counted(&found, "casemate_vms_found_total"),
        [
            "casemate_vms_found_total{outcome=\"adopted\"} 1",
            "casemate_vms_found_total{outcome=\"down\"} 2"
        ]
    );
    // Of its own life.
    assert_eq!(counted(&found, "casemate_vm_exits_total"), [""; 0]);
}
