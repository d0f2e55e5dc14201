//! What my-tee decides. Three pure functions: the same input and the same facts give the same answer,
//! and no input makes them panic.

use casemate_backend::announce::{need, qemu_needs};
use casemate_backend::answer::{invalid_request, note, quoted};
use casemate_backend::bindings::casemate::tee::facts;
use casemate_backend::bindings::casemate::tee::types::{
    BackendInfo, DeviceRules, Error, Finding, Firmware, HostContext, LaunchPlan, LaunchRequest,
    Origin, Protection, Typed,
};
use casemate_backend::facts::{Answer, QemuFacts};
use casemate_backend::host::{self, Examined};
use casemate_backend::machine::{self, Family, wanted};
use casemate_backend::memory::{OVERHEAD_BYTES, check_size, check_vcpus};
use casemate_backend::names::is_qemu_name;
use casemate_backend::boot;

const BACKEND: &str = "my-tee";
const DEFAULT_MACHINE: &str = "q35";
/// The CPU model that every QEMU has: all that the accelerator can do.
const DEFAULT_CPU: &str = "max";
/// The oldest QEMU that this was tried with.
const OLDEST_QEMU: (u32, u32) = (7, 2);

/// What is asked of the host. Each answer is a value, absent, denied or failed.
#[derive(Debug, Clone)]
pub struct Facts {
    pub kvm: Answer<()>,
    pub qemu: QemuFacts,
}

impl Facts {
    /// For `check`, which knows no request.
    pub fn of_defaults() -> Self {
        Self::gather(DEFAULT_MACHINE, DEFAULT_CPU)
    }

    pub fn of(request: &LaunchRequest) -> Self {
        Self::gather(
            wanted(request.machine.as_ref(), DEFAULT_MACHINE),
            wanted(request.cpu.as_ref(), DEFAULT_CPU),
        )
    }

    fn gather(machine: &str, cpu: &str) -> Self {
        Self {
            kvm: facts::device("/dev/kvm"),
            qemu: QemuFacts::gather(machine, cpu),
        }
    }

    /// In the order in which an operator would mend it.
    fn examine(&self, host: &HostContext) -> Vec<Examined> {
        vec![
            host::architecture(host, BACKEND),
            host::accelerator(host, &self.kvm, BACKEND),
            host::qemu_version(&self.qemu.version, OLDEST_QEMU, BACKEND),
        ]
    }
}

/// What this backend is, and the most that it may have.
pub fn describe() -> BackendInfo {
    BackendInfo {
        tee: "none".to_owned(),
        protection: Protection::None,
        name: BACKEND.to_owned(),
        vendor: "Example".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        architectures: vec!["x86_64".to_owned()],
        needs: [need("device", "/dev/kvm", "whether KVM can be used")]
            .into_iter()
            .chain(qemu_needs())
            .collect(),
        objects: Vec::new(),
        devices: Vec::new(),
        machine_texts: Vec::new(),
        settings: Vec::new(),
        firmware_features: Vec::new(),
        extras: Vec::new(),
    }
}

/// Whether such VMs can be started on this host, for a person who wants to mend what is missing.
pub fn check(host: &HostContext, facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = facts
        .examine(host)
        .into_iter()
        .map(Examined::into_finding)
        .collect();
    findings.push(machine::default_finding(
        &facts.qemu,
        DEFAULT_MACHINE,
        Family::AnyPc,
        BACKEND,
    ));
    findings.extend(boot::no_default(host));
    findings
}

