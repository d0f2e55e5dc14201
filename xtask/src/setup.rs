//! Everything a machine needs, in the order in which it is told. Each part is skipped when it is
//! there already, so that a second run takes no time.

use anyhow::Result;

use crate::failure::InStep;
use crate::run::Run;
use crate::{
    distribution, firmware, guest_image, oracles, qemu_backports, qemu_newest, system_packages,
    wasm_toolchain,
};

const RETRY: &str = "check the network and the logs in target/setup, then run the command again";

/// What `cargo xtask setup` does: all that the other chores would do on their way.
pub fn everything(run: &Run) -> Result<()> {
    for_a_guest(run)?;
    wasm_toolchain::prepare(run).in_step(
        "preparing the WebAssembly toolchain",
        "set CASEMATE_WASM_TOOLCHAIN=rustup and install the target wasm32-unknown-unknown",
    )?;
    for_the_tests(run)
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

/// What the tests use beside the installed QEMU: newer ones, a registry, firmware for confidential guests, what
/// measurements are compared with, and programs of the distribution.
pub fn for_the_tests(run: &Run) -> Result<()> {
    system_packages::ensure(run, &system_packages::FOR_TESTS).in_step(
        "installing what tests start",
        "install the packages named above by hand, then run the command again",
    )?;
    qemu_backports::prepare(run).in_step("unpacking a newer QEMU", RETRY)?;
    qemu_newest::prepare(run).in_step("unpacking the newest QEMU", RETRY)?;
    distribution::prepare(run).in_step("unpacking a registry", RETRY)?;
    firmware::prepare(run).in_step("unpacking firmware for confidential guests", RETRY)?;
    oracles::prepare(run).in_step("preparing what measurements are compared with", RETRY)
}
