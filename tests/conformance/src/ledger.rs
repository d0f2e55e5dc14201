//! What was seen of each check: how often it was tried, what failed, or why it was skipped.

use std::collections::BTreeMap;

use crate::catalogue::Check;
use crate::draft::Draft;

/// Failures of one check that are told. They are mostly the same one again.
const TOLD_FAILURES: usize = 3;

/// One way in which a check failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// What was done, what was wrong, and what is wanted.
    pub detail: String,
    /// The request that shows it.
    pub draft: Option<Box<Draft>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    pub tried: usize,
    /// The first of them.
    pub failures: Vec<Failure>,
    pub failed: usize,
    pub skipped: Option<String>,
}

/// By the number of the check.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: BTreeMap<&'static str, Entry>,
    /// Checks whose failure ended the run.
    ended_by: Vec<&'static str>,
}

impl Ledger {
    fn entry(&mut self, check: &'static Check) -> &mut Entry {
        self.entries.entry(check.id).or_default()
    }

    pub fn tried(&mut self, check: &'static Check) {
        self.entry(check).tried += 1;
    }

    pub fn fail(
        &mut self,
        check: &'static Check,
        detail: impl Into<String>,
        draft: Option<&Draft>,
    ) {
        let entry = self.entry(check);
        entry.tried = entry.tried.max(1);
        entry.failed += 1;
        let failure = Failure {
            detail: detail.into(),
            draft: draft.cloned().map(Box::new),
        };
        let is_new = !entry
            .failures
            .iter()
            .any(|one| one.detail == failure.detail);
        if is_new && entry.failures.len() < TOLD_FAILURES {
            entry.failures.push(failure);
        }
    }

    /// It was tried once; `problem` is what is wrong, if anything.
    pub fn judge(
        &mut self,
        check: &'static Check,
        problem: Option<impl Into<String>>,
        draft: Option<&Draft>,
    ) {
        self.tried(check);
        if let Some(problem) = problem {
            self.fail(check, problem, draft);
        }
    }

    pub fn skip(&mut self, check: &'static Check, why: impl Into<String>) {
        let entry = self.entry(check);
        if entry.skipped.is_none() {
            entry.skipped = Some(why.into());
        }
    }

    /// Nothing more can be tried once `check` failed.
    pub fn end(&mut self, check: &'static Check) {
        self.ended_by.push(check.id);
    }

    /// Whether `check` failed and ended the run by that.
    pub fn was_ended_by(&self, check: &'static Check) -> bool {
        self.has_failed(check) && self.ended_by.contains(&check.id)
    }

    pub fn get(&self, check: &'static Check) -> Option<&Entry> {
        self.entries.get(check.id)
    }

    pub fn has_failed(&self, check: &'static Check) -> bool {
        self.get(check).is_some_and(|entry| entry.failed > 0)
    }

    /// Numbers of the checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &'static str> {
        let entries = self.entries.iter();
        entries
            .filter(|(_, entry)| entry.failed > 0)
            .map(|(id, _)| *id)
    }
}
