//! What each flag of the CLI changes, and what each exit code stands for. With the scripted QEMU,
//! because what a flag becomes is in its arguments, in files and in answers.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use casemate_integration::daemon::{Daemon, Setup};
use serde_json::{Value, json};

use crate::cli::{casemate, command_to, text};

/// A guest that takes this long to shut down, and what is by far less.
const SLOW_GUEST_MS: u64 = 12_000;
const BY_FORCE: Duration = Duration::from_secs(8);

fn daemon() -> Daemon {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup.set("max_vms", 100);
    setup.start()
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

fn code_of(daemon: &Daemon, arguments: &[&str]) -> Option<i32> {
    casemate(daemon, arguments).status.code()
}

/// What is to come of a flag.
enum Effect {
    /// The VM has this member; its plan knows nothing of it.
    Shown(&'static str, Value),
    /// In QEMU's arguments, as JSON.
    Argument(&'static str),
    /// A file of this name has this content.
    File(&'static str, &'static str),
    /// The daemon refuses the value: it has come there.
    Exit(i32),
}

fn effects() -> Vec<(&'static str, &'static str, Effect)> {
    use Effect::{Argument, Exit, File, Shown};
    vec![
        ("--name", "asked", Shown("name", json!("asked"))),
        ("--backend", "nobody", Exit(4)),
        ("--vcpus", "5", Argument("cpus=5,")),
        ("--memory", "384M", Argument("size=384M,")),
        ("--machine", "no-such", Exit(4)),
        (
            "--cpu",
            "SapphireRapids",
            Argument("\"-cpu\",\"SapphireRapids"),
        ),
        ("--boot", "disk", Exit(6)),
        (
            "--cmdline",
            "quiet a=b",
            Argument("\"-append\",\"quiet a=b\""),
        ),
        ("--env", "ASKED=for", File("environment", "ASKED=for\n")),
        ("--env-file", "variables", File("environment", "BY=file\n")),
        ("--agent-cert", "one.pem", File("cert.pem", "one")),
        ("--agent-key", "two.pem", File("key.pem", "two")),
        ("--agent-ca", "three.pem", File("ca.pem", "three")),
        // Plain KVM has nothing that carries one.
        ("--identity", "raw:2a", Exit(4)),
        ("--set", "no-such=x", Exit(4)),
        ("--ttl", "1h", Shown("expires_at", Value::Null)),
        (
            "--restart",
            "always",
            Shown("restart_policy", json!("always")),
        ),
    ]
}

/// Files that flags name.
fn write_files(folder: &Path) {
    for (name, content) in [
        ("variables", "BY=file\n"),
        ("one.pem", "one"),
        ("two.pem", "two"),
        ("three.pem", "three"),
    ] {
        std::fs::write(folder.join(name), content).expect("a file");
    }
}

fn has_file(folder: &Path, name: &str, content: &str) -> bool {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    entries.map(|entry| entry.path()).any(|path| {
        if path.is_dir() && !path.is_symlink() {
            return has_file(&path, name, content);
        }
        path.file_name().is_some_and(|own| own == name)
            && std::fs::read_to_string(&path).is_ok_and(|text| text.contains(content))
    })
}

/// The value as the command line has it: files with their folder.
fn value_of(effect: &Effect, flag: &str, value: &str, folder: &Path) -> String {
    match effect {
        Effect::File(..) if flag != "--env" => folder.join(value).display().to_string(),
        _ => value.to_owned(),
    }
}

#[test]
fn each_flag_of_vm_create_has_its_effect() {
    let daemon = daemon();
    let folder = daemon.folder.path().to_owned();
    write_files(&folder);
    for (flag, value, effect) in effects() {
        let value = value_of(&effect, flag, value, &folder);
        let arguments = ["vm", "create", flag, &value];
        if let Effect::Exit(code) = effect {
            assert_eq!(code_of(&daemon, &arguments), Some(code), "{flag}");
            continue;
        }
        let vm = json_of(&daemon, &arguments);
        match &effect {
            Effect::Shown(member, Value::Null) => {
                assert!(
                    !matches!(vm[member].as_str(), None | Some("")),
                    "{flag}: {vm:#}"
                );
            }
            Effect::Shown(member, wanted) => assert_eq!(vm[member], *wanted, "{flag}: {vm:#}"),
            Effect::Argument(part) => {
                let starts = Setup::fake_starts(&folder);
                let arguments = starts.last().expect("a start")["argv"].to_string();
                assert!(arguments.contains(part), "{flag}: {arguments}");
            }
            Effect::File(name, content) => {
                assert!(has_file(&daemon.state_dir, name, content), "{flag}");
            }
            Effect::Exit(_) => {}
        }
        let id = vm["id"].as_str().expect("an id");
        assert_eq!(code_of(&daemon, &["vm", "remove", id]), Some(0));
    }
    assert_eq!(
        code_of(&daemon, &["vm", "create", "--require-confidential"]),
        Some(6)
    );
}

/// What a plan does not show is held by a value that is refused.
#[test]
fn each_flag_of_plan_has_its_effect() {
    let daemon = daemon();
    let folder = daemon.folder.path().to_owned();
    write_files(&folder);
    for (flag, value, effect) in effects() {
        let refused = match (flag, &effect) {
            ("--name", _) => Some(("a b", 4)),
            ("--env", _) => Some(("AGENT_CVM_ID=x", 4)),
            ("--ttl", _) => Some(("11 years", 4)),
            ("--restart", _) => Some(("sometimes", 2)),
            (_, Effect::File(..)) => Some(("/no/such/file", 1)),
            (_, Effect::Exit(code)) => Some((value, *code)),
            _ => None,
        };
        if let Some((value, code)) = refused {
            assert_eq!(
                code_of(&daemon, &["plan", flag, value]),
                Some(code),
                "{flag}"
            );
            continue;
        }
        if let Effect::Argument(part) = effect {
            let plan = json_of(&daemon, &["plan", flag, value]);
            let command = plan["command"].to_string();
            assert!(command.contains(part), "{flag}: {command}");
        }
    }
    for (flag, value) in [
        ("--file", "/no/such/file"),
        ("--kernel", "missing"),
        ("--initrd", "missing"),
        ("--firmware", "missing"),
        ("--igvm", "missing"),
        ("--disk", "missing"),
        ("--disk-format", "raw"),
        ("--data-disk", "data=missing,format=raw"),
        ("--secret", "key=/no/such/file"),
        ("--label", "no key=value"),
    ] {
        let code = code_of(&daemon, &["plan", flag, value]);
        // 2 is a flag that there is not.
        assert!(![Some(0), Some(2)].contains(&code), "{flag}: {code:?}");
    }
    assert_eq!(
        code_of(&daemon, &["plan", "--require-confidential"]),
        Some(6)
    );
    let script = text(&casemate(&daemon, &["plan", "--standalone"]).stdout);
    assert!(script.starts_with("#!/bin/sh\n"), "{script}");
    assert_eq!(Setup::fake_starts(&folder).len(), 0);
    assert_eq!(code_of(&daemon, &["plan", "--dry-run"]), Some(0));
    assert_eq!(
        Setup::fake_starts(&folder).len(),
        1,
        "a rehearsal starts QEMU"
    );
}

#[test]
fn each_flag_of_every_verb_has_its_effect() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({"delay_ms": {"cont": 3000}}));
    let daemon = setup.start();
    let refused = casemate(&daemon, &["--timeout", "1s", "vm", "create"]);
    assert_eq!(refused.status.code(), Some(7), "{}", text(&refused.stderr));
    let elsewhere = ["--endpoint", "http://127.0.0.1:1", "vm", "list"];
    assert_eq!(code_of(&daemon, &elsewhere), Some(7));
    // A context's place counts where nobody names another.
    let home = daemon.folder.path().join("home");
    let at_home = |arguments: &[&str]| {
        let mut command = command_to("", arguments);
        let output = command.env("XDG_CONFIG_HOME", &home).output();
        output.expect("casemate runs").status.code()
    };
    for (name, endpoint) in [
        ("here", &*daemon.endpoint()),
        ("nowhere", "http://127.0.0.1:1"),
    ] {
        let set = ["context", "set", name, "--endpoint", endpoint];
        assert_eq!(at_home(&set), Some(0));
    }
    assert_eq!(at_home(&["context", "use", "here"]), Some(0));
    assert_eq!(at_home(&["vm", "list"]), Some(0));
    assert_eq!(at_home(&["--context", "nowhere", "vm", "list"]), Some(7));
    let list = casemate(&daemon, &["vm", "list", "--format", "json"]);
    let list: Value = serde_json::from_slice(&list.stdout).expect("JSON");
    assert!(list.is_array() || list.is_object(), "{list}");
}

#[test]
fn flags_choose_what_is_shown_of_host_config_and_manual() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup.add_backend("umbra", toml::Table::new());
    let daemon = setup.start();
    let checked = json_of(&daemon, &["doctor", "--backend", "umbra"]);
    let names = checked["backends"].as_array().expect("backends").iter();
    let names: Vec<&Value> = names.map(|backend| &backend["name"]).collect();
    assert_eq!(names, ["umbra"]);
    let pages = daemon.folder.path().join("man");
    std::fs::create_dir(&pages).expect("a folder");
    let folder = pages.display().to_string();
    assert_eq!(code_of(&daemon, &["man", "--dir", &folder]), Some(0));
    assert!(pages.join("casemate.1").exists(), "a page is written");
    let explained = text(&casemate(&daemon, &["config", "explain", "--set-only"]).stdout);
    assert!(explained.contains("default_backend"), "{explained}");
    assert!(!explained.contains("grpc.timeout"), "{explained}");
}

