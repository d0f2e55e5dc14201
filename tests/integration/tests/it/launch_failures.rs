//! Launches that fail, each with its code, QEMU's words, and nothing left. With the scripted QEMU,
//! because the real one cannot be made to die at a chosen moment.

use std::time::Duration;

use casemate_integration::daemon::{Daemon, Setup, eventually};
use casemate_integration::leftovers;
use casemate_proto::v1;
use serde_json::json;
use tonic::Code;

fn fake(script: &serde_json::Value) -> Daemon {
    fake_with_start_time(script, "3s")
}

fn fake_with_start_time(script: &serde_json::Value, start_time: &str) -> Daemon {
    let mut setup = Setup::new();
    setup.set("qemu.start_time", start_time);
    setup.set("qemu.powerdown_time", "1s");
    setup.use_fake_qemu(script);
    setup.start()
}

#[tokio::test]
async fn a_qemu_that_dies_at_any_stage_is_reported_with_its_last_words() {
    for stage in ["start", "greeting", "capabilities", "hostfwd", "cont"] {
        let daemon = fake(
            &json!({"die_at": stage, "exit_code": 3, "stderr": "qemu: no luck today\u{1b}[2J\n"}),
        );
        let status = daemon.create(v1::VmSpec::default()).await.expect_err(stage);
        assert_eq!(status.code(), Code::Aborted, "{stage}: {status}");
        for part in [
            "QEMU ended while",
            "exit code 3",
            "no luck today",
            "remedy: ",
        ] {
            assert!(status.message().contains(part), "{stage}: {status}");
        }
        assert!(!status.message().contains('\u{1b}'), "{stage}");
        assert!(daemon.list().await.is_empty(), "{stage}");
        leftovers::assert_nothing_left(&daemon.state_dir);
    }
}

#[tokio::test]
async fn a_qemu_that_hangs_is_given_up_and_killed() {
    for stage in ["greeting", "hostfwd", "cont"] {
        let daemon = fake(&json!({"hang_at": stage, "ignore": ["sigterm"]}));
        let status = daemon.create(v1::VmSpec::default()).await.expect_err(stage);
        assert_eq!(status.code(), Code::Aborted, "{stage}: {status}");
        assert!(
            status.message().contains("did not answer"),
            "{stage}: {status}"
        );
        leftovers::assert_nothing_left(&daemon.state_dir);
    }
}

/// QEMU took the order to run the guest, and says no word of having done so.
#[tokio::test]
async fn a_qemu_that_does_not_say_that_its_guest_runs_has_none() {
    for script in [json!({"stall_at": "cont"}), json!({"hang_at": "status"})] {
        let daemon = fake(&script);
        let status = daemon.create(v1::VmSpec::default()).await;
        let status = status.expect_err("nobody knows whether it runs");
        assert_eq!(status.code(), Code::Aborted, "{script}: {status}");
        assert!(
            status.message().contains("did not answer"),
            "{script}: {status}"
        );
        assert_eq!(Setup::fake_starts(daemon.folder.path()).len(), 1);
        daemon.assert_unwound().await;
    }
}

#[tokio::test]
async fn an_end_after_the_launch_is_noticed_at_once() {
    let daemon = fake(&json!({"die_at": "running", "exit_code": 7, "delay_ms": {"running": 300}}));
    let vm = daemon
        .create(v1::VmSpec::default())
        .await
        .expect("it ran for a moment");
    let vm = eventually("its end", Duration::from_secs(5), || async {
        let vm = daemon.get(&vm.id).await.expect("it is listed");
        (vm.state() == v1::VmState::Exited).then_some(vm)
    })
    .await;
    assert!(vm.detail.contains("exit code 7"), "{}", vm.detail);
    assert_eq!(vm.pid, 0);
    assert_eq!(
        leftovers::processes_naming(&daemon.state_dir),
        Vec::<String>::new()
    );
}

/// The ladder: a guest that ignores the power button, and a QEMU that ignores `quit` and SIGTERM.
#[tokio::test]
async fn a_qemu_that_ignores_everything_is_removed_all_the_same() {
    for ignored in [
        json!([]),
        json!(["system_powerdown"]),
        json!(["system_powerdown", "quit"]),
        json!(["system_powerdown", "quit", "sigterm"]),
    ] {
        let daemon = fake(&json!({"ignore": ignored}));
        let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
        let (one, two) = tokio::join!(daemon.remove(&vm.id), daemon.remove(&vm.id));
        one.expect("it is gone");
        // The second may come when all is over.
        assert!(two.is_ok() || two.is_err_and(|status| status.code() == Code::NotFound));
        leftovers::assert_nothing_left(&daemon.state_dir);
        let again = daemon.remove(&vm.id).await.expect_err("it is gone");
        assert_eq!(again.code(), Code::NotFound);
    }
}

#[tokio::test]
async fn a_ttl_removes_the_vm_and_a_bad_one_starts_nothing() {
    let daemon = fake(&json!({}));
    let spec = v1::VmSpec {
        ttl_seconds: Some(1),
        ..v1::VmSpec::default()
    };
    let vm = daemon.create(spec).await.expect("it runs");
    assert!(!vm.expires_at.is_empty());
    eventually("its removal", Duration::from_secs(20), || async {
        daemon.get(&vm.id).await.is_err().then_some(())
    })
    .await;
    leftovers::assert_nothing_left(&daemon.state_dir);
    let spec = v1::VmSpec {
        ttl_seconds: Some(0),
        ..v1::VmSpec::default()
    };
    let status = daemon.create(spec).await.expect_err("a TTL lies ahead");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(Setup::fake_starts(daemon.folder.path()).len(), 1);
}

