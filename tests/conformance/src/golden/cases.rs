//! A backend's golden requests: `cases.toml`, and beside it for each case its outcome.
//!
//! `[host]` is what a host answers that can do it, by `function(argument)`. A `[[case]]` says what
//! differs from the usual request. `docs/conformance.md` is for people.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use casemate_host::spec::Origin;
use casemate_host::spec::facts::{FactAnswer, FactFailure, FactQuestion, FactValue};
use casemate_host::spec::files::DataDisk;
use casemate_host::spec::identity::{Identity, IdentitySource};
use casemate_host::spec::plan::{Property, Value};
use casemate_host::spec::request::{Accelerator, Boot, Choice, HostDevice};
use serde::Deserialize;

use crate::draft::{Content, Draft, FactDraft, FileDraft};
use crate::world::{device, usual_network};

/// Roles of a request's files (types.wit, `host-file`).
const ROLES: [&str; 7] = [
    "kernel",
    "initrd",
    "firmware",
    "firmware-code",
    "firmware-vars",
    "igvm",
    "disk",
];

/// Name of the file with the requests.
pub const FILE: &str = "cases.toml";
/// Largest such file: the longest has a hundred requests in 20 KiB.
const LARGEST: u64 = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum CasesError {
    #[error("golden requests {path:?} cannot be read: {source}", path = .path.display())]
    Unreadable {
        path: PathBuf,
        source: casemate_host::regular_file::ReadError,
    },
    #[error("golden requests {path:?} are not of their form: {reason}", path = .path.display())]
    Form { path: PathBuf, reason: String },
    #[error("case {case:?}: {field} is {value:?}; wanted is {wanted}")]
    Field {
        case: String,
        field: &'static str,
        value: String,
        wanted: &'static str,
    },
    #[error("fact {question:?}: {reason}")]
    Fact { question: String, reason: String },
    #[error("two cases are called {0:?}")]
    Twice(String),
    #[error("{0:?} is no name of a case: wanted are letters, digits, `-` and `.`")]
    Name(String),
}

