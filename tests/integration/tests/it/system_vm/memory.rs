//! A VM whose QEMU takes more memory than guest and overhead is ended by the kernel, alone.

use serde_json::json;

use super::{GUEST_MEMORY, Host, text};

/// What a QEMU may take beside its guest's memory, whatever its plan.
const QEMU_MEMORY: u64 = 320 << 20;
/// What `plain-kvm` says on top.
const PLAN_MEMORY: u64 = 320 << 20;

#[test]
fn a_qemu_that_takes_more_memory_than_it_may_is_killed_alone() {
    let Some(mut host) = Host::boot() else {
        return;
    };
    host.start_daemon();
    let daemon = host.daemon_pid();
    let other = host.create("other", "");
    host.script(&json!({"eat_mib": 1024, "delay_ms": {"running": 3000}}));
    let greedy = host.create("greedy", "");
    host.script(&json!({}));
    let record = host.record(&greedy);
    let cgroup = text(&record["process"]["place"]["cgroup"]).to_owned();
    let pid = greedy["pid"].to_string();
    let limits = host.run(&format!(
        "cd {cgroup} && cat memory.max pids.max && cat cgroup.procs"
    ));
    let mut limits = limits.lines();
    let limit = GUEST_MEMORY + QEMU_MEMORY + PLAN_MEMORY;
    assert_eq!(limits.next(), Some(limit.to_string().as_str()));
    assert_eq!(limits.next(), Some("4096"));
    let processes: Vec<&str> = limits.collect();
    assert!(
        processes.len() == 2 && processes.contains(&pid.as_str()),
        "{processes:?}"
    );

    let ended = host.wait_for("the end of the greedy one", |host| {
        let vm = host.vms().remove("greedy").expect("it is listed");
        (vm["state"] == "exited").then_some(vm)
    });
    host.say("killed");
    assert_eq!(ended["last_exit"]["signal"], 9, "{ended}");
    assert_eq!(ended["last_exit"]["code"], json!(null), "{ended}");
    println!("  the daemon says: {}", ended["detail"]);
    // The kernel's own word: whom it killed, for which limit.
    let kernel = host.run("dmesg");
    let kills: Vec<&str> = kernel
        .lines()
        .filter(|line| line.contains("Killed process"))
        .collect();
    assert_eq!(kills.len(), 1, "{kernel}");
    assert!(
        kills[0].contains("Memory cgroup out of memory"),
        "{kills:?}"
    );
    assert!(kills[0].contains(&format!("process {pid} ")), "{kills:?}");

    // Nothing else was touched, and nothing of it is left.
    assert_eq!(host.daemon_pid(), daemon);
    host.run(&format!("kill -0 {}", daemon.trim()));
    let still = host.vms().remove("other").expect("it is listed");
    assert_eq!(
        (&still["state"], &still["pid"]),
        (&json!("running"), &other["pid"])
    );
    host.run(&format!("[ ! -e {cgroup} ]"));
    // It can be started again, with the same limit.
    let again = host.ask("vm start greedy")[0].take();
    assert_eq!(again["started"], true, "{again}");
    let record = host.record(&greedy);
    let cgroup = text(&record["process"]["place"]["cgroup"]).to_owned();
    assert_eq!(
        host.run(&format!("cat {cgroup}/memory.max")).trim(),
        limit.to_string()
    );
    host.ask("vm remove greedy other");
    assert_eq!(host.folders(), Vec::<String>::new());
    host.run(&format!("[ ! -e {cgroup} ]"));
    host.say("done");
}
