//! A host that goes down with VMs on it, and comes back: with and without `on_boot = "start"`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use xtask::system_vm::machine::Outage;

use super::{Host, PORTS, STATE, text};

const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn a_host_that_comes_back_has_its_vms_as_they_were_to_be() {
    let Some(mut host) = Host::boot() else {
        return;
    };
    host.start_daemon();
    let plain = host.create("plain", "");
    let secret = host.create("secret", "--env TOKEN=canary");
    let long = host.create("long", "--ttl 2days");
    host.create("short", "--ttl 1h");
    let stopped = host.create("stopped", "");
    assert_eq!(host.ask("vm stop stopped")[0]["stopped"], true);
    // Neither power button nor quit nor SIGTERM ends it: its removal takes half a minute.
    host.script(&json!({"ignore": ["system_powerdown", "quit", "sigterm"]}));
    host.create("stubborn", "");
    host.script(&json!({}));
    let users = users(&mut host, &[&plain, &secret, &long, &stopped]);
    host.run(&format!(
        "setsid {} vm remove stubborn > /dev/null 2>&1 &",
        super::casemate()
    ));
    host.wait_for("the removal", |host| {
        let vm = host.vms().remove("stubborn").expect("it takes its time");
        (vm["state"] == "stopping").then_some(())
    });

    host.end_and_boot(Outage::PowerCut, 2 * HOUR);
    a_daemon_that_leaves_them(&mut host, &long);
    uses_what_was_theirs(&mut host, &users, &[&plain, &long, &stopped]);

    // Two days: the long one is over.
    host.create("second", "--env TOKEN=canary");
    let fresh = host.create("fresh", "");
    let before = host.vms();
    host.setup.set("on_boot", "start");
    host.end_and_boot(Outage::Reboot, 48 * HOUR);
    a_daemon_that_starts_them(&mut host, &before);
    assert_eq!(user(&mut host, &plain), users[0]);
    assert_ne!(user(&mut host, &fresh), users[0]);
    let running: Vec<Value> = host
        .vms()
        .into_values()
        .filter(|vm| vm["state"] == "running")
        .collect();
    ports_and_processes(&mut host, &running.iter().collect::<Vec<_>>());

    host.ask("vm remove plain secret stopped second fresh");
    assert_eq!(host.folders(), Vec::<String>::new());
    host.say("done");
}

fn a_daemon_that_leaves_them(host: &mut Host, long: &Value) {
    host.start_daemon();
    let vms = host.wait_for("the removals", |host| {
        let vms = host.vms();
        let are_gone = !vms.contains_key("stubborn") && !vms.contains_key("short");
        are_gone.then_some(vms)
    });
    let states: Vec<(&str, &str)> = vms
        .iter()
        .map(|(name, vm)| (name.as_str(), text(&vm["state"])))
        .collect();
    assert_eq!(
        states,
        [
            ("long", "exited"),
            ("plain", "exited"),
            ("secret", "exited"),
            ("stopped", "stopped")
        ]
    );
    for name in ["long", "plain", "secret"] {
        assert!(
            text(&vms[name]["detail"]).contains("with the host"),
            "{}",
            vms[name]
        );
        assert_eq!(vms[name]["pid"], 0);
        assert_eq!(vms[name]["agent_address"], "");
    }
    println!("  the daemon says: {}", vms["plain"]["detail"]);
    assert_eq!(vms["long"]["expires_at"], long["expires_at"]);
    assert_eq!(host.folders().len(), 2 * vms.len(), "{:?}", host.folders());
    assert_eq!(host.run("pgrep -c fake-qemu || true").trim(), "0");
    // Its secrets were in memory, and are nowhere.
    let refused = host.try_run(&format!("{} vm start secret 2>&1", super::casemate()));
    assert_ne!(refused.code, 0);
    assert!(
        refused.output.contains("secrets-gone"),
        "{}",
        refused.output
    );
    assert_eq!(host.vms()["secret"]["state"], "failed");
    let found = host.try_run(&format!("grep -rl canary {STATE} /run/casemate"));
    assert_eq!((found.code, found.output.as_str()), (1, ""));
}

