//! The long form of the tests that create and remove VMs and that replace backends: `cargo xtask
//! endurance`.

use std::process::ExitCode;

use anyhow::Result;

use crate::run::Run;
use crate::{backends, setup, test_suite};

/// How many VMs the test makes and removes.
pub const VARIABLE: &str = "CASEMATE_TEST_CYCLES";
/// How often the test of reloads replaces a backend.
pub const RELOADS: &str = "CASEMATE_TEST_RELOADS";
const TESTS: [&str; 2] = ["endurance::", "--nocapture"];
const RELOAD_TESTS: [&str; 2] = ["api::reload::reloads_under_load", "--nocapture"];
/// Reloads for each ten creates and removals: a reload compiles a component.
const CYCLES_OF_A_RELOAD: u32 = 10;

pub fn run(run: &Run, cycles: u32) -> Result<ExitCode> {
    setup::for_a_guest(run)?;
    backends::build(run)?;
    let code = test_suite::suite(run, &TESTS, (VARIABLE, cycles.to_string().into()))?;
    if code != ExitCode::SUCCESS {
        return Ok(code);
    }
    let reloads = (cycles / CYCLES_OF_A_RELOAD).max(1);
    test_suite::suite(run, &RELOAD_TESTS, (RELOADS, reloads.to_string().into()))
}
