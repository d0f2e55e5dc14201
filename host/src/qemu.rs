//! QEMU: what the installed binary knows, which arguments a plan becomes, and the process.
//!
//! `check` holds a plan against what config grants and what the installed QEMU has; `command` turns
//! a checked plan into arguments, and is the one place that does; `process` is the one place that
//! starts processes; `vm_process` is a VM's QEMU and its launcher; `qmp` speaks to them;
//! `descriptors` reads what packages say of their firmware. `check`, `absent`, `command` and
//! `keyval` are pure.

mod absent;
pub mod check;
pub mod command;
pub mod descriptors;
pub mod keyval;
pub mod paths;
pub mod process;
pub mod qmp;
pub mod schema;
pub mod tool;
mod type_names;
pub mod vm_process;

pub use type_names::cpu_type;
