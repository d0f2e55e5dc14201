//! From a plan to a running QEMU, as a flat recipe. Every step's holdings are guards, so a failure
//! at any point unwinds exactly what was taken.
//!
//! Until [`QemuProcess::commit`], which follows the record of a running VM, QEMU ends with the
//! daemon: a daemon that is killed half-way leaves nothing that runs.

mod access;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_launcher::needs;
use casemate_launcher::reply::Step;
use casemate_launcher::spec::Landlock;
use serde_json::json;
use tokio::sync::watch;

use self::access::{KvmAccess, host_path_groups};
use super::error::{CreateError, Stage};
use super::forward::{self, Forwarded};
use super::manager::Host;
use super::planning::Planned;
use super::shares;
use super::{console, disk, files};
use crate::confine::{self, Place, PlaceLimits};
use crate::failpoint;
use crate::lease::PortLease;
use crate::qemu::command::{
    self, DiskBacking, DiskResources, Form, ImageSource, RenderError, Resources,
};
use crate::qemu::process::{Credentials, Exit, ProcessIdentity, SpawnError};
use crate::qemu::qmp::{MAX_LINE_VM, Qmp, QmpError, QmpEvents};
use crate::qemu::vm_process::{Launch, Launcher, QemuProcess};
use crate::spec::VmId;
use crate::spec::plan::Firmware;
use crate::spec::request::{Accelerator, Goal, VmSpec};
use crate::store::{FolderAccess, RecordFolder, VmFiles, VmFolder};
use crate::vm::config::Outbound;

/// Numbers of the host's own descriptors in QEMU.
const QMP_FD: i32 = 3;
const KVM_FD: i32 = 4;
const DISK_FD: i32 = 5;
/// Of the first data disk: above the files, which begin at 10, and below the console.
const FIRST_DATA_DISK_FD: i32 = 60;
/// Made by the launcher, above what it needs for itself before that.
const CONSOLE_FD: i32 = 100;
/// Memory of a QEMU beside its guest's, at most: kata counts 320 MiB for a plain guest. What a
/// backend says it takes comes on top.
const QEMU_MEMORY: u64 = 320 << 20;
/// Processes and threads of a VM: vCPUs, I/O threads, the launcher.
const TASKS: u64 = 4_096;

/// A QEMU that runs the guest.
#[derive(Debug)]
pub struct Launched {
    pub process: QemuProcess,
    pub qmp: Qmp,
    pub events: QmpEvents,
    pub place: Option<Place>,
    pub forwarded: Option<Forwarded>,
}

/// Bytes that a file of QEMU may have beyond what its guest sees of it: tables of a disk of some
/// TiB, and the firmware's variables.
const FILE_ROOM: u64 = 1 << 30;

/// Everything that exists before QEMU does.
#[derive(Debug)]
pub struct Prepared {
    credentials: Credentials,
    groups: Vec<u32>,
    pub arguments: Vec<String>,
    descriptors: Vec<(OwnedFd, i32)>,
    file_size: u64,
    landlock: Option<Landlock>,
}

/// A copy of a file of the plan in the VM's folder, which the guest may write to: made at the first
/// start, kept for later ones.
fn copy_into(
    planned: &Planned,
    folder: &VmFolder,
    id: u32,
    name: &str,
) -> Result<String, CreateError> {
    let path = folder.path().join(name);
    if path.exists() {
        return shares::text(&path);
    }
    if let Some(generated) = planned.checked.plan().generated_file(id) {
        folder.create_file(&path, 0o600, &generated.content)?;
        return shares::text(&path);
    }
    let file = planned.request.file(id).ok_or(RenderError::File(id))?;
    let mut copy = folder.create_file(&path, 0o600, b"")?;
    file.open()
        .and_then(|source| copy_file(source, &mut copy))
        .map_err(|source| CreateError::File {
            role: file.role.clone(),
            path: file.path.clone(),
            source,
        })?;
    shares::text(&path)
}

