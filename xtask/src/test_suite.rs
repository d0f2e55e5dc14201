//! All tests of the workspace, with what they need prepared before.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::child::ProcessGroup;
use crate::failure::InStep;
use crate::run::Run;
use crate::{backends, cargo, setup};

/// Where the tests find components, guest and QEMU.
const ARTIFACTS_VARIABLE: &str = "CASEMATE_TEST_ARTIFACTS";
/// Tests that are interrupted get this long to end their processes themselves.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

pub fn run(run: &Run, arguments: &[OsString]) -> Result<ExitCode> {
    setup::for_a_guest(run)?;
    setup::newer_qemu(run)?;
    backends::build(run)?;
    run.report.heading("Tests");
    let started = Instant::now();
    let code = cargo_test(run, arguments).in_step(
        "running the tests",
        "start one test alone with `cargo xtask test -- <name>`",
    )?;
    run.report.note(&format!(
        "cargo test {} after {:.1} s",
        if code == 0 { "passed" } else { "failed" },
        started.elapsed().as_secs_f64()
    ));
    Ok(ExitCode::from(code))
}

/// Its output goes straight to the terminal: test results are for reading as they come.
fn cargo_test(run: &Run, arguments: &[OsString]) -> Result<u8> {
    run.interrupt.check()?;
    let mut command = cargo::command(run);
    command
        .args(["test", "--workspace"])
        .args(arguments)
        .env(ARTIFACTS_VARIABLE, run.layout.target());
    let mut tests = ProcessGroup::start(&mut command)?;
    loop {
        if let Some(status) = tests.poll()? {
            // A signal ended it where there is no code; that is a failure like any other.
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            return Ok(code.unwrap_or(1));
        }
        if let Err(interrupted) = run.interrupt.pause() {
            tests.stop(STOP_DEADLINE);
            return Err(interrupted.into());
        }
    }
}
