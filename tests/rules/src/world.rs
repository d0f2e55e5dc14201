//! What a checker has to know of the world outside an argument list.

/// The host, the request and the firmware that a list belongs to.
///
/// There is no default: a value that nobody thought about would take a rule out without a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// Position of the C-bit, bits 5 to 0 of EBX of CPUID leaf 0x8000001F. `None` is a host without one, on which no
    /// SEV-SNP list is right.
    pub cbit: Option<u32>,
    /// Present CPUs. KVM gives a TD no more vCPUs than these.
    pub cpus: u32,
    pub smt: Smt,
    /// The guest policy bits that KVM publishes (`KVM_X86_SNP_POLICY_BITS`). `None` is a kernel that
    /// publishes none: it takes bits 0 to 17, and bit 16 has to be set (kernel, `snp_launch_start` as
    /// of 6.11).
    pub snp_policy_bits: Option<u64>,
    /// Major and minor version of the SEV firmware's ABI. `None`: it was not read, and the rule about
    /// it is not judged.
    pub snp_abi: Option<(u8, u8)>,
    pub debugging: Debugging,
    /// Digest that binds the VM to its workload, as the request has it. `None`: it has none.
    pub identity: Option<Vec<u8>>,
    /// What lies behind `-bios`. Not looked at when the list has no `-bios`.
    pub firmware: Firmware,
}

/// Whether two threads share a core of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Smt {
    On,
    Off,
    /// The rule about it is not judged.
    Unknown,
}

/// Whether the request lets the host read the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Debugging {
    Asked,
    NotAsked,
}

/// What was found in a firmware image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firmware {
    /// Bytes.
    pub size: u64,
    /// It has SEV metadata and a reset block in its table of GUIDs.
    pub sev_metadata: bool,
    /// It has an area for the kernel's hashes: a GUID with a base that is not 0, and a section of
    /// that type in the SEV metadata.
    pub kernel_hash_area: bool,
    /// It is a TDVF: TDX metadata of version 1 with sections that QEMU knows.
    pub tdvf: bool,
}
