//! One QEMU that stands still, or whose monitor does, is nobody else's trouble: it is shown as what
//! it is, can be ended all the same, and every other call is as quick as before.

use std::path::Path;
use std::time::{Duration, Instant};

use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup, Verb, eventually};
use casemate_integration::processes::{self, stat};
use casemate_proto::v1;
use rustix::process::Signal;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
/// What the manager itself may take of a call while one QEMU hangs.
const MOST: Duration = Duration::from_millis(50);
/// Calls that are measured, of each kind and at least.
const CALLS: usize = 400;

fn named(name: &str) -> v1::VmSpec {
    v1::VmSpec {
        name: name.to_owned(),
        ..v1::VmSpec::default()
    }
}

fn fake(script: &Value) -> Daemon {
    let mut setup = Setup::new();
    setup.set("qemu.powerdown_time", "1s");
    setup.set("qemu.start_time", "5s");
    setup.use_fake_qemu(script);
    setup.start()
}

/// The value that `share` of all lie below, with a histogram on standard output.
fn percentile(what: &str, mut times: Vec<Duration>, share: f64) -> Duration {
    times.sort_unstable();
    let mut histogram = String::new();
    let mut below = 0;
    for limit in [1, 2, 5, 10, 20, 50, 100, 1_000, 100_000] {
        let count = times.partition_point(|time| *time < Duration::from_millis(limit));
        if count > below {
            histogram.push_str(&format!(" <{limit}ms:{}", count - below));
        }
        below = count;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a position in a short list"
    )]
    let position = (times.len() as f64 * share) as usize;
    let found = times[position.min(times.len() - 1)];
    println!(
        "{what}: {} calls, p{:.0} {found:?};{histogram}",
        times.len(),
        share * 100.0
    );
    found
}

/// Five real QEMUs, one of them stopped. The machine is shared with four guests that boot under
/// emulation, so they are paused for the measurement: what is measured is the daemon.
///
/// A create takes what its QEMU takes. The manager's own share is what is left when QEMU takes
/// nothing: a create that is refused after all of the admission, for which the VM slots are full.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_qemu_slows_nobody_down() {
    let mut setup = Setup::new();
    setup.set("max_vms", 5);
    let daemon = setup.start();
    let mut vms = Vec::new();
    for number in 0..5 {
        let vm = daemon
            .create(named(&format!("vm-{number}")))
            .await
            .expect("it runs");
        daemon.act(Verb::Pause, &vm.id).await.expect("it pauses");
        vms.push(vm);
    }
    let hung = vms.pop().expect("there are five");
    processes::signal(hung.pid, Signal::STOP);

    let mut client = daemon.vms().await;
    let (mut lists, mut creates, mut pauses) = (Vec::new(), Vec::new(), Vec::new());
    let mut scrapes = Vec::new();
    let mut seen_unresponsive = false;
    let begun = Instant::now();
    for number in 0.. {
        if number >= CALLS && seen_unresponsive {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "it is shown as what it is");
        let begun = Instant::now();
        let answer = client
            .list_vms(v1::ListVmsRequest::default())
            .await
            .expect("an answer");
        lists.push(begun.elapsed());
        seen_unresponsive |= answer
            .get_ref()
            .vms
            .iter()
            .any(|vm| vm.id == hung.id && vm.state() == v1::VmState::Unresponsive);
        let begun = Instant::now();
        let request = v1::CreateVmRequest {
            spec: Some(named("more")),
            ..Default::default()
        };
        let refused = client
            .create_vm(request)
            .await
            .expect_err("all slots are taken");
        creates.push(begun.elapsed());
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
        let begun = Instant::now();
        let id = vms[number % vms.len()].id.clone();
        let paused = client
            .pause_vm(v1::PauseVmRequest {
                id,
                ..Default::default()
            })
            .await;
        pauses.push(begun.elapsed());
        paused.expect("it is paused already");
        let begun = Instant::now();
        let (status, _) = daemon.get_http("/metrics").await;
        scrapes.push(begun.elapsed());
        assert_eq!(status, 200);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (what, times) in [
        ("list", lists),
        ("create", creates),
        ("pause", pauses),
        ("metrics", scrapes),
    ] {
        let found = percentile(what, times, 0.99);
        assert!(found < MOST, "{what}: p99 is {found:?}");
    }
    // The others are as they were, and do as they are told.
    for vm in &vms {
        let resumed = daemon.act(Verb::Resume, &vm.id).await.expect("it goes on");
        assert_eq!(resumed.state(), v1::VmState::Running);
        daemon.remove(&vm.id).await.expect("it goes");
    }
    // A place is free again: a whole create works beside the one that hangs.
    let other = daemon.create(named("other")).await.expect("it runs");
    daemon.remove(&other.id).await.expect("it goes");

    assert_eq!(
        stat(hung.pid).map(|stat| stat.state),
        Some('T'),
        "nobody woke it"
    );
    processes::signal(hung.pid, Signal::CONT);
    let awake = daemon.in_state(&hung.id, v1::VmState::Paused).await;
    assert_eq!(awake.pid, hung.pid);
    daemon
        .act(Verb::Resume, &hung.id)
        .await
        .expect("it answers");
    processes::signal(hung.pid, Signal::STOP);
    daemon.in_state(&hung.id, v1::VmState::Unresponsive).await;
    daemon.remove(&hung.id).await.expect("it goes");
    assert!(!processes::is_alive(hung.pid));
    daemon.assert_unwound().await;
}

