//! What keeps VMs from being started here: findings of the host itself and of each backend, in the
//! order in which an operator would mend them.
//!
//! The judgement is made of values and is pure; `look` gathers them. A `fail` of the host means that
//! no VM at all can be made now, whatever its backend: `/ready` and `casemate doctor` go by it.

mod images;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::catalogued::Catalogued as _;
use super::config::{Outbound, VmDefaults};
use super::error::CreateError;
use super::live::Live;
use super::manager::{Host, VmManager};
use crate::backend::catalog::{ChooseError, chain};
use crate::backend::{CatalogEntry, LoadedBackend};
use crate::confine::ConfineError;
use crate::lease::Usage;
use crate::probe::{self, Counted, Room};
use crate::qemu::descriptors::{self, Descriptors};
use crate::regular_file;
use crate::spec::facts::{FactAnswer, FactFailure};
use crate::spec::plan::{Finding, Severity};
use crate::spec::request::{Accelerator, BackendWish};
use crate::spec::{Origin, printable};
use crate::store::StoreError;

/// Ids of the host's findings. Programs go by them, so they stay.
pub mod id {
    pub const QEMU: &str = "host.qemu";
    pub const KVM: &str = "host.kvm";
    pub const FIRMWARE: &str = "host.firmware";
    pub const IMAGES: &str = "host.images";
    pub const STATE_DIR: &str = "host.state-dir";
    pub const NETWORK: &str = "host.network";
    pub const PORTS: &str = "host.ports";
    pub const LIMITS: &str = "host.limits";
    pub const LEASES: &str = "host.leases";
    pub const BACKENDS: &str = "host.backends";
}

/// Of the backend that a request gets which names none.
const BACKEND: &str = "backend";
/// Findings of the host about a backend, before those of the backend itself.
const BACKEND_LOAD: &str = "backend.load";
const BACKEND_ARCHITECTURE: &str = "backend.architecture";
const BACKEND_CHECK: &str = "backend.check";

const MIB: u64 = 1 << 20;
/// With less room a record is not written: a plan has a MiB at most.
const LEAST_ROOM: u64 = MIB;
/// With less room a guest's disk soon grows no more.
const SCARCE_ROOM: u64 = 1 << 30;
/// Roles of files that are firmware.
const FIRMWARE_ROLES: [&str; 4] = ["firmware", "firmware-code", "firmware-vars", "igvm"];

/// What was found of the host and of its backends.
#[derive(Debug)]
pub struct Diagnosis {
    pub host: Vec<Finding>,
    /// In the order of the config.
    pub backends: Vec<BackendDiagnosis>,
}

#[derive(Debug)]
pub struct BackendDiagnosis {
    pub name: String,
    /// The reason where it is not in service.
    pub state: Result<Arc<LoadedBackend>, String>,
    pub findings: Vec<Finding>,
}

impl BackendDiagnosis {
    /// Whether VMs of it could be started on a host that nothing is wrong with.
    pub fn is_usable(&self) -> bool {
        first_failure(&self.findings).is_none()
    }
}

impl Diagnosis {
    /// Whether VMs can be started, with one of these backends at least.
    pub fn is_usable(&self) -> bool {
        first_failure(&self.host).is_none() && self.backends.iter().any(BackendDiagnosis::is_usable)
    }
}

pub fn first_failure(findings: &[Finding]) -> Option<&Finding> {
    findings
        .iter()
        .find(|finding| finding.severity == Severity::Fail)
}

/// Looks at the host and at all backends, or at the one of that name; none where there is no such
/// backend.
pub async fn diagnose(manager: &VmManager, only: Option<&str>) -> Option<Diagnosis> {
    let live = manager.host().live();
    let is_wanted = |entry: &&CatalogEntry| only.is_none_or(|name| name == entry.config.name);
    let wanted: Vec<&CatalogEntry> = live.catalog.entries().iter().filter(is_wanted).collect();
    if only.is_some() && wanted.is_empty() {
        return None;
    }
    let mut host = host_findings(manager, &live).await;
    let mut backends = Vec::new();
    for entry in wanted {
        backends.push(backend(&live, entry).await);
    }
    if only.is_none() {
        // Requests that name a backend do without one that is chosen.
        let mut choice = of_choice(live.choose(&BackendWish::Any, &BTreeMap::new()).await);
        if choice.severity == Severity::Fail {
            choice.severity = Severity::Warn;
        }
        host.push(choice);
    }
    Some(Diagnosis { host, backends })
}

