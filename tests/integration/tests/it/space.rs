//! What is left when there is no room, and when a daemon or a caller goes in the middle of a create.
//! With the scripted QEMU, because the real one cannot be held at a chosen moment.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use casemate_catalogue::ErrorId;
use casemate_integration::daemon::{Daemon, Setup, Verb, eventually};
use casemate_integration::leftovers;
use casemate_integration::tmpfs::Tmpfs;
use casemate_proto::v1;
use rustix::process::Signal;
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt as _;

/// What a tmpfs gives out at once.
const PAGE: u64 = 4096;
/// More pages than a VM's records and console take.
const MOST_PAGES: u64 = 64;
/// Where a launch can be held.
const STAGES: [&str; 6] = [
    "start",
    "greeting",
    "capabilities",
    "hostfwd",
    "cont",
    "status",
];

/// A file that takes what room there is.
struct Filler(PathBuf);

impl Filler {
    fn fill(folder: &Path) -> Self {
        let filler = Self(folder.join("filler"));
        filler.leave(0);
        filler
    }

    /// Takes everything but so many pages.
    fn leave(&self, pages: u64) {
        let mut file = File::options()
            .append(true)
            .create(true)
            .open(&self.0)
            .expect("an empty file takes no room");
        while file.write_all(&[b'x'; 512]).is_ok() {}
        let length = file.metadata().expect("its size").len() / PAGE * PAGE;
        file.set_len(length.saturating_sub(pages * PAGE))
            .expect("it shrinks");
    }

    fn remove(self) {
        std::fs::remove_file(self.0).expect("it is there");
    }
}

