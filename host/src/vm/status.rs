//! What everyone but the owner sees of a VM.

use std::net::SocketAddr;

use jiff::Timestamp;

use crate::qemu::process::Exit;
use crate::spec::VmId;
use crate::spec::plan::Finding;
use crate::store::VmRecord;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmState {
    /// Planned and prepared; nothing runs yet.
    Creating,
    /// QEMU is there, the guest is not.
    Starting,
    /// QEMU said so over QMP.
    Running,
    /// Power button, quit, signals.
    Stopping,
    /// QEMU ended by itself, and is reaped.
    Exited(ExitReason),
    /// Its process is gone, or going; its files are being deleted.
    Removing,
    /// A record of an earlier daemon whose process cannot be proven to be this VM's.
    Lost(String),
}

impl VmState {
    /// Stable name for APIs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Exited(_) => "exited",
            Self::Removing => "removing",
            Self::Lost(_) => "lost",
        }
    }

    pub fn detail(&self) -> String {
        match self {
            Self::Exited(reason) => reason.to_string(),
            Self::Lost(reason) => reason.clone(),
            _ => String::new(),
        }
    }
}

/// Why a QEMU ended: its own word over QMP where it gave one, and how the process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitReason {
    /// `reason` of the last SHUTDOWN event (`guest-shutdown`, `guest-panic`, `host-signal`).
    pub shutdown: Option<String>,
    pub exit: Exit,
}

impl std::fmt::Display for ExitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.shutdown {
            Some(reason) => write!(f, "{reason} ({})", self.exit),
            None => write!(f, "QEMU ended without a word ({})", self.exit),
        }
    }
}

#[derive(Clone, Debug)]
pub struct VmStatus {
    pub id: VmId,
    pub name: String,
    pub state: VmState,
    /// Grows with every change.
    pub generation: u64,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// What is known once the VM is planned.
    pub planned: Option<PlannedStatus>,
    pub agent_address: Option<SocketAddr>,
    pub pid: Option<u32>,
}

#[derive(Clone, Debug)]
pub struct PlannedStatus {
    pub backend: String,
    pub backend_sha256: String,
    pub tee: String,
    pub confidential: bool,
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub machine: String,
    pub cpu: String,
    pub kernel_cmdline: String,
    pub qemu_version: String,
    pub findings: Vec<Finding>,
}

impl PlannedStatus {
    /// What a record of an earlier daemon tells.
    pub fn of_record(record: &VmRecord) -> Self {
        Self {
            backend: record.backend.clone(),
            backend_sha256: record.backend_sha256.clone(),
            tee: record.tee.clone(),
            confidential: record.plan.is_confidential(),
            vcpus: record.vcpus,
            memory_bytes: record.memory_bytes,
            machine: record.plan.machine.kind.clone(),
            cpu: record.plan.cpu.kind.clone(),
            kernel_cmdline: record.request.kernel_cmdline.clone(),
            qemu_version: record.qemu_version.clone(),
            findings: record.plan.findings.clone(),
        }
    }
}
