//! The host of Casemate: everything that owns QEMU processes, limits and APIs, and that knows no
//! TEE. `casemated` is this library with a thin `main`.
//!
//! Reading order: `spec` (values), `backend` (WebAssembly), `qemu` (arguments, processes, QMP),
//! `vm` (one task per VM), `api`, `app`. ARCHITECTURE.md has the map.

pub mod failpoint;
pub mod regular_file;
pub mod spec;

pub mod backend;
pub mod confine;
pub mod lease;
pub mod metrics;
pub mod probe;
pub mod qemu;
pub mod store;

pub mod vm;

pub mod api;
pub mod app;
pub mod config;
