//! Cgroups v2 by hand: where they are mounted, and one for each VM where nobody else owns them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{ConfineError, PlaceLimits, failed};

/// What all daemons' cgroups lie below.
const OURS: &str = "casemate";
/// What a limit needs, where the host has it.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// How long an ended process may take to leave its cgroup: the kernel frees what it held first.
const REMOVE_DEADLINE: Duration = Duration::from_secs(2);
const REMOVE_PAUSE: Duration = Duration::from_millis(20);

/// A mount of cgroup v2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    mount: PathBuf,
    /// The cgroup that is seen at the mount: `/` but in some containers.
    root: PathBuf,
}

impl Hierarchy {
    /// The mount that this process sees.
    pub(super) fn find() -> io::Result<Option<Self>> {
        Ok(Self::among(&std::fs::read_to_string(
            "/proc/self/mountinfo",
        )?))
    }

    /// Of several, the one at the usual place: `/sys/fs/cgroup`, or `unified` below it on hosts that
    /// have both versions. A read-only one serves nobody.
    fn among(mountinfo: &str) -> Option<Self> {
        let writable = mountinfo.lines().filter_map(|line| {
            // proc_pid_mountinfo(5): optional fields end at a lone dash.
            let (mount, file_system) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').skip(3);
            let (root, mount, options) = (fields.next()?, fields.next()?, fields.next()?);
            let is_writable = options.split(',').any(|option| option == "rw");
            (file_system.starts_with("cgroup2 ") && is_writable).then(|| Self {
                mount: mount.into(),
                root: root.into(),
            })
        });
        writable.min_by_key(|hierarchy| !hierarchy.mount.starts_with("/sys/fs/cgroup"))
    }

    pub(super) fn mount(&self) -> &Path {
        &self.mount
    }

    /// Where a process is.
    pub(super) fn of_process(&self, pid: u32) -> Result<PathBuf, ConfineError> {
        let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
        let text = std::fs::read_to_string(&path).map_err(failed("read", &path))?;
        self.member(&text).ok_or_else(|| {
            let nowhere = io::Error::other("it names no cgroup v2 below the mount");
            failed("understand", &path)(nowhere)
        })
    }

    /// What the line of version 2 in `/proc/PID/cgroup` names, as a path below the mount.
    fn member(&self, text: &str) -> Option<PathBuf> {
        let cgroup = Path::new(text.lines().find_map(|line| line.strip_prefix("0::"))?);
        Some(self.mount.join(cgroup.strip_prefix(&self.root).ok()?))
    }

    /// Makes the folder for this daemon's VMs, with the controllers that limits need as far as they
    /// are to be had: a cgroup that has processes of its own passes none on, and then its VMs have a
    /// cgroup without limits.
    pub(super) fn prepare(&self, instance: &str) -> io::Result<PathBuf> {
        let ours = self.mount.join(OURS);
        let folder = ours.join(file_name(instance));
        std::fs::create_dir_all(&folder)?;
        for cgroup in [&self.mount, &ours, &folder] {
            for controller in CONTROLLERS {
                let control = cgroup.join("cgroup.subtree_control");
                if let Err(error) = std::fs::write(control, format!("+{controller}")) {
                    tracing::debug!(cgroup = %cgroup.display(), controller, %error, "no such limits");
                }
            }
        }
        Ok(folder)
    }
}

/// An instance's name is the operator's; what would be another path or a control file is replaced.
fn file_name(instance: &str) -> String {
    let kept = instance.chars().map(|c| match c {
        'A'..='Z' | 'a'..='z' | '0'..='9' | '-' | '_' => c,
        _ => '_',
    });
    format!("instance-{}", kept.collect::<String>())
}

/// Makes a VM's cgroup and moves the process into it. Where that fails, the cgroup goes again.
pub(super) fn make(cgroup: &Path, pid: u32, limits: PlaceLimits) -> Result<(), ConfineError> {
    if cgroup.is_dir() {
        // Of an earlier process of this VM. The kernel keeps one that is in use.
        let _ = std::fs::remove_dir(cgroup);
    }
    std::fs::create_dir(cgroup).map_err(failed("create", cgroup))?;
    let filled = fill(cgroup, pid, limits);
    if filled.is_err() {
        // It is empty, because the move is the last step.
        let _ = std::fs::remove_dir(cgroup);
    }
    filled
}

