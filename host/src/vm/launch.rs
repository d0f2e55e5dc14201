//! From a plan to a running QEMU, as a flat recipe. Every step's holdings are guards, so a failure
//! at any point unwinds exactly what was taken.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;

use super::error::{CreateError, Stage};
use super::files;
use super::live::Live;
use super::manager::Host;
use super::planning::Planned;
use super::shares::{self, CERTIFICATES_SHARE, ENVIRONMENT_SHARE};
use crate::lease::{PortLease, UidLease};
use crate::probe;
use crate::qemu::command::{self, DiskResources, Form, RenderError, Resources};
use crate::qemu::process::{self, Credentials, QemuProcess};
use crate::qemu::qmp::{MAX_LINE_VM, Qmp, QmpError};
use crate::spec::VmId;
use crate::spec::plan::Firmware;
use crate::spec::request::{Accelerator, VmSpec};
use crate::store::{FolderAccess, RecordFolder, VmFolder, VmRecord};

/// Numbers of the host's own descriptors in QEMU.
const QMP_FD: i32 = 3;
const KVM_FD: i32 = 4;
/// Deadline of `qemu-img`, which only writes a header.
const DISK_TOOL_TIME: Duration = Duration::from_secs(30);

/// What a VM holds besides its process, in the order in which it goes: the record last.
#[derive(Debug)]
pub struct Holdings {
    pub port: Option<PortLease>,
    folder: VmFolder,
    uid: Option<UidLease>,
    pub record: RecordFolder,
}

impl Drop for Holdings {
    /// Files that cannot be deleted keep their user and their record, so that nobody else gets to
    /// read them and the next start tries again.
    fn drop(&mut self) {
        if !self.folder.delete() {
            std::mem::forget(self.uid.take());
            self.record.keep();
        }
    }
}

/// A QEMU that runs the guest.
#[derive(Debug)]
pub struct Launched {
    pub process: QemuProcess,
    pub qmp: Qmp,
    pub holdings: Holdings,
    pub agent_address: Option<SocketAddr>,
}

/// Everything that exists before QEMU does.
#[derive(Debug)]
pub struct Prepared {
    folder: VmFolder,
    uid: Option<UidLease>,
    record: RecordFolder,
    credentials: Credentials,
    arguments: Vec<String>,
    descriptors: Vec<(OwnedFd, i32)>,
    pub console: Arc<File>,
}

/// How QEMU gets at `/dev/kvm`.
enum KvmAccess {
    None,
    Descriptor(OwnedFd),
    /// QEMU before 8.2 opens the device itself: the device's group lets it.
    Group(u32),
}

impl KvmAccess {
    fn open(planned: &Planned) -> Result<Self, CreateError> {
        if planned.request.host.accelerator == Accelerator::Tcg {
            return Ok(Self::None);
        }
        let error = |error: rustix::io::Errno| CreateError::Device {
            device: "/dev/kvm",
            source: error.into(),
        };
        let kvm = probe::open_device("/dev/kvm").map_err(error)?;
        if planned.checked.knowledge().info.kvm_device {
            return Ok(Self::Descriptor(kvm));
        }
        let status = rustix::fs::fstat(&kvm).map_err(error)?;
        // Without such a group QEMU says itself that it may not; it is never given root's.
        if status.st_mode & 0o060 == 0o060 && status.st_gid != 0 {
            Ok(Self::Group(status.st_gid))
        } else {
            Ok(Self::None)
        }
    }
}

/// A granted path is opened by QEMU itself, as the user that it runs as.
fn check_host_paths(planned: &Planned, credentials: Credentials) -> Result<(), CreateError> {
    use std::os::unix::fs::MetadataExt as _;
    if credentials == Credentials::Daemon {
        return Ok(());
    }
    for path in planned.checked.plan().host_paths() {
        let what = match std::fs::metadata(path) {
            Err(error) => format!("cannot be used: {error}"),
            Ok(metadata) if metadata.mode() & 0o006 != 0o006 => {
                "is closed to the user that QEMU runs as".to_owned()
            }
            Ok(_) => continue,
        };
        return Err(CreateError::HostPath {
            path: path.to_owned(),
            what,
        });
    }
    Ok(())
}

