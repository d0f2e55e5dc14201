//! `casemate measure`: what a verifier would see of a guest, without a daemon, a QEMU or a host of its
//! technology. The component is the one that a daemon loads, and the same code asks it.
//!
//! There is no plan of the backend, which would judge this host; the launch has firmware, boot files,
//! CPU model and vCPUs, and facts are those of a record, or none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use casemate_attestation::{FileDigest, Measurement};
use casemate_catalogue::ErrorId;

use crate::backend::digests::is_sealed;
use crate::backend::settings::{SettingError, SettingValue};
use crate::backend::{
    BackendConfig, BackendEngine, CallError, Launched, Limits, LoadError, LoadedBackend, Tier,
};
use crate::regular_file::{self, ReadError};
use crate::spec::Origin;
use crate::spec::facts::{FactQuestion, FactRecord, FactValue};
use crate::spec::identity::Identity;
use crate::spec::permissions::Permissions;
use crate::spec::plan::{BootInputs, Firmware, LaunchPlan, Value};
use crate::spec::request::{
    Accelerator, Boot, Choice, HostContext, LaunchRequest, RequestFile, Setting,
};
use crate::vm::catalogued::Catalogued;
use crate::vm::measuring::identity_of;
use crate::vm::sealed::sealed_copy;

use super::problem::BuildError;

/// Largest record of facts: a thousand answers of 64 KiB would be more, and no backend asks so much.
const LARGEST_FACTS: u64 = 16 << 20;

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct MeasureRequest {
    pub component: PathBuf,
    pub firmware: FirmwareFile,
    pub vcpus: u32,
    pub cpu: String,
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    /// With a kernel, byte for byte.
    pub cmdline: String,
    pub settings: BTreeMap<String, String>,
    /// JSON: a record of facts, or an object that has one as `facts`.
    pub facts: Option<PathBuf>,
    pub identity: Option<Identity>,
}

