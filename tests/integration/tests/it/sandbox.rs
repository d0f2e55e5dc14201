//! What a QEMU that was taken over could do: the process of a booted guest, read from `/proc`, and
//! what it may open, asked of itself over QMP.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup, agent_answer};
use casemate_proto::v1;
use serde_json::{Value, json};

/// An answer of QEMU on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The lowest number of the descriptors that a launcher keeps for itself.
const LAUNCHERS_OWN: u32 = 200;

fn status_field(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == field).then(|| value.trim().to_owned())
    });
    line.expect("the field is there")
}

fn is_root() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: users of VMs, because this is not root");
    }
    is_root
}

/// Rights that a process has, whatever they are for.
fn assert_without_rights(pid: u32) -> u32 {
    let uid = status_field(pid, "Uid");
    let uids: Vec<&str> = uid.split_whitespace().collect();
    assert!(
        uids.iter().all(|id| *id == uids[0] && *id != "0"),
        "{uids:?}"
    );
    let gid = status_field(pid, "Gid");
    assert!(
        gid.split_whitespace().all(|id| id == uids[0]),
        "{gid} of {uids:?}"
    );
    for (field, wanted) in [
        ("Groups", ""),
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
    ] {
        assert_eq!(status_field(pid, field), wanted, "{field}");
    }
    uids[0].parse().expect("a number")
}

/// A limit's soft and hard value.
fn limit(pid: u32, name: &str) -> (String, String) {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let mut values = line.expect("the limit is there").split_whitespace();
    let mut next = || values.next().expect("a value").to_owned();
    (next(), next())
}

/// Number and target of each open file.
fn open_files(pid: u32) -> Vec<(u32, String)> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
    let mut files: Vec<_> = folder
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            let target = std::fs::read_link(entry.path()).ok()?;
            Some((number, target.display().to_string()))
        })
        .collect();
    files.sort();
    files
}

fn cgroup(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix("0::"));
    line.unwrap_or_default().to_owned()
}

fn private_copy(of: &Path, to: PathBuf) -> PathBuf {
    std::fs::copy(of, &to).expect("a copy");
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).expect("a mode");
    to
}

#[tokio::test]
async fn a_booted_guests_qemu_has_no_rights_and_no_files_of_others() {
    if !is_root() {
        return;
    }
    let mut setup = Setup::new();
    let folder = setup.folder.path().to_owned();
    let kernel = private_copy(&artifacts::kernel(), folder.join("kernel"));
    let initrd = private_copy(&artifacts::initrd(), folder.join("initrd"));
    setup.set("vm.kernel", kernel.display().to_string());
    setup.set("vm.initrd", initrd.display().to_string());
    let daemon = setup.start();
    let (vm, other) = tokio::join!(
        daemon.create(v1::VmSpec::default()),
        daemon.create(v1::VmSpec::default())
    );
    let (vm, other) = (vm.expect("it runs"), other.expect("it runs"));
    // The kernel that only root may read has booted.
    agent_answer(&vm.agent_address).await;

    let uid = assert_without_rights(vm.pid);
    let launcher: u32 = status_field(vm.pid, "PPid").parse().expect("a number");
    assert_eq!(assert_without_rights(launcher), uid);
    assert_ne!(assert_without_rights(other.pid), uid);
    // 2: a filter.
    assert_eq!(status_field(vm.pid, "Seccomp"), "2");
    let environment = std::fs::read(format!("/proc/{}/environ", vm.pid)).expect("readable");
    assert_eq!(String::from_utf8_lossy(&environment), "");
    for pid in [vm.pid, launcher] {
        // Of which the kernel makes no core, be it to a file or to a program.
        assert_eq!(
            limit(pid, "Max core file size"),
            ("1".to_owned(), "1".to_owned())
        );
        for name in ["Max processes", "Max open files", "Max file size"] {
            let (soft, hard) = limit(pid, name);
            assert!(soft == hard && soft != "unlimited", "{name}: {soft} {hard}");
        }
    }

    let own = daemon
        .state_dir
        .join("vms")
        .join(&vm.id)
        .display()
        .to_string();
    let files = open_files(vm.pid);
    for (number, target) in &files {
        let is_expected = [
            "pipe:",
            "socket:",
            "anon_inode:",
            "/memfd:",
            &format!("{own}/"),
        ]
        .iter()
        .any(|start| target.starts_with(start))
            || ["/dev/null", "/dev/urandom", "/dev/random"].contains(&target.as_str());
        assert!(
            is_expected && *number < LAUNCHERS_OWN,
            "{number} {target}: {files:?}"
        );
    }
    assert_eq!(files[0], (0, "/dev/null".to_owned()), "{files:?}");
    assert!(
        files
            .iter()
            .any(|(_, target)| target.starts_with("/memfd:")),
        "{files:?}"
    );

    let place = cgroup(vm.pid);
    assert!(place.contains(&vm.id), "{place}");
    assert_eq!(cgroup(launcher), place);
    for pid in [daemon.pid(), other.pid, std::process::id()] {
        assert_ne!(cgroup(pid), place);
    }
    for vm in [&vm, &other] {
        daemon.remove(&vm.id).await.expect("it can be removed");
    }
    daemon.assert_unwound().await;
}

