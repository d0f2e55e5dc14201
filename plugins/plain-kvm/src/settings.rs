//! The settings of this backend: their announcement and their reading, side by side so that key,
//! form and default stay one thing.
//!
//! The host checks settings against the announcement. They are checked again here, because a
//! backend is a function on its own and must answer with an error, not a panic, whatever it is given.

use crate::answer::{invalid_request, quoted};
use crate::bindings::casemate::tee::types::{Error, HostContext, Origin, SettingSpec, Value};

pub(crate) const FIRMWARE: &str = "firmware";
pub(crate) const MEMORY_SLOTS: &str = "memory-slots";
pub(crate) const MAX_MEMORY: &str = "max-memory";
pub(crate) const MAX_CPUS: &str = "maxcpus";
pub(crate) const MEMORY_ID: &str = "memory-id";
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
const DEFAULT_MEMORY_ID: &str = "ram1";

/// A value with the one who said it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sourced<T> {
    pub value: T,
    pub origin: Origin,
}

impl<T> Sourced<T> {
    /// A built-in value may be replaced or left out; what a person named may not.
    pub fn is_named(&self) -> bool {
        self.origin != Origin::BuiltIn
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirmwareChoice {
    /// By the files at hand.
    Auto,
    Pflash,
    Bios,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryBackend {
    Ram,
    Memfd,
    /// No object: the machine allocates its memory itself.
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
    pub memory_backend: MemoryBackend,
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
            memory_id: identifier(host, MEMORY_ID, DEFAULT_MEMORY_ID)?,
            memory_backend: one_of(host, MEMORY_BACKEND, MEMORY_BACKENDS)?.value,
            code_unit: unsigned(host, CODE_UNIT, 0)?.value,
            code_format: one_of(host, CODE_FORMAT, IMAGE_FORMATS)?.value,
            code_readonly: boolean(host, CODE_READONLY, true)?,
            vars_unit: unsigned(host, VARS_UNIT, 1)?.value,
            vars_format: one_of(host, VARS_FORMAT, IMAGE_FORMATS)?.value,
        })
    }
}

/// The words of a `one-of` setting. The first is the default.
type Words<T> = &'static [(&'static str, T)];

const FIRMWARE_CHOICES: Words<FirmwareChoice> = &[
    ("auto", FirmwareChoice::Auto),
    ("pflash", FirmwareChoice::Pflash),
    ("bios", FirmwareChoice::Bios),
    ("none", FirmwareChoice::None),
];

const MEMORY_BACKENDS: Words<MemoryBackend> = &[
    ("ram", MemoryBackend::Ram),
    ("memfd", MemoryBackend::Memfd),
    ("none", MemoryBackend::None),
];

const IMAGE_FORMATS: Words<ImageFormat> =
    &[("raw", ImageFormat::Raw), ("qcow2", ImageFormat::Qcow2)];

/// Who may set a key.
#[derive(Clone, Copy)]
enum SetBy {
    Operator,
    Request,
}

pub(crate) fn announced() -> Vec<SettingSpec> {
    vec![
        spec(
            FIRMWARE,
            &kind_of(FIRMWARE_CHOICES),
            text(FIRMWARE_CHOICES[0].0),
            "Firmware of the guest. `auto` takes pflash where there is a firmware-code file, else \
             bios where there is a firmware file, else QEMU's own BIOS.",
            SetBy::Request,
        ),
        spec(
            MEMORY_SLOTS,
            "unsigned",
            Value::Unsigned(DEFAULT_MEMORY_SLOTS),
            "Slots for memory hotplug; 0 means that memory cannot grow.",
            SetBy::Request,
        ),
        spec(
            MAX_MEMORY,
            "size",
            Value::Unsigned(DEFAULT_MAX_MEMORY),
            "Most memory that the guest can grow to.",
            SetBy::Request,
        ),
        spec(
            MAX_CPUS,
            "unsigned",
            Value::Unsigned(DEFAULT_MAX_CPUS),
            "Most vCPUs that the guest can grow to.",
            SetBy::Request,
        ),
        spec(
            MEMORY_ID,
            "text",
            text(DEFAULT_MEMORY_ID),
            "Id of the object that backs guest memory.",
            SetBy::Operator,
        ),
        spec(
            MEMORY_BACKEND,
            &kind_of(MEMORY_BACKENDS),
            text(MEMORY_BACKENDS[0].0),
            "What backs guest memory. `memfd` shares it with helper processes; `none` leaves it to \
             the machine.",
            SetBy::Operator,
        ),
        spec(
            CODE_UNIT,
            "unsigned",
            Value::Unsigned(0),
            "Flash chip of the firmware code: 0 or 1.",
            SetBy::Operator,
        ),
        spec(
            CODE_FORMAT,
            &kind_of(IMAGE_FORMATS),
            text(IMAGE_FORMATS[0].0),
            "Image format of the firmware code.",
            SetBy::Operator,
        ),
        spec(
            CODE_READONLY,
            "boolean",
            Value::Boolean(true),
            "Whether the guest sees the firmware code as read-only.",
            SetBy::Operator,
        ),
        spec(
            VARS_UNIT,
            "unsigned",
            Value::Unsigned(1),
            "Flash chip of the firmware variables: 0 or 1.",
            SetBy::Operator,
        ),
        spec(
            VARS_FORMAT,
            &kind_of(IMAGE_FORMATS),
            text(IMAGE_FORMATS[0].0),
            "Image format of the firmware variables.",
            SetBy::Operator,
        ),
    ]
}

