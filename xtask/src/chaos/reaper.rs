//! Collects the ends of processes that have become this program's children because the daemon that
//! started them died. On a host the first process does so; a dead process that nobody collects is
//! still in the process list, and would be taken for one that lives.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, waitpid};

/// A launcher's end is waited for by the next daemon, which looks this often.
const INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Reaper {
    /// The daemon, whose end its own guard collects. Held while it is being started, so that a
    /// daemon that dies at once is not taken for another.
    spared: Arc<Mutex<Option<u32>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    pub(super) fn start() -> Self {
        let spared = Arc::new(Mutex::new(None));
        let ends = Arc::new(AtomicBool::new(false));
        let thread = {
            let spared: Arc<Mutex<Option<u32>>> = Arc::clone(&spared);
            let ends = Arc::clone(&ends);
            std::thread::spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    {
                        let spared = spared.lock().unwrap_or_else(PoisonError::into_inner);
                        reap(&children(), *spared);
                    }
                    std::thread::sleep(INTERVAL);
                }
            })
        };
        Self {
            spared,
            ends,
            thread: Some(thread),
        }
    }

    /// Starts a program whose end is not to be collected here.
    pub(super) fn spare<T>(
        &self,
        start: impl FnOnce() -> T,
        pid: impl FnOnce(&T) -> Option<u32>,
    ) -> T {
        let mut spared = self.spared.lock().unwrap_or_else(PoisonError::into_inner);
        let started = start();
        *spared = pid(&started);
        started
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn reap(among: &[u32], spared: Option<u32>) {
    for &pid in among {
        if Some(pid) != spared
            && is_dead(pid)
            && let Some(pid) = Pid::from_raw(pid.cast_signed())
        {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// Orphans are handed to any of this program's threads.
fn children() -> Vec<u32> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            let pids = list.split_ascii_whitespace();
            pids.filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

fn is_dead(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    state.trim_start().starts_with('Z')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_child_is_seen_and_collected() {
        let mut command = crate::child::program("/bin/true");
        let pid = command.spawn().expect("it starts").id();
        while !is_dead(pid) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(children().contains(&pid));
        // Other tests of this program have children of their own.
        reap(&[pid], Some(pid));
        assert!(children().contains(&pid), "it was to be spared");
        reap(&[pid], None);
        assert!(!children().contains(&pid));
    }
}
