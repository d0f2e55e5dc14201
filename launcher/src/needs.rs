//! What of the system QEMU has to reach, whatever its VM is.
//!
//! Found by tracing QEMU 7.2 with the arguments that the host renders, and tried with a QEMU that
//! reaches nothing else. The VM's own files, devices and folders come on top.

use std::path::{Path, PathBuf};

/// Paths for [`crate::spec::Landlock`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub read: Vec<PathBuf>,
    pub execute: Vec<PathBuf>,
    pub write: Vec<PathBuf>,
}

/// Not all of `/proc`, `/sys` and `/etc`: what other processes and the host are like is no concern
/// of a QEMU that was taken over.
const READ: &[&str] = &[
    // The loader, time zones, and the libraries for TLS and networks that QEMU is linked to.
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/gnutls",
    "/etc/crypto-policies",
    "/etc/ssl/openssl.cnf",
    "/etc/libnl",
    // The user network looks for the name server. Who keeps it replaces the file, so that the
    // folders are listed where they hold nothing else of interest.
    "/etc/resolv.conf",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    // NUMA and memory.
    "/proc/self",
    "/proc/filesystems",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/stat",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
    "/sys/kernel/mm",
    "/dev/random",
    "/dev/urandom",
];
/// The program, its libraries, firmware and option ROMs.
const EXECUTE: &[&str] = &["/usr", "/lib", "/lib64"];
const WRITE: &[&str] = &["/dev/null"];
/// Name of a folder beside which a program's libraries and data lie.
const PROGRAMS: &str = "bin";

/// What the QEMU at `program` needs of the system.
pub fn qemu_needs(program: &Path) -> Needs {
    let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect();
    let mut execute: Vec<PathBuf> = paths(EXECUTE);
    let own = own_folder(program);
    if !execute.iter().any(|folder| own.starts_with(folder)) {
        execute.push(own);
    }
    Needs {
        read: paths(READ),
        execute,
        write: paths(WRITE),
    }
}

/// What an installation of its own consists of: for `/opt/qemu/bin/qemu-system-x86_64` that is
/// `/opt/qemu`, for a program in no such folder the program alone.
fn own_folder(program: &Path) -> PathBuf {
    // Whoever is named by a link is what is executed.
    let program = std::fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let folder = program
        .parent()
        .filter(|folder| folder.file_name().is_some_and(|name| name == PROGRAMS))
        .and_then(Path::parent)
        // A prefix that is the root would be everything.
        .filter(|prefix| prefix.parent().is_some());
    folder.map_or_else(|| program.clone(), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_outside_the_system_brings_its_own_folder() {
        let cases = [
            ("/usr/bin/qemu-system-none", None),
            ("/usr/local/bin/qemu-system-none", None),
            ("/opt/qemu/bin/qemu-system-none", Some("/opt/qemu")),
            ("/opt/qemu-system-none", Some("/opt/qemu-system-none")),
            ("/nowhere-bin/qemu", Some("/nowhere-bin/qemu")),
        ];
        for (program, own) in cases {
            let needs = qemu_needs(Path::new(program));
            let expected: Vec<_> = EXECUTE
                .iter()
                .copied()
                .chain(own)
                .map(PathBuf::from)
                .collect();
            assert_eq!(needs.execute, expected, "{program}");
        }
    }
}
