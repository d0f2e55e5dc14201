//! A QEMU that was taken over, and callers that leave in the middle: neither holds up the daemon,
//! nor makes it say what is not so.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use casemate_integration::daemon::{Daemon, Setup, Verb, eventually};
use casemate_integration::leftovers;
use casemate_integration::processes;
use casemate_proto::v1;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Signal;
use serde_json::json;
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(60);
/// A listener with more room than this is none of QEMU's.
const MOST_WAITING: usize = 1_000;

fn lasting() -> Setup {
    let mut setup = Setup::new();
    setup.set("on_shutdown", "leave");
    setup
}

async fn create(daemon: &Daemon) -> v1::Vm {
    daemon.create(v1::VmSpec::default()).await.expect("it runs")
}

/// Connections that nobody accepts, as many as there is room for.
fn fill_queue(socket: &Path) -> Vec<OwnedFd> {
    // A path in a socket's address has 107 bytes at most, and a state directory may have more.
    let folder = std::fs::File::open(socket.parent().expect("a folder")).expect("it is there");
    let path = format!("/proc/self/fd/{}/qmp.sock", folder.as_raw_fd());
    let address = SocketAddrUnix::new(path).expect("a short path");
    let mut waiting = Vec::new();
    loop {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let client = rustix::net::socket_with(family, kind, flags, None).expect("a socket");
        match rustix::net::connect(&client, &address) {
            Ok(()) => waiting.push(client),
            Err(rustix::io::Errno::AGAIN) => return waiting,
            Err(error) => panic!("{error}"),
        }
        assert!(waiting.len() < MOST_WAITING, "the queue has no end");
    }
}

/// QEMU owns its monitor's listener: one that was taken over stops accepting, and a connection to
/// it waits for ever unless somebody takes care.
#[tokio::test]
async fn a_monitor_whose_queue_is_full_holds_nobody() {
    let mut daemon = lasting().start();
    let vm = create(&daemon).await;
    daemon.kill();
    processes::signal(vm.pid, Signal::STOP);
    let socket = daemon
        .state_dir
        .join("records")
        .join(&vm.id)
        .join("qmp.sock");
    let waiting = fill_queue(&socket);
    // Twice: what the first one does must not hold the second one either.
    for _ in 0..2 {
        daemon.restart();
        let there = daemon.get(&vm.id).await.expect("it is listed");
        assert_eq!(there.state(), v1::VmState::Unresponsive, "{}", there.detail);
        assert_eq!(daemon.stop(), Some(0));
    }
    daemon.restart();
    drop(waiting);
    processes::signal(vm.pid, Signal::CONT);
    let back = daemon.in_state(&vm.id, v1::VmState::Running).await;
    assert_eq!(back.pid, vm.pid);
    // And when it is full for good, the VM is ended all the same.
    daemon.kill();
    processes::signal(vm.pid, Signal::STOP);
    let _waiting = fill_queue(&socket);
    daemon.restart();
    daemon.remove(&vm.id).await.expect("it goes");
    assert!(!processes::is_alive(vm.pid));
    daemon.assert_unwound().await;
}

/// The launcher has the user of its QEMU, which may signal it where the kernel has no Landlock
/// scopes.
#[tokio::test]
async fn a_stopped_launcher_keeps_neither_its_vm_nor_its_place() {
    let daemon = Setup::new().start();
    let vm = create(&daemon).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", vm.pid)).expect("it runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let launcher = parent.and_then(|pid| pid.trim().parse().ok());
    let launcher = launcher.expect("it has one");
    processes::signal(launcher, Signal::STOP);
    daemon.remove(&vm.id).await.expect("it goes");
    assert!(!processes::is_alive(vm.pid));
    assert!(!processes::is_alive(launcher), "its launcher is left");
    daemon.assert_unwound().await;
}

/// With the scripted QEMU, which takes as long to shut down as it is told.
#[tokio::test]
async fn a_removal_that_the_daemons_end_cuts_short_is_no_success() {
    let mut setup = lasting();
    setup.set("qemu.powerdown_time", "60s");
    setup.use_fake_qemu(&json!({"ignore": ["system_powerdown"]}));
    let mut daemon = setup.start();
    let vm = create(&daemon).await;
    let mut clients = [daemon.vms().await, daemon.vms().await];
    let calls = clients.each_mut().map(|client| {
        let request = v1::RemoveVmRequest {
            id: vm.id.clone(),
            ..Default::default()
        };
        client.remove_vm(request)
    });
    let calls = calls.map(Box::pin);
    let [one, two] = calls;
    let ends = async {
        daemon.in_state(&vm.id, v1::VmState::Stopping).await;
        daemon.signal(Signal::TERM);
    };
    let (one, two, ()) = tokio::join!(one, two, ends);
    for answer in [one, two] {
        let refused = answer.expect_err("it runs still");
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    }
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(processes::is_alive(vm.pid), "it was let go");
    // The next daemon goes on with it.
    daemon.setup.set("qemu.powerdown_time", "1s");
    daemon.restart();
    eventually("the removal is over", PATIENCE, || async {
        daemon.list().await.is_empty().then_some(())
    })
    .await;
    assert!(!processes::is_alive(vm.pid));
    daemon.assert_unwound().await;
}

/// Who did what is in the log, also where the caller did not wait for it.
#[tokio::test]
async fn every_change_has_its_line_in_the_log() {
    let mut setup = Setup::new();
    setup.set("qemu.powerdown_time", "2s");
    setup.use_fake_qemu(&json!({"ignore": ["system_powerdown"]}));
    let daemon = setup.start();
    let vm = create(&daemon).await;
    daemon.act(Verb::Pause, &vm.id).await.expect("it pauses");
    daemon.act(Verb::Resume, &vm.id).await.expect("it goes on");
    let unknown = "6f1c8a52-0000-4000-8000-000000000001";
    daemon.remove(unknown).await.expect_err("there is none");
    let mut request = tonic::Request::new(v1::RemoveVmRequest {
        id: vm.id.clone(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_millis(300));
    let left = daemon.vms().await.remove_vm(request).await;
    left.expect_err("the guest takes longer");
    eventually("it goes all the same", PATIENCE, || async {
        daemon.list().await.is_empty().then_some(())
    })
    .await;
    let log = daemon.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("audit")).collect();
    for (action, id, outcome) in [
        ("create", vm.id.as_str(), "ok"),
        ("pause", &vm.id, "ok"),
        ("resume", &vm.id, "ok"),
        ("remove", unknown, "no-such-vm"),
        ("remove", &vm.id, "caller-left"),
    ] {
        let found = lines.iter().filter(|line| {
            [action, id, outcome, "127.0.0.1:"]
                .iter()
                .all(|part| line.contains(part))
        });
        assert_eq!(found.count(), 1, "{action} {outcome}: {lines:#?}");
    }
}

/// A probing QEMU has no machine, and waits for questions for ever. Fake: it is to be in the middle
/// of a probe when the daemon dies.
#[tokio::test]
async fn a_probing_qemu_ends_with_a_daemon_that_is_killed() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({"probes": true, "hang_at": "greeting"}));
    let fake = setup.folder.path().join("fake");
    let mut daemon = setup.command().spawn().expect("casemated runs");
    let probing = eventually("a probe", PATIENCE, || async {
        leftovers::processes_naming(&fake)
            .into_iter()
            .find(|process| process.contains("-machine none"))
    })
    .await;
    daemon.kill().expect("it runs");
    daemon.wait().expect("it ended");
    eventually(&format!("the end of {probing}"), PATIENCE, || async {
        leftovers::processes_naming(&fake).is_empty().then_some(())
    })
    .await;
}
