//! Parent of one VM's QEMU: gives up its rights, starts QEMU in a sandbox, keeps what it says and
//! writes down how it ended.
//!
//! ```text
//! casemated ──spec, keep──▶ casemate-launch ──▶ casemate-launch confine ──exec──▶ QEMU
//!           ◀──started──── (stage one, stays)   (stage two, restricts itself)
//! ```
//!
//! There are two stages because Landlock must hold for QEMU and not for its parent: a QEMU that was
//! taken over then cannot signal the launcher, which runs as the same user. The second stage is
//! this program again, so that nothing is done between fork and exec by hand.

mod confine;
mod descriptors;
mod launch;
mod privileges;
mod watch;

use std::process::ExitCode;

/// The word that makes this the second stage.
const CONFINE: &str = "confine";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (None, None) => launch::run(),
        (Some(word), None) if word == CONFINE => confine::run(),
        _ => ExitCode::from(64), // EX_USAGE of sysexits(3)
    }
}
