//! Registers that no verifier could use are a fault of the backend; what is unknown is said and
//! becomes no policy.

use casemate_proto::v1;
use casemate_proto::v1::MeasurementFormat as Format;
use serde_json::Value;
use tonic::Code;

use super::{json_of, register, setup, with_settings};

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_measurement_is_a_fault() {
    let daemon = setup().start();
    for (act, part) in [
        ("zeros", "a digest of zeros is no digest"),
        ("short", "it has 47 bytes, and sha-384 has 48"),
        ("twice", "there are two of this name"),
        ("one-choice", "a choice has two values at least"),
        ("no-reason", "the reason of an unknown value is empty"),
        ("algorithm", "\"md5\" is none of sha-256"),
        ("source", "\"rumour\" is none of request"),
        ("control", "control character"),
        ("aliases", "is called"),
        ("many", "are more than 64"),
        ("trap", "trapped"),
    ] {
        let spec = with_settings(&[("act", act)]);
        let status = daemon.create(spec).await.expect_err(act);
        assert_eq!(status.code(), Code::Internal, "{act}: {status}");
        let what = "backend \"gauge\" is at fault: ";
        assert!(status.message().starts_with(what), "{act}: {status}");
        assert!(status.message().contains(part), "{act}: {status}");
    }
    let spec = with_settings(&[("act", "error")]);
    let status = daemon.create(spec).await.expect_err("its own error");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(
        status.message().contains("no measurement today"),
        "{status}"
    );
    // Nothing was started, and nothing is left of it.
    daemon.assert_unwound().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_is_said_and_is_in_no_policy() {
    let daemon = setup().start();
    let spec = with_settings(&[("act", "unknown")]);
    let vm = daemon.create(spec).await.expect("it runs all the same");
    let document = json_of(&daemon, &vm.id).await;
    let digest = register(&document, "gauge-digest");
    assert_eq!(digest["value"], Value::Null);
    assert_eq!(digest["unknown"], "the moon is down");
    for format in [Format::Corim, Format::Trustee] {
        let refused = daemon.measurement(&vm.id, format).await;
        let refused = refused.expect_err("a verifier could accept anything");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        for part in ["gauge-digest", "the moon is down"] {
            assert!(refused.message().contains(part), "{refused}");
        }
    }
    let request = casemate_integration::predecessor::AttestationPolicyReq { id: vm.id.clone() };
    let refused = daemon.predecessor().await.attestation_policy(request).await;
    assert_eq!(
        refused.expect_err("no policy").code(),
        Code::FailedPrecondition
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_tells_what_would_be_measured_and_from_which_facts() {
    let daemon = setup().start();
    let request = v1::PlanVmRequest {
        spec: Some(with_settings(&[("act", "choice")])),
        dry_run: false,
    };
    let plan = daemon.vms().await.plan_vm(request).await;
    let plan = plan.expect("a plan").into_inner();
    let document: Value = serde_json::from_str(&plan.measurement_json).expect("JSON");
    let digest = register(&document, "gauge-digest");
    assert_eq!(digest["value"], Value::Null);
    assert_eq!(digest["alternatives"][1]["condition"], "night");
    assert_eq!(digest["alternatives"][1]["value"], "07".repeat(48));
    assert!(
        plan.facts_json.contains("qemu-version"),
        "{}",
        plan.facts_json
    );
}