/// A copy of a file of the plan in the VM's folder, which the guest may write to.
fn copy_into(
    planned: &Planned,
    folder: &VmFolder,
    id: u32,
    name: &str,
) -> Result<String, CreateError> {
    let path = folder.path().join(name);
    if let Some(generated) = planned.checked.plan().generated_file(id) {
        folder.create_file(&path, 0o600, &generated.content)?;
        return text(&path);
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
    text(&path)
}

/// Makes folders, shares, copies and descriptors, and renders the command.
pub async fn prepare(
    host: &Host,
    id: VmId,
    spec: &VmSpec,
    planned: &Planned,
) -> Result<Prepared, CreateError> {
    let uid = match &host.uids {
        Some(uids) => Some(uids.take()?),
        None => None,
    };
    let kvm = KvmAccess::open(planned)?;
    let (credentials, access) = match (uid.as_ref().map(UidLease::uid), &kvm) {
        (None, _) => (Credentials::Daemon, FolderAccess::Daemon),
        (Some(uid), KvmAccess::Group(gid)) => (
            Credentials::User { uid, gid: *gid },
            FolderAccess::Owner(uid),
        ),
        (Some(uid), _) => (
            Credentials::User { uid, gid: uid },
            FolderAccess::Group(uid),
        ),
    };
    let record = host.store.create_record(id)?;
    let folder = host.store.create_vm_folder(id, access)?;
    let console = folder.create_file(&folder.path().join("console.log"), 0o600, b"")?;
    let mut resources = Resources {
        console: text(&folder.path().join("console.log"))?,
        shares: write_shares(&folder, spec, id)?,
        ..Resources::default()
    };
    let plan = planned.checked.plan();
    for file in &plan.generated {
        let path = folder.path().join(format!("generated-{}", file.id));
        folder.create_file(&path, 0o600, &file.content)?;
        resources.files.insert(file.id, text(&path)?);
    }
    if planned
        .request
        .devices
        .iter()
        .any(|device| device.kind == "disk")
    {
        resources.disk = Some(DiskResources {
            overlay: make_overlay(planned, &folder).await?,
            controller_id: planned.live.disk.scsi_id.clone(),
        });
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
    let passed = files::pass(&planned.request.host.files, wanted, credentials)?;
    resources.files.extend(passed.paths);
    if let Firmware::Pflash(pflash) = &plan.firmware {
        if let Some(template) = pflash.vars_template {
            let path = copy_into(planned, &folder, template, "vars.fd")?;
            resources.firmware_vars = Some(path);
        }
        // What the guest may write to is its own copy, never the operator's file.
        if pflash.code_is_writable() {
            let path = copy_into(planned, &folder, pflash.code, "code.fd")?;
            resources.files.insert(pflash.code, path);
        }
    }
    let mut descriptors = passed.descriptors;
    descriptors.push((record.listen()?.into(), QMP_FD));

    let kvm_fd = match kvm {
        KvmAccess::Descriptor(kvm) => {
            descriptors.push((kvm, KVM_FD));
            Some(KVM_FD)
        }
        KvmAccess::None | KvmAccess::Group(_) => None,
    };
    check_host_paths(planned, credentials)?;
    let form = Form::Managed {
        qmp_fd: QMP_FD,
        kvm_fd,
    };
    let arguments = command::render(
        &id.to_string(),
        &planned.request,
        &planned.checked,
        &resources,
        &form,
    )?;
    Ok(Prepared {
        folder,
        uid,
        record,
        credentials,
        arguments,
        descriptors,
        console: Arc::new(console),
    })
}

/// Starts QEMU, forwards the agent's port, and lets the guest run. `record` is written before the
/// process exists and completed after.
pub async fn start(
    host: &Host,
    id: VmId,
    planned: &Planned,
    prepared: Prepared,
    mut record: VmRecord,
    mut cancelled: watch::Receiver<bool>,
) -> Result<Launched, CreateError> {
    let info = &planned.checked.knowledge().info;
    let program = info.path.display().to_string();
    record.command = std::iter::once(program)
        .chain(prepared.arguments.iter().cloned())
        .collect();
    tracing::info!(
        command = command::shell_line(record.command.iter().map(String::as_str)),
        "QEMU's command"
    );
    // Given back when the process is reaped, on every path: another VM must not get its user
    // earlier.
    let mut holdings = Holdings {
        port: None,
        folder: prepared.folder,
        uid: prepared.uid,
        record: prepared.record,
    };
    holdings.record.write(&record)?;
    let mut process = QemuProcess::spawn(
        &info.path,
        &prepared.arguments,
        &prepared.credentials,
        prepared.descriptors,
    )?;
    let started = Instant::now();
    record.process = Some(process.identity().clone());
    // At once: a daemon that comes back after a crash has to know this process.
    if let Err(error) = holdings.record.write(&record) {
        process.kill().await;
        return Err(error.into());
    }
    let brought_up = tokio::select! {
        brought_up = bring_up(host, planned, started, &mut process, &mut holdings) => brought_up,
        _ = cancelled.wait_for(|cancelled| *cancelled) => {
            Err(Failure::Other(CreateError::Removed))
        }
    };
    match brought_up {
        Ok((qmp, agent_address)) => {
            record.agent_address = agent_address.map(|address| address.to_string());
            if let Err(error) = holdings.record.write(&record) {
                process.kill().await;
                return Err(error.into());
            }
            Ok(Launched {
                process,
                qmp,
                holdings,
                agent_address,
            })
        }
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
            let stderr = process.last_words().await;
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
            process.kill().await;
            if let CreateError::NotRunning { stderr, .. } = &mut error {
                *stderr = process.last_words().await;
            }
            Err(error)
        }
    }
}

enum Failure {
    Qmp { stage: Stage, source: QmpError },
    Other(CreateError),
}

impl<E: Into<CreateError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

fn at(stage: Stage) -> impl Fn(QmpError) -> Failure {
    move |source| Failure::Qmp { stage, source }
}

async fn bring_up(
    host: &Host,
    planned: &Planned,
    started: Instant,
    process: &mut QemuProcess,
    holdings: &mut Holdings,
) -> Result<(Qmp, Option<SocketAddr>), Failure> {
    let start_time = planned.live.qemu_config.start_time
        + Duration::from_secs(planned.request.memory_bytes >> 30);
    // The socket listens since before QEMU did: only a QEMU that ended refuses a connection.
    let closed = |_| {
        at(Stage::Starting)(QmpError::Closed {
            during: "the connection".to_owned(),
        })
    };
    let stream = holdings.record.connect().map_err(closed)?;
    let stream = into_tokio(stream).map_err(closed)?;
    let (read, write) = stream.into_split();
    // The socket listens before QEMU does, so a QEMU that dies early would not close it: its exit
    // is watched beside the greeting.
    let connected = tokio::select! {
        biased;
        _ = process.wait() => Err(QmpError::Closed { during: "the greeting".to_owned() }),
        connected = Qmp::connect(read, write, start_time, MAX_LINE_VM) => connected,
    };
    let mut qmp = connected.map_err(at(Stage::Starting))?;
    host.metrics.qemu_started(started.elapsed());

    let forwarded = forward_agent(&planned.live, &mut qmp).await?;
    let agent_address = match forwarded {
        Some((address, lease)) => {
            holdings.port = lease;
            Some(address)
        }
        None => None,
    };

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
    Ok((qmp, agent_address))
}

fn into_tokio(stream: std::os::unix::net::UnixStream) -> std::io::Result<tokio::net::UnixStream> {
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream)
}