#[tokio::test]
async fn a_caller_that_leaves_before_the_answer_gets_no_vm() {
    let daemon = fake_with_start_time(&json!({"delay_ms": {"cont": 20_000}}), "60s");
    let started = eventually("its QEMU", Duration::from_secs(30), || async {
        (Setup::fake_starts(daemon.folder.path()).len() == 1).then_some(())
    });
    tokio::select! {
        created = daemon.create(v1::VmSpec::default()) => panic!("{created:?}"),
        () = started => {}
    }
    // QEMU was there, and is not any more.
    assert_eq!(Setup::fake_starts(daemon.folder.path()).len(), 1);
    daemon.assert_unwound().await;
}

/// A removal does not wait for a launch: it ends it.
#[tokio::test]
async fn a_removal_during_the_launch_ends_it() {
    let daemon = fake_with_start_time(&json!({"delay_ms": {"greeting": 20_000}}), "60s");
    let create = daemon.create(v1::VmSpec::default());
    let remove = async {
        let id = eventually("its entry", Duration::from_secs(10), || async {
            let starting = daemon.list().await;
            starting
                .iter()
                .find(|vm| vm.state() == v1::VmState::Starting)
                .map(|vm| vm.id.clone())
        })
        .await;
        let started = std::time::Instant::now();
        daemon.remove(&id).await.expect("it is removed");
        started.elapsed()
    };
    let (created, elapsed) = tokio::join!(create, remove);
    let status = created.expect_err("it was removed");
    assert_eq!(status.code(), Code::Aborted, "{status}");
    assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
    assert!(daemon.list().await.is_empty());
    eventually("its process to be gone", Duration::from_secs(5), || async {
        leftovers::processes_naming(&daemon.state_dir)
            .is_empty()
            .then_some(())
    })
    .await;
    leftovers::assert_nothing_left(&daemon.state_dir);
}

/// Refusals before anything is spent. Each has its code, the thing at fault, and a remedy.
#[tokio::test]
async fn refusals_say_what_is_at_fault_and_start_nothing() {
    type Change = fn(&mut Setup);
    type Request = fn(&mut v1::VmSpec);
    let cases: &[(&str, Change, Request, Code, &[&str])] = &[
        (
            "no QEMU",
            |s| {
                s.set("qemu.binary", "no-such-qemu");
            },
            |_| {},
            Code::FailedPrecondition,
            &["there is no QEMU \"no-such-qemu\"", "install QEMU"],
        ),
        (
            "missing kernel",
            |s| {
                s.set("vm.kernel", "/no/such/kernel");
            },
            |_| {},
            Code::FailedPrecondition,
            &["the kernel file \"/no/such/kernel\"", "vm.kernel"],
        ),
        (
            "unknown backend",
            |_| {},
            |r| r.backend = "x".to_owned(),
            Code::InvalidArgument,
            &["\"x\"", "plain-kvm"],
        ),
        (
            "unknown machine",
            |_| {},
            |r| r.machine = "pdp11".to_owned(),
            Code::InvalidArgument,
            &["pdp11"],
        ),
        (
            "unknown setting",
            |_| {},
            |r| {
                r.settings.insert("colour".to_owned(), "red".to_owned());
            },
            Code::InvalidArgument,
            &["\"colour\"", "memory-slots"],
        ),
        (
            "confidential",
            |_| {},
            |r| r.require_confidential = true,
            Code::FailedPrecondition,
            &["plain-kvm", "confidential"],
        ),
        (
            "newline",
            |_| {},
            |r| {
                r.environment
                    .insert("A".to_owned(), "x\nB=canary".to_owned());
            },
            Code::InvalidArgument,
            &["the value of A holds a line break"],
        ),
        (
            "command line",
            |_| {},
            |r| r.kernel_cmdline = Some("a\nb".to_owned()),
            Code::InvalidArgument,
            &["kernel_cmdline"],
        ),
    ];
    for (case, change, request, code, parts) in cases {
        let mut setup = Setup::new();
        setup.use_fake_qemu(&json!({}));
        change(&mut setup);
        let daemon = setup.start();
        let mut spec = v1::VmSpec::default();
        request(&mut spec);
        let status = daemon.create(spec).await.expect_err(case);
        assert_eq!(status.code(), *code, "{case}: {status}");
        for part in *parts {
            assert!(
                status.message().contains(part),
                "{case}: {}",
                status.message()
            );
        }
        assert!(
            status.message().contains("remedy: "),
            "{case}: {}",
            status.message()
        );
        assert!(
            !status.message().contains("canary") && !daemon.log().contains("canary"),
            "{case}"
        );
        assert!(
            Setup::fake_starts(daemon.folder.path()).is_empty(),
            "{case}"
        );
        leftovers::assert_nothing_left(&daemon.state_dir);
    }
    let daemon = fake(&json!({}));
    for id in ["", "x", "../../etc", "00000000-0000-4000-8000-000000000000"] {
        let status = daemon.get(id).await.expect_err(id);
        assert_eq!(status.code(), Code::NotFound, "{id:?}");
    }
}
