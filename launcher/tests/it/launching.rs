//! What is refused, and how it is said.

use std::os::unix::fs::PermissionsExt;

use casemate_launcher::exit::Exit;
use casemate_launcher::reply::Step;
use casemate_launcher::spec::MAX_SPEC;
use serde_json::json;

use crate::harness::{CONSOLE, Launch, eventually};

#[test]
fn a_spec_that_is_none_is_refused() {
    let cases = [
        ("{\"program\n".to_owned(), "does not parse"),
        ("\n".to_owned(), "does not parse"),
        ("{}\n".to_owned(), "missing field"),
        (
            format!(
                "{{\"surprise\": 1, {}\n",
                &Launch::shell("").spec.to_string()[1..]
            ),
            "unknown field `surprise`",
        ),
        ("x".repeat(MAX_SPEC), "more than"),
        (format!("{}\n", "x".repeat(MAX_SPEC)), "more than"),
    ];
    for (words, expected) in cases {
        let mut launcher = Launch::shell("").start();
        launcher.say(&words);
        let failed = launcher.failed();
        assert_eq!(failed.step, Step::Spec);
        assert!(failed.error.contains(expected), "{expected}: {failed:?}");
    }
}

#[test]
fn the_longest_spec_is_read() {
    let mut launch = Launch::shell("exit 3");
    // White space is JSON's, and the line is as long as it may be.
    let mut line = launch.spec.to_string();
    line.push_str(&" ".repeat(MAX_SPEC - 1 - line.len()));
    line.push('\n');
    launch.spec = serde_json::Value::Null;
    let mut launcher = launch.start();
    launcher.say(&line);
    launcher.started();
    launcher.say("keep\n");
    assert_eq!(launcher.exit().code, Some(3));
}

#[test]
fn a_daemon_that_says_nothing_or_half_of_it_has_started_nothing() {
    for (words, code) in [("", 0), ("{\"program\":", 1)] {
        let mut launcher = Launch::shell("").start();
        launcher.say(words);
        launcher.control = None;
        let status = eventually("its end", || launcher.process.try_wait().unwrap());
        assert_eq!(status.code(), Some(code), "{words}");
        assert_eq!(Exit::read(&launcher.files.exit).unwrap(), None);
    }
}

#[test]
fn a_program_that_does_not_start_is_said_with_its_cause() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, "no program").unwrap();
    std::fs::set_permissions(&text, PermissionsExt::from_mode(0o644)).unwrap();
    let cases = [
        (Launch::new("/nowhere/qemu", &[]), "No such file"),
        (
            Launch::new(text.to_str().unwrap(), &[]),
            "Permission denied",
        ),
        (Launch::new("/bin/true", &["a\0b"]), "nul byte"),
    ];
    for (launch, expected) in cases {
        let failed = launch.send().failed();
        assert_eq!(failed.step, Step::Exec);
        assert!(failed.error.contains(expected), "{expected}: {failed:?}");
    }
}

#[test]
fn descriptors_are_those_that_were_inherited() {
    let null = || std::fs::File::open("/dev/null").unwrap().into();
    let mut taken = Launch::shell("").set("/descriptors", json!([10]));
    taken.inherited = vec![(null(), 10)];
    // The console's number is not free when another file of the spec has it.
    taken.inherited.push((null(), CONSOLE));
    let cases = [
        (
            Launch::shell("").set("/descriptors", json!([77])),
            "77 was not",
        ),
        (Launch::shell("").set("/exit", json!(78)), "78 was not"),
        (
            Launch::shell("").set("/console_fd", json!(1 << 30)),
            "taken over",
        ),
    ];
    for (launch, expected) in cases {
        let failed = launch.send().failed();
        assert_eq!(failed.step, Step::Descriptors);
        assert!(failed.error.contains(expected), "{expected}: {failed:?}");
    }
    // A stray descriptor under the console's number is closed as any other.
    let running = taken.run();
    assert_eq!(
        running.started.landlock,
        casemate_launcher::reply::Enforcement::NotAsked
    );
}

#[test]
fn a_log_that_has_something_in_it_is_not_written_to() {
    let launch = Launch::shell("");
    launch.files.console[0].set_len(1).unwrap();
    let failed = launch.send().failed();
    assert_eq!(failed.step, Step::Log);
    assert!(failed.error.contains("not empty"), "{failed:?}");
}

#[test]
fn a_user_that_cannot_be_taken_on_is_not_passed_over() {
    if !crate::harness::is_root("a_user_that_cannot_be_taken_on_is_not_passed_over") {
        return;
    }
    let user = json!({"uid": 61_300, "gid": 61_300, "groups": []});
    let mut launch = Launch::shell("").set("/user", user);
    launch.as_user = Some(61_301);
    let failed = launch.send().failed();
    assert_eq!(failed.step, Step::Privileges);
}
