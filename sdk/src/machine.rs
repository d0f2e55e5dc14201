//! The PC that a plan names: by its version, so that a plan means the same after an upgrade of QEMU.

use crate::answer::{fail, invalid_request, pass, quoted, unavailable, unsupported_host, warn};
use crate::bindings::casemate::tee::facts::FactError;
use crate::bindings::casemate::tee::types::{
    Choice, Error, Finding, LaunchRequest, Property, Typed,
};
use crate::facts::QemuFacts;
use crate::names::is_qemu_name;

/// Which of QEMU's PCs a technology can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// With a PCI bus: `q35` and `pc`.
    AnyPc,
    /// `q35` alone, which the firmware of protected guests is made for.
    Q35,
}

impl Family {
    fn wanted(self) -> &'static str {
        match self {
            Self::AnyPc => "name a PC machine such as q35, pc or pc-q35-7.2",
            Self::Q35 => "name q35, or a version of it such as pc-q35-10.1",
        }
    }

    /// By alias or by version. `microvm` and `isapc` have no PCI bus, `none` is no machine at all.
    fn has(self, name: &str) -> bool {
        let is_q35 = name == "q35" || name.starts_with("pc-q35-");
        match self {
            Self::Q35 => is_q35,
            Self::AnyPc => is_q35 || name == "pc" || name.starts_with("pc-i440fx-"),
        }
    }
}

/// What is asked for, else the default.
pub fn wanted<'a>(choice: Option<&'a Choice>, default: &'a str) -> &'a str {
    choice.map_or(default, |choice| choice.value.as_str())
}

/// The machine of a plan, with `properties`.
pub fn versioned(
    request: &LaunchRequest,
    default: &str,
    facts: &QemuFacts,
    family: Family,
    properties: Vec<Property>,
    backend: &str,
    findings: &mut Vec<Finding>,
) -> Result<Typed, Error> {
    let wanted = wanted(request.machine.as_ref(), default);
    if !is_qemu_name(wanted) {
        return Err(invalid_request(
            "machine",
            &format!(
                "{} is not the name of a machine, which is one word without properties",
                quoted(wanted)
            ),
            family.wanted(),
        ));
    }
    let kind = match (&facts.machine, &facts.machine_type) {
        (Ok(versioned), Ok(()) | Err(FactError::Denied)) => versioned.as_str(),
        (Ok(_), Err(FactError::Absent)) | (Err(FactError::Absent), _) => {
            return Err(invalid_request(
                "machine",
                &format!("this QEMU has no machine {}", quoted(wanted)),
                family.wanted(),
            ));
        }
        (Err(FactError::Failed(reason)), _) | (_, Err(FactError::Failed(reason))) => {
            return Err(unavailable(
                "machine",
                &format!("QEMU did not tell its machines: {reason}"),
                "see the daemon's log for what QEMU said, and try again",
            ));
        }
        (Err(FactError::Denied), _) if family == Family::Q35 => {
            return Err(version_unknown(backend));
        }
        (Err(FactError::Denied), _) => {
            findings.push(warn(
                "machine.not-versioned",
                "machine",
                "the backend may not ask for the versioned name of the machine, so the guest may \
                 see another machine after an upgrade of QEMU",
                &format!("add qemu-machine * to the grants of {backend}"),
            ));
            wanted
        }
    };
    if !is_qemu_name(kind) || !family.has(kind) {
        let what = match family {
            Family::AnyPc => "no PC with a PCI bus, which this backend attaches devices to",
            Family::Q35 => "no q35, which this backend's guests need",
        };
        return Err(invalid_request(
            "machine",
            &format!("machine {} is {what}", quoted(kind)),
            family.wanted(),
        ));
    }
    Ok(Typed {
        kind: kind.to_owned(),
        id: None,
        properties,
    })
}

/// What protects a guest may measure its machine, so there an alias is no answer.
fn version_unknown(backend: &str) -> Error {
    unsupported_host(
        "machine",
        "the backend may not ask for the versioned name of the machine, which a protected guest is \
         planned with",
        &format!("add qemu-machine * to the grants of {backend}"),
    )
}

/// For `check`: what the default machine is. No failure where a request may name another.
pub fn default_finding(facts: &QemuFacts, default: &str, family: Family, backend: &str) -> Finding {
    const ID: &str = "qemu.machine";
    match (&facts.machine, &facts.machine_type) {
        (Ok(versioned), Ok(())) => {
            pass(ID, "machine", &format!("machine {default} is {versioned}"))
        }
        (Err(FactError::Denied), _) if family == Family::Q35 => fail(ID, &version_unknown(backend)),
        (Err(FactError::Denied), _) | (_, Err(FactError::Denied)) => warn(
            ID,
            "machine",
            "the backend may not ask QEMU for its machines, so plans cannot name a version of them",
            &format!("add qemu-machine * and qemu-type * to the grants of {backend}"),
        ),
        (Err(FactError::Failed(reason)), _) | (_, Err(FactError::Failed(reason))) => warn(
            ID,
            "machine",
            &format!("QEMU did not tell its machines: {reason}"),
            "see the daemon's log for what QEMU said",
        ),
        (Err(FactError::Absent), _) | (_, Err(FactError::Absent)) => warn(
            ID,
            "machine",
            &format!("this QEMU has no machine {default}"),
            "install a QEMU that has it, or name another machine in each request",
        ),
    }
}