fn spec(key: &str, kind: &str, default: Value, description: &str, set_by: SetBy) -> SettingSpec {
    SettingSpec {
        key: key.to_owned(),
        kind: kind.to_owned(),
        default: Some(default),
        description: description.to_owned(),
        per_request: match set_by {
            SetBy::Operator => false,
            SetBy::Request => true,
        },
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn kind_of<T>(words: Words<T>) -> String {
    format!("one-of:{}", joined(words, "|"))
}

fn joined<T>(words: Words<T>, separator: &str) -> String {
    let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    words.join(separator)
}

fn find<'a>(host: &'a HostContext, key: &str) -> Option<(&'a Value, Origin)> {
    host.settings
        .iter()
        .find(|setting| setting.key == key)
        .map(|setting| (&setting.value, setting.origin))
}

fn unsigned(host: &HostContext, key: &str, default: u64) -> Result<Sourced<u64>, Error> {
    match find(host, key) {
        None => Ok(Sourced {
            value: default,
            origin: Origin::BuiltIn,
        }),
        Some((Value::Unsigned(value), origin)) => Ok(Sourced {
            value: *value,
            origin,
        }),
        Some(_) => Err(wrong_form(key, "a number that is not negative")),
    }
}

fn boolean(host: &HostContext, key: &str, default: bool) -> Result<bool, Error> {
    match find(host, key) {
        None => Ok(default),
        Some((Value::Boolean(value), _)) => Ok(*value),
        Some(_) => Err(wrong_form(key, "true or false")),
    }
}

fn one_of<T: Copy>(host: &HostContext, key: &str, words: Words<T>) -> Result<Sourced<T>, Error> {
    let (wanted, origin) = match find(host, key) {
        None => (words[0].0, Origin::BuiltIn),
        Some((Value::Text(text), origin)) => (text.as_str(), origin),
        Some(_) => return Err(wrong_form(key, &format!("one of {}", joined(words, ", ")))),
    };
    match words.iter().find(|(word, _)| *word == wanted) {
        Some((_, value)) => Ok(Sourced {
            value: *value,
            origin,
        }),
        None => Err(invalid_request(
            key,
            &format!(
                "{} is not a value of setting {key}, which is one of {}",
                quoted(wanted),
                joined(words, ", ")
            ),
            &format!("set {key} to one of these"),
        )),
    }
}

/// An id as QEMU wants it: a letter, then letters, digits, `-`, `.` and `_`.
fn identifier(host: &HostContext, key: &str, default: &str) -> Result<String, Error> {
    let id = match find(host, key) {
        None => default,
        Some((Value::Text(text), _)) => text,
        Some(_) => return Err(wrong_form(key, "an id")),
    };
    let starts_with_letter = id.starts_with(|first: char| first.is_ascii_alphabetic());
    if !starts_with_letter || !crate::facts::is_qemu_name(id) || id.starts_with("casemate-") {
        return Err(invalid_request(
            key,
            &format!(
                "{} is not an id, which starts with a letter, holds only letters, digits, `-`, `.` \
                 and `_`, and does not start with `casemate-`",
                quoted(id)
            ),
            &format!("set {key} to an id such as {DEFAULT_MEMORY_ID}"),
        ));
    }
    Ok(id.to_owned())
}

fn wrong_form(key: &str, wanted: &str) -> Error {
    invalid_request(
        key,
        &format!("setting {key} has a value of the wrong form, wanted is {wanted}"),
        &format!("set {key} to {wanted}"),
    )
}
