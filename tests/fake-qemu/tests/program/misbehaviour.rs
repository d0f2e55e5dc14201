//! Each way to misbehave, on cue.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::running::{Running, UUID};

/// Long enough to be sure that nothing comes.
const NOTHING_COMES: Duration = Duration::from_millis(200);

const SOON: Duration = Duration::from_secs(20);

fn command_of(stage: &str) -> (&'static str, Value) {
    match stage {
        "stop-command" => ("stop", json!({})),
        "status" => ("query-status", json!({})),
        "uuid" => ("query-uuid", json!({})),
        "set-action" => ("set-action", json!({"reboot": "shutdown"})),
        "reset" => ("system_reset", json!({})),
        "powerdown" => ("system_powerdown", json!({})),
        "quit" => ("quit", json!({})),
        "hostfwd" => (
            "human-monitor-command",
            json!({"command-line": "hostfwd_add n0 tcp:127.0.0.1:0-:7"}),
        ),
        "cont" | "resume" => ("cont", json!({})),
        other => panic!("{other} has no command"),
    }
}

/// A machine just before the stage's command.
fn before(stage: &str, script: &Value) -> Running {
    let mut machine = Running::fake_with(script);
    machine.negotiate();
    if stage != "cont" {
        machine.ask("cont", json!({}));
    }
    if stage == "resume" {
        machine.ask("stop", json!({}));
    }
    machine
}

const STAGES: [&str; 10] = [
    "hostfwd",
    "cont",
    "resume",
    "stop-command",
    "status",
    "uuid",
    "set-action",
    "reset",
    "powerdown",
    "quit",
];

#[test]
fn it_dies_in_place_of_an_answer() {
    for stage in STAGES {
        let mut machine = before(stage, &json!({"die_at": stage, "exit_code": 3}));
        let (command, arguments) = command_of(stage);
        assert_eq!(machine.ask(command, arguments), None, "{stage}");
        assert_eq!(machine.wait().code(), Some(3), "{stage}");
    }
}

#[test]
fn it_hangs_in_place_of_an_answer() {
    for stage in STAGES {
        let mut machine = before(stage, &json!({"hang_at": stage}));
        let (command, arguments) = command_of(stage);
        let answer = machine.ask_within(command, arguments, NOTHING_COMES);
        assert_eq!(answer, None, "{stage}");
        assert!(machine.is_alive(), "{stage}");
    }
}

#[test]
fn it_dies_by_a_signal() {
    for signal in [4, 6, 9, 11, 15] {
        let mut machine = before("uuid", &json!({"die_at": "uuid", "exit_signal": signal}));
        assert_eq!(machine.ask("query-uuid", json!({})), None, "{signal}");
        assert_eq!(machine.wait().signal(), Some(signal));
    }
}

#[test]
fn it_dies_while_it_runs() {
    let script = json!({"die_at": "running", "exit_signal": 9, "delay_ms": {"running": 50}});
    let mut machine = before("uuid", &script);
    assert_eq!(machine.wait().signal(), Some(9));
}

#[test]
fn it_closes_the_monitor_and_lives() {
    for stage in STAGES {
        let mut machine = before(stage, &json!({"close_qmp_at": stage}));
        let (command, arguments) = command_of(stage);
        assert_eq!(machine.ask(command, arguments.clone()), None, "{stage}");
        assert_eq!(machine.log.last().map(String::as_str), Some("closed"));
        assert!(machine.is_alive(), "{stage}");
        // Whoever comes next is served up to the same point.
        machine.negotiate();
        assert_eq!(machine.ask(command, arguments), None, "{stage}");
    }
    let script = json!({"close_qmp_at": "running", "delay_ms": {"running": 20}});
    let mut machine = before("uuid", &script);
    machine.listen();
    assert_eq!(machine.log.last().map(String::as_str), Some("closed"));
    assert!(machine.is_alive());
}

#[test]
fn it_reads_nothing_more() {
    for stage in STAGES {
        if stage == "quit" {
            continue;
        }
        let script = json!({"stall_at": stage, "ignore": ["system_powerdown", "system_reset"]});
        let mut machine = before(stage, &script);
        let (command, arguments) = command_of(stage);
        assert!(machine.ask(command, arguments).is_some(), "{stage}");
        let answer = machine.ask_within("query-status", json!({}), NOTHING_COMES);
        assert_eq!(answer, None, "{stage}");
        assert!(machine.is_alive(), "{stage}");
    }
}

