//! Suites by name: a part of all tests, without the rest of them.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::outcomes::Outcomes;
use super::{ARTIFACTS_VARIABLE, STOP_DEADLINE, SkippedPromise, read_lines, refuse};
use crate::child::ProcessGroup;
use crate::failure::InStep;
use crate::run::Run;
use crate::{backends, cargo, demo, setup};

/// The suites that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Only {
    /// Measurements against other implementations, with random requests
    Oracle,
    /// Policies as verifiers read them
    Policies,
    /// The first two commands of README.md: the demo is kept, and its VM is listed
    FirstScreen,
}

/// Tests of the integration, by the beginning of their names.
const ORACLE: [&str; 2] = ["measurement::oracle::", "measurement::igvm::"];

/// Prepares what the suite needs and runs it.
pub fn run_only(run: &Run, suite: Only, skipped: SkippedPromise) -> Result<ExitCode> {
    let code = match suite {
        Only::Oracle => {
            run.report.heading("Set-up");
            setup::for_the_tests(run)?;
            backends::build(run)?;
            oracle(run, skipped)?
        }
        Only::Policies => policies(run)?,
        Only::FirstScreen => {
            demo::first_screen(run)?;
            0
        }
    };
    Ok(ExitCode::from(code))
}

/// Each test says how many requests it compared, and that is shown.
fn oracle(run: &Run, skipped: SkippedPromise) -> Result<u8> {
    run.report.heading("Tests against other implementations");
    let mut command = cargo::command(run);
    command
        .args(["test", "--package", "casemate-integration", "--test", "it"])
        .args(["--", "--show-output"])
        .args(ORACLE)
        .env(ARTIFACTS_VARIABLE, run.layout.target())
        .env_remove("RUST_TEST_NOCAPTURE");
    let mut outcomes = Outcomes::default();
    let code = read_lines(run, &mut command, |line| {
        outcomes.read(line);
        writeln!(std::io::stdout(), "{line}").context("cannot print")
    })?;
    let reasons: Vec<String> = outcomes
        .skipped()
        .map(|(test, reason)| format!("{test} was skipped: {reason}"))
        .collect();
    if skipped == SkippedPromise::Fails {
        refuse(&reasons).in_step(
            "comparing with other implementations",
            "see to what those tests need, or accept it with `cargo xtask test --allow-skipped`",
        )?;
    }
    if code == 0 && outcomes.passed() == 0 {
        bail!("no test is called {} or {}", ORACLE[0], ORACLE[1]);
    }
    Ok(code)
}

/// Cargo's exit code of the package beside the workspace.
pub(super) fn policies(run: &Run) -> Result<u8> {
    run.report.heading("Tests of policies");
    let started = Instant::now();
    let mut command = cargo::command(run);
    command
        .args(["test", "--locked", "--manifest-path"])
        .arg(run.layout.policies_tests().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(run.layout.target());
    run.interrupt.check()?;
    let code = ProcessGroup::start(&mut command)?.exit_code(run, STOP_DEADLINE)?;
    run.report.note(&format!(
        "tests of policies {} after {:.1} s",
        if code == 0 { "passed" } else { "failed" },
        started.elapsed().as_secs_f64()
    ));
    Ok(code)
}
