//! The long form of the test that creates and removes VMs: `cargo xtask endurance`.

use std::process::ExitCode;

use anyhow::Result;

use crate::run::Run;
use crate::{backends, setup, test_suite};

/// How many VMs the test makes and removes.
pub const VARIABLE: &str = "CASEMATE_TEST_CYCLES";
const TESTS: [&str; 2] = ["endurance::", "--nocapture"];

pub fn run(run: &Run, cycles: u32) -> Result<ExitCode> {
    setup::for_a_guest(run)?;
    backends::build(run)?;
    test_suite::suite(run, &TESTS, (VARIABLE, cycles.to_string().into()))
}
