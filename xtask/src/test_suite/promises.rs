//! The table of promises in `tests/README.md`: every test that it names exists, and ran.
//!
//! A row is `| promise | what holds it |`, and the second cell is made of parts with `; ` between:
//! tests with `, ` between, each a program and a full name (`` `it boot::it_boots` ``), and behind it
//! in brackets the suite that runs it where `cargo xtask test` does not; `in part: ` and what no test
//! holds; `not built yet: ` and what has to come first.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use super::listing::Listing;
use super::outcomes::{Outcome, Outcomes};

/// The heading above the table.
const HEADING: &str = "## Promises";
const HEADER: [&str; 2] = ["| promise | held by |", "|---|---|"];
/// What runs tests that skip themselves elsewhere: `cargo xtask systemd` and so on.
const SUITES: [&str; 2] = ["systemd", "system-vm"];

#[derive(Debug, PartialEq, Eq)]
struct NamedTest {
    program: String,
    name: String,
    suite: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Promise {
    text: String,
    tests: Vec<NamedTest>,
    /// What of it no test holds.
    gap: Option<String>,
    /// What has to be built for the rest of it.
    waits_for: Option<String>,
}

#[derive(Debug)]
pub(super) struct Promises(Vec<Promise>);

impl Promises {
    /// Out of the document.
    pub(super) fn parse(document: &str) -> Result<Self> {
        let mut lines = document.lines().skip_while(|line| *line != HEADING);
        lines
            .next()
            .with_context(|| format!("there is no \"{HEADING}\""))?;
        let mut table = lines
            .skip_while(|line| !line.starts_with('|'))
            .take_while(|line| line.starts_with('|'));
        for wanted in HEADER {
            let found = table.next().unwrap_or_default();
            ensure!(found == wanted, "{wanted:?} is wanted, and {found:?} found");
        }
        let promises: Result<Vec<_>> = table
            .map(|line| row(line).with_context(|| format!("the row {line:?}")))
            .collect();
        let promises = promises?;
        ensure!(!promises.is_empty(), "there is no promise in the table");
        Ok(Self(promises))
    }

    fn tests(&self) -> impl Iterator<Item = &NamedTest> {
        self.0.iter().flat_map(|promise| &promise.tests)
    }

    /// Tests that are named and are not there, or can be mistaken for others.
    pub(super) fn missing(&self, listing: &Listing) -> Vec<String> {
        let complaint = |test: &NamedTest| {
            let NamedTest { program, name, .. } = test;
            let why = match listing.programs(name) {
                [only] if only == program && listing.is_ignored(name) => "is ignored".to_owned(),
                [only] if only == program => return None,
                [] => "does not exist".to_owned(),
                found => format!("is one of {}: its name is to be its own", found.join(", ")),
            };
            Some(format!("`{program} {name}` {why}"))
        };
        self.tests().filter_map(complaint).collect()
    }

    /// Tests that are named and did not pass in a whole run.
    pub(super) fn unheld(&self, outcomes: &Outcomes) -> Vec<String> {
        let complaint = |test: &NamedTest| {
            let why = match outcomes.of(&test.name) {
                Some(Outcome::Passed) => return None,
                None => "did not run".to_owned(),
                Some(Outcome::Ignored) => "is ignored".to_owned(),
                Some(Outcome::Skipped(reason)) => format!("was skipped: {reason}"),
                Some(Outcome::Failed) => "failed".to_owned(),
            };
            Some(format!("`{} {}` {why}", test.program, test.name))
        };
        let own = self.tests().filter(|test| test.suite.is_none());
        own.filter_map(complaint).collect()
    }