#[test]
fn a_command_is_late() {
    let mut machine = before("uuid", &json!({"late_ms": {"query-status": 300}}));
    let started = Instant::now();
    assert!(machine.ask("query-uuid", json!({})).is_some());
    assert!(started.elapsed() < Duration::from_millis(300));
    assert!(machine.ask("query-status", json!({})).is_some());
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[test]
fn it_claims_another_uuid() {
    for (script, expected) in [
        (json!({}), UUID),
        (json!({"wrong_uuid": "another"}), "another"),
    ] {
        let mut machine = before("uuid", &script);
        let answer = machine.ask("query-uuid", json!({})).expect("an answer");
        assert_eq!(answer["return"]["UUID"], expected);
    }
}

#[test]
fn a_second_client_finds_what_was_wanted() {
    for (what, greeted, limit) in [
        ("greet", true, SOON),
        ("silent", false, NOTHING_COMES),
        ("hang-up", false, SOON),
        ("refuse", false, SOON),
    ] {
        let mut machine = Running::fake_with(&json!({"on_reconnect": what}));
        machine.negotiate();
        assert_eq!(machine.connect_within(limit), greeted, "{what}");
        assert!(machine.is_alive(), "{what}");
    }
}

#[test]
fn the_first_forwards_are_refused() {
    let mut machine = before("hostfwd", &json!({"hostfwd_refuse": 2}));
    for refused in [true, true, false] {
        let (command, arguments) = command_of("hostfwd");
        let answer = machine.ask(command, arguments).expect("an answer");
        let text = answer["return"].as_str().expect("text");
        assert_eq!(
            text == "Could not set up host forwarding rule 'tcp:127.0.0.1:0-:7'\r\n",
            refused,
            "{text}"
        );
        assert_eq!(text.is_empty(), !refused, "{text}");
    }
}

#[test]
fn the_guest_writes_once_it_runs() {
    const FLOOD: usize = 1 << 20;
    let script = json!({
        "console_text": "booting\n",
        "console_flood": {"bytes": FLOOD, "line": "spam"},
    });
    let mut machine = Running::fake_with(&script);
    machine.negotiate();
    machine.ask("cont", json!({}));
    let mut text = vec![0; "fake console of x\nbooting\n".len() + FLOOD];
    machine.console.read_exact(&mut text).expect("the console");
    assert!(text.starts_with(b"fake console of x\nbooting\nspam\nspam\n"));
    assert!(machine.is_alive());
    machine.ask("quit", json!({}));
    let mut rest = Vec::new();
    machine.console.read_to_end(&mut rest).expect("its end");
    assert_eq!(rest, b"");
}

#[test]
fn a_flood_that_nobody_reads_holds_nothing_up() {
    let mut machine = before(
        "uuid",
        &json!({"console_flood": {"bytes": 100_000_000, "line": "x"}}),
    );
    assert!(machine.ask("query-status", json!({})).is_some());
    machine.signal(Signal::TERM);
    assert_eq!(machine.wait().code(), Some(0));
    assert!(machine.stderr().contains("terminating on signal 15"));
}

#[test]
fn a_guest_that_does_not_run_shuts_down_when_it_does() {
    let mut machine = before("uuid", &json!({}));
    machine.ask("stop", json!({}));
    machine.ask("system_powerdown", json!({}));
    machine.listen();
    assert!(machine.is_alive());
    machine.ask("cont", json!({}));
    machine.listen();
    assert_eq!(machine.wait().code(), Some(0));
    let told = machine
        .log
        .iter()
        .any(|line| line.contains("guest-shutdown"));
    assert!(told, "{:?}", machine.log);
}

#[test]
fn what_is_ignored_is_acknowledged() {
    let ignored = [
        "sigterm",
        "stop",
        "set-action",
        "system_reset",
        "system_powerdown",
        "quit",
    ];
    let mut machine = before("uuid", &json!({"ignore": ignored}));
    for command in &ignored[1..] {
        let answer = machine.ask(command, json!({})).expect("an answer");
        assert!(answer.get("return").is_some(), "{command}");
    }
    machine.signal(Signal::TERM);
    let answer = machine.ask("query-status", json!({})).expect("an answer");
    assert_eq!(answer["return"]["status"], "running");
    assert!(machine.is_alive());
}
