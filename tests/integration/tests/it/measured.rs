//! VMs of a backend that measures: what they are launched from is what is told of them, to whoever
//! asks and whatever becomes of the files meanwhile.
//!
//! The backend is `gauge`, of no real technology, so that its guests run here; QEMU and the guest are
//! real. What digests of real technologies are worth, `measurement` shows.

mod faults;
mod offline;
mod tool;
mod windows;

use std::path::{Path, PathBuf};

use base64::Engine as _;
use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup, agent_answer};
use casemate_integration::predecessor;
use casemate_proto::v1;
use casemate_proto::v1::MeasurementFormat as Format;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha384};
use tonic::Code;

/// A daemon whose default backend measures, with files of its own that a test may change.
pub(crate) fn setup() -> Setup {
    let mut setup = Setup::new();
    let grants = toml::toml! { facts = [{ fact = "qemu-version" }] };
    setup.add_backend("gauge", grants);
    setup.set("default_backend", "gauge");
    for (key, role, from) in [
        ("vm.kernel", "kernel", artifacts::kernel()),
        ("vm.initrd", "initrd", artifacts::initrd()),
    ] {
        let path = setup.folder.path().join(role);
        std::fs::copy(from, &path).expect("a copy");
        setup.set(key, path.display().to_string());
    }
    setup
}

pub(crate) fn kernel_of(setup: &Setup) -> PathBuf {
    setup.folder.path().join("kernel")
}

pub(crate) fn sha384(path: &Path) -> String {
    hex::encode(Sha384::digest(std::fs::read(path).expect("it is there")))
}

pub(crate) async fn json_of(daemon: &Daemon, id: &str) -> Value {
    let answer = daemon.measurement(id, Format::Json).await;
    let answer = answer.expect("it is measured");
    assert_eq!(answer.media_type, "application/json");
    serde_json::from_slice(&answer.document).expect("JSON")
}

pub(crate) fn register<'a>(document: &'a Value, name: &str) -> &'a Value {
    let registers = document["registers"].as_array().expect("registers");
    let found = registers.iter().find(|one| one["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {document}"))
}

/// What the agent of the test's guest answers, if it runs.
pub(crate) const NONCE: &str = "NONCE=measured";

pub(crate) fn with_nonce() -> v1::VmSpec {
    v1::VmSpec {
        environment: [("NONCE".to_owned(), "measured".to_owned())].into(),
        ..v1::VmSpec::default()
    }
}

pub(crate) fn with_settings(settings: &[(&str, &str)]) -> v1::VmSpec {
    let settings = settings.iter();
    let settings = settings.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    v1::VmSpec {
        settings: settings.collect(),
        ..v1::VmSpec::default()
    }
}

/// The digests were computed by the fixture through the host, and here from the files.
#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_told_as_what_it_was_launched_from() {
    let setup = setup();
    let kernel = sha384(&kernel_of(&setup));
    let initrd = sha384(&setup.folder.path().join("initrd"));
    let mut daemon = setup.start();
    let vm = daemon
        .create(v1::VmSpec {
            settings: with_settings(&[("level", "3")]).settings,
            ..with_nonce()
        })
        .await
        .expect("it runs");
    assert!(agent_answer(&vm.agent_address).await.contains(NONCE));

    let document = json_of(&daemon, &vm.id).await;
    let digest = register(&document, "gauge-digest");
    assert_eq!(digest["algorithm"], "sha-384");
    assert_eq!(digest["value"], kernel);
    assert_eq!(digest["unknown"], Value::Null);
    assert_eq!(digest["inputs"][1]["value"], vm.qemu_version);
    assert_eq!(register(&document, "gauge-level")["value"], "3300");
    assert_eq!(
        document["files"],
        json!([
            {"role": "kernel", "sha384": kernel},
            {"role": "initrd", "sha384": initrd},
        ])
    );
    assert_eq!(document["backend"]["name"], "gauge");
    assert_eq!(document["backend"]["sha256"], vm.backend_sha256);
    assert_eq!(document["qemu_version"], vm.qemu_version);

    let corim = daemon.measurement(&vm.id, Format::Corim).await;
    let corim = corim.expect("a CoRIM");
    assert_eq!(corim.media_type, "application/rim+cbor");
    // Tag 501: an unsigned CoRIM.
    assert_eq!(corim.document[..3], [0xd9, 0x01, 0xf5]);
    let bytes = hex::encode(&corim.document);
    assert!(bytes.contains(&kernel), "the digest is in it");
    for name in ["gauge-digest", "Gauge Works", "Gauge 1"] {
        assert!(bytes.contains(&hex::encode(name.as_bytes())), "{name}");
    }
    // What has no name in a CoRIM is not in it.
    assert!(!bytes.contains(&hex::encode(b"gauge-level")));

    let trustee = daemon.measurement(&vm.id, Format::Trustee).await;
    let message: Value =
        serde_json::from_slice(&trustee.expect("reference values").document).expect("JSON");
    let payload = message["payload"].as_str().expect("a payload");
    let payload = base64::engine::general_purpose::STANDARD.decode(payload);
    let payload: Value = serde_json::from_slice(&payload.expect("base64")).expect("JSON");
    assert_eq!(payload, json!({"gauge_measurement": [kernel]}));

    let text = daemon.measurement(&vm.id, Format::Text).await;
    let text = String::from_utf8(text.expect("a text").document).expect("UTF-8");
    assert!(text.contains(&format!("sha-384:{kernel}")), "{text}");

    // Clients of the predecessor get the same CoRIM, byte for byte, each time.
    for _ in 0..2 {
        let request = predecessor::AttestationPolicyReq { id: vm.id.clone() };
        let policy = daemon.predecessor().await.attestation_policy(request).await;
        let policy = policy.expect("a policy").into_inner();
        assert_eq!(policy.info, corim.document);
        assert_eq!(policy.id, vm.id);
    }

    // It is in the record, and the next daemon tells the same.
    daemon.kill();
    daemon.restart();
    assert_eq!(json_of(&daemon, &vm.id).await, document);
    let refused = daemon
        .vms()
        .await
        .get_measurement(v1::GetMeasurementRequest {
            id: vm.id.clone(),
            format: 77,
        })
        .await
        .expect_err("there is no such format");
    assert_eq!(refused.code(), Code::InvalidArgument);
}

