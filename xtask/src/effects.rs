//! Parts of the interfaces that are taken away, one at a time: `cargo xtask effects`.
//!
//! A test that does not miss a part when it is gone shows no effect of it. So each RPC, field, route,
//! parameter, flag and exit code in `tests/effects.toml` is muted (`tests/integration/src/mute.rs`),
//! and one of the tests that are named beside it has to fail. That the table has every part that
//! there is, is a test of every run.

mod table;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::child::{self, ProcessGroup};
use crate::failure::InStep;
use crate::run::Run;
use crate::{backends, setup, test_suite};
pub use table::Table;

/// Says to the tests what is muted.
pub const VARIABLE: &str = "CASEMATE_MUTE";
/// Begins a line of a test in which what is muted was there, and was taken away.
pub const TAKEN: &str = "casemate-mute: taken away:";
/// Whose panic is no failure of a test.
pub const PROXY_THREAD: &str = "casemate-mute";
/// With it everything passes through the proxy, and all of it.
const NOTHING: &str = "nothing:";

/// Tests wait for processes most of the time.
const WORKERS: usize = 2;
/// A test that takes longer has not failed: it waits for what is muted.
const PATIENCE: Duration = Duration::from_secs(240);
/// Tests that are stopped get this long to end their processes themselves.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How a program of Rust's tests says that one of them failed.
const EXIT_TESTS_FAILED: i32 = 101;

/// What it says once its one test is known.
const ONE_RAN: &str = "running 1 test\n";

/// How one test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Passed,
    /// There is no such test.
    Missing,
    /// And what is muted was taken away before.
    Failed,
    /// Of something else.
    FailedUnmuted,
    /// The proxy did.
    ProxyFailed,
    TimedOut,
}

impl Ending {
    fn of(code: Option<i32>, said: &str) -> Self {
        if said.contains(&format!("thread '{PROXY_THREAD}'")) {
            return Self::ProxyFailed;
        }
        match code {
            Some(0) if said.contains(ONE_RAN) => Self::Passed,
            Some(0) => Self::Missing,
            Some(EXIT_TESTS_FAILED) if said.contains(TAKEN) => Self::Failed,
            _ => Self::FailedUnmuted,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Passed => "passes all the same",
            Self::Missing => "does not exist",
            Self::Failed => "fails",
            Self::FailedUnmuted => "fails, but not because of it",
            Self::ProxyFailed => "could not be judged: the proxy failed",
            Self::TimedOut => "takes too long",
        }
    }
}

/// Mutes each chosen part and tells which of them no test misses.
pub fn run(run: &Run, only: Option<&str>) -> Result<ExitCode> {
    let table = Table::read(run.layout.workspace()).in_step(
        "reading the table of parts",
        "tests/effects.toml is described in xtask/src/effects/table.rs",
    )?;
    let chosen = chosen(&table, only)?;
    setup::for_a_guest(run)?;
    setup::for_the_tests(run)?;
    backends::build(run)?;
    run.report.heading("Effects");
    let program = test_suite::integration_tests(run)
        .in_step("building the tests", "see the compiler's message above")?;
    let tests = Tests { run, program };
    tests.pass_without(&chosen).in_step(
        "running the tests with nothing muted",
        "they have to pass first; CASEMATE_MUTE=nothing: is what they were run with",
    )?;
    let unmissed = tests.mute_each(&chosen)?;
    for (part, why) in &unmissed {
        run.report.note(&format!("{part}: {why}"));
    }
    run.report.note(&format!(
        "{} parts, {} missed by a test",
        chosen.len(),
        chosen.len() - unmissed.len()
    ));
    Ok(if unmissed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Parts with the names of their tests.
type Chosen<'table> = BTreeMap<&'table str, &'table [String]>;

fn chosen<'table>(table: &'table Table, only: Option<&str>) -> Result<Chosen<'table>> {
    let begins = |part: &str| only.is_none_or(|prefix| part.starts_with(prefix));
    let chosen: BTreeMap<_, _> = table.parts().filter(|(part, _)| begins(part)).collect();
    if chosen.is_empty() {
        bail!(
            "no part in tests/effects.toml begins with {:?}",
            only.unwrap_or_default()
        );
    }
    Ok(chosen)
}

/// The integration tests as a program.
#[derive(Debug)]
struct Tests<'run> {
    run: &'run Run,
    program: PathBuf,
}

