//! What was found wrong over the whole run, and which calls a living daemon refused.

use std::collections::{BTreeMap, BTreeSet};

use tonic::Status;

use super::check::{Kind, Problem};

/// Each thing counts once, however often it is found.
#[derive(Debug, Default)]
pub(super) struct Tally {
    found: BTreeSet<(Kind, String)>,
}

impl Tally {
    /// Whether it was not known yet.
    pub(super) fn take(&mut self, problem: &Problem) -> bool {
        self.found.insert((problem.kind, problem.subject.clone()))
    }

    fn count(&self, kind: Kind) -> usize {
        self.found
            .iter()
            .filter(|(found, _)| *found == kind)
            .count()
    }

    pub(super) fn is_clean(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn line(&self, rounds: u32) -> String {
        format!(
            "chaos: {rounds} rounds, {} lost, {} doubled, {} orphaned",
            self.count(Kind::Lost),
            self.count(Kind::Doubled),
            self.count(Kind::Orphaned)
        )
    }
}

/// Calls that were answered with an error, with their first words.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    counts: BTreeMap<(&'static str, String), u32>,
}

/// Enough of a message to tell one cause from another, without ids and ports in it.
const WORDS: usize = 90;

impl Refusals {
    pub(super) fn count(&mut self, verb: &'static str, status: &Status) {
        let first_line = status.message().lines().next().unwrap_or_default();
        let words: String = first_line
            .chars()
            .map(|c| if c.is_ascii_digit() { '#' } else { c })
            .take(WORDS)
            .collect();
        let what = format!("{}: {words}", status.code());
        *self.counts.entry((verb, what)).or_default() += 1;
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let counts = self.counts.iter();
        counts
            .map(|((verb, what), count)| format!("{count:>4} {verb}: {what}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: Kind, subject: &str) -> Problem {
        Problem {
            kind,
            subject: subject.to_owned(),
            text: String::new(),
        }
    }

    #[test]
    fn a_thing_counts_once_for_each_kind() {
        let mut tally = Tally::default();
        assert!(tally.is_clean());
        assert_eq!(
            tally.line(3),
            "chaos: 3 rounds, 0 lost, 0 doubled, 0 orphaned"
        );
        assert!(tally.take(&problem(Kind::Lost, "a")));
        assert!(!tally.take(&problem(Kind::Lost, "a")));
        assert!(tally.take(&problem(Kind::Doubled, "a")));
        assert!(tally.take(&problem(Kind::Orphaned, "port 1")));
        assert!(tally.take(&problem(Kind::Orphaned, "port 2")));
        assert_eq!(
            tally.line(3),
            "chaos: 3 rounds, 1 lost, 1 doubled, 2 orphaned"
        );
        assert!(!tally.is_clean());
    }

    #[test]
    fn the_same_refusal_is_one_line() {
        let mut refusals = Refusals::default();
        for port in [6100, 6101] {
            let status = Status::aborted(format!("port {port} is taken\nmore"));
            refusals.count("create", &status);
        }
        let lines = refusals.lines();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("   2 create: "));
        assert!(lines[0].ends_with("port #### is taken"));
    }
}
