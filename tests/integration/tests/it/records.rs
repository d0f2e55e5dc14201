//! What lies in a state directory is a claim and no proof: records that are forged, copied, planted,
//! damaged or of another version never make the daemon signal or delete what is not its own, and
//! never keep it from starting. And records of every format that was ever written still load.
//!
//! With the scripted QEMU, because the subject is the records.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup, Verb, eventually};
use casemate_integration::processes::{self, stat};
use casemate_proto::v1;
use rustix::process::Signal;
use serde_json::{Value, json};
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(60);

fn lasting() -> Setup {
    let mut setup = Setup::new();
    setup.set("on_shutdown", "leave");
    setup.use_fake_qemu(&json!({}));
    setup
}

/// A process of the test's own, which nobody else may touch. It waits for a line that never comes.
struct Innocent(Child);

impl Innocent {
    /// `arguments` are shown in its command line and mean nothing to it.
    fn start(arguments: &[&str]) -> Self {
        #[expect(clippy::disallowed_methods, reason = "it stands for somebody else's")]
        let mut command = std::process::Command::new("/bin/sh");
        command
            .args(["-c", "read line", "innocent"])
            .args(arguments);
        Self(command.stdin(Stdio::piped()).spawn().expect("it starts"))
    }

    /// As a record would name it.
    fn identity(&self) -> Value {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
        json!({
            "pid": self.0.id(),
            "start_time": stat(self.0.id()).expect("it runs").start_time,
            "boot_id": boot_id.expect("it is there").trim(),
        })
    }

    fn assert_untouched(&mut self, what: &str) {
        assert!(
            matches!(self.0.try_wait(), Ok(None)),
            "{what}: it was ended"
        );
        let state = stat(self.0.id()).expect("it runs").state;
        assert_eq!(state, 'S', "{what}: it waits as before");
    }
}

impl Drop for Innocent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All that is at a path and below it.
fn snapshot(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return found;
    };
    let content = if metadata.is_symlink() {
        let target = std::fs::read_link(path).expect("a link");
        target.into_os_string().into_encoded_bytes()
    } else if metadata.is_file() {
        std::fs::read(path).expect("a file")
    } else {
        Vec::new()
    };
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder").flatten() {
            found.extend(snapshot(&entry.path()));
        }
    }
    found.insert(path.to_owned(), content);
    found
}

/// `vm.json` and `launch.json` of a VM whose process is gone.
struct Template {
    vm: Value,
    launch: Value,
}

impl Template {
    async fn take(daemon: &mut Daemon) -> Self {
        let spec = v1::VmSpec {
            name: "template".to_owned(),
            ..v1::VmSpec::default()
        };
        let vm = daemon.create(spec).await.expect("it runs");
        daemon.kill();
        processes::signal(vm.pid, Signal::KILL);
        processes::ended(vm.pid).await;
        let folder = daemon.state_dir.join("records").join(&vm.id);
        let read = |name: &str| -> Value {
            let text = std::fs::read_to_string(folder.join(name)).expect("it is there");
            serde_json::from_str(&text).expect("JSON")
        };
        let template = Self {
            vm: read("vm.json"),
            launch: read("launch.json"),
        };
        std::fs::remove_dir_all(&folder).expect("it goes");
        std::fs::remove_dir_all(daemon.state_dir.join("vms").join(&vm.id)).expect("it goes");
        template
    }

    /// A record of VM `id`, changed.
    fn plant(&self, state_dir: &Path, id: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
        let folder = state_dir.join("records").join(id);
        std::fs::create_dir(&folder).expect("a folder");
        let mut vm = self.vm.clone();
        vm["id"] = id.into();
        change(&mut vm);
        std::fs::write(folder.join("vm.json"), vm.to_string()).expect("a file");
        std::fs::write(folder.join("launch.json"), self.launch.to_string()).expect("a file");
        // It has data too.
        let data = state_dir.join("vms").join(id);
        std::fs::create_dir(&data).expect("a folder");
        std::fs::write(data.join("disk.qcow2"), "data").expect("a file");
        folder
    }
}

