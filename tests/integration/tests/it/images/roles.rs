//! Whose requests may name files outside the image roots. With the scripted QEMU, because the subject
//! is the refusal.

use casemate_catalogue::ErrorId;
use casemate_integration::daemon::Setup;
use casemate_integration::http::Request;
use casemate_proto::v1;
use serde_json::json;
use tonic::Code;

use super::{kernel, reason, root_of, subject, text};
use crate::access;

/// An absolute path leaves the image roots, which is for an admin to do, whichever way it comes.
#[tokio::test]
async fn an_absolute_path_takes_the_role_admin() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let root = root_of(&mut setup);
    let outside = setup.folder.path().join("outside");
    for path in [&outside, &root.join("kernel")] {
        std::fs::write(path, "a kernel").expect("a file");
    }
    let roles = ["operator", "admin"];
    access::with_clients(
        &mut setup,
        roles
            .map(|role| access::token_client(role, &[role]))
            .to_vec(),
    );
    let daemon = setup.start();
    let mut vms = daemon.vms().await;
    // A file that is not there is refused alike: who may not name it learns nothing of it.
    let there = text(&outside);
    for (role, name, is_allowed) in [
        ("operator", "kernel", true),
        ("operator", there, false),
        ("operator", "/no/such/kernel", false),
        ("admin", there, true),
    ] {
        let token = access::token_of(role);
        let what = format!("{role} {name}");
        let request = v1::CreateVmRequest {
            spec: Some(kernel(name)),
            ..v1::CreateVmRequest::default()
        };
        let created = vms
            .create_vm(access::with_token(request, Some(&token)))
            .await;
        let body = json!({"spec": {"files": {"kernel": name}}});
        let answer = Request::post("/v1/vms", &body)
            .header("Authorization", &format!("Bearer {token}"))
            .send(daemon.http)
            .await
            .expect("an answer");
        if is_allowed {
            created.unwrap_or_else(|status| panic!("{what}: {status}"));
            assert_eq!(answer.status, 201, "{what}: {}", answer.text());
            continue;
        }
        let status = created.expect_err(&what);
        assert_eq!(reason(&status), *ErrorId::FileNotAllowed.reason(), "{what}");
        assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status}");
        assert_eq!(subject(&status), "files.kernel", "{what}: {status}");
        let problem = answer.json();
        assert_eq!(
            (answer.status, &*answer.problem(), &problem["field"]),
            (403, "file-not-allowed", &json!("spec.files.kernel")),
            "{what}: {problem}"
        );
        assert!(!status.message().contains("No such file"), "{status}");
    }
}
