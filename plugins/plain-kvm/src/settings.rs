//! The settings of this backend: their announcement and their reading, side by side so that key,
//! form and default stay one thing.

use casemate_backend::announce::{memory_id, memory_id_setting};
use casemate_backend::bindings::casemate::tee::types::{Error, HostContext, SettingSpec, Value};
use casemate_backend::memory::Backing;
use casemate_backend::settings::{
    SetBy, Sourced, Words, boolean, one_of, spec, spec_of_words, unsigned,
};

pub(crate) const FIRMWARE: &str = "firmware";
pub(crate) const MEMORY_SLOTS: &str = "memory-slots";
pub(crate) const MAX_MEMORY: &str = "max-memory";
pub(crate) const MAX_CPUS: &str = "maxcpus";
pub(crate) const MEMORY_BACKEND: &str = "memory-backend";
pub(crate) const CODE_UNIT: &str = "pflash-code-unit";
pub(crate) const CODE_FORMAT: &str = "pflash-code-format";
pub(crate) const CODE_READONLY: &str = "pflash-code-readonly";
pub(crate) const VARS_UNIT: &str = "pflash-vars-unit";
pub(crate) const VARS_FORMAT: &str = "pflash-vars-format";

/// Five slots and 30 GiB let a guest grow by hotplug; both are what operators of the predecessor
/// are used to. Where they do not fit a request, they are left out, being defaults.
const DEFAULT_MEMORY_SLOTS: u64 = 5;
const DEFAULT_MAX_MEMORY: u64 = 30 << 30;
const DEFAULT_MAX_CPUS: u64 = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirmwareChoice {
    /// By the files at hand.
    Auto,
    Pflash,
    Bios,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    Raw,
    Qcow2,
}

impl ImageFormat {
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// Every setting, read and typed.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub firmware: Sourced<FirmwareChoice>,
    pub memory_slots: Sourced<u64>,
    pub max_memory: Sourced<u64>,
    pub max_cpus: Sourced<u64>,
    pub memory_id: String,
    /// None: no object, the machine allocates its memory itself.
    pub memory_backend: Option<Backing>,
    pub code_unit: u64,
    pub code_format: ImageFormat,
    pub code_readonly: bool,
    pub vars_unit: u64,
    pub vars_format: ImageFormat,
}

impl Settings {
    /// Reads what the host passed. A key that is not there has its default; an unknown key is not
    /// ours to judge.
    pub fn read(host: &HostContext) -> Result<Self, Error> {
        Ok(Self {
            firmware: one_of(host, FIRMWARE, FIRMWARE_CHOICES)?,
            memory_slots: unsigned(host, MEMORY_SLOTS, DEFAULT_MEMORY_SLOTS)?,
            max_memory: unsigned(host, MAX_MEMORY, DEFAULT_MAX_MEMORY)?,
            max_cpus: unsigned(host, MAX_CPUS, DEFAULT_MAX_CPUS)?,
            memory_id: memory_id(host)?,
            memory_backend: one_of(host, MEMORY_BACKEND, MEMORY_BACKENDS)?.value,
            code_unit: unsigned(host, CODE_UNIT, 0)?.value,
            code_format: one_of(host, CODE_FORMAT, IMAGE_FORMATS)?.value,
            code_readonly: boolean(host, CODE_READONLY, true)?.value,
            vars_unit: unsigned(host, VARS_UNIT, 1)?.value,
            vars_format: one_of(host, VARS_FORMAT, IMAGE_FORMATS)?.value,
        })
    }
}

const FIRMWARE_CHOICES: Words<FirmwareChoice> = &[
    ("auto", FirmwareChoice::Auto),
    ("pflash", FirmwareChoice::Pflash),
    ("bios", FirmwareChoice::Bios),
    ("none", FirmwareChoice::None),
];

const MEMORY_BACKENDS: Words<Option<Backing>> = &[
    ("ram", Some(Backing::Ram)),
    ("memfd", Some(Backing::Memfd)),
    ("none", None),
];

const IMAGE_FORMATS: Words<ImageFormat> =
    &[("raw", ImageFormat::Raw), ("qcow2", ImageFormat::Qcow2)];

pub(crate) fn announced() -> Vec<SettingSpec> {
    vec![
        spec_of_words(
            FIRMWARE,
            FIRMWARE_CHOICES,
            "Firmware of the guest. `auto` takes pflash where there is a firmware-code file, else \
             bios where there is a firmware file, else QEMU's own BIOS.",
            SetBy::Request,
        ),
        spec(
            MEMORY_SLOTS,
            "unsigned",
            Some(Value::Unsigned(DEFAULT_MEMORY_SLOTS)),
            "Slots for memory hotplug; 0 means that memory cannot grow.",
            SetBy::Request,
        ),
        spec(
            MAX_MEMORY,
            "size",
            Some(Value::Unsigned(DEFAULT_MAX_MEMORY)),
            "Most memory that the guest can grow to.",
            SetBy::Request,
        ),
        spec(
            MAX_CPUS,
            "unsigned",
            Some(Value::Unsigned(DEFAULT_MAX_CPUS)),
            "Most vCPUs that the guest can grow to.",
            SetBy::Request,
        ),
        memory_id_setting(),
        spec_of_words(
            MEMORY_BACKEND,
            MEMORY_BACKENDS,
            "What backs guest memory. `memfd` shares it with helper processes; `none` leaves it to \
             the machine.",
            SetBy::Operator,
        ),
        spec(
            CODE_UNIT,
            "unsigned",
            Some(Value::Unsigned(0)),
            "Flash chip of the firmware code: 0 or 1.",
            SetBy::Operator,
        ),
        spec_of_words(
            CODE_FORMAT,
            IMAGE_FORMATS,
            "Image format of the firmware code.",
            SetBy::Operator,
        ),
        spec(
            CODE_READONLY,
            "boolean",
            Some(Value::Boolean(true)),
            "Whether the guest sees the firmware code as read-only.",
            SetBy::Operator,
        ),
        spec(
            VARS_UNIT,
            "unsigned",
            Some(Value::Unsigned(1)),
            "Flash chip of the firmware variables: 0 or 1.",
            SetBy::Operator,
        ),
        spec_of_words(
            VARS_FORMAT,
            IMAGE_FORMATS,
            "Image format of the firmware variables.",
            SetBy::Operator,
        ),
    ]
}