/// An id that tells the cases apart.
fn id(number: u32) -> String {
    format!("6f1c8a52-0000-4000-8000-{number:012}")
}

async fn assert_lost(daemon: &Daemon, id: &str, part: &str) {
    let vm = daemon
        .get(id)
        .await
        .unwrap_or_else(|error| panic!("{part}: {error}"));
    assert_eq!(vm.state(), v1::VmState::Lost, "{part}: {}", vm.detail);
    assert!(vm.detail.contains(part), "{part}: {}", vm.detail);
    let refused = daemon
        .remove(id)
        .await
        .expect_err("it is nobody's to remove");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let refused = daemon.act(Verb::ForceStop, id).await;
    let refused = refused.expect_err("it is nobody's to stop");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
}

async fn assert_serves(daemon: &Daemon) {
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    daemon.remove(&vm.id).await.expect("it goes");
}

#[tokio::test]
async fn a_claimed_process_that_is_not_the_vms_is_never_touched() {
    let mut daemon = lasting().start();
    let template = Template::take(&mut daemon).await;
    let state_dir = daemon.state_dir.clone();

    // Named with its pid, its start time and this boot: all that a record can know.
    let forged = id(1);
    let mut named = Innocent::start(&[]);
    let identity = named.identity();
    template.plant(&state_dir, &forged, |vm| {
        vm["process"]["qemu"] = identity.clone();
    });
    // As the process of a launch that was under way, and of one that was a second one.
    let unfinished = id(2);
    template.plant(&state_dir, &unfinished, |vm| {
        vm["progress"] = "creating".into();
        vm["process"]["qemu"] = identity.clone();
        vm["process"]["launcher"] = identity.clone();
    });
    // As the launcher alone: it is waited for and never signalled.
    let launcher = id(3);
    template.plant(&state_dir, &launcher, |vm| {
        vm["process"]["launcher"] = identity.clone();
    });
    // The pid was reused.
    let reused = id(4);
    let mut other = Innocent::start(&[]);
    let mut older = other.identity();
    let start_time = older["start_time"].as_u64().expect("a number");
    older["start_time"] = (start_time - 1).into();
    template.plant(&state_dir, &reused, |vm| vm["process"]["qemu"] = older);
    // It has our id in its command line, and no monitor of ours; removal was even asked for.
    let disguised = id(5);
    let mut disguise = Innocent::start(&["-uuid", &disguised]);
    let as_qemu = disguise.identity();
    template.plant(&state_dir, &disguised, |vm| {
        vm["process"]["qemu"] = as_qemu;
        vm["desired"] = "absent".into();
    });
    // Nobody is named, and somebody runs under the id.
    let unnamed = id(6);
    let mut stranger = Innocent::start(&["-uuid", &unnamed]);
    template.plant(&state_dir, &unnamed, |vm| vm["process"] = Value::Null);
    // The same for a VM that is down and to be removed.
    let down = id(7);
    let mut second_stranger = Innocent::start(&["-uuid", &down]);
    template.plant(&state_dir, &down, |vm| {
        vm["process"] = Value::Null;
        vm["progress"] = "down".into();
        vm["desired"] = "absent".into();
    });
    // A cgroup that is none of a VM: an empty folder of somebody else.
    let placed = id(8);
    let elsewhere = daemon.folder.path().join(&placed);
    std::fs::create_dir(&elsewhere).expect("a folder");
    template.plant(&state_dir, &placed, |vm| {
        vm["process"]["place"] = json!({"cgroup": elsewhere, "unit": null});
    });
    // No record at all, and somebody runs under the id.
    let bare = id(9);
    let mut third_stranger = Innocent::start(&["-uuid", &bare]);
    std::fs::create_dir(state_dir.join("vms").join(&bare)).expect("a folder");
    std::fs::write(state_dir.join("vms").join(&bare).join("disk.qcow2"), "data").expect("a file");

    let before = snapshot(&state_dir);
    daemon.restart();
    for (id, part) in [
        (&forged, "was not started as this VM"),
        (&unfinished, "cannot be proven"),
        (&disguised, "the monitor of process"),
        (&unnamed, "runs under its id"),
        (&down, "runs under its id"),
    ] {
        assert_lost(&daemon, id, part).await;
    }
    for id in [&reused, &launcher, &placed] {
        let vm = daemon.get(id).await.expect("it is listed");
        assert_eq!(vm.state(), v1::VmState::Exited, "{}", vm.detail);
        daemon.remove(id).await.expect("nothing of it runs");
    }
    assert_serves(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
    for (innocent, what) in [
        (&mut named, "named by a record"),
        (&mut other, "has a pid that was reused"),
        (&mut disguise, "has the id in its command line"),
        (&mut stranger, "runs under an id"),
        (
            &mut second_stranger,
            "runs under the id of a VM that is down",
        ),
        (&mut third_stranger, "runs under an id without a record"),
    ] {
        innocent.assert_untouched(what);
    }
    assert!(
        elsewhere.is_dir(),
        "no cgroup, and not the daemon's to remove"
    );
    // What is lost is as it was.
    let after = snapshot(&state_dir);
    for (path, content) in &before {
        let is_lost = [&forged, &unfinished, &disguised, &unnamed, &down, &bare]
            .iter()
            .any(|id| path.to_string_lossy().contains(id.as_str()));
        if is_lost {
            assert_eq!(after.get(path), Some(content), "{}", path.display());
        }
    }
}

/// Two daemons, and a record that somebody copied from one to the other.
#[tokio::test]
async fn a_record_of_another_daemons_vm_is_shown_and_its_vm_is_left_alone() {
    let owner = lasting().start();
    let mut other = lasting().start();
    let vm = owner.create(v1::VmSpec::default()).await.expect("it runs");
    other.kill();
    let copies = other.state_dir.join("records").join(&vm.id);
    for progress in ["up", "creating", "starting", "down"] {
        let source = owner.state_dir.join("records").join(&vm.id);
        std::fs::create_dir(&copies).expect("a folder");
        for entry in std::fs::read_dir(&source).expect("a folder").flatten() {
            // Its monitor's socket cannot be copied.
            if entry.file_type().expect("a type").is_file() {
                std::fs::copy(entry.path(), copies.join(entry.file_name())).expect("a copy");
            }
        }
        let text = std::fs::read_to_string(copies.join("vm.json")).expect("it is there");
        let mut record: Value = serde_json::from_str(&text).expect("JSON");
        record["progress"] = progress.into();
        record["desired"] = "absent".into();
        std::fs::write(copies.join("vm.json"), record.to_string()).expect("a file");
        other.restart();
        assert_lost(&other, &vm.id, "").await;
        assert_eq!(other.stop(), Some(0));
        std::fs::remove_dir_all(&copies).expect("it goes");
        let there = owner.get(&vm.id).await.expect("it is listed");
        assert_eq!(there.state(), v1::VmState::Running, "{progress}");
        assert_eq!(processes::with_uuid(&vm.id), [vm.pid], "{progress}");
    }
    owner.remove(&vm.id).await.expect("it is its owner's");
}

/// It has our monitor, and says that it is not our VM. Fake: QEMU does not lie.
#[tokio::test]
async fn a_qemu_that_says_it_is_another_vm_is_lost_unless_its_cgroup_proves_it() {
    let mut setup = Setup::new();
    setup.set("on_shutdown", "leave");
    setup.use_fake_qemu(&json!({"wrong_uuid": id(1)}));
    let mut daemon = setup.start();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let record = daemon
        .state_dir
        .join("records")
        .join(&vm.id)
        .join("vm.json");
    let text = std::fs::read_to_string(&record).expect("it is there");
    let mut written: Value = serde_json::from_str(&text).expect("JSON");
    let place = written["process"]["place"].take();
    daemon.kill();
    std::fs::write(&record, written.to_string()).expect("a file");
    daemon.restart();
    assert_lost(&daemon, &vm.id, "says that it is another VM").await;
    assert!(processes::is_alive(vm.pid));
    if place["unit"].is_null() && place["cgroup"].is_string() {
        daemon.kill();
        std::fs::write(&record, text).expect("a file");
        daemon.restart();
        let there = daemon.get(&vm.id).await.expect("it is listed");
        assert_eq!(there.state(), v1::VmState::Unresponsive, "{}", there.detail);
        daemon.remove(&vm.id).await.expect("it is ours to end");
        assert!(!processes::is_alive(vm.pid));
    } else {
        println!("no cgroup of the daemon's own here, so that proof is not there: {place}");
    }
}

/// Who cannot be proven may run all the same, and then has what it had.
#[tokio::test]
async fn a_lost_vm_is_counted_as_if_it_ran() {
    let mut setup = lasting();
    setup.set("max_vms", 1);
    let mut daemon = setup.start();
    let template = Template::take(&mut daemon).await;
    let folder = template.plant(&daemon.state_dir, &id(1), |_| {});
    std::fs::write(folder.join("vm.json"), "{").expect("a file");
    daemon.restart();
    assert_lost(&daemon, &id(1), "vm.json is no record").await;
    let refused = daemon.create(v1::VmSpec::default()).await;
    let refused = refused.expect_err("the place is taken");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("all 1 VM slots"), "{refused}");
}

