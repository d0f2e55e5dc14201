//! The figures of the release build, with what they need prepared before.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::child::{self, ProcessGroup};
use crate::failure::InStep;
use crate::run::Run;
use crate::{backends, cargo, setup};

/// What is measured, and what measures it. They are built together: Cargo unites the features of
/// what it builds at once, and another choice would compile the largest dependencies twice.
const PACKAGES: [&str; 4] = [
    "casemate-host",
    "casemate-launcher",
    "casemate-fake-qemu",
    "casemate-bench",
];
/// An interrupted bench ends its daemon, which may have a thousand VMs to end.
const STOP_DEADLINE: Duration = Duration::from_secs(75);

/// What a missed budget means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissedBudget {
    /// It is shown.
    Told,
    /// The exit code says so, too.
    Fails,
}

pub fn run(run: &Run, filter: Option<&str>, missed: MissedBudget) -> Result<ExitCode> {
    setup::for_a_guest(run)?;
    backends::build(run)?;
    let program = build(run).in_step(
        "building the release programs",
        "see the compiler's message above; the whole log is target/setup/bench-build.log",
    )?;
    run.report.heading("Bench");
    let mut command = child::program(&program);
    command
        .arg("--artifacts")
        .arg(run.layout.target())
        .arg("--report")
        .arg(run.layout.bench_report());
    if let Some(filter) = filter {
        command.args(["--filter", filter]);
    }
    if missed == MissedBudget::Fails {
        command.arg("--strict");
    }
    let measured = ProcessGroup::start(&mut command)?.exit_code(run, STOP_DEADLINE);
    let code = measured.in_step(
        "measuring",
        "measure one figure alone with `cargo xtask bench --filter NAME`",
    )?;
    run.interrupt.check()?;
    Ok(ExitCode::from(code))
}

fn build(run: &Run) -> Result<PathBuf> {
    run.report.heading("Build");
    let mut step = run.report.step("release build");
    let mut command = cargo::command(run);
    command.args(["build", "--release", "--bins"]);
    for package in PACKAGES {
        command.args(["--package", package]);
    }
    child::run(run, &mut step, &mut command, &run.log("bench-build"))?;
    let program = cargo::target_directory(run)?.join("release/casemate-bench");
    anyhow::ensure!(program.is_file(), "the build left no {}", program.display());
    step.done("release profile");
    Ok(program)
}
