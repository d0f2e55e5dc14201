//! How QEMU, which runs as nobody, gets at devices and sockets of the host: by a descriptor, by a
//! group that lets it, or not at all.

use std::collections::BTreeSet;
use std::fs::FileType;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use crate::probe;
use crate::qemu::process::Credentials;
use crate::spec::request::Accelerator;
use crate::vm::error::CreateError;
use crate::vm::planning::Planned;

/// How QEMU gets at `/dev/kvm`.
pub(super) enum KvmAccess {
    None,
    Descriptor(OwnedFd),
    /// QEMU before 8.2 opens the device itself: the device's group lets it.
    Group(u32),
}

impl KvmAccess {
    pub(super) fn open(planned: &Planned) -> Result<Self, CreateError> {
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

/// A granted path is opened by QEMU itself, as the user that it runs as: groups that let it.
pub(super) fn host_path_groups(
    planned: &Planned,
    credentials: Credentials,
) -> Result<BTreeSet<u32>, CreateError> {
    let mut groups = BTreeSet::new();
    if credentials == Credentials::Daemon {
        return Ok(groups);
    }
    for path in planned.checked.plan().host_paths() {
        // Who may make a link there would choose what QEMU gets.
        let what = match std::fs::symlink_metadata(path) {
            Err(error) => format!("cannot be used: {error}"),
            Ok(metadata) if !is_node_or_socket(metadata.file_type()) => {
                "is no device and no socket, or a link to one".to_owned()
            }
            Ok(metadata) => match HostPathAccess::of(metadata.mode(), metadata.gid()) {
                HostPathAccess::Anybody => continue,
                HostPathAccess::Group(group) => {
                    groups.insert(group);
                    continue;
                }
                HostPathAccess::Closed => "is closed to the user that QEMU runs as".to_owned(),
            },
        };
        return Err(CreateError::HostPath {
            path: path.to_owned(),
            what,
        });
    }
    Ok(groups)
}

fn is_node_or_socket(kind: FileType) -> bool {
    kind.is_char_device() || kind.is_socket()
}

/// Who may read and write a node or socket of the host.
#[derive(Debug, PartialEq, Eq)]
enum HostPathAccess {
    Anybody,
    /// QEMU gets the group beside its own.
    Group(u32),
    Closed,
}

impl HostPathAccess {
    fn of(mode: u32, group: u32) -> Self {
        // Root's group opens far more than this one path, so QEMU is never given it.
        if mode & 0o006 == 0o006 {
            Self::Anybody
        } else if mode & 0o060 == 0o060 && group != 0 {
            Self::Group(group)
        } else {
            Self::Closed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_granted_is_a_device_or_a_socket_itself() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink(at("socket"), at("link")).unwrap();
        for (path, fits) in [
            (at("socket"), true),
            ("/dev/null".into(), true),
            (at("file"), false),
            (at("link"), false),
            (folder.path().to_owned(), false),
        ] {
            let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
            assert_eq!(is_node_or_socket(kind), fits, "{}", path.display());
        }
    }

    #[test]
    fn qemu_gets_a_group_that_opens_the_path_and_never_roots() {
        for (mode, group, expected) in [
            (0o020_666, 0, HostPathAccess::Anybody),
            (0o020_666, 104, HostPathAccess::Anybody),
            (0o020_660, 104, HostPathAccess::Group(104)),
            (0o140_770, 999, HostPathAccess::Group(999)),
            (0o020_660, 0, HostPathAccess::Closed),
            (0o020_640, 104, HostPathAccess::Closed),
            (0o020_600, 104, HostPathAccess::Closed),
            (0o020_604, 0, HostPathAccess::Closed),
        ] {
            assert_eq!(
                HostPathAccess::of(mode, group),
                expected,
                "{mode:o} {group}"
            );
        }
    }
}