/// The plan, or the first thing that stands in its way.
pub fn plan(request: &LaunchRequest, facts: &Facts) -> Result<LaunchPlan, Error> {
    let mut findings = host::remarks(facts.examine(&request.host))?;
    check_vcpus(request.vcpus)?;
    check_size(request.memory_bytes)?;
    refuse_identity(request)?;
    refuse_firmware(request, &mut findings)?;
    let machine = machine::versioned(
        request,
        DEFAULT_MACHINE,
        &facts.qemu,
        Family::AnyPc,
        Vec::new(),
        BACKEND,
        &mut findings,
    )?;
    let cpu = cpu(request, &mut findings)?;
    let boot = boot::inputs(request, &mut findings)?;
    Ok(LaunchPlan {
        machine,
        cpu,
        smp: Vec::new(),
        memory: Vec::new(),
        memory_backend: None,
        objects: Vec::new(),
        extra_devices: Vec::new(),
        guard: None,
        firmware: Firmware::None,
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

/// A wish is never dropped: what cannot be had is an error that names it.
fn refuse_identity(request: &LaunchRequest) -> Result<(), Error> {
    if request.identity.is_none() {
        return Ok(());
    }
    Err(invalid_request(
        "identity",
        "nothing here carries an identity",
        "leave the identity out, or choose a backend that protects its guests",
    ))
}

/// What a request names is used or refused; the operator's default stands there for all backends.
fn refuse_firmware(request: &LaunchRequest, findings: &mut Vec<Finding>) -> Result<(), Error> {
    let files = request.host.files.iter();
    for file in files.filter(|file| file.role.starts_with("firmware") || file.role == "igvm") {
        if file.origin == Origin::Request {
            return Err(invalid_request(
                &file.role,
                &format!("{BACKEND} starts its guests with QEMU's own firmware alone"),
                &format!("leave {} out, or choose another backend", quoted(&file.role)),
            ));
        }
        findings.push(note(
            "firmware.not-used",
            &file.role,
            &format!("{} is not used, guests start with QEMU's own firmware", quoted(&file.label)),
            "choose another backend for guests that need it",
        ));
    }
    Ok(())
}

fn cpu(request: &LaunchRequest, findings: &mut Vec<Finding>) -> Result<Typed, Error> {
    let model = match &request.cpu {
        Some(choice) if choice.origin != Origin::BuiltIn => choice.value.as_str(),
        // The daemon's own default is for other backends. It may be replaced, and that is said.
        Some(choice) if choice.value != DEFAULT_CPU => {
            findings.push(note(
                "cpu.model-replaced",
                "cpu",
                &format!("CPU model {} became {DEFAULT_CPU}", quoted(&choice.value)),
                "name a model in the request, or set one for all VMs",
            ));
            DEFAULT_CPU
        }
        _ => DEFAULT_CPU,
    };
    if !is_qemu_name(model) {
        return Err(invalid_request(
            "cpu",
            &format!(
                "{} is not the name of a CPU model, which is one word without features",
                quoted(model)
            ),
            "name a model alone, such as EPYC-v4 or max",
        ));
    }
    Ok(Typed {
        kind: model.to_owned(),
        id: None,
        properties: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use casemate_backend::harness::{Case, violations};

    use super::*;

    fn answer(case: &Case) -> Result<LaunchPlan, Error> {
        let facts = Facts {
            kvm: Ok(()),
            qemu: case.qemu.clone(),
        };
        let answer = plan(&case.request, &facts);
        assert_eq!(violations(&describe(), &case.request, &answer), [""; 0]);
        answer
    }

    #[test]
    fn a_request_becomes_a_plan() {
        let plan = answer(&Case::default()).expect("nothing stands in the way");
        assert_eq!(plan.machine.kind, "pc-q35-10.0");
        assert_eq!(plan.cpu.kind, "max");
        let built_in = answer(&Case::default().with_cpu("EPYC", Origin::BuiltIn));
        let built_in = built_in.expect("it may be replaced");
        assert_eq!(built_in.cpu.kind, "max");
        assert!(built_in.findings.iter().any(|finding| finding.subject == "cpu"));
        let named = Case::default().with_cpu("EPYC-v4", Origin::Request);
        assert_eq!(answer(&named).expect("it is a model").cpu.kind, "EPYC-v4");
    }

    #[test]
    fn what_cannot_be_had_is_refused_by_its_name() {
        for (subject, case) in [
            ("identity", Case::default().with_identity("raw", vec![1])),
            ("vcpus", Case::default().with_size(0, 512)),
            ("memory-bytes", Case::default().with_size(1, 0)),
            ("kernel", Case::default().without_file("kernel")),
            ("machine", Case::default().with_machine("microvm,x=y", Origin::Request)),
            ("cpu", Case::default().with_cpu("EPYC,+avx", Origin::Request)),
        ] {
            let error = answer(&case).expect_err(subject);
            assert_eq!(error.subject, subject);
        }
    }
}