    /// How many there are, and each that is not held, so that none is forgotten.
    pub(super) fn summary(&self) -> Vec<String> {
        let mut suites: BTreeMap<&str, usize> = BTreeMap::new();
        for suite in self.tests().filter_map(|test| test.suite.as_deref()) {
            *suites.entry(suite).or_default() += 1;
        }
        let with_tests = self.0.iter().filter(|promise| !promise.tests.is_empty());
        let tests = self.tests().count();
        let mut lines = vec![format!(
            "{} promises; {tests} times a test holds one of {}",
            self.0.len(),
            with_tests.count()
        )];
        for (suite, count) in suites {
            lines.push(format!(
                "{count} of these tests by `cargo xtask {suite}` alone"
            ));
        }
        for Promise { text, gap, .. } in &self.0 {
            if let Some(gap) = gap {
                lines.push(format!("held in part: {text} Without a test: {gap}"));
            }
        }
        for promise in &self.0 {
            if let Some(area) = &promise.waits_for {
                lines.push(format!("not built yet ({area}): {}", promise.text));
            }
        }
        lines
    }
}

fn row(line: &str) -> Result<Promise> {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let ["", text, holders, ""] = cells[..] else {
        bail!("it has not two cells");
    };
    ensure!(!text.is_empty(), "it promises nothing");
    let mut promise = Promise {
        text: text.to_owned(),
        tests: Vec::new(),
        gap: None,
        waits_for: None,
    };
    for part in holders.split("; ") {
        if let Some(gap) = part.strip_prefix("in part: ") {
            ensure!(promise.gap.is_none(), "it is twice \"in part\"");
            promise.gap = Some(gap.to_owned());
        } else if let Some(area) = part.strip_prefix("not built yet: ") {
            ensure!(promise.waits_for.is_none(), "it is twice \"not built yet\"");
            promise.waits_for = Some(area.to_owned());
        } else {
            for test in part.split(", ") {
                promise.tests.push(named_test(test)?);
            }
        }
    }
    ensure!(
        !promise.tests.is_empty() || promise.waits_for.is_some(),
        "it has no test"
    );
    Ok(promise)
}

fn named_test(text: &str) -> Result<NamedTest> {
    let what = || format!("{text:?} is no test, such as `it boot::it_boots`");
    let rest = text.strip_prefix('`').with_context(what)?;
    let (name, rest) = rest.split_once('`').with_context(what)?;
    let (program, name) = name.split_once(' ').with_context(what)?;
    let is_word = |word: &str| !word.is_empty() && !word.contains([' ', '(', ')']);
    ensure!(is_word(program) && is_word(name), what());
    let suite = match rest {
        "" => None,
        rest => {
            let suite = rest
                .strip_prefix(" (")
                .and_then(|rest| rest.strip_suffix(')'));
            let suite = suite.with_context(what)?;
            ensure!(SUITES.contains(&suite), "{suite:?} is no suite");
            Some(suite.to_owned())
        }
    };
    Ok(NamedTest {
        program: program.to_owned(),
        name: name.to_owned(),
        suite,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "# Tests

| promise | held by |
|---|---|
| Another table. | nobody |

## Promises

Words.

| promise | held by |
|---|---|
| A guest boots. | `it boot::it_boots`, `casemate_host vm::tests::one` |
| VMs stay. | `it systemd::stay` (systemd), `it gone::away`; in part: nobody tries a flood |
| It is measured. | not built yet: measurement |
| It is refused. | `it boot::refused`; not built yet: the rest |

| promise | held by |
";

    fn promises() -> Promises {
        Promises::parse(DOCUMENT).unwrap()
    }

    #[test]
    fn the_table_is_read_by_its_heading() {
        let promises = promises();
        let texts: Vec<&str> = promises.0.iter().map(|row| row.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "A guest boots.",
                "VMs stay.",
                "It is measured.",
                "It is refused."
            ]
        );
        let test = |program: &str, name: &str, suite: Option<&str>| NamedTest {
            program: program.to_owned(),
            name: name.to_owned(),
            suite: suite.map(str::to_owned),
        };
        assert_eq!(
            promises.tests().collect::<Vec<_>>(),
            [
                &test("it", "boot::it_boots", None),
                &test("casemate_host", "vm::tests::one", None),
                &test("it", "systemd::stay", Some("systemd")),
                &test("it", "gone::away", None),
                &test("it", "boot::refused", None),
            ]
        );
        let said = promises.summary().join("\n");
        for part in [
            "4 promises; 5 times a test holds one of 3",
            "1 of these tests by `cargo xtask systemd`",
            "held in part: VMs stay. Without a test: nobody tries a flood",
            "not built yet (measurement): It is measured.",
            "not built yet (the rest): It is refused.",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
    }

    #[test]
    fn the_table_of_this_tree_can_be_read() {
        let document = include_str!("../../../tests/README.md");
        let promises = Promises::parse(document).expect("the document beside the tests");
        assert!(promises.tests().count() > 50);
    }

    #[test]
    fn a_table_that_says_something_else_is_refused() {
        for (from, to) in [
            ("## Promises", "## Promise"),
            ("| A guest boots. |", "|  |"),
            ("not built yet: measurement", "to be done"),
            ("not built yet: measurement", "in part: all of it"),
            ("not built yet: measurement", ""),
            ("`it gone::away`", "it gone::away"),
            ("`it gone::away`", "`gone::away`"),
            ("`it gone::away`", "`it  gone::away`"),
            ("`it gone::away`", "`it gone::away()`"),
            ("(systemd)", "(upstart)"),
            ("(systemd)", "systemd"),
            ("; in part: nobody", "; in part: a; in part: nobody"),
            (
                "| nobody |\n\n## Promises\n",
                "| nobody |\n## Promises\n| a | b |\n",
            ),
        ] {
            assert!(DOCUMENT.contains(from), "{from}");
            let spoilt = DOCUMENT.replace(from, to);
            assert!(Promises::parse(&spoilt).is_err(), "{from} as {to}");
        }
    }

    #[test]
    fn a_named_test_exists_once_and_is_not_ignored() {
        let mut listing = Listing::default();
        let there = "boot::it_boots: test\nboot::refused: test\nsystemd::stay: test\n\
                     gone::away: test\n";
        listing.add("it", there, "");
        listing.add("casemate_host", "vm::tests::one: test\n", "");
        assert_eq!(promises().missing(&listing), [""; 0]);

        listing.add("launcher", "boot::refused: test\n", "gone::away: test\n");
        assert_eq!(
            promises().missing(&listing),
            [
                "`it gone::away` is ignored",
                "`it boot::refused` is one of it, launcher: its name is to be its own",
            ]
        );
        let mut listing = Listing::default();
        let there = there.replace("systemd::stay: test\n", "");
        listing.add("it", &there, "");
        listing.add("cli", "vm::tests::one: test\n", "");
        assert_eq!(
            promises().missing(&listing),
            [
                "`casemate_host vm::tests::one` is one of cli: its name is to be its own",
                "`it systemd::stay` does not exist",
            ]
        );
    }

    #[test]
    fn a_named_test_ran_or_the_promise_is_not_held() {
        let outcomes = |output: &str| {
            let mut outcomes = Outcomes::default();
            for line in output.lines() {
                outcomes.read(line);
            }
            outcomes
        };
        let all = "test boot::it_boots ... ok\ntest vm::tests::one ... ok\n\
                   test gone::away ... ok\ntest boot::refused ... ok\n";
        let skipped = "successes:\n---- gone::away stdout ----\nskipped: no network\n";
        // That of another suite may be missing.
        assert_eq!(promises().unheld(&outcomes(all)), [""; 0]);
        for (output, complaint) in [
            (all.replace("test gone::away ... ok\n", ""), "did not run"),
            (all.replace("away ... ok", "away ... ignored"), "is ignored"),
            (all.replace("away ... ok", "away ... FAILED"), "failed"),
            (format!("{all}{skipped}"), "was skipped: no network"),
        ] {
            let complaints = promises().unheld(&outcomes(&output));
            assert_eq!(complaints, [format!("`it gone::away` {complaint}")]);
        }
    }
}