/// Findings of the host itself.
pub async fn host_findings(manager: &VmManager, live: &Arc<Live>) -> Vec<Finding> {
    let qemu = live.qemu.info().await.map_err(CreateError::from);
    let mut findings = vec![of_qemu(
        qemu.map(|info| (info.path.clone(), info.version.clone())),
    )];
    findings.extend(manager.host().look.take(manager.shared_host(), live).await);
    findings
}

/// How long a look at the host is waited for. A file system of a server that is away keeps it
/// waiting for ever, and everything else takes some milliseconds.
const LOOK_TIME: Duration = Duration::from_secs(5);

/// One look at a time: anybody may ask `/ready`, as often as they like.
#[derive(Debug, Default)]
pub struct LookTurn(Mutex<Option<JoinHandle<Vec<Finding>>>>);

impl LookTurn {
    async fn take(&self, host: Arc<Host>, live: &Arc<Live>) -> Vec<Finding> {
        let mut turn = self.0.lock().await;
        let config = Arc::clone(live);
        // One that did not come back is still under way, and waited for again.
        let mut under_way = turn
            .take()
            .unwrap_or_else(|| tokio::task::spawn_blocking(move || look(&host, &config)));
        let failed =
            |detail: &str, remedy: &str| vec![fail(id::STATE_DIR, "state_dir", detail, remedy)];
        match tokio::time::timeout(LOOK_TIME, &mut under_way).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(_)) => failed(
                "the look at the host failed",
                "see the daemon's log, and report it as a bug of Casemate",
            ),
            Err(_) => {
                *turn = Some(under_way);
                failed(
                    "a file system does not answer",
                    "see that the state directory, the firmware, the image roots and the folders of \
                     `vm.firmware_descriptors` can be read",
                )
            }
        }
    }
}

/// All but QEMU.
fn look(host: &Host, live: &Live) -> Vec<Finding> {
    let mut findings = vec![of_kvm(
        live.qemu_config.accelerator,
        &probe::device("/dev/kvm"),
    )];
    let descriptors = descriptors::read(live.defaults.firmware_descriptors());
    findings.extend(of_firmware(
        &named_firmware(&live.defaults),
        &Descriptors::of(descriptors),
    ));
    findings.push(images::of_images(&live.images));
    let path = host.store.path();
    findings.push(of_state_dir(path, host.store.check(), probe::room(path)));
    let outbound = live.network.outbound;
    let enforceable = match outbound {
        Outbound::Filtered => host.confinement.is_enforceable(),
        Outbound::None | Outbound::Unfiltered => Ok(()),
    };
    findings.push(of_network(outbound, enforceable));
    let ports = live.ports.as_ref().map(|ports| {
        let busy = busy_ports(&probe::tcp_listeners(), live.network.host_address);
        (ports.range().clone(), ports.free(&busy))
    });
    findings.push(of_ports(ports));
    let usage = host.capacity.usage();
    findings.extend(of_limits(&usage, &live.defaults));
    findings.extend(of_leases(&usage, &probe::counted()));
    let entries = live.catalog.entries().iter();
    let backends: Vec<(&str, bool)> = entries
        .map(|entry| (entry.config.name.as_str(), entry.state.is_ok()))
        .collect();
    findings.push(of_backends(&backends));
    findings
}

fn of_qemu(qemu: Result<(PathBuf, String), CreateError>) -> Finding {
    const SUBJECT: &str = "qemu.binary";
    match qemu {
        Ok((path, version)) => pass(
            id::QEMU,
            SUBJECT,
            &format!("{} is QEMU {version}", path.display()),
        ),
        Err(error) => fail(id::QEMU, SUBJECT, &chain(&error), &error.remedy()),
    }
}