/// Each file of the records; all of JSON in it has to be whole.
fn records(state_dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let folders = std::fs::read_dir(state_dir.join("records")).expect("a folder");
    for folder in folders.flatten() {
        for file in std::fs::read_dir(folder.path())
            .expect("a folder")
            .flatten()
        {
            let path = file.path();
            let name = file.file_name().to_string_lossy().into_owned();
            assert!(!name.ends_with(".new"), "{} is left", path.display());
            if ["vm.json", "launch.json"].contains(&name.as_str()) {
                let text = std::fs::read_to_string(&path).expect("a record");
                let whole: Result<serde_json::Value, _> = serde_json::from_str(&text);
                assert!(whole.is_ok(), "{}: {text}", path.display());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn on_a_full_disk_a_create_is_refused_and_the_rest_works() {
    let mut setup = Setup::new();
    let state_dir = setup.state_dir();
    // Deleted when nothing is mounted in it any more.
    let _folder = Arc::clone(&setup.folder);
    let Some(_tmpfs) = Tmpfs::mount(&state_dir, "4m") else {
        return;
    };
    setup
        .set("on_shutdown", "leave")
        .set("qemu.powerdown_time", "1s");
    // So that the shares lie on the full disk too.
    setup.set(
        "secrets_dir",
        setup.folder.path().join("none").display().to_string(),
    );
    setup.use_fake_qemu(&json!({}));
    let mut daemon = setup.start();
    let stays = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let goes = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let stops = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let filler = Filler::fill(&state_dir);
    let (before, entries) = (records(&state_dir), leftovers::vm_entries(&state_dir));

    // With each page more, a create comes a little further.
    let mut refused = 0;
    let created = loop {
        filler.leave(refused);
        match daemon.create(v1::VmSpec::default()).await {
            Ok(vm) => break vm,
            Err(status) => {
                let path = state_dir.display().to_string();
                assert_eq!(
                    status.code(),
                    Code::ResourceExhausted,
                    "{refused} pages: {status}"
                );
                assert!(
                    status.message().contains(&path),
                    "{refused} pages: {status}"
                );
                let info = status.get_details_error_info().expect("an ErrorInfo");
                assert_eq!(*info.reason, *ErrorId::StoreFull.reason(), "{status}");
                assert_eq!(records(&state_dir), before, "{refused} pages");
                assert_eq!(
                    leftovers::vm_entries(&state_dir),
                    entries,
                    "{refused} pages"
                );
            }
        }
        refused += 1;
        assert!(refused < MOST_PAGES, "no create needs so much");
    };
    assert!(
        refused >= 3,
        "a create writes some files, and {refused} pages were enough"
    );
    daemon.remove(&created.id).await.expect("it can be removed");

    filler.leave(0);
    daemon.remove(&goes.id).await.expect("it can be removed");
    filler.leave(0);
    daemon
        .act(Verb::ForceStop, &stops.id)
        .await
        .expect("it stops");
    filler.leave(0);
    let running = daemon.get(&stays.id).await.expect("it is listed");
    assert_eq!(
        (running.state(), running.pid),
        (v1::VmState::Running, stays.pid)
    );
    records(&state_dir);

    daemon.kill();
    if let Err(log) = daemon.try_restart() {
        println!("a daemon that has no room to start in says so, and touches nothing");
        assert!(log.contains(&state_dir.display().to_string()), "{log}");
        assert!(log.contains("No space left"), "{log}");
        filler.remove();
        daemon.restart();
    } else {
        filler.remove();
    }
    let states: Vec<_> = [&stays, &stops, &goes, &created]
        .map(|vm| vm.id.clone())
        .into();
    let listed = daemon.list().await;
    let mut found: Vec<_> = listed.iter().map(|vm| vm.id.clone()).collect();
    found.sort();
    let mut wanted = states[..2].to_vec();
    wanted.sort();
    assert_eq!(found, wanted);
    let adopted = daemon.get(&stays.id).await.expect("it is listed");
    assert_eq!(
        (adopted.state(), adopted.pid),
        (v1::VmState::Running, stays.pid)
    );
    let down = daemon.get(&stops.id).await.expect("it is listed");
    assert!(
        matches!(down.state(), v1::VmState::Stopped | v1::VmState::Exited),
        "{down:?}"
    );
    for vm in [&stays, &stops] {
        daemon.remove(&vm.id).await.expect("it can be removed");
    }
    daemon.assert_unwound().await;
}

/// As long as there is anything of a VM, there is its record, by which the next daemon knows whose
/// it is, and nobody hears that it is gone.
#[tokio::test]
async fn what_cannot_be_deleted_keeps_its_record_and_goes_with_the_next_start() {
    removed_late(false).await;
}

#[tokio::test]
async fn what_cannot_be_deleted_is_tried_again() {
    removed_late(true).await;
}

async fn removed_late(by_the_same_daemon: bool) {
    let mut setup = Setup::new();
    // Deleted when nothing is mounted in it any more.
    let _folder = Arc::clone(&setup.folder);
    setup.use_fake_qemu(&json!({}));
    let mut daemon = setup.start();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let inside = daemon.state_dir.join("vms").join(&vm.id).join("busy");
    let Some(mounted) = Tmpfs::mount(&inside, "1m") else {
        return;
    };
    let refused = daemon.remove(&vm.id).await.expect_err("something is left");
    assert_eq!(refused.code(), Code::Internal, "{refused}");
    let info = refused.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(*info.reason, *ErrorId::FilesLeft.reason(), "{refused}");
    let there = daemon.get(&vm.id).await.expect("it is listed as long");
    assert_eq!(there.state(), v1::VmState::Removing);
    let record = format!("records/{}", vm.id);
    assert!(leftovers::vm_entries(&daemon.state_dir).contains(&record));
    assert_eq!(
        leftovers::processes_naming(&daemon.state_dir),
        Vec::<String>::new()
    );
    if by_the_same_daemon {
        drop(mounted);
        daemon.remove(&vm.id).await.expect("now it can go");
    } else {
        daemon.kill();
        drop(mounted);
        daemon.restart();
    }
    daemon.assert_unwound().await;
}

fn held_at(stage: &str) -> serde_json::Value {
    json!({"hang_at": stage, "ignore": ["sigterm"]})
}

fn setup(script: &serde_json::Value) -> Setup {
    let mut setup = Setup::new();
    setup
        .set("on_shutdown", "leave")
        .set("qemu.start_time", "120s");
    setup.use_fake_qemu(script);
    setup
}

fn write_script(daemon: &Daemon, script: &serde_json::Value) {
    let path = daemon.folder.path().join("fake/fake-qemu.script");
    std::fs::write(path, script.to_string()).expect("a file");
}

/// Runs `leave` when the create that is under way hangs.
async fn in_the_middle<T>(
    daemon: &Daemon,
    starts: usize,
    create: impl Future<Output = T>,
    leave: impl FnOnce(),
) -> Option<T> {
    let hangs = async {
        eventually("its QEMU", Duration::from_secs(60), || async {
            (Setup::fake_starts(daemon.folder.path()).len() == starts).then_some(())
        })
        .await;
        // From the start of the program to where it hangs.
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    let mut create = std::pin::pin!(create);
    tokio::select! {
        _ = &mut create => panic!("it does not hang"),
        () = hangs => {}
    }
    leave();
    // A caller that waits on gets an answer; one that leaves is dropped here.
    tokio::time::timeout(Duration::from_millis(1), create)
        .await
        .ok()
}

async fn assert_all_is_gone(daemon: &Daemon, what: &str) {
    eventually(what, Duration::from_secs(30), || async {
        let is_gone = leftovers::processes_naming(&daemon.state_dir).is_empty()
            && leftovers::cgroups(&daemon.state_dir).is_empty();
        is_gone.then_some(())
    })
    .await;
    leftovers::assert_nothing_left(&daemon.state_dir);
}

async fn a_signal_at_each_stage(signal: Signal) {
    let mut daemon = setup(&json!({})).start();
    for (number, stage) in STAGES.into_iter().enumerate() {
        write_script(&daemon, &held_at(stage));
        let create = daemon.create(v1::VmSpec::default());
        in_the_middle(&daemon, number + 1, create, || daemon.signal(signal)).await;
        let status = daemon.wait();
        assert_eq!(status.code(), Some(0), "{stage}: {status}");
        assert_all_is_gone(&daemon, stage).await;
        daemon.restart();
        assert_eq!(daemon.list().await, [], "{stage}");
    }
}

#[tokio::test]
async fn sigterm_at_any_stage_of_a_create_leaves_nothing() {
    a_signal_at_each_stage(Signal::TERM).await;
}

#[tokio::test]
async fn sigint_at_any_stage_of_a_create_leaves_nothing() {
    a_signal_at_each_stage(Signal::INT).await;
}

#[tokio::test]
async fn a_caller_who_leaves_at_any_stage_of_a_create_leaves_nothing() {
    let daemon = setup(&json!({})).start();
    for (number, stage) in STAGES.into_iter().enumerate() {
        for (turn, script) in [held_at(stage), json!({"delay_ms": {stage: 1_000}})]
            .into_iter()
            .enumerate()
        {
            write_script(&daemon, &script);
            let create = daemon.create(v1::VmSpec::default());
            in_the_middle(&daemon, 2 * number + turn + 1, create, || {}).await;
            eventually(stage, Duration::from_secs(30), || async {
                daemon.list().await.is_empty().then_some(())
            })
            .await;
            assert_all_is_gone(&daemon, stage).await;
        }
    }
}
