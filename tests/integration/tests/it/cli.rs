//! The CLI against a daemon, as a person or a script uses it; what it sends, against a scripted one.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup, free_port};
use casemate_integration::mute;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

mod connection;
mod options;
mod scripted;
mod tables;
mod terminal;
mod waiting;

/// For an answer without an end, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn command(daemon: &Daemon, arguments: &[&str]) -> std::process::Command {
    command_to(&daemon.endpoint(), arguments)
}

pub(crate) fn command_to(endpoint: &str, arguments: &[&str]) -> std::process::Command {
    #[expect(clippy::disallowed_methods, reason = "the subject of the tests")]
    let mut command = std::process::Command::new(artifacts::program("casemate"));
    command
        .env("CASEMATE_ENDPOINT", endpoint)
        .args(mute::arguments(arguments))
        .stdin(Stdio::null());
    command
}

pub(crate) fn casemate(daemon: &Daemon, arguments: &[&str]) -> Output {
    let output = command(daemon, arguments).output();
    mute::ended(output.expect("casemate runs"))
}

/// A `casemate` whose answer has no end of its own.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

impl Follower {
    fn start(daemon: &Daemon, arguments: &[&str]) -> Self {
        let mut child = command(daemon, arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("casemate runs");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line that fits.
    fn wait_for(&self, fits: impl Fn(&str) -> bool) -> String {
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            if fits(&line) {
                return line;
            }
            seen.push(line);
        }
        panic!("no such line among {seen:#?}");
    }

    fn interrupt(&self) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::INT).expect("it is there");
    }

    fn exit_code(mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("ours") {
                return status.code().map(mute::exit_code);
            }
            assert!(started.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It has ended, if the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
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

/// With the scripted QEMU, because the subject is what the CLI shows.
#[test]
fn vms_are_changed_in_verbs_several_at_once() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    let ids = ["first", "second"].map(|name| {
        let created = json_of(
            &daemon,
            &["vm", "create", "--name", name, "--restart", "on-failure"],
        );
        assert_eq!(created["restart_policy"], "on-failure", "{created}");
        assert_eq!(created["restarts"], 0, "{created}");
        assert_ne!(created["started_at"], "", "{created}");
        assert_eq!(created["last_exit"], Value::Null, "{created}");
        created["id"].as_str().expect("an id").to_owned()
    });
    let [first, second] = ids.each_ref().map(String::as_str);
    for (arguments, code, lines, state) in [
        (
            &["pause", "first"][..],
            0,
            &[("paused", first)][..],
            "paused",
        ),
        (&["pause", first], 0, &[("already paused", first)], "paused"),
        (&["resume", "first"], 0, &[("resumed", first)], "running"),
        (
            &["start", "first"],
            0,
            &[("already running", first)],
            "running",
        ),
        (&["reset", "first"], 0, &[("reset", first)], "running"),
        (
            &["stop", "--force", "first", "nothing", "second", first],
            3,
            &[("stopped", first), ("stopped", second)],
            "stopped",
        ),
        (
            &["stop", "first"],
            0,
            &[("already stopped", first)],
            "stopped",
        ),
        (&["start", "first"], 0, &[("started", first)], "running"),
        (
            &["restart", "--force", "first"],
            0,
            &[("restarted", first)],
            "running",
        ),
    ] {
        let output = casemate(&daemon, &[&["vm"], arguments].concat());
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        let wanted: String = lines
            .iter()
            .map(|(done, id)| format!("{done} {id}\n"))
            .collect();
        assert_eq!(text(&output.stdout), wanted, "{arguments:?}");
        if code != 0 {
            assert!(errors.contains("no VM has \"nothing\""), "{errors}");
            assert!(errors.contains("1 of 3 VMs were not stopped"), "{errors}");
        }
        let shown = json_of(&daemon, &["vm", "show", "first"]);
        assert_eq!(shown["state"], state, "{arguments:?}");
    }
    let stopped = json_of(&daemon, &["vm", "show", "second"]);
    assert_eq!(stopped["state"], "stopped");
    assert_ne!(stopped["last_exit"], Value::Null);
    assert_eq!(stopped["started_at"], "");

    let outcomes = json_of(&daemon, &["vm", "start", "second"]);
    assert_eq!(outcomes[0]["id"], second);
    assert_eq!(outcomes[0]["started"], true);
    assert_eq!(outcomes[0]["vm"]["state"], "running");
    assert_eq!(outcomes[0]["error"], Value::Null);
}

/// With the scripted QEMU, because the subject is what the CLI shows.
#[test]
fn a_watch_shows_changes_until_it_is_interrupted() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    json_of(&daemon, &["vm", "create", "--name", "first"]);

    let objects = Follower::start(&daemon, &["vm", "watch", "--format", "json"]);
    let parsed = |line: &str| serde_json::from_str::<Value>(line).expect("a JSON object");
    let before = objects.wait_for(|line| parsed(line)["vm"]["name"] == "first");
    assert_eq!(parsed(&before)["vm"]["state"], "running");
    objects.wait_for(|line| parsed(line)["synchronized"] == true);
    let lines = Follower::start(&daemon, &["vm", "watch", "first"]);
    lines.wait_for(|line| line.contains("first") && line.contains("running"));

    let second = json_of(&daemon, &["vm", "create", "--name", "second"]);
    objects.wait_for(|line| {
        let vm = &parsed(line)["vm"];
        vm["id"] == second["id"] && vm["state"] == "running"
    });
    let stop = casemate(&daemon, &["vm", "stop", "--force", "first"]);
    assert!(stop.status.success(), "{}", text(&stop.stderr));
    objects.wait_for(|line| parsed(line)["vm"]["state"] == "stopped");
    // The other VM is none of its business.
    lines.wait_for(|line| {
        assert!(!line.contains("second"), "{line}");
        line.contains("stopped")
    });
    let remove = casemate(&daemon, &["vm", "remove", "first"]);
    assert!(remove.status.success(), "{}", text(&remove.stderr));
    lines.wait_for(|line| line.contains("first") && line.ends_with("removed"));
    assert_eq!(lines.exit_code(), Some(0));
    objects.wait_for(|line| parsed(line)["removed"] == parsed(&before)["vm"]["id"]);
    objects.interrupt();
    assert_eq!(objects.exit_code(), Some(130));

    let unknown = casemate(&daemon, &["vm", "watch", "nothing"]);
    assert_eq!(unknown.status.code(), Some(3), "{}", text(&unknown.stderr));
}

