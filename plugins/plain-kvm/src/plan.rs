//! A request and the facts become a launch plan.
//!
//! Two rules run through it. What the operator or the caller named is used, or the plan fails; a
//! built-in default that does not fit is replaced or left out, with a finding that says so. And no
//! input makes it panic: sizes, names and combinations that cannot be are errors that name the field.

pub(crate) mod firmware;
mod size;

use crate::answer::{
    invalid_request, note, quoted, unavailable, unsuitable_file, unsupported_host, warn,
};
use crate::bindings::casemate::tee::facts::FactError;
use crate::bindings::casemate::tee::types::{
    BootInputs, Choice, DeviceRules, Error, Finding, HostContext, HostFile, LaunchPlan,
    LaunchRequest, Origin, Property, Severity, Typed, Value,
};
use crate::describe::{MEMORY_BACKEND_MEMFD, MEMORY_BACKEND_RAM};
use crate::facts::{Facts, is_qemu_name};
use crate::host::{self, Examined};
use crate::settings::{MemoryBackend, Settings};

/// Where nobody named one. Both are the predecessor's defaults.
pub const DEFAULT_MACHINE: &str = "q35";
pub const DEFAULT_CPU: &str = "EPYC";

/// The CPU model that every QEMU has: all that the accelerator can do.
const CPU_THAT_IS_ALWAYS_THERE: &str = "max";

/// QEMU beside the guest's own memory: its heap and device models, thread stacks, user network and
/// 9p buffers take 60 to 150 MiB, and page tables 2 MiB for each GiB of guest. The rest is headroom,
/// since this is a limit and not an expectation.
const MEMORY_OVERHEAD_BYTES: u64 = 320 << 20;

/// The machine to ask the host about: the request's, else the default.
pub fn wanted_machine(request: &LaunchRequest) -> &str {
    value_or(request.machine.as_ref(), DEFAULT_MACHINE)
}

/// The CPU model to ask the host about: the request's, else the default.
pub fn wanted_cpu(request: &LaunchRequest) -> &str {
    value_or(request.cpu.as_ref(), DEFAULT_CPU)
}

fn value_or<'a>(choice: Option<&'a Choice>, default: &'a str) -> &'a str {
    choice.map_or(default, |choice| choice.value.as_str())
}