#[tokio::test]
async fn what_is_no_record_is_left_alone_and_keeps_nobody_from_starting() {
    let mut setup = lasting();
    // What is lost may run, and takes its place; that is held elsewhere.
    setup.set("max_vms", 0);
    let mut daemon = setup.start();
    let template = Template::take(&mut daemon).await;
    let state_dir = daemon.state_dir.clone();
    let records = state_dir.join("records");
    let vms = state_dir.join("vms");
    // Somebody's, to which links lead.
    let theirs = daemon.folder.path().join("theirs");
    std::fs::create_dir(&theirs).expect("a folder");
    std::fs::write(theirs.join("letter"), "dear reader").expect("a file");
    let with_record = daemon.folder.path().join("with-record");
    std::fs::create_dir(&with_record).expect("a folder");
    let mut linked = template.vm.clone();
    linked["id"] = id(11).into();
    linked["desired"] = "absent".into();
    std::fs::write(with_record.join("vm.json"), linked.to_string()).expect("a file");

    let mut lost = Vec::new();
    let mut damaged = |number: u32, part: &'static str, content: &[u8]| {
        let folder = template.plant(&state_dir, &id(number), |_| {});
        std::fs::write(folder.join("vm.json"), content).expect("a file");
        lost.push((id(number), part));
    };
    damaged(1, "vm.json is no record", b"");
    damaged(2, "vm.json is no record", b"{\"format\": 3, \"id\"");
    damaged(3, "vm.json is no record", b"\xff\xfe\0");
    damaged(4, "vm.json is no record", b"{\"format\": 3}");
    damaged(5, "upgrade casemated", br#"{"format": 5, "wonders": true}"#);
    damaged(6, "upgrade casemated", br#"{"format": 4294967295}"#);
    damaged(7, "vm.json is no record", br#"{"format": -1}"#);
    let other = template.vm.to_string();
    damaged(8, "it is the record of VM", other.as_bytes());
    let folder = template.plant(&state_dir, &id(9), |_| {});
    std::fs::write(folder.join("launch.json"), "{").expect("a file");
    lost.push((id(9), "launch.json is no record"));
    let folder = template.plant(&state_dir, &id(10), |_| {});
    std::fs::remove_file(folder.join("vm.json")).expect("it goes");
    std::fs::create_dir(folder.join("vm.json")).expect("a folder");
    lost.push((id(10), "not a regular file"));
    // Links for folders.
    symlink(&with_record, records.join(id(11))).expect("a link");
    lost.push((id(11), ""));
    symlink(&theirs, records.join(id(12))).expect("a link");
    lost.push((id(12), ""));
    symlink("/no/such/folder", records.join(id(13))).expect("a link");
    std::fs::create_dir(vms.join(id(13))).expect("a folder");
    std::fs::write(vms.join(id(13)).join("disk.qcow2"), "data").expect("a file");
    lost.push((id(13), ""));
    std::fs::write(records.join(id(14)), "no folder").expect("a file");
    lost.push((id(14), ""));
    // Names of nobody.
    std::fs::write(records.join("README"), "by hand").expect("a file");
    std::fs::create_dir(records.join("old")).expect("a folder");
    std::fs::create_dir(vms.join("lost+found")).expect("a folder");
    std::fs::write(vms.join("notes.txt"), "by hand").expect("a file");
    // Of nobody, and with the name of a VM.
    symlink(&theirs, vms.join(id(20))).expect("a link");
    std::fs::write(vms.join(id(21)), "no folder").expect("a file");
    std::fs::create_dir(vms.join(id(22))).expect("a folder");
    std::fs::write(vms.join(id(22)).join("disk.qcow2"), "data").expect("a file");
    let before = (
        snapshot(&state_dir),
        snapshot(&theirs),
        snapshot(&with_record),
    );

    daemon.restart();
    for (id, part) in &lost {
        assert_lost(&daemon, id, part).await;
    }
    assert_eq!(daemon.list().await.len(), lost.len());
    let (_, metrics) = daemon.get_http("/metrics").await;
    let counted = metrics
        .lines()
        .any(|line| line.contains("\"lost\"") && line.ends_with(&format!(" {}", lost.len())));
    assert!(counted, "{metrics}");
    assert_serves(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));

    assert_eq!(snapshot(&theirs), before.1);
    assert_eq!(snapshot(&with_record), before.2);
    let after = snapshot(&state_dir);
    for (path, content) in &before.0 {
        let is_live = ["lock", "generation", "endpoints.json"]
            .iter()
            .any(|name| path.ends_with(name));
        if !is_live {
            assert_eq!(after.get(path), Some(content), "{}", path.display());
        }
    }
    // The next start finds the same.
    daemon.restart();
    assert_eq!(daemon.list().await.len(), lost.len());
}

fn fixture(format: &str, name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fixtures/records")
        .join(format)
        .join(name);
    let text = std::fs::read_to_string(&path).expect("the fixture is there");
    for foreign in ["/tmp/", "/target/"] {
        assert!(!text.contains(foreign), "{format}/{name} names {foreign}");
    }
    serde_json::from_str(&text).expect("the fixture is JSON")
}

/// A record as an installed daemon would have written it: without a path of the machine of the test.
fn as_installed(text: &str, daemon: &Daemon, record: &Value) -> String {
    let state = daemon.state_dir.display().to_string();
    let kernel = artifacts::kernel();
    let guest = kernel.parent().expect("a folder").display().to_string();
    let text = text
        .replace(&state, "/var/lib/casemate")
        .replace(&guest, "/usr/share/casemate");
    match record["command"][0].as_str() {
        Some(qemu) => text.replace(qemu, "/usr/bin/qemu-system-x86_64"),
        None => text,
    }
}

/// Format 1 was written by the daemons before VMs outlived them; its fixture is one of theirs.
#[tokio::test]
async fn records_of_every_format_load() {
    for format in ["1", "2", "3", "4"] {
        let mut daemon = lasting().start();
        daemon.kill();
        let vm = fixture(format, "vm.json");
        let id = vm["id"].as_str().expect("an id").to_owned();
        let folder = daemon.state_dir.join("records").join(&id);
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::write(folder.join("vm.json"), vm.to_string()).expect("a file");
        if format != "1" {
            let launch = fixture(format, "launch.json");
            std::fs::write(folder.join("launch.json"), launch.to_string()).expect("a file");
        }
        daemon.restart();
        let found = daemon.get(&id).await.expect("it is listed");
        // Its process is of another boot.
        assert_eq!(
            found.state(),
            v1::VmState::Exited,
            "{format}: {}",
            found.detail
        );
        assert_eq!(found.name, format!("format-{format}"));
        let (launch, expires) = match format {
            "1" => (vm.clone(), vm["expires_at"].clone()),
            _ => (
                fixture(format, "launch.json"),
                vm["expires"]["wall"].clone(),
            ),
        };
        for (shown, recorded) in [
            (json!(found.backend), &launch["backend"]),
            (json!(found.backend_sha256), &launch["backend_sha256"]),
            (json!(found.tee), &launch["tee"]),
            (json!(found.qemu_version), &launch["qemu_version"]),
            (json!(found.vcpus), &launch["vcpus"]),
            (json!(found.memory_bytes), &launch["memory_bytes"]),
            (json!(found.machine), &launch["plan"]["machine"]["kind"]),
            (
                json!(found.kernel_cmdline),
                &launch["request"]["kernel_cmdline"],
            ),
            (json!(found.created_at), &vm["created_at"]),
            (json!(found.expires_at), &expires),
        ] {
            assert_eq!(&shown, recorded, "{format}");
        }
        // Written in the newest format from now on.
        let text = std::fs::read_to_string(folder.join("vm.json")).expect("it is there");
        let rewritten: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(rewritten["format"], 4);
        daemon.remove(&id).await.expect("it goes");
        daemon.assert_unwound().await;
    }
}

/// Where two records differ in their fields. Null stands for a value that was not there.
fn compare(path: &str, wanted: &Value, found: &Value, differences: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Null, _) | (_, Value::Null) => {}
        (Value::Object(wanted), Value::Object(found)) => {
            for (key, value) in wanted {
                match found.get(key) {
                    Some(other) => compare(&format!("{path}.{key}"), value, other, differences),
                    None => differences.push(format!("{path}.{key} is gone")),
                }
            }
            for key in found.keys().filter(|key| !wanted.contains_key(*key)) {
                differences.push(format!("{path}.{key} is new"));
            }
        }
        (Value::Array(wanted), Value::Array(found)) => {
            for (wanted, found) in wanted.iter().zip(found) {
                compare(&format!("{path}[]"), wanted, found, differences);
            }
        }
        (wanted, found) if std::mem::discriminant(wanted) != std::mem::discriminant(found) => {
            differences.push(format!("{path} was {wanted} and is {found}"));
        }
        _ => {}
    }
}

