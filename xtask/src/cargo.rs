//! Starting Cargo from inside Cargo.
//!
//! `cargo run` describes this crate to it in dozens of variables. Passed on, they would make an
//! inner Cargo rebuild things, or build them with the wrong compiler.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::child;
use crate::run::Run;

/// Variables that `cargo run` sets for the program it runs and nobody else should see.
const OF_THE_OUTER_CARGO: [&str; 4] = [
    "CARGO_CRATE_NAME",
    "CARGO_BIN_NAME",
    "CARGO_PRIMARY_PACKAGE",
    "LD_LIBRARY_PATH",
];
const PREFIXES_OF_THE_OUTER_CARGO: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_EXE_"];

/// What a build for WebAssembly must not inherit either: its result depends on the sources alone.
const BUILD_SETTINGS: [&str; 11] = [
    "CARGO",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_TARGET_DIR",
    "RUSTC",
    "RUSTC_BOOTSTRAP",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
];
const PREFIXES_OF_BUILD_SETTINGS: [&str; 4] = [
    "CARGO_BUILD_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "CARGO_UNSTABLE_",
];

/// The Cargo that started us, in the workspace, with the caller's own settings.
pub fn command(run: &Run) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = child::program(cargo);
    command.current_dir(run.layout.workspace());
    forget(
        &mut command,
        &OF_THE_OUTER_CARGO,
        &PREFIXES_OF_THE_OUTER_CARGO,
    );
    command
}

/// Some Cargo, in the workspace, with none of the settings that change what it builds.
pub fn hermetic_command(run: &Run, cargo: &std::ffi::OsStr) -> Command {
    let mut command = child::program(cargo);
    command.current_dir(run.layout.workspace());
    forget(
        &mut command,
        &OF_THE_OUTER_CARGO,
        &PREFIXES_OF_THE_OUTER_CARGO,
    );
    forget(&mut command, &BUILD_SETTINGS, &PREFIXES_OF_BUILD_SETTINGS);
    command
}

fn forget(command: &mut Command, names: &[&str], prefixes: &[&str]) {
    for (name, _) in std::env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        if names.contains(&text) || prefixes.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
}

/// The folder where `cargo build` puts its results, as Cargo itself sees it.
pub fn target_directory(run: &Run) -> Result<PathBuf> {
    let text = child::capture(
        run,
        command(run).args(["metadata", "--no-deps", "--format-version", "1"]),
    )?;
    let metadata: serde_json::Value =
        serde_json::from_str(&text).context("cargo metadata printed no JSON")?;
    metadata["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .context("cargo metadata names no target directory")
}

/// Cargo's own folder, where the sources of dependencies lie.
pub fn home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(PathBuf::from(home));
    }
    std::env::home_dir()
        .map(|home| home.join(".cargo"))
        .context("neither CARGO_HOME nor a home directory is known")
}
