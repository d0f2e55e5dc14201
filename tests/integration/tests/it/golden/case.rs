//! A request of a golden case, as `cases.toml` beside a backend has it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use casemate_host::spec::Origin;
use casemate_host::spec::facts::{FactAnswer, FactFailure, FactQuestion, FactValue};
use casemate_host::spec::plan::{Property, Value};
use casemate_host::spec::request::{Accelerator, Boot, Choice, HostDevice};
use serde::Deserialize;

/// Where the cases of a backend lie.
pub(crate) fn folder(backend: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../plugins")
        .join(backend)
        .join("tests/golden")
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cases {
    /// Answers of a host that can do it.
    pub(crate) host: BTreeMap<String, toml::Value>,
    #[serde(rename = "case")]
    pub(crate) cases: Vec<Case>,
}

/// What is not said is as in the first case.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Case {
    /// Name of its file, and what it is about.
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) boot: Option<String>,
    #[serde(default)]
    pub(crate) vcpus: Option<u32>,
    #[serde(default)]
    pub(crate) memory_mib: Option<u64>,
    /// Instead of `memory-mib`, for sizes between two MiB.
    #[serde(default)]
    pub(crate) memory_bytes: Option<u64>,
    #[serde(default)]
    pub(crate) architecture: Option<String>,
    #[serde(default)]
    pub(crate) machine: Option<String>,
    #[serde(default)]
    pub(crate) cpu: Option<String>,
    /// The host's default for the CPU, which nobody named.
    #[serde(default)]
    pub(crate) built_in_cpu: Option<String>,
    #[serde(default)]
    pub(crate) kernel_cmdline: Option<String>,
    #[serde(default)]
    pub(crate) accelerator: Option<String>,
    /// Role to the name of an image; an empty name takes the file away.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, String>,
    /// Roles of files that the request named; the others are the operator's.
    #[serde(default)]
    pub(crate) files_of_the_request: Vec<String>,
    #[serde(default)]
    pub(crate) operator: BTreeMap<String, toml::Value>,
    #[serde(default)]
    pub(crate) request: BTreeMap<String, String>,
    /// `algorithm:hexadecimal`.
    #[serde(default)]
    pub(crate) identity: Option<String>,
    /// Properties of the network device; without any, those of a config that says nothing.
    #[serde(default)]
    pub(crate) network: BTreeMap<String, toml::Value>,
    /// Answers that differ from those of `host`.
    #[serde(default)]
    pub(crate) facts: BTreeMap<String, toml::Value>,
}

impl Case {
    pub(crate) fn boot(&self) -> Boot {
        match self.boot.as_deref() {
            None | Some("kernel") => Boot::Kernel,
            Some("disk") => Boot::Disk,
            Some(other) => panic!("{}: boot {other:?}", self.name),
        }
    }

    pub(crate) fn accelerator(&self) -> Accelerator {
        match self.accelerator.as_deref() {
            None | Some("kvm") => Accelerator::Kvm,
            Some("tcg") => Accelerator::Tcg,
            Some(other) => panic!("{}: accelerator {other:?}", self.name),
        }
    }

    pub(crate) fn cpu(&self) -> Choice {
        named(
            self.cpu.as_deref(),
            self.built_in_cpu.as_deref().unwrap_or("EPYC"),
        )
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        let mib = self.memory_mib.unwrap_or(2048);
        self.memory_bytes.unwrap_or(mib << 20)
    }

    pub(crate) fn architecture(&self) -> String {
        let named = self.architecture.as_deref();
        named.unwrap_or("x86_64").to_owned()
    }

    pub(crate) fn machine(&self) -> Choice {
        named(self.machine.as_deref(), "q35")
    }

    /// Algorithm and digest.
    pub(crate) fn identity(&self) -> Option<(String, Vec<u8>)> {
        let text = self.identity.as_ref()?;
        let (algorithm, digits) = text.split_once(':').expect("algorithm:hexadecimal");
        let digest = hex::decode(digits).expect("hexadecimal");
        Some((algorithm.to_owned(), digest))
    }