/// The monitor of a VM whose daemon is dead, for one client at a time.
struct Monitor {
    reader: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(daemon: &Daemon, vm: &v1::Vm) -> Self {
        let path = daemon
            .state_dir
            .join("records")
            .join(&vm.id)
            .join("qmp.sock");
        let stream = UnixStream::connect(path).expect("it listens");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("it is asked");
        let mut monitor = Self {
            reader: BufReader::new(stream),
        };
        assert!(monitor.read()["QMP"].is_object(), "a greeting comes first");
        assert!(monitor.ask("qmp_capabilities", json!({})).is_ok());
        monitor
    }

    fn read(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("it answers");
        serde_json::from_str(&line).expect("JSON")
    }

    /// The description of the error, where there is one.
    fn ask(&mut self, command: &str, arguments: Value) -> Result<(), String> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.reader.get_mut(), "{request}").expect("it reads");
        loop {
            let answer = self.read();
            if answer.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = answer.get("error") {
                return Err(error["desc"].as_str().expect("a text").to_owned());
            }
        }
    }

    /// Has QEMU open a file to read it.
    fn open(&mut self, path: &Path) -> Result<(), String> {
        let name = "casemate-test-file";
        let file =
            json!({"driver": "file", "filename": path, "node-name": name, "read-only": true});
        self.ask("blockdev-add", file)?;
        self.ask("blockdev-del", json!({"node-name": name}))
    }
}

/// Whether the user of a process could read a file if there was nothing but its permissions.
fn permissions_let(uid: u32, path: &Path) -> bool {
    read_as(uid, path).status.success()
}

fn read_as(uid: u32, path: &Path) -> Output {
    #[expect(clippy::disallowed_methods, reason = "another user's look at a file")]
    let mut setpriv = std::process::Command::new("setpriv");
    setpriv
        .args(["--reuid", &uid.to_string(), "--regid", &uid.to_string()])
        .args(["--clear-groups", "cat"])
        .arg(path)
        .output()
        .expect("setpriv is there")
}

/// Records, logs and monitors of all VMs, for users of VMs, this one's too, and for nobody.
#[tokio::test]
async fn what_is_the_daemons_is_closed_to_every_user() {
    if !is_root() {
        return;
    }
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let other = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let records = daemon.state_dir.join("records");
    let own = records.join(&vm.id);
    let mut paths = vec![records, own.clone()];
    let entries = std::fs::read_dir(&own).expect("it is there").flatten();
    paths.extend(entries.map(|entry| entry.path()));
    for name in ["vm.json", "launch.json", "qmp.sock"] {
        assert!(paths.contains(&own.join(name)), "{paths:?}");
    }
    let uids = [&vm, &other].map(|vm| assert_without_rights(vm.pid));
    for uid in uids.into_iter().chain([65_534]) {
        for path in &paths {
            // Whatever it is: root is told that a folder or a socket is no file.
            let answer = read_as(uid, path);
            let said = String::from_utf8_lossy(&answer.stderr);
            let context = format!("{uid} {}: {said}", path.display());
            assert!(!answer.status.success(), "{context}");
            assert!(said.contains("Permission denied"), "{context}");
        }
    }
    let said = read_as(0, &own.join("qmp.sock")).stderr;
    let said = String::from_utf8_lossy(&said);
    assert!(!said.contains("Permission denied"), "root: {said}");
    for vm in [&vm, &other] {
        daemon.remove(&vm.id).await.expect("it can be removed");
    }
    daemon.assert_unwound().await;
}

/// With the daemon dead, because a monitor has one client.
#[tokio::test]
async fn what_everybody_may_read_is_closed_to_qemu() {
    if !is_root() {
        return;
    }
    let mut setup = Setup::new();
    let foreign = setup.folder.path().join("foreign");
    std::fs::write(&foreign, "anything").expect("a file");
    let granted_folder = setup.folder.path().join("granted");
    std::fs::create_dir(&granted_folder).expect("a folder");
    let granted = granted_folder.join("file");
    std::fs::write(&granted, "anything").expect("a file");
    for (path, mode) in [
        (&foreign, 0o644),
        (&granted, 0o644),
        (&granted_folder, 0o755),
    ] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, mode).expect("a mode");
    }
    setup.set("qemu.extra_paths", granted_folder.display().to_string());
    setup.set("on_shutdown", "leave").set("log", "debug");
    let mut daemon = setup.start();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    if daemon.log().contains("sandbox=None") {
        println!("skipped: this kernel has no Landlock");
        return;
    }
    let uid: u32 = status_field(vm.pid, "Uid")
        .split_whitespace()
        .next()
        .and_then(|uid| uid.parse().ok())
        .expect("a number");
    daemon.kill();
    let mut monitor = Monitor::connect(&daemon, &vm);
    monitor.open(&granted).expect("config grants it");
    for path in [
        &foreign,
        Path::new("/etc/passwd"),
        Path::new("/proc/1/status"),
    ] {
        assert!(permissions_let(uid, path), "{}", path.display());
        let error = monitor.open(path).expect_err("Landlock is there");
        assert!(
            error.contains("Permission denied"),
            "{}: {error}",
            path.display()
        );
    }
    drop(monitor);
    daemon.restart();
    let listed = daemon.get(&vm.id).await.expect("it is listed");
    assert_eq!((listed.state(), listed.pid), (v1::VmState::Running, vm.pid));
    daemon.remove(&vm.id).await.expect("it can be removed");
    daemon.assert_unwound().await;
}
