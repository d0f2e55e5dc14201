//! Programs in Python, each in an environment of its own: nothing is installed into the machine's
//! Python.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::run::Run;
use crate::{child, layout, system_packages};

/// The program, and the package that has it.
const PYTHON: &str = "python3";
/// What Debian calls the part of Python that makes environments.
const VENV_PACKAGE: &str = "python3-venv";
const HAS_VENV: [&str; 2] = ["-c", "import ensurepip, venv"];

/// A program that the registry of Python's packages has.
#[derive(Debug)]
pub(crate) struct PythonTool {
    pub(crate) name: &'static str,
    /// All packages that it is made of, with their digests.
    pub(crate) requirements: PathBuf,
    /// Where its environment is to be.
    pub(crate) product: PathBuf,
    /// What can be imported when it is there.
    pub(crate) module: &'static str,
}

/// Makes the environment, or says that there is no Python to make it with.
pub(crate) fn ensure(run: &Run, tool: &PythonTool) -> Result<()> {
    let PythonTool {
        name,
        requirements,
        product,
        module,
    } = tool;
    let text = std::fs::read(requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let recipe = format!("{name} 1 {}", layout::digest(&text));
    let mut step = run.report.step(name);
    if layout::made_from(product).as_deref() == Some(&recipe) && answers(run, product, module) {
        step.done("in a Python of its own (cached)");
        return Ok(());
    }
    if child::find_on_path(PYTHON).is_none() && child::find_on_path("apt-get").is_some() {
        system_packages::ensure(run, &[PYTHON, VENV_PACKAGE])?;
    }
    let Some(python) = child::find_on_path(PYTHON) else {
        if product.exists() {
            // Of a Python that is gone: tests would take it for one that works.
            std::fs::remove_dir_all(product)
                .with_context(|| format!("cannot remove {}", product.display()))?;
        }
        step.done(
            "skipped: there is no python3 on this machine, and no apt-get to install it with",
        );
        return Ok(());
    };
    let has_venv = || child::capture(run, child::program(&python).args(HAS_VENV)).is_ok();
    if !has_venv() {
        system_packages::ensure(run, &[VENV_PACKAGE])?;
        ensure!(
            has_venv(),
            "{} cannot make environments, with {VENV_PACKAGE} installed",
            python.display()
        );
    }
    let scratch = run.scratch()?;
    let log = run.log(name);
    let mut venv = child::program(&python);
    venv.args(["-m", "venv"]).arg(scratch.path());
    child::run(run, &mut step, &mut venv, &log)?;
    let mut pip = child::program(scratch.path().join("bin/python3"));
    pip.args(["-m", "pip", "install", "--disable-pip-version-check"])
        .args(["--no-deps", "--require-hashes", "--requirement"])
        .arg(requirements);
    child::run(run, &mut step, &mut pip, &log)?;
    // It may be moved: only the scripts beside its Python know where they were made.
    layout::put_in_place(scratch.path(), product, &recipe)?;
    ensure!(
        answers(run, product, module),
        "{} has no {name}",
        product.display()
    );
    step.done("in a Python of its own");
    Ok(())
}

/// Whether the tool is found. An environment is of no use without the Python that it was made with.
fn answers(run: &Run, product: &Path, module: &str) -> bool {
    let mut python = child::program(product.join("bin/python3"));
    child::capture(run, python.args(["-c", &format!("import {module}")])).is_ok()
}
