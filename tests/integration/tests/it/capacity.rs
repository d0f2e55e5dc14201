//! What VMs take together: vCPUs, memory with what QEMU takes beside the guest, leases and their
//! number. A create gets all that it needs or nothing, and what a VM had is free once its QEMU is
//! gone. With the scripted QEMU, because real ones would test the machine's memory, not the daemon.

use std::sync::Arc;

use casemate_catalogue::ErrorId;
use casemate_integration::daemon::{Daemon, Setup, Verb};
use casemate_integration::leftovers;
use casemate_integration::processes;
use casemate_proto::v1;
use rustix::process::Signal;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const MIB: u64 = 1 << 20;
/// What `mirror` says that QEMU takes beside the guest's memory.
const OVERHEAD: u64 = 256 * MIB;
const GUEST: u64 = 256 * MIB;

/// A resource of which two VMs and no more take all.
struct Case {
    name: &'static str,
    limit: fn(&mut Setup),
    spec: fn(&mut v1::VmSpec),
    id: ErrorId,
    subject: &'static str,
    /// What is wanted and what is free, with two VMs there.
    none_left: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "vCPUs",
        limit: |setup| {
            setup.set("max_vcpus", 5);
        },
        spec: |spec| spec.vcpus = 2,
        id: ErrorId::VcpusExhausted,
        subject: "max_vcpus",
        none_left: "2 vCPUs are wanted, and 1 of the host's 5 are free",
    },
    Case {
        name: "memory",
        limit: |setup| {
            // Two with their overhead, and a third guest without: that is not enough.
            setup.set(
                "max_memory",
                format!("{}M", (3 * GUEST + 2 * OVERHEAD) / MIB),
            );
        },
        spec: |spec| spec.memory_bytes = GUEST,
        id: ErrorId::MemoryExhausted,
        subject: "max_memory",
        none_left: "512 MiB of memory is wanted, and 256 MiB of 1280 MiB for VMs is free",
    },
    Case {
        name: "leases",
        limit: |setup| {
            setup.set("leases.seats", 7);
        },
        spec: |spec| drop(spec.settings.insert("seats".to_owned(), "3".to_owned())),
        id: ErrorId::HostResource,
        subject: "leases.seats",
        none_left: "3 of \"seats\" is wanted, and 1 of 7 is free",
    },
    Case {
        name: "number",
        limit: |setup| {
            setup.set("max_vms", 2);
        },
        spec: |_| {},
        id: ErrorId::VmLimit,
        subject: "max_vms",
        none_left: "all 2 VM slots are taken",
    },
];

fn daemon(limit: fn(&mut Setup)) -> Daemon {
    let mut setup = Setup::new();
    setup.set("max_vms", 0).set("on_shutdown", "leave");
    setup.set("qemu.powerdown_time", "1s");
    setup.add_iothreads("mirror", "mirror");
    setup.set("default_backend", "mirror");
    setup.use_fake_qemu(&json!({}));
    limit(&mut setup);
    setup.start()
}

async fn create(daemon: &Daemon, case: &Case) -> Result<v1::Vm, Status> {
    let mut spec = v1::VmSpec::default();
    (case.spec)(&mut spec);
    daemon.create(spec).await
}

async fn assert_full(daemon: &Daemon, case: &Case, when: &str) {
    let entries = leftovers::vm_entries(&daemon.state_dir);
    let starts = Setup::fake_starts(daemon.folder.path()).len();
    let status = create(daemon, case).await.expect_err(case.name);
    let context = format!("{}, {when}: {status}", case.name);
    assert_eq!(status.code(), Code::ResourceExhausted, "{context}");
    let details = status.get_error_details();
    let info = details.error_info().expect("an ErrorInfo");
    assert_eq!(*info.reason, *case.id.reason(), "{context}");
    assert!(status.message().contains(case.none_left), "{context}");
    assert!(status.message().contains(case.subject), "{context}");
    assert!(status.message().contains("\nremedy: "), "{context}");
    // Nothing was spent on it.
    assert_eq!(
        leftovers::vm_entries(&daemon.state_dir),
        entries,
        "{context}"
    );
    let after = Setup::fake_starts(daemon.folder.path()).len();
    assert_eq!(after, starts, "{context}");
}