/// Whole creates, with scripted QEMUs, which take next to no time themselves: the manager's own
/// share, held against that of a daemon without a QEMU that hangs. Both are asked in turn, so that
/// whatever else the machine does slows both.
#[tokio::test]
async fn a_stopped_qemu_makes_no_create_slower() {
    const ROUNDS: usize = 100;
    let (without, beside) = (fake(&json!({})), fake(&json!({})));
    let hung = beside.create(named("hung")).await.expect("it runs");
    processes::signal(hung.pid, Signal::STOP);
    beside.in_state(&hung.id, v1::VmState::Unresponsive).await;
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (daemon, times) in [&without, &beside].into_iter().zip(&mut times) {
            let begun = Instant::now();
            let vm = daemon.create(named("more")).await.expect("it runs");
            times.push(begun.elapsed());
            daemon.remove(&vm.id).await.expect("it goes");
        }
    }
    let [alone, hanging] = times;
    let alone = percentile("create", alone, 0.95);
    let hanging = percentile("create, beside one that hangs", hanging, 0.95);
    // On a busy machine both are slow.
    let most = MOST.max(alone * 2);
    assert!(
        hanging < most,
        "{hanging:?} beside one that hangs, {alone:?} without"
    );
}

/// A request to a QEMU that was stopped a moment ago is answered, one way or the other.
#[tokio::test]
async fn calls_to_a_stopped_qemu_end() {
    let daemon = fake(&json!({}));
    for verb in [
        Verb::Pause,
        Verb::Reset,
        Verb::Stop,
        Verb::ForceStop,
        Verb::Restart,
    ] {
        let vm = daemon.create(named("stopped")).await.expect("it runs");
        processes::signal(vm.pid, Signal::STOP);
        match (daemon.act(verb, &vm.id).await, verb) {
            // It is dead, and was not asked.
            (Ok(done), Verb::Stop | Verb::ForceStop) => {
                assert_eq!(done.state(), v1::VmState::Stopped);
            }
            (Ok(done), Verb::Restart) => assert_ne!(done.pid, vm.pid),
            (Ok(done), _) => panic!("{verb:?}: {done:?}"),
            (Err(status), Verb::Pause | Verb::Reset) => {
                assert!(status.message().contains("remedy: "), "{status}");
                daemon.in_state(&vm.id, v1::VmState::Unresponsive).await;
            }
            (Err(status), _) => panic!("{verb:?}: {status}"),
        }
        let gone = daemon.remove(&vm.id).await;
        gone.unwrap_or_else(|error| panic!("{verb:?}: {error}"));
        assert!(!processes::is_alive(vm.pid), "{verb:?}");
    }
    daemon.assert_unwound().await;
}