/// The plan, or the first thing that stands in its way.
pub fn plan(request: &LaunchRequest, facts: &Facts) -> Result<LaunchPlan, Error> {
    let mut findings = host_remarks(&request.host, facts)?;
    let settings = Settings::read(&request.host)?;
    refuse_identity(request)?;
    let machine = machine(request, facts, &mut findings)?;
    let cpu = cpu(request, facts, &mut findings)?;
    let smp = size::smp(request.vcpus, &settings, &mut findings)?;
    let memory = size::memory(request.memory_bytes, &settings, &mut findings)?;
    let chosen = firmware::choose(&request.host, &settings)?;
    findings.extend(chosen.remarks());
    let boot = boot_inputs(request, &mut findings)?;
    findings.push(no_measurement());

    Ok(LaunchPlan {
        machine,
        cpu,
        smp,
        memory,
        memory_backend: memory_backend(&settings),
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
        memory_overhead_bytes: MEMORY_OVERHEAD_BYTES,
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

/// Warnings about the host; the error where it cannot start such a VM.
fn host_remarks(host: &HostContext, facts: &Facts) -> Result<Vec<Finding>, Error> {
    let mut remarks = Vec::new();
    for examined in host::examine(host, facts) {
        match examined {
            Examined::Missing { error, .. } => return Err(error),
            Examined::Usable(finding) if finding.severity == Severity::Warn => {
                remarks.push(finding);
            }
            Examined::Usable(_) => {}
        }
    }
    Ok(remarks)
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

fn machine(
    request: &LaunchRequest,
    facts: &Facts,
    findings: &mut Vec<Finding>,
) -> Result<Typed, Error> {
    const WANTED: &str = "name a PC machine such as q35, pc or pc-q35-7.2";
    let wanted = wanted_machine(request);
    let unknown = || {
        invalid_request(
            "machine",
            &format!("this QEMU has no machine {}", quoted(wanted)),
            WANTED,
        )
    };
    if !is_qemu_name(wanted) {
        return Err(invalid_request(
            "machine",
            &format!(
                "{} is not the name of a machine, which is one word without properties",
                quoted(wanted)
            ),
            WANTED,
        ));
    }
    let kind = match (&facts.machine, &facts.machine_type) {
        (Ok(versioned), Ok(())) => versioned.as_str(),
        (Ok(_), Err(FactError::Absent)) | (Err(FactError::Absent), _) => return Err(unknown()),
        (Err(FactError::Failed(reason)), _) | (_, Err(FactError::Failed(reason))) => {
            return Err(unavailable(
                "machine",
                &format!("QEMU did not tell its machines: {reason}"),
                "see the daemon's log for what QEMU said, and try again",
            ));
        }
        (Ok(versioned), Err(FactError::Denied)) => versioned.as_str(),
        (Err(FactError::Denied), _) => {
            findings.push(warn(
                "machine.not-versioned",
                "machine",
                "the backend may not ask for the versioned name of the machine, so the guest may \
                 see another machine after an upgrade of QEMU",
                "add qemu-machine * to the grants of plain-kvm",
            ));
            wanted
        }
    };
    if !is_qemu_name(kind) || !is_pc(kind) {
        return Err(invalid_request(
            "machine",
            &format!(
                "machine {} is no PC with a PCI bus, which this backend attaches devices to",
                quoted(kind)
            ),
            WANTED,
        ));
    }
    Ok(Typed {
        kind: kind.to_owned(),
        id: None,
        properties: Vec::new(),
    })
}

/// The two PC families, by alias or by version. `microvm` and `isapc` have no PCI bus, `none` is no
/// machine at all.
fn is_pc(name: &str) -> bool {
    name == "q35" || name == "pc" || name.starts_with("pc-q35-") || name.starts_with("pc-i440fx-")
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
    let model = match &facts.cpu_model {
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

fn memory_backend(settings: &Settings) -> Option<Typed> {
    let (kind, properties) = match settings.memory_backend {
        MemoryBackend::None => return None,
        MemoryBackend::Ram => (MEMORY_BACKEND_RAM, Vec::new()),
        // Helper processes (vhost-user) map the guest's memory, which is why one asks for memfd.
        MemoryBackend::Memfd => (
            MEMORY_BACKEND_MEMFD,
            vec![property("share", Value::Boolean(true))],
        ),
    };
    Some(Typed {
        kind: kind.to_owned(),
        id: Some(settings.memory_id.clone()),
        properties,
    })
}

pub(crate) fn property(path: &str, value: Value) -> Property {
    Property {
        path: path.to_owned(),
        value,
    }
}

pub(crate) fn file_of_role<'a>(host: &'a HostContext, role: &str) -> Option<&'a HostFile> {
    host.files.iter().find(|file| file.role == role)
}

fn boot_inputs(request: &LaunchRequest, findings: &mut Vec<Finding>) -> Result<BootInputs, Error> {
    match request.boot.as_str() {
        "kernel" => kernel_boot(request),
        "disk" => disk_boot(request, findings),
        other => Err(invalid_request(
            "boot",
            &format!("boot is {}, wanted is kernel or disk", quoted(other)),
            "set boot to kernel or disk",
        )),
    }
}

fn kernel_boot(request: &LaunchRequest) -> Result<BootInputs, Error> {
    let Some(kernel) = file_of_role(&request.host, "kernel") else {
        return Err(unsupported_host(
            "kernel",
            "boot is kernel, but there is no kernel file",
            "name a kernel, set a default one, or boot from disk",
        ));
    };
    if kernel.size == 0 {
        return Err(unsuitable_file(
            "kernel",
            &format!("kernel {} is empty", quoted(&kernel.label)),
            "name a kernel image (bzImage)",
        ));
    }
    let mut inputs = BootInputs::KERNEL;
    if file_of_role(&request.host, "initrd").is_some() {
        inputs |= BootInputs::INITRD;
    }
    if !request.kernel_cmdline.is_empty() {
        inputs |= BootInputs::CMDLINE;
    }
    Ok(inputs)
}

fn disk_boot(request: &LaunchRequest, findings: &mut Vec<Finding>) -> Result<BootInputs, Error> {
    let has_disk = file_of_role(&request.host, "disk").is_some()
        || request.devices.iter().any(|device| device.kind == "disk");
    if !has_disk {
        return Err(unsupported_host(
            "disk",
            "boot is disk, but there is no disk",
            "name a disk, set a default one, or boot from a kernel",
        ));
    }
    for role in ["kernel", "initrd"] {
        let Some(file) = file_of_role(&request.host, role) else {
            continue;
        };
        // Kernel and initrd of the config stand there for the VMs that boot from a kernel.
        if file.origin == Origin::Request {
            return Err(invalid_request(
                role,
                &format!(
                    "boot is disk, but the request names {role} {}",
                    quoted(&file.label)
                ),
                &format!("leave {role} out, or set boot to kernel"),
            ));
        }
    }
    if file_of_role(&request.host, "initrd").is_some()
        && file_of_role(&request.host, "kernel").is_none()
    {
        findings.push(note(
            "boot.initrd-unused",
            "initrd",
            "there is an initrd without a kernel, which a boot from disk does not use",
            "remove the default initrd, or set a default kernel too",
        ));
    }
    Ok(BootInputs::empty())
}

#[cfg(test)]
mod tests;
