//! VMs come and go for long, and the daemon is as it was: descriptors, threads, tasks and memory.
//!
//! With the scripted QEMU, because the real one takes minutes for so many starts. What QEMU costs is
//! not asked here; everything else of a create and of a removal is the real thing.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use casemate_integration::daemon::{Daemon, Setup};
use casemate_proto::v1;
use serde_json::json;
use xtask::endurance::VARIABLE;

/// Cycles where nobody asks for more: enough to see what leaks with each.
const CYCLES: usize = 500;
/// Share of the cycles after which caches and pools are full.
const WARM: usize = 10;
/// What the allocator may keep more.
const MAX_GROWTH_KIB: u64 = 2 << 10;
/// Tokio ends a thread for blocking work after ten idle seconds: what stays for longer is kept.
const REST: Duration = Duration::from_secs(12);
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);

/// What a daemon holds of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    threads: u64,
    tasks: u64,
}

fn status_number(daemon: &Daemon, field: &str) -> u64 {
    let status = PathBuf::from(format!("/proc/{}/status", daemon.pid()));
    let text = std::fs::read_to_string(status).expect("it runs");
    let value = text.lines().find_map(|line| line.strip_prefix(field));
    let value = value.and_then(|value| value.split_whitespace().next());
    value
        .and_then(|value| value.parse().ok())
        .expect("a number")
}

async fn holdings(daemon: &Daemon) -> Holdings {
    let (_, metrics) = daemon.get_http("/metrics").await;
    let tasks = metrics
        .lines()
        .find_map(|line| line.strip_prefix("casemate_tasks "));
    let folder = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs");
    Holdings {
        descriptors: folder.count(),
        threads: status_number(daemon, "Threads:"),
        tasks: tasks
            .and_then(|tasks| tasks.parse().ok())
            .expect("a number"),
    }
}

/// What it holds once that has not changed for a while.
async fn at_rest(daemon: &Daemon) -> Holdings {
    let begun = Instant::now();
    let mut last = holdings(daemon).await;
    let mut since = Instant::now();
    while since.elapsed() < REST {
        assert!(begun.elapsed() < PATIENCE, "it comes to no rest: {last:?}");
        tokio::time::sleep(PAUSE).await;
        let now = holdings(daemon).await;
        if now != last {
            last = now;
            since = Instant::now();
        }
    }
    last
}

#[tokio::test]
async fn vms_that_come_and_go_leave_the_daemon_as_it_was() {
    let asked = std::env::var(VARIABLE).ok();
    let cycles = asked.map_or(CYCLES, |text| text.parse().expect("a number of cycles"));
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    let mut client = daemon.vms().await;
    let mut before = None;
    let begun = Instant::now();
    for cycle in 1..=cycles {
        let request = v1::CreateVmRequest {
            spec: Some(v1::VmSpec::default()),
        };
        let created = client.create_vm(request).await.expect("it runs");
        let id = created.into_inner().vm.expect("a VM").id;
        let removed = client.remove_vm(v1::RemoveVmRequest { id }).await;
        removed.expect("it goes");
        if cycle == cycles / WARM {
            let memory = status_number(&daemon, "VmRSS:");
            before = Some((at_rest(&daemon).await, memory));
        }
    }
    let (before, memory_before) = before.expect("a tenth of the cycles");
    let memory = status_number(&daemon, "VmRSS:");
    let after = at_rest(&daemon).await;
    println!(
        "{cycles} cycles in {:.0} s: {after:?}, {memory} KiB; after a tenth of them {before:?}, {memory_before} KiB",
        begun.elapsed().as_secs_f64()
    );
    assert!(before.tasks > 0, "{before:?}");
    assert_eq!(after, before);
    let grown = memory.saturating_sub(memory_before);
    assert!(
        grown <= MAX_GROWTH_KIB,
        "{grown} KiB more than {memory_before} KiB"
    );
    daemon.assert_unwound().await;
}
