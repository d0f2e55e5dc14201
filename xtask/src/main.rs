//! Reads the command line, runs one chore and turns its end into an exit code.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::bench::{self, MissedBudget};
use xtask::chaos::{self, Qemu};
use xtask::demo::{self, Accelerator, Ending};
use xtask::mutants::{self, Judge, Selection};
use xtask::run::Run;
use xtask::test_suite::{self, Only, SkippedPromise};
use xtask::{
    backends, effects, endurance, failure, languages, orphans, schemathesis, setup, system_vm,
    systemd,
};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    about = "Set-up, demo, figures and tests of Casemate"
)]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Debug, Subcommand)]
enum Chore {
    /// Install and prepare all that the demo and the tests need
    Setup,
    /// Build the backend components into target/backends
    Backends,
    /// Build everything, start the daemon, boot a VM, show what it says and clean up
    Demo {
        /// Leave the daemon and the VM running and print what to try next
        #[arg(long)]
        keep: bool,
        /// What executes the guest; tcg works everywhere
        #[arg(long, value_enum, default_value = "tcg")]
        accel: Accelerator,
    },
    /// Kill the daemon again and again under traffic: no VM may be lost, doubled or left behind
    Chaos {
        /// How often the daemon is killed
        #[arg(long)]
        rounds: u32,
        /// What chance starts from; a run prints its own
        #[arg(long)]
        seed: Option<u64>,
        /// VMs that are kept at least
        #[arg(long, default_value_t = 20)]
        vms: usize,
        /// What plays the VMs
        #[arg(long, value_enum, default_value = "real")]
        qemu: Qemu,
    },
    /// Take the parts of the interfaces away, one at a time: for each a test has to fail
    Effects {
        /// Only parts that begin so, such as `rpc:` or `response:casemate.v1.Vm.`
        #[arg(long, value_name = "PREFIX")]
        only: Option<String>,
    },
    /// Create and remove VMs for long: the daemon's descriptors, threads, tasks and memory stay
    Endurance {
        /// VMs that come and go
        #[arg(long, default_value_t = 10_000)]
        cycles: u32,
    },
    /// Build the example backends in other languages into target/backends, and try them
    Languages,
    /// Send random requests of every kind to the HTTP interface of a daemon with real guests
    Schemathesis,
    /// Measure the release build against its budgets; a first build takes some minutes
    Bench {
        /// Measure only figures whose name contains this
        #[arg(long, value_name = "NAME")]
        filter: Option<String>,
        /// Fail when a budget is missed
        #[arg(long)]
        strict: bool,
    },
    /// Take the rules out of a backend, one at a time: for each a test has to fail
    Mutants {
        /// Only rules of this backend
        #[arg(long, value_name = "NAME")]
        backend: Option<String>,
        /// Only this rule
        #[arg(long, value_name = "NAME")]
        rule: Option<String>,
        /// Only the first of so many rules, and so on
        #[arg(long, value_name = "N", conflicts_with = "rule")]
        every: Option<std::num::NonZeroUsize>,
        /// Who judges
        #[arg(long, value_enum, default_value = "golden")]
        by: Judge,
    },
    /// Run a command in a systemd of its own, in namespaces; takes root
    Systemd {
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Boot a VM that stands for a whole host and run a command in it, or without one, the tests
    /// that need a host of their own: limits of memory, reboots, clocks
    SystemVm {
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// Prepare everything and run all tests; arguments after `--` go to `cargo test`
    Test {
        /// Tell, and do not fail, where a test that holds a promise cannot run on this machine
        #[arg(long)]
        allow_skipped: bool,
        /// Run one suite and nothing else
        #[arg(
            long,
            value_enum,
            value_name = "SUITE",
            conflicts_with = "cargo_test_arguments"
        )]
        only: Option<Only>,
        #[arg(last = true)]
        cargo_test_arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = Run::start().and_then(|run| {
        let outcome = match arguments.chore {
            Chore::Setup => setup::everything(&run).map(|()| ExitCode::SUCCESS),
            Chore::Backends => backends::build(&run).map(|_| ExitCode::SUCCESS),
            Chore::Demo { keep, accel } => {
                let ending = if keep { Ending::Keep } else { Ending::CleanUp };
                return demo::run(&run, accel, ending).map(|()| ExitCode::SUCCESS);
            }
            Chore::Chaos {
                rounds,
                seed,
                vms,
                qemu,
            } => chaos::run(
                &run,
                chaos::Options {
                    rounds,
                    seed,
                    vms,
                    qemu,
                },
            ),
            Chore::Effects { only } => effects::run(&run, only.as_deref()),
            Chore::Languages => languages::run(&run),
            Chore::Schemathesis => schemathesis::run(&run),
            Chore::Endurance { cycles } => endurance::run(&run, cycles),
            Chore::Bench { filter, strict } => {
                let missed = if strict {
                    MissedBudget::Fails
                } else {
                    MissedBudget::Told
                };
                bench::run(&run, filter.as_deref(), missed)
            }
            Chore::Mutants {
                backend,
                rule,
                every,
                by,
            } => mutants::run(
                &run,
                &Selection {
                    backend,
                    rule,
                    every,
                },
                by,
            ),
            Chore::Systemd { command } => systemd::run(&run, &command),
            Chore::SystemVm { command } => system_vm::run(&run, &command),
            Chore::Test {
                allow_skipped,
                only,
                cargo_test_arguments,
            } => {
                let skipped = if allow_skipped {
                    SkippedPromise::Told
                } else {
                    SkippedPromise::Fails
                };
                match only {
                    Some(suite) => test_suite::run_only(&run, suite, skipped),
                    None => test_suite::run(&run, &cargo_test_arguments, skipped),
                }
            }
        };
        orphans::end_all();
        outcome
    });
    outcome.unwrap_or_else(|error| {
        orphans::end_all();
        failure::explain(&error)
    })
}
