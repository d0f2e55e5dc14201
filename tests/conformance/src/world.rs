//! The world that a backend is asked in: a host that can do what the backend is for, the request that
//! everybody starts from, and files.
//!
//! A backend's own golden requests say what such a host answers. Without them it is an ordinary host,
//! which does for a backend that needs nothing particular.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use casemate_host::backend::BackendInfo;
use casemate_host::spec::Origin;
use casemate_host::spec::facts::{FactAnswer, FactQuestion, FactValue};
use casemate_host::spec::plan::{Property, Value};
use casemate_host::spec::request::{Accelerator, Boot, Choice, HostDevice};

use crate::draft::{Content, Draft, FileDraft};
use crate::facts::Rest;
use crate::golden::cases::{Cases, CasesError, read};

/// What operators who say nothing have. Machine and CPU model are built into a daemon (`vm.machine` and
/// `vm.cpu`) and are these on every architecture: where they are of no use, a backend replaces them.
pub const BUILT_IN_MACHINE: &str = "q35";
pub const BUILT_IN_CPU: &str = "EPYC";
const DEFAULT_VCPUS: u32 = 2;
const DEFAULT_MEMORY: u64 = 2 << 30;
const DEFAULT_CMDLINE: &str = "quiet console=null";

#[derive(Debug)]
pub struct World {
    /// What the host answers, but for what a request says otherwise.
    pub host: Vec<(FactQuestion, FactAnswer)>,
    pub rest: Rest,
    /// The request that becomes a plan, if any does.
    pub usual: Draft,
    /// Where the golden requests lie, with them.
    pub golden: Option<(PathBuf, Cases)>,
}

impl World {
    /// Of the golden requests in `folder`.
    pub fn golden(folder: &Path, info: &BackendInfo) -> Result<Self, CasesError> {
        let cases = read(folder)?;
        let host = cases.host_facts()?;
        Ok(Self {
            host,
            rest: Rest::Unknown,
            usual: usual(info),
            golden: Some((folder.to_owned(), cases)),
        })
    }

    pub fn ordinary(info: &BackendInfo) -> Self {
        Self {
            host: Vec::new(),
            rest: Rest::Ordinary,
            usual: usual(info),
            golden: None,
        }
    }

    /// Versioned names of machines by alias, as this host's QEMU tells them to `draft`.
    pub fn aliases(&self, draft: &Draft) -> BTreeMap<String, String> {
        let told = self.rest.aliases();
        let mut aliases: BTreeMap<String, String> = told
            .map(|(alias, name)| (alias.to_owned(), name.to_owned()))
            .collect();
        let host = self
            .host
            .iter()
            .map(|(question, answer)| (question, answer));
        let changed = draft
            .facts
            .iter()
            .map(|fact| (&fact.question, &fact.answer));
        for (question, answer) in host.chain(changed) {
            match (question, answer) {
                (FactQuestion::QemuMachine(alias), Ok(FactValue::Text(name))) => {
                    aliases.insert(alias.clone(), name.clone());
                }
                // Whoever is not told the name cannot use it.
                (FactQuestion::QemuMachine(alias), _) => {
                    aliases.remove(alias);
                }
                _ => {}
            }
        }
        aliases
    }
}

/// Two vCPUs, 2 GiB, a kernel, an initrd and a firmware that the operator named, a machine and a CPU model
/// that nobody named, and what the host attaches to every VM.
pub fn usual(info: &BackendInfo) -> Draft {
    let architecture = info.architectures.first().map_or("x86_64", String::as_str);
    let built_in = |value: &str| {
        Some(Choice {
            value: value.to_owned(),
            origin: Origin::BuiltIn,
        })
    };
    let files = [
        ("firmware", "OVMF.fd"),
        ("initrd", "initrd"),
        ("kernel", "kernel"),
    ];
    let files = (1..).zip(files).map(|(id, (role, name))| FileDraft {
        id,
        role: role.to_owned(),
        content: Content::Named(name.to_owned()),
        origin: Origin::Operator,
    });
    Draft {
        architecture: architecture.to_owned(),
        accelerator: Accelerator::Kvm,
        settings: Vec::new(),
        files: files.collect(),
        vcpus: DEFAULT_VCPUS,
        memory_bytes: DEFAULT_MEMORY,
        boot: Boot::Kernel,
        machine: built_in(BUILT_IN_MACHINE),
        cpu: built_in(BUILT_IN_CPU),
        kernel_cmdline: DEFAULT_CMDLINE.to_owned(),
        devices: usual_devices(),
        data_disks: Vec::new(),
        identity: None,
        extras: Vec::new(),
        facts: Vec::new(),
    }
}

pub fn device(kind: &str, id: &str, properties: Vec<Property>) -> HostDevice {
    HostDevice {
        kind: kind.to_owned(),
        id: id.to_owned(),
        properties,
    }
}

fn usual_devices() -> Vec<HostDevice> {
    vec![
        device("net", "vmnic", usual_network()),
        device("share-9p", "env_share", Vec::new()),
        device("share-9p", "certs_share", Vec::new()),
    ]
}

/// The defaults of `network.properties`.
pub fn usual_network() -> Vec<Property> {
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

#[cfg(test)]
mod tests {
    use casemate_host::config;

    use super::*;

    #[test]
    fn what_nobody_named_is_what_a_daemon_has() {
        for (name, value) in [("vm.machine", BUILT_IN_MACHINE), ("vm.cpu", BUILT_IN_CPU)] {
            let mut keys = config::keys();
            let key = keys.find(|key| key.name == name).expect("it is a key");
            let default = format!("{:?}", key.default);
            assert!(default.contains(&format!("{value:?}")), "{name}: {default}");
        }
    }
}
