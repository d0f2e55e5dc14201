//! What the daemon and the launcher of a VM's QEMU say to each other and leave for each other.
//!
//! One launcher stands beside every VM, as the parent of its QEMU. It gives up its rights, puts
//! QEMU into a sandbox and starts it, keeps what QEMU and its guest say in files with a cap, and
//! writes down how QEMU ended. It outlives the daemon, so that these hold while no daemon runs.
//!
//! The words are [`spec`], the files that stay are [`log`] and [`exit`], and [`needs`] lists what
//! of the system QEMU has to read.

pub mod exit;
pub mod log;
pub mod needs;
pub mod reply;
pub mod spec;

/// Name of the program.
pub const PROGRAM: &str = "casemate-launch";
