//! Building backends: crates to core modules to components.
//!
//! The crates are compiled for a target without an operating system, so that the components import
//! nothing but what the contract offers. Wrapping a module into a component, with the checks that
//! belong to it, is done in this process.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use sha2::{Digest, Sha256};
use wit_component::ComponentEncoder;

use crate::child;
use crate::failure::InStep;
use crate::report::Step;
use crate::run::Run;
use crate::wasm_toolchain::{self, TARGET, Tree, WasmToolchain};

/// A crate and the name of the component that is made of it.
#[derive(Clone, Copy, Debug)]
struct Source {
    backend: &'static str,
    package: &'static str,
}

/// The shipped backends, and those that exist for tests.
const SOURCES: [Source; 10] = [
    Source {
        backend: "plain-kvm",
        package: "casemate-plain-kvm",
    },
    Source {
        backend: "sev-snp",
        package: "casemate-sev-snp",
    },
    Source {
        backend: "tdx",
        package: "casemate-tdx",
    },
    Source {
        backend: "broken",
        package: "casemate-fixture-broken",
    },
    Source {
        backend: "gauge",
        package: "casemate-fixture-gauge",
    },
    Source {
        backend: "mirror",
        package: "casemate-fixture-mirror",
    },
    Source {
        backend: "misbehaving",
        package: "casemate-fixture-misbehaving",
    },
    Source {
        backend: "sealed",
        package: "casemate-fixture-sealed",
    },
    Source {
        backend: "umbra",
        package: "casemate-fixture-umbra",
    },
    Source {
        backend: "worldly",
        package: "casemate-fixture-worldly",
    },
];

/// Small, since components are read and compiled at every start of the daemon; names of functions
/// stay, because a trap is told with them.
const PROFILE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s"),
    ("CARGO_PROFILE_RELEASE_LTO", "true"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
    ("CARGO_PROFILE_RELEASE_STRIP", "debuginfo"),
];

/// A component on disk.
#[derive(Clone, Debug)]
pub struct Backend {
    pub name: &'static str,
    pub path: PathBuf,
    pub sha256: String,
    pub size: u64,
}

/// Prepares a toolchain, builds every backend that is out of date and lists them all.
pub fn build(run: &Run) -> Result<Vec<Backend>> {
    build_with(run, &toolchain(run)?)
}

/// The same with a toolchain that is prepared.
pub(crate) fn build_with(run: &Run, toolchain: &WasmToolchain) -> Result<Vec<Backend>> {
    toolchain.write_for_tests(run).in_step(
        "writing down the toolchain",
        "see that target/ can be written",
    )?;
    build_all(run, toolchain).in_step(
        "building the backends",
        "see the compiler's message above; the whole log is target/setup/backends.log",
    )
}

pub(crate) fn toolchain(run: &Run) -> Result<WasmToolchain> {
    wasm_toolchain::prepare(run).in_step(
        "preparing the WebAssembly toolchain",
        "set CASEMATE_WASM_TOOLCHAIN=rustup and install the target wasm32-unknown-unknown",
    )
}

/// The component of one backend, made of the sources of `tree` just as [`build`] makes it.
pub(crate) fn component_of(
    run: &Run,
    step: &mut Step<'_>,
    toolchain: &WasmToolchain,
    tree: &Tree,
    backend: &str,
    log: &Path,
) -> Result<Vec<u8>> {
    let source = SOURCES.iter().find(|source| source.backend == backend);
    let source = *source.ok_or_else(|| anyhow!("there is no backend {backend:?}"))?;
    compile(run, step, toolchain, tree, &[source], log)?;
    component(tree, source)
}

fn build_all(run: &Run, toolchain: &WasmToolchain) -> Result<Vec<Backend>> {
    let tree = Tree::of_the_workspace(run);
    let mut step = run.report.step("backends");
    let log = run.log("backends");
    compile(run, &mut step, toolchain, &tree, &SOURCES, &log)?;
    step.progress("wrapping components");
    let backends = SOURCES
        .iter()
        .map(|source| put(run, *source, &component(&tree, *source)?))
        .collect::<Result<Vec<_>>>()?;
    step.done(&format!(
        "{} components, {}",
        backends.len(),
        toolchain.description()
    ));
    list(run, &backends);
    Ok(backends)
}

pub(crate) fn list(run: &Run, backends: &[Backend]) {
    for backend in backends {
        run.report.note(&format!(
            "  {:24} {:>5} KiB  sha256 {}",
            format!("{}.wasm", backend.name),
            backend.size / 1024,
            backend.sha256
        ));
    }
}

fn compile(
    run: &Run,
    step: &mut Step<'_>,
    toolchain: &WasmToolchain,
    tree: &Tree,
    sources: &[Source],
    log: &Path,
) -> Result<()> {
    let mut command = toolchain.cargo_build(run, tree)?;
    command.args(["--release", "--lib"]).envs(PROFILE);
    for source in sources {
        command.args(["--package", source.package]);
    }
    child::run(run, step, &mut command, log)
}

/// Makes the component of the module that Cargo left. This takes milliseconds, so it is done each
/// time, and no clock or stamp can make it miss a change.
fn component(tree: &Tree, source: Source) -> Result<Vec<u8>> {
    let module = tree
        .target
        .join(TARGET)
        .join("release")
        .join(format!("{}.wasm", source.package.replace('-', "_")));
    let bytes = std::fs::read(&module).with_context(|| {
        format!(
            "{} left no {}; its crate-type must include cdylib",
            source.package,
            module.display()
        )
    })?;
    wrap(&bytes).with_context(|| format!("{} does not make a component", source.package))
}

/// The component of a core module that was built against the contract.
pub(crate) fn wrap(module: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode())
}

fn put(run: &Run, source: Source, component: &[u8]) -> Result<Backend> {
    put_as(run, source.backend, component)
}

/// Puts a component of that name beside the others.
pub(crate) fn put_as(run: &Run, name: &'static str, component: &[u8]) -> Result<Backend> {
    let path = run.layout.backend(name);
    if std::fs::read(&path).ok().as_deref() != Some(component) {
        replace(run, &path, component)?;
    }
    Ok(Backend {
        name,
        sha256: format!("{:x}", Sha256::digest(component)),
        size: component.len() as u64,
        path,
    })
}

/// Writes beside and renames, so that a daemon that reloads never reads half a component.
fn replace(run: &Run, path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = run.layout.backends();
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let part = path.with_extension("wasm.part");
    std::fs::write(&part, bytes)
        .and_then(|()| std::fs::rename(&part, path))
        .with_context(|| format!("cannot write {}", path.display()))
}
