//! The backend for AMD SEV-SNP guests.
//!
//! `describe`, `check` and `plan` are pure functions over the records of the contract, the host's
//! facts and the bytes of the request's files, so that all of them are tested natively; this file
//! only connects them to the component's exports.
//!
//! ```text
//! describe -> describe.rs             what the backend is and may have at most
//! check    -> facts.rs, check.rs      can this host do it, and what is to mend
//! plan     -> facts.rs, plan.rs       a request and the facts become a launch plan
//!             settings.rs             the settings, typed once
//!             plan/cpu.rs             models whose CPUID page the firmware accepts
//!             plan/firmware.rs        OVMF or IGVM, and whether it measures a kernel
//!             plan/guest.rs           the object that protects the guest
//!             plan/policy.rs          the guest policy, bit by bit
//! ```
//!
//! Rules are those of QEMU's `sev-snp-guest`, of KVM and of the SEV-SNP firmware (AMD 56860, "SEV
//! Secure Nested Paging Firmware ABI Specification").

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
    use super::SevSnp;

    casemate_backend::bindings::export_backend!(SevSnp);
}

use casemate_backend::bindings::casemate::tee::types::{
    BackendInfo, Error, Finding, HostContext, LaunchPlan, LaunchRequest,
};
use casemate_backend::files::HostFiles;
use casemate_backend::{bindings, panics};
use facts::Facts;

/// What the component exports.
#[derive(Debug)]
pub struct SevSnp;

impl bindings::exports::casemate::tee::backend::Guest for SevSnp {
    fn describe() -> BackendInfo {
        panics::report_to_log();
        describe::describe()
    }

    fn check(host: HostContext) -> Vec<Finding> {
        panics::report_to_log();
        let facts = Facts::gather(plan::DEFAULT_MACHINE, plan::cpu::DEFAULT);
        check::check(&host, &facts, &HostFiles)
    }

    fn plan(request: LaunchRequest) -> Result<LaunchPlan, Error> {
        panics::report_to_log();
        let facts = Facts::gather(
            plan::wanted_machine(&request),
            &plan::cpu::to_ask_about(&request),
        );
        plan::plan(&request, &facts, &HostFiles)
    }
}
