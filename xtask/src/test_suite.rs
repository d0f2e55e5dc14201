//! All tests of the workspace, with what they need prepared before, and held against the table of
//! promises in `tests/README.md`; then those of packages that are no members of it.

mod listing;
mod only;
mod outcomes;
mod promises;

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::child::ProcessGroup;
use crate::failure::InStep;
use crate::run::Run;
use crate::{backends, cargo, chaos, demo, setup};
use listing::{Listing, TestProgram};
use outcomes::Outcomes;
use promises::Promises;

pub use only::{Only, run_only};

/// Where the tests find components, guest and QEMU.
pub(crate) const ARTIFACTS_VARIABLE: &str = "CASEMATE_TEST_ARTIFACTS";
/// Tests that are interrupted get this long to end their processes themselves.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How often a program that says nothing is looked after.
const LOOK: Duration = Duration::from_millis(100);
/// What a program said is read to the end, unless somebody that it left behind holds its output.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Most tests wait for a guest or a deadline most of the time.
const THREADS_VARIABLE: &str = "RUST_TEST_THREADS";
const THREADS_PER_CORE: usize = 3;
/// What is run one after the other: what takes seconds first, so that nobody waits for what it finds.
/// A failure keeps none of the others from running: one run tells all that fails.
const PARTS: [&[&str]; 3] = [&["--lib", "--bins"], &["--test", "*"], &["--doc"]];
/// Each failpoint once, and as many deaths at random times.
const SHORT_CHAOS: chaos::Options = chaos::Options {
    rounds: 16,
    seed: None,
    vms: 6,
    qemu: chaos::Qemu::Fake,
};

/// What becomes of a run in which a test that holds a promise cannot run on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkippedPromise {
    Fails,
    Told,
}

pub fn run(run: &Run, arguments: &[OsString], skipped: SkippedPromise) -> Result<ExitCode> {
    setup::for_a_guest(run)?;
    setup::for_the_tests(run)?;
    backends::build(run)?;
    run.report.heading("Tests");
    let promises = read_promises(run).in_step(
        "reading the table of promises",
        "its rows are described in xtask/src/test_suite/promises.rs",
    )?;
    let programs = match build(run)? {
        Built::Programs(programs) => programs,
        Built::Failed(code) => return Ok(ExitCode::from(code)),
    };
    let listing = Listing::ask(run, &programs)?;
    refuse(&promises.missing(&listing)).in_step(
        "looking for the tests that tests/README.md names",
        "correct their names there, or write them",
    )?;
    let started = Instant::now();
    let tests = if arguments.is_empty() {
        whole(run)
    } else {
        some(run, arguments)
    };
    let (code, outcomes) = tests.in_step(
        "running the tests",
        "start one test alone with `cargo xtask test -- <name>`",
    )?;
    run.report.note(&format!(
        "cargo test {} after {:.1} s",
        if code == 0 { "passed" } else { "failed" },
        started.elapsed().as_secs_f64()
    ));
    if let Some(outcomes) = outcomes {
        judge(run, &promises, &outcomes, code, skipped)?;
        if code == 0 {
            let policies = only::policies(run)?;
            if policies != 0 {
                return Ok(ExitCode::from(policies));
            }
            demo::first_screen(run)?;
            return chaos::run(run, SHORT_CHAOS);
        }
    }
    Ok(ExitCode::from(code))
}

/// A suite that a whole run leaves out, for it is long or needs a host of its own: it looks for
/// `variable`, and is skipped without it. `tests` is what the integration tests are told.
pub fn suite(run: &Run, tests: &[&str], variable: (&str, OsString)) -> Result<ExitCode> {
    // A test of one package builds no programs of the others.
    let mut build = cargo::command(run);
    build.args(["build", "--workspace", "--bins"]);
    let built = ProcessGroup::start(&mut build)?.exit_code(run, STOP_DEADLINE)?;
    if built != 0 {
        return Ok(ExitCode::from(built));
    }
    let mut command = test_command(run);
    command
        .args(["--test", "it", "--"])
        .args(tests)
        .env(variable.0, variable.1);
    let tests = ProcessGroup::start(&mut command)?;
    tests.exit_code(run, STOP_DEADLINE).map(ExitCode::from)
}

fn read_promises(run: &Run) -> Result<Promises> {
    let path = run.layout.tests_readme();
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Promises::parse(&text)
}

fn refuse(complaints: &[String]) -> Result<()> {
    if complaints.is_empty() {
        Ok(())
    } else {
        bail!("{}", complaints.join("\n"))
    }
}