/// Nobody answers in a scripted guest: the wait ends when it is told to.
#[test]
fn a_wait_for_a_guest_is_as_long_as_is_said() {
    let daemon = daemon();
    let arguments = ["vm", "create", "--wait", "--wait-timeout", "1s"];
    let mut waiting = command_to(&daemon.endpoint(), &arguments)
        .stderr(Stdio::null())
        .spawn()
        .expect("casemate runs");
    let begun = Instant::now();
    let code = loop {
        if let Some(status) = waiting.try_wait().expect("ours") {
            break status.code();
        }
        if begun.elapsed() > BY_FORCE {
            waiting.kill().expect("ours");
            waiting.wait().expect("ours");
            panic!("it waits on");
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(code, Some(7));
}

#[test]
fn flags_choose_the_part_of_a_console() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({"console_text": "first words\n"}));
    let daemon = setup.start();
    let logs = |flags: &[&str]| {
        let output = casemate(&daemon, &[&["vm", "logs", "one"], flags].concat());
        text(&output.stdout).replace('\r', "")
    };
    assert_eq!(
        code_of(&daemon, &["vm", "create", "--name", "one"]),
        Some(0)
    );
    let begun = Instant::now();
    while !logs(&[]).contains("first words") {
        assert!(begun.elapsed() < Duration::from_secs(30), "it says nothing");
    }
    assert_eq!(code_of(&daemon, &["vm", "stop", "--force", "one"]), Some(0));
    let script = daemon.folder.path().join("fake/fake-qemu.script");
    std::fs::write(
        script,
        json!({"console_text": "second words\n"}).to_string(),
    )
    .expect("a file");
    assert_eq!(code_of(&daemon, &["vm", "start", "one"]), Some(0));
    let begun = Instant::now();
    while !logs(&[]).contains("second words") {
        assert!(begun.elapsed() < Duration::from_secs(30), "it says nothing");
    }
    assert!(logs(&["--previous", "1"]).contains("first words"));
    assert_eq!(logs(&["--tail", "6"]), "words\n");
    // A follower goes on until the VM is down.
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(3));
            casemate(&daemon, &["vm", "stop", "--force", "one"]);
        });
        let followed = logs(&["--follow"]);
        assert!(begun.elapsed() > Duration::from_secs(2), "{followed}");
    });
}