fn of_kvm(accelerator: Accelerator, device: &FactAnswer) -> Finding {
    const SUBJECT: &str = "/dev/kvm";
    match (accelerator, device) {
        (Accelerator::Tcg, _) => note(
            id::KVM,
            "qemu.accelerator",
            "guests are emulated (tcg): many times slower than with KVM, and without any protection",
            "set `qemu.accelerator` to kvm on a host that has it",
        ),
        (Accelerator::Kvm, Ok(_)) => pass(id::KVM, SUBJECT, "it can be opened"),
        (Accelerator::Kvm, Err(FactFailure::Absent)) => fail(
            id::KVM,
            SUBJECT,
            "there is no /dev/kvm on this host",
            "turn virtualization on in the machine's firmware setup and load kvm_amd or kvm_intel; \
             without KVM, set `qemu.accelerator` to tcg",
        ),
        (Accelerator::Kvm, Err(FactFailure::Denied)) => cannot_open_kvm("it may not be looked at"),
        (Accelerator::Kvm, Err(FactFailure::Failed(reason))) => cannot_open_kvm(reason),
    }
}

fn cannot_open_kvm(reason: &str) -> Finding {
    fail(
        id::KVM,
        "/dev/kvm",
        &format!("/dev/kvm is there and cannot be opened: {reason}"),
        "run the daemon as root, or give its user the group kvm",
    )
}

/// A file of the config that is firmware, and why it cannot be used.
#[derive(Debug)]
struct NamedFile {
    role: &'static str,
    path: PathBuf,
    origin: Origin,
    problem: Option<String>,
}

fn named_firmware(defaults: &VmDefaults) -> Vec<NamedFile> {
    defaults
        .files()
        .filter(|(role, ..)| FIRMWARE_ROLES.contains(role))
        .map(|(role, path, origin)| NamedFile {
            role,
            path: path.to_owned(),
            origin,
            problem: regular_file::open(path)
                .err()
                .map(|error| error.to_string()),
        })
        .collect()
}

/// No failure: what firmware a VM needs is for its backend to say.
fn of_firmware(files: &[NamedFile], descriptors: &Descriptors) -> Vec<Finding> {
    const SUBJECT: &str = "firmware";
    let mut findings = Vec::new();
    let readable: Vec<String> = files
        .iter()
        .filter(|file| file.problem.is_none())
        .map(|file| {
            format!(
                "{} ({})",
                file.path.display(),
                VmDefaults::file_key(file.role)
            )
        })
        .collect();
    let described = match descriptors.count {
        1 => "1 firmware descriptor".to_owned(),
        count => format!("{count} firmware descriptors"),
    };
    findings.push(if readable.is_empty() && descriptors.count == 0 {
        note(
            id::FIRMWARE,
            SUBJECT,
            "no firmware was found, so VMs get what QEMU brings along",
            "install the distribution's OVMF where a guest needs UEFI",
        )
    } else if readable.is_empty() {
        pass(id::FIRMWARE, SUBJECT, &described)
    } else {
        let readable = readable.join(", ");
        pass(
            id::FIRMWARE,
            SUBJECT,
            &format!("readable are {readable}; {described}"),
        )
    });
    for file in files.iter().filter(|file| file.origin != Origin::BuiltIn) {
        if let Some(problem) = &file.problem {
            let key = VmDefaults::file_key(file.role);
            findings.push(warn(
                id::FIRMWARE,
                &key,
                &format!("{} cannot be used: {problem}", file.path.display()),
                &format!("put the file there, or set `{key}` to another one"),
            ));
        }
    }
    for broken in &descriptors.broken {
        findings.push(note(
            id::FIRMWARE,
            &broken.path.display().to_string(),
            &format!("this firmware descriptor is skipped: {}", broken.reason),
            "mend it, or hide it behind an empty file of its name in the first of \
             `vm.firmware_descriptors`",
        ));
    }
    findings
}

