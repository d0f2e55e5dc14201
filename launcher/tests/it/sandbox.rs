//! What a child has, and what it may do.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use casemate_launcher::needs;
use casemate_launcher::reply::Enforcement;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{CONSOLE, Launch, UID, descriptors, eventually, is_root, limit, status};

fn user() -> Value {
    json!({"uid": UID, "gid": UID + 1, "groups": [UID + 2, UID + 3]})
}

#[test]
fn a_child_of_root_has_nothing_of_root() {
    if !is_root("a_child_of_root_has_nothing_of_root") {
        return;
    }
    let mut launch = Launch::new("/bin/sleep", &["1000"])
        .set("/user", user())
        .set("/descriptors", json!([12]))
        .set(
            "/limits",
            json!({
                "open_files": 300, "processes": 40, "locked_memory": 65_536, "file_size": 1 << 30,
            }),
        );
    let null = || std::fs::File::open("/dev/null").unwrap().into();
    // One for the child, and one that nobody named.
    launch.inherited = vec![(null(), 12), (null(), 13)];
    let running = launch.run();
    let (child, launcher) = (running.started.pid, running.launcher.process.id());
    for pid in [child, launcher] {
        let (uid, gid) = (UID.to_string(), (UID + 1).to_string());
        let none = "0000000000000000";
        let expected = [
            ("Uid", [uid.as_str(); 4].join("\t")),
            ("Gid", [gid.as_str(); 4].join("\t")),
            ("Groups", format!("{} {}", UID + 2, UID + 3)),
            ("CapInh", none.to_owned()),
            ("CapPrm", none.to_owned()),
            ("CapEff", none.to_owned()),
            ("CapBnd", none.to_owned()),
            ("CapAmb", none.to_owned()),
            ("NoNewPrivs", "1".to_owned()),
            ("Umask", "0077".to_owned()),
        ];
        for (field, value) in expected {
            assert_eq!(status(pid, field), value, "{field} of {pid}");
        }
        let limits = [
            ("Max core file size", "1"),
            ("Max open files", "300"),
            ("Max processes", "40"),
            ("Max locked memory", "65536"),
            ("Max file size", "1073741824"),
        ];
        for (name, value) in limits {
            assert_eq!(limit(pid, name), [value, value], "{name}");
        }
        let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        assert_eq!(folder.to_str(), Some("/"));
    }
    // A program that was just started reads its libraries for a moment.
    let only = [0, 1, 2, CONSOLE, 12].into();
    eventually("only its own descriptors", || {
        (descriptors(child) == only).then_some(())
    });
    let environment = std::fs::read(format!("/proc/{child}/environ")).unwrap();
    assert!(environment.is_empty());
    for number in [0, 1] {
        let target = std::fs::read_link(format!("/proc/{child}/fd/{number}")).unwrap();
        assert_eq!(target.to_str(), Some("/dev/null"));
    }
    // Nothing is blocked, and nothing ignored. Real-time signals are as whoever runs this has them.
    for field in ["SigBlk", "SigIgn"] {
        let mask = u64::from_str_radix(&status(child, field), 16).unwrap();
        assert_eq!(mask & 0x7fff_ffff, 0, "{field}");
    }
    // The launcher keeps no copy of what is QEMU's, nor what nobody named: beyond the standard
    // streams no /dev/null, and of pipes its own end of two.
    let targets: Vec<_> = descriptors(launcher)
        .into_iter()
        .filter(|number| *number > 2)
        .map(|number| std::fs::read_link(format!("/proc/{launcher}/fd/{number}")).unwrap())
        .collect();
    let pipes = targets
        .iter()
        .filter(|target| target.to_string_lossy().starts_with("pipe:"));
    assert_eq!(pipes.count(), 2, "{targets:?}");
    assert!(!targets.contains(&"/dev/null".into()), "{targets:?}");
    // What is not dumpable belongs to root in /proc.
    let owner = std::fs::metadata(format!("/proc/{launcher}/environ"))
        .unwrap()
        .uid();
    assert_eq!(owner, 0);
}

#[test]
fn launcher_and_child_have_sessions_of_their_own() {
    let running = Launch::new("/bin/sleep", &["1000"]).run();
    let field = |pid: u32, name: &str| status(pid, name);
    let (child, launcher) = (running.started.pid, running.launcher.process.id());
    for pid in [child, launcher] {
        for name in ["NSpgid", "NSsid"] {
            assert_eq!(field(pid, name), pid.to_string(), "{name}");
        }
    }
}

#[test]
fn a_daemon_without_rights_starts_a_child_as_itself() {
    if !is_root("a_daemon_without_rights_starts_a_child_as_itself") {
        return;
    }
    let mut launch = Launch::shell("echo said >&9; exec sleep 1000")
        // More than this user may ask for.
        .set(
            "/limits",
            json!({"open_files": 1u64 << 40, "processes": null, "locked_memory": null}),
        );
    launch.as_user = Some(UID);
    let running = launch.run();
    let child = running.started.pid;
    assert_eq!(
        status(child, "Uid"),
        [UID.to_string().as_str(); 4].join("\t")
    );
    assert_eq!(status(child, "NoNewPrivs"), "1");
    assert_eq!(limit(child, "Max core file size"), ["1", "1"]);
    let [_, own] = limit(std::process::id(), "Max open files");
    assert_eq!(limit(child, "Max open files"), [own.clone(), own]);
}