/// A watch that loses its daemon must not look like one that saw nothing happen.
#[test]
fn a_watch_ends_with_its_daemon() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let mut daemon = setup.start();
    let objects = Follower::start(&daemon, &["vm", "watch", "--format", "json"]);
    objects.wait_for(|line| line.contains("synchronized"));
    daemon.stop();
    assert_eq!(objects.exit_code(), Some(7));
}

/// With the scripted QEMU, which writes one line and can be stopped at once.
#[test]
fn a_console_is_followed_until_the_vm_is_down() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    json_of(&daemon, &["vm", "create", "--name", "first"]);
    let interrupted = Follower::start(&daemon, &["vm", "logs", "-f", "first"]);
    interrupted.wait_for(|line| line.contains("fake console"));
    interrupted.interrupt();
    assert_eq!(interrupted.exit_code(), Some(130));

    let followed = Follower::start(&daemon, &["vm", "logs", "--follow", "first"]);
    followed.wait_for(|line| line.contains("fake console"));
    let stop = casemate(&daemon, &["vm", "stop", "--force", "first"]);
    assert!(stop.status.success(), "{}", text(&stop.stderr));
    assert_eq!(followed.exit_code(), Some(0));

    let start = casemate(&daemon, &["vm", "start", "first"]);
    assert!(start.status.success(), "{}", text(&start.stderr));
    let before = casemate(&daemon, &["vm", "logs", "first", "--previous", "1"]);
    assert!(before.status.success(), "{}", text(&before.stderr));
    assert!(text(&before.stdout).contains("fake console"));
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
    let page = text(&casemate(&daemon, &["backend", "show", "plain-kvm"]).stdout);
    let tier = page.lines().find(|line| line.starts_with("tier"));
    assert!(tier.is_some_and(|line| line.ends_with("strict")), "{page}");
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
