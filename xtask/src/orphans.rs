//! Processes whose parent died come to us, and are ended with us.
//!
//! A test or a daemon that is killed cannot end its own QEMU any more. As the subreaper of all
//! that was started below it, this program becomes the parent of such processes, so that it can
//! find and end exactly those without ever matching by name.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait};

/// How long killed processes may take to disappear: the kernel needs milliseconds.
const REAP_DEADLINE: Duration = Duration::from_secs(5);

/// Makes this process the parent of every descendant whose own parent ends.
pub fn adopt() -> Result<()> {
    rustix::process::set_child_subreaper(Some(getpid()))
        .context("the kernel refuses to hand orphaned processes to us")
}

/// Ends and reaps all processes that have become ours. Call it when nothing is waited for any
/// more, since it reaps without regard to who started what.
pub fn end_all() {
    let deadline = Instant::now() + REAP_DEADLINE;
    while Instant::now() < deadline {
        let children = children();
        if children.is_empty() {
            return;
        }
        for child in children {
            // A process that is gone already is what is wanted, so there is nothing to report.
            let _ = kill_process(child, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(10));
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
    }
}

/// The processes whose parent is this one, from `/proc`.
fn children() -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let ours = getpid();
    processes
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            (parent_in(&stat)? == ours.as_raw_pid()).then(|| Pid::from_raw(pid))?
        })
        .collect()
}

/// The parent's pid in a line of `/proc/<pid>/stat`. The command name in parentheses may itself
/// hold spaces and parentheses, hence the search from the end.
fn parent_in(stat: &str) -> Option<i32> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    after_name.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found_behind_any_command_name() {
        assert_eq!(parent_in("12 (a) b) (c)) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in("nothing"), None);
    }
}