fn of_state_dir(
    path: &Path,
    check: Result<(), StoreError>,
    room: std::io::Result<Room>,
) -> Finding {
    const SUBJECT: &str = "state_dir";
    if let Err(error) = check {
        let severity = match error {
            // VMs can still be made, and others may do with them what they like.
            StoreError::Owner { .. } | StoreError::Mode { .. } => Severity::Warn,
            _ => Severity::Fail,
        };
        return finding(
            id::STATE_DIR,
            severity,
            SUBJECT,
            &chain(&error),
            &error.remedy(),
        );
    }
    let path = path.display();
    let room = match room {
        Ok(room) => room,
        Err(error) => {
            return fail(
                id::STATE_DIR,
                SUBJECT,
                &format!("the file system of {path} cannot be looked at: {error}"),
                "see that its file system is mounted and answers",
            );
        }
    };
    let free = mebibytes(room.free_bytes);
    if room.is_read_only {
        fail(
            id::STATE_DIR,
            SUBJECT,
            &format!("the file system of {path} is read-only"),
            "see the kernel's log for why, and mount it for writing",
        )
    } else if room.free_bytes < LEAST_ROOM {
        fail(
            id::STATE_DIR,
            SUBJECT,
            &format!("the file system of {path} is full"),
            "make room, or set another `state_dir`",
        )
    } else if room.free_bytes < SCARCE_ROOM {
        warn(
            id::STATE_DIR,
            SUBJECT,
            &format!("{path} has {free} left, in which disks of VMs grow"),
            "make room, or set another `state_dir`",
        )
    } else {
        pass(
            id::STATE_DIR,
            SUBJECT,
            &format!("{path} is the daemon's alone and has {free} left"),
        )
    }
}

fn of_network(outbound: Outbound, enforceable: Result<(), ConfineError>) -> Finding {
    const SUBJECT: &str = "network.outbound";
    match (outbound, enforceable) {
        (_, Err(error)) => fail(
            id::NETWORK,
            SUBJECT,
            &format!("guests cannot be kept from this host: {}", chain(&error)),
            &format!(
                "{}; or set `network.outbound` to none or unfiltered",
                error.remedy()
            ),
        ),
        (Outbound::Filtered, Ok(())) => pass(
            id::NETWORK,
            SUBJECT,
            "guests reach the network and nothing of this host",
        ),
        (Outbound::None, Ok(())) => pass(id::NETWORK, SUBJECT, "guests reach nothing"),
        (Outbound::Unfiltered, Ok(())) => note(
            id::NETWORK,
            SUBJECT,
            "guests reach this host's own services too",
            "set `network.outbound` to filtered",
        ),
    }
}

/// Ports at which somebody listens, so that nobody else can at `address`.
fn busy_ports(listeners: &[SocketAddr], address: Ipv4Addr) -> BTreeSet<u16> {
    let is_in_the_way = |listener: &&SocketAddr| match listener.ip().to_canonical() {
        IpAddr::V4(other) => other == address || other.is_unspecified() || address.is_unspecified(),
        // It takes IPv4 connections too, unless its owner said otherwise.
        IpAddr::V6(other) => other.is_unspecified(),
    };
    let busy = listeners.iter().filter(is_in_the_way);
    busy.map(SocketAddr::port).collect()
}

/// The range, and how many of it are free. None: the kernel chooses.
fn of_ports(ports: Option<(RangeInclusive<u16>, usize)>) -> Finding {
    const SUBJECT: &str = "network.ports";
    let Some((range, free)) = ports else {
        return pass(
            id::PORTS,
            SUBJECT,
            "the kernel chooses the ports of the agents",
        );
    };
    let (first, last, all) = (range.start(), range.end(), range.len());
    if free == 0 {
        return fail(
            id::PORTS,
            SUBJECT,
            &format!("none of the ports {first}-{last} is free"),
            "remove a VM, end the program that listens there, or widen `network.ports`",
        );
    }
    pass(
        id::PORTS,
        SUBJECT,
        &format!("{free} of the {all} ports {first}-{last} are free"),
    )
}

/// How much of one thing VMs may take together.
struct Limit {
    key: &'static str,
    /// With the number before it.
    noun: &'static str,
    taken: u64,
    /// 0 means none.
    limit: u64,
    /// What the smallest VM takes.
    least: u64,
    /// What a VM takes whose request names nothing.
    usual: u64,
    show: fn(u64) -> String,
}

