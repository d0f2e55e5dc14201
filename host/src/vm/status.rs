//! What everyone but the owner sees of a VM.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use casemate_attestation::Measurement;
use jiff::Timestamp;

use crate::lease::Demand;
use crate::qemu::process::Exit;
use crate::spec::VmId;
use crate::spec::files::FileWishes;
use crate::spec::identity::Identity;
use crate::spec::lifecycle::Phase;
use crate::spec::plan::{Ability, Finding};
use crate::spec::request::RestartPolicy;
use crate::store::{ExitRecord, LaunchRecord, VmRecord};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmState {
    Creating,
    Starting,
    Running,
    /// With QEMU's word for it: `paused`, `io-error`, `internal-error`.
    Paused(String),
    Stopping,
    Stopped,
    Exited(ExitRecord),
    /// It could not be started again.
    Failed(String),
    /// QEMU is there and does not answer: since what.
    Unresponsive(String),
    Removing,
    /// A record of an earlier daemon whose process cannot be proven to be this VM's.
    Lost(String),
}

impl VmState {
    pub fn phase(&self) -> Phase {
        match self {
            Self::Creating => Phase::Creating,
            Self::Starting => Phase::Starting,
            Self::Running => Phase::Running,
            Self::Paused(_) => Phase::Paused,
            Self::Stopping => Phase::Stopping,
            Self::Stopped => Phase::Stopped,
            Self::Exited(_) => Phase::Exited,
            Self::Failed(_) => Phase::Failed,
            Self::Unresponsive(_) => Phase::Unresponsive,
            Self::Removing => Phase::Removing,
            Self::Lost(_) => Phase::Lost,
        }
    }

    /// Stable name for APIs and metrics.
    pub fn name(&self) -> &'static str {
        self.phase().name()
    }

    pub fn detail(&self) -> String {
        match self {
            Self::Exited(exit) => describe(exit),
            Self::Paused(reason)
            | Self::Failed(reason)
            | Self::Unresponsive(reason)
            | Self::Lost(reason) => reason.clone(),
            Self::Creating
            | Self::Starting
            | Self::Running
            | Self::Stopping
            | Self::Stopped
            | Self::Removing => String::new(),
        }
    }
}

/// How a QEMU ended, in words: its own over QMP where it gave one, and how the process ended.
pub fn describe(record: &ExitRecord) -> String {
    let words = match (&record.shutdown, record.exit) {
        (Some(reason), exit) => format!("{reason} ({exit})"),
        // Nobody was there to hear why.
        (None, Exit::Code(0)) => "QEMU ended (exit code 0)".to_owned(),
        (None, Exit::Unknown) => "QEMU ended, and nobody saw how".to_owned(),
        (None, exit) => format!("QEMU ended without a word ({exit})"),
    };
    match &record.note {
        Some(note) => format!("{words}; {note}"),
        None => words,
    }
}

/// QEMU's `ShutdownCause` (qapi/run-state.json), so that no word of a QEMU that was taken over
/// becomes a metric's label.
const SHUTDOWN_REASONS: [&str; 10] = [
    "host-error",
    "host-qmp-quit",
    "host-qmp-system-reset",
    "host-signal",
    "host-ui",
    "guest-shutdown",
    "guest-reset",
    "guest-panic",
    "subsystem-reset",
    "snapshot-load",
];

/// One word of a fixed set for how a QEMU ended.
pub fn exit_label(record: &ExitRecord) -> &'static str {
    match (&record.shutdown, record.exit) {
        (Some(reason), _) => SHUTDOWN_REASONS
            .into_iter()
            .find(|known| known == reason)
            .unwrap_or("other"),
        (None, Exit::Code(_)) => "exit-code",
        (None, Exit::Signal(_)) => "signal",
        (None, Exit::Unknown) => "unknown",
    }
}

