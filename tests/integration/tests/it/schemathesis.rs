//! Random requests of every kind against the HTTP interface, by a program that others wrote: it reads
//! the description that the daemon serves, and holds every answer against it. With the real QEMU.
//!
//! In a run of all tests it is skipped, because it takes minutes: `cargo xtask schemathesis`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use casemate_integration::daemon::Daemon;
use casemate_integration::http::Request;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use xtask::schemathesis::VARIABLE;

const TOKEN: &str = "schemathesis";
/// Requests of each kind for each operation, in the phases that roll dice.
const EXAMPLES: &str = "120";

#[test]
fn every_operation_keeps_to_its_description() {
    let Some(python) = std::env::var_os(VARIABLE) else {
        println!("skipped: it takes minutes; `cargo xtask schemathesis` runs it");
        return;
    };
    // Of a backend that measures, so that measurements are answered too.
    let mut setup = crate::measured::setup();
    // A request names what it likes; what it would take is limited.
    setup.set("max_vms", 8);
    setup.set("max_memory", "4G");
    // A guest that nobody pauses is down after some seconds, and gives its place to the next.
    setup.set("vm.kernel_cmdline", "console=ttyS0 panic=-1 rdinit=/none");
    setup.set("http.stream_time", "1s");
    setup.set("qemu.powerdown_time", "1s");
    // Requests come as fast as they are answered.
    setup.set("limits.calls_per_second", 0);
    let client = toml::toml! {
        name = "schemathesis"
        roles = ["admin", "secrets"]
    };
    let mut client = client;
    let digest = hex::encode(Sha256::digest(TOKEN));
    client.insert("token_sha256".to_owned(), digest.into());
    setup
        .config
        .insert("client".to_owned(), toml::Value::Array(vec![client.into()]));
    let daemon = setup.start();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemathesis");
    let report = daemon.folder.path().join("report.ndjson");
    #[expect(clippy::disallowed_methods, reason = "a program of others")]
    let outcome = Command::new(&python)
        .current_dir(&folder)
        .args([
            "-m",
            "schemathesis.cli",
            "--config-file",
            "schemathesis.toml",
        ])
        .arg("run")
        .arg(format!("http://{}/v1/openapi.json", daemon.http))
        .args(["--checks", "all", "--continue-on-failure", "--no-color"])
        .args(["--max-examples", EXAMPLES, "--request-timeout", "60"])
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .args(["--report", "ndjson", "--report-ndjson-path"])
        .arg(&report)
        .status()
        .expect("it starts");
    let missing = without_success(&daemon, &report);
    assert!(outcome.success(), "findings, above");
    assert!(missing.is_empty(), "no 2xx of {missing:?}");
    // What it left is in good order.
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

/// Operations that were never answered with 2xx.
fn without_success(daemon: &Daemon, report: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(report).expect("a report");
    let mut seen = BTreeMap::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).expect("a line of JSON");
        collect(&event, &mut seen);
    }
    let described = described(daemon);
    assert!(described.len() >= 20, "{described:?}");
    let is_missing = |operation: &String| !seen.get(operation).copied().unwrap_or_default();
    described.into_iter().filter(is_missing).collect()
}

/// Every operation of the description.
fn described(daemon: &Daemon) -> Vec<String> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let document = runtime.block_on(Request::get("/v1/openapi.json").send(daemon.http));
    let document = document.expect("an answer").json();
    let paths = document["paths"].as_object().expect("paths").clone();
    let operations = paths.into_iter().flat_map(|(path, operations)| {
        let operations = operations.as_object().expect("operations").clone();
        operations
            .into_iter()
            .map(move |(method, _)| format!("{} {path}", method.to_uppercase()))
    });
    operations.collect()
}

/// Notes the answers of an event, if it has any, by operation.
fn collect(event: &Value, seen: &mut BTreeMap<String, bool>) {
    let recorder = &event["ScenarioFinished"]["recorder"];
    let (Some(cases), Some(interactions)) = (
        recorder["cases"].as_object(),
        recorder["interactions"].as_object(),
    ) else {
        return;
    };
    for (id, interaction) in interactions {
        let case = &cases[id]["value"];
        let (Some(method), Some(path)) = (case["method"].as_str(), case["path"].as_str()) else {
            continue;
        };
        let status = interaction["response"]["status_code"].as_u64();
        let is_good = status.is_some_and(|status| (200..300).contains(&status));
        *seen.entry(format!("{method} {path}")).or_default() |= is_good;
    }
}
