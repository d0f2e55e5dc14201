//! A request and the facts become a launch plan.
//!
//! What the operator or the caller named is used, or the plan fails; a built-in default that does
//! not fit is replaced, with a finding that says so. Nothing here makes a guest weaker than the
//! request reads: a debuggable guest, a register that QEMU would find too short when it is too late,
//! an identity that does not fit are refused.

pub(crate) mod firmware;
pub(crate) mod guest;
pub(crate) mod quotes;
mod size;

use casemate_backend::answer::{invalid_request, note, quoted};
use casemate_backend::bindings::casemate::tee::types::{
    Error, Finding, LaunchPlan, LaunchRequest, Lease, Origin, Property, Typed,
};
use casemate_backend::files::Files;
use casemate_backend::machine::{self, Family, wanted};
use casemate_backend::memory::{OVERHEAD_BYTES, property};
use casemate_backend::settings::text;
use casemate_backend::{boot, guard, host, identity};

use crate::facts::{BACKEND, Facts, TECHNOLOGY};
use crate::settings::Settings;

/// Where nobody named one.
pub const DEFAULT_MACHINE: &str = "q35";
/// The only model: the TDX module gives a guest the real CPU, and QEMU refuses a named model.
pub const CPU: &str = "host";

/// The property that carries the identity.
pub(crate) const MR_CONFIG_ID: &str = "mrconfigid";

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
    size::check_memory(request.memory_bytes)?;
    let smp = size::topology(request.vcpus, &facts.cpus_present, &mut findings)?;
    guard::check_devices(request)?;
    let machine = machine::versioned(
        request,
        DEFAULT_MACHINE,
        &facts.qemu,
        Family::Q35,
        machine_properties(),
        BACKEND,
        &mut findings,
    )?;
    let cpu = cpu(request, &mut findings)?;
    let boot = boot::inputs(request, &mut findings)?;
    let chosen = firmware::choose(&request.host, files)?;
    let guard = guest::object(request, facts, &settings, &mut findings)?;
    if request.identity.is_none() {
        findings.push(identity::none(MR_CONFIG_ID));
    }
    Ok(LaunchPlan {
        machine,
        cpu,
        smp,
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
        identity_carrier: request.identity.as_ref().map(|_| MR_CONFIG_ID.to_owned()),
        findings,
        extras: Vec::new(),
    })
}

/// A trust domain has no interrupt controller of the old PC either.
fn machine_properties() -> Vec<Property> {
    let mut properties = guard::machine_properties();
    properties.push(property("pic", text("off")));
    properties
}

fn cpu(request: &LaunchRequest, findings: &mut Vec<Finding>) -> Result<Typed, Error> {
    if let Some(choice) = &request.cpu
        && choice.value != CPU
    {
        if choice.origin != Origin::BuiltIn {
            return Err(invalid_request(
                "cpu",
                &format!(
                    "TDX guests have the host's CPU: model {} is asked for, and the only one is {CPU}",
                    quoted(&choice.value)
                ),
                "set the CPU model to host, or leave it out",
            ));
        }
        findings.push(note(
            "cpu.model-replaced",
            "cpu",
            &format!(
                "the default CPU model {} is no choice for TDX, the guest gets {CPU}",
                quoted(&choice.value)
            ),
            "set the CPU model to host to say the same",
        ));
    }
    Ok(Typed {
        kind: CPU.to_owned(),
        id: None,
        properties: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
