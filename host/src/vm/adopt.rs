//! VMs of an earlier daemon. Each record claims something; what is done follows from what can be
//! proven now:
//!
//! | record and evidence | what becomes of it |
//! |---|---|
//! | its launch was not over | ended if it runs, and deleted |
//! | its QEMU runs: pid, start time, boot, our UUID in its command line, and its monitor in our folder says the same UUID | adopted, as running, paused or unresponsive |
//! | its QEMU is gone | exited, with what its launcher wrote down |
//! | another boot of the host | exited, or started again |
//! | somebody runs as this VM and it cannot be proven who | lost: shown, counted, never signalled, never deleted |
//! | cannot be read | lost |
//!
//! What was desired goes on: a removal is finished, a stop too.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;

use super::config::Outbound;
use super::console;
use super::launch;
use super::manager::{Found, Host, LostVm, VmManager};
use super::status::{PlannedStatus, VmState, VmStatus};
use super::task::{Next, Up};
use crate::config::OnBoot;
use crate::confine;
use crate::qemu::process::{self, Exit, OwnedProcess, ProcessIdentity};
use crate::qemu::qmp::{Qmp, QmpError, QmpEvents};
use crate::qemu::vm_process::{self, QemuProcess};
use crate::spec::VmId;
use crate::spec::lifecycle::Desired;
use crate::spec::request::VmSpec;
use crate::store::{
    ExitRecord, FoundRecord, LeftContent, LeftRecord, Now, ProcessRecord, Progress, StoreError,
    VmFiles, VmRecord,
};

/// How long a QEMU may take to say who it is; all are asked at once. One that does not is adopted
/// as unresponsive, and asked again.
const GREETING_TIME: Duration = Duration::from_secs(2);
/// How long a launcher may take to end a QEMU whose daemon died before it had committed to it.
const UNWIND_TIME: Duration = Duration::from_secs(10);
const UNWIND_INTERVAL: Duration = Duration::from_millis(20);

/// Takes over what an earlier daemon left: answers when every VM is in the list.
pub async fn adopt(manager: &VmManager, on_boot: OnBoot) -> Result<(), StoreError> {
    let started = Instant::now();
    let mut left = manager.host().store.left_records()?;
    // In the order in which they were made.
    left.sort_by_key(|record| match &record.content {
        LeftContent::Record(found) => found.vm.created_at,
        LeftContent::Nothing | LeftContent::Broken(_) => Timestamp::MIN,
    });
    let count = left.len();
    // Once for all of them: a host has thousands of processes.
    let processes = Arc::new(Processes::now());
    let mut tasks = tokio::task::JoinSet::new();
    for (number, record) in left.into_iter().enumerate() {
        let (host, processes) = (manager.shared_host(), Arc::clone(&processes));
        tasks.spawn(async move { (number, settle(&host, record, on_boot, &processes).await) });
    }
    let mut settled = tasks.join_all().await;
    settled.sort_by_key(|(number, _)| *number);
    for (_, settled) in settled {
        let outcome = match settled {
            Settled::Gone(outcome) => outcome,
            Settled::Task(outcome, found, next) => {
                manager.take_over(*found, *next);
                outcome
            }
            Settled::Lost(vm) => {
                manager.add_lost(*vm);
                "lost"
            }
        };
        manager.host().metrics.found(outcome);
    }
    manager.host().store.report_orphans()?;
    if count > 0 {
        tracing::info!(
            records = count,
            elapsed = ?started.elapsed(),
            "VMs of an earlier daemon taken over"
        );
    }
    Ok(())
}