/// Makes folders, shares, copies and descriptors, and renders the command. What an earlier start of
/// the VM made and its guest may have written to stays as it is.
pub async fn prepare(
    id: VmId,
    spec: &VmSpec,
    has_secrets: bool,
    planned: &Planned,
    vm_files: &mut VmFiles,
    uid: Option<u32>,
) -> Result<Prepared, CreateError> {
    let kvm = KvmAccess::open(planned)?;
    let (credentials, access) = match uid {
        None => (Credentials::Daemon, FolderAccess::Daemon),
        Some(uid) => (
            Credentials::User { uid, gid: uid },
            FolderAccess::Group(uid),
        ),
    };
    vm_files.make_folders(access)?;
    let folder = vm_files.folder();
    let mut resources = Resources {
        shares: shares::provide(vm_files.shares(), spec, has_secrets, id)?,
        user_network: planned.live.network.outbound.user_network(),
        ..Resources::default()
    };
    let plan = planned.checked.plan();
    for file in &plan.generated {
        let path = folder.path().join(format!("generated-{}", file.id));
        let _ = std::fs::remove_file(&path);
        folder.create_file(&path, 0o600, &file.content)?;
        resources.files.insert(file.id, shares::text(&path)?);
    }
    let mut descriptors = Vec::new();
    // The guest's memory may be a file.
    let mut file_size = planned.request.memory_bytes;
    if planned.request.has_disk() {
        let (overlay, size) = disk::overlay(planned, folder, credentials).await?;
        file_size = file_size.max(size);
        let image = planned
            .request
            .file_with_role("disk")
            .ok_or(CreateError::DiskMissing)?;
        let opened = image.open().and_then(|file| file.try_clone());
        let opened = opened.map_err(|source| CreateError::File {
            role: image.role.clone(),
            path: image.path.clone(),
            source,
        })?;
        descriptors.push((opened.into(), DISK_FD));
        resources.disk = Some(DiskResources {
            overlay: shares::text(&overlay)?,
            controller_id: planned.live.disk.scsi_id.clone(),
            backing: Some(DiskBacking {
                fd: DISK_FD,
                format: planned.disk_format,
            }),
        });
    }
    disk::judge_data_disks(planned, credentials).await?;
    for (fd, one) in (FIRST_DATA_DISK_FD..).zip(&planned.request.data_disks) {
        let opened = one.handle.try_clone().map_err(|source| CreateError::File {
            role: one.device_id(),
            path: one.path.clone(),
            source,
        })?;
        descriptors.push((opened.into(), fd));
        let source = ImageSource::Descriptor(fd);
        resources.data_disks.insert(one.device_id(), source);
    }
    // Only what QEMU is to open: a file that a backend merely reads is not QEMU's.
    let named = plan.named_files();
    let boot = [(plan.boot.kernel, "kernel"), (plan.boot.initrd, "initrd")];
    let wanted = |id: u32| {
        named.contains(&id)
            || planned
                .request
                .file(id)
                .is_some_and(|file| boot.iter().any(|(used, role)| *used && file.role == *role))
    };
    // Copies of whole files may be among it.
    let pass = || files::pass(&planned.request.host.files, wanted, credentials);
    let passed = tokio::task::block_in_place(pass)?;
    resources.files.extend(passed.paths);
    if let Firmware::Pflash(pflash) = &plan.firmware {
        if let Some(template) = pflash.vars_template {
            let copy = || copy_into(planned, folder, template, "vars.fd");
            let path = tokio::task::block_in_place(copy)?;
            resources.firmware_vars = Some(path);
        }
        // What the guest may write to is its own copy, never the operator's file.
        if pflash.code_is_writable() {
            let copy = || copy_into(planned, folder, pflash.code, "code.fd");
            let path = tokio::task::block_in_place(copy)?;
            resources.files.insert(pflash.code, path);
        }
    }
    let reopened = passed.descriptors.iter().map(|(_, number)| *number);
    let landlock = landlock(planned, vm_files, reopened.collect());
    descriptors.extend(passed.descriptors);
    descriptors.push((vm_files.record().listen()?.into(), QMP_FD));

    let (kvm_fd, groups) = match kvm {
        KvmAccess::Descriptor(kvm) => {
            descriptors.push((kvm, KVM_FD));
            (Some(KVM_FD), Vec::new())
        }
        KvmAccess::Group(group) => (None, vec![group]),
        KvmAccess::None => (None, Vec::new()),
    };
    let mut granted = host_path_groups(planned, credentials)?;
    granted.extend(groups);
    let form = Form::Managed {
        qmp_fd: QMP_FD,
        kvm_fd,
        console_fd: Some(CONSOLE_FD),
    };
    let arguments = command::render(
        &id.to_string(),
        &planned.request,
        &planned.checked,
        &resources,
        &form,
    )?;
    Ok(Prepared {
        credentials,
        groups: granted.into_iter().collect(),
        arguments,
        descriptors,
        file_size: file_size.saturating_add(FILE_ROOM),
        landlock,
    })
}

