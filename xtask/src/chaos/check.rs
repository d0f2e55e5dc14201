//! What clients know, what the daemon says and what is there, held against each other.

use std::collections::{BTreeMap, BTreeSet};

use casemate_proto::v1::{Vm, VmState};

use super::host::{Process, Scene};
use super::ledger::{Entry, Expected, Ledger};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// An acknowledged VM is not there, or not as it was acknowledged.
    Lost,
    /// A VM has more than one process.
    Doubled,
    /// Something is there that no known VM has.
    Orphaned,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problem {
    pub(super) kind: Kind,
    /// The VM's id, or what was found: counted once.
    pub(super) subject: String,
    pub(super) text: String,
}

impl Problem {
    pub(super) fn lost(entry: &Entry, text: impl std::fmt::Display) -> Self {
        Self {
            kind: Kind::Lost,
            subject: entry.id.clone().unwrap_or_else(|| entry.name.clone()),
            text: format!("{}: {text}", entry.describe()),
        }
    }

    fn orphaned(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            kind: Kind::Orphaned,
            subject: subject.into(),
            text: text.into(),
        }
    }
}

/// All that is wrong at this moment. Calls whose outcome is unknown have to be settled before.
pub(super) fn problems(
    ledger: &Ledger,
    list: &[Vm],
    scene: &Scene,
    daemon_pid: u32,
) -> Vec<Problem> {
    let mut found = Vec::new();
    let by_id: BTreeMap<&str, &Vm> = list.iter().map(|vm| (vm.id.as_str(), vm)).collect();
    let mut expected_ids = BTreeSet::new();
    let mut ports = BTreeSet::new();
    let mut processes = BTreeSet::from([daemon_pid]);
    for entry in ledger.entries.values() {
        let Some(id) = entry.id.as_deref() else {
            continue;
        };
        expected_ids.insert(id);
        let ours = scene.with_uuid(id);
        for process in &ours {
            processes.insert(process.identity.pid);
            processes.insert(process.parent);
        }
        ports.extend(port_of(&entry.agent_address));
        if ours.len() > 1 {
            found.push(Problem {
                kind: Kind::Doubled,
                subject: id.to_owned(),
                text: format!("{}: {}", entry.describe(), commands(&ours)),
            });
        }
        let wrong = match entry.expected {
            Expected::Unknown(_) => None,
            Expected::Running => not_running(entry, by_id.get(id).copied(), &ours),
            Expected::Stopped => not_stopped(by_id.get(id).copied(), &ours),
        };
        found.extend(wrong.map(|text| Problem::lost(entry, text)));
    }
    let is_known = |id: &str| expected_ids.contains(id) || ledger.given_up.contains(id);
    found.extend(orphans(list, scene, &is_known, &ports, &processes, ledger));
    found.sort();
    found
}

fn state_of(vm: &Vm) -> String {
    let detail = if vm.detail.is_empty() {
        String::new()
    } else {
        format!(" ({})", vm.detail)
    };
    format!("{}{detail}", vm.state().as_str_name())
}

fn not_running(entry: &Entry, listed: Option<&Vm>, ours: &[&Process]) -> Option<String> {
    let Some(vm) = listed else {
        return Some("acknowledged as running, and not in the list".to_owned());
    };
    if vm.state() != VmState::Running {
        return Some(format!(
            "acknowledged as running, and listed as {}",
            state_of(vm)
        ));
    }
    let Some(acknowledged) = entry.process else {
        return Some("its process had ended before it was acknowledged".to_owned());
    };
    if vm.pid != acknowledged.pid {
        return Some(format!(
            "acknowledged as pid {}, listed as {}",
            acknowledged.pid, vm.pid
        ));
    }
    if vm.agent_address != entry.agent_address {
        return Some(format!(
            "its agent was at {}, and is listed at {}",
            entry.agent_address, vm.agent_address
        ));
    }
    if !ours.iter().any(|process| process.identity == acknowledged) {
        return Some(format!(
            "process {} is not there: {}",
            acknowledged.pid,
            commands(ours)
        ));
    }
    None
}

