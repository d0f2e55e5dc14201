//! The examples in a daemon, on a host that has none of what they are for.

use casemate_integration::artifacts;
use casemate_integration::daemon::Setup;
use casemate_proto::v1;
use serde_json::json;
use tonic::Code;

use super::EXAMPLES;

/// One after another, for a daemon compiles all of its components before it serves.
#[tokio::test]
async fn a_daemon_has_them_in_service_and_says_what_this_host_lacks() {
    for example in &EXAMPLES {
        let Some(component) = artifacts::example(example.name) else {
            continue;
        };
        let mut setup = Setup::new();
        setup.use_fake_qemu(&json!({}));
        let backend = artifacts::example_backend(example.folder, &component);
        let backends = setup.config["backend"].as_array_mut().expect("an array");
        backends.push(backend.into());
        let daemon = setup.start();
        let request = v1::GetBackendRequest {
            name: example.name.to_owned(),
        };
        let answer = daemon.backends().await.get_backend(request).await;
        let backend = answer.expect("it is configured").into_inner().backend;
        let backend = backend.expect("a backend");
        assert_eq!(backend.status, "in-service", "{}", backend.error);
        let shown = (&*backend.tier, &*backend.tee);
        assert_eq!(shown, (example.tier.as_str(), example.tee));
        let mut findings = backend.findings.iter();
        let fails = findings.any(|found| found.severity == "fail");
        assert!(fails, "{backend:?}");
        let request = v1::PlanVmRequest {
            spec: Some(v1::VmSpec {
                backend: example.name.to_owned(),
                ..v1::VmSpec::default()
            }),
            ..v1::PlanVmRequest::default()
        };
        let status = daemon.vms().await.plan_vm(request).await;
        let status = status.expect_err("no such host");
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        let part = match example.architecture {
            "x86_64" => "a CSV guest takes KVM",
            other => other,
        };
        assert!(status.message().contains(part), "{status}");
    }
}
