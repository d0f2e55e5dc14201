//! Random requests of every kind against the HTTP interface: `cargo xtask schemathesis`.

use std::process::ExitCode;

use anyhow::Result;

use crate::python::{self, PythonTool};
use crate::run::Run;
use crate::{backends, setup, test_suite};

/// Where the test finds the program.
pub const VARIABLE: &str = "CASEMATE_SCHEMATHESIS";
const TESTS: [&str; 2] = ["schemathesis::", "--nocapture"];

pub fn run(run: &Run) -> Result<ExitCode> {
    setup::for_a_guest(run)?;
    backends::build(run)?;
    let product = run.layout.schemathesis();
    python::ensure(
        run,
        &PythonTool {
            name: "schemathesis",
            requirements: run.layout.schemathesis_requirements(),
            product: product.clone(),
            module: "schemathesis.cli",
        },
    )?;
    test_suite::suite(run, &TESTS, (VARIABLE, product.join("bin/python3").into()))
}
