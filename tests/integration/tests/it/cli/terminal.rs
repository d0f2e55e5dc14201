//! What a person sees who sits at a terminal, which `script` of util-linux makes. With the scripted
//! daemon, because the look is the subject.

use std::process::Stdio;

use casemate_integration::artifacts;

use super::scripted::Served;
use super::text;

/// The output of `casemate` on a terminal of that width.
fn on_a_terminal(served: &Served, columns: u16, variables: &[(&str, &str)], line: &str) -> String {
    let program = artifacts::program("casemate");
    let line = format!(
        "stty cols {columns} rows 24; '{}' {line}",
        program.display()
    );
    #[expect(clippy::disallowed_methods, reason = "as a person would")]
    let mut command = std::process::Command::new("script");
    let output = command
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("CASEMATE_ENDPOINT", &served.endpoint)
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("util-linux is installed");
    text(&output.stdout).replace("\r\n", "\n")
}

/// Without what makes colours.
fn without_colours(text: &str) -> String {
    let mut pieces = text.split("\x1b[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (_, rest) = piece.split_once('m').expect("only colours");
        plain.push_str(rest);
    }
    plain
}

#[test]
fn a_list_fits_the_terminal_it_is_on() {
    let served = Served::new();
    for (columns, present, absent) in [
        (
            40,
            &["aaaaaaaa  first", "STATE"][..],
            &["aaaaaaaa-", "CONFIDENTIAL"][..],
        ),
        (
            80,
            &[
                "aaaaaaaa-0000-4000-8000-000000000001  first",
                "CONFIDENTIAL",
            ],
            &["LABELS  "],
        ),
        (200, &["LABELS", "team=blue", "LAST EXIT"], &["no room"]),
    ] {
        let seen = on_a_terminal(&served, columns, &[], "vm list");
        assert!(seen.contains("\x1b["), "{seen}");
        let seen = without_colours(&seen);
        for line in seen.lines() {
            assert!(
                line.chars().count() <= usize::from(columns),
                "{columns}: {line}"
            );
        }
        for part in present {
            assert!(seen.contains(part), "{columns}: {part}: {seen}");
        }
        for part in absent {
            assert!(!seen.contains(part), "{columns}: {part}: {seen}");
        }
    }
    let plain = on_a_terminal(&served, 80, &[("NO_COLOR", "1")], "vm list");
    assert!(
        plain.contains("first") && !plain.contains('\x1b'),
        "{plain}"
    );
}

/// The scripted daemon ends the watch after its last change.
#[test]
fn a_watched_list_is_drawn_in_place() {
    let served = Served::new();
    let seen = on_a_terminal(&served, 80, &[("NO_COLOR", "1")], "vm list --watch");
    let frames: Vec<&str> = seen.split("\x1b[H").collect();
    assert!(frames.len() >= 4, "{seen}");
    let last = frames.last().expect("there is one");
    assert!(last.contains("first") && !last.contains("second"), "{last}");
    assert!(
        frames.iter().any(|frame| frame.contains("stopped")),
        "{seen}"
    );
    let one = on_a_terminal(&served, 80, &[("NO_COLOR", "1")], "vm show second --watch");
    let frames: Vec<&str> = one.split("\x1b[H").collect();
    assert!(
        frames
            .iter()
            .any(|frame| frame.contains("state:         stopped")),
        "{one}"
    );
    assert!(!one.contains("error"), "it ends with its VM: {one}");
}

#[test]
fn a_wait_shows_the_console_once_it_is_long() {
    let served = Served::new();
    // Nothing listens there.
    let line = "vm create --env AGENT=127.0.0.1:1 --wait --wait-timeout 4s";
    let seen = on_a_terminal(&served, 80, &[], line);
    for part in [
        "waiting for the guest to boot",
        "last [2Jwords",
        "agent-silent",
    ] {
        assert!(seen.contains(part), "{part}: {seen}");
    }
    assert!(!seen.contains("first words"), "{seen}");
}