impl Tests<'_> {
    fn pass_without(&self, chosen: &Chosen<'_>) -> Result<()> {
        let names: BTreeSet<&str> = chosen
            .values()
            .flat_map(|tests| tests.iter().map(String::as_str))
            .collect();
        let mut step = self.run.report.step("nothing is muted");
        step.progress("running the tests");
        let failed = self.each(names.iter().copied().collect(), |name| {
            let (ending, said) = self.one(name, NOTHING)?;
            Ok((ending != Ending::Passed).then(|| format!("{name} {}\n{said}", ending.words())))
        })?;
        if !failed.is_empty() {
            bail!("{}", failed.join("\n"));
        }
        step.done(&format!("{} tests pass", names.len()));
        Ok(())
    }

    /// The parts that no test misses, and how their tests ended.
    fn mute_each(&self, chosen: &Chosen<'_>) -> Result<BTreeMap<String, String>> {
        let parts: VecDeque<&str> = chosen.keys().copied().collect();
        let mut step = self.run.report.step("each part is muted");
        step.progress("running the tests");
        let unmissed = self.each(parts, |part| {
            let mut endings = Vec::new();
            for name in chosen[part] {
                let (ending, _) = self.one(name, part)?;
                if ending == Ending::Failed {
                    return Ok(None);
                }
                endings.push(format!("{name} {}", ending.words()));
            }
            Ok(Some((part.to_owned(), endings.join(", "))))
        })?;
        step.done(&format!("{} parts", chosen.len()));
        Ok(unmissed.into_iter().collect())
    }

    /// Some work for each of `items`, by several at once; what came of it where there is something.
    fn each<'item, T: Send>(
        &self,
        items: VecDeque<&'item str>,
        work: impl Fn(&'item str) -> Result<Option<T>> + Sync,
    ) -> Result<Vec<T>> {
        let items = Mutex::new(items);
        let next = || {
            items
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front()
        };
        let worker = || -> Result<Vec<T>> {
            let mut found = Vec::new();
            while let Some(item) = next() {
                self.run.interrupt.check()?;
                found.extend(work(item)?);
            }
            Ok(found)
        };
        let ended: Vec<Result<Vec<T>>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
            let ended = workers.into_iter().map(|worker| worker.join());
            ended
                .map(|ended| ended.unwrap_or_else(|_| bail!("a worker panicked")))
                .collect()
        });
        let mut all = Vec::new();
        for found in ended {
            all.extend(found?);
        }
        Ok(all)
    }

    /// One test with one part muted: how it ended, and what was said.
    fn one(&self, name: &str, part: &str) -> Result<(Ending, String)> {
        let name = name.strip_prefix("it ").unwrap_or(name);
        let mut output = tempfile::tempfile().context("cannot make a temporary file")?;
        let duplicate = || output.try_clone().context("cannot duplicate a file");
        let mut command = child::program(&self.program);
        command
            .args(["--exact", name])
            .current_dir(self.run.layout.integration_tests())
            .env(test_suite::ARTIFACTS_VARIABLE, self.run.layout.target())
            .env(VARIABLE, part)
            .stdout(duplicate()?)
            .stderr(duplicate()?);
        let mut test = ProcessGroup::start(&mut command)?;
        let ended = test.wait_at_most(PATIENCE);
        test.stop(STOP_DEADLINE);
        let mut said = Vec::new();
        output.rewind().context("cannot read a test's output")?;
        output
            .read_to_end(&mut said)
            .context("cannot read a test's output")?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let ending = match ended {
            Some(status) => Ending::of(status.code(), &said),
            None => Ending::TimedOut,
        };
        Ok((ending, said))
    }
}

/// Where the table is, in the workspace.
fn table_path(workspace: &Path) -> PathBuf {
    workspace.join("tests/effects.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_misses_a_part_only_when_it_was_there() {
        let taken = format!("{TAKEN} rpc:x");
        let passed = format!("{ONE_RAN}{taken}");
        let panicked = format!("{taken}\nthread '{PROXY_THREAD}' (7) panicked at mute.rs:1:1");
        for (code, said, wanted) in [
            (Some(0), passed.as_str(), Ending::Passed),
            (Some(0), "running 0 tests\n", Ending::Missing),
            (Some(101), &taken, Ending::Failed),
            (Some(101), "FAILED", Ending::FailedUnmuted),
            (None, &taken, Ending::FailedUnmuted),
            (Some(101), &panicked, Ending::ProxyFailed),
        ] {
            assert_eq!(Ending::of(code, said), wanted, "{said}");
        }
    }
}
