//! A vendor begins: from an empty folder to a VM, with the commands that are printed and nothing else.
//! With real QEMU and the tests' guest.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use casemate_integration::daemon::{Setup, agent_answer};
use casemate_integration::{artifacts, mute};
use casemate_proto::v1;
use serde_json::Value;

use crate::cli::casemate as with_daemon;

/// Runs `casemate` in a folder, without a daemon.
fn casemate(folder: &Path, arguments: &[&str]) -> Output {
    casemate_with(folder, arguments, Vec::new())
}

fn casemate_with(folder: &Path, arguments: &[&str], variables: Vec<(String, String)>) -> Output {
    #[expect(clippy::disallowed_methods, reason = "the program under test")]
    let mut command = Command::new(artifacts::program("casemate"));
    command
        .args(mute::arguments(arguments))
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .envs(variables);
    mute::ended(command.output().expect("it starts"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A line that `backend new` printed, run in a shell with the toolchain of these tests.
fn run_printed(folder: &Path, line: &str) -> Output {
    let (variables, further) = artifacts::wasm_toolchain();
    let program = artifacts::program("casemate");
    let programs = program.parent().expect("a folder").display().to_string();
    let path = std::env::var("PATH").expect("there are programs");
    // `cargo test` is native: the compiler of the user, who has no other.
    let (line, variables) = if line.starts_with("casemate") {
        let further = further.iter().map(|argument| format!(" '{argument}'"));
        let line = format!("{line} --{}", further.collect::<String>());
        (line, variables)
    } else {
        (line.to_owned(), Vec::new())
    };
    #[expect(clippy::disallowed_methods, reason = "a shell, as the vendor has one")]
    let mut shell = Command::new("sh");
    for (name, _) in std::env::vars() {
        if name.starts_with("CARGO") || name.starts_with("RUST") {
            shell.env_remove(name);
        }
    }
    shell
        .args(["-c", &line])
        .current_dir(folder)
        .env("PATH", format!("{programs}:{path}"))
        .env_remove("LD_LIBRARY_PATH")
        .envs(variables)
        .output()
        .expect("a shell")
}

fn project(folder: &Path, name: &str) -> (PathBuf, Vec<String>) {
    let made = casemate(folder, &["backend", "new", name]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let said = text(&made.stdout);
    let mut lines = said.lines().filter_map(|line| line.strip_prefix("  "));
    let enter = lines.next().expect("where to go");
    let below = enter.strip_prefix("cd ").expect("it is entered");
    (folder.join(below), lines.map(str::to_owned).collect())
}

#[tokio::test]
async fn two_printed_commands_make_a_backend_that_starts_a_vm() {
    let home = tempfile::tempdir().expect("a folder");
    let (folder, commands) = project(home.path(), "demo");
    assert_eq!(commands, ["cargo test", "casemate backend build"]);
    let mut last = String::new();
    for command in &commands {
        let output = run_printed(&folder, command);
        assert!(
            output.status.success(),
            "{command}: {}\n{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        last = text(&output.stdout);
    }
    // The lines for the config are all that the second prints.
    let printed: toml::Table = last.parse().expect("TOML");
    let backend = printed["backend"][0].as_table().expect("a table").clone();
    let component = folder.join("target/demo.wasm");
    assert_eq!(backend["path"].as_str(), component.to_str());
    assert_eq!(
        backend["sha256"].as_str(),
        Some(&*artifacts::sha256(&component))
    );

    // It proves itself as it comes.
    #[expect(clippy::disallowed_methods, reason = "the program under test")]
    let judged = Command::new(artifacts::program("casemate-conformance"))
        .arg(&component)
        .args(["--format", "json", "--cases", "64"])
        .output()
        .expect("it starts");
    assert!(judged.status.success(), "{}", text(&judged.stdout));

    // What the lines for the config lack, or have in vain, is told beside them.
    let own = folder.join("backend.toml");
    let lines = std::fs::read_to_string(&own).expect("it came with the project");
    let fact = "{ fact = \"qemu-version\", pattern = \"\" }";
    assert!(lines.contains(fact), "{lines}");
    let spoiled = lines.replace(fact, "{ fact = \"qemu-versio\", pattern = \"\" }");
    std::fs::write(&own, spoiled).expect("a file");
    let again = run_printed(&folder, "casemate backend build");
    let said = text(&again.stderr);
    for part in [
        "backend.toml does not grant fact qemu-version \"\"",
        "backend.toml grants fact qemu-versio \"\", which is not announced",
    ] {
        assert!(again.status.success() && said.contains(part), "{said}");
    }
    std::fs::write(&own, lines).expect("a file");

    // A daemon that serves takes it.
    let daemon = Setup::new().start();
    let path = daemon.folder.path().join("casemate.toml");
    let mut config = std::fs::read_to_string(&path).expect("the config is there");
    config.push_str(&last);
    std::fs::write(&path, config).expect("a file");
    let reloaded = with_daemon(&daemon, &["backend", "reload"]);
    assert!(reloaded.status.success(), "{}", text(&reloaded.stderr));
    assert!(
        text(&reloaded.stdout).contains("demo       added"),
        "{}",
        text(&reloaded.stdout)
    );
    let listed = with_daemon(&daemon, &["backend", "list", "--format", "json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let demo = listed
        .as_array()
        .expect("a list")
        .iter()
        .find(|one| one["name"] == "demo");
    assert_eq!(demo.expect("it is listed")["status"], "in-service");
    let spec = v1::VmSpec {
        backend: "demo".to_owned(),
        ..v1::VmSpec::default()
    };
    let vm = daemon.create(spec).await.expect("it runs");
    assert_eq!((&*vm.backend, vm.confidential), ("demo", false));
    assert!(!agent_answer(&vm.agent_address).await.is_empty());
}

#[test]
fn a_crate_in_another_folder_is_built_to_where_it_is_wanted() {
    let home = tempfile::tempdir().expect("a folder");
    let made = casemate(home.path(), &["backend", "new", "other", "--dir", "deep"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    assert!(text(&made.stdout).contains("cd deep\n"));
    let (variables, further) = artifacts::wasm_toolchain();
    let wanted = "backend build --dir deep --output here.wasm --format json --";
    let wanted: Vec<&str> = wanted
        .split(' ')
        .chain(further.iter().map(String::as_str))
        .collect();
    let output = casemate_with(home.path(), &wanted, variables);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let built: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let component = home.path().join("here.wasm");
    assert_eq!(built["path"].as_str(), component.to_str());
    assert_eq!(built["sha256"], artifacts::sha256(&component));
    assert_eq!(
        built["size"],
        std::fs::metadata(&component).expect("a file").len()
    );
    let config = built["config"].as_str().expect("a text");
    assert!(config.contains("name = \"other\""), "{config}");
}

#[test]
fn what_cannot_be_made_leaves_nothing_and_says_why() {
    let home = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(home.path().join("taken")).expect("a folder");
    std::fs::create_dir(home.path().join("empty")).expect("a folder");
    for (arguments, code, parts) in [
        (
            &["backend", "new", "Big_Name"][..],
            2,
            &["\"Big_Name\" is no name of a project", "backend-name"][..],
        ),
        (
            &["backend", "new", "taken"],
            1,
            &["taken is there already", "project-exists"],
        ),
        (
            &["backend", "new", "x", "--dir", "no/such"],
            1,
            &["no/such cannot be written", "output-unwritable"],
        ),
        (
            &["backend", "build", "--dir", "empty"],
            1,
            &["made no component", "backend-build"],
        ),
        (
            &["backend", "build", "--dir", "no-such"],
            1,
            &["cannot be run in no-such", "backend-build"],
        ),
    ] {
        let output = casemate(home.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        let said = text(&output.stderr);
        for part in parts {
            assert!(said.contains(part), "{arguments:?}: {part}: {said}");
        }
    }
    let mut left: Vec<_> = std::fs::read_dir(home.path())
        .expect("it is there")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["empty", "taken"]);
}
