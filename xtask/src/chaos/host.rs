//! What is really there on this machine, read from `/proc`, the cgroups and the daemon's folders.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// A process that no other can be taken for: pids are given out again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProcessIdentity {
    pub(super) pid: u32,
    /// In ticks since the host's boot.
    pub(super) start_time: u64,
}

impl ProcessIdentity {
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self {
            pid,
            start_time: Stat::parse(&stat)?.start_time,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    state: String,
    start_time: u64,
}

impl Stat {
    /// The command name, in parentheses, may hold anything, hence the search from the end.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Self {
            state: (*fields.first()?).to_owned(),
            parent: fields.get(1)?.parse().ok()?,
            start_time: fields.get(19)?.parse().ok()?,
        })
    }
}

#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) identity: ProcessIdentity,
    pub(super) parent: u32,
    pub(super) state: String,
    pub(super) command: String,
    /// What stands behind `-uuid`.
    pub(super) uuid: Option<String>,
}

/// Where a daemon keeps things, beside its processes.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) state: PathBuf,
    pub(super) secrets: PathBuf,
    pub(super) ports: RangeInclusive<u16>,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Scene {
    /// All that descend from this program.
    pub(super) processes: Vec<Process>,
    /// Listening ports in the daemon's range, with how many listeners each.
    pub(super) listeners: BTreeMap<u16, usize>,
    /// Folders of VMs, by the name that they have: an id.
    pub(super) folders: Vec<(String, PathBuf)>,
    /// How many of these are cgroups; none where the host has no version 2 to make them in.
    pub(super) cgroups: usize,
    /// What lies where only folders of VMs and the daemon's own files should.
    pub(super) strange: Vec<PathBuf>,
}

/// What the daemon itself keeps in its state directory.
const OWN_FILES: [&str; 6] = [
    "lock",
    "instance-id",
    "generation",
    "endpoints.json",
    "records",
    "vms",
];

impl Scene {
    pub(super) fn look(places: &Places) -> Self {
        let mut scene = Self {
            processes: descendants(),
            listeners: listeners(&places.ports),
            ..Self::default()
        };
        scene.look_into_folders(places);
        scene
    }

    fn look_into_folders(&mut self, places: &Places) {
        for entry in entries(&places.state) {
            if !OWN_FILES.iter().any(|own| entry.ends_with(own)) {
                self.strange.push(entry);
            }
        }
        let instance = std::fs::read_to_string(places.state.join("instance-id"));
        let instance = instance.unwrap_or_default().trim().to_owned();
        let mut parents = vec![places.state.join("records"), places.state.join("vms")];
        for entry in entries(&places.secrets) {
            if !instance.is_empty() && entry.ends_with(&instance) {
                parents.push(entry);
            } else {
                self.strange.push(entry);
            }
        }
        if let (Some(mount), false) = (cgroup_mount(), instance.is_empty()) {
            let of_instances = entries(&mount.join("casemate"));
            let ours = of_instances
                .iter()
                .filter(|path| path.to_string_lossy().ends_with(&instance));
            for ours in ours {
                let cgroups: Vec<PathBuf> = entries(ours)
                    .into_iter()
                    .filter(|path| path.is_dir())
                    .collect();
                self.cgroups += cgroups.len();
                self.take_folders(cgroups);
            }
        }
        for parent in parents {
            self.take_folders(entries(&parent));
        }
    }

