//! Answers of the host, in the words that a backend needs: a value, not there, not granted, or
//! could not look.

use crate::bindings::casemate::tee::facts::{self, FactError};
use crate::names::is_qemu_name;

pub type Answer<T> = Result<T, FactError>;

/// What QEMU says of the wanted machine and CPU model.
#[derive(Debug, Clone, PartialEq)]
pub struct QemuFacts {
    pub version: Answer<String>,
    /// The versioned name behind the wanted machine.
    pub machine: Answer<String>,
    /// Whether QEMU has the type of that versioned machine.
    pub machine_type: Answer<()>,
    /// Whether QEMU has the wanted CPU model.
    pub cpu_model: Answer<()>,
}

impl QemuFacts {
    /// Asks the host, for a guest of x86_64.
    pub fn gather(machine: &str, cpu: &str) -> Self {
        Self::gather_for("x86_64", machine, cpu)
    }

    /// The same for another architecture, as `describe` names it. A name that cannot be a QEMU name is
    /// not asked about: it is absent.
    pub fn gather_for(architecture: &str, machine: &str, cpu: &str) -> Self {
        let machine = if is_qemu_name(machine) {
            facts::qemu_machine(machine)
        } else {
            Err(FactError::Absent)
        };
        let machine_type = match &machine {
            Ok(versioned) => has_type(&format!("{versioned}-machine")),
            Err(reason) => Err(reason.clone()),
        };
        let cpu_model = if is_qemu_name(cpu) {
            has_type(&cpu_type(cpu, architecture))
        } else {
            Err(FactError::Absent)
        };
        Self {
            version: facts::qemu_version(),
            machine,
            machine_type,
            cpu_model,
        }
    }
}

/// QEMU's type of a CPU model (QEMU, `CPU_RESOLVING_TYPE` of each target).
pub fn cpu_type(model: &str, architecture: &str) -> String {
    match architecture {
        "aarch64" => format!("{model}-arm-cpu"),
        other => format!("{model}-{other}-cpu"),
    }
}

/// Whether QEMU has a type.
pub fn has_type(name: &str) -> Answer<()> {
    facts::qemu_type(name).map(|_properties| ())
}

/// The value of a fact, where it is only a help for the reader.
pub fn known<T>(answer: &Answer<T>) -> Option<&T> {
    answer.as_ref().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_model_has_the_type_of_its_target() {
        assert_eq!(cpu_type("EPYC", "x86_64"), "EPYC-x86_64-cpu");
        assert_eq!(cpu_type("max", "aarch64"), "max-arm-cpu");
        assert_eq!(cpu_type("host", "s390x"), "host-s390x-cpu");
    }
}
