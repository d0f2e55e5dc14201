//! The suite that proves a backend: `casemate-conformance FILE.wasm`.
//!
//! The component is loaded and called by the daemon's own code, so what passes here is what a daemon
//! takes. Every rule of the contract is a numbered check (`catalogue`); what a backend claims decides
//! which of them apply. Neither root nor QEMU nor a TEE is needed: the host is made up, by the backend's
//! golden requests or as an ordinary one.
//!
//! ```text
//! run        from a path to a report
//! load       L0: loaded as the daemon loads it
//! contract   L1: answers keep the contract, whatever is asked
//! golden     L2: requests of its own become what is written
//! resilience L3: a host that fails, and budgets
//!
//! draft      a request with the host that it meets, as plain values
//! world      the host and the request that everybody starts from
//! facts      a host that is made up
//! stage      a draft becomes a request, with its files on disk
//! subject    every call, judged where its answer comes in
//! classify   which check a rule belongs to that the host found broken
//! judge      rules that the host does not hold
//! topology   how many vCPUs a plan makes
//! witness    what the host says beside its answers
//! ledger     what was seen of each check
//! expect     failures that are known
//! keep       requests that showed a failure
//! standing   which claims were tried at all
//! report     rows and verdict, and their forms
//! markdown   the table of checks for the documentation
//! ```

pub mod catalogue;
pub mod draft;
pub mod expect;
pub mod facts;
pub mod golden;
pub mod keep;
pub mod ledger;
pub mod markdown;
pub mod report;
pub mod run;
pub mod stage;
pub mod standing;
pub mod world;

mod classify;
mod contract;
mod judge;
mod load;
mod resilience;
mod subject;
mod topology;
mod witness;

pub use contract::{Chance, ReplayError};
