//! A dry run: QEMU itself takes the command, up to where it waits before the guest's first
//! instruction, and nothing stays of it.

use std::time::Duration;

use casemate_integration::daemon::{Daemon, Setup};
use casemate_integration::leftovers;
use casemate_proto::v1;
use serde_json::json;
use tonic::{Code, Status};

async fn plan(daemon: &Daemon, dry_run: bool) -> Result<v1::PlanVmResponse, Status> {
    let request = v1::PlanVmRequest {
        spec: Some(v1::VmSpec::default()),
        dry_run,
    };
    Ok(daemon.vms().await.plan_vm(request).await?.into_inner())
}

#[tokio::test]
async fn a_dry_run_starts_qemu_and_leaves_nothing() {
    let daemon = Setup::new().start();
    let planned = plan(&daemon, false).await.expect("it plans");
    assert_eq!(planned.dry_run, "");
    assert!(
        !daemon.log().contains("QEMU's command"),
        "nothing was started"
    );

    let rehearsed = plan(&daemon, true).await.expect("QEMU takes it");
    assert_eq!(rehearsed.dry_run, "prelaunch");
    assert_eq!(rehearsed.command, planned.command);
    assert!(daemon.log().contains("QEMU's command"), "{}", daemon.log());
    assert!(daemon.list().await.is_empty());
    daemon.assert_unwound().await;
    leftovers::assert_nothing_left(&daemon.state_dir);
}

#[tokio::test]
async fn what_only_qemu_finds_is_found_by_a_dry_run() {
    let mut setup = Setup::new();
    // The host's bridge is there already, which the schema does not tell.
    setup.set("network.properties.addr", "0x0");
    let daemon = setup.start();
    plan(&daemon, false).await.expect("it is a sound plan");
    let status = plan(&daemon, true).await.expect_err("the slot is taken");
    assert_eq!(status.code(), Code::Aborted, "{status}");
    assert!(status.message().contains("PCI: slot 0"), "{status}");
    daemon.assert_unwound().await;
    leftovers::assert_nothing_left(&daemon.state_dir);
}

#[tokio::test]
async fn a_dry_run_takes_what_a_create_takes() {
    let mut setup = Setup::new();
    setup.set("max_vms", 1);
    let daemon = setup.start();
    daemon.create(v1::VmSpec::default()).await.expect("it fits");
    plan(&daemon, false).await.expect("a plan takes nothing");
    let status = plan(&daemon, true).await.expect_err("the limit is reached");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
}

/// With the scripted QEMU, because a real one does not tell what it was never asked.
#[tokio::test]
async fn a_dry_run_never_lets_the_guest_run() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({"die_at": "cont"}));
    let daemon = setup.start();
    let rehearsed = plan(&daemon, true).await.expect("it ends before that");
    assert_eq!(rehearsed.dry_run, "prelaunch");
    let created = daemon.create(v1::VmSpec::default()).await;
    created.expect_err("it is let run, and dies of it");
    daemon.assert_unwound().await;
}

/// With the scripted QEMU, because a real one does not hang on cue.
#[tokio::test]
async fn a_dry_run_that_is_left_or_hangs_leaves_nothing() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({"hang_at": "greeting"}));
    setup.set("qemu.start_time", "2s");
    let daemon = setup.start();
    let left = tokio::time::timeout(Duration::from_millis(500), plan(&daemon, true)).await;
    left.expect_err("QEMU does not answer that soon");
    daemon.assert_unwound().await;
    let status = plan(&daemon, true).await.expect_err("QEMU does not answer");
    assert_eq!(status.code(), Code::Aborted, "{status}");
    assert!(daemon.list().await.is_empty());
    daemon.assert_unwound().await;
    leftovers::assert_nothing_left(&daemon.state_dir);
}
