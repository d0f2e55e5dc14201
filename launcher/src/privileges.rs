//! Gives up what the launcher was started with: limits, groups, user, capabilities.
//!
//! The launcher has one thread, so that what is said of a thread below is said of the process.

use std::io;

use casemate_launcher::spec::{Limits, User};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

/// What could not be given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegeError {
    #[error("the limit {0} cannot be set")]
    Limit(&'static str, #[source] io::Error),
    #[error("capabilities cannot be dropped")]
    Capabilities(#[source] io::Error),
    #[error("the supplementary groups cannot be set")]
    Groups(#[source] io::Error),
    #[error("group {0} cannot be taken on")]
    Group(u32, #[source] io::Error),
    #[error("user {0} cannot be taken on")]
    User(u32, #[source] io::Error),
    #[error("no_new_privs cannot be set")]
    NoNewPrivileges(#[source] io::Error),
    #[error("core dumps cannot be forbidden")]
    Dumpable(#[source] io::Error),
}

/// The order matters: limits and the bounding set need rights that go with the user.
pub(crate) fn give_up(user: Option<&User>, limits: &Limits) -> Result<(), PrivilegeError> {
    // New files, a VM's sockets among them, are of no concern to others.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    set_limits(limits)?;
    if let Some(user) = user {
        become_user(user)?;
    }
    rustix::thread::set_no_new_privs(true)
        .map_err(|error| PrivilegeError::NoNewPrivileges(error.into()))?;
    // Also keeps others of the same user from tracing the launcher.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| PrivilegeError::Dumpable(error.into()))
}

fn set_limits(limits: &Limits) -> Result<(), PrivilegeError> {
    let wanted = [
        // One byte and not none: when core_pattern is a pipe, the kernel ignores a limit of 0, and
        // takes 1 as "no dump". A file of one byte is no dump either. A guest's memory is secret.
        (Resource::Core, "core", Some(1)),
        (Resource::Nofile, "nofile", Some(limits.open_files)),
        (Resource::Nproc, "nproc", limits.processes),
        (Resource::Memlock, "memlock", limits.locked_memory),
        (Resource::Fsize, "fsize", limits.file_size),
    ];
    for (resource, name, value) in wanted {
        let Some(value) = value else { continue };
        set_limit(resource, value).map_err(|error| PrivilegeError::Limit(name, error))?;
    }
    Ok(())
}

fn set_limit(resource: Resource, value: u64) -> io::Result<()> {
    let limit = |value| Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    match rustix::process::setrlimit(resource, limit(value)) {
        Err(rustix::io::Errno::PERM) => {
            // Raising needs a right; without it, what there is has to do.
            let most = rustix::process::getrlimit(resource).maximum;
            let value = most.map_or(value, |most| most.min(value));
            Ok(rustix::process::setrlimit(resource, limit(value))?)
        }
        other => Ok(other?),
    }
}

fn become_user(user: &User) -> Result<(), PrivilegeError> {
    let groups: Vec<_> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    empty_bounding_set().map_err(PrivilegeError::Capabilities)?;
    setgroups(&groups).map_err(|error| PrivilegeError::Groups(error.into()))?;
    setresgid(gid, gid, gid).map_err(|error| PrivilegeError::Group(user.gid, error.into()))?;
    setresuid(uid, uid, uid).map_err(|error| PrivilegeError::User(user.uid, error.into()))?;
    // Leaving root emptied the permitted, effective and ambient sets already, unless securebits
    // say otherwise; the inheritable one stays.
    rustix::thread::clear_ambient_capability_set()
        .and_then(|()| {
            let none = CapabilitySets {
                effective: CapabilitySet::empty(),
                permitted: CapabilitySet::empty(),
                inheritable: CapabilitySet::empty(),
            };
            rustix::thread::set_capabilities(None, none)
        })
        .map_err(|error| PrivilegeError::Capabilities(error.into()))
}

fn empty_bounding_set() -> io::Result<()> {
    // By number, so that a capability that is newer than this program goes too.
    for bit in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel has no more.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
