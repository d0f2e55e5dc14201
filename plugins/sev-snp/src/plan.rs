//! A request and the facts become a launch plan.
//!
//! What the operator or the caller named is used, or the plan fails; a built-in default that does
//! not fit is replaced, with a finding that says so. The one exception is the position of the
//! encryption bit, which only CPUID knows: the predecessor gave a value to every host. Nothing here
//! makes a guest weaker than the request reads: a kernel that OVMF cannot measure, a policy that lets
//! the host in, half of an ID block are refused. A kernel beside an IGVM file is measured in the
//! guest alone, and a warning says so.

pub(crate) mod cpu;
pub(crate) mod firmware;
pub(crate) mod guest;
pub(crate) mod policy;

use casemate_backend::bindings::casemate::tee::types::{
    BootInputs, Error, LaunchPlan, LaunchRequest, Lease,
};
use casemate_backend::files::Files;
use casemate_backend::machine::{self, Family, wanted};
use casemate_backend::memory::{self, OVERHEAD_BYTES};
use casemate_backend::{boot, guard, host, identity};

use crate::facts::{BACKEND, Facts, TECHNOLOGY};
use crate::settings::Settings;

/// Where nobody named one.
pub const DEFAULT_MACHINE: &str = "q35";

/// The property that carries the identity.
pub(crate) const HOST_DATA: &str = "host-data";

/// The machine to ask the host about: the request's, else the default.
pub fn wanted_machine(request: &LaunchRequest) -> &str {
    wanted(request.machine.as_ref(), DEFAULT_MACHINE)
}

/// The plan, or the first thing that stands in its way.
pub fn plan(
    request: &LaunchRequest,
    facts: &Facts,
    files: &impl Files,
) -> Result<LaunchPlan, Error> {
    let mut findings = host::remarks(facts.examine(&request.host))?;
    let settings = Settings::read(&request.host)?;
    memory::check_size(request.memory_bytes)?;
    memory::check_vcpus(request.vcpus)?;
    guard::check_devices(request)?;
    guard::check_option_roms(request)?;
    let machine = machine::versioned(
        request,
        DEFAULT_MACHINE,
        &facts.qemu,
        Family::Q35,
        guard::machine_properties(),
        BACKEND,
        &mut findings,
    )?;
    let cpu = cpu::model(request, &facts.qemu, &mut findings)?;
    let boot = boot::inputs(request, &mut findings)?;
    let chosen = firmware::choose(&request.host, &settings, facts, files)?;
    let kernel = chosen.for_boot(boot.contains(BootInputs::KERNEL), &mut findings)?;
    policy::check(settings.policy.value, facts)?;
    findings.extend(policy::remark(settings.policy.value, facts));
    let guard = guest::object(request, facts, &settings, &chosen, kernel, &mut findings)?;
    if request.identity.is_none() {
        findings.push(identity::none(HOST_DATA));
    }
    Ok(LaunchPlan {
        machine,
        cpu,
        smp: Vec::new(),
        memory: Vec::new(),
        memory_backend: Some(settings.memory_backend.object(&settings.memory_id)),
        guard: guard.id.clone(),
        objects: vec![guard],
        extra_devices: Vec::new(),
        firmware: chosen.into_firmware(),
        boot,
        devices: guard::device_rules(),
        generated: Vec::new(),
        leases: vec![Lease {
            name: TECHNOLOGY.slots.to_owned(),
            amount: 1,
        }],
        abilities: guard::abilities(),
        memory_overhead_bytes: OVERHEAD_BYTES,
        identity_carrier: request.identity.as_ref().map(|_| HOST_DATA.to_owned()),
        findings,
        extras: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
