//! Where a VM's processes live, and what they reach of the host: a cgroup for each VM, and a filter
//! on it.
//!
//! **A cgroup of its own.** A process that is left in the daemon's cgroup is the service manager's
//! to kill when the daemon ends. Under systemd each VM gets a transient scope, because cgroups there
//! have one owner, which is systemd; elsewhere a cgroup is made by hand. Nothing of it depends on
//! the daemon being alive.
//!
//! **A filter on what leaves it.** QEMU's user network connects on behalf of the guest, from the
//! host, so without more a guest reaches every listener of the host: 10.0.2.2 is the host's
//! loopback. The filter is a small eBPF program on the cgroup (`filter`). It looks at the interface
//! that a packet leaves by: what goes to any address of the host itself leaves by `lo`, whichever
//! address it names and whenever that was added. So it needs no list of addresses. It is attached to
//! the cgroup, so it stays when the daemon is dead and goes with the cgroup; a reload of a firewall
//! does not flush it, and neither nft nor iptables has to be there.
//!
//! Ways that were not taken: rules by user id in nft are lost at `nft flush ruleset`, which every
//! reload of a firewall service does; systemd's `IPAddressDeny=` knows addresses only, and drops the
//! answers of the VM's own forwards as well; a network namespace with passt or slirp4netns adds a
//! process for each VM that must be kept alive and found again, and moves the forwards out of QEMU,
//! where `hostfwd_add` sets them.
//!
//! What it does not cover: a packet to the broadcast address of a subnet, which needs
//! `SO_BROADCAST` that libslirp does not set, and hosts with VRFs, where a local packet leaves by
//! the VRF's device.
//!
//! A socket belongs to the cgroup that its maker was in at that moment: a process is placed before
//! it makes any, so before QEMU is executed.

mod bpf;
mod cgroup;
mod filter;
mod scope;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::spec::VmId;
use cgroup::Hierarchy;

pub use filter::Outbound;

/// Why a VM's processes are not confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error("VMs get no cgroup of their own: {0}")]
    Unavailable(String),
    #[error("cannot {action} {path:?}", path = .path.display())]
    Cgroup {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("systemd does not start {unit}")]
    Scope {
        unit: String,
        #[source]
        source: Box<zbus::Error>,
    },
    #[error("systemd did not start {unit}: {result}")]
    ScopeJob { unit: String, result: String },
    #[error("systemd did not answer about {unit} within {seconds} seconds")]
    ScopeDeadline { unit: String, seconds: u64 },
    #[error("process {pid} is in {found:?}, not in {unit}")]
    Elsewhere {
        pid: u32,
        unit: String,
        found: PathBuf,
    },
    #[error("processes {pids:?} are still in {path:?}", path = .path.display())]
    InUse { path: PathBuf, pids: Vec<u32> },
    #[error("the kernel does not take the filter `{program}`: {log}")]
    Load {
        program: &'static str,
        log: String,
        #[source]
        source: io::Error,
    },
    #[error("the filter `{program}` cannot be attached to {path:?}", path = .path.display())]
    Attach {
        program: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl ConfineError {
    /// What the operator can do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => {
                "run the daemon as root, with systemd and D-Bus or with a writable mount of cgroup v2"
            }
            Self::Cgroup { .. } | Self::InUse { .. } | Self::Elsewhere { .. } => {
                "see what else manages this cgroup; the daemon's own lie below `casemate`"
            }
            Self::Scope { .. } | Self::ScopeJob { .. } | Self::ScopeDeadline { .. } => {
                "see `systemctl status dbus` and `journalctl -b _PID=1`"
            }
            Self::Load { .. } => {
                "run the daemon with CAP_BPF and CAP_NET_ADMIN on a kernel with CONFIG_CGROUP_BPF"
            }
            Self::Attach { .. } => {
                "see `bpftool cgroup tree`: a program above that allows no other keeps this one out"
            }
        }
    }
}

/// What a VM's processes may use at most; none is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlaceLimits {
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub tasks: Option<u64>,
}

/// How this host gives a VM a cgroup; found once, when the daemon starts.
#[derive(Clone, Debug)]
pub enum Confinement {
    /// A transient scope for each VM.
    Systemd(SystemdScopes),
    /// A cgroup for each VM, made by hand.
    Cgroup(OwnCgroups),
    /// VMs stay in the daemon's cgroup and are not filtered.
    None { reason: String },
}

/// Scopes of systemd.
#[derive(Clone, Debug)]
pub struct SystemdScopes {
    hierarchy: Hierarchy,
}

/// Cgroups below one that the daemon made.
#[derive(Clone, Debug)]
pub struct OwnCgroups {
    /// `casemate/<instance>` below the mount.
    folder: PathBuf,
}

impl Confinement {
    /// `instance` keeps the cgroups of two daemons on one host apart.
    pub async fn detect(instance: &str) -> Self {
        let none = |reason: String| Self::None { reason };
        if !rustix::process::geteuid().is_root() {
            return none("the daemon does not run as root".to_owned());
        }
        let hierarchy = match Hierarchy::find() {
            Ok(Some(hierarchy)) => hierarchy,
            Ok(None) => return none("cgroup v2 is not mounted".to_owned()),
            Err(error) => return none(format!("the mounts cannot be read: {error}")),
        };
        if scope::systemd_runs() {
            match scope::answers().await {
                Ok(()) => return Self::Systemd(SystemdScopes { hierarchy }),
                Err(error) => tracing::warn!(
                    %error,
                    "systemd runs and does not answer over D-Bus: cgroups are made by hand"
                ),
            }
        }
        match hierarchy.prepare(instance) {
            Ok(folder) => Self::Cgroup(OwnCgroups { folder }),
            Err(error) => none(format!(
                "no cgroup can be made below {}: {error}",
                hierarchy.mount().display()
            )),
        }
    }