/// What of the file system QEMU keeps: the system's own programs and data, its VM's files, and what
/// config granted.
fn landlock(planned: &Planned, files: &VmFiles, reopened: Vec<i32>) -> Option<Landlock> {
    let needs = needs::qemu_needs(&planned.checked.knowledge().info.path);
    let mut landlock = Landlock {
        read: needs.read,
        execute: needs.execute,
        write: needs.write,
        ..Landlock::default()
    };
    landlock.execute.extend(planned.live.qemu_config.paths());
    landlock.write.extend(planned.live.qemu_config.paths());
    landlock.read.push(files.shares().path().to_owned());
    landlock.write.push(files.folder().path().to_owned());
    landlock
        .write
        .extend(planned.checked.plan().host_paths().map(Into::into));
    if planned.request.host.accelerator == Accelerator::Kvm {
        landlock.write.push("/dev/kvm".into());
    }
    landlock.read_descriptors = reopened;
    Some(landlock)
}

/// Where a launch tells how far it is, and hears that it is to end.
pub struct Course<'a> {
    pub goal: Goal,
    pub files: &'a VmFiles,
    pub cancelled: watch::Receiver<bool>,
    /// Puts QEMU's process into the record, before anything else happens to it.
    pub record: &'a mut (dyn FnMut(Processes<'_>) -> Result<(), CreateError> + Send),
}

impl std::fmt::Debug for Course<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Course").finish_non_exhaustive()
    }
}

/// The processes of a launch, and where they are.
#[derive(Clone, Copy, Debug)]
pub struct Processes<'a> {
    pub qemu: &'a ProcessIdentity,
    pub launcher: Option<&'a ProcessIdentity>,
    pub place: Option<&'a Place>,
}

