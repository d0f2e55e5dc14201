//! The report as JUnit XML: a suite for each level, a case for each check.

use quick_junit::{NonSuccessKind, Property, Report as Junit, TestCase, TestCaseStatus, TestSuite};

use super::{Report, Row, Status};
use crate::catalogue::{Force, Level};

/// Why the report cannot be written.
pub use quick_junit::SerializeError;

pub fn render(report: &Report) -> Result<String, SerializeError> {
    let mut junit = Junit::new("casemate-conformance");
    for level in Level::ALL {
        let mut suite = TestSuite::new(format!("{} {}", level.as_str(), level.title()));
        let provenance = &report.provenance;
        for (name, value) in [
            ("component", provenance.component.as_str()),
            ("component-sha256", provenance.component_sha256.as_str()),
            ("contract-sha256", provenance.contract_sha256.as_str()),
            ("catalogue-sha256", provenance.catalogue_sha256.as_str()),
            ("suite-version", provenance.suite_version),
            ("seed", provenance.seed.to_string().as_str()),
            ("verdict", report.sentence().as_str()),
        ] {
            suite.add_property(Property::new(name, value));
        }
        for one in report.unproven() {
            let name = format!("not-proven:{}", one.claim.as_str());
            let value = format!("{}: {}", one.reason, one.remedy);
            suite.add_property(Property::new(name, value));
        }
        let rows = report.rows.iter().filter(|row| row.check.level == level);
        suite.add_test_cases(rows.map(case));
        junit.add_test_suite(suite);
    }
    junit.to_string()
}

fn case(row: &Row) -> TestCase {
    let details: Vec<&str> = row
        .failures
        .iter()
        .map(|failure| failure.detail.as_str())
        .collect();
    let status = match (row.status, row.check.force) {
        (Status::Pass, _) => TestCaseStatus::success(),
        (Status::Fail, Force::Must) => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_type("MUST").set_message(details.join("\n"));
            status
        }
        (Status::UnexpectedPass, _) => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status
                .set_type("unexpected-pass")
                .set_message("a failure was expected");
            status
        }
        // What does not decide is told, and is no failure of the run.
        (Status::Fail, Force::Should) => skipped(&format!("SHOULD fails: {}", details.join("\n"))),
        (Status::ExpectedFail, _) => {
            let reason = row.reason.as_deref().unwrap_or_default();
            skipped(&format!(
                "expected to fail ({reason}): {}",
                details.join("\n")
            ))
        }
        (Status::Skip, _) => skipped(row.reason.as_deref().unwrap_or_default()),
    };
    let mut case = TestCase::new(format!("{} {}", row.check.id, row.check.rule), status);
    case.set_classname(row.check.anchor);
    case
}

fn skipped(message: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::skipped();
    status.set_message(message);
    status
}
