//! The real QEMU, with the arguments that the host renders, reaching nothing but what
//! [`needs::qemu_needs`] and its own files allow.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use casemate_launcher::needs;
use serde_json::{Value, json};

use crate::harness::{CONSOLE, Launch, UID, eventually};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const QMP: i32 = 10;
const DISK: i32 = 11;
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// A QEMU whose firmware writes to the console; `more` comes after its own arguments.
fn launch(folder: &Path, more: &[&str]) -> (Launch, UnixStream) {
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(path("share")).unwrap();
    std::fs::set_permissions(path("share"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(path("disk"), vec![0; 1 << 20]).unwrap();
    std::fs::set_permissions(path("disk"), PermissionsExt::from_mode(0o666)).unwrap();

    let fsdev = format!(
        "local,id=fs,path={},security_model=mapped-xattr,readonly=on",
        path("share")
    );
    let disk = json!({"driver": "raw", "node-name": "disk",
        "file": {"driver": "file", "filename": format!("/proc/self/fd/{DISK}")}});
    let qmp = format!("socket,id=qmp,fd={QMP},server=on,wait=off");
    let add_fd = format!("fd={CONSOLE},set=2");
    let disk = disk.to_string();
    // With append, or QEMU truncates what it opens, and a pipe cannot be.
    let console = "file,id=console,path=/dev/fdset/2,append=on";
    let mut arguments = vec![
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-S",
        "-sandbox",
        SANDBOX,
        "-accel",
        "tcg",
        "-machine",
        "q35",
        "-m",
        "64",
        "-chardev",
        &qmp,
        "-mon",
        "chardev=qmp,mode=control",
        "-add-fd",
        &add_fd,
        "-chardev",
        console,
        // What SeaBIOS has to say.
        "-device",
        "isa-debugcon,iobase=0x402,chardev=console",
        "-netdev",
        "user,id=net,hostfwd=tcp:127.0.0.1:0-:80",
        "-device",
        "virtio-net-pci,netdev=net",
        "-fsdev",
        &fsdev,
        "-device",
        "virtio-9p-pci,fsdev=fs,mount_tag=fs",
        "-blockdev",
        &disk,
        "-device",
        "virtio-blk-pci,drive=disk",
        "-object",
        "rng-random,id=rng,filename=/dev/urandom",
    ];
    arguments.extend(more);

    let needs = needs::qemu_needs(Path::new(QEMU));
    let mut read = needs.read;
    read.push(path("share").into());
    let mut launch = Launch::new(QEMU, &arguments)
        .set("/descriptors", json!([QMP, DISK]))
        .set(
            "/landlock",
            json!({
                "read": read, "execute": needs.execute, "write": needs.write,
                "read_descriptors": [], "write_descriptors": [DISK],
            }),
        );
    if rustix::process::geteuid().is_root() {
        let user = json!({"uid": UID, "gid": UID, "groups": []});
        launch = launch.set("/user", user);
    }
    let listener = UnixListener::bind(path("qmp")).unwrap();
    let client = UnixStream::connect(path("qmp")).unwrap();
    let disk = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path("disk"))
        .unwrap();
    launch.inherited = vec![(listener.into(), QMP), (disk.into(), DISK)];
    (launch, client)
}

fn is_installed(test: &str) -> bool {
    let installed = Path::new(QEMU).exists();
    if !installed {
        eprintln!("skipped: {test}: there is no {QEMU}");
    }
    installed
}

#[test]
fn qemu_runs_its_firmware_and_its_monitor_in_the_sandbox() {
    if !is_installed("qemu_runs_its_firmware_and_its_monitor_in_the_sandbox") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (launch, client) = launch(folder.path(), &[]);
    let mut running = launch.run();
    let mut client = BufReader::new(client);
    let mut answer = |command: Option<&str>| {
        if let Some(command) = command {
            let line = format!("{}\n", json!({"execute": command}));
            client.get_mut().write_all(line.as_bytes()).unwrap();
        }
        loop {
            let mut line = String::new();
            client.read_line(&mut line).unwrap();
            let answer: Value = serde_json::from_str(&line).expect("QEMU is there");
            if answer.get("event").is_none() {
                return answer;
            }
        }
    };
    assert!(answer(None).get("QMP").is_some());
    for command in ["qmp_capabilities", "cont"] {
        assert_eq!(answer(Some(command)), json!({"return": {}}));
    }
    assert_eq!(answer(Some("query-status"))["return"]["status"], "running");
    eventually("the firmware's word", || {
        let text = String::from_utf8_lossy(&running.launcher.files.console().head).into_owned();
        text.contains("SeaBIOS").then_some(())
    });
    assert_eq!(answer(Some("quit")), json!({"return": {}}));
    let exit = running.launcher.exit();
    assert_eq!((exit.code, exit.signal), (Some(0), None));
    // Whatever it missed, it would have complained about.
    assert_eq!(running.launcher.files.stderr_text(), "");
}

#[test]
fn qemu_opens_no_file_that_is_not_its_own() {
    if !is_installed("qemu_opens_no_file_that_is_not_its_own") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Of another VM of the same user, say.
    let other = folder.path().join("other");
    std::fs::write(&other, vec![0; 1 << 20]).unwrap();
    std::fs::set_permissions(&other, PermissionsExt::from_mode(0o666)).unwrap();
    let node = json!({"driver": "file", "node-name": "other", "filename": other}).to_string();
    let (launch, _client) = launch(folder.path(), &["-blockdev", &node]);
    let mut running = launch.run();
    if running.started.landlock == casemate_launcher::reply::Enforcement::None {
        eprintln!("skipped: this kernel has no Landlock");
        return;
    }
    assert_eq!(running.launcher.exit().code, Some(1));
    let said = running.launcher.files.stderr_text();
    assert!(said.contains("Permission denied"), "{said}");
}
