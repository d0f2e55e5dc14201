//! What the host told about itself, gathered once for each call. Everything after this is a pure
//! function of the request, of these values and of the files' bytes.

use casemate_backend::bindings::casemate::tee::facts;
use casemate_backend::bindings::casemate::tee::types::HostContext;
use casemate_backend::facts::{Answer, QemuFacts, has_type};
use casemate_backend::guard::{self, GuardFacts, Technology};
use casemate_backend::host::{self, Examined};

/// Name of this backend, for remedies.
pub(crate) const BACKEND: &str = "tdx";

/// The object that protects the guest, and the first QEMU that has it.
pub(crate) const OBJECT: &str = "tdx-guest";
pub(crate) const OBJECT_SINCE: &str = "10.1";

/// Where Intel's quote generation service listens.
pub(crate) const QUOTE_SOCKET: &str = "/var/run/tdx-qgs/qgs.socket";
/// CPUs that are there, as `0-3,8` (kernel, Documentation/admin-guide/cputopology.rst).
pub(crate) const CPUS_PRESENT: &str = "/sys/devices/system/cpu/present";

pub(crate) const TECHNOLOGY: Technology = Technology {
    name: "TDX",
    backend: BACKEND,
    // KVM_X86_TDX_VM.
    vm_type: 5,
    slots: "tdx",
    vendor: "GenuineIntel",
    parameter: "/sys/module/kvm_intel/parameters/tdx",
    enabling: "enable TDX, TME-MT and SEAM in the machine's firmware, and run Linux 6.16 or newer \
               with nohibernate kvm_intel.tdx=1; the kernel's log says \"virt/tdx: module \
               initialized\" when it worked",
};

/// Answers as the host gave them.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    pub guard: GuardFacts,
    /// Whether the usual socket of the quote generation service accepts a connection.
    pub quote_socket: Answer<()>,
    pub cpus_present: Answer<String>,
    pub qemu: QemuFacts,
    pub object: Answer<()>,
}

impl Facts {
    pub fn gather(machine: &str, cpu: &str) -> Self {
        Self {
            guard: GuardFacts::gather(&TECHNOLOGY),
            quote_socket: facts::socket(QUOTE_SOCKET),
            cpus_present: facts::read_text(CPUS_PRESENT),
            qemu: QemuFacts::gather(machine, cpu),
            object: has_type(OBJECT),
        }
    }

    /// In the order in which an operator would mend it.
    pub(crate) fn examine(&self, host: &HostContext) -> Vec<Examined> {
        vec![
            host::architecture(host, BACKEND),
            guard::accelerator(host, &self.guard, &TECHNOLOGY),
            guard::vm_type(&self.guard, &TECHNOLOGY),
            guard::slots(&self.guard, &TECHNOLOGY),
            guard::object_type(
                &self.object,
                &self.qemu.version,
                OBJECT,
                OBJECT_SINCE,
                &TECHNOLOGY,
            ),
        ]
    }
}