#[test]
fn force_does_not_wait_for_the_guest() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({"delay_ms": {"powerdown": SLOW_GUEST_MS}}));
    let daemon = setup.start();
    assert_eq!(
        code_of(&daemon, &["vm", "create", "--name", "one"]),
        Some(0)
    );
    for verb in ["restart", "stop"] {
        let begun = Instant::now();
        assert_eq!(code_of(&daemon, &["vm", verb, "--force", "one"]), Some(0));
        let took = begun.elapsed();
        assert!(took < BY_FORCE, "{verb}: {took:?}");
    }
}

#[test]
fn another_measurement_is_accepted_where_that_is_said() {
    let mut setup = crate::measured::setup();
    setup.use_fake_qemu(&json!({}));
    let kernel = crate::measured::kernel_of(&setup);
    let daemon = setup.start();
    let grow = || {
        use std::io::Write as _;
        let file = std::fs::File::options().append(true).open(&kernel);
        file.expect("a file")
            .write_all(&[0; 4096])
            .expect("it is written");
    };
    assert_eq!(
        code_of(&daemon, &["vm", "create", "--name", "one"]),
        Some(0)
    );
    grow();
    assert_eq!(
        code_of(&daemon, &["vm", "restart", "--force", "one"]),
        Some(6)
    );
    let accepted = ["vm", "restart", "--force", "--accept-measurement", "one"];
    assert_eq!(code_of(&daemon, &accepted), Some(0));
    assert_eq!(code_of(&daemon, &["vm", "stop", "--force", "one"]), Some(0));
    grow();
    assert_eq!(code_of(&daemon, &["vm", "start", "one"]), Some(6));
    let accepted = ["vm", "start", "--accept-measurement", "one"];
    assert_eq!(code_of(&daemon, &accepted), Some(0));
}

#[test]
fn an_exit_code_tells_what_is_at_fault() {
    let mut setup = Setup::new();
    setup.set("max_vms", 1);
    setup.use_fake_qemu(&json!({}));
    setup.add_backend("misbehaving", toml::Table::new());
    let mut daemon = setup.start();
    for (arguments, code) in [
        (&["vm", "create", "--env-file", "/no/such/file"][..], 1),
        (&["vm", "create", "--memory", "x"], 2),
        (&["vm", "show", "nobody"], 3),
        (&["vm", "create", "--machine", "pdp11"], 4),
        (&["plan", "--require-confidential"], 6),
        (
            &["plan", "--backend", "misbehaving", "--set", "act=trap"],
            8,
        ),
        (&["vm", "create"], 0),
        (&["vm", "create"], 5),
    ] {
        let output = casemate(&daemon, arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
    }
    daemon.stop();
    assert_eq!(code_of(&daemon, &["vm", "list"]), Some(7));
}
