//! The report as TAP 14, with YAML under failures. YAML takes JSON for a value, so texts are quoted as
//! JSON quotes them.

use std::fmt::Write as _;

use super::{Report, Row, Status};
use crate::catalogue::Force;

pub fn render(report: &Report) -> String {
    let mut text = format!("TAP version 14\n1..{}\n", report.rows.len());
    let provenance = &report.provenance;
    for (name, value) in [
        ("component", &provenance.component),
        ("component sha256", &provenance.component_sha256),
        ("contract sha256", &provenance.contract_sha256),
        ("catalogue sha256", &provenance.catalogue_sha256),
        ("seed", &provenance.seed.to_string()),
        ("verdict", &report.sentence()),
    ] {
        let _ = writeln!(text, "# {name}: {value}");
    }
    for one in report.unproven() {
        let claim = one.claim.as_str();
        let _ = writeln!(
            text,
            "# not proven: {claim}: {}: {}",
            one.reason, one.remedy
        );
    }
    for (number, row) in (1..).zip(&report.rows) {
        line(&mut text, number, row);
    }
    text
}

fn line(text: &mut String, number: usize, row: &Row) {
    let directive = match (row.status, row.check.force) {
        (Status::Skip, _) => format!(" # SKIP {}", one_line(row.reason.as_deref())),
        (Status::ExpectedFail, _) => format!(" # TODO {}", one_line(row.reason.as_deref())),
        (Status::Fail, Force::Should) => " # TODO a SHOULD".to_owned(),
        (Status::Pass | Status::Fail | Status::UnexpectedPass, _) => String::new(),
    };
    let is_ok = matches!(row.status, Status::Pass | Status::Skip);
    let word = if is_ok { "ok" } else { "not ok" };
    // A `#` begins a directive.
    let rule = row.check.rule.replace('#', "\\#");
    let _ = writeln!(text, "{word} {number} - {} {rule}{directive}", row.check.id);
    if row.status == Status::UnexpectedPass {
        // A reader of TAP takes `ok … # TODO` for a pass, and this run fails by it.
        let reason = one_line(row.reason.as_deref());
        let told = format!("a failure was expected ({reason}): take it out of the file");
        let _ = writeln!(text, "  ---\n  message: {}\n  ...", quoted(&told));
    }
    if row.failures.is_empty() {
        return;
    }
    let _ = writeln!(text, "  ---");
    let _ = writeln!(text, "  severity: {}", row.check.force.as_str());
    let _ = writeln!(text, "  anchor: {}", quoted(row.check.anchor));
    let _ = writeln!(text, "  failures:");
    for failure in &row.failures {
        let _ = writeln!(text, "    - {}", quoted(&failure.detail));
    }
    let _ = writeln!(text, "  ...");
}

fn one_line(reason: Option<&str>) -> String {
    reason.unwrap_or_default().replace(['\n', '\r'], " ")
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
