//! The launcher as a process, with small programs in QEMU's place: the subject is what becomes of
//! any child, and a shell shows it from within, which QEMU cannot.

#![expect(clippy::disallowed_methods, reason = "tests start the launcher")]
#![expect(clippy::print_stderr, reason = "a skip says why")]
#![expect(clippy::unwrap_used, reason = "an error fails the test")]

mod harness;
mod launching;
mod lifecycle;
mod logs;
mod qemu;
mod sandbox;
