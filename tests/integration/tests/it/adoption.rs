//! VMs outlive their daemon, however it ends, and the next one takes them over: what is theirs is
//! still theirs, what happened meanwhile is told, and what was under way is finished.

use std::path::PathBuf;
use std::time::Duration;

use casemate_integration::daemon::{Daemon, Setup, Verb, agent_answer, eventually};
use casemate_integration::leftovers;
use casemate_integration::processes::{self, stat};
use casemate_proto::v1;
use rustix::process::Signal;
use serde_json::{Value, json};
use tonic::Code;

/// For what takes a moment, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn spec(name: &str) -> v1::VmSpec {
    v1::VmSpec {
        name: name.to_owned(),
        environment: [("NONCE".to_owned(), format!("nonce-of-{name}"))].into(),
        ..v1::VmSpec::default()
    }
}

/// VMs stay when the daemon ends.
fn lasting() -> Setup {
    let mut setup = Setup::new();
    setup.set("on_shutdown", "leave");
    setup
}

fn lasting_fake(script: &Value) -> Setup {
    let mut setup = lasting();
    setup.use_fake_qemu(script);
    setup
}

fn record(daemon: &Daemon, id: &str) -> PathBuf {
    daemon.state_dir.join("records").join(id).join("vm.json")
}

fn rewrite(path: &std::path::Path, change: impl FnOnce(&mut Value)) {
    let text = std::fs::read_to_string(path).expect("the record is there");
    let mut record = serde_json::from_str(&text).expect("the record is JSON");
    change(&mut record);
    std::fs::write(path, record.to_string()).expect("the record can be written");
}

/// Guests that never notice: what they are is read from the kernel and from their own agents.
#[tokio::test]
async fn booted_guests_outlive_a_crash_and_a_graceful_end() {
    let mut daemon = lasting().start();
    let (one, two) = tokio::join!(daemon.create(spec("one")), daemon.create(spec("two")));
    let mut before = [one.expect("it runs"), two.expect("it runs")];
    if daemon.list().await[0].id == before[1].id {
        // Which of the two was first is open.
        before.reverse();
    }
    let started = before
        .each_ref()
        .map(|vm| stat(vm.pid).expect("it runs").start_time);
    for vm in &before {
        let body = agent_answer(&vm.agent_address).await;
        assert!(
            body.contains(&format!("NONCE=nonce-of-{}\n", vm.name)),
            "{body}"
        );
    }
    for is_crash in [true, false] {
        if is_crash {
            daemon.kill();
        } else {
            assert_eq!(daemon.stop(), Some(0));
        }
        // Nobody but QEMU serves this.
        agent_answer(&before[0].agent_address).await;
        daemon.restart();
        let after = daemon.list().await;
        assert_eq!(after.len(), 2, "{after:?}");
        for ((before, after), started) in before.iter().zip(&after).zip(started) {
            assert_eq!(
                (&before.id, &before.name),
                (&after.id, &after.name),
                "the order of creation"
            );
            assert_eq!(after.state(), v1::VmState::Running, "{}", after.detail);
            assert_eq!(before.pid, after.pid);
            assert_eq!(stat(after.pid).map(|stat| stat.start_time), Some(started));
            assert_eq!(processes::with_uuid(&after.id), [after.pid]);
            assert_eq!(before.agent_address, after.agent_address);
            assert_eq!(before.created_at, after.created_at);
            assert_eq!(before.started_at, after.started_at);
            assert_eq!(
                (
                    &before.backend,
                    &before.backend_sha256,
                    &before.machine,
                    before.memory_bytes
                ),
                (
                    &after.backend,
                    &after.backend_sha256,
                    &after.machine,
                    after.memory_bytes
                )
            );
            assert!(after.generation > before.generation);
            let body = agent_answer(&after.agent_address).await;
            assert!(
                body.contains(&format!("NONCE=nonce-of-{}\n", after.name)),
                "{body}"
            );
        }
    }
    let [one, two] = before;
    // What the guest says from now on is heard, as is its answer to the power button.
    let stopped = daemon.act(Verb::Stop, &one.id).await.expect("it stops");
    assert_eq!(stopped.state(), v1::VmState::Stopped);
    assert_eq!(
        stopped.last_exit.expect("it ended").reason,
        "guest-shutdown"
    );
    let said = daemon.console(&one.id).await;
    for part in ["casemate-agent: ready", "casemate-agent: power button"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    daemon.remove(&two.id).await.expect("it goes");
    assert!(!processes::is_alive(two.pid));
    daemon.kill();
    daemon.restart();
    let left = daemon.list().await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].state(), v1::VmState::Stopped);
    daemon.remove(&one.id).await.expect("it goes");
    daemon.assert_unwound().await;
}

