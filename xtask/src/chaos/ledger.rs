//! What the clients know: which VMs were acknowledged, and which calls had no answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use casemate_proto::v1::Vm;

use super::dice::Dice;
use super::host::ProcessIdentity;

/// A call whose outcome is unknown: it was not answered, or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    Create,
    Start,
    Stop,
    Remove,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Running,
    Stopped,
    Unknown(Pending),
}

/// One VM, from the first try to create it to its acknowledged removal.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// What its guest was given and has to serve.
    pub(super) nonce: String,
    /// Known once the daemon said so.
    pub(super) id: Option<String>,
    pub(super) expected: Expected,
    /// Of the QEMU that was acknowledged.
    pub(super) process: Option<ProcessIdentity>,
    pub(super) agent_address: String,
    pub(super) since: Instant,
    /// A client is at it.
    pub(super) is_busy: bool,
    /// How often its pending call was refused by a living daemon.
    pub(super) refusals: u32,
    pub(super) history: Vec<String>,
}

impl Entry {
    pub(super) fn note(&mut self, text: impl Into<String>) {
        self.history.push(text.into());
    }

    /// The daemon said that it runs as this.
    pub(super) fn runs_as(&mut self, vm: &Vm) {
        self.id = Some(vm.id.clone());
        self.expected = Expected::Running;
        self.process = ProcessIdentity::of(vm.pid);
        self.agent_address.clone_from(&vm.agent_address);
        self.since = Instant::now();
        self.refusals = 0;
        self.note(format!("runs: pid {} at {}", vm.pid, vm.agent_address));
    }

    pub(super) fn is_stopped(&mut self) {
        self.expected = Expected::Stopped;
        self.process = None;
        self.agent_address.clear();
        self.refusals = 0;
        self.note("stopped");
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "{} ({})",
            self.id.as_deref().unwrap_or("no id yet"),
            self.name
        )
    }
}

/// What a client does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Create {
        name: String,
        nonce: String,
    },
    Start {
        name: String,
        id: String,
    },
    Stop {
        name: String,
        id: String,
        force: bool,
    },
    Remove {
        name: String,
        id: String,
    },
}

#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) entries: BTreeMap<String, Entry>,
    /// VMs that were found lost, so that what is left of them is not counted again.
    pub(super) given_up: BTreeSet<String>,
    next_number: u64,
    wanted: usize,
}

/// So many VMs beyond the wanted number may be there at once.
const MARGIN: usize = 6;
/// One in so many VMs may be stopped.
const ONE_IN_STOPPED: usize = 5;

