//! The settings of this backend: their announcement and their reading, side by side so that key,
//! form and default stay one thing.

use casemate_backend::announce::{MEMORY_ID, memory_id, memory_id_setting};
use casemate_backend::bindings::casemate::tee::types::{Error, HostContext, SettingSpec, Value};
use casemate_backend::memory::Backing;
use casemate_backend::settings::{
    SetBy, Sourced, Words, boolean, bytes, flags, identifier, one_of, optional_flags,
    optional_unsigned, same_id, spec, spec_of_words, text, unsigned,
};

pub(crate) const FIRMWARE: &str = "firmware";
pub(crate) const MEMORY_BACKEND: &str = "memory-backend";
pub(crate) const GUARD_ID: &str = "sev-snp-id";
pub(crate) const CBITPOS: &str = "sev-snp-cbitpos";
pub(crate) const REDUCED_PHYS_BITS: &str = "sev-snp-reduced-phys-bits";
pub(crate) const POLICY: &str = "sev-snp-policy";
pub(crate) const ID_BLOCK: &str = "sev-snp-id-block";
pub(crate) const ID_AUTH: &str = "sev-snp-id-auth";
pub(crate) const AUTHOR_KEY: &str = "sev-snp-author-key";
pub(crate) const VCEK_DISABLED: &str = "sev-snp-vcek-disabled";
pub(crate) const WORKAROUNDS: &str = "sev-snp-guest-visible-workarounds";
pub(crate) const GUEST_FEATURES: &str = "guest-features";
pub(crate) const MEASURED_VMSAS: &str = "measured-vmsas";

const DEFAULT_GUARD_ID: &str = "sev0";
/// What the encryption takes of the guest's address bits. CPUID reports more on newer CPUs, which
/// is what the host loses; a guest loses the encryption bit alone.
const DEFAULT_REDUCED_PHYS_BITS: u64 = 1;
/// SMT allowed, and the reserved bit that must be one: QEMU's own default.
pub(crate) const DEFAULT_POLICY: u64 = 0x3_0000;

/// SEV_FEATURES bit 0: SNP is active (AMD APM volume 2, table B-4).
pub(crate) const SNP_ACTIVE: u64 = 1;

/// Sizes of AMD 56860, tables "Structure of the ID Block" and "ID Authentication Information
/// Structure", and of GOSVW in SNP_LAUNCH_START.
pub(crate) const ID_BLOCK_BYTES: usize = 96;
pub(crate) const ID_AUTH_BYTES: usize = 4096;
const WORKAROUNDS_BYTES: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirmwareChoice {
    /// By the files at hand.
    Auto,
    Bios,
    Igvm,
}

/// Whether the key that signs the ID block was itself signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorKey {
    /// Where `id-auth` has one.
    Auto,
    On,
    Off,
}

/// Of how many vCPUs the host measures the registers (VMSA).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeasuredVmsas {
    /// Of each, as Linux does.
    All,
    /// Of the first alone, as hosts for an SVSM do.
    Boot,
}

impl MeasuredVmsas {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Boot => "boot",
        }
    }
}

/// Every setting, read and typed.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub firmware: Sourced<FirmwareChoice>,
    pub memory_id: String,
    pub memory_backend: Backing,
    pub guard_id: String,
    pub cbitpos: Option<Sourced<u64>>,
    pub reduced_phys_bits: Sourced<u64>,
    pub policy: Sourced<u64>,
    pub id_block: Option<Vec<u8>>,
    pub id_auth: Option<Vec<u8>>,
    pub author_key: Sourced<AuthorKey>,
    pub vcek_disabled: bool,
    pub workarounds: Option<Vec<u8>>,
    /// SEV_FEATURES of every vCPU, where somebody said it.
    pub guest_features: Option<u64>,
    pub measured_vmsas: Option<MeasuredVmsas>,
}

impl Settings {
    /// Reads what the host passed. A key that is not there has its default; an unknown key is not
    /// ours to judge.
    pub fn read(host: &HostContext) -> Result<Self, Error> {
        let settings = Self {
            firmware: one_of(host, FIRMWARE, FIRMWARE_CHOICES)?,
            memory_id: memory_id(host)?,
            memory_backend: one_of(host, MEMORY_BACKEND, MEMORY_BACKENDS)?.value,
            guard_id: identifier(host, GUARD_ID, DEFAULT_GUARD_ID)?,
            cbitpos: optional_unsigned(host, CBITPOS)?,
            reduced_phys_bits: unsigned(host, REDUCED_PHYS_BITS, DEFAULT_REDUCED_PHYS_BITS)?,
            policy: flags(host, POLICY, DEFAULT_POLICY)?,
            id_block: bytes(host, ID_BLOCK, ID_BLOCK_BYTES)?,
            id_auth: bytes(host, ID_AUTH, ID_AUTH_BYTES)?,
            author_key: one_of(host, AUTHOR_KEY, AUTHOR_KEYS)?,
            vcek_disabled: boolean(host, VCEK_DISABLED, false)?.value,
            workarounds: bytes(host, WORKAROUNDS, WORKAROUNDS_BYTES)?,
            guest_features: optional_flags(host, GUEST_FEATURES, SNP_ACTIVE)?.map(|set| set.value),
            measured_vmsas: one_of(host, MEASURED_VMSAS, MEASURED_CHOICES)?.value,
        };
        if settings.memory_id == settings.guard_id {
            return Err(same_id(MEMORY_ID, GUARD_ID, &settings.guard_id));
        }
        Ok(settings)
    }
}

