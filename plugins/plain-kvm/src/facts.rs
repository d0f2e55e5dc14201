//! What the host told about itself, gathered once for each call. Everything after this is a pure
//! function of the request and of these values.

use crate::bindings::casemate::tee::facts::{self, FactError};

/// Answers as the host gave them: a value, not there, not granted, or could not look.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    pub kvm_device: Result<(), FactError>,
    pub qemu_version: Result<String, FactError>,
    /// The versioned name behind the wanted machine.
    pub machine: Result<String, FactError>,
    /// Whether QEMU has the type of that versioned machine.
    pub machine_type: Result<(), FactError>,
    /// Whether QEMU has the wanted CPU model.
    pub cpu_model: Result<(), FactError>,
}

impl Facts {
    /// Asks the host. A name that cannot be a QEMU name is not asked about: it is absent.
    pub fn gather(machine: &str, cpu: &str) -> Self {
        let machine_name = if is_qemu_name(machine) {
            facts::qemu_machine(machine)
        } else {
            Err(FactError::Absent)
        };
        let machine_type = match &machine_name {
            Ok(versioned) => qemu_has_type(&format!("{versioned}-machine")),
            Err(reason) => Err(reason.clone()),
        };
        let cpu_model = if is_qemu_name(cpu) {
            qemu_has_type(&format!("{cpu}-x86_64-cpu"))
        } else {
            Err(FactError::Absent)
        };
        Self {
            kvm_device: facts::device("/dev/kvm"),
            qemu_version: facts::qemu_version(),
            machine: machine_name,
            machine_type,
            cpu_model,
        }
    }
}

fn qemu_has_type(name: &str) -> Result<(), FactError> {
    facts::qemu_type(name).map(|_properties| ())
}

/// Letters, digits, `-`, `.` and `_`: what QEMU's machine and CPU names are made of. A comma would
/// begin a list of features, which is another thing.
pub(crate) fn is_qemu_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}