/// Says what is promised, what of it is not held, and fails where a test of it did not run.
fn judge(
    run: &Run,
    promises: &Promises,
    outcomes: &Outcomes,
    code: u8,
    skipped: SkippedPromise,
) -> Result<()> {
    for (test, reason) in outcomes.skipped() {
        run.report.note(&format!("{test} was skipped: {reason}"));
    }
    for line in promises.summary() {
        run.report.note(&line);
    }
    if code != 0 {
        // Last, for the end of a long output is what is read.
        for test in outcomes.failed() {
            run.report.note(&format!("failed: {test}"));
        }
        return Ok(());
    }
    let unheld = refuse(&promises.unheld(outcomes)).in_step(
        "holding the promises of tests/README.md",
        "see to what those tests need, or accept it with `cargo xtask test --allow-skipped`",
    );
    match (unheld, skipped) {
        (Err(error), SkippedPromise::Told) => {
            let text = error.chain().map(ToString::to_string);
            let text = text.collect::<Vec<_>>().join("\n");
            run.report.quote(&text);
            Ok(())
        }
        (unheld, _) => unheld,
    }
}

enum Built {
    Programs(Vec<TestProgram>),
    /// Cargo's exit code, after it said why.
    Failed(u8),
}

/// Builds the tests; Cargo's own words go straight to the terminal.
fn build(run: &Run) -> Result<Built> {
    let mut command = cargo::command(run);
    command.args(["test", "--workspace", "--no-run"]);
    command.arg("--message-format=json-render-diagnostics");
    let mut programs = Vec::new();
    let code = read_lines(run, &mut command, |line| {
        programs.extend(listing::program_in(line)?);
        Ok(())
    })?;
    Ok(match code {
        0 => Built::Programs(programs),
        code => Built::Failed(code),
    })
}

/// The integration tests as a program, with all that they start built beside it.
pub(crate) fn integration_tests(run: &Run) -> Result<PathBuf> {
    let programs = match build(run)? {
        Built::Programs(programs) => programs,
        Built::Failed(code) => bail!("cargo test --no-run ended with exit code {code}"),
    };
    let manifest = run.layout.integration_tests().join("Cargo.toml");
    programs
        .into_iter()
        .find(|program| program.manifest == manifest && program.target() == "it")
        .map(|program| program.path)
        .with_context(|| format!("cargo built no test program of {}", manifest.display()))
}

/// All tests: what becomes of each is read on its way to the terminal.
fn whole(run: &Run) -> Result<(u8, Option<Outcomes>)> {
    let mut outcomes = Outcomes::default();
    let mut first_failure = 0;
    for part in PARTS {
        let code = read_part(run, part, &mut outcomes)?;
        if first_failure == 0 {
            first_failure = code;
        }
    }
    Ok((first_failure, Some(outcomes)))
}

fn read_part(run: &Run, part: &[&str], outcomes: &mut Outcomes) -> Result<u8> {
    let mut command = test_command(run);
    command.arg("--no-fail-fast");
    command.args(part).args(["--", "--show-output"]);
    if std::io::stdout().is_terminal() {
        command.args(["--color", "always"]);
    }
    // With it nobody could say which test said what.
    command.env_remove("RUST_TEST_NOCAPTURE");
    read_lines(run, &mut command, |line| {
        if outcomes.read(line) {
            let mut terminal = std::io::stdout();
            writeln!(terminal, "{line}").context("cannot print")?;
        }
        Ok(())
    })
}

/// What the caller chose; the output goes straight to the terminal.
fn some(run: &Run, arguments: &[OsString]) -> Result<(u8, Option<Outcomes>)> {
    run.interrupt.check()?;
    let mut command = test_command(run);
    command.args(arguments);
    let tests = ProcessGroup::start(&mut command)?;
    Ok((tests.exit_code(run, STOP_DEADLINE)?, None))
}

fn test_command(run: &Run) -> Command {
    let mut command = cargo::command(run);
    command
        .args(["test", "--workspace"])
        .env(ARTIFACTS_VARIABLE, run.layout.target());
    if std::env::var_os(THREADS_VARIABLE).is_none() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        command.env(THREADS_VARIABLE, (cores * THREADS_PER_CORE).to_string());
    }
    command
}

/// Runs a program with each line of its standard output given to `on_line`; its exit code.
fn read_lines(
    run: &Run,
    command: &mut Command,
    mut on_line: impl FnMut(&str) -> Result<()>,
) -> Result<u8> {
    run.interrupt.check()?;
    let mut program = ProcessGroup::start(command.stdout(Stdio::piped()))?;
    let output = program.take_stdout().context("a program without output")?;
    let (sender, lines) = mpsc::channel();
    // It ends with the output, or when nobody listens any more.
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut ended = None;
    loop {
        match lines.recv_timeout(LOOK) {
            Ok(line) => on_line(&line)?,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                if program.poll()?.is_some()
                    && ended.get_or_insert_with(Instant::now).elapsed() > LAST_WORDS
                {
                    break;
                }
            }
        }
        if let Err(interrupted) = run.interrupt.check() {
            program.stop(STOP_DEADLINE);
            return Err(interrupted.into());
        }
    }
    program.exit_code(run, STOP_DEADLINE)
}
