//! Which Rust builds for WebAssembly on this machine.
//!
//! The order: an installed rustup target; a toolchain unpacked by an earlier run; on Debian and
//! Ubuntu the distribution's `rustc-web`, unpacked under `target/` with the standard library built
//! from its own sources (so that compiler and library always match); else `rustup target add`.
//! `CASEMATE_WASM_TOOLCHAIN=rustup|debian` forces one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::private_apt::{Archive, PrivateApt};
use crate::report::Step;
use crate::run::Run;
use crate::{cargo, child, layout, system_packages};

pub const TARGET: &str = "wasm32-unknown-unknown";

const FORCING_VARIABLE: &str = "CASEMATE_WASM_TOOLCHAIN";
const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const RECIPE: &str = "rustc-web 1";
/// The workspace's `rust-version`; an older compiler refuses its crates.
const OLDEST_MINOR: u32 = 95;

/// Sources that are built, and Cargo's target folder for it.
#[derive(Clone, Debug)]
pub struct Tree {
    pub workspace: PathBuf,
    pub target: PathBuf,
}

impl Tree {
    /// The workspace itself. The target folder is apart, since it is another toolchain's.
    pub fn of_the_workspace(run: &Run) -> Self {
        Self {
            workspace: run.layout.workspace().to_owned(),
            target: run.layout.wasm_target(),
        }
    }
}

/// A toolchain that is ready to build.
#[derive(Debug)]
pub struct WasmToolchain {
    kind: Kind,
    linker: Option<PathBuf>,
    description: String,
}

/// The standard library is built too, for want of one that is installed.
const BUILD_STD: &str = "-Zbuild-std=std,panic_abort";

#[derive(Debug)]
enum Kind {
    /// The caller's own, with the target's standard library installed.
    Rustup,
    /// Unpacked at this root; it builds the standard library itself.
    Debian { root: PathBuf },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Best,
    Rustup,
    Debian,
}

impl Choice {
    fn from_environment() -> Result<Self> {
        match std::env::var(FORCING_VARIABLE).as_deref() {
            Err(_) | Ok("") => Ok(Self::Best),
            Ok("rustup") => Ok(Self::Rustup),
            Ok("debian") => Ok(Self::Debian),
            Ok(other) => bail!("{FORCING_VARIABLE} is {other:?}; it may be rustup or debian"),
        }
    }
}

/// Finds or prepares a toolchain.
pub fn prepare(run: &Run) -> Result<WasmToolchain> {
    let choice = Choice::from_environment()?;
    let mut step = run.report.step("WebAssembly toolchain");
    step.progress("looking for an installed target");
    if choice != Choice::Debian && rustup_target_is_installed(run) {
        return rustup_toolchain(step, "the installed target (installed)");
    }
    if choice != Choice::Rustup {
        let root = run.layout.toolchain();
        if let Some(made_from) = layout::made_from(&root)
            && let Some(version) = made_from.strip_prefix(RECIPE)
        {
            let description = format!("rustc-web{version}");
            step.done(&format!("{description} (cached)"));
            return debian_toolchain(run, root, description);
        }
        match unpack_debian(run, &mut step)? {
            Ok(description) => {
                step.done(&description);
                return debian_toolchain(run, root, description);
            }
            Err(reason) if choice == Choice::Debian => bail!("{reason}"),
            Err(_) => {}
        }
    }
    if !child::is_on_path("rustup") {
        bail!(
            "no Rust here builds for {TARGET}, and there is no rustup to add the target with; \
             please install the target's standard library"
        );
    }
    step.note(&format!("running rustup target add {TARGET}"));
    child::run(
        run,
        &mut step,
        child::program("rustup").args(["target", "add", TARGET]),
        &run.log("toolchain"),
    )
    .with_context(|| format!("rustup could not add {TARGET}"))?;
    rustup_toolchain(step, "rustup's target (added)")
}

fn rustup_toolchain(step: Step<'_>, description: &str) -> Result<WasmToolchain> {
    step.done(description);
    Ok(WasmToolchain {
        kind: Kind::Rustup,
        linker: None,
        description: description.to_owned(),
    })
}

fn debian_toolchain(run: &Run, root: PathBuf, description: String) -> Result<WasmToolchain> {
    let linker = match rust_lld(run)? {
        Some(linker) => linker,
        None => {
            system_packages::ensure(run, &["lld"])?;
            child::find_on_path("wasm-ld").context("the package lld brought no wasm-ld")?
        }
    };
    Ok(WasmToolchain {
        kind: Kind::Debian { root },
        linker: Some(linker),
        description,
    })
}

fn rustup_target_is_installed(run: &Run) -> bool {
    let folder = child::capture(
        run,
        rustc(run).args(["--print", "target-libdir", "--target", TARGET]),
    );
    let Ok(entries) = folder.and_then(|folder| Ok(std::fs::read_dir(folder.trim())?)) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    })
}

/// The compiler that Cargo uses for this workspace.
fn rustc(run: &Run) -> Command {
    let mut command = child::program("rustc");
    command.current_dir(run.layout.workspace());
    command
}

/// The linker that rustup's compiler brings along.
fn rust_lld(run: &Run) -> Result<Option<PathBuf>> {
    let sysroot = child::capture(run, rustc(run).args(["--print", "sysroot"]))?;
    let Ok(entries) = std::fs::read_dir(Path::new(sysroot.trim()).join("lib/rustlib")) else {
        return Ok(None);
    };
    Ok(entries
        .flatten()
        .map(|entry| entry.path().join("bin/rust-lld"))
        .find(|path| path.is_file()))
}