/// Fails when what is written changes: then the format needs a new number, and a fixture of its own
/// beside those that there are.
#[tokio::test]
async fn the_newest_fixture_is_what_is_written_today() {
    let mut daemon = lasting().start();
    let spec = v1::VmSpec {
        name: "format-4".to_owned(),
        environment: [("A".to_owned(), "1".to_owned())].into(),
        // Nine years: the record is to load in some of them.
        ttl_seconds: Some(9 * 365 * 86_400),
        restart_policy: v1::RestartPolicy::Always.into(),
        kernel_cmdline: Some("console=ttyS0".to_owned()),
        machine: "q35".to_owned(),
        cpu: "max".to_owned(),
        ..v1::VmSpec::default()
    };
    let vm = daemon.create(spec).await.expect("it runs");
    // So that it has an end to tell of.
    processes::signal(vm.pid, Signal::USR2);
    eventually("its restart", PATIENCE, || async {
        let vm = daemon.get(&vm.id).await.expect("it is listed");
        (vm.state() == v1::VmState::Running && vm.restarts == 1).then_some(())
    })
    .await;
    daemon.kill();
    let folder = daemon.state_dir.join("records").join(&vm.id);
    let mut differences = Vec::new();
    for name in ["vm.json", "launch.json"] {
        let text = std::fs::read_to_string(folder.join(name)).expect("it is there");
        let found: Value = serde_json::from_str(&text).expect("JSON");
        if let Some(folder) = std::env::var_os("CASEMATE_NEW_FIXTURES") {
            let text = as_installed(&text, &daemon, &found);
            std::fs::write(Path::new(&folder).join(name), text).expect("a file");
            continue;
        }
        assert_eq!(found["format"], 4, "{name}: a new format needs a fixture");
        compare(name, &fixture("4", name), &found, &mut differences);
    }
    assert_eq!(differences, Vec::<String>::new());
}
