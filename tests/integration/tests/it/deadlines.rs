//! How long a call may take. With the scripted QEMU, because a launch must last as long as a test
//! wants it to.

use std::time::Duration;

use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup};
use casemate_proto::v1;
use serde_json::json;
use tonic::codegen::{Bytes, http};
use tonic::{Code, Request};

/// A daemon whose VMs take `launch` to start, and whose calls have `default` to end.
fn daemon(launch: Duration, default: &str) -> Daemon {
    let mut setup = Setup::new();
    let millis = u64::try_from(launch.as_millis()).expect("a short time");
    setup.set("grpc.timeout", default);
    setup.set("qemu.start_time", "60s");
    setup.use_fake_qemu(&json!({"delay_ms": {"cont": millis}}));
    setup.start()
}

#[tokio::test]
async fn a_call_without_a_deadline_has_the_time_of_the_config() {
    let daemon = daemon(Duration::from_secs(40), "3s");
    let status = daemon
        .create(v1::VmSpec::default())
        .await
        .expect_err("it takes longer");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    for part in ["within 3s", "\nremedy: ", "`[grpc]`"] {
        assert!(status.message().contains(part), "{status}");
    }
    daemon.assert_unwound().await;
}

#[tokio::test]
async fn a_callers_longer_deadline_wins() {
    let daemon = daemon(Duration::from_secs(4), "1s");
    let mut request = Request::new(v1::CreateVmRequest::default());
    request.set_timeout(Duration::from_secs(60));
    let vm = daemon.vms().await.create_vm(request).await;
    let vm = vm.expect("there is time").into_inner().vm.expect("a VM");
    assert_eq!(vm.state(), v1::VmState::Running);
    daemon.remove(&vm.id).await.expect("it is removed");
}

/// Spoken without tonic's client, which ends the call by a timer of its own at the same moment.
#[tokio::test]
async fn a_callers_shorter_deadline_is_answered_as_exceeded() {
    let daemon = daemon(Duration::from_secs(40), "60s");
    let stream = tokio::net::TcpStream::connect(daemon.grpc).await;
    let (mut sender, connection) = h2::client::handshake(stream.expect("it connects"))
        .await
        .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let request = http::Request::post(format!(
        "{}/casemate.v1.VmService/CreateVm",
        daemon.endpoint()
    ))
    .header("content-type", "application/grpc")
    .header("te", "trailers")
    .header("grpc-timeout", "3S")
    .body(())
    .expect("a request");
    let (answer, mut body) = sender.send_request(request, false).expect("it is sent");
    // Not compressed, and no byte of message.
    body.send_data(Bytes::from_static(&[0; 5]), true)
        .expect("it is sent");
    let answer = tokio::time::timeout(Duration::from_secs(20), answer)
        .await
        .expect("in time")
        .expect("an answer");
    let header = |name: &str| {
        let value = answer.headers().get(name);
        value.and_then(|value| value.to_str().ok()).unwrap_or("")
    };
    assert_eq!(header("grpc-status"), "4", "{answer:?}");
    assert!(header("grpc-message").contains("3s"), "{answer:?}");
    connection.abort();
    daemon.assert_unwound().await;
}

/// A large guest takes longer to go than anybody waits.
#[tokio::test]
async fn a_removal_goes_on_when_its_callers_time_is_over() {
    let mut setup = Setup::new();
    setup.set("qemu.powerdown_time", "5s");
    setup.use_fake_qemu(&json!({"ignore": ["system_powerdown"]}));
    let daemon = setup.start();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let mut request = Request::new(v1::RemoveVmRequest {
        id: vm.id.clone(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(1));
    let status = daemon.vms().await.remove_vm(request).await;
    let status = status.expect_err("it takes longer");
    // Of the daemon, or of the client's own timer at the same moment.
    let is_over = [Code::DeadlineExceeded, Code::Cancelled];
    assert!(is_over.contains(&status.code()), "{status}");
    let going = daemon.get(&vm.id).await.expect("it is there still");
    assert_eq!(going.state(), v1::VmState::Stopping);
    daemon.assert_unwound().await;
}

#[tokio::test]
async fn a_deadline_that_is_no_time_is_refused() {
    let daemon = daemon(Duration::ZERO, "60s");
    for text in ["soon", "10", "1.5S", "123456789S"] {
        let mut request = Request::new(v1::CreateVmRequest::default());
        let value = text.parse().expect("plain text");
        request.metadata_mut().insert("grpc-timeout", value);
        let status = daemon.vms().await.create_vm(request).await;
        let status = status.expect_err("it is no time");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        for part in [text, "\nremedy: "] {
            assert!(status.message().contains(part), "{status}");
        }
    }
    assert!(Setup::fake_starts(daemon.folder.path()).is_empty());
}

#[test]
fn the_time_of_the_cli_wins_over_the_daemons() {
    let daemon = daemon(Duration::from_secs(4), "1s");
    let create = |time: &str| {
        #[expect(clippy::disallowed_methods, reason = "the subject of the tests")]
        let mut command = std::process::Command::new(artifacts::program("casemate"));
        let output = command
            .env("CASEMATE_ENDPOINT", daemon.endpoint())
            .args(["--timeout", time, "vm", "create"])
            .stdin(std::process::Stdio::null())
            .output()
            .expect("casemate runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), error)
    };
    let (code, error) = create("2s");
    assert_eq!(code, Some(7), "{error}");
    assert!(error.contains("within 2s"), "{error}");
    let (code, error) = create("60s");
    assert_eq!(code, Some(0), "{error}");
}
