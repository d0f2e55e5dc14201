//! What may be done to a VM and what a VM does by itself: held against the guest's own agent, its
//! console and the kernel's list of processes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_integration::daemon::{
    Daemon, Setup, Verb, agent_answer, eventually, free_port, get_http,
};
use casemate_integration::leftovers;
use casemate_integration::processes::{self, stat};
use casemate_proto::v1;
use rustix::process::Signal;
use serde_json::{Value, json};
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than the first delays of a restart policy.
const QUIET: Duration = Duration::from_secs(3);

fn fake(script: &Value) -> Setup {
    let mut setup = Setup::new();
    setup.set("qemu.powerdown_time", "1s");
    setup.use_fake_qemu(script);
    setup
}

fn spec(name: &str, policy: v1::RestartPolicy) -> v1::VmSpec {
    v1::VmSpec {
        name: name.to_owned(),
        environment: [("NONCE".to_owned(), format!("nonce-of-{name}"))].into(),
        restart_policy: policy.into(),
        ..v1::VmSpec::default()
    }
}

async fn create(daemon: &Daemon, policy: v1::RestartPolicy) -> v1::Vm {
    let created = daemon
        .create(spec(policy.as_str_name().trim_matches('_'), policy))
        .await;
    created.expect("it runs")
}

async fn act(daemon: &Daemon, verb: Verb, id: &str) -> v1::Vm {
    let done = daemon.act(verb, id).await;
    done.unwrap_or_else(|error| panic!("{verb:?}: {error}"))
}

/// One guest through all of it, by what it says itself.
#[tokio::test]
async fn a_booted_guest_is_paused_reset_stopped_and_started_again() {
    let mut setup = Setup::new();
    let port = free_port();
    setup.set("network.ports", format!("{port}-{port}"));
    let daemon = setup.start();
    let vm = daemon
        .create(spec("guest", v1::RestartPolicy::Never))
        .await
        .expect("it runs");
    let address: SocketAddr = vm.agent_address.parse().expect("an address");
    assert_eq!(address.port(), port);
    let process = stat(vm.pid).expect("it runs");
    let boots = async || {
        let said = daemon.console(&vm.id).await;
        said.matches("casemate-agent: ready").count()
    };
    agent_answer(&vm.agent_address).await;
    assert_eq!(boots().await, 1);

    let paused = act(&daemon, Verb::Pause, &vm.id).await;
    assert_eq!(paused.state(), v1::VmState::Paused);
    let answer = tokio::time::timeout(Duration::from_secs(3), get_http(address, "/")).await;
    assert!(
        !matches!(answer, Ok(Ok((200, _)))),
        "a paused guest answers nothing"
    );
    let resumed = act(&daemon, Verb::Resume, &vm.id).await;
    assert_eq!(resumed.state(), v1::VmState::Running);
    agent_answer(&vm.agent_address).await;
    assert_eq!(boots().await, 1, "it went on where it was");

    let reset = act(&daemon, Verb::Reset, &vm.id).await;
    assert_eq!((reset.state(), reset.pid), (v1::VmState::Running, vm.pid));
    eventually("its second boot", Duration::from_secs(240), || async {
        (boots().await == 2).then_some(())
    })
    .await;
    agent_answer(&vm.agent_address).await;
    let same = stat(vm.pid).map(|stat| stat.start_time);
    assert_eq!(same, Some(process.start_time), "the same QEMU");
    assert_eq!(daemon.get(&vm.id).await.expect("it is there").pid, vm.pid);

    let stopped = act(&daemon, Verb::Stop, &vm.id).await;
    assert_eq!(stopped.state(), v1::VmState::Stopped);
    let exit = stopped.last_exit.expect("it ended");
    assert_eq!(
        (exit.reason.as_str(), exit.code),
        ("guest-shutdown", Some(0))
    );
    assert!(!processes::is_alive(vm.pid));
    assert!(
        daemon
            .console(&vm.id)
            .await
            .contains("casemate-agent: power button")
    );

    let started = act(&daemon, Verb::Start, &vm.id).await;
    assert_eq!(started.state(), v1::VmState::Running);
    assert_ne!(started.pid, vm.pid);
    assert_eq!(
        started.agent_address, vm.agent_address,
        "its port is kept for it"
    );
    let body = agent_answer(&vm.agent_address).await;
    for own in [
        "NONCE=nonce-of-guest\n".to_owned(),
        format!("AGENT_CVM_ID={}\n", vm.id),
    ] {
        assert!(body.contains(&own), "{body}");
    }
    let restarted = act(&daemon, Verb::ForceRestart, &vm.id).await;
    assert_ne!(restarted.pid, started.pid);
    assert_eq!(
        restarted.last_exit.expect("it ended").reason,
        "host-qmp-quit"
    );
    assert_eq!(processes::with_uuid(&vm.id), [restarted.pid]);
}

