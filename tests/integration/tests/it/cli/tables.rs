//! What is shown of VMs, as it looks. With the scripted QEMU, because the look is the subject.

use casemate_integration::daemon::Setup;
use serde_json::{Value, json};

use super::{casemate, json_of, text};

/// Words that differ from run to run, as `ID`, `TIME`, `AGE` and so on; and one blank between words.
fn normalised(text: &str) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().map(normal_word).collect();
        lines.push(words.join(" "));
    }
    lines.join("\n")
}

fn normal_word(word: &str) -> &str {
    let is_made_of = |wanted: &[u8]| {
        word.bytes()
            .all(|byte| byte.is_ascii_digit() || wanted.contains(&byte))
    };
    let begins = word.starts_with(|first: char| first.is_ascii_digit() || first == '(');
    match word {
        _ if word.len() == 36 && word.matches('-').count() == 4 => "ID",
        _ if word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) => "SHA256",
        _ if word.starts_with("20") && word.contains('T') && word.ends_with('Z') => "TIME",
        _ if word.starts_with("127.0.0.1:") => "ADDRESS",
        _ if begins
            && word.len() > 1
            && is_made_of(b"(smhd")
            && word.ends_with(['s', 'm', 'h']) =>
        {
            "AGE"
        }
        _ => word,
    }
}

#[test]
fn vms_are_shown_in_tables() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    json_of(
        &daemon,
        &["vm", "create", "--name", "first", "--memory", "512M"],
    );
    let list = casemate(&daemon, &["vm", "list"]);
    assert_eq!(
        normalised(&text(&list.stdout)),
        "ID NAME STATE BACKEND TEE CONFIDENTIAL VCPUS MEMORY AGENT AGE UP RESTART LAST EXIT LABELS\n\
         ID first running plain-kvm none no 1 512 MiB ADDRESS AGE AGE never - -"
    );
    let shown = text(&casemate(&daemon, &["vm", "show", "first"]).stdout);
    let shown = normalised(&shown);
    for line in [
        "id: ID",
        "name: first",
        "state: running",
        "backend: plain-kvm",
        "confidential: no",
        "agent: ADDRESS",
        "created: TIME AGE ago)",
        "restart: never",
        "backend sha256: SHA256",
    ] {
        assert!(shown.lines().any(|found| found == line), "{line}: {shown}");
    }
    assert!(shown.contains("\ngeneration: "), "{shown}");
}

#[test]
fn a_backend_is_checked_alone() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    let checked = json_of(&daemon, &["backend", "check", "plain-kvm"]);
    let names: Vec<&Value> = checked["backends"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|backend| &backend["name"])
        .collect();
    assert_eq!(names, ["plain-kvm"], "{checked}");
    let unknown = casemate(&daemon, &["backend", "check", "x"]);
    assert_eq!(unknown.status.code(), Some(3), "{}", text(&unknown.stderr));
}
