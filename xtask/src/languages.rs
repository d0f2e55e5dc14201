//! Example backends in other languages than Rust: `cargo xtask languages`.
//!
//! Each is built by the tools that its language has for components, of a version that is pinned by
//! digest, with nothing of this workspace but the contract. Then the conformance suite proves each with
//! its golden requests, and a test loads them as a daemon would, tells how long that takes, and has
//! them plan.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::Resolve;

use crate::backends::{self, Backend};
use crate::python::{self, PythonTool};
use crate::run::Run;
use crate::{cargo, child, layout, setup, system_packages, test_suite};

/// Says to the test that the components have to be there.
pub const VARIABLE: &str = "CASEMATE_LANGUAGES";
/// What proves a backend: a package and its program.
const SUITE: &str = "casemate-conformance";
const TESTS: [&str; 2] = ["languages::", "--nocapture"];
/// Names of the components: the technology and the language.
pub const JAVASCRIPT: &str = "csv-javascript";
pub const PYTHON: &str = "cca-python";
pub const C: &str = "se-c";

/// What a backend that does not measure exports.
const WORLD: &str = "tee-backend";
/// A C compiler and a C library for WebAssembly. Of the library nothing is linked that would import
/// WASI.
const ZIG_CC: [&str; 9] = [
    "-m",
    "ziglang",
    "cc",
    "-target",
    "wasm32-wasi",
    "-mexec-model=reactor",
    "-Os",
    "-Wall",
    "-Wextra",
];

/// What runs JavaScript, and what installs its packages, by the names that Debian has too.
const NODE: &str = "node";
const NPM: &str = "npm";
const NODE_PACKAGES: [&str; 2] = ["nodejs", "npm"];

pub fn run(run: &Run) -> Result<ExitCode> {
    setup::for_a_guest(run)?;
    backends::build(run)?;
    let built: Vec<Backend> = [javascript(run)?, python(run)?, c(run)?]
        .into_iter()
        .flatten()
        .collect();
    backends::list(run, &built);
    prove(run, &built)?;
    test_suite::suite(run, &TESTS, (VARIABLE, "required".into()))
}

fn javascript(run: &Run) -> Result<Option<Backend>> {
    if child::find_on_path(NODE).is_none() || child::find_on_path(NPM).is_none() {
        system_packages::ensure(run, &NODE_PACKAGES)?;
    }
    let sources = run.layout.examples().join("javascript");
    componentize_js(run, &sources)?;
    let mut step = run.report.step(JAVASCRIPT);
    // Packages are looked for beside the sources, where nothing is to be left.
    let scratch = run.scratch()?;
    copy(
        &sources.join("build.mjs"),
        &scratch.path().join("build.mjs"),
    )?;
    copy_folder(&sources.join("src"), &scratch.path().join("src"))?;
    let packages = run.layout.componentize_js().join("node_modules");
    std::os::unix::fs::symlink(&packages, scratch.path().join("node_modules"))
        .with_context(|| format!("cannot link to {}", packages.display()))?;
    let output = scratch.path().join("component.wasm");
    let mut node = child::program(NODE);
    node.current_dir(scratch.path())
        .arg("build.mjs")
        .arg(run.layout.contract())
        .arg(&output);
    child::run(run, &mut step, &mut node, &run.log(JAVASCRIPT))?;
    let backend = backends::put_as(run, JAVASCRIPT, &read(&output)?)?;
    step.done("componentize-js");
    Ok(Some(backend))
}

/// Installs the packages that the lock file names, each by its digest. None of their scripts runs.
fn componentize_js(run: &Run, sources: &Path) -> Result<()> {
    const STEP: &str = "componentize-js";
    let mut step = run.report.step(STEP);
    let product = run.layout.componentize_js();
    let lock = read(&sources.join("package-lock.json"))?;
    let recipe = format!("{STEP} 1 {}", layout::digest(&lock));
    if layout::made_from(&product).as_deref() == Some(&recipe) {
        step.done("packages of npm (cached)");
        return Ok(());
    }
    let scratch = run.scratch()?;
    for name in ["package.json", "package-lock.json"] {
        copy(&sources.join(name), &scratch.path().join(name))?;
    }
    let mut npm = child::program(NPM);
    npm.current_dir(scratch.path())
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    child::run(run, &mut step, &mut npm, &run.log(STEP))?;
    layout::put_in_place(scratch.path(), &product, &recipe)?;
    step.done("packages of npm");
    Ok(())
}

