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
//! measure  -> measure.rs              what a verifier will see
//!             measure/profile.rs      what of the host is part of it
//!             measure/ovmf.rs         the launch digest with OVMF
//!             measure/igvm.rs         the launch digest from an IGVM file
//!             measure/chain.rs        the chain that both are
//!             measure/vmsa.rs         registers of a vCPU, by QEMU and KVM
//!             measure/hashes.rs       hashes of kernel, initrd and command line
//!             measure/signature.rs    CPU models' signatures
//! command  -> tool.rs                 a tool that measures IGVM files, and its answer
//! ```
//!
//! Rules are those of QEMU's `sev-snp-guest`, of KVM and of the SEV-SNP firmware (AMD 56860, "SEV
//! Secure Nested Paging Firmware ABI Specification").

#![deny(unsafe_code)]

pub mod check;
pub mod describe;
pub mod facts;
pub mod measure;
pub mod plan;
pub mod settings;
pub mod tool;

#[cfg(target_arch = "wasm32")]
mod export {
    #![expect(
        unsafe_code,
        reason = "the exports move values in and out of the component's memory"
    )]
    use super::SevSnp;

    casemate_backend::bindings::export_backend!(SevSnp);
    casemate_backend::bindings::measurement::export_measurement!(SevSnp);
    casemate_backend::bindings::tool::export_measurement_tool!(SevSnp);
}

use casemate_backend::bindings::casemate::tee::types::{
    BackendInfo, Error, Finding, HostContext, Launch, LaunchPlan, LaunchRequest, Register,
    ToolCommand,
};
use casemate_backend::files::HostFiles;
use casemate_backend::{bindings, panics};
use facts::Facts;
use measure::MeasureFacts;

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

impl bindings::measurement::exports::casemate::tee::measurement::Guest for SevSnp {
    fn measure(request: LaunchRequest, launch: Launch) -> Result<Vec<Register>, Error> {
        panics::report_to_log();
        measure::measure(&request, &launch, &MeasureFacts::gather(), &HostFiles)
    }
}

impl bindings::tool::exports::casemate::tee::measurement_tool::Guest for SevSnp {
    fn command(request: LaunchRequest, launch: Launch) -> Result<Option<ToolCommand>, Error> {
        panics::report_to_log();
        Ok(tool::command(&request, &launch))
    }

    fn parse(
        request: LaunchRequest,
        launch: Launch,
        output: Vec<u8>,
    ) -> Result<Vec<Register>, Error> {
        panics::report_to_log();
        tool::parse(&request, &launch, &output)
    }
}
