//! Runs `casemate-conformance`, as a person would.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A component that `cargo xtask backends` built.
pub(crate) fn component(name: &str) -> PathBuf {
    let target = std::env::var_os("CASEMATE_TEST_ARTIFACTS");
    let target = target.map_or_else(|| workspace().join("target"), PathBuf::from);
    let path = target.join("backends").join(format!("{name}.wasm"));
    assert!(
        path.exists(),
        "{} is missing: run `cargo xtask backends`",
        path.display()
    );
    path
}

#[expect(clippy::disallowed_methods, reason = "the subject of the test")]
pub(crate) fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_casemate-conformance"))
        .args(arguments)
        .env_remove("NO_COLOR")
        .output()
        .expect("it starts")
}

/// Exit code, and the report as JSON.
pub(crate) fn judge(component: &Path, arguments: &[&str]) -> (i32, Value) {
    let component = component.display().to_string();
    let mut all = vec![component.as_str(), "--format", "json"];
    all.extend(arguments);
    let output = run(&all);
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().expect("it exits"), report)
}

/// Numbers of the checks with this status, and of what they bind.
pub(crate) fn with_status(report: &Value, status: &str, force: &str) -> Vec<String> {
    let checks = report["checks"].as_array().expect("checks").iter();
    let chosen = checks.filter(|check| check["status"] == status && check["force"] == force);
    chosen
        .map(|check| check["id"].as_str().expect("a number").to_owned())
        .collect()
}

/// What a check says, for a message.
pub(crate) fn details(report: &Value) -> String {
    let checks = report["checks"].as_array().expect("checks").iter();
    let failed = checks.filter(|check| check["status"] == "fail");
    let told = failed.map(|check| {
        let failures = check["failures"].as_array().into_iter().flatten();
        let details: Vec<String> = failures.map(|one| one["detail"].to_string()).collect();
        format!("{} {}: {}", check["id"], check["force"], details.join("; "))
    });
    told.collect::<Vec<_>>().join("\n")
}

/// SHOULDs that fail, but for those of time: a machine that does much else decides on these.
pub(crate) fn failed_should(report: &Value) -> Vec<String> {
    const OF_TIME: [&str; 2] = ["L3-01", "L3-03"];
    let mut failed = with_status(report, "fail", "SHOULD");
    failed.retain(|check| !OF_TIME.contains(&check.as_str()));
    failed
}
