//! The CLI against a daemon, as a person or a script uses it.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup, free_port};
use serde_json::{Value, json};

fn casemate(daemon: &Daemon, arguments: &[&str]) -> Output {
    #[expect(clippy::disallowed_methods, reason = "the subject of the tests")]
    let mut command = std::process::Command::new(artifacts::program("casemate"));
    let output = command
        .env("CASEMATE_ENDPOINT", daemon.endpoint())
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    output.expect("casemate runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json_of(daemon: &Daemon, arguments: &[&str]) -> Value {
    let output = casemate(daemon, &[arguments, &["--format", "json"]].concat());
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        text(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// With the scripted QEMU, because the subject is what the CLI shows.
#[test]
fn the_life_of_a_vm_in_verbs() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    let created = json_of(
        &daemon,
        &["vm", "create", "--name", "first", "--env", "A=1"],
    );
    let id = created["id"].as_str().expect("an id").to_owned();
    assert_eq!(created["state"], "running");
    assert_eq!(created["confidential"], false);

    let list = casemate(&daemon, &["vm", "list"]);
    let table = text(&list.stdout);
    assert!(
        table.contains("NAME") && table.contains("first") && table.contains("running"),
        "{table}"
    );
    assert_eq!(
        json_of(&daemon, &["vm", "list"]).as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(
        json_of(&daemon, &["vm", "show", "first"])["id"],
        id.as_str()
    );
    let logs = casemate(&daemon, &["vm", "logs", &id[..8]]);
    assert!(
        text(&logs.stdout).contains("fake console"),
        "{}",
        text(&logs.stdout)
    );

    let removed = casemate(&daemon, &["vm", "remove", &id]);
    assert!(removed.status.success(), "{}", text(&removed.stderr));
    let gone = casemate(&daemon, &["vm", "show", &id]);
    assert_eq!(gone.status.code(), Some(3), "{}", text(&gone.stderr));
}

#[test]
fn backends_are_listed_with_what_they_may_do() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    let list = text(&casemate(&daemon, &["backend", "list"]).stdout);
    assert!(
        list.contains("plain-kvm") && list.contains("in-service"),
        "{list}"
    );
    let shown = json_of(&daemon, &["backend", "show", "plain-kvm"]);
    assert_eq!(shown["tee"], "none");
    assert!(
        shown["settings"]
            .as_array()
            .is_some_and(|s| s.iter().any(|s| s["key"] == "max-memory"))
    );
    assert!(
        shown["grants"]
            .as_array()
            .is_some_and(|g| g.iter().all(|g| g["granted"] == true))
    );
    let unknown = casemate(&daemon, &["backend", "show", "x"]);
    assert_eq!(unknown.status.code(), Some(3), "{}", text(&unknown.stderr));
}

/// What `plan --standalone` prints is a script: a shell starts the real guest with it.
#[test]
fn the_standalone_script_boots_the_guest() {
    let mut setup = Setup::new();
    // Characters with a meaning in a shell and in QEMU's options.
    let kernel = setup.folder.path().join("a, kernel's \"ü\" $HOME");
    std::fs::copy(artifacts::kernel(), &kernel).expect("a copy");
    setup.set("vm.kernel", kernel.display().to_string());
    let port = free_port();
    setup.set("network.ports", format!("{port}-{port}"));
    let daemon = setup.start();
    let output = casemate(&daemon, &["plan", "--standalone"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let script = daemon.folder.path().join("start.sh");
    std::fs::write(&script, &output.stdout).expect("a file");
    #[expect(clippy::disallowed_methods, reason = "as a person would")]
    let mut shell = std::process::Command::new("sh");
    let console = daemon.folder.path().join("console");
    let mut child = shell
        .arg(&script)
        .current_dir(daemon.folder.path())
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&console).expect("a file"))
        .stderr(std::fs::File::create(daemon.folder.path().join("errors")).expect("a file"))
        .spawn()
        .expect("a shell");
    let started = Instant::now();
    loop {
        let seen = std::fs::read_to_string(&console).unwrap_or_default();
        if seen.contains("casemate-agent: ready") {
            break;
        }
        let ended = child.try_wait().expect("ours");
        let errors =
            std::fs::read_to_string(daemon.folder.path().join("errors")).unwrap_or_default();
        assert!(
            ended.is_none() && started.elapsed() < Duration::from_secs(120),
            "{seen}\n{errors}\n{}",
            text(&output.stdout)
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    std::net::TcpStream::connect(("127.0.0.1", port)).expect("the agent's port is forwarded");
    child.kill().expect("ours");
    child.wait().expect("ours");
}

#[test]
fn errors_have_an_exit_code_of_their_class() {
    let mut setup = Setup::new();
    setup.set("max_vms", 1);
    setup.use_fake_qemu(&json!({}));
    let mut daemon = setup.start();
    for (arguments, code, part) in [
        (&["vm", "create", "--machine", "pdp11"][..], 4, "pdp11"),
        (&["vm", "create"][..], 0, ""),
        (&["vm", "create"][..], 5, "all 1 VM slots"),
        (&["vm", "create", "--memory", "x"][..], 2, "memory"),
        (&["vm", "create", "--require-confidential"][..], 5, ""),
        (&["plan", "--require-confidential"][..], 6, "confidential"),
        (&["vm", "logs", "nothing"][..], 3, "nothing"),
    ] {
        let output = casemate(&daemon, arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        assert!(
            text(&output.stderr).contains(part),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
    }
    let output = casemate(&daemon, &["vm", "create"]);
    assert!(
        text(&output.stderr).ends_with("\n  error: vm-limit (stage admission, subject max_vms)\n"),
        "{}",
        text(&output.stderr)
    );
    daemon.stop();
    let output = casemate(&daemon, &["vm", "list"]);
    assert_eq!(output.status.code(), Some(7));
    assert!(
        text(&output.stderr).contains("casemated"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn errors_are_json_for_programs() {
    let error_of = |daemon: &Daemon, arguments: &[&str]| -> Value {
        let output = casemate(daemon, &[arguments, &["--format", "json"]].concat());
        assert!(!output.status.success(), "{arguments:?}");
        let mut value: Value = serde_json::from_slice(&output.stderr).expect("one JSON value");
        value["error"].take()
    };
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({"die_at": "cont", "exit_code": 3, "stderr": "one\ntwo\n"}));
    let mut daemon = setup.start();
    let error = error_of(&daemon, &["vm", "create"]);
    assert_eq!(error["id"], "qemu-ended");
    assert_eq!(error["code"], "ABORTED");
    assert_eq!(error["stage"], "launch");
    assert_eq!(error["subject"], "qemu");
    assert_eq!(error["qemu_stderr"], "one\ntwo");
    for part in ["QEMU ended while", "exit code 3"] {
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains(part), "{error}");
    }
    assert!(
        error["remedy"]
            .as_str()
            .is_some_and(|remedy| !remedy.is_empty()),
        "{error}"
    );

    let error = error_of(&daemon, &["vm", "show", "nothing"]);
    assert_eq!(error["id"], "vm-name-unknown");
    assert_eq!(error["code"], Value::Null);
    assert!(error.get("qemu_stderr").is_none(), "{error}");

    let output = casemate(&daemon, &["vm", "remove", "nothing", "--format", "json"]);
    assert_eq!(output.status.code(), Some(3));
    let removals: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(removals[0]["error"]["id"], "vm-name-unknown", "{removals}");
    let error: Value = serde_json::from_slice(&output.stderr).expect("one JSON value");
    assert_eq!(error["error"]["id"], "vms-not-removed", "{error}");

    daemon.stop();
    let error = error_of(&daemon, &["vm", "list"]);
    assert_eq!(error["id"], "daemon-unreachable");
    assert_eq!(error["stage"], "client");
}
