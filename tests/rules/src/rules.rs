//! The table of rules, and what a rule is.

mod any;
mod guard;
mod snp;
mod tdx;
mod tee;

use std::fmt;

use crate::Technology;
use crate::case::Case;

/// Which lists a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Any,
    /// SEV-SNP and TDX.
    Confidential,
    SevSnp,
    Tdx,
    Plain,
}

impl Scope {
    pub fn covers(self, technology: Technology) -> bool {
        match self {
            Self::Any => true,
            Self::Confidential => technology != Technology::Plain,
            Self::SevSnp => technology == Technology::SevSnp,
            Self::Tdx => technology == Technology::Tdx,
            Self::Plain => technology == Technology::Plain,
        }
    }
}

/// What it means to break a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// The launch fails, the guest does not come up, or it is protected less than it seems.
    Must,
    /// QEMU takes it. Casemate does not do it, for the reason that the source has.
    Should,
}

/// What a rule found, one text for each violation.
type Details = Vec<String>;

#[derive(Clone, Copy)]
pub struct Rule {
    pub id: &'static str,
    pub weight: Weight,
    pub scope: Scope,
    /// What a list is to be like.
    pub text: &'static str,
    /// Who says so: a message of QEMU, a thread, a project that does it.
    pub source: &'static str,
    judge: fn(&Case<'_>) -> Details,
}

impl Rule {
    pub(crate) fn judge(&self, case: &Case<'_>) -> Details {
        (self.judge)(case)
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Rule").field(&self.id).finish()
    }
}

const fn rule(
    id: &'static str,
    (scope, weight): (Scope, Weight),
    judge: fn(&Case<'_>) -> Details,
    text: &'static str,
    source: &'static str,
) -> Rule {
    Rule {
        id,
        weight,
        scope,
        text,
        source,
        judge,
    }
}

type Kind = (Scope, Weight);
const ANY: Kind = (Scope::Any, Weight::Must);
const PLAIN: Kind = (Scope::Plain, Weight::Must);
const TEE: Kind = (Scope::Confidential, Weight::Must);
const TEE_OURS: Kind = (Scope::Confidential, Weight::Should);
const SNP: Kind = (Scope::SevSnp, Weight::Must);
const SNP_OURS: Kind = (Scope::SevSnp, Weight::Should);
const TDX: Kind = (Scope::Tdx, Weight::Must);
const TDX_OURS: Kind = (Scope::Tdx, Weight::Should);

/// All rules. `any.` is for every list, `tee.` for both technologies.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    rule("any.options", ANY, any::options, "every argument is an option that is known, with its value", "QEMU: a list that cannot be read is not vouched for"),
    rule("any.amounts", ANY, any::amounts, "-m is a size and -smp a count of 1 or more", "QEMU"),
    rule("any.ids", ANY, any::ids, "an id begins with a letter and has letters, digits, `-`, `.` and `_`", "QEMU: \"Parameter 'id' expects an identifier\""),
    rule("any.boot-needs-kernel", ANY, any::boot_needs_kernel, "-initrd and -append come with -kernel alone", "QEMU: \"-initrd only allowed with -kernel option\""),
    rule("any.bios-size", ANY, any::bios_size, "the file of -bios is a multiple of 64 KiB", "QEMU: \"could not load PC BIOS\""),
    rule("any.memory-backend", ANY, any::memory_backend, "the machine's memory-backend is a memory backend of the list", "QEMU: the id is looked up among the objects"),
    rule("any.memory-size", ANY, any::memory_size, "-m is the size of the memory backend", "QEMU: \"Machine memory size does not match the size of the memory backend\""),
    rule("any.forks", ANY, any::forks, "no object and no machine property that only forks of QEMU ever had", "memory-backend-memfd-private, kvm-type, device-plane; coconut-svsm/svsm#375"),
    rule("plain.guard", PLAIN, any::guard_is_known, "confidential-guest-support names a guard of the list that there are rules for", "a guest that is thought to be protected and is not"),
    rule("plain.pflash-pair", PLAIN, any::pflash_pair, "the second pflash chip comes with the first one", "QEMU: \"pflash1 requires pflash0\""),

    rule("tee.one-guard", TEE, tee::one_guard, "there is exactly one guard object", "a machine has one confidential-guest-support"),
    rule("tee.guard-named", TEE, tee::guard_named, "the guard is the machine's confidential-guest-support", "QEMU 10.0 starts a guest without protection, and says nothing; 11.1 aborts over a tdx-guest that nobody uses"),
    rule("tee.guard-property", TEE_OURS, tee::guard_property, "the guard is not named by memory-encryption", "QEMU 11.1: \"memory-encryption is deprecated, use confidential-guest-support instead\""),
    rule("tee.accel-kvm", TEE, tee::accel_kvm, "KVM is the accelerator, and there is none to fall back to", "QEMU: \"cannot set up private guest memory for sev-snp-guest: KVM required\""),
    rule("tee.machine-versioned", TEE_OURS, tee::machine_versioned, "the machine is pc-q35 with a version", "RTMR0 depends on the machine type: dstack's attestation-tdx.md, lium-io#1274"),
    rule("tee.smm", TEE, tee::smm, "smm is not on", "QEMU: \"SEV-SNP does not support SMM.\", \"TDX VM doesn't support SMM\""),
    rule("tee.smm-said", TEE_OURS, tee::smm_said, "smm is written, not left to QEMU", "a default may change"),
    rule("tee.irqchip-said", TEE_OURS, tee::irqchip_said, "kernel-irqchip is written, not left to QEMU", "QEMU 9.2 with TDX patches had to be told: kata#12392"),
    rule("tee.memory-named", TEE_OURS, tee::memory_named, "the machine names its memory backend", "QEMU attaches guest_memfd behind any; libvirt, dstack and Canonical name one"),
    rule("tee.memfd-shared", TEE_OURS, tee::memfd_shared, "a memory-backend-memfd says share=on", "QEMU: \"Discarding RAM in private file mappings is possibly dangerous\", intel/tdx-linux#1"),
    rule("tee.no-slots", TEE_OURS, tee::no_slots, "-m has no slots", "kata: no hotplug in a confidential guest"),
    rule("tee.no-maxmem", TEE, tee::no_maxmem, "-m has no maxmem", "kata#10836: virtio devices fail where maxmem is the host's memory"),
    rule("tee.no-maxcpus", TEE_OURS, tee::no_maxcpus, "-smp has no more maxcpus than vCPUs", "kata: no hotplug in a confidential guest"),
    rule("tee.smp-said", TEE_OURS, tee::smp_said, "-smp is written", "the count of vCPUs is part of the SEV-SNP measurement and of RTMR0"),
    rule("tee.no-balloon", TEE_OURS, tee::no_balloon, "no balloon", "kata: disabled in a confidential guest"),
    rule("tee.no-virtio-mem", TEE_OURS, tee::no_virtio_mem, "no virtio-mem and no virtio-pmem", "kata: disabled in a confidential guest"),
    rule("tee.no-nvdimm", TEE_OURS, tee::no_nvdimm, "no nvdimm, as a device or of the machine", "kata: disabled in a confidential guest"),
    rule("tee.no-dimm", TEE_OURS, tee::no_dimm, "no pc-dimm", "kata: no hotplug in a confidential guest"),
    rule("tee.no-host-rng", TEE_OURS, tee::no_host_rng, "no virtio-rng", "kata (Go): the host chooses what it gives"),
    rule("tee.no-empty-ports", TEE_OURS, tee::no_empty_ports, "each PCIe port has a device of the list on it", "an empty port is for hotplug"),
    rule("tee.no-reboot", TEE_OURS, tee::no_reboot, "-no-reboot", "QEMU 10.2: \"cpus are not resettable, terminating\"; later ones may rebuild the guest"),
    rule("tee.nodefaults", TEE_OURS, tee::nodefaults, "-nodefaults", "QEMU adds a VGA card and others; with IGVM it stops the boot: coconut-svsm/svsm#811"),
    rule("tee.no-user-config", TEE_OURS, tee::no_user_config, "-no-user-config", "libvirt: no file of the host adds to the guest"),
    rule("tee.display-none", TEE_OURS, tee::display_none, "-display none", "libvirt; -nographic also moves serial port and monitor"),
    rule("tee.no-vga", TEE, tee::no_vga, "no graphics card", "coconut-svsm/svsm#809, #811; Canonical: a TD has no graphics"),
    rule("tee.virtio-iommu", TEE, tee::virtio_iommu, "no virtio device has iommu_platform=off", "QEMU sets it for every confidential guest since 6.0"),
    rule("tee.virtio-legacy", TEE, tee::virtio_legacy, "no virtio device has disable-legacy=off", "QEMU sets it for every confidential guest since 6.0"),
    rule("tee.vfio-iommufd", TEE, tee::vfio_iommufd, "a VFIO device has an iommufd of the list", "kata#11721, NVIDIA/nvtrust#46: \"VFIO_MAP_DMA failed: No space left\""),

    rule("snp.properties", SNP, snp::properties, "the guard has no property that QEMU 11.1 lacks", "query-qmp-schema of QEMU 10.0.2 and 11.1.2"),
    rule("snp.types", SNP, snp::types, "each property of the guard has its type; in JSON a number is a number", "QEMU: \"Parameter 'policy' expects uint64\""),
    rule("snp.irqchip", SNP, snp::irqchip, "kernel-irqchip, where written, is on or split", "QEMU: the interrupt controller has to be in the kernel"),
    rule("snp.no-pflash", SNP, snp::no_pflash, "no pflash in any form", "QEMU: \"pflash with kvm requires KVM readonly memory support\"; AMDSEV#223"),
    rule("snp.one-bios", SNP, snp::one_bios, "without IGVM there is exactly one -bios", "QEMU: firmware of SEV-SNP is one combined image"),
    rule("snp.firmware-metadata", SNP, snp::firmware_metadata, "the firmware has SEV metadata", "QEMU: \"Failed to locate SEV metadata header\"; kata#9724, AMDSEV#218"),
    rule("snp.igvm-named", SNP, snp::igvm_named, "the machine's igvm-cfg is an igvm-cfg object of the list, and there is no other", "QEMU: the object does nothing unless it is named"),
    rule("snp.igvm-no-bios", SNP, snp::igvm_no_bios, "with IGVM there is no -bios", "QEMU: the IGVM file is the firmware"),
    rule("snp.igvm-no-kernel-hashes", SNP, snp::igvm_no_kernel_hashes, "with IGVM there are no kernel hashes", "QEMU: assert(ovmf_flash_parsed), by reading its source"),
    rule("snp.igvm-no-id-block", SNP, snp::igvm_no_id_block, "with IGVM there is no id-block and no id-auth", "QEMU: those of the IGVM file replace them, by reading its source"),
    rule("snp.kernel-hashes-kernel", SNP, snp::kernel_hashes_kernel, "kernel hashes come with -kernel", "QEMU: assert(sev_snp->kernel_hashes_data); kata#11785, AMDSEV#142"),
    rule("snp.kernel-hashes-area", SNP, snp::kernel_hashes_area, "kernel hashes come with a firmware that has room for them", "QEMU: \"guest firmware hashes table area is invalid\"; AMDSEV#262"),
    rule("snp.kernel-hashed", SNP, snp::kernel_hashed, "a kernel is hashed where the firmware has room for it", "otherwise kernel, initrd and command line are in no measurement"),
    rule("snp.cbitpos", SNP, snp::cbitpos, "cbitpos is that of CPUID 0x8000001F EBX[5:0]", "QEMU: \"cbitpos check failed, host '%d' requested '%d'\"; AMDESE/linux-svsm#9"),
    rule("snp.reduced-phys-bits-given", SNP, snp::reduced_phys_bits_given, "reduced-phys-bits is written, from 1 to 63", "QEMU: \"Parameter 'reduced-phys-bits' is missing\""),
    rule("snp.reduced-phys-bits", SNP_OURS, snp::reduced_phys_bits, "reduced-phys-bits is 1", "query-sev-capabilities says 1; more shrinks the guest's address space: AMDESE/qemu#7, svsm#894"),
    rule("snp.policy-said", SNP_OURS, snp::policy_said, "the policy is written, not left to QEMU", "it is part of every attestation report"),
    rule("snp.policy-reserved", SNP, snp::policy_reserved, "bit 17 of the policy is 1", "firmware: fw_error=7 \"Policy is not allowed\"; kata#5795"),
    rule("snp.policy-migration", SNP, snp::policy_migration, "bit 18 of the policy (migration agent) is 0", "KVM: SNP_LAUNCH_START ret=-22; AMDSEV#240"),
    rule("snp.policy-debug", SNP, snp::policy_debug, "bit 19 of the policy (debugging) is 0 unless the request has it", "the host can read the memory of such a guest"),
    rule("snp.policy-published", SNP, snp::policy_published, "bits 21 to 25 of the policy are those that KVM publishes; where it publishes none, bit 20 is 0 and bit 16 is 1", "KVM_X86_SNP_POLICY_BITS, kernel commit 7a61d613; snp_launch_start of Linux 6.11"),
    rule("snp.policy-high", SNP, snp::policy_high, "bits above 25 of the policy are 0", "no kernel knows them"),
    rule("snp.policy-smt", SNP, snp::policy_smt, "bit 16 of the policy is 1 on a host with SMT", "firmware: fw_error=7 \"Policy is not allowed\"; kata#5795"),
    rule("snp.policy-abi", SNP, snp::policy_abi, "the policy asks for no newer ABI than the firmware has", "firmware: fw_error=7 \"Policy is not allowed\"; kata#5795"),
    rule("snp.host-data", SNP, snp::host_data, "host-data is 32 bytes in base64", "QEMU: \"parameter length of 31 not equal to 32\""),
    rule("snp.identity", SNP, snp::identity, "host-data is the request's identity, then zeros", "a relying party compares it"),
    rule("snp.id-block", SNP, snp::id_block, "id-block is 96 bytes in base64", "QEMU: \"parameter length of 3 not equal to 96\""),
    rule("snp.id-auth", SNP, snp::id_auth, "id-auth is 1 to 4096 bytes in base64", "QEMU: qapi/qom.json"),
    rule("snp.id-pair", SNP, snp::id_pair, "id-block and id-auth come together", "QEMU does not look; kata: \"specifying SNP IDBlock without SNP IDAuth is not allowed\""),
    rule("snp.author-key", SNP, snp::author_key, "author-key-enabled comes with id-auth", "the author's key is in it"),
    rule("snp.workarounds", SNP, snp::workarounds, "guest-visible-workarounds is 16 bytes in base64", "QEMU: \"exceeds max of 16\""),
    rule("snp.cpu-model", SNP, snp::cpu_model, "the CPU is EPYC-v4, EPYC-Rome-v3, EPYC-Milan-v2, EPYC-Genoa, EPYC-Turin or a later version", "PSP: \"CPUID validation failed for function 0x8000001d\"; NVIDIA/nvtrust#91"),
    rule("snp.cpu-versioned", SNP_OURS, snp::cpu_versioned, "the CPU model has its version", "its signature is in the measurement of every vCPU"),
    rule("snp.no-migration", SNP, snp::no_migration, "the guest does not come from elsewhere", "QEMU blocks migration of SEV-SNP guests"),
    rule("snp.option-roms", SNP_OURS, snp::option_roms, "no network card has an option ROM, and there is no -option-rom", "an option ROM is not measured; dstack, Cocos: romfile="),

    rule("tdx.properties", TDX, tdx::properties, "the guard has no property that QEMU 11.1 lacks", "query-qmp-schema of QEMU 11.1.2: \"Parameter 'debug' is unexpected\"; canonical/tdx#178"),
    rule("tdx.types", TDX, tdx::types, "each property of the guard has its type", "query-qmp-schema of QEMU 11.1.2"),
    rule("tdx.guard-json", TDX_OURS, tdx::guard_json, "the guard is written as JSON", "QEMU: \"Invalid parameter 'quote-generation-socket.cid'\" in an option string"),
    rule("tdx.irqchip", TDX, tdx::irqchip, "kernel-irqchip, where written, is split", "QEMU: \"TDX VM requires kernel_irqchip to be split\""),
    rule("tdx.pic", TDX, tdx::pic, "pic is not on", "QEMU: TDX has no PIC"),
    rule("tdx.hpet", TDX_OURS, tdx::hpet, "hpet=off", "Canonical, dstack and libvirt's template"),
    rule("tdx.cpu-host", TDX, tdx::cpu_host, "the CPU is host or max", "QEMU: \"Named cpu model is not supported for TDX yet!\""),
    rule("tdx.cpu-phys-bits", TDX, tdx::cpu_phys_bits, "the width of addresses is the host's: no phys-bits, no limit to it", "QEMU: \"TDX requires guest CPU physical bits (%u) to match host\""),
    rule("tdx.cpu-pmu", TDX_OURS, tdx::cpu_pmu, "pmu is not on", "QEMU turns it off without a word"),
    rule("tdx.cpu-invtsc", TDX_OURS, tdx::cpu_invtsc, "invtsc is not off", "QEMU turns it on without a word"),
    rule("tdx.cpu-nested", TDX_OURS, tdx::cpu_nested, "vmx is not on", "Canonical: a TD has no nested guests"),
    rule("tdx.cpu-tsc", TDX, tdx::cpu_tsc, "tsc-frequency is a multiple of 25 MHz from 0.1 to 10 GHz", "QEMU: target/i386/kvm/tdx.c"),
    rule("tdx.no-pflash", TDX, tdx::no_pflash, "no pflash in any form", "QEMU: \"pflash with kvm requires KVM readonly memory support\""),
    rule("tdx.one-bios", TDX, tdx::one_bios, "there is exactly one -bios", "QEMU: \"failed to parse TDVF for TDX VM\""),
    rule("tdx.firmware", TDX, tdx::firmware, "the firmware is a TDVF", "QEMU: \"Cannot find TDX_METADATA_OFFSET_GUID\""),
    rule("tdx.no-igvm", TDX, tdx::no_igvm, "no IGVM", "QEMU: its TDX class does not take it"),
    rule("tdx.attributes", TDX, tdx::attributes, "attributes has no bit but 0, 28, 30 and 63", "QEMU: \"Some QEMU unsupported TD attribute bits being requested\""),
    rule("tdx.attributes-debug", TDX, tdx::attributes_debug, "bit 0 of attributes (debugging) is 0", "QEMU: \"Some QEMU unsupported TD attribute bits being requested\""),
    rule("tdx.attributes-sept-ve", TDX, tdx::attributes_sept_ve, "attributes, where written, has bit 28", "Linux does not boot without it"),
    rule("tdx.sept-ve-disable", TDX, tdx::sept_ve_disable, "sept-ve-disable is not off", "Linux does not boot without it"),
    rule("tdx.mrconfigid", TDX, tdx::mrconfigid, "mrconfigid is 48 bytes in base64", "QEMU, when vCPUs are made: \"sha384 digest was N bytes, expected 48\""),
    rule("tdx.mrowner", TDX, tdx::mrowner, "mrowner is 48 bytes in base64", "QEMU, when vCPUs are made: \"sha384 digest was N bytes, expected 48\""),
    rule("tdx.mrownerconfig", TDX, tdx::mrownerconfig, "mrownerconfig is 48 bytes in base64", "QEMU, when vCPUs are made: \"sha384 digest was N bytes, expected 48\""),
    rule("tdx.identity", TDX, tdx::identity, "mrconfigid is the request's identity, then zeros", "a relying party compares it"),
    rule("tdx.qgs-shape", TDX, tdx::qgs_shape, "the socket for quotes has a type and the members of that type", "query-qmp-schema of QEMU 11.1.2, SocketAddress"),
    rule("tdx.qgs-strings", TDX, tdx::qgs_strings, "path, cid and port of the socket for quotes are texts, cid and port of digits", "QEMU: \"Invalid parameter type for 'quote-generation-socket.cid', expected: string\""),
    rule("tdx.qgs-kind", TDX_OURS, tdx::qgs_kind, "the socket for quotes is a UNIX socket or vsock", "no project reaches its QGS by anything else"),
    rule("tdx.memory-aligned", TDX, tdx::memory_aligned, "memory is a multiple of 1 MiB, and of 1 GiB from 61 GiB on", "kata#12537, canonical/tdx#421: the guest's kernel panics"),
    rule("tdx.vcpus", TDX, tdx::vcpus, "there are no more vCPUs than the host has CPUs", "KVM: tdx_vm_init takes the present CPUs as the most"),
    rule("tdx.topology", TDX, tdx::topology, "the topology has one socket and one die", "Canonical 2.1; libvirt's template"),
];