/// With the scripted QEMU, whose guest resets itself on cue: as its firmware does after a reset from
/// outside, twice at most, and once for a reason of its own, by which it must not boot unseen.
#[tokio::test]
async fn after_a_reset_the_firmware_may_reset_once_more_and_the_guest_may_not() {
    let daemon = fake(&json!({})).start();
    let vm = create(&daemon, v1::RestartPolicy::Never).await;
    for resets_of_the_firmware in [1, 2] {
        act(&daemon, Verb::Reset, &vm.id).await;
        for _ in 0..resets_of_the_firmware {
            processes::signal(vm.pid, Signal::ALARM);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        tokio::time::sleep(QUIET).await;
        let there = daemon.get(&vm.id).await.expect("it is listed");
        assert_eq!((there.state(), there.pid), (v1::VmState::Running, vm.pid));
        assert!(processes::is_alive(vm.pid));
    }
    processes::signal(vm.pid, Signal::ALARM);
    let ended = daemon.in_state(&vm.id, v1::VmState::Exited).await;
    assert_eq!(ended.last_exit.expect("it ended").reason, "guest-reset");
}

/// How a VM ends that nobody told to.
#[derive(Clone, Copy)]
enum Cue {
    Signal(Signal),
    /// By its script.
    Itself,
}

/// With the scripted QEMU, whose guest panics, shuts down and exits on cue.
#[tokio::test]
async fn a_restart_policy_acts_on_what_the_end_was() {
    use v1::RestartPolicy::{Always, Never, OnFailure};
    let dies = json!({"die_at": "running", "exit_code": 3});
    let shuts_down = Cue::Signal(Signal::USR1);
    let panics = Cue::Signal(Signal::USR2);
    let killed = Cue::Signal(Signal::KILL);
    let cases = [
        (
            Never,
            json!({}),
            shuts_down,
            ("guest-shutdown", Some(0), None),
            false,
        ),
        (
            Never,
            json!({}),
            panics,
            ("guest-panic", Some(0), None),
            false,
        ),
        (Never, json!({}), killed, ("", None, Some(9)), false),
        (Never, dies.clone(), Cue::Itself, ("", Some(3), None), false),
        (
            OnFailure,
            json!({}),
            shuts_down,
            ("guest-shutdown", Some(0), None),
            false,
        ),
        (
            OnFailure,
            json!({}),
            panics,
            ("guest-panic", Some(0), None),
            true,
        ),
        (
            OnFailure,
            json!({}),
            Cue::Signal(Signal::ALARM),
            ("guest-reset", Some(0), None),
            true,
        ),
        (OnFailure, json!({}), killed, ("", None, Some(9)), true),
        (
            OnFailure,
            dies.clone(),
            Cue::Itself,
            ("", Some(3), None),
            true,
        ),
        (
            Always,
            json!({}),
            shuts_down,
            ("guest-shutdown", Some(0), None),
            true,
        ),
        (Always, json!({}), killed, ("", None, Some(9)), true),
    ];
    for script in [json!({}), dies] {
        let daemon = fake(&script).start();
        for (policy, _, cue, (reason, code, signal), is_restarted) in
            cases.iter().filter(|(_, wanted, ..)| *wanted == script)
        {
            let name = format!("{policy:?} {reason:?} {code:?} {signal:?}");
            let vm = create(&daemon, *policy).await;
            if let Cue::Signal(signal) = cue {
                processes::signal(vm.pid, *signal);
            }
            processes::ended(vm.pid).await;
            let later = if *is_restarted {
                eventually(&name, PATIENCE, || async {
                    let vm = daemon.get(&vm.id).await.expect("it is listed");
                    (vm.restarts >= 1 && vm.pid != 0).then_some(vm)
                })
                .await
            } else {
                tokio::time::sleep(QUIET).await;
                daemon.in_state(&vm.id, v1::VmState::Exited).await
            };
            let exit = later.last_exit.expect(&name);
            assert_eq!(
                (exit.reason.as_str(), exit.code, exit.signal),
                (*reason, *code, *signal)
            );
            if *is_restarted {
                assert_ne!(later.pid, vm.pid, "{name}");
            } else {
                assert_eq!(later.restarts, 0, "{name}");
                assert!(processes::with_uuid(&vm.id).is_empty(), "{name}");
            }
            daemon.remove(&vm.id).await.expect(&name);
        }
        daemon.assert_unwound().await;
    }
}

/// With the scripted QEMU, which ends as soon as it runs.
#[tokio::test]
async fn restarts_come_ever_later_until_somebody_stops_it() {
    let daemon = fake(&json!({"die_at": "running", "exit_code": 1})).start();
    let vm = create(&daemon, v1::RestartPolicy::Always).await;
    eventually("its third restart", PATIENCE, || async {
        let vm = daemon.get(&vm.id).await.expect("it is listed");
        (vm.restarts >= 3).then_some(())
    })
    .await;
    daemon.in_state(&vm.id, v1::VmState::Exited).await;
    let stopped = act(&daemon, Verb::Stop, &vm.id).await;
    assert_eq!(stopped.state(), v1::VmState::Stopped);
    // Longer than the delay that it was in, of 8 s.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let later = daemon.in_state(&vm.id, v1::VmState::Stopped).await;
    assert_eq!(later.restarts, stopped.restarts);
    assert!(processes::with_uuid(&vm.id).is_empty());
    let starts = Setup::fake_starts(daemon.folder.path()).len();
    assert_eq!(
        starts,
        1 + stopped.restarts as usize,
        "each restart was one process"
    );
    let log = daemon.log();
    let delays: Vec<u64> = log
        .lines()
        .filter(|line| line.contains("to be started again"))
        .filter_map(|line| {
            line.split("delay=")
                .nth(1)?
                .trim()
                .strip_suffix('s')?
                .parse()
                .ok()
        })
        .collect();
    assert!(
        delays.len() >= 3 && delays.is_sorted_by(|one, two| one < two),
        "{delays:?}"
    );
    daemon.remove(&vm.id).await.expect("it goes");
    daemon.assert_unwound().await;
}

/// With the scripted QEMU, for the time that many of them take.
#[tokio::test]
async fn a_users_stop_wins_over_every_policy() {
    let daemon = fake(&json!({})).start();
    for policy in [v1::RestartPolicy::OnFailure, v1::RestartPolicy::Always] {
        for verb in [Verb::Stop, Verb::ForceStop] {
            let vm = create(&daemon, policy).await;
            // While it runs, and while it waits for its restart.
            let waiting = create(&daemon, policy).await;
            processes::signal(waiting.pid, Signal::KILL);
            daemon.in_state(&waiting.id, v1::VmState::Exited).await;
            for id in [&vm.id, &waiting.id] {
                let stopped = act(&daemon, verb, id).await;
                assert_eq!(stopped.state(), v1::VmState::Stopped);
            }
            tokio::time::sleep(QUIET).await;
            for id in [&vm.id, &waiting.id] {
                let vm = daemon.get(id).await.expect("it is listed");
                assert_eq!(vm.state(), v1::VmState::Stopped, "{policy:?} {verb:?}");
                assert!(processes::with_uuid(id).is_empty());
                daemon.remove(id).await.expect("it goes");
            }
        }
    }
}

/// With the scripted QEMU: what is asked is the daemon's table, through its API.
#[tokio::test]
async fn what_is_done_already_is_no_error_and_what_makes_no_sense_is_refused() {
    use v1::VmState::{Paused, Running, Stopped};
    let daemon = fake(&json!({})).start();
    let vm = create(&daemon, v1::RestartPolicy::Never).await;
    let cases: &[(Verb, Option<v1::VmState>)] = &[
        (Verb::Start, Some(Running)),
        (Verb::Resume, Some(Running)),
        (Verb::Pause, Some(Paused)),
        (Verb::Pause, Some(Paused)),
        (Verb::Reset, None),
        (Verb::Start, None),
        (Verb::Resume, Some(Running)),
        (Verb::Resume, Some(Running)),
        (Verb::Reset, Some(Running)),
        (Verb::Reset, Some(Running)),
        (Verb::Pause, Some(Paused)),
        (Verb::Restart, Some(Running)),
        (Verb::Stop, Some(Stopped)),
        (Verb::Stop, Some(Stopped)),
        (Verb::ForceStop, Some(Stopped)),
        (Verb::Pause, None),
        (Verb::Resume, None),
        (Verb::Reset, None),
        (Verb::Restart, Some(Running)),
        (Verb::ForceRestart, Some(Running)),
        (Verb::Pause, Some(Paused)),
        (Verb::Stop, Some(Stopped)),
        (Verb::Start, Some(Running)),
        (Verb::Start, Some(Running)),
        (Verb::ForceStop, Some(Stopped)),
    ];
    let mut state = vm.state();
    for (number, (verb, wanted)) in cases.iter().enumerate() {
        let before = daemon.get(&vm.id).await.expect("it is listed");
        match (daemon.act(*verb, &vm.id).await, wanted) {
            (Ok(done), Some(wanted)) => {
                assert_eq!(done.state(), *wanted, "{number}: {verb:?}");
                state = *wanted;
            }
            (Err(refused), None) => {
                assert_eq!(
                    refused.code(),
                    Code::FailedPrecondition,
                    "{number}: {refused}"
                );
                assert!(refused.message().contains("remedy: "), "{refused}");
                let after = daemon.get(&vm.id).await.expect("it is listed");
                assert_eq!((after.state(), after.pid), (before.state(), before.pid));
            }
            (Ok(done), None) => panic!("{number}: {verb:?} was done: {done:?}"),
            (Err(refused), Some(_)) => panic!("{number}: {verb:?}: {refused}"),
        }
        let shown = daemon.get(&vm.id).await.expect("it is listed");
        assert_eq!(shown.state(), state, "{number}: {verb:?}");
        let runs: Vec<u32> = Some(shown.pid)
            .filter(|pid| *pid != 0)
            .into_iter()
            .collect();
        assert_eq!(processes::with_uuid(&vm.id), runs, "{number}: {verb:?}");
        assert_eq!(runs.is_empty(), state == Stopped, "{number}: {verb:?}");
    }
    for unknown in [
        "6f1c8a52-0000-4000-8000-00000000dead",
        "",
        "no id",
        "../../etc",
    ] {
        for verb in Verb::ALL {
            let refused = daemon.act(verb, unknown).await.expect_err(unknown);
            assert_eq!(
                refused.code(),
                Code::NotFound,
                "{verb:?} {unknown}: {refused}"
            );
        }
        let refused = daemon.remove(unknown).await.expect_err(unknown);
        assert_eq!(refused.code(), Code::NotFound, "{unknown}: {refused}");
    }
}

/// With the scripted QEMU: the plan of `mirror` has no ability but to be powered down, and that of
/// `plain-kvm` has all.
#[tokio::test]
async fn what_a_plan_does_not_allow_is_refused_and_not_sent_to_qemu() {
    let mut setup = fake(&json!({}));
    setup.add_iothreads("mirror", "bare");
    let daemon = setup.start();
    let spec = v1::VmSpec {
        backend: "bare".to_owned(),
        ..v1::VmSpec::default()
    };
    let vm = daemon.create(spec).await.expect("it runs");
    for (verb, ability) in [(Verb::Pause, "pause"), (Verb::Reset, "reset")] {
        let refused = daemon.act(verb, &vm.id).await.expect_err(ability);
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        for part in [&format!("ability \"{ability}\""), "remedy: "] {
            assert!(refused.message().contains(part), "{part}: {refused}");
        }
        let there = daemon.get(&vm.id).await.expect("it is listed");
        assert_eq!((there.state(), there.pid), (v1::VmState::Running, vm.pid));
    }
    let stopped = act(&daemon, Verb::Stop, &vm.id).await;
    assert_eq!(
        stopped.last_exit.expect("it ended").reason,
        "guest-shutdown"
    );
    assert_eq!(
        act(&daemon, Verb::Start, &vm.id).await.state(),
        v1::VmState::Running
    );
}

/// With the scripted QEMU, for the number of starts. The seed makes the order of calls the same,
/// though not their outcome.
#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_calls_on_one_vm_ends_in_a_true_state() {
    const SEED: u64 = 0x5eed;
    let mut setup = fake(&json!({}));
    setup.allow_any_call_rate();
    let daemon = Arc::new(setup.start());
    let vm = create(&daemon, v1::RestartPolicy::Always).await;
    println!("seed {SEED}");
    let end = Instant::now() + Duration::from_secs(10);
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (daemon, id) = (Arc::clone(&daemon), vm.id.clone());
        callers.spawn(async move {
            let mut random = SEED + number;
            let mut outcomes = BTreeMap::new();
            while Instant::now() < end {
                // Knuth's constants.
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let verb = Verb::ALL[(random >> 33) as usize % Verb::ALL.len()];
                let outcome = match daemon.act(verb, &id).await {
                    Ok(_) => "Ok".to_owned(),
                    Err(status) => format!("{:?}", status.code()),
                };
                *outcomes.entry(outcome).or_insert(0) += 1;
            }
            outcomes
        });
    }
    let mut outcomes = BTreeMap::<String, u64>::new();
    for (outcome, count) in callers.join_all().await.into_iter().flatten() {
        *outcomes.entry(outcome).or_default() += count;
    }
    println!("outcomes: {outcomes:?}");
    // What is refused or overtaken; nothing is broken.
    for outcome in outcomes.keys() {
        assert!(
            ["Ok", "FailedPrecondition", "Aborted"].contains(&outcome.as_str()),
            "{outcomes:?}"
        );
    }
    assert!(outcomes.contains_key("Ok"));
    let settled = eventually("it settles", PATIENCE, || async {
        let vm = daemon.get(&vm.id).await.expect("it is listed");
        let is_settled = matches!(
            vm.state(),
            v1::VmState::Running | v1::VmState::Paused | v1::VmState::Stopped
        );
        is_settled.then_some(vm)
    })
    .await;
    let runs: Vec<u32> = Some(settled.pid)
        .filter(|pid| *pid != 0)
        .into_iter()
        .collect();
    assert_eq!(processes::with_uuid(&vm.id), runs, "{settled:?}");
    assert_eq!(runs.is_empty(), settled.state() == v1::VmState::Stopped);
    // It does as it is told, still.
    act(&daemon, Verb::ForceStop, &vm.id).await;
    assert!(processes::with_uuid(&vm.id).is_empty());
    let started = act(&daemon, Verb::Start, &vm.id).await;
    assert_eq!(processes::with_uuid(&vm.id), [started.pid]);

    // And once more with removals: then it is gone for everybody.
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..20 {
        let (daemon, id) = (Arc::clone(&daemon), vm.id.clone());
        callers.spawn(async move {
            if number % 4 == 0 {
                daemon.remove(&id).await.err()
            } else {
                daemon
                    .act(Verb::ALL[number % Verb::ALL.len()], &id)
                    .await
                    .err()
            }
        });
    }
    for status in callers.join_all().await.into_iter().flatten() {
        let is_told = [Code::NotFound, Code::FailedPrecondition, Code::Aborted];
        assert!(is_told.contains(&status.code()), "{status}");
    }
    daemon.assert_unwound().await;
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

