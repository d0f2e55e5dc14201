//! What the host told about itself, gathered once for each call. Everything after this is a pure
//! function of the request and of these values.

use casemate_backend::bindings::casemate::tee::facts;
use casemate_backend::bindings::casemate::tee::types::{Finding, HostContext};
use casemate_backend::facts::{Answer, QemuFacts};
use casemate_backend::host::{self, Examined};

/// Debian 12's own. Older ones take no listening socket and no JSON objects in the forms that the
/// host writes.
const OLDEST_QEMU: (u32, u32) = (7, 2);

/// Name of this backend, for remedies.
pub(crate) const BACKEND: &str = "plain-kvm";

/// Answers as the host gave them.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    pub kvm_device: Answer<()>,
    pub qemu: QemuFacts,
}

impl Facts {
    pub fn gather(machine: &str, cpu: &str) -> Self {
        Self {
            qemu: QemuFacts::gather(machine, cpu),
            kvm_device: facts::device("/dev/kvm"),
        }
    }

    /// In the order in which an operator would mend it.
    pub(crate) fn examine(&self, host: &HostContext) -> Vec<Examined> {
        vec![
            host::architecture(host, BACKEND),
            host::accelerator(host, &self.kvm_device, BACKEND),
            host::qemu_version(&self.qemu.version, OLDEST_QEMU, BACKEND),
        ]
    }

    /// The same as findings.
    pub(crate) fn findings(&self, host: &HostContext) -> Vec<Finding> {
        let examined = self.examine(host).into_iter();
        examined.map(Examined::into_finding).collect()
    }
}
