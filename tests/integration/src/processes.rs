//! Processes as the kernel tells of them, and signals to those that a test may send them to.

use rustix::process::{Pid, PidfdFlags, Signal};

/// What `/proc/PID/stat` says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `T`: stopped, `Z`: dead.
    pub state: char,
    pub parent: u32,
    /// Clock ticks after boot: with the pid it names one process.
    pub start_time: u64,
}

/// None: there is no such process.
pub fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
    })
}

/// Whether it runs, or is stopped; a dead process that nobody reaped does not.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// Sends a signal to a process that the caller knows to be its own or its daemon's.
pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.expect("a pid");
    let held = rustix::process::pidfd_open(pid, PidfdFlags::empty()).expect("it is there");
    rustix::process::pidfd_send_signal(held, signal).expect("it can be signalled");
}

/// Waits for the end of a process that is nobody's child here.
pub async fn ended(pid: u32) {
    crate::daemon::eventually(
        "the end of a process",
        std::time::Duration::from_secs(60),
        || async { (!is_alive(pid)).then_some(()) },
    )
    .await;
}

/// Processes that were started with this `-uuid`.
pub fn with_uuid(id: &str) -> Vec<u32> {
    let needle = format!("-uuid\0{id}\0");
    let entries = std::fs::read_dir("/proc")
        .expect("/proc is there")
        .flatten();
    let found = entries.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let is_it = String::from_utf8_lossy(&command).contains(&needle);
        is_it.then_some(pid)
    });
    found.collect()
}
