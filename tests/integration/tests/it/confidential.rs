//! Confidential backends as packaged, on a host that has neither technology: what a person gets to
//! read, and that nobody gets a VM without the protection that was asked for.
//!
//! The machines of these tests have a KVM without such types of VM, or none; either way the first
//! cause is the host's, and it is told before anything is started.

use std::path::Path;

use casemate_integration::daemon::{Daemon, Setup};
use casemate_integration::leftovers;
use casemate_integration::predecessor::CreateReq;
use casemate_proto::v1;
use tonic::{Code, Status};

fn setup() -> Setup {
    let mut setup = Setup::new();
    setup.add_packaged("sev-snp").add_packaged("tdx");
    setup
}

/// A sentence of a refusal: up to the line that says what to do.
fn first_sentence(status: &Status) -> &str {
    status.message().lines().next().unwrap_or_default()
}

/// The first cause on this machine, as both calls of the own API tell it.
async fn assert_host_refuses(daemon: &Daemon, backend: &str, part: &str) {
    let spec = v1::VmSpec {
        backend: backend.to_owned(),
        ..v1::VmSpec::default()
    };
    let planned = daemon
        .vms()
        .await
        .plan_vm(v1::PlanVmRequest {
            spec: Some(spec.clone()),
            ..v1::PlanVmRequest::default()
        })
        .await
        .expect_err(backend);
    let created = daemon.create(spec).await.expect_err(backend);
    for status in [planned, created] {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(first_sentence(&status).contains(part), "{status}");
        assert!(status.message().contains("\nremedy: "), "{status}");
    }
}

#[tokio::test]
async fn without_kvm_no_technology_keeps_its_promise() {
    let daemon = setup().start();
    for (backend, name) in [("sev-snp", "SEV-SNP"), ("tdx", "TDX")] {
        let part = format!("{name} is a promise of the hardware");
        assert_host_refuses(&daemon, backend, &part).await;
    }
    leftovers::assert_nothing_left(&daemon.state_dir);
}

#[tokio::test]
async fn a_kvm_without_the_type_of_vm_is_told_with_its_cause() {
    if !Path::new("/dev/kvm").exists() {
        println!("skipped: there is no /dev/kvm to be asked");
        return;
    }
    let mut setup = setup();
    setup.set("qemu.accelerator", "kvm");
    let daemon = setup.start();
    for (backend, name) in [("sev-snp", "SEV-SNP"), ("tdx", "TDX")] {
        let part = format!("{name} guests cannot run here: KVM offers no VM of that type");
        assert_host_refuses(&daemon, backend, &part).await;
    }
    leftovers::assert_nothing_left(&daemon.state_dir);
}

#[tokio::test]
async fn a_cause_that_may_not_be_looked_at_is_no_missing_hardware() {
    let mut setup = setup();
    setup.set("qemu.accelerator", "kvm");
    for backend in setup.config["backend"].as_array_mut().expect("an array") {
        backend["grants"]["facts"] = toml::Value::Array(Vec::new());
    }
    let daemon = setup.start();
    for backend in ["sev-snp", "tdx"] {
        let request = v1::GetBackendRequest {
            name: backend.to_owned(),
        };
        let mut client = daemon.backends().await;
        let shown = client.get_backend(request).await.expect("it is there");
        let findings = shown.into_inner().backend.expect("a backend").findings;
        let vm_type = findings.iter().find(|finding| finding.id == "kvm.vm-type");
        let vm_type = vm_type.expect("it is always said");
        assert_eq!(vm_type.severity, "warn");
        assert!(vm_type.detail.contains("may not ask KVM"), "{vm_type:?}");
        assert!(vm_type.remedy.contains("to the grants of"), "{vm_type:?}");
        for finding in &findings {
            assert!(!finding.remedy.contains("BIOS"), "{finding:?}");
        }
    }
}

/// The predecessor gave every VM `-cpu EPYC`, which QEMU refuses for TDX: its operators met an error
/// of QEMU's, or a VM without protection where detection failed.
#[tokio::test]
async fn the_predecessors_wish_for_tdx_ends_in_a_statement_about_tdx() {
    let mut setup = setup();
    setup.unset("default_backend").unset("qemu.accelerator");
    setup
        .variable("MANAGER_QEMU_ENABLE_TDX", "true")
        .variable("MANAGER_QEMU_CPU", "EPYC");
    let daemon = setup.start();
    let mut client = daemon.predecessor().await;
    let request = CreateReq {
        agent_cvm_server_url: "10.0.2.2:7001".to_owned(),
        ..CreateReq::default()
    };
    let status = client.create_vm(request).await.expect_err("no TDX here");
    let sentence = first_sentence(&status);
    // Where there is no KVM at all, that is the first cause.
    let is_about_tdx = sentence.contains("TDX") || sentence.contains("/dev/kvm");
    assert!(is_about_tdx, "{status}");
    if Path::new("/dev/kvm").exists() {
        assert!(sentence.contains("TDX guests cannot run here"), "{status}");
    }
    assert!(!status.message().contains("qemu-system"), "{status}");
    assert!(daemon.list().await.is_empty());
    leftovers::assert_nothing_left(&daemon.state_dir);
}