/// With the scripted QEMU, because what is held is the daemon's account of the VM.
#[tokio::test]
async fn what_a_vm_holds_is_held_for_it_by_the_next_daemon() {
    let port = casemate_integration::daemon::free_port();
    let cases = [
        ("max_vms", toml::Value::from(1)),
        ("max_vcpus", 1.into()),
        ("network.ports", format!("{port}-{port}").into()),
        // The last one of the range is kept for questions.
        ("qemu.uids", "1900000500-1900000501".into()),
    ];
    for (key, value) in cases {
        if key == "qemu.uids" && !rustix::process::geteuid().is_root() {
            println!("skipped: users of VMs, because this is not root");
            continue;
        }
        let mut setup = lasting_fake(&json!({}));
        setup.set(key, value);
        let mut daemon = setup.start();
        let vm = daemon.create(spec("first")).await.expect("it runs");
        daemon.kill();
        daemon.restart();
        daemon.in_state(&vm.id, v1::VmState::Running).await;
        let refused = daemon.create(spec("second")).await.expect_err(key);
        assert_eq!(refused.code(), Code::ResourceExhausted, "{key}: {refused}");
        assert!(processes::is_alive(vm.pid), "{key}");
        daemon.remove(&vm.id).await.expect(key);
        let second = daemon.create(spec("second")).await;
        let second = second.unwrap_or_else(|error| panic!("{key} is given back: {error}"));
        daemon.remove(&second.id).await.expect(key);
        daemon.assert_unwound().await;
    }
}

/// With the scripted QEMU: a time to live is the daemon's own affair.
#[tokio::test]
async fn a_time_to_live_goes_on_and_ends_without_a_daemon_too() {
    let mut daemon = lasting_fake(&json!({})).start();
    let with_ttl = |name: &str, seconds| v1::VmSpec {
        ttl_seconds: Some(seconds),
        ..spec(name)
    };
    let long = daemon
        .create(with_ttl("long", 3_600))
        .await
        .expect("it runs");
    let short = daemon.create(with_ttl("short", 12)).await.expect("it runs");
    let past = daemon.create(with_ttl("past", 1)).await.expect("it runs");
    daemon.kill();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(processes::is_alive(past.pid), "nobody is there to end it");
    daemon.restart();
    let listed = daemon.get(&long.id).await.expect("it is there");
    assert_eq!(listed.expires_at, long.expires_at);
    if let Ok(listed) = daemon.get(&short.id).await {
        assert_eq!(listed.expires_at, short.expires_at);
    }
    for vm in [&past, &short] {
        eventually("the end of its time", PATIENCE, || async {
            daemon.get(&vm.id).await.is_err().then_some(())
        })
        .await;
        assert!(!processes::is_alive(vm.pid));
    }
    assert_eq!(daemon.list().await.len(), 1);
    assert!(processes::is_alive(long.pid));
}

enum End {
    /// The test sends it.
    Signal(Signal),
    /// It ends by itself.
    Waited,
}

