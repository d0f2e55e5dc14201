//! `cargo xtask bench`: figures of the release build, held against their budgets.
//!
//! Everything is measured from outside where that is possible: the real daemon as a process, over
//! gRPC and HTTP, with the scripted QEMU of the tests, so that what is left is the daemon's own
//! cost. Each group of figures has its baseline in the same run. No budget is a test: a loaded
//! machine misses one without anything being wrong, so a miss is shown, and is an error only with
//! `--strict`.
//!
//! All that is started belongs to guards, which are dropped at the end, at an error and at Ctrl-C.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "talking to the person at the terminal is what this program is for"
)]

mod calls;
mod create;
mod daemon;
mod list;
mod measurement;
mod plan;
mod report;
mod sample;
mod site;
mod start;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use report::{Figure, Style, Verdict};
use site::Site;

/// As shells report a program that ended by SIGINT.
const EXIT_INTERRUPTED: u8 = 130;
/// Something hangs when a group takes this long: the longest takes half a minute.
const GROUP_DEADLINE: Duration = Duration::from_secs(180);

#[derive(Debug, Parser)]
#[command(
    name = "casemate-bench",
    about = "Measures Casemate against its budgets"
)]
struct Arguments {
    /// Folder with `backends/` and `guest/`, as `cargo xtask setup` and `backends` make them
    #[arg(long, value_name = "FOLDER")]
    artifacts: PathBuf,
    /// Where the report goes
    #[arg(long, value_name = "FILE")]
    report: PathBuf,
    /// Measure only figures whose name contains this
    #[arg(long, value_name = "NAME", default_value = "")]
    filter: String,
    /// Fail when a budget is missed
    #[arg(long)]
    strict: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    // The programs lie beside this one, of the same build.
    let own_path = std::env::current_exe().context("this program does not know its own path")?;
    let programs = own_path.parent().context("a program lies in a folder")?;
    // The daemon is started in a folder of its own, so its config names absolute paths.
    let artifacts = arguments
        .artifacts
        .canonicalize()
        .with_context(|| format!("there is no {}", arguments.artifacts.display()))?;
    let site = Site::find(programs, &artifacts)?;
    raise_descriptor_limit()?;
    let runtime = tokio::runtime::Runtime::new().context("no runtime")?;
    let Some(figures) = runtime.block_on(until_stopped(measure(&site, &arguments.filter)))? else {
        // Whoever stopped it knows; `cargo xtask` says that nothing was left running.
        return Ok(ExitCode::from(EXIT_INTERRUPTED));
    };
    report::write_json(&figures, &arguments.report)?;
    println!("\n{}", report::table(&figures, Style::of_stdout()));
    println!("\nreport: {}", arguments.report.display());
    let missed = figures
        .iter()
        .filter(|figure| figure.verdict() == Some(Verdict::Missed))
        .count();
    if missed > 0 {
        println!("budgets missed: {missed}");
    }
    Ok(if missed > 0 && arguments.strict {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The result, or nothing once somebody asked this program to stop; `work` is dropped then, and
/// with it the guards that it holds.
async fn until_stopped<T>(work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        result = work => result.map(Some),
        _ = interrupt.recv() => Ok(None),
        _ = terminate.recv() => Ok(None),
        _ = hangup.recv() => Ok(None),
    }
}

/// Measures each group of which a figure is wanted.
async fn measure(site: &Site, filter: &str) -> Result<Vec<Figure>> {
    let is_wanted = |names: &[&str]| names.iter().any(|name| name.contains(filter));
    let mut figures = Vec::new();
    if is_wanted(plan::NAMES) {
        figures.extend(told("plan", plan::measure(site)).await?);
    }
    if is_wanted(measurement::NAMES) {
        figures.extend(told("measurement", measurement::measure(site)).await?);
    }
    if is_wanted(start::NAMES) {
        figures.extend(told("start", start::measure(site)).await?);
    }
    if is_wanted(create::NAMES) {
        figures.extend(told("create", create::measure(site)).await?);
    }
    if is_wanted(create::REAL_NAMES) {
        figures.extend(told("create, real QEMU", create::measure_real(site)).await?);
    }
    if is_wanted(list::NAMES) {
        figures.extend(told("1,000 VMs", list::measure(site)).await?);
    }
    figures.retain(|figure: &Figure| figure.name.contains(filter));
    ensure!(!figures.is_empty(), "no figure has {filter:?} in its name");
    Ok(figures)
}

/// A line for each group, so that a person sees that things move.
async fn told(group: &str, work: impl Future<Output = Result<Vec<Figure>>>) -> Result<Vec<Figure>> {
    let started = Instant::now();
    println!("measuring {group}");
    let figures = tokio::time::timeout(GROUP_DEADLINE, work)
        .await
        .with_context(|| format!("{group} takes longer than {} s", GROUP_DEADLINE.as_secs()))?
        .with_context(|| format!("measuring {group}"))?;
    if figures.is_empty() {
        println!("  left out: there is no real QEMU");
    }
    println!("  {:.1} s", started.elapsed().as_secs_f64());
    Ok(figures)
}

/// The daemon holds some descriptors for each VM, and inherits this limit.
fn raise_descriptor_limit() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open files")
}