/// None where the machine has no Python and no packages of one.
fn python(run: &Run) -> Result<Option<Backend>> {
    let sources = run.layout.examples().join("python");
    let product = run.layout.componentize_py();
    python::ensure(
        run,
        &PythonTool {
            name: "componentize-py",
            requirements: sources.join("requirements.txt"),
            product: product.clone(),
            module: "componentize_py",
        },
    )?;
    if !product.exists() {
        return Ok(None);
    }
    let mut step = run.report.step(PYTHON);
    // Python leaves compiled files beside what it reads.
    let scratch = run.scratch()?;
    copy(&sources.join("app.py"), &scratch.path().join("app.py"))?;
    copy_folder(&sources.join("cca"), &scratch.path().join("cca"))?;
    let output = scratch.path().join("component.wasm");
    let mut componentize = child::program(product.join("bin/python3"));
    componentize
        .current_dir(scratch.path())
        .args(["-c", "from componentize_py import script; script()"])
        .arg("--wit-path")
        .arg(run.layout.contract())
        .args(["--world", WORLD, "componentize", "app", "--output"])
        .arg(&output);
    child::run(run, &mut step, &mut componentize, &run.log(PYTHON))?;
    let backend = backends::put_as(run, PYTHON, &read(&output)?)?;
    step.done("componentize-py");
    Ok(Some(backend))
}

/// None where the machine has no Python, in whose packages the compiler is.
fn c(run: &Run) -> Result<Option<Backend>> {
    let sources = run.layout.examples().join("c");
    let product = run.layout.zig();
    python::ensure(
        run,
        &PythonTool {
            name: "zig",
            requirements: sources.join("requirements.txt"),
            product: product.clone(),
            module: "ziglang",
        },
    )?;
    if !product.exists() {
        return Ok(None);
    }
    let mut step = run.report.step(C);
    let scratch = run.scratch()?;
    for name in ["backend.c", "memory.c", "values.h"] {
        copy(&sources.join(name), &scratch.path().join(name))?;
    }
    let generated = bindings(&run.layout.contract(), scratch.path())?;
    let output = scratch.path().join("module.wasm");
    let mut zig = child::program(product.join("bin/python3"));
    zig.current_dir(scratch.path())
        .env("ZIG_GLOBAL_CACHE_DIR", run.layout.zig_cache())
        .env("ZIG_LOCAL_CACHE_DIR", run.layout.zig_cache())
        .args(ZIG_CC)
        .args(["-I.", "backend.c", "memory.c"])
        // Its header is read where it is included.
        .args(generated.iter().filter(|name| !name.ends_with(".h")))
        .arg("-o")
        .arg(&output);
    child::run(run, &mut step, &mut zig, &run.log(C))?;
    let component = backends::wrap(&read(&output)?)?;
    let backend = backends::put_as(run, C, &component)?;
    step.done("zig cc, wit-bindgen");
    Ok(Some(backend))
}

/// Runs the conformance suite on each, from its golden requests: a failure, or a claim that nothing
/// tried, ends this.
fn prove(run: &Run, built: &[Backend]) -> Result<()> {
    let mut step = run.report.step(SUITE);
    let log = run.log(SUITE);
    let mut build = cargo::command(run);
    // By the package alone its dependencies would have other features, and be built anew.
    build.args(["build", "--bin", SUITE]);
    child::run(run, &mut step, &mut build, &log)?;
    for (name, folder, tier) in [
        (JAVASCRIPT, "javascript", "std"),
        (PYTHON, "python", "std"),
        (C, "c", "strict"),
    ] {
        let Some(backend) = built.iter().find(|backend| backend.name == name) else {
            continue;
        };
        step.progress(name);
        let mut suite = child::program(run.layout.target().join("debug").join(SUITE));
        suite
            .arg(&backend.path)
            .args(["--proven", "--tier", tier, "--golden"])
            .arg(run.layout.examples().join(folder).join("tests/golden"));
        child::run(run, &mut step, &mut suite, &log)?;
    }
    step.done("the examples conform in all that they claim");
    Ok(())
}

/// Writes the contract in C into `folder`; the names of the files.
fn bindings(contract: &Path, folder: &Path) -> Result<Vec<String>> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(contract)?;
    let world = resolve.select_world(&[package], Some(WORLD))?;
    let mut files = Files::default();
    let mut generator = wit_bindgen_c::Opts::default().build();
    generator.generate(&mut resolve, world, &mut files)?;
    let mut names = Vec::new();
    for (name, content) in files.iter() {
        let path = folder.join(name);
        std::fs::write(&path, content)
            .with_context(|| format!("cannot write {}", path.display()))?;
        names.push(name.to_owned());
    }
    Ok(names)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to)
        .map(|_| ())
        .with_context(|| format!("cannot copy {}", from.display()))
}

/// Files of a folder that has no folders in it.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    let entries = std::fs::read_dir(from);
    for entry in entries.with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry.with_context(|| format!("cannot read {}", from.display()))?;
        let kind = entry.file_type();
        if kind.is_ok_and(|kind| kind.is_file()) {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        } else if entry.file_name() != "__pycache__" {
            bail!("{} is no file", entry.path().display());
        }
    }
    Ok(())
}
