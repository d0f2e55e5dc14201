//! Everything a machine needs, in the order in which it is told. Each part is skipped when it is
//! there already, so that a second run takes no time.

use anyhow::Result;

use crate::failure::InStep;
use crate::run::Run;
use crate::{guest_image, qemu_backports, system_packages, wasm_toolchain};

const RETRY: &str = "check the network and the logs in target/setup, then run the command again";

/// What `cargo xtask setup` does: all that the other chores would do on their way.
pub fn everything(run: &Run) -> Result<()> {
    for_a_guest(run)?;
    wasm_toolchain::prepare(run).in_step(
        "preparing the WebAssembly toolchain",
        "set CASEMATE_WASM_TOOLCHAIN=rustup and install the target wasm32-unknown-unknown",
    )?;
    newer_qemu(run)
}

/// QEMU and a guest to run in it.
pub fn for_a_guest(run: &Run) -> Result<()> {
    run.report.heading("Set-up");
    system_packages::ensure(run, &system_packages::FOR_EVERYONE).in_step(
        "installing distribution packages",
        "install the packages named above by hand, then run the command again",
    )?;
    guest_image::prepare(run).in_step("preparing the guest image", RETRY)
}

/// The second QEMU that the tests use.
pub fn newer_qemu(run: &Run) -> Result<()> {
    qemu_backports::prepare(run).in_step("unpacking a newer QEMU", RETRY)
}