/// Starts QEMU, forwards the agent's port, and lets the guest run. Whatever fails, the process is
/// gone when this returns.
pub async fn start(
    host: &Host,
    id: VmId,
    launch_number: u32,
    planned: &Planned,
    prepared: Prepared,
    port: Option<PortLease>,
    course: Course<'_>,
) -> Result<Launched, CreateError> {
    let info = &planned.checked.knowledge().info;
    let Course {
        goal,
        files,
        mut cancelled,
        record,
    } = course;
    let logs = console::create(files.record(), launch_number)?;
    let launch = Launch {
        program: &info.path,
        arguments: &prepared.arguments,
        credentials: &prepared.credentials,
        groups: prepared.groups,
        descriptors: prepared.descriptors,
        console_fd: CONSOLE_FD,
        console_cap: planned.live.qemu_config.console_size,
        file_size: prepared.file_size,
        landlock: prepared.landlock,
    };
    let launcher = Launcher::spawn(launch, logs)?;
    // From here on a cgroup has to go with the process.
    let (place, confined) = confine(host, id, planned, launcher.identity().pid).await;
    let placed = Placed(place);
    if let Err(error) = confined {
        // The kernel keeps a cgroup that a process is in.
        launcher.give_up().await;
        return Err(error);
    }
    let started = launcher.start().await;
    let mut process = started.map_err(|error| not_started(files.record(), error))?;
    failpoint::reach("spawned");
    let started = Instant::now();
    let noted = record(Processes {
        qemu: process.identity(),
        launcher: process.launcher_identity(),
        place: placed.0.as_ref(),
    });
    if let Err(error) = noted {
        process.kill().await;
        return Err(error);
    }
    let brought_up = tokio::select! {
        brought_up = bring_up(host, planned, started, &mut process, files.record(), port, goal) => brought_up,
        _ = cancelled.wait_for(|cancelled| *cancelled) => {
            Err(Failure::Other(CreateError::Removed))
        }
    };
    match brought_up {
        Ok((qmp, events, forwarded)) => Ok(Launched {
            process,
            qmp,
            events,
            place: placed.keep(),
            forwarded,
        }),
        Err(Failure::Qmp { stage, source }) => {
            // A QEMU that closed its monitor is about to end: its exit tells more.
            let ended = matches!(source, QmpError::Closed { .. });
            let exit = if ended {
                tokio::time::timeout(Duration::from_secs(2), process.wait())
                    .await
                    .ok()
            } else {
                None
            };
            let killed = process.kill().await;
            let stderr = process.last_words();
            tracing::warn!(%id, %stage, exit = %exit.unwrap_or(killed), "launch failed");
            Err(match exit {
                Some(exit) => CreateError::QemuEnded {
                    stage,
                    exit,
                    stderr,
                },
                None => CreateError::Qmp {
                    stage,
                    stderr,
                    source,
                },
            })
        }
        Err(Failure::Other(mut error)) => {
            let exit: Exit = process.kill().await;
            tracing::debug!(%id, %exit, "launch given up");
            if let CreateError::NotRunning { stderr, .. } = &mut error {
                *stderr = process.last_words();
            }
            Err(error)
        }
    }
}

/// A launcher that cannot make its logs knows their descriptors only; the daemon knows the folder.
fn not_started(record: &RecordFolder, error: SpawnError) -> CreateError {
    match error {
        SpawnError::Launcher {
            step: Step::Log,
            errno: Some(errno),
            ..
        } => record
            .cannot_log(std::io::Error::from_raw_os_error(errno))
            .into(),
        error => error.into(),
    }
}

/// A cgroup that goes unless it is kept.
struct Placed(Option<Place>);

impl Placed {
    fn keep(mut self) -> Option<Place> {
        self.0.take()
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if let Some(place) = self.0.take() {
            tokio::task::spawn(async move { remove_place(&place).await });
        }
    }
}

/// Deletes a VM's cgroup, when nothing is in it any more.
pub async fn remove_place(place: &Place) {
    if let Err(error) = place.remove().await {
        tracing::warn!(error = %crate::backend::catalog::chain(&error), "a cgroup is left");
    }
}

/// Puts the launcher, and so QEMU, into a cgroup of its own, with the filter that keeps the guest
/// from this host. A place that was made is the caller's to remove, also where the filter failed.
async fn confine(
    host: &Host,
    id: VmId,
    planned: &Planned,
    pid: u32,
) -> (Option<Place>, Result<(), CreateError>) {
    let plan = planned.checked.plan();
    let limits = PlaceLimits {
        memory_bytes: planned
            .request
            .memory_bytes
            .checked_add(plan.memory_overhead_bytes)
            .and_then(|bytes| bytes.checked_add(QEMU_MEMORY)),
        tasks: Some(TASKS),
    };
    let is_filtered = planned.live.network.outbound == Outbound::Filtered;
    let place = match host.confinement.place(id, pid, limits).await {
        Ok(place) => place,
        Err(source) if is_filtered => return (None, Err(CreateError::Confine(source))),
        Err(error) => {
            tracing::debug!(error = %crate::backend::catalog::chain(&error), "no cgroup");
            return (None, Ok(()));
        }
    };
    // Nothing of the host, its resolver included.
    let filter = confine::Outbound::default();
    let filtered = if is_filtered {
        place.filter_outbound(&filter).map_err(CreateError::Confine)
    } else {
        Ok(())
    };
    (Some(place), filtered)
}

pub(super) enum Failure {
    Qmp { stage: Stage, source: QmpError },
    Other(CreateError),
}

impl<E: Into<CreateError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

