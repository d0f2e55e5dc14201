//! Why a VM was not made: the stage, the cause, QEMU's last words, and what to do.

use std::path::PathBuf;
use std::sync::Arc;

use casemate_catalogue::ErrorId;

use super::catalogued::Catalogued;
use super::disk::DiskError;
use super::images::ImageError;
use super::task::GenerationChanged;
use crate::backend::catalog::ChooseError;
use crate::backend::settings::SettingError;
use crate::backend::{CallError, Fault, Violation};
use crate::confine::ConfineError;
use crate::lease::{LeaseError, Resource};
use crate::qemu::check::{CheckError, Lack};
use crate::qemu::command::RenderError;
use crate::qemu::process::{Exit, SpawnError, ToolError};
use crate::qemu::qmp::QmpError;
use crate::qemu::schema::ProbeError;
use crate::spec::VmId;
use crate::spec::lifecycle::{Action, Denial, Phase};
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("the daemon is shutting down")]
    Closing,
    #[error("idempotency_key: {key:?} belongs to VM {id}, which was asked for otherwise")]
    KeyReused { key: String, id: VmId },
    /// Of the create that this one was the same as.
    #[error(transparent)]
    Same(Arc<CreateError>),
    #[error(transparent)]
    Exhausted(#[from] LeaseError),
    #[error(transparent)]
    Choose(#[from] ChooseError),
    #[error("settings: {0}")]
    Setting(#[from] SettingError),
    #[error("kernel_cmdline: it is longer than {limit} bytes or holds a control character")]
    KernelCmdline { limit: usize },
    #[error("network.properties: {name} is neither a string, a number nor a boolean")]
    NetworkProperty { name: String },
    #[error("state_dir: {path:?} is not UTF-8, which QEMU's monitor needs", path = .path.display())]
    StateDirNotUtf8 { path: PathBuf },
    #[error("boot: the boot is from a disk, and there is no disk image")]
    DiskMissing,
    #[error("the {role} file {path:?} cannot be used: {source}", path = .path.display())]
    File {
        role: String,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{field}: {source}")]
    Image { field: String, source: ImageError },
    #[error(transparent)]
    Backend(CallError),
    #[error("backend {backend:?} serves {served}, and this host is {host}")]
    Architecture {
        backend: String,
        served: String,
        host: &'static str,
    },
    #[error("{what}")]
    Unsupported {
        lack: Lack,
        what: String,
        remedy: String,
    },
    #[error("host path {path:?} {what}")]
    HostPath { path: String, what: String },
    #[error(transparent)]
    Probe(#[from] ProbeError),
    #[error(
        "the request asks for a confidential VM, and backend {backend:?} plans one that is not"
    )]
    NotConfidential { backend: String },
    #[error("{0}")]
    Render(#[from] RenderError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{device:?} cannot be opened: {source}")]
    Device {
        device: &'static str,
        source: std::io::Error,
    },
    #[error("QEMU does not start")]
    Spawn(#[from] SpawnError),
    #[error("the disk: {0}")]
    Disk(#[from] DiskError),
    #[error("data disk {id}: {source}")]
    DataDisk { id: String, source: DiskError },
    #[error("the disk's tool: {0}")]
    Tool(#[from] ToolError),
    #[error("QEMU ended while {stage} ({exit})")]
    QemuEnded {
        stage: Stage,
        exit: Exit,
        stderr: String,
    },
    #[error("QEMU failed while {stage}: {source}")]
    Qmp {
        stage: Stage,
        stderr: String,
        source: QmpError,
    },
    #[error("QEMU reports state {status:?} after it was told to continue")]
    NotRunning { status: String, stderr: String },
    #[error("the plan's guard is {wanted:?}, and QEMU has {found:?}")]
    Guard { wanted: String, found: String },
    #[error("its network cannot be kept from this host")]
    Confine(#[source] ConfineError),
    #[error("its launcher is gone")]
    LauncherGone,
    #[error("its secrets were in memory, and went with the host's restart")]
    SecretsGone,
    #[error("{program} does not measure what the VM starts from: {source}")]
    MeasuringTool { program: String, source: ToolError },
    #[error("{program} said nothing that could be held against its backend's registers")]
    MeasuringToolSilent { program: String },
    #[error("{program} says that {register} is {said}, and its backend computed {computed}")]
    MeasurementsDiffer {
        program: String,
        register: String,
        computed: String,
        said: String,
    },
    #[error("the VM would not be measured as it was: {}", .changes.join("; "))]
    MeasurementChanged { changes: Vec<String> },
    #[error("it was removed before it ran")]
    Removed,
    /// The end of a start that was to go no further; no caller gets it.
    #[error("QEMU waits before the guest's first instruction")]
    Rehearsed,
    #[error("the task that made it failed")]
    Internal,
}

/// Why something was not done to a VM.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    #[error("there is no VM {0}")]
    NotFound(VmId),
    #[error("{}", refusal(*.id, *.action, *.denial))]
    Denied {
        id: VmId,
        action: Action,
        denial: Denial,
    },
    #[error("the {} of VM {id} was overtaken by another call", .action.name())]
    Superseded { id: VmId, action: Action },
    #[error(transparent)]
    Start(Arc<CreateError>),
    #[error(transparent)]
    Changed(#[from] GenerationChanged),
    #[error("QEMU did not do it: {0}")]
    Qmp(#[from] QmpError),
    #[error("the daemon is shutting down")]
    Closing,
}

fn refusal(id: VmId, action: Action, denial: Denial) -> String {
    let action = action.name();
    match denial {
        Denial::Phase(phase) => format!("VM {id} is {}: {action} is not possible", phase.name()),
        Denial::Ability(ability) => format!(
            "VM {id} cannot {action}: its plan does not have the ability {:?}",
            ability.name()
        ),
    }
}

impl Catalogued for ActError {
    fn id(&self) -> ErrorId {
        match self {
            Self::NotFound(_) => ErrorId::NoSuchVm,
            Self::Denied { denial, .. } => match denial {
                Denial::Phase(Phase::Lost) => ErrorId::VmLost,
                Denial::Phase(_) => ErrorId::NotNow,
                Denial::Ability(_) => ErrorId::NotAbleTo,
            },
            Self::Superseded { .. } => ErrorId::ActSuperseded,
            Self::Changed(_) => ErrorId::GenerationChanged,
            Self::Start(error) => error.id(),
            Self::Qmp(_) => ErrorId::ActFailed,
            Self::Closing => ErrorId::ShuttingDown,
        }
    }

    fn subject(&self) -> Option<String> {
        match self {
            Self::NotFound(id) | Self::Denied { id, .. } | Self::Superseded { id, .. } => {
                Some(id.to_string())
            }
            Self::Changed(changed) => Some(changed.id.to_string()),
            Self::Start(error) => error.subject(),
            Self::Qmp(_) => Some("qemu".to_owned()),
            Self::Closing => None,
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::Start(error) => error.remedy(),
            Self::NotFound(_)
            | Self::Denied { .. }
            | Self::Superseded { .. }
            | Self::Changed(_)
            | Self::Qmp(_)
            | Self::Closing => self.id().entry().remedy.to_owned(),
        }
    }

    fn qemu_stderr(&self) -> Option<&str> {
        match self {
            Self::Start(error) => error.qemu_stderr(),
            _ => None,
        }
    }
}

/// Where in a launch a QEMU was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Starting,
    Forwarding,
    Guarding,
    Continuing,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Starting => "it started",
            Self::Forwarding => "a host port was forwarded",
            Self::Guarding => "its guard was read back",
            Self::Continuing => "the guest was started",
        })
    }
}

impl CreateError {
    /// A plan that breaks a rule is the backend's fault; one that this host cannot have is not.
    pub fn from_check(error: CheckError, backend: &str) -> Self {
        match error {
            CheckError::Rule { argument, rule } => Self::Backend(CallError::Fault {
                backend: backend.to_owned(),
                fault: Fault::Contract(Violation::new(argument, rule)),
            }),
            CheckError::Unsupported { lack, what, remedy } => {
                Self::Unsupported { lack, what, remedy }
            }
            CheckError::Probe(error) => Self::Probe(error),
        }
    }

    /// Short name for metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Exhausted(_) => "exhausted",
            Self::Backend(CallError::Fault { .. }) => "backend-fault",
            Self::Backend(CallError::Backend(_)) => "backend-error",
            Self::KernelCmdline { .. }
            | Self::Choose(_)
            | Self::Setting(_)
            | Self::KeyReused { .. } => "invalid",
            Self::Same(error) => error.outcome(),
            Self::QemuEnded { .. }
            | Self::Qmp { .. }
            | Self::NotRunning { .. }
            | Self::Guard { .. } => "qemu",
            Self::Removed => "removed",
            Self::Rehearsed => "rehearsed",
            _ => "host",
        }
    }
}

impl Catalogued for CreateError {
    fn id(&self) -> ErrorId {
        match self {
            Self::Closing => ErrorId::ShuttingDown,
            Self::KeyReused { .. } => ErrorId::IdempotencyKeyReused,
            Self::Same(error) => error.id(),
            Self::Exhausted(LeaseError::Capacity { resource, .. }) => match resource {
                Resource::Vms => ErrorId::VmLimit,
                Resource::Vcpus => ErrorId::VcpusExhausted,
                Resource::Memory => ErrorId::MemoryExhausted,
                Resource::Lease(_) => ErrorId::HostResource,
            },
            Self::Exhausted(LeaseError::Uids { .. }) => ErrorId::UserRangeExhausted,
            Self::Exhausted(LeaseError::Ports { .. }) => ErrorId::PortRangeExhausted,
            Self::Choose(ChooseError::Unknown { .. }) => ErrorId::BackendUnknown,
            Self::Choose(ChooseError::NotInService { .. }) => ErrorId::BackendNotInService,
            Self::Choose(ChooseError::NoneFits { .. } | ChooseError::SeveralFit { .. }) => {
                ErrorId::BackendNotChosen
            }
            Self::Setting(SettingError::Unknown { .. }) => ErrorId::SettingUnknown,
            Self::Setting(SettingError::Form { .. }) => ErrorId::SettingForm,
            Self::Setting(SettingError::NotPerRequest { .. }) => ErrorId::SettingNotPerRequest,
            Self::Setting(SettingError::PathInRequest { .. }) => ErrorId::SettingPath,
            Self::KernelCmdline { .. } => ErrorId::KernelCmdline,
            Self::NetworkProperty { .. } => ErrorId::NetworkProperties,
            Self::StateDirNotUtf8 { .. } => ErrorId::StateDirNotUtf8,
            Self::DiskMissing => ErrorId::DiskMissing,
            Self::File { .. } => ErrorId::FileUnusable,
            Self::Image { .. } => ErrorId::ImageUnusable,
            Self::Backend(error) => error.id(),
            Self::Architecture { .. } => ErrorId::BackendArchitecture,
            Self::Unsupported { lack, .. } => match lack {
                Lack::Qemu => ErrorId::QemuLacks,
                Lack::Kvm => ErrorId::NeedsKvm,
                Lack::NetworkProperty => ErrorId::NetworkProperties,
                Lack::Device(_) => ErrorId::DeviceRefused,
            },
            Self::HostPath { .. } => ErrorId::HostPath,
            Self::Probe(ProbeError::NotFound { .. }) => ErrorId::QemuNotFound,
            Self::Probe(ProbeError::Spawn { .. }) => ErrorId::QemuNotStartable,
            Self::Probe(ProbeError::Qmp { .. }) => ErrorId::QemuNoMonitor,
            Self::NotConfidential { .. } => ErrorId::NotConfidential,
            Self::Render(_) => ErrorId::CommandUnrenderable,
            Self::Store(error) if error.is_full() => ErrorId::StoreFull,
            Self::Store(_) => ErrorId::Store,
            Self::Device { .. } => ErrorId::Device,
            Self::Spawn(_) => ErrorId::QemuSpawn,
            Self::Disk(_) | Self::DataDisk { .. } => ErrorId::DiskUnusable,
            Self::Tool(_) => ErrorId::DiskTool,
            Self::QemuEnded { .. } => ErrorId::QemuEnded,
            Self::Qmp { source, .. } => match source {
                QmpError::Closed { .. } | QmpError::Timeout { .. } => ErrorId::QemuUnresponsive,
                QmpError::Refused { .. } => ErrorId::QemuRefused,
                QmpError::Protocol { .. } => ErrorId::QemuProtocol,
            },
            Self::NotRunning { .. } => ErrorId::QemuNotRunning,
            Self::Guard { .. } => ErrorId::GuardMismatch,
            Self::Confine(_) => ErrorId::GuestNotConfined,
            Self::LauncherGone => ErrorId::QemuSpawn,
            Self::MeasuringTool { .. } | Self::MeasuringToolSilent { .. } => ErrorId::MeasuringTool,
            Self::MeasurementsDiffer { .. } => ErrorId::MeasurementsDiffer,
            Self::MeasurementChanged { .. } => ErrorId::MeasurementChanged,
            Self::SecretsGone => ErrorId::SecretsGone,
            Self::Removed => ErrorId::Removed,
            Self::Rehearsed => ErrorId::Internal,
            Self::Internal => ErrorId::Internal,
        }
    }

    fn subject(&self) -> Option<String> {
        Some(match self {
            Self::Closing | Self::Render(_) | Self::Removed | Self::Rehearsed | Self::Internal => {
                return None;
            }
            Self::KeyReused { id, .. } => id.to_string(),
            Self::Same(error) => return error.subject(),
            Self::Exhausted(LeaseError::Capacity { resource, .. }) => match resource {
                Resource::Vms => "max_vms".to_owned(),
                Resource::Vcpus => "max_vcpus".to_owned(),
                Resource::Memory => "max_memory".to_owned(),
                Resource::Lease(name) => format!("leases.{name}"),
            },
            Self::Exhausted(LeaseError::Uids { .. }) => "qemu.uids".to_owned(),
            Self::Exhausted(LeaseError::Ports { .. }) => "network.ports".to_owned(),
            Self::Choose(
                ChooseError::Unknown { name, .. } | ChooseError::NotInService { name, .. },
            ) => name.clone(),
            Self::Choose(ChooseError::NoneFits { .. } | ChooseError::SeveralFit { .. }) => {
                "default_backend".to_owned()
            }
            Self::Setting(
                SettingError::Unknown { key, .. }
                | SettingError::Form { key, .. }
                | SettingError::NotPerRequest { key }
                | SettingError::PathInRequest { key },
            ) => key.clone(),
            Self::KernelCmdline { .. } => "kernel_cmdline".to_owned(),
            Self::NetworkProperty { .. } => "network.properties".to_owned(),
            Self::StateDirNotUtf8 { .. } => "state_dir".to_owned(),
            Self::DiskMissing | Self::Disk(_) => "disk".to_owned(),
            Self::File { role, .. } => role.clone(),
            Self::Image { field, .. } => field.clone(),
            Self::DataDisk { id, .. } => format!("data_disks.{id}"),
            Self::Backend(error) => return error.subject(),
            Self::Architecture { backend, .. } | Self::NotConfidential { backend } => {
                backend.clone()
            }
            Self::Unsupported { lack, .. } => match lack {
                Lack::Qemu => "qemu".to_owned(),
                Lack::Kvm => "qemu.accelerator".to_owned(),
                Lack::NetworkProperty => "network.properties".to_owned(),
                Lack::Device(id) => id.clone(),
            },
            Self::HostPath { path, .. } => path.clone(),
            Self::Confine(_) => "network.outbound".to_owned(),
            Self::LauncherGone => "qemu".to_owned(),
            Self::MeasuringTool { .. } | Self::MeasuringToolSilent { .. } => {
                "attestation.tool".to_owned()
            }
            Self::MeasurementsDiffer { register, .. } => register.clone(),
            Self::MeasurementChanged { .. } => "measurement".to_owned(),
            Self::SecretsGone => "secrets_dir".to_owned(),
            Self::Store(error) => return error.subject(),
            Self::Device { device, .. } => (*device).to_owned(),
            Self::Tool(_) => "qemu-img".to_owned(),
            Self::Probe(_)
            | Self::Spawn(_)
            | Self::QemuEnded { .. }
            | Self::Qmp { .. }
            | Self::NotRunning { .. }
            | Self::Guard { .. } => "qemu".to_owned(),
        })
    }

    fn field(&self) -> Option<String> {
        Some(match self {
            Self::KeyReused { .. } => "idempotency_key".to_owned(),
            Self::Same(error) => return error.field(),
            Self::Choose(ChooseError::Unknown { .. }) => "spec.backend".to_owned(),
            Self::Setting(
                SettingError::Unknown { key, .. }
                | SettingError::Form { key, .. }
                | SettingError::NotPerRequest { key }
                | SettingError::PathInRequest { key },
            ) => format!("spec.settings.{key}"),
            Self::KernelCmdline { .. } => "spec.kernel_cmdline".to_owned(),
            Self::NotConfidential { .. } => "spec.require_confidential".to_owned(),
            Self::Image { field, .. } => format!("spec.{field}"),
            _ => return None,
        })
    }

    fn remedy(&self) -> String {
        match self {
            Self::Choose(ChooseError::NotInService { remedy, .. }) => (*remedy).to_owned(),
            Self::Same(error) => error.remedy(),
            Self::Unsupported { remedy, .. } => remedy.clone(),
            Self::Backend(error) => error.remedy(),
            Self::Image { source, .. } => source.remedy().to_owned(),
            Self::File { role, .. } => match role.strip_prefix("setting:") {
                Some(key) => format!(
                    "put the file there, or set `{key}` under `[backend.settings]` in the config file"
                ),
                None => format!(
                    "put the file there, or set `vm.{}` in the config file",
                    role.replace('-', "_")
                ),
            },
            _ => self.id().entry().remedy.to_owned(),
        }
    }

    fn qemu_stderr(&self) -> Option<&str> {
        match self {
            Self::QemuEnded { stderr, .. }
            | Self::Qmp { stderr, .. }
            | Self::NotRunning { stderr, .. } => {
                Some(stderr.as_str()).filter(|text| !text.is_empty())
            }
            Self::Same(error) => error.qemu_stderr(),
            _ => None,
        }
    }
}
