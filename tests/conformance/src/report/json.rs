//! The report as JSON, for programs.

use serde_json::{Value, json};

use super::{Report, Row};

pub fn render(report: &Report) -> Value {
    json!({
        "provenance": report.provenance,
        "backend": report.backend,
        "claims": report.claims,
        "unproven": report.unproven(),
        "verdict": report.verdict(),
        "sentence": report.sentence(),
        "checks": report.rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn row(row: &Row) -> Value {
    let failures = row.failures.iter().map(|failure| {
        json!({
            "detail": failure.detail,
            "request": failure.draft,
        })
    });
    json!({
        "id": row.check.id,
        "level": row.check.level,
        "force": row.check.force,
        "claim": row.check.claim,
        "anchor": row.check.anchor,
        "rule": row.check.rule,
        "status": row.status,
        "tried": row.tried,
        "failed": row.failed,
        "failures": failures.collect::<Vec<_>>(),
        "reason": row.reason,
    })
}