#[derive(Clone, Debug)]
pub struct VmStatus {
    pub id: VmId,
    pub name: String,
    pub state: VmState,
    /// Grows with every change, over all VMs.
    pub generation: u64,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub restart_policy: RestartPolicy,
    /// Files that its caller named.
    pub files: FileWishes,
    pub restarts: u32,
    pub labels: BTreeMap<String, String>,
    /// The client who asked for it.
    pub created_by: String,
    /// What is known once the VM is planned.
    pub planned: Option<PlannedStatus>,
    pub agent_address: Option<SocketAddr>,
    pub pid: Option<u32>,
    pub started_at: Option<Timestamp>,
    pub last_exit: Option<ExitRecord>,
}

impl VmStatus {
    /// A VM as its record tells of it, in the state that it was found in.
    pub fn of_record(record: &VmRecord, state: VmState, planned: Option<PlannedStatus>) -> Self {
        Self {
            id: record.id,
            name: record.spec.name.clone(),
            state,
            generation: 0,
            created_at: record.created_at,
            expires_at: record.expires.as_ref().map(|expires| expires.wall),
            restart_policy: record.spec.restart_policy,
            files: record.spec.files.clone(),
            restarts: record.restarts,
            labels: record.spec.labels.clone(),
            created_by: record.spec.created_by.clone(),
            planned,
            agent_address: None,
            pid: None,
            started_at: None,
            last_exit: record.last_exit.clone(),
        }
    }

    /// Its place in a list: in the order of creation.
    pub fn place(&self) -> (Timestamp, VmId) {
        (self.created_at, self.id)
    }

    /// What it takes of the host while it runs.
    pub fn demand(&self) -> Demand {
        let planned = self.planned.as_ref();
        Demand {
            vms: 1,
            vcpus: planned.map_or(0, |planned| u64::from(planned.vcpus)),
            memory_bytes: planned.map_or(0, |planned| {
                planned
                    .memory_bytes
                    .saturating_add(planned.memory_overhead_bytes)
            }),
            leases: planned
                .map(|planned| planned.leases.clone())
                .unwrap_or_default(),
        }
    }

    /// A VM of which nothing is known but that it is there.
    pub fn unknown(id: VmId, state: VmState) -> Self {
        Self {
            id,
            name: String::new(),
            state,
            generation: 0,
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: None,
            restart_policy: RestartPolicy::Never,
            files: FileWishes::default(),
            restarts: 0,
            labels: BTreeMap::new(),
            created_by: String::new(),
            planned: None,
            agent_address: None,
            pid: None,
            started_at: None,
            last_exit: None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct PlannedStatus {
    pub backend: String,
    pub backend_sha256: String,
    pub tee: String,
    pub confidential: bool,
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub memory_overhead_bytes: u64,
    /// What it takes of the host by name.
    pub leases: BTreeMap<String, u64>,
    pub machine: String,
    pub cpu: String,
    pub kernel_cmdline: String,
    pub identity: Option<Identity>,
    pub qemu_version: String,
    pub abilities: Vec<Ability>,
    pub findings: Vec<Finding>,
    /// None in records of before anything was measured.
    pub measurement: Option<Arc<Measurement>>,
}

impl PlannedStatus {
    /// What the record of a launch tells.
    pub fn of_record(record: &LaunchRecord) -> Self {
        Self {
            backend: record.backend.clone(),
            backend_sha256: record.backend_sha256.clone(),
            tee: record.tee.clone(),
            confidential: record.plan.is_confidential(),
            vcpus: record.vcpus,
            memory_bytes: record.memory_bytes,
            memory_overhead_bytes: record.plan.memory_overhead_bytes,
            leases: record.plan.lease_amounts(),
            machine: record.plan.machine.kind.clone(),
            cpu: record.plan.cpu.kind.clone(),
            kernel_cmdline: record.request.kernel_cmdline.clone(),
            identity: record.request.identity.clone(),
            qemu_version: record.qemu_version.clone(),
            abilities: record.plan.abilities.clone(),
            findings: record.plan.findings.clone(),
            measurement: record.measurement.clone().map(Arc::new),
        }
    }
}
