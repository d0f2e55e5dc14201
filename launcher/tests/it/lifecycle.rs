//! Ends: of the child, of the daemon, and of both.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::harness::{Launch, eventually, status};

#[test]
fn how_a_child_ended_is_written_down() {
    let cases = [
        ("exit 0", Some(0), None),
        ("exit 7", Some(7), None),
        ("exit 255", Some(255), None),
        ("kill -KILL $$", None, Some(9)),
        ("kill -SEGV $$", None, Some(11)),
        ("kill -TERM $$", None, Some(15)),
        // A child has the default for what the launcher ignores.
        ("kill -PIPE $$", None, Some(13)),
    ];
    for (script, code, signal) in cases {
        let before = seconds_now();
        let (exit, _) = Launch::shell(script).run_to_the_end();
        assert_eq!((exit.code, exit.signal), (code, signal), "{script}");
        assert!(!exit.abandoned);
        assert!((before..=seconds_now()).contains(&exit.ended_at));
        assert_eq!((exit.console_dropped, exit.stderr_dropped), (0, 0));
    }
}

fn seconds_now() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn the_pid_and_the_pidfd_are_the_programs_own() {
    let mut running = Launch::new("/bin/sleep", &["1000"]).run();
    let pid = running.started.pid;
    // The program was executed by the time that it is called started.
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(command, b"/bin/sleep\x001000\0");
    running.launcher.signal_child(Signal::TERM);
    assert_eq!(running.launcher.exit().signal, Some(15));
}

#[test]
fn a_daemon_that_goes_before_keep_takes_the_child_with_it() {
    // Before it has heard of the start, after that, and after words that are not `keep`.
    for words in [None, Some(""), Some("keeper\nkee"), Some("kee")] {
        let mut launcher = Launch::new("/bin/sleep", &["1000"]).send();
        if let Some(words) = words {
            launcher.started();
            launcher.say(words);
        }
        launcher.control = None;
        let exit = launcher.exit();
        assert!(exit.abandoned, "{words:?}");
        assert_eq!((exit.code, exit.signal), (None, Some(9)));
    }
}

#[test]
fn a_stranger_on_the_control_socket_is_no_daemon() {
    let mut launcher = Launch::new("/bin/sleep", &["1000"]).send();
    launcher.started();
    launcher.say(&"x".repeat(1000));
    assert!(launcher.exit().abandoned);
}

#[test]
fn a_child_that_is_kept_outlives_the_daemon_and_is_still_heard() {
    let mut running = Launch::shell(
        "echo early >&9; while ! [ -s /proc/self/fd/10 ]; do sleep 0.02; done;
         echo late >&9; echo complaint >&2; exit 5",
    )
    .set("/descriptors", serde_json::json!([10]));
    let go = tempfile::tempfile().unwrap();
    running.inherited = vec![(go.try_clone().unwrap().into(), 10)];
    let mut running = running.run();
    running.launcher.control = None;
    // The child goes on only now, with no daemon there.
    std::os::unix::fs::FileExt::write_all_at(&go, b"go", 0).unwrap();
    let exit = running.launcher.exit();
    assert_eq!((exit.code, exit.abandoned), (Some(5), false));
    assert_eq!(running.launcher.files.console_text(), "early\nlate\n");
    assert_eq!(running.launcher.files.stderr_text(), "complaint\n");
}

#[test]
fn keep_may_follow_the_spec_at_once() {
    let launch = Launch::shell("sleep 0.2; exit 6");
    let words = format!("{}\nkeep\n", launch.spec);
    let mut launcher = launch.start();
    launcher.say(&words);
    launcher.started();
    launcher.control = None;
    let exit = launcher.exit();
    assert_eq!((exit.code, exit.abandoned), (Some(6), false));
}

#[test]
fn signals_that_end_the_child_do_not_end_the_launcher() {
    let mut running = Launch::new("/bin/sleep", &["1000"]).run();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::PIPE] {
        running.launcher.signal(signal);
    }
    running.launcher.signal_child(Signal::HUP);
    assert_eq!(running.launcher.exit().signal, Some(1));
}

#[test]
fn a_pipe_that_another_process_holds_does_not_hold_the_launcher() {
    // The grandchild has the pipes, and never lets the launcher see their end.
    let mut running = Launch::shell("sleep 1000 & echo $! >&9; exit 4").run();
    let begun = Instant::now();
    let exit = running.launcher.exit();
    let grandchild = running.launcher.files.console_text();
    let grandchild: u32 = grandchild.trim().parse().unwrap();
    assert!(status(grandchild, "State").starts_with('S'));
    let pid = Pid::from_raw(i32::try_from(grandchild).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(exit.code, Some(4));
    assert!(begun.elapsed() < Duration::from_secs(20));
    eventually("the grandchild's end", || {
        let gone = std::fs::read_to_string(format!("/proc/{grandchild}/cmdline"));
        gone.map_or(Some(()), |text| text.is_empty().then_some(()))
    });
}
