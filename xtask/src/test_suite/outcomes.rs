//! What became of each test, read from the output of the test programs as it comes.
//!
//! They are run with `--show-output`, so that what a test that passed said is there too: a test that
//! cannot run on a machine says `skipped: ` with the reason, and passes. That part of the output is
//! read and not shown, since it names every test a second time.

use std::collections::BTreeMap;

/// How a test that cannot be run here begins to say so.
const SKIPPED: &str = "skipped: ";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Passed,
    Ignored,
    /// All of it or a part, with its own words.
    Skipped(String),
    /// Or something that no test program is known to say.
    Failed,
}

/// Reads line by line.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    tests: BTreeMap<String, Outcome>,
    section: Section,
}

#[derive(Debug, Default)]
enum Section {
    #[default]
    Results,
    /// What tests that passed said: the test of the lines to come.
    Said(Option<String>),
}

impl Outcomes {
    pub(super) fn of(&self, test: &str) -> Option<&Outcome> {
        self.tests.get(test)
    }

    /// How many tests ran to a good end.
    pub(super) fn passed(&self) -> usize {
        let passed = |outcome: &&Outcome| **outcome == Outcome::Passed;
        self.tests.values().filter(passed).count()
    }

    /// Tests that skipped themselves, with their reasons.
    pub(super) fn skipped(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tests
            .iter()
            .filter_map(|(test, outcome)| match outcome {
                Outcome::Skipped(reason) => Some((test.as_str(), reason.as_str())),
                _ => None,
            })
    }

    pub(super) fn failed(&self) -> impl Iterator<Item = &str> {
        let failed = |(_, outcome): &(_, &Outcome)| **outcome == Outcome::Failed;
        self.tests
            .iter()
            .filter(failed)
            .map(|(test, _)| test.as_str())
    }

    /// Takes a line in; whether it is to be shown.
    pub(super) fn read(&mut self, line: &str) -> bool {
        let line = without_colours(line);
        let line = line.trim_end();
        match &mut self.section {
            Section::Results if line == "successes:" => self.section = Section::Said(None),
            Section::Results => {
                if let Some((test, outcome)) = result(line) {
                    self.add(test, outcome);
                }
                return true;
            }
            Section::Said(_) if line == "failures:" || line.starts_with("test result: ") => {
                self.section = Section::Results;
                return true;
            }
            Section::Said(test) => {
                let title = line.strip_prefix("---- ");
                if let Some(title) = title.and_then(|title| title.strip_suffix(" stdout ----")) {
                    *test = Some(title.to_owned());
                } else if let (Some(reason), Some(test)) = (line.strip_prefix(SKIPPED), test) {
                    let test = test.clone();
                    self.add(&test, Outcome::Skipped(reason.to_owned()));
                }
            }
        }
        false
    }

    /// The worst counts, so that two programs with a test of one name hide nothing.
    fn add(&mut self, test: &str, outcome: Outcome) {
        let known = self.tests.entry(test.to_owned());
        let known = known.or_insert_with(|| outcome.clone());
        if outcome > *known {
            *known = outcome;
        }
    }
}

/// `test NAME ... ok`. A test that takes long is told of by a line without dots.
fn result(line: &str) -> Option<(&str, Outcome)> {
    let (test, word) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let outcome = match word {
        "ok" => Outcome::Passed,
        word if word == "ignored" || word.starts_with("ignored, ") => Outcome::Ignored,
        _ => Outcome::Failed,
    };
    Some((test.trim_end_matches(" - should panic"), outcome))
}

/// Without the sequences that a terminal takes for colours: `ESC [ … letter` and `ESC ( B`.
fn without_colours(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        if letter != '\x1b' {
            plain.push(letter);
        } else if letters.next() == Some('[') {
            letters.by_ref().find(char::is_ascii_alphabetic);
        } else {
            letters.next();
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 5 tests
test boot::it_boots ... ok
test boot::it_takes_long has been running for over 60 seconds
test confine::serve ... ignored, no test: the process that other tests start
test guard::sealed ... \x1b[32mok\x1b(B\x1b[m
test boot::it_takes_long ... ok
test disk::full ... FAILED

successes:

---- boot::it_boots stdout ----
test of its own ... words
skipping nothing

---- guard::sealed stdout ----
begun
skipped: /dev/kvm cannot be opened: no such file


successes:
    boot::it_boots
    guard::sealed

failures:

---- disk::full stdout ----
thread panicked

failures:
    disk::full

test result: FAILED. 3 passed; 1 failed; 1 ignored

running 1 test
test again ... ok

successes:

successes:
    again

test result: ok. 1 passed; 0 failed";

    fn outcomes(output: &str) -> (Outcomes, Vec<&str>) {
        let mut outcomes = Outcomes::default();
        let shown = output.lines().filter(|line| outcomes.read(line)).collect();
        (outcomes, shown)
    }

    #[test]
    fn what_ran_is_told_from_what_did_not() {
        let (outcomes, _) = outcomes(OUTPUT);
        let reason = "/dev/kvm cannot be opened: no such file";
        for (test, outcome) in [
            ("boot::it_boots", Some(Outcome::Passed)),
            ("boot::it_takes_long", Some(Outcome::Passed)),
            ("confine::serve", Some(Outcome::Ignored)),
            ("guard::sealed", Some(Outcome::Skipped(reason.to_owned()))),
            ("disk::full", Some(Outcome::Failed)),
            ("again", Some(Outcome::Passed)),
            ("of its own", None),
            ("boot::it", None),
        ] {
            assert_eq!(outcomes.of(test), outcome.as_ref(), "{test}");
        }
        let skipped: Vec<_> = outcomes.skipped().collect();
        assert_eq!(skipped, [("guard::sealed", reason)]);
        assert_eq!(outcomes.failed().collect::<Vec<_>>(), ["disk::full"]);
    }

    #[test]
    fn what_tests_that_passed_said_is_not_shown() {
        let (_, shown) = outcomes(OUTPUT);
        for line in [
            "test boot::it_boots ... ok",
            "thread panicked",
            "    disk::full",
            "test result: ok. 1 passed; 0 failed",
        ] {
            assert!(shown.contains(&line), "{line}");
        }
        for line in ["successes:", "begun", "    guard::sealed", "    again"] {
            assert!(!shown.contains(&line), "{line}");
        }
    }

    #[test]
    fn of_two_tests_of_one_name_the_worse_counts() {
        let (outcomes, _) = outcomes("test a ... ignored\ntest a ... ok");
        assert_eq!(outcomes.of("a"), Some(&Outcome::Ignored));
    }
}
