//! What the host told about itself, gathered once for each call. Everything after this is a pure
//! function of the request, of these values and of the files' bytes.

use casemate_backend::answer::{pass, unsupported_host, warn};
use casemate_backend::bindings::casemate::tee::facts::{self, FactError};
use casemate_backend::bindings::casemate::tee::types::HostContext;
use casemate_backend::facts::{Answer, QemuFacts, has_type};
use casemate_backend::guard::{self, GuardFacts, Technology};
use casemate_backend::host::{self, Examined};

/// Name of this backend, for remedies.
pub(crate) const BACKEND: &str = "sev-snp";

/// The object that protects the guest, and the first QEMU that has it.
pub(crate) const OBJECT: &str = "sev-snp-guest";
pub(crate) const OBJECT_SINCE: &str = "9.1";
/// What reads an IGVM file; QEMU has it where it was built with libigvm.
pub(crate) const IGVM_OBJECT: &str = "igvm-cfg";
pub(crate) const IGVM_SINCE: &str = "10.1";

/// The firmware's device, which QEMU opens itself for reading and writing.
pub(crate) const SEV_DEVICE: &str = "/dev/sev";
/// CPUID leaf "Encrypted Memory Capabilities" (AMD APM volume 3, section E.4.17).
pub(crate) const SEV_LEAF: u32 = 0x8000_001f;
/// KVM_X86_GRP_SEV, and in it KVM_X86_SNP_POLICY_BITS (kernel, arch/x86/include/uapi/asm/kvm.h).
pub(crate) const POLICY_BITS: (u32, u64) = (1, 1);
/// Whether two threads share a core.
pub(crate) const SMT_ACTIVE: &str = "/sys/devices/system/cpu/smt/active";

pub(crate) const TECHNOLOGY: Technology = Technology {
    name: "SEV-SNP",
    backend: BACKEND,
    // KVM_X86_SNP_VM.
    vm_type: 4,
    // SNP guests take the address space ids of SEV-ES.
    slots: "sev_es",
    vendor: "AuthenticAMD",
    parameter: "/sys/module/kvm_amd/parameters/sev_snp",
    enabling: "enable SEV-SNP, SNP memory coverage (the RMP table) and IOMMU in the machine's \
               firmware, and run Linux 6.11 or newer with kvm_amd.sev_snp=1",
};

/// Answers as the host gave them.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    pub guard: GuardFacts,
    /// EAX and EBX of CPUID leaf 0x8000001f.
    pub sev_leaf: Answer<(u32, u32)>,
    pub sev_device: Answer<()>,
    /// Bits of the guest policy that KVM takes.
    pub policy_bits: Answer<u64>,
    pub smt_active: Answer<String>,
    pub qemu: QemuFacts,
    pub object: Answer<()>,
    pub igvm: Answer<()>,
}

impl Facts {
    pub fn gather(machine: &str, cpu: &str) -> Self {
        let (group, attribute) = POLICY_BITS;
        Self {
            guard: GuardFacts::gather(&TECHNOLOGY),
            sev_leaf: facts::cpuid(SEV_LEAF, 0).map(|leaf| (leaf.eax, leaf.ebx)),
            sev_device: facts::device(SEV_DEVICE),
            policy_bits: facts::kvm_device_attribute(group, attribute),
            smt_active: facts::read_text(SMT_ACTIVE),
            qemu: QemuFacts::gather(machine, cpu),
            object: has_type(OBJECT),
            igvm: has_type(IGVM_OBJECT),
        }
    }

    /// In the order in which an operator would mend it.
    pub(crate) fn examine(&self, host: &HostContext) -> Vec<Examined> {
        vec![
            host::architecture(host, BACKEND),
            guard::accelerator(host, &self.guard, &TECHNOLOGY),
            guard::vm_type(&self.guard, &TECHNOLOGY),
            self.examine_device(),
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

    fn examine_device(&self) -> Examined {
        const ID: &str = "sev.device";
        match &self.sev_device {
            Ok(()) => Examined::Usable(pass(ID, SEV_DEVICE, "the firmware's device can be used")),
            Err(FactError::Denied) => Examined::Usable(warn(
                ID,
                SEV_DEVICE,
                "the backend may not look at /dev/sev, so it is not known whether QEMU can use it",
                "add device /dev/sev to the grants of sev-snp",
            )),
            Err(FactError::Absent) => Examined::Missing {
                id: ID,
                error: unsupported_host(
                    SEV_DEVICE,
                    "there is no /dev/sev, through which QEMU talks to the SEV firmware",
                    "load the module ccp, and see the kernel's log for why the firmware did not \
                     start",
                ),
            },
            Err(FactError::Failed(reason)) => Examined::Missing {
                id: ID,
                error: unsupported_host(
                    SEV_DEVICE,
                    &format!("/dev/sev is there but cannot be used: {reason}"),
                    "give the device a group that the daemon is in, with a udev rule such as \
                     KERNEL==\"sev\", GROUP=\"kvm\", MODE=\"0660\"",
                ),
            },
        }
    }
}