/// Rules under which a shell and its tools run.
fn shell_rules() -> Value {
    let needs = needs::qemu_needs(Path::new("/bin/sh"));
    let execute = [needs.execute, vec!["/bin".into()]].concat();
    json!({
        "read": needs.read,
        "execute": execute,
        "write": needs.write,
        "read_descriptors": [],
        "write_descriptors": [],
    })
}

fn add(rules: &mut Value, list: &str, value: Value) {
    rules[list].as_array_mut().unwrap().push(value);
}

#[test]
fn a_child_reaches_the_files_that_it_was_given_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    for (name, mode) in [
        ("read", 0o644),
        ("denied", 0o644),
        ("opened", 0o644),
        ("sealed", 0o666),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, name).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
    let writable = folder.path().join("folder");
    std::fs::create_dir(&writable).unwrap();
    std::fs::set_permissions(&writable, PermissionsExt::from_mode(0o777)).unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();

    let mut rules = shell_rules();
    add(&mut rules, "read", json!(path("read")));
    add(&mut rules, "read", json!(path("missing")));
    add(&mut rules, "write", json!(path("folder")));
    add(&mut rules, "read_descriptors", json!(12));
    // A file in memory is in no file system, and is open to whoever holds it.
    add(&mut rules, "read_descriptors", json!(13));
    let attempts = [
        ("cat {read}", true),
        ("cat {denied}", false),
        // The rule is the file's, by whatever way it is reached.
        ("cat {opened}", true),
        ("cat /proc/self/fd/12", true),
        ("cat /proc/self/fd/13", true),
        ("echo x > {folder}/new", true),
        ("echo x > {sealed}", false),
        ("rm {folder}/new", true),
        ("cat /etc/passwd", false),
        ("cat /proc/1/status", false),
        ("ls {folder}/..", false),
    ];
    let mut script = String::new();
    for (attempt, _) in attempts {
        let mut attempt = attempt.to_owned();
        for name in ["read", "denied", "opened", "folder", "sealed"] {
            attempt = attempt.replace(&format!("{{{name}}}"), &path(name));
        }
        script += &format!("({attempt}) >/dev/null; echo $? >&9\n");
    }
    // The same must be allowed to the user without Landlock, or it would prove nothing.
    for confined in [true, false] {
        let mut launch = Launch::shell(&script).set("/descriptors", json!([12, 13]));
        if confined {
            launch = launch.set("/landlock", rules.clone());
        }
        if rustix::process::geteuid().is_root() {
            launch = launch.set("/user", user());
        }
        let memory = rustix::fs::memfd_create("memory", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let opened = std::fs::File::open(path("opened")).unwrap();
        // Its owner is who opens it again.
        rustix::fs::fchmod(&memory, rustix::fs::Mode::from_raw_mode(0o666)).unwrap();
        launch.inherited = vec![(opened.into(), 12), (memory, 13)];
        let mut running = launch.run();
        let exit = running.launcher.exit();
        let enforced = running.started.landlock;
        if confined && enforced == Enforcement::None {
            eprintln!("skipped: this kernel has no Landlock");
            return;
        }
        assert_eq!(exit.code, Some(0));
        let outcomes = running.launcher.files.console_text();
        let complaints = running.launcher.files.stderr_text();
        let outcomes: Vec<_> = outcomes.lines().map(|line| line == "0").collect();
        let expected: Vec<_> = attempts
            .iter()
            .map(|(_, allowed)| *allowed || !confined)
            .collect();
        assert_eq!(outcomes, expected, "{confined} {complaints}");
    }
}

#[test]
fn a_child_of_the_same_user_cannot_signal_the_launcher() {
    let launch = |script: &str| {
        let launch = Launch::shell(script);
        if rustix::process::geteuid().is_root() {
            launch.set("/user", user())
        } else {
            launch
        }
    };
    // Without Landlock it can, or this would prove nothing. It waits until the start is answered.
    let go = tempfile::tempfile().unwrap();
    let script = "while ! [ -s /proc/self/fd/10 ]; do sleep 0.02; done
                  kill -KILL $PPID; exec sleep 1000";
    let mut unconfined = launch(script).set("/descriptors", json!([10]));
    unconfined.inherited = vec![(go.try_clone().unwrap().into(), 10)];
    let mut running = unconfined.run();
    std::os::unix::fs::FileExt::write_all_at(&go, b"go", 0).unwrap();
    let status = eventually("the launcher's end", || {
        running.launcher.process.try_wait().unwrap()
    });
    assert_eq!(status.signal(), Some(9));

    let script = "kill -KILL $PPID; echo $? >&9; kill -0 $$; echo $? >&9; exec sleep 1000";
    let mut running = launch(script).set("/landlock", shell_rules()).run();
    if running.started.landlock != Enforcement::Full {
        eprintln!("skipped: this kernel's Landlock has no scopes");
        return;
    }
    let said = eventually("two answers", || {
        let text = running.launcher.files.console_text();
        (text.lines().count() == 2).then_some(text)
    });
    assert_eq!(said, "1\n0\n");
    running.launcher.signal_child(Signal::TERM);
    assert_eq!(running.launcher.exit().signal, Some(15));
}