fn of_limits(usage: &Usage, defaults: &VmDefaults) -> Vec<Finding> {
    let (taken, limits) = (&usage.taken, &usage.limits);
    let all = [
        Limit {
            key: "max_vms",
            noun: "VMs",
            taken: taken.vms,
            limit: limits.vms,
            least: 1,
            usual: 1,
            show: |number| number.to_string(),
        },
        Limit {
            key: "max_vcpus",
            noun: "vCPUs",
            taken: taken.vcpus,
            limit: limits.vcpus,
            least: 1,
            usual: u64::from(defaults.vcpus),
            show: |number| number.to_string(),
        },
        Limit {
            key: "max_memory",
            noun: "of memory",
            taken: taken.memory_bytes,
            limit: limits.memory_bytes,
            least: MIB,
            usual: defaults.memory,
            show: mebibytes,
        },
    ];
    all.iter().map(of_limit).collect()
}

fn of_limit(limit: &Limit) -> Finding {
    let Limit { key, noun, .. } = *limit;
    let taken = (limit.show)(limit.taken);
    if limit.limit == 0 {
        return pass(
            id::LIMITS,
            key,
            &format!("{taken} {noun} taken, and there is no limit"),
        );
    }
    let free = limit.limit.saturating_sub(limit.taken);
    let (all, left) = ((limit.show)(limit.limit), (limit.show)(free));
    let detail = format!("{taken} of {all} {noun} taken, {left} free");
    let remedy = format!("stop or remove a VM, or raise `{key}`");
    if free < limit.least {
        fail(id::LIMITS, key, &detail, &remedy)
    } else if free < limit.usual {
        let usual = (limit.show)(limit.usual);
        warn(
            id::LIMITS,
            key,
            &format!("{detail}; a VM whose request names nothing takes {usual}"),
            &remedy,
        )
    } else {
        pass(id::LIMITS, key, &detail)
    }
}

/// What plans take by name, as the config and the kernel have it. No failure: a VM need not take any.
fn of_leases(usage: &Usage, counted: &Counted) -> Vec<Finding> {
    let taken = &usage.taken.leases;
    // The kernel names what its processor could have; of what it has none there is nothing to say.
    let granted = usage.limits.leases.iter();
    let granted: Vec<_> = granted.filter(|(_, amount)| **amount > 0).collect();
    if granted.is_empty() {
        return vec![pass(
            id::LEASES,
            "leases",
            "the kernel counts nothing by name, and plans may take nothing by name",
        )];
    }
    let amount = |amounts: &BTreeMap<String, u64>, name: &String| amounts.get(name).copied();
    granted
        .into_iter()
        .map(|(name, granted)| {
            of_lease(
                name,
                *granted,
                amount(taken, name).unwrap_or(0),
                amount(&counted.capacity, name),
                amount(&counted.current, name).unwrap_or(0),
            )
        })
        .collect()
}

/// `granted` to VMs and `taken` of it, `capacity` of the host and `current` use of it.
fn of_lease(name: &str, granted: u64, taken: u64, capacity: Option<u64>, current: u64) -> Finding {
    let name = printable(name);
    let subject = format!("leases.{name}");
    let fits = |capacity: u64| format!("set `{subject}` to {capacity} at most");
    match capacity {
        Some(capacity) if granted > capacity => warn(
            id::LEASES,
            &subject,
            &format!(
                "the config has {granted} of {name} and the host {capacity}: QEMU fails when that \
                 many are taken"
            ),
            &fits(capacity),
        ),
        Some(capacity) if current >= capacity => warn(
            id::LEASES,
            &subject,
            &format!(
                "all {capacity} of {name} are in use on this host; VMs of this daemon have {taken}"
            ),
            "end what uses them beside this daemon, or remove a VM",
        ),
        Some(capacity) => pass(
            id::LEASES,
            &subject,
            &format!(
                "{taken} of {granted} are taken; in use on this host are {current} of {capacity}"
            ),
        ),
        None => note(
            id::LEASES,
            &subject,
            &format!("{taken} of {granted} are taken; the kernel does not count {name}"),
            "see that the name is what the kernel calls it (`misc.capacity` of the root cgroup)",
        ),
    }
}

