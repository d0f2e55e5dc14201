//! For those who write a backend: the contract's types, and what every backend does alike.
//!
//! A backend is three pure functions over the records of the contract (`describe`, `check`, `plan`)
//! and one line that exports them, `bindings::export_backend!`. What is in this crate is what a rule about
//! QEMU or about the contract asks of all of them; what a technology asks is the backend's own.
//!
//! ```text
//! bindings   generated from wit/: records, the host's functions, the export macro
//! arbitrary  requests and facts of any kind, for property tests
//! announce   facts, settings and types that backends announce alike
//! answer     errors and findings, safe to show
//! settings   one key each: announcement, reading, form
//! host       what is looked at on every host: architecture, accelerator, QEMU's version
//! guard      the same for a technology that KVM has to know: VM type, slots
//! identity   the digest that binds a guest to its workload
//! machine    the versioned PC that a plan names
//! boot       kernel or disk: which files QEMU gets
//! memory     size of the guest's memory, and the object that backs it
//! facts      answers of the host, asked once
//! files      bytes of the request's files
//! names      what QEMU takes as a name and as an id
//! register   registers that a verifier will see
//! harness    a plan natively: requests to begin with, and what the host would find wrong
//! firmware   what an OVMF image or an IGVM file holds
//! panics     the message of a panic reaches the daemon's log
//! ```

#![deny(unsafe_code)]

/// OVMF's tables of GUIDs, its SEV and TDX metadata, and IGVM files.
pub use casemate_firmware as firmware;

pub mod announce;
pub mod answer;
#[cfg(feature = "arbitrary")]
pub mod arbitrary;
pub mod bindings;
pub mod boot;
pub mod facts;
pub mod files;
pub mod guard;
pub mod harness;
pub mod host;
pub mod identity;
pub mod machine;
pub mod memory;
pub mod names;
pub mod panics;
pub mod register;
pub mod settings;
