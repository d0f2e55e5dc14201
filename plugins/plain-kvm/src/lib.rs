//! The backend for ordinary guests: QEMU with KVM (or TCG), and no TEE.
//!
//! It is the smallest useful backend and the one to read first. `describe`, `check` and `plan` are
//! pure functions over the records of the contract, so that all of them are tested natively; this
//! file only connects them to the component's exports.
//!
//! ```text
//! describe -> describe.rs          what the backend is and may have at most
//! check    -> facts.rs, check.rs   can this host do it, and what is to mend
//! plan     -> facts.rs, plan.rs    a request and the facts become a launch plan
//!             settings.rs          the settings, typed once
//! ```
//!
//! What every backend does alike is in `sdk/`.

#![deny(unsafe_code)]

pub mod check;
pub mod describe;
pub mod facts;
pub mod plan;
pub mod settings;

#[cfg(target_arch = "wasm32")]
mod export {
    #![expect(
        unsafe_code,
        reason = "the exports move values in and out of the component's memory"
    )]
    use super::PlainKvm;

    casemate_backend::bindings::export_backend!(PlainKvm);
}

use casemate_backend::bindings::casemate::tee::types::{
    BackendInfo, Error, Finding, HostContext, LaunchPlan, LaunchRequest,
};
use casemate_backend::{bindings, panics};
use facts::Facts;

/// What the component exports.
#[derive(Debug)]
pub struct PlainKvm;

impl bindings::exports::casemate::tee::backend::Guest for PlainKvm {
    fn describe() -> BackendInfo {
        panics::report_to_log();
        describe::describe()
    }

    fn check(host: HostContext) -> Vec<Finding> {
        panics::report_to_log();
        let facts = Facts::gather(plan::DEFAULT_MACHINE, plan::DEFAULT_CPU);
        check::check(&host, &facts)
    }

    fn plan(request: LaunchRequest) -> Result<LaunchPlan, Error> {
        panics::report_to_log();
        let facts = Facts::gather(plan::wanted_machine(&request), plan::wanted_cpu(&request));
        plan::plan(&request, &facts)
    }
}
