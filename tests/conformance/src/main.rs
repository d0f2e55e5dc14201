//! Reads the command line, runs the suite and turns the verdict into an exit code.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use casemate_conformance::Chance;
use casemate_conformance::catalogue::Level;
use casemate_conformance::golden::Written;
use casemate_conformance::keep;
use casemate_conformance::report::human::Colours;
use casemate_conformance::report::{Report, Verdict, human, json, junit, tap};
use casemate_conformance::run::{self, Options, RunError, Tier};
use clap::{Parser, ValueEnum};

/// A check fails, or passes where a failure was expected, or a claim is not proven where that was asked.
const FAILS: u8 = 1;
/// Nothing could be said about the backend.
const UNUSABLE: u8 = 2;
/// A run without --seed is the same every time; another seed looks elsewhere.
const SEED: u64 = 20_261_129;

/// Proves a backend of Casemate against the contract.
#[derive(Debug, Parser)]
#[command(
    name = "casemate-conformance",
    version,
    after_help = "Exit codes: 0 no check fails (the verdict names claims that were never tried); 1 a check fails, or passes where a failure was expected, or with --proven a claim was never tried; 2 wrong usage, or a file that cannot be used."
)]
struct Arguments {
    /// The component
    #[arg(value_name = "FILE.wasm")]
    component: PathBuf,
    /// How deep to look
    #[arg(long, value_enum, ignore_case = true, default_value = "L3")]
    level: LevelName,
    /// What the component may import
    #[arg(long, value_enum, default_value = "strict")]
    tier: TierName,
    /// Hold plans of golden requests against this QEMU as well
    #[arg(long, value_name = "PATH")]
    qemu: Option<PathBuf>,
    /// Form of the report
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
    /// Failures that are known, as TOML with `[[expected]]`, `check` and `reason`
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// What requests by chance start from
    #[arg(long, value_name = "N", default_value_t = SEED)]
    seed: u64,
    /// How many requests by chance there are
    #[arg(long, value_name = "N", default_value_t = 300)]
    cases: u32,
    /// Folder of golden requests; without it, `plugins/NAME/tests/golden` or `tests/golden` of the
    /// nearest folder above the component
    #[arg(long, value_name = "DIR")]
    golden: Option<PathBuf>,
    /// Exit with 1 too where a claim was never tried
    #[arg(long)]
    proven: bool,
    /// Write the outcomes of golden requests anew
    #[arg(long)]
    update_golden: bool,
    /// Keep requests that show a failure, as files in this folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Run one kept request again, and nothing else
    #[arg(long, value_name = "FILE", conflicts_with = "update_golden")]
    replay: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LevelName {
    #[value(name = "L0")]
    L0,
    #[value(name = "L1")]
    L1,
    #[value(name = "L2")]
    L2,
    #[value(name = "L3")]
    L3,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TierName {
    Strict,
    Std,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Human,
    Json,
    Junit,
    Tap,
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            component: self.component.clone(),
            tier: match self.tier {
                TierName::Strict => Tier::Strict,
                TierName::Std => Tier::Std,
            },
            level: match self.level {
                LevelName::L0 => Level::L0,
                LevelName::L1 => Level::L1,
                LevelName::L2 => Level::L2,
                LevelName::L3 => Level::L3,
            },
            chance: Chance {
                seed: self.seed,
                cases: self.cases,
            },
            golden: self.golden.clone(),
            written: if self.update_golden {
                Written::Updated
            } else {
                Written::Held
            },
            qemu: self.qemu.clone(),
            expectations: self.expect.clone(),
            replay: self.replay.clone(),
        }
    }
}

/// What ends a run without a verdict.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("the report cannot be made: {0}")]
    Form(#[from] junit::SerializeError),
    #[error("the report cannot be written: {0}")]
    Output(#[from] std::io::Error),
}

impl Ended {
    fn remedy(&self) -> &'static str {
        match self {
            Self::Run(error) => error.remedy(),
            Self::Form(_) => "choose another --format",
            Self::Output(_) => "write it where there is room",
        }
    }
}

fn main() -> ExitCode {
    match judged(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            let mut stderr = std::io::stderr().lock();
            // There is nobody left to tell.
            let _ = writeln!(stderr, "error: {error}\nremedy: {}", error.remedy());
            ExitCode::from(UNUSABLE)
        }
    }
}

fn judged(arguments: &Arguments) -> Result<ExitCode, Ended> {
    let report = run::run(&arguments.options())?;
    let text = rendered(&report, arguments.format)?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    if let Some(folder) = &arguments.keep {
        let mut stderr = std::io::stderr().lock();
        for path in keep::keep(&report, folder).map_err(RunError::from)? {
            writeln!(stderr, "kept {}", path.display())?;
        }
    }
    Ok(match report.verdict() {
        Verdict::NotProven if arguments.proven => ExitCode::from(FAILS),
        Verdict::Conforms
        | Verdict::ConformsButForKnown
        | Verdict::NotProven
        | Verdict::NoLongerFails => ExitCode::SUCCESS,
        Verdict::Fails => ExitCode::from(FAILS),
    })
}

fn rendered(report: &Report, format: Format) -> Result<String, Ended> {
    Ok(match format {
        Format::Human => human::render(report, colours()),
        Format::Json => format!("{:#}\n", json::render(report)),
        Format::Junit => junit::render(report)?,
        Format::Tap => tap::render(report),
    })
}

/// <https://no-color.org>: any value but an empty one.
fn colours() -> Colours {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if is_unwanted || !std::io::stdout().is_terminal() {
        Colours::Hidden
    } else {
        Colours::Shown
    }
}
