//! Rules that are taken out of a backend, one at a time: `cargo xtask mutants`.
//!
//! A test that misses no rule when it is gone holds none. So each mutant of `mutants/list.rs` is
//! built in a copy of the sources, and judged in the place of the right component: by the tests that
//! hold a backend against its golden requests, which have to fail for each, or by the conformance
//! suite's levels L1 and L2, which have to find `SHARE_FOUND` percent of them.

mod conformance;
mod copy;
mod list;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::child::{self, LogFile, ProcessGroup};
use crate::failure::InStep;
use crate::report::Step;
use crate::run::Run;
use crate::wasm_toolchain::WasmToolchain;
use crate::{backends, setup, test_suite};
use conformance::Suite;
use copy::Copy;
use list::Mutant;
pub use list::Selection;

/// Tests that are interrupted get this long to end their processes themselves.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How a program of Rust's tests says that one of them failed.
const EXIT_TESTS_FAILED: u8 = 101;
/// With it the tests would write what a mutant does as what is right.
const UPDATE_VARIABLE: &str = "CASEMATE_UPDATE_GOLDEN";

/// Percent of a backend's mutants that the conformance suite finds at least. It knows no technology: what
/// it finds, it finds by the contract and by a vendor's golden requests.
const SHARE_FOUND: usize = 90;

/// Who judges a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Judge {
    /// The tests that hold a backend against its golden requests and a real QEMU
    Golden,
    /// `casemate-conformance`, levels L1 and L2
    Conformance,
}

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// A test failed.
    Killed,
    /// All passed, so none of them holds the rule.
    Survived,
    /// Nothing is known of the rule.
    NotBuilt,
}

/// How a run of the tests ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tests {
    /// With the last lines of what they said.
    Passed(String),
    /// With what failed, where it is known.
    Failed(String),
}