/// Names, and whether each is in service.
fn of_backends(backends: &[(&str, bool)]) -> Finding {
    const SUBJECT: &str = "backend";
    let (serving, failed): (Vec<_>, Vec<_>) =
        backends.iter().copied().partition(|(_, serves)| *serves);
    let names = |backends: Vec<(&str, bool)>| {
        let names: Vec<&str> = backends.into_iter().map(|(name, _)| name).collect();
        names.join(", ")
    };
    let (serving, failed) = (names(serving), names(failed));
    if backends.is_empty() {
        fail(
            id::BACKENDS,
            SUBJECT,
            "no backend is configured",
            "add a `[[backend]]` to the config file",
        )
    } else if serving.is_empty() {
        fail(
            id::BACKENDS,
            SUBJECT,
            &format!("no backend is in service; configured are {failed}"),
            "mend what is found of each backend, and reload casemated (SIGHUP)",
        )
    } else if failed.is_empty() {
        pass(id::BACKENDS, SUBJECT, &format!("in service are {serving}"))
    } else {
        warn(
            id::BACKENDS,
            SUBJECT,
            &format!("in service are {serving}; not in service are {failed}"),
            "mend what is found of each backend, and reload casemated (SIGHUP)",
        )
    }
}

/// The backend of a request that names none, or why it gets no VM: as a create says it.
pub fn of_choice(choice: Result<Arc<LoadedBackend>, ChooseError>) -> Finding {
    match choice.map_err(CreateError::from) {
        Ok(backend) => pass(BACKEND, BACKEND, backend.name()),
        Err(error) => fail(BACKEND, BACKEND, &chain(&error), &error.remedy()),
    }
}

async fn backend(live: &Live, entry: &CatalogEntry) -> BackendDiagnosis {
    let name = entry.config.name.clone();
    let (state, findings) = match &entry.state {
        Err(error) => {
            let reason = chain(error);
            let finding = fail(BACKEND_LOAD, &name, &reason, error.remedy());
            (Err(reason), vec![finding])
        }
        Ok(loaded) => (Ok(Arc::clone(loaded)), of_loaded(live, loaded).await),
    };
    BackendDiagnosis {
        name,
        state,
        findings,
    }
}

async fn of_loaded(live: &Live, loaded: &LoadedBackend) -> Vec<Finding> {
    let (served, host) = (&loaded.info().architectures, probe::architecture());
    if !served.iter().any(|name| name == host) {
        return vec![fail(
            BACKEND_ARCHITECTURE,
            loaded.name(),
            &format!("it serves {}, and this host is {host}", served.join(", ")),
            "choose another backend",
        )];
    }
    match live.check(loaded).await {
        Ok(findings) => findings,
        Err(error) => vec![fail(
            BACKEND_CHECK,
            loaded.name(),
            &chain(&error),
            &error.remedy(),
        )],
    }
}

/// Rounded down: what is free is not overstated.
fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes / MIB)
}

fn pass(id: &str, subject: &str, detail: &str) -> Finding {
    finding(id, Severity::Pass, subject, detail, "")
}

fn note(id: &str, subject: &str, detail: &str, remedy: &str) -> Finding {
    finding(id, Severity::Note, subject, detail, remedy)
}

fn warn(id: &str, subject: &str, detail: &str, remedy: &str) -> Finding {
    finding(id, Severity::Warn, subject, detail, remedy)
}

fn fail(id: &str, subject: &str, detail: &str, remedy: &str) -> Finding {
    finding(id, Severity::Fail, subject, detail, remedy)
}

fn finding(id: &str, severity: Severity, subject: &str, detail: &str, remedy: &str) -> Finding {
    Finding {
        id: id.to_owned(),
        severity,
        subject: printable(subject),
        detail: printable(detail),
        remedy: printable(remedy),
    }
}

#[cfg(test)]
mod tests;