#[derive(Clone, Debug)]
pub enum FirmwareFile {
    /// One image, for `-bios`.
    Combined(PathBuf),
    Igvm(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    #[error(transparent)]
    Engine(#[from] BuildError),
    #[error("the backend is not loaded: {0}")]
    Load(#[from] LoadError),
    #[error("backend {backend:?} measures nothing: it does not export `measurement`")]
    MeasuresNothing { backend: String },
    #[error("the {role} file {path:?} cannot be used: {source}", path = .path.display())]
    File {
        role: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the facts in {path:?} cannot be read: {source}", path = .path.display())]
    Facts { path: PathBuf, source: ReadError },
    #[error("{path:?} is no record of facts: {reason}; wanted is JSON as `casemate plan --format json` prints it, or its `facts` alone", path = .path.display())]
    FactsForm { path: PathBuf, reason: String },
    #[error("settings: {0}")]
    Setting(#[from] SettingError),
    #[error(transparent)]
    Backend(#[from] CallError),
}

impl Catalogued for MeasureError {
    fn id(&self) -> ErrorId {
        match self {
            Self::Engine(error) => error.id(),
            Self::Load(_) | Self::Setting(_) => ErrorId::MeasureBackend,
            Self::MeasuresNothing { .. } => ErrorId::NoMeasurement,
            Self::File { .. } | Self::Facts { .. } => ErrorId::InputUnreadable,
            Self::FactsForm { .. } => ErrorId::FactsForm,
            Self::Backend(error) => error.id(),
        }
    }

    fn subject(&self) -> Option<String> {
        match self {
            Self::Engine(error) => error.subject(),
            Self::Load(_) | Self::Setting(_) => Some("backend".to_owned()),
            Self::MeasuresNothing { backend } => Some(backend.clone()),
            Self::File { role, .. } => Some((*role).to_owned()),
            Self::Facts { .. } | Self::FactsForm { .. } => Some("facts".to_owned()),
            Self::Backend(error) => error.subject(),
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::Backend(error) => error.remedy(),
            _ => self.id().entry().remedy.to_owned(),
        }
    }
}

/// Measures what `wanted` says.
pub async fn measure(wanted: &MeasureRequest) -> Result<Measurement, MeasureError> {
    let engine = BackendEngine::new(Limits::default()).map_err(BuildError::from)?;
    let backend = load(&engine, wanted).await?;
    if !backend.optional().measurement {
        return Err(MeasureError::MeasuresNothing {
            backend: backend.name().to_owned(),
        });
    }
    let facts = match &wanted.facts {
        Some(path) => read_facts(path)?,
        None => FactRecord::default(),
    };
    let request = request(&backend, wanted)?;
    let plan = plan(wanted, &request);
    let launch = Launched {
        plan: &plan,
        arguments: &[],
        facts: &FactRecord::default(),
    };
    let source = Arc::new(facts.clone());
    let outcome = backend.measure(&request, &launch, source).await?;
    let mut files = Vec::new();
    for file in &request.host.files {
        let digest = backend.file_digest(file).await;
        let digest = digest.map_err(|reason| MeasureError::File {
            role: "named",
            path: file.path.clone(),
            source: std::io::Error::other(reason),
        })?;
        files.push(FileDigest {
            role: file.role.clone(),
            sha384: hex::encode(digest),
        });
    }
    Ok(Measurement {
        registers: outcome.map_or_else(Vec::new, |outcome| outcome.registers),
        files,
        backend: identity_of(&backend),
        qemu_version: match facts.get(&FactQuestion::QemuVersion) {
            Some(Ok(FactValue::Text(version))) => Some(version.clone()),
            _ => None,
        },
    })
}

/// The component with all facts granted that it announces: they come from a record that somebody
/// gave, and nothing of this host is looked at.
async fn load(
    engine: &BackendEngine,
    wanted: &MeasureRequest,
) -> Result<LoadedBackend, MeasureError> {
    let name = wanted.component.file_stem();
    let settings = wanted.settings.iter();
    let settings = settings.map(|(key, text)| (key.clone(), toml::Value::String(text.clone())));
    let config = BackendConfig {
        name: name.map_or_else(String::new, |name| {
            crate::spec::printable(&name.to_string_lossy())
        }),
        path: wanted.component.clone(),
        sha256: None,
        allow_unpinned: true,
        signature_keys: None,
        // Whatever a config may say: there is nothing behind either.
        tier: Tier::Std,
        grants: Permissions::default(),
        settings: settings.collect(),
        canary: None,
    };
    let backend = LoadedBackend::load(engine, &config, &[]).await?;
    Ok(backend.granted_as_announced())
}

fn read_facts(path: &Path) -> Result<FactRecord, MeasureError> {
    let bytes = regular_file::read(path, LARGEST_FACTS).map_err(|source| MeasureError::Facts {
        path: path.to_owned(),
        source,
    })?;
    let form = |reason: String| MeasureError::FactsForm {
        path: path.to_owned(),
        reason,
    };
    let mut value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| form(error.to_string()))?;
    if let Some(facts) = value.get_mut("facts") {
        value = facts.take();
    }
    serde_json::from_value(value).map_err(|error| form(error.to_string()))
}

fn request(
    backend: &LoadedBackend,
    wanted: &MeasureRequest,
) -> Result<LaunchRequest, MeasureError> {
    let (role, path) = match &wanted.firmware {
        FirmwareFile::Combined(path) => ("firmware", path),
        FirmwareFile::Igvm(path) => ("igvm", path),
    };
    let named = [
        (role, Some(path)),
        ("kernel", wanted.kernel.as_ref()),
        ("initrd", wanted.initrd.as_ref()),
    ];
    let mut files = Vec::new();
    for (role, path) in named {
        let Some(path) = path else { continue };
        files.push(open(role, path, files.len())?);
    }
    let info = backend.info();
    Ok(LaunchRequest {
        host: HostContext {
            architecture: info.architectures.first().cloned().unwrap_or_default(),
            accelerator: Accelerator::Kvm,
            settings: settings(backend)?,
            files,
        },
        vcpus: wanted.vcpus,
        // No measurement depends on it that a backend could know without a plan.
        memory_bytes: 1 << 30,
        boot: match wanted.kernel {
            Some(_) => Boot::Kernel,
            None => Boot::Disk,
        },
        machine: None,
        cpu: Some(Choice {
            value: wanted.cpu.clone(),
            origin: Origin::Request,
        }),
        kernel_cmdline: wanted.cmdline.clone(),
        devices: Vec::new(),
        data_disks: Vec::new(),
        identity: wanted.identity.clone(),
    })
}

/// Settings of kind `file` are left out: nothing measured reads one yet.
fn settings(backend: &LoadedBackend) -> Result<Vec<Setting>, MeasureError> {
    let all = backend.settings_for(&BTreeMap::new())?;
    let plain = all.into_iter().filter_map(|(input, origin)| {
        let SettingValue::Plain(value) = input.value else {
            return None;
        };
        let value: Value = value;
        Some(Setting {
            key: input.key,
            value,
            origin,
        })
    });
    Ok(plain.collect())
}

/// Sealed, as a daemon would: a file that changes meanwhile is measured as it was once.
fn open(role: &'static str, path: &Path, index: usize) -> Result<RequestFile, MeasureError> {
    let opened = regular_file::open(path).and_then(|file| sealed_copy(&file));
    let (file, size) = opened.map_err(|source| MeasureError::File {
        role,
        path: path.to_owned(),
        source,
    })?;
    debug_assert!(is_sealed(&file));
    Ok(RequestFile {
        id: u32::try_from(index).unwrap_or(u32::MAX) + 1,
        role: role.to_owned(),
        path: path.to_owned(),
        size,
        origin: Origin::Request,
        handle: Ok(Arc::new(file)),
    })
}

fn plan(wanted: &MeasureRequest, request: &LaunchRequest) -> LaunchPlan {
    let first = request.host.files.first().map_or(0, |file| file.id);
    let firmware = match &wanted.firmware {
        FirmwareFile::Combined(_) => Firmware::Bios(first),
        FirmwareFile::Igvm(_) => Firmware::Igvm(first),
    };
    let has_kernel = wanted.kernel.is_some();
    let boot = BootInputs {
        kernel: has_kernel,
        initrd: has_kernel && wanted.initrd.is_some(),
        cmdline: has_kernel,
    };
    LaunchPlan::to_measure(&wanted.cpu, firmware, boot)
}
