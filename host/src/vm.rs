//! VMs: one task owns each, and nobody else changes it.
//!
//! ```text
//!            launch                    QEMU ends
//!  Creating ───────▶ Starting ─▶ Running ─────▶ Exited
//!     │                 │           │              │
//!     │ failure         │ failure   │ remove, TTL  │ remove, TTL
//!     ▼                 ▼           ▼              ▼
//!  (unwound, not listed)        Removing ──▶ (not listed)
//! ```
//!
//! `manager` is the registry and the admission; `planning` turns a wish into a checked plan;
//! `launch` is the recipe from plan to running QEMU; `task` owns the VM from then on; `stop` is the
//! ladder down. Everyone else reads the status that the task publishes.

pub mod adopt;
pub mod attestation;
pub mod catalogued;
pub mod config;
pub mod console;
pub mod doctor;
pub mod error;
pub mod events;
pub mod facts;
pub mod files;
pub mod images;
mod keyed;
pub mod launch;
pub mod live;
pub mod manager;
pub mod measuring;
pub mod planning;
pub mod reloading;
pub mod sealed;
pub mod shares;
pub mod standalone;
pub mod status;

mod disk;
mod forward;
pub mod task;
