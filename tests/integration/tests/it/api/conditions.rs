//! Changes that are made only while a VM is what its caller saw.

use casemate_integration::http::Request;
use casemate_proto::v1;
use tonic::Code;

#[tokio::test]
async fn of_two_who_saw_the_same_vm_one_changes_it() {
    let daemon = super::daemon();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let seen = daemon.get(&vm.id).await.expect("it is there").generation;
    let mut vms = daemon.vms().await;
    let pause = v1::PauseVmRequest {
        id: vm.id.clone(),
        expected_generation: Some(seen),
    };
    let paused = vms.pause_vm(pause.clone()).await.expect("it is as it was");
    let now = paused.into_inner().vm.expect("a VM").generation;
    assert!(now > seen);
    let status = vms.pause_vm(pause).await.expect_err("it has changed");
    assert_eq!(status.code(), Code::Aborted);
    for part in [&vm.id, &now.to_string(), &seen.to_string()] {
        assert!(status.message().contains(part), "{status}");
    }
    // What was refused was not done.
    let vm = daemon.get(&vm.id).await.expect("it is there");
    assert_eq!((vm.state(), vm.generation), (v1::VmState::Paused, now));
}

#[tokio::test]
async fn an_entity_tag_is_the_condition_over_http() {
    let daemon = super::daemon();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let place = format!("/v1/vms/{}", vm.id);
    let seen = Request::get(&place)
        .send(daemon.http)
        .await
        .expect("an answer");
    let tag = seen.header("etag").expect("a tag").to_owned();
    assert_eq!(tag, format!("\"{}\"", seen.json()["generation"]));
    let change = |method: &str, rest: &str, tag: &str| {
        Request::new(method, &format!("{place}{rest}")).header("If-Match", tag)
    };
    for (method, rest) in [
        ("PUT", "/ttl"),
        ("DELETE", "/ttl"),
        ("DELETE", ""),
        ("POST", "/stop"),
    ] {
        let mut request = change(method, rest, "\"1\"");
        if method == "PUT" {
            request = request.json(r#"{"ttl_seconds": 60}"#);
        }
        let refused = request.send(daemon.http).await.expect("an answer");
        assert_eq!(
            (refused.status, refused.problem().as_str()),
            (412, "generation-changed"),
            "{method} {rest}"
        );
    }
    let extended = change("PUT", "/ttl", &tag).json(r#"{"ttl_seconds": 60}"#);
    let extended = extended.send(daemon.http).await.expect("an answer");
    assert_eq!(extended.status, 200, "{}", extended.text());
    let next = extended.header("etag").expect("a tag").to_owned();
    assert_ne!(next, tag);
    for (tag, status) in [
        (tag.as_str(), 412),
        ("*", 200),
        ("1", 412),
        ("seventeen", 400),
        ("W/\"17\"", 400),
    ] {
        let answer = change("DELETE", "/ttl", tag)
            .send(daemon.http)
            .await
            .expect("an answer");
        assert_eq!(answer.status, status, "{tag}: {}", answer.text());
    }
    let gone = change("DELETE", "", "*")
        .send(daemon.http)
        .await
        .expect("an answer");
    assert_eq!((gone.status, gone.body.len()), (204, 0));
}

#[tokio::test]
async fn a_new_end_of_its_time_is_kept_and_comes() {
    let mut setup = super::setup();
    setup.set("on_shutdown", "leave");
    let mut daemon = setup.start();
    let spec = v1::VmSpec {
        ttl_seconds: Some(3_600),
        ..v1::VmSpec::default()
    };
    let vm = daemon.create(spec).await.expect("it runs");
    let mut vms = daemon.vms().await;
    let mut extend = async |ttl_seconds| {
        let request = v1::ExtendTtlRequest {
            id: vm.id.clone(),
            ttl_seconds,
            expected_generation: None,
        };
        let extended = vms.extend_ttl(request).await.expect("it is there");
        extended.into_inner().vm.expect("a VM").expires_at
    };
    let later = extend(Some(7_200)).await;
    assert!(later > vm.expires_at, "{later} {}", vm.expires_at);
    assert_eq!(extend(None).await, "");
    let soon = extend(Some(4)).await;
    assert!(soon < vm.expires_at);
    daemon.kill();
    daemon.restart();
    assert_eq!(
        daemon.get(&vm.id).await.expect("it is there").expires_at,
        soon
    );
    casemate_integration::daemon::eventually(
        "its end",
        std::time::Duration::from_secs(30),
        async || daemon.get(&vm.id).await.is_err().then_some(()),
    )
    .await;
}