/// Started again, each VM has the user and the folder that it had, and a port that nobody else has.
fn uses_what_was_theirs(host: &mut Host, before: &[u64], vms: &[&Value]) {
    for name in ["plain", "long", "stopped"] {
        let started = host.ask(&format!("vm start {name}"))[0].take();
        assert_eq!(started["started"], true, "{started}");
    }
    assert_eq!(users(host, vms), [before[0], before[2], before[3]]);
    let running: Vec<Value> = host
        .vms()
        .into_values()
        .filter(|vm| vm["state"] == "running")
        .collect();
    assert_eq!(running.len(), 3);
    ports_and_processes(host, &running.iter().collect::<Vec<_>>());
    assert_eq!(host.ask("vm stop stopped")[0]["stopped"], true);
}

fn a_daemon_that_starts_them(host: &mut Host, before: &std::collections::BTreeMap<String, Value>) {
    host.start_daemon();
    let vms = host.wait_for("the starts", |host| {
        let vms = host.vms();
        let is = |name: &str, state: &str| vms[name]["state"] == state;
        let are_done = is("plain", "running")
            && is("fresh", "running")
            && is("second", "failed")
            && !vms.contains_key("long");
        are_done.then_some(vms)
    });
    let states: Vec<(&str, &str)> = vms
        .iter()
        .map(|(name, vm)| (name.as_str(), text(&vm["state"])))
        .collect();
    assert_eq!(
        states,
        [
            ("fresh", "running"),
            ("plain", "running"),
            // It was up, and cannot be again.
            ("second", "failed"),
            // It was down already: its last start had failed.
            ("secret", "failed"),
            ("stopped", "stopped")
        ],
        "{vms:#?}"
    );
    assert!(
        text(&vms["second"]["detail"]).contains("secrets"),
        "{}",
        vms["second"]
    );
    println!("  the daemon says: {}", vms["second"]["detail"]);
    // Nor was the one whose time was over started for a moment.
    let starts = host.setup.folder.path().join("fake/fake-qemu.starts");
    let starts = host.run(&format!("cat {}", starts.display()));
    for (name, is_started) in [
        ("plain", true),
        ("fresh", true),
        ("long", false),
        ("stopped", false),
    ] {
        let id = text(&before[name]["id"]);
        assert_eq!(starts.contains(id), is_started, "{name}: {starts}");
    }
    for name in ["fresh", "plain"] {
        assert_ne!(vms[name]["started_at"], before[name]["started_at"]);
        assert_eq!(vms[name]["id"], before[name]["id"]);
    }
}

fn user(host: &mut Host, vm: &Value) -> u64 {
    let uid = host.record(vm)["uid"].as_u64().expect("a user");
    // The folder says the same: it has the group of that user.
    let folder = format!("{STATE}/vms/{}", text(&vm["id"]));
    let group = host.run(&format!("stat -c %g {folder}"));
    assert_eq!(group.trim(), uid.to_string());
    uid
}

fn users(host: &mut Host, vms: &[&Value]) -> Vec<u64> {
    let users: Vec<u64> = vms.iter().map(|vm| user(host, vm)).collect();
    let different: BTreeSet<_> = users.iter().collect();
    assert_eq!(different.len(), users.len(), "{users:?}");
    users
}

/// Each runs as the user of its record, and its port, of the range, is its own by the kernel's word.
fn ports_and_processes(host: &mut Host, vms: &[&Value]) {
    let mut ports = BTreeSet::new();
    for vm in vms {
        let pid = &vm["pid"];
        let status = host.run(&format!("cat /proc/{pid}/status"));
        let uid = format!("Uid:\t{0}\t{0}\t{0}\t{0}\n", user(host, vm));
        assert!(status.contains(&uid), "{status}");
        let (_, port) = text(&vm["agent_address"]).rsplit_once(':').expect("a port");
        let port: u16 = port.parse().expect("a number");
        assert!(
            PORTS.contains(&port) && ports.insert(port),
            "{port} twice, or out of range"
        );
        let listener = host.run(&format!("ss -Hltnp 'sport = :{port}'"));
        assert!(
            listener.contains(&format!("pid={pid},")),
            "{port} of {pid}: {listener}"
        );
    }
}