/// With the scripted QEMU, because the real one cannot be made to exit with a chosen code.
#[tokio::test]
async fn how_a_qemu_ended_meanwhile_is_told() {
    let cases = [
        (
            "its guest shuts down",
            json!({}),
            End::Signal(Signal::USR1),
            Some(0),
            None,
        ),
        (
            "SIGKILL",
            json!({}),
            End::Signal(Signal::KILL),
            None,
            Some(9),
        ),
        (
            "SIGABRT",
            json!({}),
            End::Signal(Signal::ABORT),
            None,
            Some(6),
        ),
        (
            "an exit code",
            json!({"die_at": "running", "exit_code": 7, "delay_ms": {"running": 4_000}}),
            End::Waited,
            Some(7),
            None,
        ),
    ];
    for (name, script, end, code, signal) in cases {
        let mut daemon = lasting_fake(&script).start();
        let vm = daemon.create(spec("short")).await.expect("it runs");
        daemon.kill();
        let launcher = stat(vm.pid).expect(name).parent;
        match end {
            End::Signal(signal) => processes::signal(vm.pid, signal),
            End::Waited => assert!(processes::is_alive(vm.pid), "{name}: the daemon died first"),
        }
        processes::ended(vm.pid).await;
        processes::ended(launcher).await;
        daemon.restart();
        let ended = daemon.get(&vm.id).await.expect("it is listed");
        assert_eq!(ended.state(), v1::VmState::Exited, "{name}");
        assert!(
            ended.detail.contains("while no daemon ran"),
            "{name}: {}",
            ended.detail
        );
        assert_eq!((ended.pid, ended.agent_address.as_str()), (0, ""), "{name}");
        let exit = ended.last_exit.expect(name);
        assert_eq!((exit.code, exit.signal), (code, signal), "{name}");
        assert!(
            daemon.console(&vm.id).await.contains("fake console"),
            "{name}"
        );
        daemon.remove(&vm.id).await.expect(name);
        daemon.assert_unwound().await;
    }
}

/// With the scripted QEMU: what is asked is which policy starts it again.
#[tokio::test]
async fn a_restart_policy_acts_on_an_end_that_no_daemon_saw() {
    for (policy, is_restarted) in [
        (v1::RestartPolicy::Never, false),
        (v1::RestartPolicy::OnFailure, true),
        (v1::RestartPolicy::Always, true),
    ] {
        let mut daemon = lasting_fake(&json!({})).start();
        let vm = daemon.create(v1::VmSpec {
            restart_policy: policy.into(),
            ..spec("again")
        });
        let vm = vm.await.expect("it runs");
        daemon.kill();
        processes::signal(vm.pid, Signal::KILL);
        processes::ended(vm.pid).await;
        daemon.restart();
        if is_restarted {
            let again = daemon.in_state(&vm.id, v1::VmState::Running).await;
            assert_ne!(again.pid, vm.pid);
            assert_eq!(again.restarts, 1);
            assert_eq!(again.last_exit.expect("it ended").signal, Some(9));
            assert_eq!(processes::with_uuid(&vm.id), [again.pid]);
        } else {
            // Longer than the first delay of a policy.
            tokio::time::sleep(Duration::from_secs(2)).await;
            daemon.in_state(&vm.id, v1::VmState::Exited).await;
            assert!(processes::with_uuid(&vm.id).is_empty());
        }
    }
}

/// With a scripted QEMU that takes its time to go, so that the daemon dies in between.
#[tokio::test]
async fn a_stop_and_a_removal_that_were_under_way_are_finished() {
    for is_removal in [false, true] {
        let mut setup = lasting_fake(&json!({"ignore": ["system_powerdown"]}));
        setup.set("qemu.powerdown_time", "10m");
        let mut daemon = setup.start();
        let vm = daemon.create(spec("going")).await.expect("it runs");
        let mut vms = daemon.vms().await;
        let id = vm.id.clone();
        let asked = tokio::spawn(async move {
            if is_removal {
                vms.remove_vm(v1::RemoveVmRequest {
                    id,
                    ..Default::default()
                })
                .await
                .is_ok()
            } else {
                vms.stop_vm(v1::StopVmRequest {
                    id,
                    force: false,
                    ..Default::default()
                })
                .await
                .is_ok()
            }
        });
        daemon.in_state(&vm.id, v1::VmState::Stopping).await;
        daemon.kill();
        assert!(!asked.await.expect("no panic"), "nobody answered");
        assert!(processes::is_alive(vm.pid));
        daemon.setup.set("qemu.powerdown_time", "1s");
        daemon.restart();
        processes::ended(vm.pid).await;
        if is_removal {
            daemon.assert_unwound().await;
        } else {
            let stopped = daemon.in_state(&vm.id, v1::VmState::Stopped).await;
            assert_eq!(stopped.pid, 0);
            daemon.remove(&vm.id).await.expect("it goes");
        }
    }
}

