//! `cargo xtask`: everything between a fresh clone and a confidential VM that answers.
//!
//! These chores live here because neither Cargo nor a shell script does them well: installing what
//! the machine lacks, building backends for WebAssembly with whichever toolchain can, preparing a
//! guest that boots in seconds, running the daemon with it once, from start to clean end, measuring
//! the release build, booting a systemd that may be played with, booting a whole host, killing the
//! daemon under traffic, VMs that come and go for long, rules that are taken out of a backend, and
//! parts out of the interfaces, to see that a test misses them, and building backends that are written
//! in other languages.
//!
//! What is downloaded or built is kept under `target/`, each product made in a scratch folder and
//! renamed into place, so that an interrupted run leaves nothing half made. Processes, listeners
//! and folders outside `target/` belong to guards that are dropped on every way out.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "talking to the person at the terminal is what this program is for"
)]

pub mod layout;
pub mod report;

pub mod child;
pub mod failure;
pub mod interrupt;
pub mod orphans;
pub mod run;

pub mod private_apt;
pub mod system_packages;

pub mod backends;
pub mod cargo;
pub mod firmware;
pub mod guest_image;
pub mod kernel_module;
pub mod newc;
pub mod oracles;
mod python;
pub mod qemu_backports;
pub mod qemu_newest;
pub mod setup;
pub mod wasm_toolchain;

pub mod bench;
pub mod chaos;
pub mod demo;
pub mod distribution;
pub mod effects;
pub mod endurance;
pub mod languages;
pub mod mutants;
pub mod schemathesis;
pub mod system_vm;
pub mod systemd;
pub mod test_suite;
