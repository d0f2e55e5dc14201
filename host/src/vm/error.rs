//! Why a VM was not made: the stage, the cause, QEMU's last words, and what to do.

use std::path::PathBuf;

use crate::backend::catalog::ChooseError;
use crate::backend::settings::SettingError;
use crate::backend::{CallError, Fault, Violation};
use crate::lease::LeaseError;
use crate::qemu::check::CheckError;
use crate::qemu::command::RenderError;
use crate::qemu::process::{Exit, SpawnError, ToolError};
use crate::qemu::qmp::QmpError;
use crate::qemu::schema::ProbeError;
use crate::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("the daemon is shutting down")]
    Closing,
    #[error(transparent)]
    Exhausted(#[from] LeaseError),
    #[error(transparent)]
    Choose(#[from] ChooseError),
    #[error("settings: {0}")]
    Setting(#[from] SettingError),
    #[error("{field}: {what}")]
    Request {
        field: &'static str,
        what: String,
        remedy: String,
    },
    #[error("the {role} file {path:?} cannot be used: {source}", path = .path.display())]
    File {
        role: String,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Backend(CallError),
    #[error("{what}")]
    Unsupported { what: String, remedy: String },
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
    Disk(String),
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
    #[error("it was removed before it ran")]
    Removed,
    #[error("the task that made it failed")]
    Internal,
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
            CheckError::Unsupported { what, remedy } => Self::Unsupported { what, remedy },
            CheckError::Probe(error) => Self::Probe(error),
        }
    }

    /// QEMU's last lines, where it ended.
    pub fn qemu_stderr(&self) -> Option<&str> {
        match self {
            Self::QemuEnded { stderr, .. }
            | Self::Qmp { stderr, .. }
            | Self::NotRunning { stderr, .. } => {
                Some(stderr.as_str()).filter(|text| !text.is_empty())
            }
            _ => None,
        }
    }

    /// What the reader can do.
    pub fn remedy(&self) -> String {
        match self {
            Self::Closing => "try again when the daemon is back".to_owned(),
            Self::Exhausted(LeaseError::Slots { .. }) => {
                "remove a VM, or raise `max_vms` in the config file".to_owned()
            }
            Self::Exhausted(LeaseError::Uids { .. }) => {
                "remove VMs that have exited, or widen `qemu.uids` in the config file".to_owned()
            }
            Self::Exhausted(LeaseError::Ports { .. }) => {
                "remove a VM, free the ports, or widen `network.ports` in the config file".to_owned()
            }
            Self::Choose(ChooseError::NoneFits { .. } | ChooseError::SeveralFit { .. }) => {
                "name a backend in the request, or set `default_backend` in the config file \
                 (`plain-kvm` by name, too)"
                    .to_owned()
            }
            Self::Choose(_) => "`casemate backend list` shows what there is".to_owned(),
            Self::Setting(_) => "`casemate backend show NAME` lists its settings".to_owned(),
            Self::Request { remedy, .. } | Self::Unsupported { remedy, .. } => remedy.clone(),
            Self::File { role, .. } => {
                format!("put the file there, or set `vm.{}` in the config file", role.replace('-', "_"))
            }
            Self::Backend(CallError::Backend(error)) => error.remedy.clone(),
            Self::Backend(CallError::Fault { .. }) => {
                "report it to the backend's vendor; nothing was started".to_owned()
            }
            Self::Probe(ProbeError::NotFound { .. }) => {
                "install QEMU, or set `qemu.binary` in the config file".to_owned()
            }
            Self::Probe(_) | Self::Spawn(_) => "start that QEMU by hand to see what it lacks".to_owned(),
            Self::NotConfidential { .. } => "name a backend that guards its guests".to_owned(),
            Self::Store(_) => "see that the state directory has room and is the daemon's own".to_owned(),
            Self::Device { .. } => {
                "load the kernel module and give the daemon access, or set `qemu.accelerator = \"tcg\"`"
                    .to_owned()
            }
            Self::Disk(_) | Self::Tool(_) => "check `vm.disk` with `qemu-img info`, and set `disk.format` to its format".to_owned(),
            Self::QemuEnded { .. } | Self::Qmp { .. } | Self::NotRunning { .. } => {
                "read QEMU's lines above; `casemate plan --standalone` prints a command to try by hand"
                    .to_owned()
            }
            Self::Guard { .. } => "do not use this QEMU for confidential VMs".to_owned(),
            Self::Removed => String::new(),
            Self::Render(_) | Self::Internal => "report it as a bug of Casemate".to_owned(),
        }
    }

    /// Short name for metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Exhausted(_) => "exhausted",
            Self::Backend(CallError::Fault { .. }) => "backend-fault",
            Self::Backend(CallError::Backend(_)) => "backend-error",
            Self::Request { .. } | Self::Choose(_) | Self::Setting(_) => "invalid",
            Self::QemuEnded { .. }
            | Self::Qmp { .. }
            | Self::NotRunning { .. }
            | Self::Guard { .. } => "qemu",
            Self::Removed => "removed",
            _ => "host",
        }
    }
}
