//! Idempotency keys: a create that is sent again makes no second VM.

use std::time::Duration;

use casemate_integration::daemon::{Daemon, eventually};
use casemate_integration::http::Request;
use casemate_proto::v1;
use serde_json::json;
use tonic::{Code, Status};

async fn create(daemon: &Daemon, key: &str, name: &str) -> Result<v1::Vm, Status> {
    let request = v1::CreateVmRequest {
        spec: Some(v1::VmSpec {
            name: name.to_owned(),
            environment: [
                ("B".to_owned(), "2".to_owned()),
                ("A".to_owned(), "1".to_owned()),
            ]
            .into(),
            ..v1::VmSpec::default()
        }),
        idempotency_key: key.to_owned(),
        dry_run: false,
    };
    let created = daemon.vms().await.create_vm(request).await?;
    Ok(created.into_inner().vm.expect("a VM"))
}

#[tokio::test]
async fn the_same_request_with_the_same_key_is_one_vm() {
    let daemon = super::daemon();
    // At once, and again.
    let (one, other) = tokio::join!(create(&daemon, "k-1", "a"), create(&daemon, "k-1", "a"));
    let (one, other) = (one.expect("it runs"), other.expect("it runs"));
    assert_eq!(one.id, other.id);
    assert_eq!(
        create(&daemon, "k-1", "a").await.expect("it runs").id,
        one.id
    );
    assert_eq!(daemon.list().await.len(), 1);
    // The key of another request is refused, and another key is another VM.
    let status = create(&daemon, "k-1", "b")
        .await
        .expect_err("another request");
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(status.message().contains(&one.id), "{status}");
    assert_ne!(
        create(&daemon, "k-2", "a").await.expect("it runs").id,
        one.id
    );
    // Without one, each is its own.
    assert_ne!(
        create(&daemon, "", "a").await.expect("it runs").id,
        create(&daemon, "", "a").await.expect("it runs").id
    );
    // It goes with its VM.
    daemon.remove(&one.id).await.expect("it is gone");
    let again = create(&daemon, "k-1", "b").await.expect("the key is free");
    assert_ne!(again.id, one.id);
}

#[tokio::test]
async fn a_key_survives_a_daemon_that_is_killed() {
    let mut setup = super::setup();
    setup.set("on_shutdown", "leave");
    let mut daemon = setup.start();
    let vm = create(&daemon, "k", "a").await.expect("it runs");
    daemon.kill();
    daemon.restart();
    assert_eq!(
        create(&daemon, "k", "a").await.expect("it is there").id,
        vm.id
    );
    let status = create(&daemon, "k", "b")
        .await
        .expect_err("another request");
    assert_eq!(status.code(), Code::AlreadyExists);
    // Neither the key's request nor its secrets can be read from the record.
    let record = daemon
        .state_dir
        .join("records")
        .join(&vm.id)
        .join("vm.json");
    let record = std::fs::read_to_string(record).expect("a record");
    assert!(record.contains("\"idempotency\""), "{record}");
    daemon.remove(&vm.id).await.expect("it is gone");
}

/// With a QEMU that takes its time, so that the caller can leave before the answer.
#[tokio::test]
async fn a_create_with_a_key_goes_on_when_its_caller_leaves_and_one_without_is_unmade() {
    let mut setup = super::setup();
    let slow = json!({"delay_ms": {"cont": 1500}});
    std::fs::write(
        setup.folder.path().join("fake/fake-qemu.script"),
        slow.to_string(),
    )
    .expect("a script");
    setup.set("qemu.start_time", "30s");
    let daemon = setup.start();
    for (headers, is_there) in [(&[("Idempotency-Key", "k")][..], true), (&[], false)] {
        let mut request = Request::post("/v1/vms", &json!({"spec": {"name": "left"}}));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let connection = request.begin(daemon.http).await.expect("a connection");
        eventually("its begin", Duration::from_secs(20), async || {
            (!daemon.list().await.is_empty()).then_some(())
        })
        .await;
        drop(connection);
        if is_there {
            let vm = eventually("it runs", Duration::from_secs(30), async || {
                let vms = daemon.list().await;
                vms.into_iter()
                    .find(|vm| vm.state() == v1::VmState::Running)
            })
            .await;
            // Who asks again is answered with it.
            let again = request.send(daemon.http).await.expect("an answer");
            assert_eq!((again.status, &again.json()["id"]), (201, &json!(vm.id)));
            daemon.remove(&vm.id).await.expect("it is gone");
        } else {
            eventually("nothing is left", Duration::from_secs(30), async || {
                daemon.list().await.is_empty().then_some(())
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_key_is_of_its_form() {
    let daemon = super::daemon();
    for key in ["a b", "ü", &"k".repeat(129)] {
        let status = create(&daemon, key, "a").await.expect_err("no key");
        assert_eq!(status.code(), Code::InvalidArgument, "{key}");
    }
    for (values, status) in [
        (&[""][..], 400),
        (&["a", "b"], 400),
        (&["a b"], 400),
        (&["good"], 201),
    ] {
        let mut request = Request::post("/v1/vms", &json!({}));
        for value in values {
            request = request.header("Idempotency-Key", value);
        }
        let answer = request.send(daemon.http).await.expect("an answer");
        assert_eq!(answer.status, status, "{values:?}: {}", answer.text());
    }
}
