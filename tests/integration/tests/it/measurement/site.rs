//! Measures requests: the component as the daemon loads it, with the packaged grants, and of a plan
//! no more than a measurement looks at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use casemate_attestation::{Register, RegisterValue};
use casemate_host::backend::settings::SettingValue;
use casemate_host::backend::{
    BackendConfig, BackendEngine, CallError, Launched, Limits, LoadedBackend,
};
use casemate_host::regular_file;
use casemate_host::spec::Origin;
use casemate_host::spec::facts::{FactQuestion, FactRecord, FactValue};
use casemate_host::spec::plan::{BootInputs, Firmware, LaunchPlan};
use casemate_host::spec::request::{
    Accelerator, Boot, Choice, HostContext, LaunchRequest, RequestFile, Setting,
};
use casemate_integration::artifacts;

/// Ids of the files of a request.
const FIRMWARE: u32 = 1;
const KERNEL: u32 = 2;
const INITRD: u32 = 3;

/// A guest that is to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    pub(crate) firmware: PathBuf,
    pub(crate) is_igvm: bool,
    pub(crate) kernel: Option<PathBuf>,
    pub(crate) initrd: Option<PathBuf>,
    /// Not handed over where there is none.
    pub(crate) cmdline: Option<String>,
    pub(crate) cpu: String,
    pub(crate) vcpus: u32,
    pub(crate) qemu_version: Option<String>,
}

impl Guest {
    /// Of one vCPU, without a kernel.
    pub(crate) fn of(firmware: &Path) -> Self {
        Self {
            firmware: firmware.to_owned(),
            is_igvm: false,
            kernel: None,
            initrd: None,
            cmdline: None,
            cpu: "EPYC-v4".to_owned(),
            vcpus: 1,
            qemu_version: None,
        }
    }

    pub(crate) fn of_igvm(file: &Path) -> Self {
        Self {
            is_igvm: true,
            ..Self::of(file)
        }
    }

    fn files(&self) -> Vec<RequestFile> {
        let firmware = if self.is_igvm { "igvm" } else { "firmware" };
        let files = [
            (FIRMWARE, firmware, Some(&self.firmware)),
            (KERNEL, "kernel", self.kernel.as_ref()),
            (INITRD, "initrd", self.initrd.as_ref()),
        ];
        let named = files
            .into_iter()
            .filter_map(|(id, role, path)| Some((id, role, path?)));
        named
            .map(|(id, role, path)| {
                let handle = regular_file::open(path).expect("the file can be opened");
                RequestFile {
                    id,
                    role: role.to_owned(),
                    path: path.clone(),
                    size: handle.metadata().expect("it is open").len(),
                    origin: Origin::Operator,
                    handle: Ok(Arc::new(handle)),
                }
            })
            .collect()
    }

    fn request(&self, settings: Vec<Setting>) -> LaunchRequest {
        let choice = |value: &str| Choice {
            value: value.to_owned(),
            origin: Origin::Operator,
        };
        LaunchRequest {
            host: HostContext {
                architecture: "x86_64".to_owned(),
                accelerator: Accelerator::Kvm,
                settings,
                files: self.files(),
            },
            vcpus: self.vcpus,
            memory_bytes: 2 << 30,
            boot: if self.kernel.is_some() {
                Boot::Kernel
            } else {
                Boot::Disk
            },
            machine: Some(choice("q35")),
            cpu: Some(choice(&self.cpu)),
            kernel_cmdline: self.cmdline.clone().unwrap_or_default(),
            devices: Vec::new(),
            data_disks: Vec::new(),
            identity: None,
        }
    }

    fn plan(&self) -> LaunchPlan {
        let firmware = if self.is_igvm {
            Firmware::Igvm(FIRMWARE)
        } else {
            Firmware::Bios(FIRMWARE)
        };
        let boot = BootInputs {
            kernel: self.kernel.is_some(),
            initrd: self.initrd.is_some(),
            cmdline: self.cmdline.is_some(),
        };
        LaunchPlan::to_measure(&self.cpu, firmware, boot)
    }