/// Unpacks the distribution's compiler, or says why it cannot be used.
fn unpack_debian(run: &Run, step: &mut Step<'_>) -> Result<Result<String, String>> {
    if !PrivateApt::is_possible() {
        return Ok(Err("this is neither Debian nor Ubuntu".to_owned()));
    }
    step.progress("looking for rustc-web");
    let apt = PrivateApt::open(run, step)?;
    let Some(version) = apt.candidate(Archive::Release, PACKAGES[0])? else {
        return Ok(Err("the distribution has no rustc-web".to_owned()));
    };
    if minor(&version) < Some(OLDEST_MINOR) {
        return Ok(Err(format!(
            "rustc-web {version} is older than 1.{OLDEST_MINOR}"
        )));
    }
    let packages: Vec<String> = apt
        .closure(Archive::Release, &PACKAGES)?
        .iter()
        .map(ToString::to_string)
        .collect();
    step.note(&format!(
        "unpacking {} {version} and their libraries (not installed)",
        PACKAGES.join(", ")
    ));
    let scratch = run.scratch()?;
    apt.unpack(step, &packages, scratch.path())?;
    let upstream = version.split('+').next().unwrap_or(&version).to_owned();
    layout::put_in_place(
        scratch.path(),
        &run.layout.toolchain(),
        &format!("{RECIPE} {upstream}"),
    )?;
    Ok(Ok(format!("rustc-web {upstream}")))
}

/// The second number of `1.96.0+dfsg1-1`.
fn minor(version: &str) -> Option<u32> {
    version.split('.').nth(1)?.parse().ok()
}

impl WasmToolchain {
    /// How Cargo is called for a crate elsewhere, such as a vendor's: its program, variables, and
    /// further arguments of `cargo build`. Written down for the tests that are such a vendor.
    pub fn write_for_tests(&self, run: &Run) -> Result<()> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut variables = serde_json::Map::new();
        if let Some(linker) = &self.linker {
            let key = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER".to_owned();
            variables.insert(key, text(linker).into());
        }
        let mut arguments = Vec::new();
        if let Kind::Debian { root } = &self.kind {
            let bin = root.join("usr/bin");
            let libraries = search_path(&library_folders(root)?)?;
            variables.insert("CARGO".to_owned(), text(&bin.join("cargo")).into());
            variables.insert("RUSTC".to_owned(), text(&bin.join("rustc")).into());
            variables.insert(
                "LD_LIBRARY_PATH".to_owned(),
                text(Path::new(&libraries)).into(),
            );
            variables.insert("RUSTC_BOOTSTRAP".to_owned(), "1".into());
            arguments.push(BUILD_STD);
        }
        let document = serde_json::json!({"variables": variables, "arguments": arguments});
        let path = run.layout.wasm_toolchain_of_tests();
        std::fs::write(&path, document.to_string())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    pub fn description(&self) -> &str {
        &self.description
    }

    /// `cargo build` for the target, without packages and profile, with all that makes the result
    /// depend on the sources alone.
    pub fn cargo_build(&self, run: &Run, tree: &Tree) -> Result<Command> {
        let mut command = match &self.kind {
            Kind::Rustup => {
                let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
                cargo::hermetic_command(run, &cargo)
            }
            Kind::Debian { root } => {
                let bin = root.join("usr/bin");
                let mut command = cargo::hermetic_command(run, bin.join("cargo").as_os_str());
                command
                    .env("RUSTC", bin.join("rustc"))
                    .env("LD_LIBRARY_PATH", search_path(&library_folders(root)?)?)
                    // The library is built by options that only nightly compilers take otherwise.
                    .env("RUSTC_BOOTSTRAP", "1");
                command
            }
        };
        command.args(["build", "--locked", "--target", TARGET]);
        if let Kind::Debian { .. } = self.kind {
            command.arg(BUILD_STD);
        }
        command
            .current_dir(&tree.workspace)
            .arg("--target-dir")
            .arg(&tree.target)
            .env("CARGO_ENCODED_RUSTFLAGS", self.compiler_flags(tree)?);
        if let Some(linker) = &self.linker {
            command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
        Ok(command)
    }

    /// Paths of this machine are replaced, so that two machines build the same bytes.
    fn compiler_flags(&self, tree: &Tree) -> Result<OsString> {
        let mut flags = OsString::new();
        let mut remap = |from: &Path, to: &str| {
            if !flags.is_empty() {
                // Cargo's separator in this variable; flags may hold spaces.
                flags.push("\x1f");
            }
            flags.push("--remap-path-prefix=");
            flags.push(from);
            flags.push("=");
            flags.push(to);
        };
        // Of several prefixes that match, the compiler takes the last.
        remap(&cargo::home()?, "/cargo");
        remap(&tree.workspace, "/casemate");
        if let Kind::Debian { root } = &self.kind {
            remap(root, "/toolchain");
        }
        Ok(flags)
    }
}

fn search_path(folders: &[PathBuf]) -> Result<OsString> {
    std::env::join_paths(folders).context("a folder's name holds a colon")
}

/// `usr/lib/<architecture>-linux-gnu` of an unpacked root, whatever the architecture.
fn library_folders(root: &Path) -> Result<Vec<PathBuf>> {
    let folder = root.join("usr/lib");
    let entries =
        std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() && path.to_string_lossy().ends_with("-linux-gnu"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_decides_about_the_distributions_compiler() {
        assert_eq!(minor("1.96.0+dfsg1-1~deb12u2"), Some(96));
        assert!(minor("1.85.0+dfsg3-1") < Some(OLDEST_MINOR));
        assert!(minor("nonsense") < Some(OLDEST_MINOR));
    }
}
