//! A backend's answer as the host keeps it: the contract's `launch-plan` in domain types.
//!
//! A value of these types has passed the shape rules of `backend::convert` (identifiers, control
//! characters, counts). Whether QEMU knows it and config grants it is for `qemu::check` to say.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    Text(String),
    Integer(i64),
    Unsigned(u64),
    Boolean(bool),
    #[serde(with = "base64_bytes")]
    Bytes(Vec<u8>),
    File(u32),
    HostPath(String),
}

impl Value {
    /// Name of the kind, as the contract calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Integer(_) => "integer",
            Self::Unsigned(_) => "unsigned",
            Self::Boolean(_) => "boolean",
            Self::Bytes(_) => "bytes",
            Self::File(_) => "file",
            Self::HostPath(_) => "host-path",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Property {
    pub path: String,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Typed {
    pub kind: String,
    pub id: Option<String>,
    pub properties: Vec<Property>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    None,
    Bios(u32),
    Pflash(PflashFirmware),
    Igvm(u32),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PflashFirmware {
    pub code: u32,
    pub vars_template: Option<u32>,
    pub options: Vec<Property>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootInputs {
    pub kernel: bool,
    pub initrd: bool,
    pub cmdline: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceRules {
    pub transport: Transport,
    pub virtio_properties: Vec<Property>,
    pub refused: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Pci,
    Ccw,
    Mmio,
}

impl Transport {
    /// Suffix of QEMU's virtio device names: `virtio-net-pci`, `virtio-net-ccw`,
    /// `virtio-net-device`.
    pub fn device_suffix(self) -> &'static str {
        match self {
            Self::Pci => "pci",
            Self::Ccw => "ccw",
            Self::Mmio => "device",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GeneratedFile {
    pub id: u32,
    pub label: String,
    #[serde(with = "base64_bytes")]
    pub content: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub name: String,
    pub amount: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Pass,
    Note,
    Warn,
    Fail,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Note => "note",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub id: String,
    pub severity: Severity,
    pub subject: String,
    pub detail: String,
    pub remedy: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ability {
    Pause,
    Reset,
    Powerdown,
}

impl Ability {
    /// As the contract calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Reset => "reset",
            Self::Powerdown => "powerdown",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaunchPlan {
    pub machine: Typed,
    pub cpu: Typed,
    pub smp: Vec<Property>,
    pub memory: Vec<Property>,
    pub memory_backend: Option<Typed>,
    pub objects: Vec<Typed>,
    pub extra_devices: Vec<Typed>,
    pub guard: Option<String>,
    pub firmware: Firmware,
    pub boot: BootInputs,
    pub devices: DeviceRules,
    pub generated: Vec<GeneratedFile>,
    pub leases: Vec<Lease>,
    pub abilities: Vec<Ability>,
    pub memory_overhead_bytes: u64,
    pub identity_carrier: Option<String>,
    pub findings: Vec<Finding>,
}

impl PflashFirmware {
    /// Whether the guest may write to the code chip.
    pub fn code_is_writable(&self) -> bool {
        self.options
            .iter()
            .any(|option| option.path == "code.readonly" && option.value == Value::Boolean(false))
    }
}

impl LaunchPlan {
    /// Of a guest that is to be measured and not started: what no measurement reads is left empty.
    pub fn to_measure(cpu: &str, firmware: Firmware, boot: BootInputs) -> Self {
        let typed = |kind: &str| Typed {
            kind: kind.to_owned(),
            id: None,
            properties: Vec::new(),
        };
        Self {
            machine: typed("q35"),
            cpu: typed(cpu),
            smp: Vec::new(),
            memory: Vec::new(),
            memory_backend: None,
            objects: Vec::new(),
            extra_devices: Vec::new(),
            guard: None,
            firmware,
            boot,
            devices: DeviceRules {
                transport: Transport::Pci,
                virtio_properties: Vec::new(),
                refused: Vec::new(),
            },
            generated: Vec::new(),
            leases: Vec::new(),
            abilities: Vec::new(),
            memory_overhead_bytes: 0,
            identity_carrier: None,
            findings: Vec::new(),
        }
    }

    /// Ids of the files that the plan itself names; boot inputs are named by role.
    pub fn named_files(&self) -> BTreeSet<u32> {
        let mut ids: BTreeSet<u32> = match &self.firmware {
            Firmware::None => BTreeSet::new(),
            Firmware::Bios(id) | Firmware::Igvm(id) => [*id].into(),
            Firmware::Pflash(pflash) => [pflash.code].into(),
        };
        let typed = self
            .memory_backend
            .iter()
            .chain(&self.objects)
            .chain(&self.extra_devices);
        ids.extend(
            typed
                .flat_map(|typed| &typed.properties)
                .filter_map(|property| match property.value {
                    Value::File(id) => Some(id),
                    _ => None,
                }),
        );
        ids
    }

    /// Host paths that the plan names.
    pub fn host_paths(&self) -> impl Iterator<Item = &str> {
        let typed = self
            .memory_backend
            .iter()
            .chain(&self.objects)
            .chain(&self.extra_devices);
        typed
            .flat_map(|typed| &typed.properties)
            .filter_map(|property| match &property.value {
                Value::HostPath(path) => Some(path.as_str()),
                _ => None,
            })
    }

    /// What it takes of the host, by name.
    pub fn lease_amounts(&self) -> BTreeMap<String, u64> {
        let mut amounts = BTreeMap::new();
        for lease in &self.leases {
            *amounts.entry(lease.name.clone()).or_default() += u64::from(lease.amount);
        }
        amounts
    }

    pub fn generated_file(&self, id: u32) -> Option<&GeneratedFile> {
        self.generated.iter().find(|file| file.id == id)
    }

    /// The one source of `confidential` in every answer.
    pub fn is_confidential(&self) -> bool {
        self.guard.is_some()
    }
}

/// Bytes as base64 text in records.
pub(super) mod base64_bytes {
    use super::*;

    pub(in crate::spec) fn serialize<S: serde::Serializer>(
        bytes: &[u8],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
    }

    pub(in crate::spec) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(serde::de::Error::custom)
    }
}