fn not_stopped(listed: Option<&Vm>, ours: &[&Process]) -> Option<String> {
    match listed {
        None => Some("acknowledged as stopped, and not in the list".to_owned()),
        Some(vm) if vm.state() != VmState::Stopped => Some(format!(
            "acknowledged as stopped, and listed as {}",
            state_of(vm)
        )),
        Some(_) if !ours.is_empty() => Some(format!("stopped, and there is {}", commands(ours))),
        Some(_) => None,
    }
}

fn orphans(
    list: &[Vm],
    scene: &Scene,
    is_known: &dyn Fn(&str) -> bool,
    ports: &BTreeSet<u16>,
    processes: &BTreeSet<u32>,
    ledger: &Ledger,
) -> Vec<Problem> {
    let mut found = Vec::new();
    for vm in list.iter().filter(|vm| !is_known(&vm.id)) {
        let text = format!("VM {} ({}) is listed as {}", vm.id, vm.name, state_of(vm));
        found.push(Problem::orphaned(&vm.id, text));
    }
    for process in &scene.processes {
        let pid = process.identity.pid;
        let belongs_to_lost = process
            .uuid
            .as_deref()
            .is_some_and(|id| ledger.given_up.contains(id));
        // A launcher of a lost VM has no other mark than its child.
        let is_parent_of_lost = scene.processes.iter().any(|child| {
            child.parent == pid
                && child
                    .uuid
                    .as_deref()
                    .is_some_and(|id| ledger.given_up.contains(id))
        });
        if processes.contains(&pid) || belongs_to_lost || is_parent_of_lost {
            continue;
        }
        let subject = process
            .uuid
            .clone()
            .unwrap_or_else(|| format!("process {pid}"));
        let text = format!("process {pid} ({}): {}", process.state, process.command);
        found.push(Problem::orphaned(subject, text));
    }
    for (port, count) in &scene.listeners {
        if ledger.given_up.is_empty() && (!ports.contains(port) || *count > 1) {
            let text = format!("port {port} has {count} listener(s), and no VM has it");
            found.push(Problem::orphaned(format!("port {port}"), text));
        }
    }
    for (id, path) in scene.folders.iter().filter(|(id, _)| !is_known(id)) {
        found.push(Problem::orphaned(id, format!("{} is left", path.display())));
    }
    for path in &scene.strange {
        let path = path.display().to_string();
        found.push(Problem::orphaned(&path, format!("{path} is nobody's")));
    }
    found
}

fn port_of(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}

