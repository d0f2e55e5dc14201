//! The backend for Intel TDX guests.
//!
//! `describe`, `check`, `plan` and `measure` are pure functions over the records of the contract, the host's
//! facts and the bytes of the request's files, so that all of them are tested natively; this file
//! only connects them to the component's exports.
//!
//! ```text
//! describe -> describe.rs             what the backend is and may have at most
//! check    -> facts.rs, check.rs      can this host do it, and what is to mend
//! plan     -> facts.rs, plan.rs       a request and the facts become a launch plan
//!             settings.rs             the settings, typed once
//!             plan/firmware.rs        a TDVF, and nothing else
//!             plan/guest.rs           the object that protects the guest
//!             plan/quotes.rs          where the guest's quotes are made
//!             plan/size.rs            vCPUs and memory that a guest starts with
//! measure  -> measure.rs              the registers that a verifier will see
//!             measure/mrtd.rs         the guest's first memory
//!             measure/rtmr.rs         what firmware and kernel extend at a boot from a kernel
//!             measure/pe.rs           what of a kernel the firmware hashes
//!             measure/linux.rs        the header of a Linux kernel
//!             measure/claims.rs       what is set for the guest and is no digest
//! ```
//!
//! Rules are those of QEMU's `tdx-guest`, of KVM and of the TDX module ("Intel TDX Module
//! Architecture Specification").

#![deny(unsafe_code)]

pub mod check;
pub mod describe;
pub mod facts;
pub mod measure;
pub mod plan;
pub mod settings;

#[cfg(target_arch = "wasm32")]
mod export {
    #![expect(
        unsafe_code,
        reason = "the exports move values in and out of the component's memory"
    )]
    use super::Tdx;

    casemate_backend::bindings::export_backend!(Tdx);
    casemate_backend::bindings::measurement::export_measurement!(Tdx);
}

use casemate_backend::bindings::casemate::tee::types::{
    BackendInfo, Error, Finding, HostContext, Launch, LaunchPlan, LaunchRequest, Register,
};
use casemate_backend::files::HostFiles;
use casemate_backend::{bindings, panics};
use facts::Facts;
use measure::MeasureFacts;

/// What the component exports.
#[derive(Debug)]
pub struct Tdx;

impl bindings::exports::casemate::tee::backend::Guest for Tdx {
    fn describe() -> BackendInfo {
        panics::report_to_log();
        describe::describe()
    }

    fn check(host: HostContext) -> Vec<Finding> {
        panics::report_to_log();
        let facts = Facts::gather(plan::DEFAULT_MACHINE, plan::CPU);
        check::check(&host, &facts, &HostFiles)
    }

    fn plan(request: LaunchRequest) -> Result<LaunchPlan, Error> {
        panics::report_to_log();
        let facts = Facts::gather(plan::wanted_machine(&request), plan::CPU);
        plan::plan(&request, &facts, &HostFiles)
    }
}

impl bindings::measurement::exports::casemate::tee::measurement::Guest for Tdx {
    fn measure(request: LaunchRequest, launch: Launch) -> Result<Vec<Register>, Error> {
        panics::report_to_log();
        measure::measure(&request, &launch, &MeasureFacts::gather(), &HostFiles)
    }
}
