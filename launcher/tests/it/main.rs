//! The launcher as a process, with small programs in QEMU's place: the subject is what becomes of
//! any child, and a shell shows it from within, which QEMU cannot.

#![allow(clippy::disallowed_methods, reason = "tests start the launcher")]

mod harness;
mod launching;
mod lifecycle;
mod logs;
mod qemu;
mod sandbox;