enum Settled {
    /// Nothing is left of it.
    Gone(&'static str),
    Task(&'static str, Box<Found>, Box<Next>),
    Lost(Box<LostVm>),
}

/// Who ran as which VM when the daemon was started.
struct Processes(HashMap<String, Vec<OwnedProcess>>);

impl Processes {
    fn now() -> Self {
        Self(process::by_uuid())
    }

    /// Those that still run, as the VM's user or the daemon's: what others put into their command
    /// line is no claim.
    fn of(&self, id: VmId, uid: Option<u32>) -> Vec<ProcessIdentity> {
        let own = rustix::process::geteuid().as_raw();
        let found = self.0.get(&id.to_string()).into_iter().flatten();
        found
            .filter(|process| process.uid == own || Some(process.uid) == uid)
            .map(|process| process.identity.clone())
            .filter(|process| process.hold().is_some())
            .collect()
    }
}

async fn settle(host: &Host, left: LeftRecord, on_boot: OnBoot, processes: &Processes) -> Settled {
    let LeftRecord { path, id, content } = left;
    let Some(id) = id else {
        tracing::warn!(path = %path.display(), "no VM's record; left alone");
        return Settled::Gone("foreign");
    };
    let mut found = match content {
        LeftContent::Record(found) => *found,
        LeftContent::Broken(reason) => {
            let reason = crate::spec::printable(&reason);
            tracing::error!(path = %path.display(), reason, "record set aside");
            return lost(
                host,
                id,
                None,
                format!("its record cannot be used: {reason}"),
            );
        }
        LeftContent::Nothing => {
            // The daemon ended before it wrote one, and so before it started anything.
            return match host.store.open_record(id) {
                Ok(mut files)
                    if files.record().is_bare()
                        && processes.of(id, host.store.user_of(id)).is_empty() =>
                {
                    unwound(host, id, None, &mut files)
                }
                Ok(_) => lost(host, id, None, "its record is not there".to_owned()),
                Err(error) => lost(host, id, None, undeletable(&error)),
            };
        }
    };
    if let Some(process) = &mut found.vm.process
        && let Some(place) = process.place.take_if(|place| !place.is_of(id))
    {
        tracing::warn!(%id, cgroup = %place.cgroup.display(), "no cgroup of this VM: left alone");
    }
    let files = match host.store.open_record(id) {
        Ok(files) => files,
        Err(error) => {
            let error = crate::backend::catalog::chain(&error);
            return lost(
                host,
                id,
                Some(&found),
                format!("its folder cannot be opened: {error}"),
            );
        }
    };
    match found.vm.progress {
        Progress::Creating => unwind(host, found, files, processes).await,
        Progress::Up | Progress::Starting | Progress::Down => {
            go_on(host, found, files, on_boot, processes).await
        }
    }
}

/// A VM whose launch was not over: its launcher ends it by itself, because the daemon that it
/// belongs to is gone.
async fn unwind(
    host: &Host,
    found: FoundRecord,
    mut files: VmFiles,
    processes: &Processes,
) -> Settled {
    let id = found.vm.id;
    let begun = Instant::now();
    loop {
        let running = processes.of(id, found.vm.uid);
        let launcher = found
            .vm
            .process
            .as_ref()
            .and_then(|process| process.launcher.as_ref());
        let launcher_is_there = launcher.is_some_and(|launcher| launcher.hold().is_some());
        if running.is_empty() && !launcher_is_there {
            break;
        }
        if begun.elapsed() > UNWIND_TIME {
            // Half-made, and what runs is proven to be it: ended.
            if let Some(process) = &found.vm.process
                && let Proof::Ours { pidfd, .. } =
                    prove(host, &files, &found.vm, process, processes).await
            {
                let adopted = QemuProcess::adopt(
                    process.qemu.clone(),
                    pidfd,
                    process.launcher.as_ref(),
                    None,
                );
                if let Ok(mut adopted) = adopted {
                    adopted.kill().await;
                    continue;
                }
            }
            let detail = "a launch of it was under way, and what runs cannot be proven to be it";
            return lost(host, id, Some(&found), detail.to_owned());
        }
        tokio::time::sleep(UNWIND_INTERVAL).await;
    }
    let place = found
        .vm
        .process
        .as_ref()
        .and_then(|process| process.place.clone());
    if let Some(place) = place.or_else(|| host.confinement.find(id)) {
        launch::remove_place(&place).await;
    }
    unwound(host, id, Some(&found), &mut files)
}

fn unwound(host: &Host, id: VmId, found: Option<&FoundRecord>, files: &mut VmFiles) -> Settled {
    if files.delete() {
        tracing::warn!(%id, "a VM that was being made when the daemon ended: deleted");
        Settled::Gone("unwound")
    } else {
        let detail = "nothing of it runs, and its files cannot be deleted";
        lost(host, id, found, detail.to_owned())
    }
}

fn undeletable(error: &StoreError) -> String {
    let error = crate::backend::catalog::chain(error);
    format!("nothing of it runs, and its files cannot be deleted: {error}")
}

/// What is known of a process that a record claims.
enum Proof {
    /// It is the VM's QEMU. Without a monitor it does not answer.
    Ours {
        pidfd: OwnedFd,
        monitor: Option<(Qmp, QmpEvents, VmState)>,
    },
    /// No such process, and none that runs as this VM.
    Gone,
    Unproven(String),
}

/// Proves that the process of a record is this VM's QEMU. A pid alone proves nothing, and neither
/// does a command line, which anybody can have. What only our QEMU has is the monitor's socket in a
/// folder that is the daemon's alone; or, for one that says nothing or lies, its place in the VM's
/// own cgroup, which no process leaves or enters by itself.
async fn prove(
    host: &Host,
    files: &VmFiles,
    vm: &VmRecord,
    record: &ProcessRecord,
    processes: &Processes,
) -> Proof {
    let id = vm.id;
    let with_uuid = processes.of(id, vm.uid);
    let Some(pidfd) = record.qemu.hold() else {
        return match with_uuid.first() {
            None => Proof::Gone,
            Some(ProcessIdentity { pid, .. }) => Proof::Unproven(format!(
                "its process is gone, and process {pid} runs under its id"
            )),
        };
    };
    let pid = record.qemu.pid;
    if record.qemu.is_ending() {
        // What it was is gone already; the kernel takes long to give much memory back.
        return match tokio::time::timeout(UNWIND_TIME, ended_process(&record.qemu)).await {
            Ok(()) => Proof::Gone,
            Err(_) => Proof::Unproven(format!("process {pid} is ending and does not end")),
        };
    }
    let doubt = if with_uuid.contains(&record.qemu) {
        match ask(files, id).await {
            Ok(monitor) => {
                return Proof::Ours {
                    pidfd,
                    monitor: Some(monitor),
                };
            }
            // The socket took the connection, and nobody but that QEMU listens on it.
            Err(Silence::Timeout) => {
                return Proof::Ours {
                    pidfd,
                    monitor: None,
                };
            }
            Err(Silence::Other) => format!("process {pid} says that it is another VM"),
            // It may have ended at this moment.
            Err(Silence::Error(error)) => match record.qemu.hold() {
                None => return Proof::Gone,
                Some(_) => format!("the monitor of process {pid} fails: {error}"),
            },
        }
    } else {
        format!("process {pid} was not started as this VM")
    };
    let place = record.place.as_ref();
    let is_in_place = place.is_some_and(|place| host.confinement.holds(id, place, pid));
    if is_in_place {
        tracing::warn!(%id, doubt, "taken over by its cgroup");
        let monitor = None;
        return Proof::Ours { pidfd, monitor };
    }
    Proof::Unproven(doubt)
}

async fn ended_process(process: &ProcessIdentity) {
    while process.hold().is_some() {
        tokio::time::sleep(UNWIND_INTERVAL).await;
    }
}

/// Why a monitor is of no use.
enum Silence {
    Timeout,
    /// It is another VM's.
    Other,
    Error(QmpError),
}

impl From<QmpError> for Silence {
    fn from(error: QmpError) -> Self {
        match error {
            QmpError::Timeout { .. } => Self::Timeout,
            error => Self::Error(error),
        }
    }
}

/// Asks a monitor who it is, and how.
async fn ask(files: &VmFiles, id: VmId) -> Result<(Qmp, QmpEvents, VmState), Silence> {
    let (qmp, events) = launch::connect(files.record(), GREETING_TIME).await?;
    let answer = qmp.execute("query-uuid", json!({})).await?;
    if answer["UUID"].as_str() != Some(&id.to_string()) {
        return Err(Silence::Other);
    }
    let status = qmp.execute("query-status", json!({})).await?;
    Ok((qmp, events, super::task::state_of(&status)))
}

async fn go_on(
    host: &Host,
    found: FoundRecord,
    files: VmFiles,
    on_boot: OnBoot,
    processes: &Processes,
) -> Settled {
    let FoundRecord { mut vm, launch } = found;
    let id = vm.id;
    let now = Now::read();
    vm.expires = vm.expires.map(|expires| expires.anchored(&now));
    let planned = launch.as_ref().map(PlannedStatus::of_record);
    let whole = |vm: &VmRecord| FoundRecord {
        vm: vm.clone(),
        launch: launch.clone(),
    };
    let claimed = vm.process.clone().filter(|_| vm.progress != Progress::Down);
    let proof = match &claimed {
        Some(process) => {
            let mut proof = prove(host, &files, &vm, process, processes).await;
            // A start that was under way is ended by its launcher, as a first one is.
            let begun = Instant::now();
            while vm.progress == Progress::Starting
                && !matches!(proof, Proof::Gone)
                && begun.elapsed() < UNWIND_TIME
            {
                tokio::time::sleep(UNWIND_INTERVAL).await;
                proof = prove(host, &files, &vm, process, processes).await;
            }
            proof
        }
        None => {
            // A start whose daemon ended before it could note the process: its launcher ends that.
            let begun = Instant::now();
            loop {
                if processes.of(id, vm.uid).is_empty() {
                    break Proof::Gone;
                }
                if begun.elapsed() > UNWIND_TIME {
                    let detail = "a process runs under its id, and its record has none";
                    break Proof::Unproven(detail.to_owned());
                }
                tokio::time::sleep(UNWIND_INTERVAL).await;
            }
        }
    };
    let (pidfd, monitor) = match proof {
        Proof::Unproven(detail) => return lost(host, id, Some(&whole(&vm)), detail),
        Proof::Gone => {
            let left = Left {
                vm,
                planned,
                files,
                claimed,
            };
            return ended(host, left, on_boot, processes).await;
        }
        Proof::Ours { pidfd, monitor } => (pidfd, monitor),
    };
    let Some(process) = claimed else {
        return lost(host, id, Some(&whole(&vm)), "it has no process".to_owned());
    };
    let logs = console::open(files.record(), vm.launches).unwrap_or_else(|error| {
        tracing::warn!(%id, error = %crate::backend::catalog::chain(&error), "no logs");
        None
    });
    let adopted = QemuProcess::adopt(process.qemu.clone(), pidfd, process.launcher.as_ref(), logs);
    let adopted = match adopted {
        Ok(adopted) => adopted,
        Err(error) => return lost(host, id, Some(&whole(&vm)), error.to_string()),
    };
    if host.live().network.outbound == Outbound::Filtered
        && let Some(place) = &process.place
        && let Err(error) = place.filter_outbound(&confine::Outbound::default())
    {
        let error = crate::backend::catalog::chain(&error);
        tracing::error!(%id, error, "its guest may reach this host: not filtered");
    }
    let is_silent = monitor.is_none();
    let (monitor, state) = match monitor {
        Some((qmp, events, state)) => (Some((qmp, events)), state),
        None => {
            let reason = "QEMU does not answer since the daemon was started";
            (None, VmState::Unresponsive(reason.to_owned()))
        }
    };
    let mut status = VmStatus::of_record(&vm, state, planned);
    status.pid = Some(process.qemu.pid);
    status.started_at = Some(process.started_at);
    status.agent_address = vm.agent_address;
    tracing::info!(%id, pid = process.qemu.pid, "VM of an earlier daemon: adopted");
    let reservation = host.capacity.count(status.demand());
    let record = files.record().try_clone().ok();
    let mut up = Up::new(adopted, monitor, process.place);
    up.forbid_resets();
    if is_silent {
        up.reconnect(record);
    } else {
        up.look();
    }
    vm.progress = Progress::Up;
    let outcome = if is_silent { "unresponsive" } else { "adopted" };
    let found = take(host, vm, status, files, Some(reservation));
    Settled::Task(outcome, Box::new(found), Box::new(Next::Up(Box::new(up))))
}

/// A VM without its QEMU.
struct Left {
    vm: VmRecord,
    planned: Option<PlannedStatus>,
    files: VmFiles,
    /// What its record says of the process that it had.
    claimed: Option<ProcessRecord>,
}

/// A VM whose QEMU is gone: by itself, or with the host.
async fn ended(host: &Host, left: Left, on_boot: OnBoot, processes: &Processes) -> Settled {
    let Left {
        mut vm,
        planned,
        files,
        claimed,
    } = left;
    let id = vm.id;
    let last_boot = match &claimed {
        Some(process) => &process.qemu.boot_id,
        None => &vm.boot_id,
    };
    let is_this_boot = *last_boot == process::boot_id();
    let last_exit = vm.last_exit.as_ref();
    let ended_with_daemon = last_exit.is_some_and(ExitRecord::was_with_daemon);
    // When the host goes down, its QEMUs may be ended before the daemon is.
    let ended_with_host =
        last_exit.is_some_and(|exit| exit.shutdown.as_deref() == Some("host-signal"));
    let ran = vm.progress != Progress::Down || ended_with_host || ended_with_daemon;
    // Its task removes it; it is not to run once more before that.
    let is_over = vm
        .expires
        .as_ref()
        .is_some_and(|expires| expires.left(&Now::read()).is_zero());
    if let Some(process) = &claimed {
        let logs = console::open(files.record(), vm.launches).ok().flatten();
        let is_abandoned = logs
            .as_ref()
            .is_some_and(|logs| vm_process::is_abandoned(&logs.exit));
        if is_this_boot && is_abandoned && vm.launches <= 1 {
            // Nobody was told that it runs: the daemon ended between the two.
            let found = FoundRecord { vm, launch: None };
            return Box::pin(unwind(host, found, files, processes)).await;
        }
        let exit = match &logs {
            Some(logs) if is_this_boot => vm_process::recorded_exit(&logs.exit),
            _ => Exit::Unknown,
        };
        let note = if is_this_boot {
            "while no daemon ran"
        } else {
            "with the host, which was restarted"
        };
        vm.last_exit = Some(ExitRecord {
            shutdown: None,
            exit,
            at: Timestamp::now(),
            note: Some(note.to_owned()),
        });
        if is_this_boot && let Some(place) = &process.place {
            launch::remove_place(place).await;
        }
    }
    vm.process = None;
    vm.progress = Progress::Down;
    vm.agent_address = None;
    if let Err(error) = files.record().write(&vm) {
        tracing::error!(%id, error = %crate::backend::catalog::chain(&error), "record not written");
    }
    let state = match (vm.desired, &vm.failure, &vm.last_exit) {
        (Desired::Running, Some(reason), _) => VmState::Failed(reason.clone()),
        (Desired::Running, None, Some(exit)) => VmState::Exited(exit.clone()),
        (Desired::Running, None, None) => {
            VmState::Failed("it was being started when the daemon ended".into())
        }
        (Desired::Stopped | Desired::Absent, ..) => VmState::Stopped,
    };
    let next = match (vm.desired, on_boot) {
        (Desired::Absent, _) => Next::Remove,
        (Desired::Stopped, _) => Next::Down(None),
        (Desired::Running, _) if is_over => Next::Down(None),
        (Desired::Running, _) if is_this_boot && vm.returns => Next::Launch,
        (Desired::Running, OnBoot::Start) if ended_with_daemon => Next::Launch,
        (Desired::Running, _) if is_this_boot => Next::FoundDown,
        (Desired::Running, OnBoot::Start) if ran => Next::Launch,
        (Desired::Running, OnBoot::Start) => Next::FoundDown,
        (Desired::Running, OnBoot::Leave) => Next::Down(None),
    };
    let is_left = claimed.is_some();
    tracing::info!(%id, state = state.name(), detail = state.detail(), "VM of an earlier daemon");
    let status = VmStatus::of_record(&vm, state, planned);
    let found = take(host, vm, status, files, None);
    Settled::Task(
        if is_left { "ended" } else { "down" },
        Box::new(found),
        Box::new(next),
    )
}

/// What a VM keeps while it is there.
fn take(
    host: &Host,
    vm: VmRecord,
    status: VmStatus,
    files: VmFiles,
    reservation: Option<crate::lease::Reservation>,
) -> Found {
    let uid = uid_of(host, vm.id, vm.uid);
    let port = status.agent_address.map(|address| address.port());
    let port = port
        .or(vm.port)
        .and_then(|port| host.live().ports.as_ref()?.hold(port));
    Found {
        spec: VmSpec::from(&vm.spec),
        status,
        record: vm,
        reservation,
        uid,
        port,
        files: Some(files),
    }
}

pub(super) fn uid_of(
    host: &Host,
    id: VmId,
    recorded: Option<u32>,
) -> Option<crate::lease::UidLease> {
    let uids = host.uids.as_ref()?;
    uids.reserve(recorded.or_else(|| host.store.user_of(id))?)
}

/// Shown, counted, and never touched.
fn lost(host: &Host, id: VmId, found: Option<&FoundRecord>, detail: String) -> Settled {
    tracing::warn!(%id, detail, "VM of an earlier daemon: lost");
    let planned = found
        .and_then(|found| found.launch.as_ref())
        .map(PlannedStatus::of_record);
    let state = VmState::Lost(detail);
    let mut status = match found {
        Some(found) => VmStatus::of_record(&found.vm, state, planned),
        None => VmStatus::unknown(id, state),
    };
    status.generation = host.events.next_generation();
    let recorded = found.and_then(|found| found.vm.uid);
    let key = found.and_then(|found| found.vm.idempotency.clone());
    let uid = uid_of(host, id, recorded);
    let reservation = host.capacity.count(status.demand());
    Settled::Lost(Box::new(LostVm::new(status, reservation, uid, key)))
}
