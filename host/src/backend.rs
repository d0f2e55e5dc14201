//! Backends: WebAssembly components that decide what is particular to a technology.
//!
//! A backend is untrusted. It is loaded through one pipeline (`component`), runs in a fresh store
//! for each call with limits on memory, time, output, log and facts (`call`), sees only what
//! `imports` gives it, and in the tier `std` a WASI without a world behind it (`wasi`), and what it
//! answers is turned into domain values by `convert`, which refuses what breaks the contract.
//!
//! ```text
//!  file ──load──▶ LoadedBackend ──plan(request)──▶ fresh Store ──▶ WIT plan ──convert──▶ LaunchPlan
//!        size, pin, signature,      deadline, limits                        or CallError
//!        tier, version,
//!        compile, describe
//! ```
//!
//! Three classes of failure are never mixed: `LoadError` (the operator or the vendor must act), the
//! backend's own `BackendError` (the caller or the operator must act, as it says), and `Fault`
//! (the backend is broken or hostile; its vendor must act).

pub mod canary;
pub mod catalog;
pub mod component;
pub mod digests;
pub mod engine;
pub mod inspect;
pub mod settings;
pub mod signature;
pub mod tier;

mod bindings;
mod call;
mod call_log;
mod complexity;
mod convert;
mod describe;
mod imports;
mod registers;
mod wasi;

pub use call::{
    BackendError, BackendErrorKind, CallError, Fault, Launched, MeasureOutcome, PlanOutcome,
    ToolArgument, ToolWish,
};
pub use catalog::{BackendConfig, Catalog, CatalogEntry};
pub use component::{LoadError, LoadedBackend, Optional, not_a_component};
pub use convert::Violation;
pub use describe::{BackendInfo, Need, Protection, SettingKind, SettingSpec};
pub use engine::{BackendEngine, Limits};
pub use imports::REFUSED_ACCESS;
pub use tier::Tier;
