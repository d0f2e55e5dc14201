//! What the program says without a daemon, held against files: `tests/cmd/`. With
//! `TRYCMD=overwrite` they are written anew, to be looked through.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use trycmd::TestCases;

/// What a case may set for itself, and nobody else: a variable of all cases would be stronger.
const VARIABLES: [&str; 6] = [
    "CASEMATE_ENDPOINT",
    "CASEMATE_CONTEXT",
    "CASEMATE_CA_CERT",
    "CASEMATE_CLIENT_CERT",
    "CASEMATE_CLIENT_KEY",
    "CASEMATE_TOKEN",
];

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_casemate"))
}

/// With a home of its own, where there are no contexts yet.
fn cases(home: &TempDir) -> TestCases {
    let cases = TestCases::new();
    cases.register_bin("casemate", program());
    for name in VARIABLES {
        let value = std::env::var_os(name);
        assert!(value.is_none(), "unset {name} for the tests");
    }
    let home = home.path().display().to_string();
    cases.env("XDG_CONFIG_HOME", home);
    cases
}

fn home() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn the_help_of_every_command() {
    cases(&home()).case("tests/cmd/help/*.trycmd");
}

#[test]
fn errors_and_exit_codes() {
    cases(&home()).case("tests/cmd/errors/*.trycmd");
}

#[test]
fn contexts_are_kept() {
    cases(&home()).case("tests/cmd/contexts.trycmd");
}

/// Names of the pages that `casemate man --dir` writes: one for each command there is.
fn commands() -> BTreeSet<String> {
    let folder = home();
    let output = run(&["man", "--dir", &folder.path().display().to_string()]);
    assert!(output.status.success(), "{output:?}");
    let pages = folder.path().read_dir().expect("a folder");
    let commands: BTreeSet<String> = pages
        .map(|page| {
            let page = page.expect("a page");
            let text = std::fs::read_to_string(page.path()).expect("a text");
            assert!(text.contains(".SH NAME"), "{page:?}");
            let name = page.file_name().into_string().expect("UTF-8");
            name.strip_suffix(".1").expect("section 1").to_owned()
        })
        .collect();
    assert!(commands.contains("casemate-vm-create"), "{commands:?}");
    commands
}

fn run(arguments: &[&str]) -> std::process::Output {
    #[expect(clippy::disallowed_methods, reason = "the subject of the tests")]
    let mut command = std::process::Command::new(program());
    command.args(arguments).output().expect("it runs")
}

#[test]
fn every_command_has_a_snapshot_of_its_help() {
    let folder = Path::new("tests/cmd/help");
    let snapshots: BTreeSet<String> = folder
        .read_dir()
        .expect("the snapshots")
        .map(|file| {
            let path = file.expect("a file").path();
            let text = std::fs::read_to_string(&path).expect("a text");
            let name = path.file_stem().and_then(|name| name.to_str());
            let name = name.expect("a name").to_owned();
            let command = format!("$ {} --help\n", name.replace('-', " "));
            assert!(text.contains(&command), "{name} is of another command");
            name
        })
        .collect();
    assert_eq!(snapshots, commands());
}

#[test]
fn the_manual_of_the_program_is_printed() {
    let output = run(&["man"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(".TH casemate 1"), "{text}");
    assert!(text.contains("Exit codes"), "{text}");
}

/// A shell, and how it is told to read a script and to say that it has.
const SHELLS: [(&str, &[&str]); 3] = [
    (
        "bash",
        &["--norc", "-c", "source \"$0\" && complete -p casemate"],
    ),
    (
        "zsh",
        &[
            "-f",
            "-c",
            "autoload -U compinit && compinit -D -u && source \"$0\" && whence _casemate",
        ],
    ),
    (
        "fish",
        &[
            "--no-config",
            "-c",
            "source $argv[1]; and complete -C 'casemate vm cre'",
        ],
    ),
];

#[test]
fn completions_load_in_their_shells() {
    let folder = home();
    for (shell, arguments) in SHELLS {
        let script = run(&["completions", shell]);
        assert!(script.status.success(), "{shell}: {script:?}");
        let path = folder.path().join(shell);
        std::fs::write(&path, &script.stdout).expect("a file");
        #[expect(clippy::disallowed_methods, reason = "as a person would")]
        let mut command = std::process::Command::new(shell);
        command
            .args(arguments)
            .arg(&path)
            .env("HOME", folder.path());
        match command.output() {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success(), "{shell}: {output:?}");
                assert!(output.stderr.is_empty(), "{shell}: {output:?}");
                assert!(
                    said.contains("casemate") || said.contains("create"),
                    "{said}"
                );
            }
            Err(error) => eprintln!("skipped: there is no {shell} ({error})"),
        }
    }
}
