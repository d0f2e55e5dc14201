//! The long form of the test that creates and removes VMs: `cargo xtask endurance`.

use std::process::ExitCode;

use anyhow::Result;

use crate::run::Run;
use crate::{backends, cargo, setup};

/// How many VMs the test makes and removes.
pub const VARIABLE: &str = "CASEMATE_TEST_CYCLES";
const TEST: [&str; 7] = [
    "test",
    "--workspace",
    "--test",
    "it",
    "--",
    "endurance::",
    "--nocapture",
];

pub fn run(run: &Run, cycles: u32) -> Result<ExitCode> {
    setup::for_a_guest(run)?;
    backends::build(run)?;
    let built = cargo::run_to_end(
        run,
        cargo::command(run).args(["build", "--workspace", "--bins"]),
    )?;
    if built != 0 {
        return Ok(ExitCode::from(built));
    }
    let mut command = cargo::command(run);
    command
        .args(TEST)
        .env(VARIABLE, cycles.to_string())
        .env("CASEMATE_TEST_ARTIFACTS", run.layout.target());
    cargo::run_to_end(run, &mut command).map(ExitCode::from)
}