const FIRMWARE_CHOICES: Words<FirmwareChoice> = &[
    ("auto", FirmwareChoice::Auto),
    ("bios", FirmwareChoice::Bios),
    ("igvm", FirmwareChoice::Igvm),
];

const MEMORY_BACKENDS: Words<Backing> = &[("memfd", Backing::Memfd), ("ram", Backing::Ram)];

const AUTHOR_KEYS: Words<AuthorKey> = &[
    ("auto", AuthorKey::Auto),
    ("on", AuthorKey::On),
    ("off", AuthorKey::Off),
];

const MEASURED_CHOICES: Words<Option<MeasuredVmsas>> = &[
    ("auto", None),
    ("all", Some(MeasuredVmsas::All)),
    ("boot", Some(MeasuredVmsas::Boot)),
];

pub(crate) fn announced() -> Vec<SettingSpec> {
    vec![
        spec_of_words(
            FIRMWARE,
            FIRMWARE_CHOICES,
            "Firmware of the guest. `bios` is OVMF in one file, `igvm` an IGVM file such as \
             COCONUT-SVSM's; `auto` takes the one that was named, and of two named ones `bios`.",
            SetBy::Request,
        ),
        memory_id_setting(),
        spec_of_words(
            MEMORY_BACKEND,
            MEMORY_BACKENDS,
            "What backs the part of guest memory that is shared with the host. `memfd` lets helper \
             processes map it too.",
            SetBy::Operator,
        ),
        spec(
            GUARD_ID,
            "text",
            Some(text(DEFAULT_GUARD_ID)),
            "Id of the object that protects the guest.",
            SetBy::Operator,
        ),
        spec(
            CBITPOS,
            "unsigned",
            None,
            "Position of the encryption bit, for a host whose CPUID the backend may not read. What \
             CPUID says comes first.",
            SetBy::Operator,
        ),
        spec(
            REDUCED_PHYS_BITS,
            "unsigned",
            Some(Value::Unsigned(DEFAULT_REDUCED_PHYS_BITS)),
            "Address bits that the guest loses, 1 to 63. More than 1 only makes its address space \
             smaller.",
            SetBy::Operator,
        ),
        spec(
            POLICY,
            "text",
            Some(text("0x30000")),
            "Guest policy (AMD 56860, section 4.3), in hexadecimal or decimal. 0x30000 allows SMT.",
            SetBy::Request,
        ),
        spec(
            ID_BLOCK,
            "bytes:96",
            None,
            "ID block: the measurement that the firmware is to insist on. Goes with \
             sev-snp-id-auth.",
            SetBy::Request,
        ),
        spec(
            ID_AUTH,
            "bytes:4096",
            None,
            "Signature and keys of the ID block. Goes with sev-snp-id-block.",
            SetBy::Request,
        ),
        spec_of_words(
            AUTHOR_KEY,
            AUTHOR_KEYS,
            "Whether the firmware checks the author key of sev-snp-id-auth. `auto`: where there is \
             one.",
            SetBy::Request,
        ),
        spec(
            VCEK_DISABLED,
            "boolean",
            Some(Value::Boolean(false)),
            "Refuse reports that are signed with the chip's own key (VCEK).",
            SetBy::Request,
        ),
        spec(
            WORKAROUNDS,
            "bytes:16",
            None,
            "What the guest is told of the hypervisor's workarounds (GOSVW).",
            SetBy::Operator,
        ),
        spec(
            GUEST_FEATURES,
            "text",
            None,
            "SEV_FEATURES of the guest's vCPUs for the launch measurement, in hexadecimal or decimal: \
             0x1 is SNP, 0x21 SNP with DebugSwap. Left out: what QEMU asks KVM for, 0x1.",
            SetBy::Operator,
        ),
        spec_of_words(
            MEASURED_VMSAS,
            MEASURED_CHOICES,
            "Of how many vCPUs the host measures the registers (VMSA): `all`, as Linux does, or \
             `boot`, the first alone, as hosts for an SVSM do. `auto` takes `all`.",
            SetBy::Operator,
        ),
    ]
}