/// What QEMU starts without a backend that measures is still known by its digest.
#[tokio::test(flavor = "multi_thread")]
async fn files_are_in_the_record_of_what_is_not_measured_too() {
    let setup = setup();
    let (kernel, state) = (sha384(&kernel_of(&setup)), setup.state_dir());
    let daemon = setup.start();
    let vm = daemon
        .create(v1::VmSpec {
            backend: "plain-kvm".to_owned(),
            ..v1::VmSpec::default()
        })
        .await
        .expect("it runs");
    let record = std::fs::read(state.join("records").join(&vm.id).join("launch.json"));
    let record: Value = serde_json::from_slice(&record.expect("a record")).expect("JSON");
    assert_eq!(record["measurement"]["files"][0]["sha384"], kernel);
    assert_eq!(record["measurement"]["registers"], json!([]));
    for format in [Format::Json, Format::Corim, Format::Trustee, Format::Text] {
        let refused = daemon.measurement(&vm.id, format).await;
        let refused = refused.expect_err("nothing is measured");
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("plain-kvm"), "{refused}");
    }
}

/// The values that the config names are read for each policy, so that mending a file takes no reload.
#[tokio::test(flavor = "multi_thread")]
async fn pcr_values_and_a_signature_are_in_the_policy() {
    let mut setup = setup();
    let folder = setup.folder.path().to_owned();
    let (pcrs, key) = (folder.join("pcrs.json"), folder.join("key.pem"));
    // As the predecessor is configured.
    setup.variable("MANAGER_PCR_VALUES", &pcrs.display().to_string());
    setup.variable("MANAGER_CORIM_SIGNING_KEY", &key.display().to_string());
    let daemon = setup.start();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let refused = |status: tonic::Status, parts: &[&str]| {
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        for part in parts {
            assert!(status.message().contains(part), "{part}: {status}");
        }
    };
    let status = daemon.measurement(&vm.id, Format::Corim).await;
    refused(
        status.expect_err("no file"),
        &["attestation.pcr_values", "pcrs.json", "policy-files"],
    );
    let pcr = "ab".repeat(32);
    let values = json!({"pcr_values": {"sha256": {"24": pcr}}});
    std::fs::write(&pcrs, values.to_string()).expect("a file");
    let status = daemon.measurement(&vm.id, Format::Corim).await;
    refused(status.expect_err("no such PCR"), &["pcrs.json", "24"]);
    let values = json!({"pcr_values": {"sha256": {"4": pcr}}});
    std::fs::write(&pcrs, values.to_string()).expect("a file");
    let status = daemon.measurement(&vm.id, Format::Corim).await;
    refused(status.expect_err("no key"), &["attestation.signing_key"]);
    std::fs::write(&key, "no key").expect("a file");
    let status = daemon.measurement(&vm.id, Format::Corim).await;
    let status = status.expect_err("no key");
    assert!(!status.message().contains("no key\n"), "{status}");
    refused(status, &["attestation.signing_key", "key.pem"]);

    std::fs::write(&key, TEST_KEY).expect("a file");
    let signed = daemon.measurement(&vm.id, Format::Corim).await;
    let signed = signed.expect("a signed CoRIM");
    assert_eq!(signed.media_type, "application/rim+cose");
    // Tag 18: COSE_Sign1.
    assert_eq!(signed.document[0], 0xd2);
    let bytes = hex::encode(&signed.document);
    assert!(bytes.contains(&pcr) && bytes.contains(&hex::encode(b"pcr4")));
    let again = daemon.measurement(&vm.id, Format::Corim).await;
    assert_eq!(again.expect("again").document, signed.document);
    let document = json_of(&daemon, &vm.id).await;
    assert_eq!(document["pcr_values"]["sha256"]["4"], pcr);
    assert!(!daemon.log().contains("PRIVATE"), "a key is in the log");
}

/// Made for this test with `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`.
const TEST_KEY: &str = "-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgjzcs6Yvga5Y7g3DY
20jbjUioCb5XzwQhws4wiM/EsA+hRANCAASh1GYfLPquS7Z9sHcAgQA4L9ia0Tra
PwC9OZpoh918k6Up7PsWCSKyf5nvI7/+U0qUwKHpvc9wewEqHX+eJIlI
-----END PRIVATE KEY-----
";