    /// Moves a process, which has made no socket yet, and all that it will start. The process and
    /// its VM's cgroup outlive the daemon.
    pub async fn place(
        &self,
        id: VmId,
        pid: u32,
        limits: PlaceLimits,
    ) -> Result<Place, ConfineError> {
        match self {
            Self::Systemd(scopes) => {
                let unit = scope::unit_of(id);
                scope::start(&unit, id, pid, limits).await?;
                let cgroup = scopes.hierarchy.of_process(pid)?;
                if !cgroup.ends_with(&unit) {
                    return Err(ConfineError::Elsewhere {
                        pid,
                        unit,
                        found: cgroup,
                    });
                }
                Ok(Place {
                    cgroup,
                    unit: Some(unit),
                })
            }
            Self::Cgroup(own) => {
                let cgroup = own.folder.join(id.to_string());
                cgroup::make(&cgroup, pid, limits)?;
                Ok(Place { cgroup, unit: None })
            }
            Self::None { reason } => Err(ConfineError::Unavailable(reason.clone())),
        }
    }

    /// The cgroup of a VM whose record does not have it: the daemon ended between the two.
    pub fn find(&self, id: VmId) -> Option<Place> {
        let place = match self {
            Self::Systemd(scopes) => {
                let unit = scope::unit_of(id);
                Place {
                    cgroup: scopes.hierarchy.mount().join(scope::SLICE).join(&unit),
                    unit: Some(unit),
                }
            }
            Self::Cgroup(own) => Place {
                cgroup: own.folder.join(id.to_string()),
                unit: None,
            },
            Self::None { .. } => return None,
        };
        place.exists().then_some(place)
    }

    /// Whether a process is in the cgroup that this very daemon, or one before it on the same state
    /// directory, made for that VM. Scopes are named by the VM alone, so theirs prove nothing: a
    /// record may be the copy of another daemon's.
    pub fn holds(&self, id: VmId, place: &Place, pid: u32) -> bool {
        match self {
            Self::Cgroup(own) => {
                place.unit.is_none()
                    && place.cgroup == own.folder.join(id.to_string())
                    && place.pids().is_ok_and(|pids| pids.contains(&pid))
            }
            Self::Systemd(_) | Self::None { .. } => false,
        }
    }

    /// At the daemon's end: takes its own folder of cgroups away, unless a VM is in it.
    pub fn leave(&self) {
        if let Self::Cgroup(own) = self {
            // The kernel refuses while there is a VM, and then that is what is wanted.
            let _ = std::fs::remove_dir(&own.folder);
        }
    }

    /// Whether a VM's traffic can be filtered here: there are cgroups, and this kernel takes the
    /// programs from this process. The error says why not.
    pub fn is_enforceable(&self) -> Result<(), ConfineError> {
        if let Self::None { reason } = self {
            return Err(ConfineError::Unavailable(reason.clone()));
        }
        filter::is_loadable()
    }
}

/// The cgroup of one VM; kept in its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub cgroup: PathBuf,
    /// The scope, where systemd made the cgroup.
    pub unit: Option<String>,
}

impl Place {
    pub fn exists(&self) -> bool {
        self.cgroup.is_dir()
    }

    /// Whether it can be the cgroup of that VM: a record may name any folder, and an empty one
    /// would be removed with the VM.
    pub fn is_of(&self, id: VmId) -> bool {
        let name = match &self.unit {
            Some(unit) if *unit != scope::unit_of(id) => return false,
            Some(unit) => unit.clone(),
            None => id.to_string(),
        };
        self.cgroup.is_absolute()
            && self.cgroup.ends_with(&name)
            && !cgroup::is_foreign(&self.cgroup)
    }

    /// Processes that are in it now; none if it is gone.
    pub fn pids(&self) -> Result<Vec<u32>, ConfineError> {
        cgroup::pids(&self.cgroup)
    }

    /// Keeps the VM's processes from reaching the host, from now on and beyond the daemon's end.
    /// Once is enough; a second time changes nothing.
    pub fn filter_outbound(&self, outbound: &Outbound) -> Result<(), ConfineError> {
        filter::attach(&self.cgroup, outbound)
    }

    /// Whether exactly this filter is there, for a daemon that comes back.
    pub fn is_filtered(&self, outbound: &Outbound) -> Result<bool, ConfineError> {
        filter::is_attached(&self.cgroup, outbound)
    }

    /// Removes the cgroup after the VM's end. One that has processes stays, and that is an error. A
    /// scope goes by itself, and is waited for: there is one of its name at a time.
    pub async fn remove(&self) -> Result<(), ConfineError> {
        match self.unit {
            Some(_) => cgroup::gone(&self.cgroup).await,
            None => cgroup::remove(&self.cgroup).await,
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ConfineError {
    let path = path.to_owned();
    move |source| ConfineError::Cgroup {
        action,
        path,
        source,
    }
}
