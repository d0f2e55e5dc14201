//! A table for a terminal, reasons under failures, and the verdict last.

use std::fmt::Write as _;

use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};

use super::{Report, Row, Status};
use crate::catalogue::{Force, Level};

/// Of a table that no terminal limits, as long as a line of a log is read well.
const WIDTH: u16 = 140;

/// Whether the reader sees colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    Shown,
    /// Not a terminal, or `NO_COLOR` is set.
    Hidden,
}

/// The whole report as text.
pub fn render(report: &Report, colours: Colours) -> String {
    let mut text = String::new();
    let provenance = &report.provenance;
    let _ = writeln!(
        text,
        "component  {} ({} KiB)",
        provenance.component,
        provenance.component_bytes >> 10
    );
    let _ = writeln!(text, "sha256     {}", provenance.component_sha256);
    if let Some(backend) = &report.backend {
        let _ = writeln!(
            text,
            "backend    {} {} by {}, for {}, protection {}",
            backend.name, backend.version, backend.vendor, backend.tee, backend.protection
        );
    }
    let _ = writeln!(text, "contract   sha256 {}", provenance.contract_sha256);
    let _ = writeln!(
        text,
        "suite      {} checks sha256 {}",
        provenance.suite_version, provenance.catalogue_sha256
    );
    let _ = writeln!(
        text,
        "seed       {} ({} requests by chance)",
        provenance.seed, provenance.cases
    );
    let golden = provenance.golden.as_deref().unwrap_or("none");
    let _ = writeln!(text, "golden     {golden}");
    for level in Level::ALL {
        let _ = writeln!(text, "\n{} {}", level.as_str(), level.title());
        for line in table(report, level, colours).lines() {
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    let _ = writeln!(
        text,
        "\n{} pass, {} fail, {} skipped, {} expected to fail, {} pass unexpectedly",
        report.count(Status::Pass),
        report.count(Status::Fail),
        report.count(Status::Skip),
        report.count(Status::ExpectedFail),
        report.count(Status::UnexpectedPass)
    );
    for one in report.unproven() {
        let claim = one.claim.as_str();
        let _ = writeln!(text, "not proven: {claim}: {}; {}", one.reason, one.remedy);
    }
    let _ = writeln!(text, "verdict: {}", report.sentence());
    text
}

fn table(report: &Report, level: Level, colours: Colours) -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic);
    if colours == Colours::Hidden {
        table.force_no_tty().set_width(WIDTH);
    } else {
        table.enforce_styling();
    }
    for row in report.rows.iter().filter(|row| row.check.level == level) {
        table.add_row(vec![
            Cell::new(row.check.id),
            status(row),
            Cell::new(row.check.force.as_str()),
            Cell::new(told(row)),
        ]);
    }
    table
}

fn status(row: &Row) -> Cell {
    let cell = Cell::new(row.status.as_str());
    match (row.status, row.check.force) {
        (Status::Pass, _) => cell.fg(Color::Green),
        (Status::Fail, Force::Must) | (Status::UnexpectedPass, _) => {
            cell.fg(Color::Red).add_attribute(Attribute::Bold)
        }
        (Status::Fail, Force::Should) | (Status::ExpectedFail, _) => cell.fg(Color::Yellow),
        (Status::Skip, _) => cell.add_attribute(Attribute::Dim),
    }
}

/// The rule; under a failure what was seen, under a skip why.
fn told(row: &Row) -> String {
    let mut text = row.check.rule.to_owned();
    match row.status {
        Status::Pass => {}
        Status::Skip => {
            let _ = write!(
                text,
                "\n  skipped: {}",
                row.reason.as_deref().unwrap_or_default()
            );
        }
        Status::UnexpectedPass => {
            let reason = row.reason.as_deref().unwrap_or_default();
            let _ = write!(
                text,
                "\n  a failure was expected ({reason}): take it out of the file"
            );
        }
        Status::Fail | Status::ExpectedFail => {
            for failure in &row.failures {
                let _ = write!(text, "\n  - {}", failure.detail);
            }
            if row.failed > row.failures.len() {
                let _ = write!(text, "\n  {} failures in {} tries", row.failed, row.tried);
            }
            let _ = write!(text, "\n  see {}", row.check.anchor);
            if let Some(reason) = &row.reason {
                let word = match row.status {
                    Status::ExpectedFail => "expected",
                    _ => "not expected",
                };
                let _ = write!(text, "\n  {word}: {reason}");
            }
        }
    }
    text
}
