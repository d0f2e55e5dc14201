//! What a run found: a row for each check, skips among them, and a verdict over what the backend
//! claims. A claim that nothing tried is no part of the verdict, and is named with the reason. `human`,
//! `json`, `junit` and `tap` are forms of it and add nothing.

pub mod human;
pub mod json;
pub mod junit;
pub mod tap;

use serde::Serialize;

use crate::catalogue::{CHECKS, Check, Claim, Force, Level};
use crate::expect::Expectations;
use crate::ledger::{Failure, Ledger};
use crate::standing::{self, Standing, Unproven};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    Pass,
    Fail,
    Skip,
    /// It fails, and that is known.
    ExpectedFail,
    /// It passes, and a failure was expected: the expectation is out of date.
    UnexpectedPass,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Skip => "skip",
            Self::ExpectedFail => "xfail",
            Self::UnexpectedPass => "XPASS",
        }
    }
}

/// What was found of one check.
#[derive(Clone, Debug)]
pub struct Row {
    pub check: &'static Check,
    pub status: Status,
    pub tried: usize,
    pub failures: Vec<Failure>,
    /// How often it failed; not each failure is told.
    pub failed: usize,
    /// Why it was skipped, or why a failure was expected.
    pub reason: Option<String>,
}

/// What was judged, and by what.
#[derive(Clone, Debug, Serialize)]
pub struct Provenance {
    pub component: String,
    pub component_sha256: String,
    pub component_bytes: usize,
    /// SHA-256 of the contract's text that the suite has.
    pub contract_sha256: String,
    pub suite_version: &'static str,
    /// SHA-256 of its checks: numbers, rules and how far they bind.
    pub catalogue_sha256: String,
    pub seed: u64,
    pub cases: u32,
    pub tier: &'static str,
    /// Where golden requests were found.
    pub golden: Option<String>,
}

/// What the component says it is; none where it was not loaded.
#[derive(Clone, Debug, Serialize)]
pub struct Identity {
    pub name: String,
    pub vendor: String,
    pub version: String,
    pub tee: String,
    pub protection: &'static str,
}

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A backend, to this level.
    Whole(Level),
    /// One kept request, which failed this check once.
    Replay(&'static Check),
}