    fn facts(&self) -> FactRecord {
        let mut facts = FactRecord::default();
        if let Some(version) = &self.qemu_version {
            let answer = Ok(FactValue::Text(version.clone()));
            assert!(facts.insert(FactQuestion::QemuVersion, answer));
        }
        facts
    }
}

/// A component for each set of the operator's settings that was asked for.
#[derive(Debug)]
pub(crate) struct Site {
    backend: &'static str,
    engine: BackendEngine,
    loaded: BTreeMap<Settings, Arc<LoadedBackend>>,
}

type Settings = Vec<(&'static str, String)>;

impl Site {
    pub(crate) fn open(backend: &'static str) -> Self {
        Self {
            backend,
            engine: BackendEngine::new(Limits::default()).expect("an engine"),
            loaded: BTreeMap::new(),
        }
    }

    async fn load(&mut self, settings: &Settings) -> &LoadedBackend {
        if !self.loaded.contains_key(settings) {
            let mut config: BackendConfig = artifacts::packaged_backend(self.backend)
                .try_into()
                .expect("the packaged backend is of the config's form");
            for (key, value) in settings {
                let value = toml::Value::String(value.clone());
                config.settings.insert((*key).to_owned(), value);
            }
            // Compiled once: the settings are no part of the code.
            let known: Vec<_> = self.loaded.values().take(1).cloned().collect();
            let backend = LoadedBackend::load_after(&self.engine, &config, &[], &known).await;
            let backend = backend.expect("it loads as packaged");
            self.loaded.insert(settings.clone(), Arc::new(backend));
        }
        &self.loaded[settings]
    }

    /// The registers, or what the backend says against it.
    pub(crate) async fn measure(
        &mut self,
        guest: &Guest,
        settings: &[(&'static str, &str)],
    ) -> Result<Vec<Register>, String> {
        let settings = settings.iter();
        let settings: Settings = settings
            .map(|(key, value)| (*key, (*value).to_owned()))
            .collect();
        let backend = self.load(&settings).await;
        let inputs = backend.settings_for(&BTreeMap::new()).expect("they merge");
        let inputs = inputs.into_iter().map(|(input, origin)| Setting {
            key: input.key,
            value: match input.value {
                SettingValue::Plain(value) => value,
                SettingValue::File(path) => panic!("nobody set the file {}", path.display()),
            },
            origin,
        });
        let request = guest.request(inputs.collect());
        let launched = Launched {
            plan: &guest.plan(),
            arguments: &[],
            facts: &FactRecord::default(),
        };
        match backend
            .measure(&request, &launched, Arc::new(guest.facts()))
            .await
        {
            Ok(outcome) => Ok(outcome.expect("it exports the interface").registers),
            Err(CallError::Backend(error)) => Err(error.message),
            Err(fault) => panic!("{guest:?}: {fault}"),
        }
    }

    /// Every value that may hold of a register, in hexadecimal, or why none is known.
    pub(crate) async fn values(
        &mut self,
        guest: &Guest,
        settings: &[(&'static str, &str)],
        register: &str,
    ) -> Result<Vec<String>, String> {
        let registers = self.measure(guest, settings).await?;
        match &one(&registers, register).value {
            RegisterValue::Unknown(reason) => Err(reason.clone()),
            value => Ok(value.candidates().map(hex::encode).collect()),
        }
    }

    /// The one value of a register, in hexadecimal, or why there is none.
    pub(crate) async fn value(
        &mut self,
        guest: &Guest,
        settings: &[(&'static str, &str)],
        register: &str,
    ) -> Result<String, String> {
        let registers = self.measure(guest, settings).await?;
        match &one(&registers, register).value {
            RegisterValue::Computed(value) => Ok(hex::encode(value)),
            RegisterValue::OneOf(several) => Err(format!("one of {} values", several.len())),
            RegisterValue::Unknown(reason) => Err(reason.clone()),
        }
    }
}

pub(crate) fn one<'a>(registers: &'a [Register], name: &str) -> &'a Register {
    let mut registers = registers.iter();
    registers
        .find(|register| register.name == name)
        .unwrap_or_else(|| panic!("no register {name}"))
}
