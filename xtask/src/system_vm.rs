//! A VM that stands for a whole host: `cargo xtask system-vm -- <command>`.
//!
//! What a namespace cannot have of its own, it has: a kernel that reboots, a clock that can be set,
//! cgroups with every controller, memory that runs out. Its root is this machine's, seen through an
//! overlay whose writes go to memory, so every program, library and build is there under its usual
//! path; only `/mnt/disk` lasts over reboots. It has no network but its own loopback, runs no
//! service, and is emulated, so it takes some seconds to boot.

pub mod image;
pub mod machine;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::failure::InStep;
use crate::run::Run;
use crate::{backends, setup, systemd, test_suite};
use machine::SystemVm;

/// Where the tests that need one find its kernel and first root; without it they are skipped.
pub const VARIABLE: &str = "CASEMATE_SYSTEM_VM";
/// What is run where no command is given.
const TESTS: [&str; 4] = [
    "system_vm::",
    // Each test has a machine of two gibibytes, and there is one emulated processor for each real one.
    "--test-threads=1",
    "--nocapture",
    "--quiet",
];

/// Boots a VM and runs `command` in it, or all the tests that need one.
pub fn run(run: &Run, command: &[OsString]) -> Result<ExitCode> {
    setup::for_a_guest(run)?;
    image::prepare(run).in_step(
        "preparing the system VM",
        "it takes e2fsprogs, and a mirror of the distribution",
    )?;
    if command.is_empty() {
        backends::build(run)?;
        run.report.heading("Tests in a system VM");
        test_suite::suite(run, &TESTS, (VARIABLE, run.layout.system_vm().into()))
    } else {
        inside(run, command).in_step(
            "running in a system VM",
            "see target/setup/system-vm.log for its console",
        )
    }
}

/// Shows what the command prints as it comes, and ends with its exit code.
fn inside(run: &Run, words: &[OsString]) -> Result<ExitCode> {
    let started = Instant::now();
    let mut machine = SystemVm::new(&run.layout.system_vm())?;
    let booted = machine.boot(Duration::ZERO);
    // Whatever came of it, its console is kept for whoever asks.
    std::fs::write(run.log("system-vm"), machine.console()).context("no log")?;
    booted?;
    run.report.note(&format!(
        "booted after {:.1} s",
        started.elapsed().as_secs_f64()
    ));
    let mut script = systemd::variables();
    script += &format!(
        "cd {}\n{}\n",
        systemd::quoted(&run.layout.workspace().to_string_lossy()),
        systemd::shell_line(words)
    );
    let running = machine.begin(&script)?;
    let mut shown = 0;
    let mut show = |text: &[u8]| -> Result<()> {
        let mut terminal = std::io::stdout();
        terminal
            .write_all(text.get(shown..).unwrap_or_default())
            .context("cannot print")?;
        shown = text.len();
        terminal.flush().context("cannot print")
    };
    let code = loop {
        show(&machine.output(running))?;
        if let Some(code) = machine.poll(running)? {
            break code;
        }
        run.interrupt.pause()?;
    };
    show(&machine.output(running))?;
    Ok(ExitCode::from(code))
}
