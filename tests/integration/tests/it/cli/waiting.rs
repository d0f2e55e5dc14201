//! `vm create --wait`, and what Ctrl-C leaves. The real guest where it has to boot, the scripted
//! QEMU where it must not.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use casemate_integration::daemon::{Daemon, Setup};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use super::{PATIENCE, casemate, command, json_of, text};

#[test]
fn a_guest_has_booted_when_its_agent_answers() {
    let daemon = Setup::new().start();
    let created = casemate(&daemon, &["vm", "create", "--name", "first", "--wait"]);
    assert!(created.status.success(), "{}", text(&created.stderr));
    assert_eq!(text(&created.stderr), "", "nothing is drawn in a pipe");
    // QEMU accepted connections long before this.
    let console = casemate(&daemon, &["vm", "logs", "first"]);
    let console = text(&console.stdout);
    assert!(console.contains("casemate-agent: ready"), "{console}");
}

/// A scripted QEMU forwards no port, so that nothing ever answers.
fn silent_daemon() -> Daemon {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup.start()
}

fn waiting(daemon: &Daemon) -> Child {
    let arguments = ["vm", "create", "--name", "first", "--wait"];
    let mut command = command(daemon, &arguments);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.expect("casemate runs");
    let started = Instant::now();
    while json_of(daemon, &["vm", "list", "--name", "first"])
        .as_array()
        .is_none_or(|vms| !vms.iter().any(|vm| vm["state"] == "running"))
    {
        assert!(started.elapsed() < PATIENCE, "no VM runs");
        std::thread::sleep(Duration::from_millis(50));
    }
    // It watches by then.
    std::thread::sleep(Duration::from_secs(1));
    child
}

#[test]
fn a_guest_that_does_not_answer_is_told_and_left() {
    let daemon = silent_daemon();
    let output = casemate(&daemon, &["vm", "create", "--wait", "--wait-timeout", "2s"]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{error}");
    assert!(
        error.contains("agent-silent") && error.contains("within 2s"),
        "{error}"
    );
    let vms = json_of(&daemon, &["vm", "list"]);
    assert_eq!(vms[0]["state"], "running", "{vms}");
}

#[test]
fn a_guest_that_ends_ends_the_wait() {
    let daemon = silent_daemon();
    let waiting = waiting(&daemon);
    let stop = casemate(&daemon, &["vm", "stop", "--force", "first"]);
    assert!(stop.status.success(), "{}", text(&stop.stderr));
    let output = waiting.wait_with_output().expect("ours");
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{error}");
    let vms = json_of(&daemon, &["vm", "list"]);
    let remedy = format!(
        "casemate vm logs {}",
        vms[0]["id"].as_str().unwrap_or_default()
    );
    assert!(
        error.contains("vm-ended-early") && error.contains(&remedy),
        "{error}"
    );
    // stopping -> stopped: whichever is seen, its detail is said.
    assert!(error.contains("stopped"), "{error}");
}

#[test]
fn ctrl_c_says_what_is_left() {
    let daemon = silent_daemon();
    let waited = waiting(&daemon);
    let pid = Pid::from_child(&waited);
    rustix::process::kill_process(pid, Signal::INT).expect("it is there");
    let output = waited.wait_with_output().expect("ours");
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{error}");
    let vms = json_of(&daemon, &["vm", "list"]);
    let id = vms[0]["id"].as_str().unwrap_or_default();
    assert!(
        error.contains(&format!("casemate vm remove {id}")),
        "{error}"
    );

    // While the daemon is at it, nothing is left, unless the request goes on for its key.
    for (key, part) in [
        (&[][..], "no VM is left"),
        (
            &["--idempotency-key", "once"],
            "the daemon goes on for the idempotency key",
        ),
    ] {
        let mut setup = Setup::new();
        setup.use_fake_qemu(&json!({"delay_ms": {"cont": 20_000}}));
        let slow = setup.start();
        let mut creating = command(&slow, &[&["vm", "create"], key].concat());
        let creating = creating.stderr(Stdio::piped()).spawn();
        let creating = creating.expect("casemate runs");
        let is_empty = || json_of(&slow, &["vm", "list"]) == Value::Array(Vec::new());
        eventually_not(is_empty, "no VM is begun");
        let pid = Pid::from_child(&creating);
        rustix::process::kill_process(pid, Signal::INT).expect("it is there");
        let output = creating.wait_with_output().expect("ours");
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{error}");
        assert!(error.contains(part), "{error}");
        if key.is_empty() {
            eventually_not(|| !is_empty(), "a VM is left");
        }
    }
}

pub(super) fn eventually_not(is_so: impl Fn() -> bool, otherwise: &str) {
    let started = Instant::now();
    while is_so() {
        assert!(started.elapsed() < PATIENCE, "{otherwise}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
