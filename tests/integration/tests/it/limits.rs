//! Admission. With the scripted QEMU, because 50 real ones at once would test the machine, not the
//! daemon.

use casemate_integration::daemon::{Setup, Verb, free_port};
use casemate_integration::leftovers;
use casemate_proto::v1;
use serde_json::json;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn of_50_concurrent_creates_exactly_the_limit_runs() {
    let mut setup = Setup::new();
    setup.set("max_vms", 3);
    setup.use_fake_qemu(&json!({"delay_ms": {"greeting": 200}}));
    let daemon = std::sync::Arc::new(setup.start());
    let mut creates = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let daemon = std::sync::Arc::clone(&daemon);
        creates.spawn(async move { daemon.create(v1::VmSpec::default()).await });
    }
    let (mut running, mut refused) = (Vec::new(), 0);
    while let Some(result) = creates.join_next().await {
        match result.expect("the task ends") {
            Ok(vm) => running.push(vm),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                assert!(status.message().contains("all 3 VM slots"), "{status}");
                assert!(status.message().contains("remedy: "), "{status}");
                refused += 1;
            }
        }
    }
    assert_eq!((running.len(), refused), (3, 47));
    // No process was ever started for the others.
    assert_eq!(Setup::fake_starts(daemon.folder.path()).len(), 3);
    let listed = daemon.list().await;
    assert_eq!(listed.len(), 3);
    // As the interface says: only GetVm has them.
    assert!(listed.iter().all(|vm| vm.findings.is_empty()));
    let shown = daemon.get(&listed[0].id).await.expect("it runs");
    assert!(!shown.findings.is_empty());
    let ports: std::collections::BTreeSet<_> =
        running.iter().map(|vm| vm.agent_address.clone()).collect();
    assert_eq!(ports.len(), 3);

    daemon.remove(&running[0].id).await.expect("removal works");
    daemon
        .create(v1::VmSpec::default())
        .await
        .expect("a slot is free again");
    for vm in daemon.list().await {
        daemon.remove(&vm.id).await.expect("removal works");
    }
    leftovers::assert_nothing_left(&daemon.state_dir);
}

/// It comes back on the port that it was created with, so nobody else gets it meanwhile.
#[tokio::test]
async fn the_port_of_a_stopped_vm_is_nobody_elses() {
    let port = free_port();
    let mut setup = Setup::new();
    setup.set("network.ports", format!("{port}-{port}"));
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    assert_eq!(vm.agent_address, format!("127.0.0.1:{port}"));
    let stopped = daemon.act(Verb::Stop, &vm.id).await.expect("it stops");
    assert_eq!(stopped.state(), v1::VmState::Stopped);
    let refused = daemon.create(v1::VmSpec::default()).await;
    let refused = refused.expect_err("the only port is another's");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("no free port"), "{refused}");
    let started = daemon.act(Verb::Start, &vm.id).await.expect("it starts");
    assert_eq!(started.agent_address, vm.agent_address);
    daemon.remove(&vm.id).await.expect("it goes");
    let next = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    assert_eq!(next.agent_address, vm.agent_address);
}

/// The daemon's own ports lie in the range, and another program holds one of it.
#[tokio::test]
async fn ports_of_the_range_are_used_once_and_busy_ones_are_passed_over() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let first = held.local_addr().expect("an address").port();
    let last = first.checked_add(3).expect("ephemeral ports end earlier");
    let mut setup = Setup::new();
    setup.set("network.ports", format!("{first}-{last}"));
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    let mut ports = Vec::new();
    let exhausted = loop {
        match daemon.create(v1::VmSpec::default()).await {
            Ok(vm) => ports.push(vm.agent_address),
            Err(status) => break status,
        }
        assert!(ports.len() < 4, "{ports:?}");
    };
    assert_eq!(exhausted.code(), Code::ResourceExhausted, "{exhausted}");
    assert!(exhausted.message().contains("no free port"), "{exhausted}");
    assert!(
        !ports.is_empty() && !ports.contains(&format!("127.0.0.1:{first}")),
        "{ports:?}"
    );
    assert_eq!(daemon.list().await.len(), ports.len());
}