/// After each way to end, exactly one fits again: what was taken is given back, and once.
#[tokio::test]
async fn what_a_vm_took_is_free_once_its_qemu_is_gone() {
    for case in CASES {
        let mut daemon = daemon(case.limit);
        let kept = create(&daemon, case).await.expect(case.name);
        let removed = create(&daemon, case).await.expect(case.name);
        assert_full(&daemon, case, "at first").await;

        daemon.remove(&removed.id).await.expect("it can be removed");
        let stopped = create(&daemon, case).await.expect(case.name);
        assert_full(&daemon, case, "after a removal").await;

        daemon
            .act(Verb::ForceStop, &stopped.id)
            .await
            .expect("it stops");
        // A second time gives nothing back.
        daemon
            .act(Verb::ForceStop, &stopped.id)
            .await
            .expect("it stops");
        let exited = create(&daemon, case).await.expect(case.name);
        assert_full(&daemon, case, "after a stop").await;
        let refused = daemon
            .act(Verb::Start, &stopped.id)
            .await
            .expect_err("it has no place");
        assert_eq!(
            refused.code(),
            Code::ResourceExhausted,
            "{}: {refused}",
            case.name
        );

        processes::signal(exited.pid, Signal::KILL);
        daemon.in_state(&exited.id, v1::VmState::Exited).await;
        daemon
            .act(Verb::Start, &stopped.id)
            .await
            .expect("it has a place again");
        assert_full(&daemon, case, "after an exit").await;
        daemon.remove(&exited.id).await.expect("it can be removed");
        assert_full(&daemon, case, "after the removal of a VM without a process").await;

        daemon.kill();
        daemon.restart();
        assert_full(&daemon, case, "after the VMs were adopted").await;
        for vm in [&kept, &stopped] {
            daemon.remove(&vm.id).await.expect("it can be removed");
        }
        let again = [create(&daemon, case).await, create(&daemon, case).await];
        assert_full(&daemon, case, "at last").await;
        for vm in again {
            let vm = vm.expect(case.name);
            daemon.remove(&vm.id).await.expect("it can be removed");
        }
        daemon.assert_unwound().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_burst_no_more_than_there_is_gets_it() {
    for case in CASES {
        let daemon = Arc::new(daemon(case.limit));
        for _ in 0..2 {
            let mut creates = tokio::task::JoinSet::new();
            for _ in 0..20 {
                let daemon = Arc::clone(&daemon);
                creates.spawn(async move { create(&daemon, case).await });
            }
            let mut running = Vec::new();
            for created in creates.join_all().await {
                match created {
                    Ok(vm) => running.push(vm),
                    Err(status) => {
                        let code = status.code();
                        assert_eq!(code, Code::ResourceExhausted, "{}: {status}", case.name);
                    }
                }
            }
            assert_eq!(running.len(), 2, "{}", case.name);
            for vm in running {
                daemon.remove(&vm.id).await.expect("it can be removed");
            }
        }
        daemon.assert_unwound().await;
    }
}

/// What no host of this size ever has is refused while nothing runs.
#[tokio::test]
async fn more_than_there_is_or_a_lease_that_nobody_set_is_refused() {
    let daemon = daemon(|setup| {
        setup.set("max_vcpus", 3).set("max_memory", "600M");
    });
    type Change = fn(&mut v1::VmSpec);
    let cases: &[(Change, &str)] = &[
        (
            |spec| spec.vcpus = 4,
            "4 vCPUs are wanted, and 3 of the host's 3 are free",
        ),
        (
            |spec| spec.memory_bytes = 601 * MIB,
            "601 MiB of memory is wanted, and 600 MiB of 600 MiB for VMs is free",
        ),
        (
            // The guest fits; with what QEMU takes beside it, it does not.
            |spec| spec.memory_bytes = 500 * MIB,
            "756 MiB of memory is wanted, and 600 MiB of 600 MiB for VMs is free",
        ),
        (
            |spec| drop(spec.settings.insert("seats".to_owned(), "1".to_owned())),
            "1 of \"seats\" is wanted, and 0 of 0 is free",
        ),
    ];
    for (change, part) in cases {
        let mut spec = v1::VmSpec::default();
        change(&mut spec);
        let status = daemon.create(spec).await.expect_err(part);
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains(part), "{status}");
    }
    daemon.assert_unwound().await;
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it fits");
    daemon.remove(&vm.id).await.expect("it can be removed");
}
