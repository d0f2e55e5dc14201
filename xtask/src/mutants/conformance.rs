//! The conformance suite as the judge of a mutant: the component, the backend's golden requests, and
//! which checks fail.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::{STOP_DEADLINE, Tests};
use crate::cargo;
use crate::child::{self, LogFile, ProcessGroup};
use crate::report::Step;
use crate::run::Run;

const PROGRAM: &str = "casemate-conformance";
/// How the suite says that a check fails.
const EXIT_FAILS: u8 = 1;
/// Requests by chance: a mutant is missed by a request that is there for it, or not at all.
const CASES: &str = "100";

/// The suite, built.
#[derive(Debug)]
pub(super) struct Suite {
    program: PathBuf,
    /// Where components and reports are put.
    folder: PathBuf,
    log: PathBuf,
}

impl Suite {
    pub(super) fn build(run: &Run) -> Result<Self> {
        let mut step = run.report.step("conformance suite");
        let log = run.log("mutants");
        let mut command = cargo::command(run);
        // By the package alone its dependencies would have other features, and be built anew.
        command.args(["build", "--bin", PROGRAM]);
        child::run(run, &mut step, &mut command, &log)?;
        let program = run.layout.target().join("debug").join(PROGRAM);
        let folder = run.layout.mutants().join("conformance");
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        step.done(&program.display().to_string());
        Ok(Self {
            program,
            folder,
            log,
        })
    }

    /// Runs L0 to L2 on a component.
    pub(super) fn judge(
        &self,
        run: &Run,
        step: &mut Step<'_>,
        backend: &str,
        component: &[u8],
    ) -> Result<Tests> {
        step.progress("running the suite");
        let path = self.folder.join(format!("{backend}.wasm"));
        let report = self.folder.join(format!("{backend}.tap"));
        std::fs::write(&path, component)
            .with_context(|| format!("cannot write {}", path.display()))?;
        let golden = run
            .layout
            .workspace()
            .join("plugins")
            .join(backend)
            .join("tests/golden");
        let mut command = child::program(&self.program);
        command
            .arg(&path)
            .args([
                "--level", "L2", "--format", "tap", "--cases", CASES, "--golden",
            ])
            .arg(golden);
        let output = LogFile::append(&self.log, &command)?;
        let told =
            File::create(&report).with_context(|| format!("cannot write {}", report.display()))?;
        command.stdout(told).stderr(output.duplicate()?);
        let code = ProcessGroup::start(&mut command)?.exit_code(run, STOP_DEADLINE)?;
        let text = std::fs::read_to_string(&report)
            .with_context(|| format!("cannot read {}", report.display()))?;
        match code {
            0 => {
                let passed = text.lines().filter(|line| line.starts_with("ok ")).count();
                Ok(Tests::Passed(format!(
                    "{backend}: {passed} checks pass or are skipped"
                )))
            }
            EXIT_FAILS => Ok(Tests::Failed(format!(" by {}", failed(&text).join(", ")))),
            code => bail!("the suite ended with exit code {code}:\n{}", output.tail()),
        }
    }
}

/// Numbers of the checks that fail, of a report as TAP.
fn failed(report: &str) -> Vec<&str> {
    let lines = report.lines();
    let failed = lines.filter(|line| line.starts_with("not ok ") && !line.contains("# TODO"));
    failed
        .filter_map(|line| line.split(" - ").nth(1)?.split(' ').next())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::failed;

    #[test]
    fn checks_that_fail_are_read_of_a_report() {
        let report = "TAP version 14\n1..4\nok 1 - L0-01 It loads.\nnot ok 2 - L1-02 It answers.\n  ---\n  \
                      severity: MUST\n  ...\nnot ok 3 - L1-07 It could. # TODO a SHOULD\n\
                      ok 4 - L2-01 Golden. # SKIP none\nnot ok 5 - L2-02 Owned.\n";
        assert_eq!(failed(report), ["L1-02", "L2-02"]);
    }
}