/// Makes every chosen mutant and tells which of them the judge does not notice.
pub fn run(run: &Run, selection: &Selection, judge: Judge) -> Result<ExitCode> {
    let chosen = selection.read(run.layout.workspace()).in_step(
        "choosing mutants",
        "the lists are plugins/NAME/tests/mutants.toml, described in xtask/src/mutants/list.rs",
    )?;
    if judge == Judge::Golden {
        setup::for_a_guest(run)?;
        setup::for_the_tests(run)?;
    }
    let toolchain = backends::toolchain(run)?;
    if judge == Judge::Golden {
        backends::build_with(run, &toolchain)?;
    }
    run.report.heading("Mutants");
    let bench = Bench::prepare(run, judge)?;
    let workshop = Workshop::open(run, toolchain, bench)?;
    let mut summary = Vec::new();
    let mut escaped = Vec::new();
    let mut enough = true;
    for (backend, mutants) in chosen {
        workshop.try_without_mutant(backend).in_step(
            &format!("testing {backend} without any mutant"),
            "it has to pass first: cargo xtask test -- --test it golden::, or casemate-conformance",
        )?;
        let mut killed = 0;
        for mutant in &mutants {
            match workshop.attempt(backend, mutant)? {
                Verdict::Killed => killed += 1,
                Verdict::Survived => {
                    escaped.push(format!("{backend}: {} survived", mutant.rule));
                }
                Verdict::NotBuilt => {
                    escaped.push(format!("{backend}: {} could not be built", mutant.rule));
                }
            }
        }
        enough &= judge.is_content(killed, mutants.len());
        summary.push(format!(
            "{backend}: {} mutants, {killed} killed ({} percent)",
            mutants.len(),
            killed * 100 / mutants.len()
        ));
    }
    for line in summary.iter().chain(&escaped) {
        run.report.note(line);
    }
    Ok(if enough {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Judge {
    fn is_content(self, killed: usize, of: usize) -> bool {
        match self {
            Self::Golden => killed == of,
            Self::Conformance => killed * 100 >= of * SHARE_FOUND,
        }
    }
}

/// What a component is judged with.
#[derive(Debug)]
enum Bench {
    /// The integration tests.
    Golden(PathBuf),
    Conformance(Suite),
}

impl Bench {
    fn prepare(run: &Run, judge: Judge) -> Result<Self> {
        Ok(match judge {
            Judge::Golden => Self::Golden(
                test_suite::integration_tests(run)
                    .in_step("building the tests", "see the compiler's message above")?,
            ),
            Judge::Conformance => Self::Conformance(
                Suite::build(run)
                    .in_step("building the suite", "see the compiler's message above")?,
            ),
        })
    }
}

/// All that a mutant is made and tested with.
#[derive(Debug)]
struct Workshop<'run> {
    run: &'run Run,
    toolchain: WasmToolchain,
    copy: Copy,
    bench: Bench,
    /// What the tests find in the place of `target/`.
    artifacts: PathBuf,
    log: PathBuf,
}

impl<'run> Workshop<'run> {
    fn open(run: &'run Run, toolchain: WasmToolchain, bench: Bench) -> Result<Self> {
        let mut step = run.report.step("copy of the sources");
        let copy = Copy::make(run, &mut step).in_step(
            "copying the sources",
            "see target/setup/mutants.log, or remove target/mutants",
        )?;
        step.done(&copy.tree().workspace.display().to_string());
        Ok(Self {
            run,
            toolchain,
            copy,
            bench,
            artifacts: run.layout.mutants().join("artifacts"),
            log: run.log("mutants"),
        })
    }

    /// A test that always fails would kill every mutant, and one that looks at nothing none.
    fn try_without_mutant(&self, backend: &str) -> Result<()> {
        let mut step = self.run.report.step(backend);
        let component = self.build(&mut step, backend)?;
        let said = match self.test(&mut step, backend, &component)? {
            Tests::Passed(said) => said,
            Tests::Failed(what) => {
                bail!(
                    "a test failed{what}; what it said is in {}",
                    self.log.display()
                );
            }
        };
        let count = said
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("{backend}: ")))
            .with_context(|| format!("no request was tried; the tests said\n{said}"))?;
        step.done(&format!("without any mutant: {count}"));
        Ok(())
    }

    fn attempt(&self, backend: &str, mutant: &Mutant) -> Result<Verdict> {
        let mut step = self.run.report.step(&mutant.rule);
        let right = self.copy.read(&mutant.file)?;
        let changed = mutant
            .applied_to(&right)
            .with_context(|| format!("rule {} in {}", mutant.rule, mutant.file))?;
        self.copy.write(&mutant.file, &changed)?;
        let built = self.build(&mut step, backend);
        self.copy.write(&mutant.file, &right)?;
        self.run.interrupt.check()?;
        let component = match built {
            Ok(component) => component,
            Err(error) => {
                step.note(&format!("{error:#}"));
                step.failed("it could not be built");
                return Ok(Verdict::NotBuilt);
            }
        };
        match self.test(&mut step, backend, &component)? {
            Tests::Failed(what) => {
                step.done(&format!("killed{what}"));
                Ok(Verdict::Killed)
            }
            Tests::Passed(_) => {
                step.failed("survived: no test misses it");
                Ok(Verdict::Survived)
            }
        }
    }

    fn build(&self, step: &mut Step<'_>, backend: &str) -> Result<Vec<u8>> {
        let tree = self.copy.tree();
        backends::component_of(self.run, step, &self.toolchain, tree, backend, &self.log)
    }

    fn test(&self, step: &mut Step<'_>, backend: &str, component: &[u8]) -> Result<Tests> {
        match &self.bench {
            Bench::Golden(program) => self.test_golden(step, program, backend, component),
            Bench::Conformance(suite) => suite.judge(self.run, step, backend, component),
        }
    }

    fn test_golden(
        &self,
        step: &mut Step<'_>,
        program: &Path,
        backend: &str,
        component: &[u8],
    ) -> Result<Tests> {
        self.lay_out(backend, component)?;
        step.progress("running the tests");
        let filter = format!("golden::requests_for_{}_", backend.replace('-', "_"));
        let mut command = child::program(program);
        command
            .args([&filter, "--show-output"])
            .current_dir(self.run.layout.integration_tests())
            .env(test_suite::ARTIFACTS_VARIABLE, &self.artifacts)
            .env_remove(UPDATE_VARIABLE);
        let output = LogFile::append(&self.log, &command)?;
        command
            .stdout(output.duplicate()?)
            .stderr(output.duplicate()?);
        match ProcessGroup::start(&mut command)?.exit_code(self.run, STOP_DEADLINE)? {
            0 => Ok(Tests::Passed(output.tail())),
            EXIT_TESTS_FAILED => Ok(Tests::Failed(String::new())),
            code => bail!(
                "the tests ended with exit code {code}; their last lines:\n{}",
                output.tail()
            ),
        }
    }

    /// Links to all of `target/`, but for the one component.
    fn lay_out(&self, backend: &str, component: &[u8]) -> Result<()> {
        let layout = &self.run.layout;
        let (target, backends) = (layout.target(), layout.backends());
        let folder = self.artifacts.join("backends");
        let lay_out = || -> std::io::Result<()> {
            if self.artifacts.exists() {
                std::fs::remove_dir_all(&self.artifacts)?;
            }
            std::fs::create_dir_all(&folder)?;
            link_entries(&target, &self.artifacts, &[backends, layout.mutants()])?;
            let own = layout.backend(backend);
            link_entries(&layout.backends(), &folder, &[own])?;
            std::fs::write(folder.join(format!("{backend}.wasm")), component)
        };
        lay_out().with_context(|| format!("cannot lay out {}", self.artifacts.display()))
    }
}

/// A link in `to` for each entry of `from` but these.
fn link_entries(from: &Path, to: &Path, but: &[PathBuf]) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        if let (false, Some(name)) = (but.contains(&path), path.file_name()) {
            std::os::unix::fs::symlink(&path, to.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_but_the_named_entries_are_linked() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        for path in [from.join("guest"), from.join("backends"), to.clone()] {
            std::fs::create_dir_all(path).unwrap();
        }
        std::fs::write(from.join("guest/vmlinuz"), "kernel").unwrap();
        link_entries(&from, &to, &[from.join("backends")]).unwrap();
        assert_eq!(std::fs::read(to.join("guest/vmlinuz")).unwrap(), b"kernel");
        assert!(!to.join("backends").exists());
    }
}