impl Ledger {
    pub(super) fn new(wanted: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            given_up: BTreeSet::new(),
            next_number: 1,
            wanted,
        }
    }

    /// VMs that the daemon acknowledged and that were not removed.
    pub(super) fn acknowledged(&self) -> usize {
        let known = |entry: &&Entry| !matches!(entry.expected, Expected::Unknown(_));
        self.entries.values().filter(known).count()
    }

    pub(super) fn running(&self) -> usize {
        self.with(Expected::Running).count()
    }

    fn with(&self, expected: Expected) -> impl Iterator<Item = &Entry> {
        self.entries
            .values()
            .filter(move |entry| entry.expected == expected)
    }

    pub(super) fn unknown(&self) -> Vec<(String, Pending)> {
        let entries = self.entries.values();
        entries
            .filter_map(|entry| match entry.expected {
                Expected::Unknown(pending) => Some((entry.name.clone(), pending)),
                _ => None,
            })
            .collect()
    }

    pub(super) fn change(&mut self, name: &str, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.get_mut(name) {
            change(entry);
        }
    }

    /// Chooses what to do and marks the VM as busy. Nothing where there is none to do it to.
    pub(super) fn choose(&mut self, dice: &mut Dice) -> Option<Deed> {
        let all = self.entries.len();
        if self.acknowledged() < self.wanted && all < self.wanted + MARGIN {
            return Some(self.create(dice));
        }
        let spare = self.acknowledged() > self.wanted;
        let stopped = self.with(Expected::Stopped).count();
        let deed = match dice.within(0..10) {
            0..=3 if all < self.wanted + MARGIN => return Some(self.create(dice)),
            0..=5 if spare => {
                let kind = if dice.within(0..4) == 0 {
                    Expected::Stopped
                } else {
                    Expected::Running
                };
                let (name, id) = self.begin(dice, kind, Pending::Remove)?;
                Deed::Remove { name, id }
            }
            6..=7 if stopped < self.wanted / ONE_IN_STOPPED => {
                let (name, id) = self.begin(dice, Expected::Running, Pending::Stop)?;
                let force = dice.within(0..2) == 0;
                Deed::Stop { name, id, force }
            }
            _ => {
                let (name, id) = self.begin(dice, Expected::Stopped, Pending::Start)?;
                Deed::Start { name, id }
            }
        };
        Some(deed)
    }

    fn create(&mut self, dice: &mut Dice) -> Deed {
        let name = format!("chaos-{}", self.next_number);
        self.next_number += 1;
        let nonce = format!("{:016x}", dice.next());
        let entry = Entry {
            name: name.clone(),
            nonce: nonce.clone(),
            id: None,
            expected: Expected::Unknown(Pending::Create),
            process: None,
            agent_address: String::new(),
            since: Instant::now(),
            is_busy: true,
            refusals: 0,
            history: Vec::new(),
        };
        self.entries.insert(name.clone(), entry);
        Deed::Create { name, nonce }
    }

    /// Takes one that nobody is at. From now on what it is can only be told by an answer.
    fn begin(
        &mut self,
        dice: &mut Dice,
        expected: Expected,
        pending: Pending,
    ) -> Option<(String, String)> {
        let idle: Vec<(String, String)> = self
            .with(expected)
            .filter(|entry| !entry.is_busy)
            .filter_map(|entry| Some((entry.name.clone(), entry.id.clone()?)))
            .collect();
        let (name, id) = dice.pick(&idle)?.clone();
        self.change(&name, |entry| {
            entry.is_busy = true;
            entry.expected = Expected::Unknown(pending);
        });
        Some((name, id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledge(ledger: &mut Ledger, name: &str) {
        ledger.change(name, |entry| {
            entry.id = Some(format!("id of {name}"));
            entry.expected = Expected::Running;
            entry.is_busy = false;
        });
    }

    #[test]
    fn vms_are_made_until_there_are_enough_and_never_fewer_after() {
        let mut ledger = Ledger::new(5);
        let mut dice = Dice::new(11);
        for _ in 0..5 {
            let Some(Deed::Create { name, .. }) = ledger.choose(&mut dice) else {
                panic!("there are not enough yet");
            };
            acknowledge(&mut ledger, &name);
        }
        for _ in 0..500 {
            match ledger.choose(&mut dice) {
                Some(Deed::Create { name, .. }) => acknowledge(&mut ledger, &name),
                Some(Deed::Remove { name, .. }) => {
                    ledger.entries.remove(&name);
                }
                Some(Deed::Stop { name, .. }) => ledger.change(&name, |entry| {
                    entry.is_stopped();
                    entry.is_busy = false;
                }),
                Some(Deed::Start { name, .. }) => acknowledge(&mut ledger, &name),
                None => {}
            }
            assert!(ledger.acknowledged() >= 5);
            assert!(ledger.entries.len() <= 5 + MARGIN);
            assert!(ledger.running() >= 4);
        }
    }

    #[test]
    fn a_vm_that_is_busy_is_left_alone() {
        let mut ledger = Ledger::new(1);
        let mut dice = Dice::new(11);
        let Some(Deed::Create { name, .. }) = ledger.choose(&mut dice) else {
            panic!("there is none yet");
        };
        acknowledge(&mut ledger, &name);
        let mut begin = || ledger.begin(&mut dice, Expected::Running, Pending::Stop);
        assert!(begin().is_some());
        assert_eq!(begin(), None);
        assert_eq!(ledger.unknown(), [(name, Pending::Stop)]);
    }
}