/// The daemon dies at every step of a launch: whoever asked was told nothing, so the VM is there
/// whole or not at all.
#[tokio::test]
async fn a_daemon_that_dies_in_a_launch_leaves_a_whole_vm_or_nothing() {
    for (failpoint, may_stay) in [
        ("reserved", false),
        ("recorded", false),
        ("spawned", false),
        ("greeting", false),
        ("port", false),
        ("cont", false),
        ("published", true),
        ("answered", true),
    ] {
        let mut setup = lasting();
        setup.variable("CASEMATE_FAILPOINT", &format!("{failpoint}:1"));
        let mut daemon = setup.start();
        let created = daemon.create(spec("unfinished")).await;
        if failpoint != "answered" {
            created.expect_err(failpoint);
        }
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(daemon.wait().signal(), Some(9), "{failpoint} was reached");
        daemon.setup.variables.clear();
        daemon.restart();
        let vms = daemon.list().await;
        assert!(may_stay || vms.is_empty(), "{failpoint}: {vms:?}");
        for vm in &vms {
            let vm = daemon.in_state(&vm.id, v1::VmState::Running).await;
            assert_eq!(processes::with_uuid(&vm.id), [vm.pid], "{failpoint}");
            daemon.remove(&vm.id).await.expect(failpoint);
        }
        leftovers::assert_nothing_left(&daemon.state_dir);
        // And nothing is in the way of the next.
        let next = daemon.create(spec("next")).await.expect(failpoint);
        daemon.remove(&next.id).await.expect(failpoint);
        leftovers::assert_nothing_left(&daemon.state_dir);
    }
}

/// A QEMU that stands still when its next daemon comes is its VM all the same.
#[tokio::test]
async fn a_vm_that_does_not_answer_is_taken_over_and_answers_later() {
    let mut daemon = lasting().start();
    let vm = daemon.create(spec("frozen")).await.expect("it runs");
    daemon.kill();
    processes::signal(vm.pid, Signal::STOP);
    daemon.restart();
    let frozen = daemon.get(&vm.id).await.expect("it is listed");
    assert_eq!(
        frozen.state(),
        v1::VmState::Unresponsive,
        "{}",
        frozen.detail
    );
    assert_eq!(frozen.pid, vm.pid);
    assert_eq!(
        stat(vm.pid).map(|stat| stat.state),
        Some('T'),
        "it was left as it is"
    );
    processes::signal(vm.pid, Signal::CONT);
    let awake = daemon.in_state(&vm.id, v1::VmState::Running).await;
    assert_eq!(
        (awake.pid, &awake.agent_address),
        (vm.pid, &vm.agent_address)
    );
    // And one that never wakes can be removed.
    daemon.kill();
    processes::signal(vm.pid, Signal::STOP);
    daemon.restart();
    daemon.remove(&vm.id).await.expect("it goes");
    daemon.assert_unwound().await;
}

/// A VM that was paused is paused, and goes on when it is told to.
#[tokio::test]
async fn a_paused_vm_stays_paused() {
    let mut daemon = lasting().start();
    let vm = daemon.create(spec("paused")).await.expect("it runs");
    daemon.act(Verb::Pause, &vm.id).await.expect("it pauses");
    daemon.kill();
    daemon.restart();
    daemon.in_state(&vm.id, v1::VmState::Paused).await;
    let resumed = daemon.act(Verb::Resume, &vm.id).await.expect("it goes on");
    assert_eq!(resumed.state(), v1::VmState::Running);
}