/// The requests in `folder`.
pub fn read(folder: &Path) -> Result<Cases, CasesError> {
    let path = folder.join(FILE);
    let bytes = match casemate_host::regular_file::read(&path, LARGEST) {
        Ok(bytes) => bytes,
        Err(source) => return Err(CasesError::Unreadable { path, source }),
    };
    let text = String::from_utf8(bytes).map_err(|error| CasesError::Form {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    let cases: Cases = toml::from_str(&text).map_err(|error| CasesError::Form {
        path,
        reason: error.to_string(),
    })?;
    let mut names = std::collections::BTreeSet::new();
    for case in &cases.cases {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if case.name.is_empty() || !case.name.chars().all(is_name) {
            return Err(CasesError::Name(case.name.clone()));
        }
        if !names.insert(&case.name) {
            return Err(CasesError::Twice(case.name.clone()));
        }
    }
    Ok(cases)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cases {
    /// Answers of a host that can do it.
    pub host: BTreeMap<String, toml::Value>,
    #[serde(rename = "case")]
    pub cases: Vec<Case>,
}

/// What is not said is as in the usual request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Case {
    /// Name of its file, and what it is about.
    pub name: String,
    #[serde(default)]
    pub boot: Option<String>,
    #[serde(default)]
    pub vcpus: Option<u32>,
    #[serde(default)]
    pub memory_mib: Option<u64>,
    /// Instead of `memory-mib`, for sizes between two MiB.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    #[serde(default)]
    pub architecture: Option<String>,
    #[serde(default)]
    pub machine: Option<String>,
    #[serde(default)]
    pub cpu: Option<String>,
    /// The host's default for the CPU, which nobody named.
    #[serde(default)]
    pub built_in_cpu: Option<String>,
    #[serde(default)]
    pub kernel_cmdline: Option<String>,
    #[serde(default)]
    pub accelerator: Option<String>,
    /// Role to the name of an image; an empty name takes the file away.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Roles of files that the request named; the others are the operator's.
    #[serde(default)]
    pub files_of_the_request: Vec<String>,
    #[serde(default)]
    pub operator: BTreeMap<String, toml::Value>,
    #[serde(default)]
    pub request: BTreeMap<String, String>,
    /// Ids of data disks.
    #[serde(default)]
    pub data_disks: Vec<String>,
    /// `algorithm:hexadecimal`.
    #[serde(default)]
    pub identity: Option<String>,
    /// Properties of the network device; without any, those of a config that says nothing.
    #[serde(default)]
    pub network: BTreeMap<String, toml::Value>,
    /// Answers that differ from those of `host`.
    #[serde(default)]
    pub facts: BTreeMap<String, toml::Value>,
}

impl Cases {
    pub fn host_facts(&self) -> Result<Vec<(FactQuestion, FactAnswer)>, CasesError> {
        let host = self.host.iter();
        host.map(|(question, answer)| fact(question, answer))
            .collect()
    }
}

impl Case {
    fn wrong(&self, field: &'static str, value: &str, wanted: &'static str) -> CasesError {
        CasesError::Field {
            case: self.name.clone(),
            field,
            value: value.to_owned(),
            wanted,
        }
    }

    fn boot(&self) -> Result<Boot, CasesError> {
        match self.boot.as_deref() {
            None | Some("kernel") => Ok(Boot::Kernel),
            Some("disk") => Ok(Boot::Disk),
            Some(other) => Err(self.wrong("boot", other, "kernel or disk")),
        }
    }

    fn accelerator(&self) -> Result<Accelerator, CasesError> {
        match self.accelerator.as_deref() {
            None | Some("kvm") => Ok(Accelerator::Kvm),
            Some("tcg") => Ok(Accelerator::Tcg),
            Some(other) => Err(self.wrong("accelerator", other, "kvm or tcg")),
        }
    }

    fn memory_bytes(&self, usual: u64) -> Result<u64, CasesError> {
        let of_mib = |mib: u64| {
            let bytes = mib.checked_mul(1 << 20);
            bytes.ok_or_else(|| self.wrong("memory-mib", &mib.to_string(), "less"))
        };
        match (self.memory_bytes, self.memory_mib) {
            (Some(bytes), _) => Ok(bytes),
            (None, Some(mib)) => of_mib(mib),
            (None, None) => Ok(usual),
        }
    }

    /// Algorithm and digest.
    pub fn identity(&self) -> Result<Option<(String, Vec<u8>)>, CasesError> {
        let Some(text) = &self.identity else {
            return Ok(None);
        };
        let parts = text.split_once(':');
        let parts = parts.and_then(|(name, digits)| Some((name, hex::decode(digits).ok()?)));
        match parts {
            Some((algorithm, digest)) => Ok(Some((algorithm.to_owned(), digest))),
            None => Err(self.wrong("identity", text, "algorithm:hexadecimal")),
        }
    }

    fn network(&self) -> Result<Vec<Property>, CasesError> {
        if self.network.is_empty() {
            return Ok(usual_network());
        }
        let properties = self.network.iter().map(|(path, value)| {
            let value = match value {
                toml::Value::Boolean(flag) => Value::Boolean(*flag),
                toml::Value::Integer(number) => Value::Integer(*number),
                toml::Value::String(text) => Value::Text(text.clone()),
                other => {
                    let wanted = "a text, a whole number or a boolean";
                    return Err(self.wrong("network", &other.to_string(), wanted));
                }
            };
            Ok(Property {
                path: path.clone(),
                value,
            })
        });
        properties.collect()
    }

    fn devices(&self, boot: Boot) -> Result<Vec<HostDevice>, CasesError> {
        let mut devices = vec![
            device("net", "vmnic", self.network()?),
            device("share-9p", "env_share", Vec::new()),
            device("share-9p", "certs_share", Vec::new()),
        ];
        let has_disk = self.files.get("disk").is_none_or(|name| !name.is_empty());
        if boot == Boot::Disk && has_disk {
            devices.push(device("disk", "disk0", Vec::new()));
        }
        let ids = self.data_disks.iter().map(|id| DataDisk::device_id(id));
        devices.extend(ids.map(|id| device("disk", &id, Vec::new())));
        Ok(devices)
    }

    /// A role that no file of a request has would be a file that nobody looks for.
    fn roles(&self) -> Result<(), CasesError> {
        let named = self.files.keys().chain(&self.files_of_the_request);
        for role in named {
            let is_known = ROLES.contains(&role.as_str()) || role.starts_with("setting:");
            if !is_known {
                let wanted = "kernel, initrd, firmware, firmware-code, firmware-vars, igvm, disk or \
                              setting:KEY";
                return Err(self.wrong("files", role, wanted));
            }
        }
        Ok(())
    }

    fn files(&self, usual: &Draft) -> Vec<FileDraft> {
        let usual = usual.files.iter().filter_map(|file| match &file.content {
            Content::Named(name) => Some((file.role.as_str(), name.as_str())),
            _ => None,
        });
        let mut names: BTreeMap<&str, &str> = usual.collect();
        let own = self.files.iter();
        names.extend(own.map(|(role, name)| (role.as_str(), name.as_str())));
        let named = names.into_iter().filter(|(_, name)| !name.is_empty());
        (1..)
            .zip(named)
            .map(|(id, (role, name))| FileDraft {
                id,
                role: role.to_owned(),
                content: Content::Named(name.to_owned()),
                origin: if self.files_of_the_request.iter().any(|of| of == role) {
                    Origin::Request
                } else {
                    Origin::Operator
                },
            })
            .collect()
    }

    /// The request, without its settings: those are read as an operator's or a caller's text.
    pub fn draft(&self, usual: &Draft) -> Result<Draft, CasesError> {
        self.roles()?;
        let boot = self.boot()?;
        let identity = self.identity()?.map(|(algorithm, digest)| Identity {
            algorithm,
            digest,
            source: IdentitySource::Request,
        });
        let facts = self.facts.iter().map(|(question, answer)| {
            let (question, answer) = fact(question, answer)?;
            Ok(FactDraft { question, answer })
        });
        let cpu = match (&self.cpu, &self.built_in_cpu) {
            (None, Some(name)) => Some(Choice {
                value: name.clone(),
                origin: Origin::BuiltIn,
            }),
            (named, _) => choice(named.as_ref(), usual.cpu.as_ref()),
        };
        Ok(Draft {
            architecture: match &self.architecture {
                Some(name) => name.clone(),
                None => usual.architecture.clone(),
            },
            accelerator: self.accelerator()?,
            settings: Vec::new(),
            files: self.files(usual),
            vcpus: self.vcpus.unwrap_or(usual.vcpus),
            memory_bytes: self.memory_bytes(usual.memory_bytes)?,
            boot,
            machine: choice(self.machine.as_ref(), usual.machine.as_ref()),
            cpu,
            kernel_cmdline: match &self.kernel_cmdline {
                Some(text) => text.clone(),
                None => usual.kernel_cmdline.clone(),
            },
            devices: self.devices(boot)?,
            data_disks: self.data_disks.clone(),
            identity,
            extras: Vec::new(),
            facts: facts.collect::<Result<_, CasesError>>()?,
        })
    }
}

fn choice(named: Option<&String>, usual: Option<&Choice>) -> Option<Choice> {
    match named {
        Some(value) => Some(Choice {
            value: value.clone(),
            origin: Origin::Request,
        }),
        None => usual.cloned(),
    }
}

/// `function(argument)` as a question, and its answer: `absent`, `denied`, `failed: …`, `present`,
/// a number, a text after `text: `, registers as `eax ebx ecx edx`; for a type a list of properties.
pub fn fact(text: &str, answer: &toml::Value) -> Result<(FactQuestion, FactAnswer), CasesError> {
    let wrong = |reason: &str| CasesError::Fact {
        question: text.to_owned(),
        reason: reason.to_owned(),
    };
    let question = question(text)
        .ok_or_else(|| wrong("wanted is `function(argument)` with a function of `facts`"))?;
    let answer = self::answer(&question, answer).ok_or_else(|| {
        wrong(
            "its answer is none of absent, denied, failed: …, present, a number, text: …, four \
             registers in hexadecimal, and for a type a list of its properties",
        )
    })?;
    Ok((question, answer))
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn question(text: &str) -> Option<FactQuestion> {
    let (function, rest) = text.split_once('(')?;
    let argument = rest.strip_suffix(')')?.to_owned();
    let small = |text: &str| u32::try_from(number(text)?).ok();
    Some(match function {
        "cpuid" => FactQuestion::Cpuid {
            leaf: small(&argument)?,
            subleaf: 0,
        },
        "kvm-capability" => FactQuestion::KvmCapability(small(&argument)?),
        "kvm-device-attribute" => {
            let (group, attribute) = argument.split_once('/')?;
            FactQuestion::KvmDeviceAttribute {
                group: small(group)?,
                attribute: number(attribute)?,
            }
        }
        "read-text" => FactQuestion::ReadText(argument),
        "device" => FactQuestion::Device(argument),
        "socket" => FactQuestion::Socket(argument),
        "qemu-version" => FactQuestion::QemuVersion,
        "qemu-type" => FactQuestion::QemuType(argument),
        "qemu-machine" => FactQuestion::QemuMachine(argument),
        "qmp-query" => FactQuestion::QmpQuery(argument),
        _ => return None,
    })
}

fn answer(question: &FactQuestion, answer: &toml::Value) -> Option<FactAnswer> {
    Some(match answer {
        toml::Value::Integer(value) if matches!(question, FactQuestion::KvmCapability(_)) => {
            Ok(FactValue::Signed(*value))
        }
        toml::Value::Integer(value) => Ok(FactValue::Unsigned(u64::try_from(*value).ok()?)),
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
                _ => Ok(registers(text)?),
            },
        },
        toml::Value::Array(names) if matches!(question, FactQuestion::QemuType(_)) => {
            let names = names.iter().map(|name| Some(name.as_str()?.to_owned()));
            Ok(FactValue::Names(names.collect::<Option<_>>()?))
        }
        _ => return None,
    })
}

fn registers(text: &str) -> Option<FactValue> {
    let words = text
        .split(' ')
        .map(|word| u32::from_str_radix(word, 16).ok());
    let words: Vec<u32> = words.collect::<Option<_>>()?;
    let [eax, ebx, ecx, edx] = words[..] else {
        return None;
    };
    Some(FactValue::Cpuid { eax, ebx, ecx, edx })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_of_its_question() {
        let read = |question: &str, answer: &str| {
            let answer: toml::Table = format!("answer = {answer}").parse().unwrap();
            fact(question, &answer["answer"]).map(|(_, answer)| answer)
        };
        let names = FactValue::Names(vec!["policy".to_owned(), "host-data".to_owned()]);
        let list = "[\"policy\", \"host-data\"]";
        assert_eq!(read("qemu-type(x-guest)", list).unwrap(), Ok(names));
        assert_eq!(
            read("qemu-type(x-guest)", "\"present\"").unwrap(),
            Ok(FactValue::Names(Vec::new()))
        );
        for (question, answer) in [
            ("qemu-type(x-guest)", "[1]"),
            ("qemu-version()", list),
            ("moon(full)", "\"absent\""),
        ] {
            assert!(read(question, answer).is_err(), "{question} {answer}");
        }
    }
}
