//! A request and the facts become a launch plan.
//!
//! Two rules run through it. What the operator or the caller named is used, or the plan fails; a
//! built-in default that does not fit is replaced or left out, with a finding that says so. And no
//! input makes it panic: sizes, names and combinations that cannot be are errors that name the field.

pub(crate) mod firmware;
mod size;

use casemate_backend::answer::{invalid_request, note, quoted, unavailable, warn};
use casemate_backend::bindings::casemate::tee::facts::FactError;
use casemate_backend::bindings::casemate::tee::types::{
    DeviceRules, Error, Finding, LaunchPlan, LaunchRequest, Origin, Typed,
};
use casemate_backend::boot;
use casemate_backend::host;
use casemate_backend::machine::{self, Family, wanted};
use casemate_backend::memory::OVERHEAD_BYTES;
use casemate_backend::names::is_qemu_name;

use crate::facts::{BACKEND, Facts};
use crate::settings::Settings;

/// Where nobody named one. Both are the predecessor's defaults.
pub const DEFAULT_MACHINE: &str = "q35";
pub const DEFAULT_CPU: &str = "EPYC";

/// The CPU model that every QEMU has: all that the accelerator can do.
const CPU_THAT_IS_ALWAYS_THERE: &str = "max";

/// The machine to ask the host about: the request's, else the default.
pub fn wanted_machine(request: &LaunchRequest) -> &str {
    wanted(request.machine.as_ref(), DEFAULT_MACHINE)
}

/// The CPU model to ask the host about: the request's, else the default.
pub fn wanted_cpu(request: &LaunchRequest) -> &str {
    wanted(request.cpu.as_ref(), DEFAULT_CPU)
}

/// The plan, or the first thing that stands in its way.
pub fn plan(request: &LaunchRequest, facts: &Facts) -> Result<LaunchPlan, Error> {
    let mut findings = host::remarks(facts.examine(&request.host))?;
    let settings = Settings::read(&request.host)?;
    refuse_identity(request)?;
    let machine = machine::versioned(
        request,
        DEFAULT_MACHINE,
        &facts.qemu,
        Family::AnyPc,
        Vec::new(),
        BACKEND,
        &mut findings,
    )?;
    let cpu = cpu(request, facts, &mut findings)?;
    let smp = size::smp(request.vcpus, &settings, &mut findings)?;
    let memory = size::memory(request.memory_bytes, &settings, &mut findings)?;
    let chosen = firmware::choose(&request.host, &settings)?;
    findings.extend(chosen.remarks());
    let boot = boot::inputs(request, &mut findings)?;
    findings.push(no_measurement());

    Ok(LaunchPlan {
        machine,
        cpu,
        smp,
        memory,
        memory_backend: settings
            .memory_backend
            .map(|backing| backing.object(&settings.memory_id)),
        objects: Vec::new(),
        extra_devices: Vec::new(),
        guard: None,
        firmware: chosen.into_firmware(&settings),
        boot,
        devices: DeviceRules {
            transport: "pci".to_owned(),
            virtio_properties: Vec::new(),
            refused: Vec::new(),
        },
        generated: Vec::new(),
        leases: Vec::new(),
        abilities: ["pause", "reset", "powerdown"].map(str::to_owned).to_vec(),
        memory_overhead_bytes: OVERHEAD_BYTES,
        identity_carrier: None,
        findings,
        extras: Vec::new(),
    })
}

/// Said with every plan and by `check`, so that nobody takes silence for a measurement.
pub(crate) fn no_measurement() -> Finding {
    note(
        "measurement.none",
        "backend",
        "no hardware root of trust: nothing is measured, and the host can read the guest",
        "choose a confidential backend where the guest must be protected from its host",
    )
}

fn refuse_identity(request: &LaunchRequest) -> Result<(), Error> {
    if request.identity.is_none() {
        return Ok(());
    }
    Err(invalid_request(
        "identity",
        "plain KVM has nothing that carries an identity",
        "leave the identity out, or choose a confidential backend",
    ))
}

fn cpu(
    request: &LaunchRequest,
    facts: &Facts,
    findings: &mut Vec<Finding>,
) -> Result<Typed, Error> {
    let wanted = wanted_cpu(request);
    let named = request
        .cpu
        .as_ref()
        .is_some_and(|choice| choice.origin != Origin::BuiltIn);
    if !is_qemu_name(wanted) {
        return Err(invalid_request(
            "cpu",
            &format!(
                "{} is not the name of a CPU model, which is one word without features",
                quoted(wanted)
            ),
            "name a model alone, such as EPYC-v4, max or host",
        ));
    }
    if wanted == "host" && request.host.accelerator != "kvm" {
        return Err(invalid_request(
            "cpu",
            "CPU model host is the host's own CPU, which only KVM can give to a guest",
            "name a model such as max, or set the accelerator to kvm",
        ));
    }
    let model = match &facts.qemu.cpu_model {
        Ok(()) => wanted,
        // Not being allowed to look is no statement about the model: QEMU has the last word.
        Err(FactError::Denied) => wanted,
        Err(FactError::Failed(reason)) => {
            return Err(unavailable(
                "cpu",
                &format!("QEMU did not tell its CPU models: {reason}"),
                "see the daemon's log for what QEMU said, and try again",
            ));
        }
        Err(FactError::Absent) if named => {
            return Err(invalid_request(
                "cpu",
                &format!("this QEMU has no CPU model {}", quoted(wanted)),
                "name a model that `qemu-system-x86_64 -cpu help` lists",
            ));
        }
        Err(FactError::Absent) => {
            findings.push(warn(
                "cpu.model-replaced",
                "cpu",
                &format!(
                    "this QEMU has no CPU model {}, the guest gets {CPU_THAT_IS_ALWAYS_THERE}",
                    quoted(wanted)
                ),
                "name a CPU model, or install a QEMU that has this one",
            ));
            CPU_THAT_IS_ALWAYS_THERE
        }
    };
    Ok(Typed {
        kind: model.to_owned(),
        id: None,
        properties: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