impl Scope {
    fn level(self) -> Level {
        match self {
            Self::Whole(level) => level,
            Self::Replay(_) => Level::L3,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Report {
    pub scope: Scope,
    pub provenance: Provenance,
    pub backend: Option<Identity>,
    pub claims: Vec<Claim>,
    pub rows: Vec<Row>,
}

/// What is said about a whole backend, or about one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All MUST of what it claims hold.
    Conforms,
    /// The same, but for failures that are known.
    ConformsButForKnown,
    /// Nothing fails that is not known, and something that it claims was never tried.
    NotProven,
    /// A request that is run again shows no failure any more.
    NoLongerFails,
    Fails,
}

impl Report {
    /// Rows of all checks of `scope`; the others are skips.
    pub fn rows(
        ledger: &Ledger,
        scope: Scope,
        claims: &[Claim],
        expectations: &Expectations,
    ) -> Vec<Row> {
        let rows = CHECKS.iter().map(|check| {
            let mut row = row(ledger, check, scope, claims);
            if ledger.was_ended_by(check) {
                // What comes after it was not looked at, so it is not known what else would fail.
                row.reason = expectations
                    .reason(check.id)
                    .map(|_| "it ends the run, and is not expected away".to_owned());
            } else if let Some(reason) = expectations.reason(check.id) {
                row.status = match row.status {
                    Status::Fail => Status::ExpectedFail,
                    Status::Pass => Status::UnexpectedPass,
                    other => other,
                };
                if row.status != Status::Skip {
                    row.reason = Some(reason.to_owned());
                }
            }
            row
        });
        rows.collect()
    }

    pub fn verdict(&self) -> Verdict {
        let is_bad = |row: &Row| match row.status {
            Status::Fail => row.check.force == Force::Must,
            Status::UnexpectedPass => true,
            Status::Pass | Status::Skip | Status::ExpectedFail => false,
        };
        let is_known =
            |row: &Row| row.status == Status::ExpectedFail && row.check.force == Force::Must;
        if self.rows.iter().any(is_bad) {
            Verdict::Fails
        } else if let Scope::Replay(_) = self.scope {
            Verdict::NoLongerFails
        } else if !self.unproven().is_empty() {
            Verdict::NotProven
        } else if self.rows.iter().any(is_known) {
            Verdict::ConformsButForKnown
        } else {
            Verdict::Conforms
        }
    }

    fn standing(&self, claim: Claim) -> Standing {
        standing::of(claim, &self.rows, self.scope.level())
    }

    /// Claims of which nothing was tried, though their level was asked for.
    pub fn unproven(&self) -> Vec<Unproven> {
        if let Scope::Replay(_) = self.scope {
            return Vec::new();
        }
        let claims = self.claims.iter().copied();
        let unproven = claims.filter(|claim| self.standing(*claim) == Standing::NotProven);
        unproven.map(standing::unproven).collect()
    }

    pub fn count(&self, status: Status) -> usize {
        self.rows.iter().filter(|row| row.status == status).count()
    }

    /// Names of the claims that the verdict is over.
    fn judged(&self) -> String {
        let claims = self.claims.iter().copied();
        let judged = claims.filter(|claim| match self.standing(*claim) {
            Standing::Proven => true,
            Standing::NotProven => false,
            Standing::NotAsked => self
                .rows
                .iter()
                .any(|row| row.check.claim == *claim && row.status != Status::Skip),
        });
        let names: Vec<&str> = judged.map(Claim::as_str).collect();
        names.join(", ")
    }

    /// The claims that are not proven, with the reasons.
    fn left_open(&self) -> String {
        let unproven = self.unproven();
        let told = unproven
            .iter()
            .map(|one| format!("{} ({})", one.claim.as_str(), one.reason));
        told.collect::<Vec<_>>().join(", ")
    }

    /// One sentence over the claims.
    pub fn sentence(&self) -> String {
        let level = self.scope.level().as_str();
        let must = |row: &&Row| row.status == Status::Fail && row.check.force == Force::Must;
        let failed = self.rows.iter().filter(must).count();
        let unexpected = self.count(Status::UnexpectedPass);
        let known = match self.count(Status::ExpectedFail) {
            0 => String::new(),
            count => format!(", but for {count} known failures"),
        };
        let claims: Vec<&str> = self.claims.iter().map(|claim| claim.as_str()).collect();
        let claims = claims.join(", ");
        let judged = self.judged();
        match (self.verdict(), self.scope) {
            (Verdict::Fails, Scope::Replay(check)) => format!(
                "the kept request, which failed {}, shows {failed} failures",
                check.id
            ),
            (_, Scope::Replay(check)) => format!(
                "the kept request does not fail {} any more; nothing else is said about the backend",
                check.id
            ),
            (Verdict::Fails, _) if self.claims.is_empty() => {
                "it is no backend that can be loaded".to_owned()
            }
            (Verdict::Fails, _) => format!(
                "it does not conform to {level} in what it claims ({claims}): {failed} checks fail, \
                 {unexpected} pass unexpectedly"
            ),
            (Verdict::NotProven, _) if self.standing(Claim::Backend) == Standing::NotProven => {
                format!(
                    "it is not proven that it conforms to {level}: nothing fails{known}, and never tried is {}",
                    self.left_open()
                )
            }
            (Verdict::NotProven, _) => format!(
                "it conforms to {level} in {judged}{known}; it claims more, of which never tried is {}",
                self.left_open()
            ),
            (_, _) => format!("it conforms to {level} in what it claims{known}: {judged}"),
        }
    }
}

fn row(ledger: &Ledger, check: &'static Check, scope: Scope, claims: &[Claim]) -> Row {
    let level = scope.level();
    let entry = ledger.get(check).cloned().unwrap_or_default();
    let (status, reason) = if check.level > level {
        (
            Status::Skip,
            Some(format!("--level {} was asked for", level.as_str())),
        )
    } else if entry.failed > 0 {
        (Status::Fail, None)
    } else if !claims.is_empty() && !claims.contains(&check.claim) {
        (Status::Skip, Some(check.claim.missing().to_owned()))
    } else if let Some(why) = entry.skipped.filter(|_| entry.tried == 0) {
        (Status::Skip, Some(why))
    } else if entry.tried > 0 {
        (Status::Pass, None)
    } else if claims.is_empty() {
        (
            Status::Skip,
            Some("the component was not loaded".to_owned()),
        )
    } else if let Scope::Replay(_) = scope {
        (
            Status::Skip,
            Some("one kept request is run again, and it is not about this".to_owned()),
        )
    } else {
        (
            Status::Skip,
            Some("nothing came up that it judges".to_owned()),
        )
    };
    Row {
        check,
        status,
        tried: entry.tried,
        failures: entry.failures,
        failed: entry.failed,
        reason,
    }
}
