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
/// For how long it is looked at: longer than the ten idle seconds after which Tokio ends a thread
/// for blocking work, and than what the daemon does by itself from time to time.
const LOOK: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(250);

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

/// The least that it holds of each: what comes and goes is not kept, and what is kept is always there.
async fn kept(daemon: &Daemon) -> Holdings {
    let begun = Instant::now();
    let mut least = holdings(daemon).await;
    while begun.elapsed() < LOOK {
        tokio::time::sleep(PAUSE).await;
        let now = holdings(daemon).await;
        least = Holdings {
            descriptors: least.descriptors.min(now.descriptors),
            threads: least.threads.min(now.threads),
            tasks: least.tasks.min(now.tasks),
        };
    }
    least
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
            ..Default::default()
        };
        let created = client.create_vm(request).await.expect("it runs");
        let id = created.into_inner().vm.expect("a VM").id;
        let removed = client
            .remove_vm(v1::RemoveVmRequest {
                id,
                ..Default::default()
            })
            .await;
        removed.expect("it goes");
        if cycle == cycles / WARM {
            let memory = status_number(&daemon, "VmRSS:");
            before = Some((kept(&daemon).await, memory));
        }
    }
    let (before, memory_before) = before.expect("a tenth of the cycles");
    let memory = status_number(&daemon, "VmRSS:");
    let after = kept(&daemon).await;
    println!(
        "{cycles} cycles in {:.0} s: {after:?}, {memory} KiB; after a tenth of them {before:?}, {memory_before} KiB",
        begun.elapsed().as_secs_f64()
    );
    assert!(before.tasks > 0, "{before:?}");
    let grew = after.descriptors > before.descriptors
        || after.threads > before.threads
        || after.tasks > before.tasks;
    assert!(!grew, "{after:?} after {before:?}");
    let grown = memory.saturating_sub(memory_before);
    assert!(
        grown <= MAX_GROWTH_KIB,
        "{grown} KiB more than {memory_before} KiB"
    );
    daemon.assert_unwound().await;
}
