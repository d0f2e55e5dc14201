//! What a daemon or a VM could leave behind: processes and folders that name its state directory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

/// A killed process is gone at once, but for what a busy machine adds.
const KILL_TIME: Duration = Duration::from_secs(20);

/// Command lines of running processes that name `path`, the daemon's own left out.
pub fn processes_naming(path: &Path) -> Vec<String> {
    let found = naming(path);
    found.into_iter().map(|(_, command)| command).collect()
}

/// Pids of those processes.
pub fn pids_naming(path: &Path) -> Vec<u32> {
    naming(path).into_iter().map(|(pid, _)| pid).collect()
}

fn naming(path: &Path) -> Vec<(u32, String)> {
    let needle = path.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")
        .expect("/proc is there")
        .flatten()
    {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && let Ok(command) = std::fs::read(entry.path().join("cmdline"))
        {
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if command.contains(&needle) && !command.contains("casemated") {
                found.push((pid, command));
            }
        }
    }
    found
}

/// Kills what names `path`, and removes the cgroups that it was in. For what a test was about to
/// leave behind; without a daemon nobody else does it.
pub fn end_processes_naming(path: &Path) {
    let started = Instant::now();
    let mut cgroups = Vec::new();
    loop {
        let pids = pids_naming(path);
        if pids.is_empty() {
            break;
        }
        for pid in pids {
            cgroups.extend(own_cgroup(pid));
            let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let held =
                raw.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
            // Looked at again now that it is held: a pid can be another's by now.
            if let Some(held) = held
                && pids_naming(path).contains(&pid)
            {
                let _ = rustix::process::pidfd_send_signal(held, Signal::KILL);
            }
        }
        if started.elapsed() > KILL_TIME {
            eprintln!("left behind: {:?}", processes_naming(path));
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for cgroup in cgroups {
        // The launcher is the last to leave it.
        while std::fs::remove_dir(&cgroup).is_err()
            && cgroup.exists()
            && started.elapsed() < KILL_TIME
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Cgroups of VMs that the daemon of this state directory made by hand.
pub fn cgroups(state_dir: &Path) -> Vec<PathBuf> {
    let instance = std::fs::read_to_string(state_dir.join("instance-id")).unwrap_or_default();
    let folder = format!("casemate/instance-{}", instance.trim());
    let mut found = Vec::new();
    for mount in cgroup_mounts() {
        let Ok(entries) = std::fs::read_dir(mount.join(&folder)) else {
            continue;
        };
        let entries = entries.flatten().map(|entry| entry.path());
        found.extend(entries.filter(|path| path.is_dir()));
    }
    found
}

/// Mounts of cgroup v2.
fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (mount, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(mount))
    });
    mounts.collect()
}

/// The cgroup that a daemon made by hand for this process; none where it made none.
pub fn own_cgroup(pid: u32) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let below = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let paths = cgroup_mounts().into_iter().map(|mount| mount.join(below));
    let cgroup = paths.into_iter().find(|path| path.is_dir())?;
    below.starts_with("casemate/").then_some(cgroup)
}

/// Names in the folders of the state directory that hold one entry for each VM.
pub fn vm_entries(state_dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["records", "vms"] {
        for entry in std::fs::read_dir(state_dir.join(folder))
            .expect("it is there")
            .flatten()
        {
            found.push(format!("{folder}/{}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

/// Nothing of a VM is left: no process, no folder, no record.
pub fn assert_nothing_left(state_dir: &Path) {
    assert_eq!(processes_naming(state_dir), Vec::<String>::new());
    assert_eq!(vm_entries(state_dir), Vec::<String>::new());
    // Of a launch that failed it goes beside the answer.
    let started = Instant::now();
    while !cgroups(state_dir).is_empty() && started.elapsed() < KILL_TIME {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(cgroups(state_dir), Vec::<PathBuf>::new());
}