/// With the scripted QEMU: one kind goes at once, the other never does.
#[tokio::test]
async fn a_daemon_that_is_to_stop_its_vms_stops_them_all_and_knows_it_later() {
    for ignored in [json!([]), json!(["system_powerdown", "quit", "sigterm"])] {
        let mut setup = fake(&json!({"ignore": ignored}));
        setup.set("on_shutdown", "stop-vms");
        setup.set("shutdown_time", "2s");
        let mut daemon = setup.start();
        let always = create(&daemon, v1::RestartPolicy::Always).await;
        let others = [
            create(&daemon, v1::RestartPolicy::OnFailure).await,
            create(&daemon, v1::RestartPolicy::Never).await,
        ];
        let stopped = create(&daemon, v1::RestartPolicy::Always).await;
        act(&daemon, Verb::ForceStop, &stopped.id).await;
        assert_eq!(daemon.stop(), Some(0), "{ignored}");
        assert_eq!(
            leftovers::processes_naming(&daemon.state_dir),
            Vec::<String>::new()
        );
        // It was no failure and nobody's wish.
        daemon.restart();
        daemon.in_state(&always.id, v1::VmState::Running).await;
        for vm in &others {
            let vm = daemon.get(&vm.id).await.expect("it is listed");
            assert_eq!(vm.state(), v1::VmState::Exited, "{}", vm.detail);
            assert!(vm.detail.contains("with the daemon"), "{}", vm.detail);
        }
        assert_eq!(daemon.stop(), Some(0), "{ignored}");
        daemon.setup.set("on_boot", "start");
        daemon.restart();
        for vm in others.iter().chain([&always]) {
            daemon.in_state(&vm.id, v1::VmState::Running).await;
        }
        let stopped = daemon.get(&stopped.id).await.expect("it is listed");
        assert_eq!(stopped.state(), v1::VmState::Stopped);
    }
}
