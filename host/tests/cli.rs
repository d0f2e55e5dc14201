//! The daemon's own command line: what goes wrong before anything is served.

use std::process::Output;

fn casemated(arguments: &[&str]) -> Output {
    #[expect(clippy::disallowed_methods, reason = "the subject of the tests")]
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_casemated"));
    // Variables of whoever runs the tests are not meant for this one.
    command.env_clear();
    command.args(arguments).output().expect("casemated runs")
}

fn with_config(text: &str) -> (i32, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("casemate.toml");
    std::fs::write(&path, text).expect("a file");
    let path = path.to_str().expect("UTF-8");
    let output = casemated(&["--config", path, "--check-config"]);
    (
        output.status.code().expect("it exits"),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn help_and_version_are_for_people() {
    let help = casemated(&["--help"]);
    assert!(help.status.success());
    assert!(String::from_utf8_lossy(&help.stdout).contains("Exit codes"));
    assert!(casemated(&["--version"]).status.success());
    assert_eq!(casemated(&["--no-such-flag"]).status.code(), Some(2));
}

#[test]
fn a_bad_config_file_is_exit_code_78_and_names_the_line() {
    assert_eq!(with_config("").0, 0);
    let (code, error) = with_config("[vm]\nmemory = \"much\"\n");
    assert_eq!(code, 78);
    assert!(
        error.contains("casemate.toml:2: vm.memory is") && error.contains("wanted is a size"),
        "{error}"
    );
    let output = casemated(&["--config", "/no/such/file"]);
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn a_port_in_use_is_said_in_one_sentence() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("casemate.toml");
    let state = folder.path().join("state");
    let config = format!(
        "state_dir = \"{}\"\n[grpc]\nport = {port}\n",
        state.display()
    );
    std::fs::write(&path, config).unwrap();
    let output = casemated(&["--config", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains(&format!("grpc cannot listen on 127.0.0.1:{port}"))
            && error.contains("remedy: end the program that listens there")
            && error.contains("error: port-in-use (stage start-up, subject grpc)"),
        "{error}"
    );
}

/// Each has its exit code, what is wrong, what to do, and its id.
#[test]
fn a_start_that_fails_says_why_and_what_to_do() {
    use std::os::unix::fs::PermissionsExt as _;
    type Prepare = fn(&std::path::Path);
    let root = is_root();
    let cases: &[(&str, Prepare, &str, i32, &[&str])] = &[
        (
            "state directory that others can change",
            |state| {
                std::fs::create_dir(state).unwrap();
                let open = std::fs::Permissions::from_mode(0o777);
                std::fs::set_permissions(state, open).unwrap();
            },
            "",
            1,
            &[
                "mode 0777",
                "set mode 0711",
                "error: state-dir-mode (stage start-up",
            ],
        ),
        (
            "state directory of another user",
            |state| {
                std::fs::create_dir(state).unwrap();
                std::os::unix::fs::chown(state, Some(65_534), None).unwrap();
            },
            "",
            1,
            &[
                "belongs to user 65534",
                "change its owner",
                "error: state-dir-owner",
            ],
        ),
        (
            "a file in its place",
            |state| std::fs::write(state, "").unwrap(),
            "",
            1,
            &["is not a directory", "error: state-dir-not-a-directory"],
        ),
        (
            "TLS files that are missing",
            |_| {},
            "[grpc]\nserver_cert = \"/no/cert\"\nserver_key = \"/no/key\"\n",
            78,
            &[
                "/no/cert",
                "error: tls-files (stage start-up, subject grpc)",
            ],
        ),
        (
            "two sources that name different backends",
            |_| {},
            "default_backend = \"a\"\n[[backend]]\nname = \"a\"\npath = \"a\"\n",
            78,
            &[
                "CASEMATE_BACKEND",
                "\"a\"",
                "\"b\"",
                "leave one of the two out",
                "error: config-backend-conflict",
            ],
        ),
        (
            "an unknown variable",
            |_| {},
            "",
            78,
            &[
                "MANAGER_QEMU_CPUU",
                "write MANAGER_QEMU_CPU",
                "error: config-unknown-variable",
            ],
        ),
        (
            "a value of the wrong form",
            |_| {},
            "max_vms = \"x\"\n",
            78,
            &[
                "casemate.toml:2: max_vms is",
                "wanted is a whole number",
                "remedy: set ",
                "error: config-value",
            ],
        ),
    ];
    for (case, prepare, text, code, parts) in cases {
        if case.contains("another user") && !root {
            println!("skipped: {case}: only root can give a directory away");
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        prepare(&state);
        let path = folder.path().join("casemate.toml");
        let config = format!("state_dir = \"{}\"\n{text}", state.display());
        std::fs::write(&path, config).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the subject of the tests")]
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_casemated"));
        command.arg("--config").arg(&path).env_clear();
        match *case {
            "an unknown variable" => drop(command.env("MANAGER_QEMU_CPUU", "x")),
            "two sources that name different backends" => {
                command.env("CASEMATE_BACKEND", "b");
            }
            _ => {}
        }
        // Ports that nobody has.
        command.args(["--set", "http.port=0", "--set", "grpc.port=0"]);
        let output = command.output().expect("casemated runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{case}: {error}");
        for part in *parts {
            assert!(error.contains(part), "{case}: {part}: {error}");
        }
        assert!(error.contains("remedy: "), "{case}: {error}");
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").expect("procfs").uid() == 0
}

/// `--explain-config` and `--check-config` tell without starting anything.
#[test]
fn a_config_can_be_explained_and_checked_without_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("casemate.toml");
    std::fs::write(&path, "max_vms = 3\n[vm]\nkernel = \"/no/such/kernel\"\n").unwrap();
    let path = path.to_str().unwrap();
    let output = casemated(&["--config", path, "--set", "vm.vcpus=2", "--explain-config"]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap();
    for (key, parts) in [
        ("max_vms", ["3", "casemate.toml:1"]),
        ("vm.vcpus", ["2", "--set"]),
        ("vm.memory", ["2048M", "default"]),
    ] {
        for part in parts {
            assert!(line(key).contains(part), "{}", line(key));
        }
    }
    let output = casemated(&["--config", path, "--check-config"]);
    assert!(output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.contains("warning: vm.kernel is \"/no/such/kernel\""),
        "{error}"
    );
}

/// A daemon that was killed between the start of a QEMU and the note of it must not take the VM for
/// gone. The process here only looks like one, because the moment cannot be hit with a real one.
#[test]
fn a_process_that_was_not_recorded_is_found_by_its_uuid() {
    use casemate_host::qemu::process::by_uuid;
    let is_uuid_of_a_process = |uuid: &str| by_uuid().contains_key(uuid);
    let uuid = casemate_host::spec::VmId::random().to_string();
    assert!(!is_uuid_of_a_process(&uuid));
    #[expect(clippy::disallowed_methods, reason = "a stand-in for QEMU")]
    let mut shell = std::process::Command::new("sh");
    let mut client = shell
        .args(["-c", "read line", "casemate", "show", &uuid])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("sh runs");
    assert!(!is_uuid_of_a_process(&uuid), "a client is no VM");
    client.kill().expect("ours");
    client.wait().expect("ours");
    #[expect(clippy::disallowed_methods, reason = "a stand-in for QEMU")]
    let mut shell = std::process::Command::new("sh");
    let mut qemu = shell
        .args(["-c", "read line", "qemu", "-uuid", &uuid, "-S"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("sh runs");
    // The kernel shows the arguments a moment after the start.
    let started = std::time::Instant::now();
    while !is_uuid_of_a_process(&uuid) {
        assert!(started.elapsed() < std::time::Duration::from_secs(10));
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    qemu.kill().expect("ours");
    qemu.wait().expect("ours");
}