fn commands(processes: &[&Process]) -> String {
    if processes.is_empty() {
        return "no process".to_owned();
    }
    let each = processes.iter().map(|process| {
        format!(
            "process {} (parent {}, {}) {}",
            process.identity.pid, process.parent, process.state, process.command
        )
    });
    each.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Instant;

    use super::super::host::ProcessIdentity;
    use super::super::ledger::Pending;
    use super::*;

    const DAEMON: u32 = 10;
    const LAUNCHER: u32 = 20;

    /// A machine with one acknowledged VM that is well.
    struct World {
        ledger: Ledger,
        list: Vec<Vm>,
        scene: Scene,
    }

    fn process(pid: u32, parent: u32, uuid: Option<&str>) -> Process {
        Process {
            identity: ProcessIdentity { pid, start_time: 1 },
            parent,
            state: "S".to_owned(),
            command: "qemu".to_owned(),
            uuid: uuid.map(str::to_owned),
        }
    }

    fn well(expected: Expected) -> World {
        let qemu = process(30, LAUNCHER, Some("a"));
        let runs = expected == Expected::Running;
        let mut ledger = Ledger::new(1);
        let address = if runs { "127.0.0.1:6100" } else { "" };
        ledger.entries.insert(
            "chaos-1".to_owned(),
            Entry {
                name: "chaos-1".to_owned(),
                nonce: String::new(),
                id: Some("a".to_owned()),
                expected,
                process: runs.then_some(qemu.identity),
                agent_address: address.to_owned(),
                since: Instant::now(),
                is_busy: false,
                refusals: 0,
                history: Vec::new(),
            },
        );
        let state = if runs {
            VmState::Running
        } else {
            VmState::Stopped
        };
        let vm = Vm {
            id: "a".to_owned(),
            name: "chaos-1".to_owned(),
            state: state.into(),
            pid: if runs { 30 } else { 0 },
            agent_address: address.to_owned(),
            ..Vm::default()
        };
        let mut processes = vec![process(DAEMON, 1, None)];
        let mut listeners = BTreeMap::new();
        if runs {
            processes.extend([process(LAUNCHER, 1, None), qemu]);
            listeners.insert(6100, 1);
        }
        World {
            ledger,
            list: vec![vm],
            scene: Scene {
                processes,
                listeners,
                folders: vec![("a".to_owned(), PathBuf::from("/s/vms/a"))],
                cgroups: 0,
                strange: Vec::new(),
            },
        }
    }

    fn kinds(world: &World) -> Vec<(Kind, String)> {
        problems(&world.ledger, &world.list, &world.scene, DAEMON)
            .into_iter()
            .map(|problem| (problem.kind, problem.subject))
            .collect()
    }

    #[test]
    fn all_is_well() {
        assert_eq!(kinds(&well(Expected::Running)), []);
        assert_eq!(kinds(&well(Expected::Stopped)), []);
    }

    #[test]
    fn each_way_of_going_wrong_is_found() {
        type Breaks = fn(&mut World);
        let cases: [(&str, Expected, Breaks, Kind, &str); 14] = [
            (
                "not listed",
                Expected::Running,
                |w| w.list.clear(),
                Kind::Lost,
                "a",
            ),
            (
                "exited",
                Expected::Running,
                |w| w.list[0].state = VmState::Exited.into(),
                Kind::Lost,
                "a",
            ),
            (
                "another pid",
                Expected::Running,
                |w| w.list[0].pid = 31,
                Kind::Lost,
                "a",
            ),
            (
                "another address",
                Expected::Running,
                |w| w.list[0].agent_address.push('1'),
                Kind::Lost,
                "a",
            ),
            (
                "no process",
                Expected::Running,
                |w| w.scene.processes.truncate(1),
                Kind::Lost,
                "a",
            ),
            (
                "not listed",
                Expected::Stopped,
                |w| w.list.clear(),
                Kind::Lost,
                "a",
            ),
            (
                "still runs",
                Expected::Stopped,
                |w| w.scene.processes.push(process(30, 20, Some("a"))),
                Kind::Lost,
                "a",
            ),
            (
                "two processes",
                Expected::Running,
                |w| w.scene.processes.push(process(40, LAUNCHER, Some("a"))),
                Kind::Doubled,
                "a",
            ),
            (
                "listed by nobody's wish",
                Expected::Running,
                |w| {
                    w.list.push(Vm {
                        id: "b".to_owned(),
                        ..Vm::default()
                    });
                },
                Kind::Orphaned,
                "b",
            ),
            (
                "another's process",
                Expected::Running,
                |w| w.scene.processes.push(process(40, 1, Some("b"))),
                Kind::Orphaned,
                "b",
            ),
            (
                "a launcher alone",
                Expected::Stopped,
                |w| w.scene.processes.push(process(41, 1, None)),
                Kind::Orphaned,
                "process 41",
            ),
            (
                "a port",
                Expected::Running,
                |w| *w.scene.listeners.entry(6101).or_default() += 1,
                Kind::Orphaned,
                "port 6101",
            ),
            (
                "a folder",
                Expected::Running,
                |w| w.scene.folders.push(("b".to_owned(), "/s/vms/b".into())),
                Kind::Orphaned,
                "b",
            ),
            (
                "a file",
                Expected::Running,
                |w| w.scene.strange.push("/s/vm.json.tmp".into()),
                Kind::Orphaned,
                "/s/vm.json.tmp",
            ),
        ];
        for (name, expected, breaks, kind, subject) in cases {
            let mut world = well(expected);
            breaks(&mut world);
            let found = kinds(&world);
            assert!(
                found.contains(&(kind, subject.to_owned())),
                "{name}: {found:?}"
            );
        }
    }

    #[test]
    fn what_is_left_of_a_lost_vm_is_no_orphan() {
        let mut world = well(Expected::Running);
        world.ledger.entries.clear();
        world.ledger.given_up.insert("a".to_owned());
        assert_eq!(kinds(&world), []);
    }

    #[test]
    fn a_call_of_unknown_outcome_is_not_judged() {
        let mut world = well(Expected::Unknown(Pending::Stop));
        world.list[0].state = VmState::Stopping.into();
        assert_eq!(kinds(&world), []);
    }
}