/// Forwards a host port to the agent's, while the guest does not run yet: QEMU itself binds it, so
/// two VMs can never share one. The answer is what QEMU lists, not what was asked for.
async fn forward_agent(
    live: &Live,
    qmp: &mut Qmp,
) -> Result<Option<(SocketAddr, Option<PortLease>)>, Failure> {
    let network = &live.network;
    let mut busy = BTreeSet::new();
    loop {
        let lease = match &live.ports {
            Some(ports) => Some(ports.take(&busy)?),
            None => None,
        };
        let port = lease.as_ref().map_or(0, PortLease::port);
        let line = format!(
            "hostfwd_add {} tcp:{}:{port}-:{}",
            network.id, network.host_address, network.agent_port
        );
        let answer = human(qmp, &line).await?;
        if answer.trim().is_empty() {
            let listed = human(qmp, "info usernet").await?;
            let address = listed_forward(&listed, network.agent_port)
                .filter(|address| port == 0 || address.port() == port);
            let Some(address) = address else {
                return Err(at(Stage::Forwarding)(QmpError::Protocol {
                    during: "info usernet".to_owned(),
                    what: crate::spec::printable(&listed),
                }));
            };
            return Ok(Some((address, lease)));
        }
        // With a port of a range, another program may hold it: the next one is tried. The range
        // is finite, and so is this loop. Any other refusal would be the same for each port.
        if lease.is_none() || !answer.contains("ould not set up host forwarding rule") {
            return Err(at(Stage::Forwarding)(QmpError::Refused {
                command: line,
                description: crate::spec::printable(answer.trim()),
            }));
        }
        busy.insert(port);
    }
}

async fn human(qmp: &mut Qmp, line: &str) -> Result<String, Failure> {
    let answer = qmp
        .execute("human-monitor-command", json!({"command-line": line}))
        .await
        .map_err(at(Stage::Forwarding))?;
    Ok(answer.as_str().unwrap_or_default().to_owned())
}

/// Source address of the forward to `guest_port` in `info usernet`.
fn listed_forward(listing: &str, guest_port: u16) -> Option<SocketAddr> {
    listing.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields.as_slice() {
            ["TCP[HOST_FORWARD]", _, address, port, _, to, ..] if to.parse() == Ok(guest_port) => {
                let address = if *address == "*" { "0.0.0.0" } else { address };
                Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
            }
            _ => None,
        }
    })
}