/// A reboot, as far as a record tells of it: its process is of another boot. That a host really
/// restarts is the business of the tests in a system VM; the scripted QEMU is enough here.
#[tokio::test]
async fn after_a_reboot_a_vm_is_left_or_started_as_configured() {
    for (on_boot, is_started) in [("leave", false), ("start", true)] {
        let mut setup = lasting_fake(&json!({}));
        setup.set("on_boot", on_boot);
        let mut daemon = setup.start();
        let up = daemon.create(spec("up")).await.expect("it runs");
        let down = daemon.create(spec("down")).await.expect("it runs");
        daemon.act(Verb::Stop, &down.id).await.expect("it stops");
        // Its guest shut down long before, and nobody stopped it.
        let over = daemon.create(spec("over")).await.expect("it runs");
        processes::signal(over.pid, Signal::USR1);
        daemon.in_state(&over.id, v1::VmState::Exited).await;
        // A policy is for what ends by itself.
        let always = v1::VmSpec {
            restart_policy: v1::RestartPolicy::Always.into(),
            ..spec("always")
        };
        let always = daemon.create(always).await.expect("it runs");
        daemon.kill();
        processes::signal(always.pid, Signal::KILL);
        processes::ended(always.pid).await;
        processes::signal(up.pid, Signal::KILL);
        processes::ended(up.pid).await;
        for id in [&up.id, &over.id, &always.id] {
            rewrite(&record(&daemon, id), |record| {
                let earlier = json!("6f1c8a52-0000-4000-8000-000000000001");
                if record["process"].is_object() {
                    record["process"]["qemu"]["boot_id"] = earlier.clone();
                }
                record["boot_id"] = earlier;
            });
        }
        daemon.restart();
        if is_started {
            let vm = daemon.in_state(&up.id, v1::VmState::Running).await;
            assert_eq!(processes::with_uuid(&up.id), [vm.pid]);
            // No policy did this.
            assert_eq!(vm.restarts, 0);
            daemon.in_state(&always.id, v1::VmState::Running).await;
        } else {
            let vm = daemon.get(&up.id).await.expect("it is listed");
            assert_eq!(vm.state(), v1::VmState::Exited);
            assert!(vm.detail.contains("with the host"), "{}", vm.detail);
            // Longer than the first delay of a policy.
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(processes::with_uuid(&up.id).is_empty());
            assert!(processes::with_uuid(&always.id).is_empty());
        }
        let over = daemon.get(&over.id).await.expect("it is listed");
        assert_eq!(over.state(), v1::VmState::Exited);
        assert!(processes::with_uuid(&over.id).is_empty());
        // What somebody stopped stays so.
        let down = daemon.get(&down.id).await.expect("it is listed");
        assert_eq!(down.state(), v1::VmState::Stopped);
        assert!(processes::with_uuid(&down.id).is_empty());
    }
}

/// Fake: QEMU does not fail on cue.
#[tokio::test]
async fn a_vm_that_waits_for_its_restart_waits_in_the_next_daemon_too() {
    let mut setup = lasting_fake(&json!({}));
    setup.set("qemu.start_time", "2s");
    let mut daemon = setup.start();
    let restarted = |policy: v1::RestartPolicy| v1::VmSpec {
        restart_policy: policy.into(),
        ..spec(policy.as_str_name())
    };
    let always = daemon.create(restarted(v1::RestartPolicy::Always)).await;
    let never = daemon.create(restarted(v1::RestartPolicy::Never)).await;
    let (always, never) = (always.expect("it runs"), never.expect("it runs"));
    daemon.act(Verb::Stop, &never.id).await.expect("it stops");
    // From now on no start succeeds.
    let script = daemon.folder.path().join("fake/fake-qemu.script");
    std::fs::write(&script, json!({"die_at": "cont"}).to_string()).expect("it is there");
    daemon
        .act(Verb::Start, &never.id)
        .await
        .expect_err("it dies in its start");
    processes::signal(always.pid, Signal::KILL);
    for id in [&always.id, &never.id] {
        daemon.in_state(id, v1::VmState::Failed).await;
    }
    let why = daemon.get(&never.id).await.expect("it is listed").detail;
    daemon.kill();
    std::fs::write(&script, "{}").expect("it is there");
    daemon.restart();
    let failed = daemon.get(&never.id).await.expect("it is listed");
    assert_eq!((failed.state(), failed.detail), (v1::VmState::Failed, why));
    let back = daemon.in_state(&always.id, v1::VmState::Running).await;
    assert_eq!(processes::with_uuid(&always.id), [back.pid]);
    // What has failed before is no reason for what comes after.
    processes::signal(back.pid, Signal::KILL);
    daemon.kill();
    daemon.setup.set("on_boot", "leave");
    daemon.restart();
    daemon.in_state(&always.id, v1::VmState::Running).await;
}

/// Two daemons on one state directory would both own every VM in it.
#[tokio::test]
async fn a_state_directory_has_one_daemon() {
    let mut daemon = lasting_fake(&json!({})).start();
    let vm = daemon.create(spec("owned")).await.expect("it runs");
    let second = daemon.setup.command().output().expect("casemated runs");
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    for part in [
        format!("is in use by another casemated: process {}", daemon.pid()),
        daemon.state_dir.display().to_string(),
        "state-dir-locked".to_owned(),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
    assert_eq!(
        daemon.get(&vm.id).await.expect("it is there").state(),
        v1::VmState::Running
    );
    // The lock goes with its holder, however that ends.
    daemon.kill();
    daemon.restart();
    daemon.in_state(&vm.id, v1::VmState::Running).await;
}