    pub(crate) fn devices(&self) -> Vec<HostDevice> {
        let properties = self.network.iter().map(|(path, value)| Property {
            path: path.clone(),
            value: match value {
                toml::Value::Boolean(flag) => Value::Boolean(*flag),
                toml::Value::Integer(number) => Value::Integer(*number),
                toml::Value::String(text) => Value::Text(text.clone()),
                other => panic!("{}: {path} is {other}", self.name),
            },
        });
        let mut properties: Vec<Property> = properties.collect();
        if properties.is_empty() {
            properties = usual_properties();
        }
        let device = |kind: &str, id: &str, properties| HostDevice {
            kind: kind.to_owned(),
            id: id.to_owned(),
            properties,
        };
        let mut devices = vec![
            device("net", "vmnic", properties),
            device("share-9p", "env_share", Vec::new()),
            device("share-9p", "certs_share", Vec::new()),
        ];
        let has_disk = self.files.get("disk").is_none_or(|name| !name.is_empty());
        if self.boot() == Boot::Disk && has_disk {
            devices.push(device("disk", "disk0", Vec::new()));
        }
        devices
    }
}

/// The defaults of `network.properties`.
fn usual_properties() -> Vec<Property> {
    let text = |text: &str| Value::Text(text.to_owned());
    [
        ("addr", text("0x2")),
        ("disable-legacy", text("on")),
        ("iommu_platform", Value::Boolean(true)),
        ("romfile", text("")),
    ]
    .map(|(path, value)| Property {
        path: path.to_owned(),
        value,
    })
    .into()
}

fn named(choice: Option<&str>, built_in: &str) -> Choice {
    match choice {
        Some(value) => Choice {
            value: value.to_owned(),
            origin: Origin::Request,
        },
        None => Choice {
            value: built_in.to_owned(),
            origin: Origin::BuiltIn,
        },
    }
}

/// `function(argument)` as a question, and its answer: `absent`, `denied`, `failed: …`, `present`,
/// a number, a text after `text: `, registers as `eax ebx ecx edx`.
pub(crate) fn fact(question: &str, answer: &toml::Value) -> (FactQuestion, FactAnswer) {
    let (function, rest) = question.split_once('(').expect("function(argument)");
    let argument = rest
        .strip_suffix(')')
        .expect("function(argument)")
        .to_owned();
    let number = |text: &str| -> u64 {
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).expect("hexadecimal"),
            None => text.parse().expect("a number"),
        }
    };
    let question = match function {
        "cpuid" => FactQuestion::Cpuid {
            leaf: u32::try_from(number(&argument)).expect("a leaf"),
            subleaf: 0,
        },
        "kvm-capability" => {
            FactQuestion::KvmCapability(u32::try_from(number(&argument)).expect("a capability"))
        }
        "kvm-device-attribute" => {
            let (group, attribute) = argument.split_once('/').expect("group/attribute");
            FactQuestion::KvmDeviceAttribute {
                group: u32::try_from(number(group)).expect("a group"),
                attribute: number(attribute),
            }
        }
        "read-text" => FactQuestion::ReadText(argument),
        "device" => FactQuestion::Device(argument),
        "socket" => FactQuestion::Socket(argument),
        "qemu-version" => FactQuestion::QemuVersion,
        "qemu-type" => FactQuestion::QemuType(argument),
        "qemu-machine" => FactQuestion::QemuMachine(argument),
        other => panic!("no fact {other:?}"),
    };
    let answer = match answer {
        toml::Value::Integer(value) if matches!(question, FactQuestion::KvmCapability(_)) => {
            Ok(FactValue::Signed(*value))
        }
        toml::Value::Integer(value) => Ok(FactValue::Unsigned(
            u64::try_from(*value).expect("positive"),
        )),
        toml::Value::String(text) => match text.as_str() {
            "absent" => Err(FactFailure::Absent),
            "denied" => Err(FactFailure::Denied),
            "present" if matches!(question, FactQuestion::QemuType(_)) => {
                Ok(FactValue::Names(Vec::new()))
            }
            "present" => Ok(FactValue::Present),
            text => match (text.strip_prefix("failed: "), text.strip_prefix("text: ")) {
                (Some(reason), _) => Err(FactFailure::Failed(reason.to_owned())),
                (_, Some(text)) => Ok(FactValue::Text(text.to_owned())),
                _ => Ok(registers(text)),
            },
        },
        other => panic!("no answer {other}"),
    };
    (question, answer)
}

fn registers(text: &str) -> FactValue {
    let mut words = text
        .split(' ')
        .map(|word| u32::from_str_radix(word, 16).expect("four registers in hexadecimal"));
    let mut next = || words.next().expect("four registers");
    FactValue::Cpuid {
        eax: next(),
        ebx: next(),
        ecx: next(),
        edx: next(),
    }
}