fn text(path: &Path) -> Result<String, CreateError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| CreateError::StateDirNotUtf8 {
            path: path.to_owned(),
        })
}

fn write_shares(
    folder: &VmFolder,
    spec: &VmSpec,
    id: VmId,
) -> Result<BTreeMap<String, String>, CreateError> {
    let environment = folder.create_dir("env")?;
    let content = shares::environment(spec, &id.to_string());
    folder.create_file(&environment.join("environment"), 0o400, content.as_bytes())?;
    let certificates = folder.create_dir("certs")?;
    for (name, content) in shares::certificates(&spec.certificates) {
        folder.create_file(&certificates.join(name), 0o400, content)?;
    }
    Ok([
        (ENVIRONMENT_SHARE.to_owned(), text(&environment)?),
        (CERTIFICATES_SHARE.to_owned(), text(&certificates)?),
    ]
    .into())
}

fn copy_file(source: &File, target: &mut File) -> std::io::Result<u64> {
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

/// A copy-on-write overlay of the disk, made by `qemu-img`. An image that itself names a backing
/// or data file is refused: the guest's image could then read any file of the host.
async fn make_overlay(planned: &Planned, folder: &VmFolder) -> Result<String, CreateError> {
    let disk = planned
        .request
        .file_with_role("disk")
        .ok_or(CreateError::DiskMissing)?;
    if let Some(error) = files::missing(disk) {
        return Err(error);
    }
    let image = std::path::absolute(&disk.path).unwrap_or_else(|_| disk.path.clone());
    let tool = Path::new("qemu-img");
    let format = planned.live.disk.format.as_str();
    // Not guessed: a guest that could write to a raw image would choose the format by its bytes.
    let arguments = [
        "info".as_ref(),
        "-f".as_ref(),
        format.as_ref(),
        "--output=json".as_ref(),
        "--".as_ref(),
        image.as_os_str(),
    ];
    let output = process::run_tool(tool, &arguments, &Credentials::Daemon, DISK_TOOL_TIME).await?;
    if output.exit != process::Exit::Code(0) {
        return Err(CreateError::Disk(output.stderr));
    }
    let info: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| CreateError::Disk(format!("qemu-img answered no JSON: {error}")))?;
    for key in ["backing-filename", "full-backing-filename"] {
        if let Some(backing) = info[key].as_str() {
            return Err(CreateError::Disk(format!(
                "{} has the backing file {:?}, which is not allowed: flatten it with `qemu-img convert`",
                image.display(),
                crate::spec::printable(backing)
            )));
        }
    }
    if let Some(data) = info["format-specific"]["data"]["data-file"].as_str() {
        return Err(CreateError::Disk(format!(
            "{} has the data file {:?}, which is not allowed",
            image.display(),
            crate::spec::printable(data)
        )));
    }
    let overlay = folder.path().join("disk.qcow2");
    let arguments = [
        "create".as_ref(),
        "-q".as_ref(),
        "-f".as_ref(),
        "qcow2".as_ref(),
        "-F".as_ref(),
        format.as_ref(),
        "-b".as_ref(),
        image.as_os_str(),
        "--".as_ref(),
        overlay.as_os_str(),
    ];
    let output = process::run_tool(tool, &arguments, &Credentials::Daemon, DISK_TOOL_TIME).await?;
    if output.exit != process::Exit::Code(0) {
        return Err(CreateError::Disk(output.stderr));
    }
    folder.adopt(&overlay)?;
    text(&overlay)
}

#[cfg(test)]
mod tests {
    use super::listed_forward;

    /// As QEMU 7.2 and 10.0 print it.
    #[test]
    fn the_forward_is_read_from_what_qemu_lists() {
        let listing = "Hub -1 (vmnic):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n  TCP[HOST_FORWARD]  13       127.0.0.1  6100       10.0.2.15  7002     0     0\n  UDP[236 sec]       14       10.0.2.15 34129         1.1.1.1    53     0     0\n";
        assert_eq!(
            listed_forward(listing, 7002),
            Some("127.0.0.1:6100".parse().unwrap())
        );
        assert_eq!(listed_forward(listing, 7003), None);
        let any =
            "  TCP[HOST_FORWARD]  12               *  6101       10.0.2.15  7002     0     0\n";
        assert_eq!(
            listed_forward(any, 7002),
            Some("0.0.0.0:6101".parse().unwrap())
        );
        assert_eq!(listed_forward("", 7002), None);
    }
}
