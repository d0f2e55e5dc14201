//! A guard is what makes a VM confidential: it is announced, in the plan, and read back from QEMU.
//!
//! The fixture `sealed` has a guard that protects nothing, because CI has no confidential hardware.
//! A launch under KVM uses the scripted QEMU: a real one refuses that object as its guard, and the
//! KVM of a CI machine boots no guest. The scripted one leaves `/dev/kvm` alone, but the daemon
//! opens it, so these tests say that they are skipped where it cannot.

use std::path::Path;
use std::time::Duration;

use casemate_integration::daemon::{Daemon, Setup, eventually};
use casemate_integration::leftovers;
use casemate_proto::v1;
use serde_json::json;
use tonic::{Code, Status};

fn setup() -> Setup {
    let mut setup = Setup::new();
    setup.add_iothreads("sealed", "sealed");
    setup
}

fn spec(backend: &str) -> v1::VmSpec {
    v1::VmSpec {
        backend: backend.to_owned(),
        ..v1::VmSpec::default()
    }
}

fn sealed_with(setting: &str, value: &str) -> v1::VmSpec {
    v1::VmSpec {
        settings: [(setting.to_owned(), value.to_owned())].into(),
        ..spec("sealed")
    }
}

fn confidential(spec: v1::VmSpec) -> v1::VmSpec {
    v1::VmSpec {
        require_confidential: true,
        ..spec
    }
}

async fn plan(daemon: &Daemon, spec: v1::VmSpec) -> Result<v1::PlanVmResponse, Status> {
    let request = v1::PlanVmRequest { spec: Some(spec) };
    Ok(daemon.vms().await.plan_vm(request).await?.into_inner())
}

/// Both calls refuse, with the same code and this part of a message.
async fn assert_refused(daemon: &Daemon, spec: v1::VmSpec, code: Code, part: &str) {
    let planned = plan(daemon, spec.clone()).await.expect_err(part);
    let created = daemon.create(spec).await.expect_err(part);
    for status in [planned, created] {
        assert_eq!(status.code(), code, "{status}");
        assert!(
            status.message().contains(part),
            "wanted is {part:?}: {status}"
        );
        assert!(status.message().contains("\nremedy: "), "{status}");
    }
}

async fn assert_nothing_is_left(daemon: &Daemon) {
    eventually("no VM is listed", Duration::from_secs(10), || async {
        daemon.list().await.is_empty().then_some(())
    })
    .await;
    leftovers::assert_nothing_left(&daemon.state_dir);
}

#[tokio::test]
async fn without_kvm_there_is_no_guard() {
    let daemon = setup().start();
    let part = "a guard without KVM protects nothing";
    assert_refused(&daemon, spec("sealed"), Code::FailedPrecondition, part).await;
    assert_refused(
        &daemon,
        confidential(spec("sealed")),
        Code::FailedPrecondition,
        part,
    )
    .await;
    assert_nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn a_guard_that_was_announced_has_to_be_in_the_plan() {
    let daemon = setup().start();
    for (setting, value, rule) in [
        (
            "give-guard",
            "off",
            "guard: the backend announces protection `guard`, and this plan has none",
        ),
        (
            "guard-id",
            "ghost",
            "guard: \"ghost\" is the id of no object of the plan",
        ),
        (
            "guard-id",
            "vmnic",
            "guard: \"vmnic\" is the id of no object of the plan",
        ),
    ] {
        let part = format!("backend \"sealed\" is at fault: its answer breaks a rule: {rule}");
        assert_refused(&daemon, sealed_with(setting, value), Code::Internal, &part).await;
    }
    assert_nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn a_wish_for_confidentiality_is_never_dropped() {
    let daemon = setup().start();
    let planned = plan(&daemon, spec("plain-kvm")).await.expect("it plans");
    assert!(!planned.confidential);
    let part =
        "the request asks for a confidential VM, and backend \"plain-kvm\" plans one that is not";
    let wish = confidential(spec("plain-kvm"));
    assert_refused(&daemon, wish, Code::FailedPrecondition, part).await;
    assert_nothing_is_left(&daemon).await;
}

/// A daemon with KVM and the scripted QEMU, where `/dev/kvm` can be opened.
fn daemon_with_kvm() -> Option<Daemon> {
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    if let Err(error) = device {
        println!("skipped: /dev/kvm cannot be opened: {error}");
        return None;
    }
    let mut setup = setup();
    setup.set("qemu.accelerator", "kvm");
    setup.use_fake_qemu(&json!({}));
    Some(setup.start())
}

fn rewrite_script(folder: &Path, script: &serde_json::Value) {
    std::fs::write(folder.join("fake/fake-qemu.script"), script.to_string()).expect("a file");
}

#[tokio::test]
async fn a_vm_is_confidential_once_qemu_has_its_guard() {
    let Some(daemon) = daemon_with_kvm() else {
        return;
    };
    let planned = plan(&daemon, confidential(spec("sealed")))
        .await
        .expect("it plans");
    assert!(planned.confidential);
    assert_eq!(planned.tee, "sealed");
    let machine = planned
        .command
        .iter()
        .find(|part| part.contains("confidential-guest-support="));
    assert!(machine.is_some_and(|part| part.contains("confidential-guest-support=seal")));

    let created = daemon
        .create(confidential(spec("sealed")))
        .await
        .expect("it runs");
    let listed = daemon.list().await;
    for vm in [&created, &listed[0]] {
        assert_eq!(vm.state(), v1::VmState::Running);
        assert!(vm.confidential);
        assert_eq!((vm.backend.as_str(), vm.tee.as_str()), ("sealed", "sealed"));
    }
    let plain = daemon.create(spec("plain-kvm")).await.expect("it runs");
    assert!(!plain.confidential);
    for vm in [&created, &plain] {
        daemon.remove(&vm.id).await.expect("removal works");
    }
    assert_nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn a_qemu_that_has_another_guard_runs_no_guest() {
    let Some(daemon) = daemon_with_kvm() else {
        return;
    };
    for (guard, found) in [("/objects/other", "\"/objects/other\""), ("", "\"\"")] {
        rewrite_script(daemon.folder.path(), &json!({"guard": guard}));
        let status = daemon
            .create(spec("sealed"))
            .await
            .expect_err("the guard is not the plan's");
        assert_eq!(status.code(), Code::Aborted, "{status}");
        let part = format!("the plan's guard is \"/objects/seal\", and QEMU has {found}");
        assert!(status.message().contains(&part), "{status}");
        assert!(
            status.message().contains("\nremedy: do not use this QEMU"),
            "{status}"
        );
        assert_nothing_is_left(&daemon).await;
    }
    assert_eq!(Setup::fake_starts(daemon.folder.path()).len(), 2);
    rewrite_script(daemon.folder.path(), &json!({}));
    let vm = daemon
        .create(spec("sealed"))
        .await
        .expect("a sound QEMU is used again");
    assert!(vm.confidential);
}