pub(super) fn at(stage: Stage) -> impl Fn(QmpError) -> Failure {
    move |source| Failure::Qmp { stage, source }
}

async fn bring_up(
    host: &Host,
    planned: &Planned,
    started: Instant,
    process: &mut QemuProcess,
    record: &RecordFolder,
    port: Option<PortLease>,
    goal: Goal,
) -> Result<(Qmp, QmpEvents, Option<Forwarded>), Failure> {
    let start_time = planned.live.qemu_config.start_time
        + Duration::from_secs(planned.request.memory_bytes >> 30);
    // The socket listens before QEMU does, so a QEMU that dies early would not close it: its exit
    // is watched beside the greeting.
    let connected = tokio::select! {
        biased;
        _ = process.wait() => Err(QmpError::Closed { during: "the greeting".to_owned() }),
        connected = connect(record, start_time) => connected,
    };
    let (qmp, events) = connected.map_err(at(Stage::Starting))?;
    failpoint::reach("greeting");
    host.metrics.qemu_started(started.elapsed());

    let forwarded = forward::agent(&planned.live, &qmp, port).await?;
    failpoint::reach("port");

    if let Some(guard) = &planned.checked.plan().guard {
        let arguments = json!({"path": "/machine", "property": "confidential-guest-support"});
        let found = qmp
            .execute("qom-get", arguments)
            .await
            .map_err(at(Stage::Guarding))?;
        let wanted = format!("/objects/{guard}");
        if found.as_str() != Some(&wanted) {
            return Err(Failure::Other(CreateError::Guard {
                wanted,
                found: crate::spec::printable(found.as_str().unwrap_or("nothing")),
            }));
        }
    }

    if goal == Goal::Prelaunch {
        return Err(Failure::Other(rehearsed(&qmp).await?));
    }

    // A confidential launch is finished by `cont`, and fails there.
    qmp.execute_within("cont", json!({}), start_time)
        .await
        .map_err(at(Stage::Continuing))?;
    let status = qmp
        .execute("query-status", json!({}))
        .await
        .map_err(at(Stage::Continuing))?;
    if status["status"] != "running" {
        return Err(Failure::Other(CreateError::NotRunning {
            status: crate::spec::printable(status["status"].as_str().unwrap_or("unknown")),
            stderr: String::new(),
        }));
    }
    failpoint::reach("cont");
    Ok((qmp, events, forwarded))
}

/// How a start ends that was to go no further than this.
async fn rehearsed(qmp: &Qmp) -> Result<CreateError, Failure> {
    let status = qmp
        .execute("query-status", json!({}))
        .await
        .map_err(at(Stage::Starting))?;
    Ok(match status["status"].as_str() {
        Some("prelaunch") => CreateError::Rehearsed,
        other => CreateError::NotRunning {
            status: crate::spec::printable(other.unwrap_or("unknown")),
            stderr: String::new(),
        },
    })
}

/// The monitor of a QEMU that listens since before it ran: only one that ended refuses.
pub async fn connect(
    record: &RecordFolder,
    greeting_time: Duration,
) -> Result<(Qmp, QmpEvents), QmpError> {
    let closed = |_| QmpError::Closed {
        during: "the connection".to_owned(),
    };
    let stream = record.connect().map_err(|error| match error.kind() {
        // Its queue is full: it is there and takes nobody.
        std::io::ErrorKind::WouldBlock => QmpError::Timeout {
            during: "the connection".to_owned(),
            limit: Duration::ZERO,
        },
        _ => closed(error),
    })?;
    let stream = tokio::net::UnixStream::from_std(stream).map_err(closed)?;
    let (read, write) = stream.into_split();
    Qmp::connect(read, write, greeting_time, MAX_LINE_VM).await
}

fn copy_file(source: &Arc<File>, target: &mut File) -> std::io::Result<u64> {
    use std::os::unix::fs::FileExt as _;
    let mut offset = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match source.read_at(&mut buffer, offset)? {
            0 => return Ok(offset),
            count => {
                std::io::Write::write_all(target, &buffer[..count])?;
                offset += count as u64;
            }
        }
    }
}