/// With the scripted QEMU, because the real one cannot be made to close its monitor and live.
#[tokio::test]
async fn a_monitor_that_closes_is_reached_again_or_shown_as_gone() {
    for (on_reconnect, comes_back) in [
        ("greet", true),
        ("silent", false),
        ("hang-up", false),
        ("refuse", false),
    ] {
        let script = json!({"close_qmp_at": "running", "on_reconnect": on_reconnect});
        let daemon = fake(&script);
        let vm = daemon.create(named("closed")).await.expect("it runs");
        eventually(on_reconnect, PATIENCE, || async {
            daemon
                .log()
                .contains("QEMU closed its monitor")
                .then_some(())
        })
        .await;
        if comes_back {
            let back = daemon.in_state(&vm.id, v1::VmState::Running).await;
            assert_eq!(back.pid, vm.pid, "{on_reconnect}");
            let paused = daemon.act(Verb::Pause, &vm.id).await.expect(on_reconnect);
            assert_eq!(paused.state(), v1::VmState::Paused);
        } else {
            let shown = daemon.in_state(&vm.id, v1::VmState::Unresponsive).await;
            assert_eq!(shown.pid, vm.pid);
            assert!(processes::is_alive(vm.pid), "it was left alone");
            daemon
                .act(Verb::Pause, &vm.id)
                .await
                .expect_err(on_reconnect);
        }
        // Neither needs the monitor to end it.
        let stopped = daemon.act(Verb::Stop, &vm.id).await.expect(on_reconnect);
        assert_eq!(stopped.state(), v1::VmState::Stopped);
        assert!(!processes::is_alive(vm.pid), "{on_reconnect}");
        daemon.remove(&vm.id).await.expect(on_reconnect);
        daemon.assert_unwound().await;
    }
}

/// With the scripted QEMU, whose answers can be late to the millisecond.
#[tokio::test]
async fn a_monitor_that_is_always_late_is_unresponsive_and_its_vm_ends_all_the_same() {
    let daemon = fake(&json!({}));
    let prompt = daemon.create(named("prompt")).await.expect("it runs");
    // Read at the start of a QEMU: the first one stays as it is.
    rewrite_script(
        daemon.folder.path(),
        &json!({"late_ms": {"query-status": 3_000}}),
    );
    for verb in [Verb::Stop, Verb::ForceStop] {
        let late = daemon
            .create(named("late"))
            .await
            .expect("late is not dead");
        daemon.in_state(&late.id, v1::VmState::Unresponsive).await;
        assert!(processes::is_alive(late.pid), "it was left alone");
        let there = daemon.get(&prompt.id).await.expect("it is listed");
        assert_eq!(there.state(), v1::VmState::Running);
        let stopped = daemon.act(verb, &late.id).await.expect("it stops");
        assert_eq!(stopped.state(), v1::VmState::Stopped);
        assert!(!processes::is_alive(late.pid));
        daemon.remove(&late.id).await.expect("it goes");
    }
    daemon.remove(&prompt.id).await.expect("it goes");
    daemon.assert_unwound().await;
}

fn rewrite_script(folder: &Path, script: &Value) {
    let path = folder.join("fake/fake-qemu.script");
    std::fs::write(path, script.to_string()).expect("the script is there");
}

/// What the test above means by the real one: QEMU's own monitor, as installed.
#[tokio::test]
async fn a_real_qemu_that_is_stopped_is_killed_without_its_help() {
    for qemu in artifacts::qemus().into_iter().take(1) {
        let mut setup = Setup::new();
        setup.set("qemu.binary", qemu.display().to_string());
        let daemon = setup.start();
        let vm = daemon.create(named("stopped")).await.expect("it runs");
        processes::signal(vm.pid, Signal::STOP);
        let stopped = daemon.act(Verb::Stop, &vm.id).await.expect("it stops");
        let exit = stopped.last_exit.expect("it ended");
        assert_eq!(exit.signal, Some(9), "a stopped process hears nothing else");
        daemon.remove(&vm.id).await.expect("it goes");
        daemon.assert_unwound().await;
    }
}
