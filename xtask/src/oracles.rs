//! What the tests of measurements compare with: firmware of a published package, sev-snp-measure in
//! a Python of its own, and a program with the crate `igvm`.
//!
//! All of it is made once, below `target/tools`, from what registries have published under a version
//! that does not change.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::python::{self, PythonTool};
use crate::run::Run;
use crate::{cargo, child, layout};

/// Makes what is missing of all three.
pub fn prepare(run: &Run) -> Result<()> {
    published(run)?;
    sev_snp_measure(run)?;
    igvm(run)
}

/// The package that has images of edk2 for its own tests, and where in it.
const PACKAGE: &str = "sev";
const VERSION: &str = "8.0.0";
const FOLDER: &str = "tests/measurement";
/// The last pages of builds of edk2-stable202405: for AmdSev and for OvmfX64.
const IMAGES: [&str; 2] = ["ovmf_AmdSev_suffix.bin", "ovmf_OvmfX64_suffix.bin"];

/// Cargo unpacks a dependency with all of its files, so a manifest is all it takes.
fn published(run: &Run) -> Result<()> {
    let mut step = run.report.step("published firmware");
    let product = run.layout.published();
    let recipe = format!("published 1 {PACKAGE}-{VERSION}");
    if layout::made_from(&product).as_deref() == Some(&recipe) {
        step.done(&format!("{PACKAGE} {VERSION} (cached)"));
        return Ok(());
    }
    let package = run.scratch()?;
    let manifest = package.path().join("Cargo.toml");
    let text = format!(
        "[workspace]\n\n[package]\nname = \"published\"\nedition = \"2024\"\n\n[lib]\npath = \
         \"lib.rs\"\n\n[dependencies]\n{PACKAGE} = {{ version = \"={VERSION}\", default-features = \
         false }}\n"
    );
    write(&manifest, &text)?;
    write(&package.path().join("lib.rs"), "")?;
    let mut fetch = cargo::command(run);
    fetch.args(["fetch", "--manifest-path"]).arg(&manifest);
    child::run(run, &mut step, &mut fetch, &run.log("published"))?;
    let from = unpacked(run, &manifest)?.join(FOLDER);
    let scratch = run.scratch()?;
    for name in IMAGES {
        std::fs::copy(from.join(name), scratch.path().join(name))
            .with_context(|| format!("{PACKAGE} {VERSION} has no {FOLDER}/{name}"))?;
    }
    layout::put_in_place(scratch.path(), &product, &recipe)?;
    step.done(&format!("{PACKAGE} {VERSION}"));
    Ok(())
}

/// Where the sources of the package lie.
fn unpacked(run: &Run, manifest: &Path) -> Result<PathBuf> {
    let mut metadata = cargo::command(run);
    metadata
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(manifest);
    let metadata = child::capture(run, &mut metadata)?;
    let metadata: serde_json::Value =
        serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let package = packages
        .iter()
        .find(|package| package["name"] == PACKAGE && package["version"] == VERSION);
    let manifest = package
        .and_then(|package| package["manifest_path"].as_str())
        .with_context(|| format!("cargo metadata tells of no {PACKAGE} {VERSION}"))?;
    let folder = Path::new(manifest).parent();
    Ok(folder.context("a manifest lies in a folder")?.to_owned())
}

/// An environment with the tool alone.
fn sev_snp_measure(run: &Run) -> Result<()> {
    python::ensure(
        run,
        &PythonTool {
            name: "sev-snp-measure",
            requirements: run.layout.sev_snp_measure_requirements(),
            product: run.layout.sev_snp_measure(),
            module: "sevsnpmeasure.guest",
        },
    )
}

const IGVM_PROGRAM: &str = "casemate-igvm-oracle";

/// Built anew when its sources change.
fn igvm(run: &Run) -> Result<()> {
    let mut step = run.report.step("igvm oracle");
    let package = run.layout.igvm_oracle_sources();
    let mut sources = Vec::new();
    for name in ["Cargo.toml", "Cargo.lock", "src/main.rs"] {
        let path = package.join(name);
        let text =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        sources.extend(text);
    }
    let recipe = format!("igvm-oracle 1 {}", layout::digest(&sources));
    let product = run.layout.igvm_oracle();
    if layout::made_from(&product).as_deref() == Some(&recipe) {
        step.done("cached");
        return Ok(());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Without the caller's settings, which could have the program elsewhere.
    let mut build = cargo::hermetic_command(run, &cargo);
    build
        .args(["build", "--locked", "--manifest-path"])
        .arg(package.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(run.layout.target());
    child::run(run, &mut step, &mut build, &run.log("igvm-oracle"))?;
    let scratch = run.scratch()?;
    let built = run.layout.target().join("debug").join(IGVM_PROGRAM);
    std::fs::copy(&built, scratch.path().join(IGVM_PROGRAM))
        .with_context(|| format!("cannot copy {}", built.display()))?;
    layout::put_in_place(scratch.path(), &product, &recipe)?;
    step.done("built");
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
