//! A dry run: QEMU itself takes the command, up to where it waits before the guest's first
//! instruction, and nothing stays of it.

use casemate_integration::daemon::{Daemon, Setup};
use casemate_integration::leftovers;
use casemate_proto::v1;
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