fn fill(cgroup: &Path, pid: u32, limits: PlaceLimits) -> Result<(), ConfineError> {
    for (file, limit) in [
        ("memory.max", limits.memory_bytes),
        // A guest's memory is nothing for the host's disk.
        ("memory.swap.max", limits.memory_bytes.map(|_| 0)),
        ("pids.max", limits.tasks),
    ] {
        let file = cgroup.join(file);
        match limit {
            Some(limit) if file.exists() => {
                std::fs::write(&file, limit.to_string()).map_err(failed("write to", &file))?;
            }
            Some(_) => tracing::debug!(file = %file.display(), "the host has no such limit"),
            None => {}
        }
    }
    let processes = cgroup.join("cgroup.procs");
    std::fs::write(&processes, pid.to_string()).map_err(failed("write to", &processes))
}

pub(super) fn pids(cgroup: &Path) -> Result<Vec<u32>, ConfineError> {
    let path = cgroup.join("cgroup.procs");
    match std::fs::read_to_string(&path) {
        // A process of another PID namespace is shown as 0; it is one all the same.
        Ok(text) => Ok(text.lines().filter_map(|pid| pid.parse().ok()).collect()),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(failed("read", &path)(error)),
    }
}

/// A folder of another file system; one that is gone is none.
pub(super) fn is_foreign(path: &Path) -> bool {
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    rustix::fs::statfs(path).is_ok_and(|status| status.f_type != CGROUP2_SUPER_MAGIC)
}

/// A file that was open while its cgroup went answers ENODEV.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

/// Waits until somebody else has removed it.
pub(super) async fn gone(cgroup: &Path) -> Result<(), ConfineError> {
    let end = Instant::now() + REMOVE_DEADLINE;
    while cgroup.is_dir() {
        if Instant::now() >= end {
            return Err(ConfineError::InUse {
                path: cgroup.to_owned(),
                pids: pids(cgroup)?,
            });
        }
        tokio::time::sleep(REMOVE_PAUSE).await;
    }
    Ok(())
}

/// The kernel removes no cgroup that has a process; one that is just ending gets a moment.
pub(super) async fn remove(cgroup: &Path) -> Result<(), ConfineError> {
    let end = Instant::now() + REMOVE_DEADLINE;
    loop {
        match std::fs::remove_dir(cgroup) {
            Ok(()) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) if error.kind() != io::ErrorKind::ResourceBusy => {
                return Err(failed("remove", cgroup)(error));
            }
            Err(error) if Instant::now() >= end => {
                let pids = pids(cgroup)?;
                return Err(match pids.as_slice() {
                    [] => failed("remove", cgroup)(error),
                    _ => ConfineError::InUse {
                        path: cgroup.to_owned(),
                        pids,
                    },
                });
            }
            Err(_) => tokio::time::sleep(REMOVE_PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIFIED: &str = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        42 27 0:38 / /mnt/other rw,relatime - cgroup2 none rw\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
    const CONTAINER: &str = "35 24 0:30 /box /sys/fs/cgroup rw - cgroup2 cgroup rw\n";

    #[test]
    fn the_mount_of_version_2_is_found() {
        let cases = [
            (UNIFIED, Some(("/sys/fs/cgroup", "/"))),
            (HYBRID, Some(("/sys/fs/cgroup/unified", "/"))),
            (CONTAINER, Some(("/sys/fs/cgroup", "/box"))),
            ("35 24 0:30 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n", None),
            ("35 24 0:30 / /sys/fs/cgroup rw - cgroup cgroup2 rw\n", None),
            ("", None),
        ];
        for (mountinfo, found) in cases {
            let wanted = found.map(|(mount, root)| Hierarchy {
                mount: mount.into(),
                root: root.into(),
            });
            assert_eq!(Hierarchy::among(mountinfo), wanted, "{mountinfo}");
        }
    }

    #[test]
    fn a_process_is_found_below_the_mount() {
        let cases = [
            (UNIFIED, "0::/a/b\n", Some("/sys/fs/cgroup/a/b")),
            (UNIFIED, "4:memory:/x\n0::/\n", Some("/sys/fs/cgroup/")),
            (CONTAINER, "0::/box/a\n", Some("/sys/fs/cgroup/a")),
            (CONTAINER, "0::/elsewhere\n", None),
            (UNIFIED, "4:memory:/x\n", None),
        ];
        for (mountinfo, text, wanted) in cases {
            let hierarchy = Hierarchy::among(mountinfo).expect("a mount");
            assert_eq!(hierarchy.member(text), wanted.map(PathBuf::from), "{text}");
        }
    }

    #[test]
    fn an_instance_is_one_folder_below_ours() {
        for instance in ["..", "a/b", "cgroup.procs", "", "host-1"] {
            let name = file_name(instance);
            assert_eq!(Path::new(&name).components().count(), 1, "{name}");
            assert!(!name.contains('.'), "{name}");
        }
    }
}