    fn take_folders(&mut self, paths: Vec<PathBuf>) {
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            self.folders.push((name.into_owned(), path));
        }
    }

    pub(super) fn with_uuid(&self, uuid: &str) -> Vec<&Process> {
        let processes = self.processes.iter();
        processes
            .filter(|process| process.uuid.as_deref() == Some(uuid))
            .collect()
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// All processes below this one. A launcher whose daemon died is below it too: this program is the
/// subreaper of all that it started.
fn descendants() -> Vec<Process> {
    let own = std::process::id();
    let mut all: BTreeMap<u32, Process> = BTreeMap::new();
    for entry in entries(Path::new("/proc")) {
        let name = entry.file_name().unwrap_or_default().to_string_lossy();
        let Ok(pid) = name.parse::<u32>() else {
            continue;
        };
        if let Some(process) = read_process(pid, &entry) {
            all.insert(pid, process);
        }
    }
    let parents: BTreeMap<u32, u32> = all
        .iter()
        .map(|(pid, process)| (*pid, process.parent))
        .collect();
    let is_below = |pid: u32| {
        let mut seen = BTreeSet::new();
        let mut above = parents.get(&pid).copied();
        while let Some(parent) = above {
            if parent == own {
                return true;
            }
            // A tree that changes while it is read may look like a ring.
            if !seen.insert(parent) {
                return false;
            }
            above = parents.get(&parent).copied();
        }
        false
    };
    all.into_values()
        .filter(|process| is_below(process.identity.pid))
        .collect()
}

fn read_process(pid: u32, folder: &Path) -> Option<Process> {
    let stat = Stat::parse(&std::fs::read_to_string(folder.join("stat")).ok()?)?;
    let command = std::fs::read(folder.join("cmdline")).unwrap_or_default();
    let arguments: Vec<String> = command
        .split(|byte| *byte == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect();
    Some(Process {
        identity: ProcessIdentity {
            pid,
            start_time: stat.start_time,
        },
        parent: stat.parent,
        state: stat.state,
        uuid: arguments
            .iter()
            .position(|argument| argument == "-uuid")
            .and_then(|at| arguments.get(at + 1).cloned()),
        command: arguments.join(" ").trim_end().to_owned(),
    })
}

fn listeners(range: &RangeInclusive<u16>) -> BTreeMap<u16, usize> {
    let mut found = BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        for port in text.lines().filter_map(listening_port) {
            if range.contains(&port) {
                *found.entry(port).or_default() += 1;
            }
        }
    }
    found
}

/// The port in a line of `/proc/net/tcp`, if the line is a listener's: state 0A.
fn listening_port(line: &str) -> Option<u16> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let (_, port) = local.rsplit_once(':')?;
    (state == "0A").then(|| u16::from_str_radix(port, 16).ok())?
}

/// Where cgroups of version 2 are mounted, by hand or by the system.
fn cgroup_mount() -> Option<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    text.lines().find_map(cgroup_mount_in)
}

fn cgroup_mount_in(line: &str) -> Option<PathBuf> {
    let (mount, file_system) = line.split_once(" - ")?;
    file_system
        .starts_with("cgroup2 ")
        .then(|| mount.split(' ').nth(4).map(PathBuf::from))?
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_stat_line_is_read_behind_any_command_name() {
        let line = "12 (a) b) (c)) Z 7 12 12 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        assert_eq!(
            Stat::parse(line),
            Some(Stat {
                parent: 7,
                state: "Z".to_owned(),
                start_time: 4711,
            })
        );
        assert_eq!(Stat::parse("nothing"), None);
        assert!(ProcessIdentity::of(std::process::id()).is_some());
    }

    #[test]
    fn only_listeners_count() {
        let listens = "   0: 0100007F:17D4 00000000:0000 0A 00000000:00000000 00:00000000 0";
        let connected = "   1: 0100007F:17D4 0100007F:9C40 01 00000000:00000000 00:00000000 0";
        assert_eq!(listening_port(listens), Some(6100));
        assert_eq!(listening_port(connected), None);
        assert_eq!(listening_port("  sl  local_address rem_address   st"), None);
    }

    #[test]
    fn the_mount_of_version_2_is_found() {
        for (line, expected) in [
            (
                "35 25 0:30 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw",
                Some(PathBuf::from("/sys/fs/cgroup/unified")),
            ),
            (
                "36 25 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
                None,
            ),
            ("", None),
        ] {
            assert_eq!(cgroup_mount_in(line), expected, "{line}");
        }
    }

    #[test]
    fn a_child_is_a_descendant() {
        let mut command = crate::child::program("/bin/sleep");
        let mut child = command.arg("30").spawn().expect("it starts");
        // Its command line is empty while it begins.
        let begun = Instant::now();
        let found = loop {
            let mut found = descendants().into_iter();
            let found = found.find(|process| process.identity.pid == child.id());
            let has_begun = found.as_ref().is_none_or(|one| !one.command.is_empty());
            if has_begun || begun.elapsed() > Duration::from_secs(10) {
                break found;
            }
        };
        child.kill().expect("it lives");
        child.wait().expect("it ends");
        assert_eq!(
            found.map(|process| process.command),
            Some("/bin/sleep 30".to_owned())
        );
    }
}
