//! An argument list, taken apart.

use std::collections::BTreeMap;
use std::fmt;

use crate::case;
use crate::item::{Form, Item, ItemError};
use crate::options::{self, Shape};
use crate::quantity::{self, MEBIBYTE, Unit};

/// Memory of a PC that `-m` says nothing about.
const DEFAULT_MEMORY: u64 = 128 * MEBIBYTE;
/// Parts of a topology whose product is the count of vCPUs.
const TOPOLOGY: [&str; 7] = [
    "drawers", "books", "sockets", "dies", "clusters", "cores", "threads",
];

/// Options that make nothing without the type of what they make.
const TYPED: [&str; 4] = ["object", "device", "netdev", "chardev"];

/// What of a list could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Not an option of QEMU, or of none that this checker knows.
    Unknown(String),
    /// It stands where an option is expected. QEMU takes it for a disk image.
    Stray(String),
    /// The list ends before the option's value.
    NoValue(&'static str),
    /// The option, and what is wrong with its value.
    Unreadable(&'static str, String),
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(option) => write!(formatter, "{option} is no known option"),
            Self::Stray(text) => write!(formatter, "`{text}` belongs to no option"),
            Self::NoValue(option) => write!(formatter, "-{option} has no value"),
            Self::Unreadable(option, why) => write!(formatter, "-{option}: {why}"),
        }
    }
}

/// One option of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Given {
    Flag(&'static str),
    Text(&'static str, String),
    Item(&'static str, Item),
}

/// A parsed list. Any list has one; what could not be read is in [`Self::problems`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    given: Vec<Given>,
    problems: Vec<Problem>,
}

impl Arguments {
    pub fn parse(argv: &[String]) -> Self {
        let mut parsed = Self::default();
        let mut rest = argv.iter().peekable();
        while let Some(argument) = rest.next() {
            let Some(name) = argument.strip_prefix('-') else {
                parsed.problems.push(Problem::Stray(argument.clone()));
                continue;
            };
            // QEMU takes two dashes for one.
            let name = name.strip_prefix('-').unwrap_or(name);
            let Some((name, shape)) = options::find(name) else {
                parsed.problems.push(Problem::Unknown(argument.clone()));
                // What follows is its value, if it does not look like an option itself.
                rest.next_if(|next| !next.starts_with('-'));
                continue;
            };
            if shape == Shape::Flag {
                parsed.given.push(Given::Flag(name));
            } else if let Some(value) = rest.next() {
                parsed.take_value(name, shape, value);
            } else {
                parsed.problems.push(Problem::NoValue(name));
            }
        }
        parsed
    }

    fn take_value(&mut self, name: &'static str, shape: Shape, value: &str) {
        let (form, implied) = match shape {
            Shape::Flag | Shape::Text => {
                self.given.push(Given::Text(name, value.to_owned()));
                return;
            }
            Shape::Object(implied) if value.starts_with('{') => (Form::Json, implied),
            Shape::Object(implied) | Shape::Parts(implied) => (Form::Keyval, implied),
        };
        match Item::parse(value, form, implied) {
            Ok(item) if item.kind.is_empty() && TYPED.contains(&name) => {
                let why = "it has no type".to_owned();
                self.problems.push(Problem::Unreadable(name, why));
            }
            Ok(item) => self.given.push(Given::Item(name, item)),
            Err(error) => {
                let why = match error {
                    ItemError::Keyval(error) => error.to_string(),
                    ItemError::Json(error) => error,
                };
                self.problems.push(Problem::Unreadable(name, why));
            }
        }
    }

    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Whether the list has this option, by its name without the dash.
    pub fn has(&self, option: &str) -> bool {
        self.given.iter().any(|given| match given {
            Given::Flag(name) | Given::Text(name, _) | Given::Item(name, _) => *name == option,
        })
    }

    /// Values of an option that is not taken apart.
    pub fn texts<'a>(&'a self, option: &str) -> impl Iterator<Item = &'a str> {
        self.given.iter().filter_map(move |given| match given {
            Given::Text(name, text) if *name == option => Some(text.as_str()),
            _ => None,
        })
    }

    /// Values of an option that is taken apart.
    pub fn items<'a>(&'a self, option: &str) -> impl Iterator<Item = &'a Item> {
        self.given.iter().filter_map(move |given| match given {
            Given::Item(name, item) if *name == option => Some(item),
            _ => None,
        })
    }

    /// All options that are taken apart, with their names.
    pub(crate) fn all_items(&self) -> impl Iterator<Item = (&'static str, &Item)> {
        self.given.iter().filter_map(|given| match given {
            Given::Item(name, item) => Some((*name, item)),
            _ => None,
        })
    }

    /// A property of an option whose repetitions QEMU merges: `-machine`, `-m`, `-smp`. Underscores
    /// of machine properties are dashes to QEMU.
    pub fn merged(&self, option: &str) -> BTreeMap<String, String> {
        let mut merged = BTreeMap::new();
        for item in self.items(option) {
            for (key, value) in &item.properties {
                let key = match option {
                    "machine" => key.replace('_', "-"),
                    _ => key.clone(),
                };
                let value = value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned);
                merged.insert(key, value);
            }
        }
        merged
    }

    /// The implied value of an option whose repetitions QEMU merges, such as the machine's name.
    pub fn merged_kind(&self, option: &str) -> Option<&str> {
        let kinds = self.items(option).map(|item| item.kind.as_str());
        kinds.filter(|kind| !kind.is_empty()).last()
    }

    pub fn object(&self, id: &str) -> Option<&Item> {
        let mut objects = self.items("object");
        objects.find(|object| object.id.as_deref() == Some(id))
    }

    /// The object that protects the guest: the one that the machine names, else the first one of
    /// the kinds that this crate has rules for.
    pub fn guard(&self) -> Option<&Item> {
        let guards = || {
            self.items("object")
                .filter(|object| case::GUARDS.contains(&object.kind.as_str()))
        };
        let named = self.guard_name();
        let named = guards().find(|guard| guard.id.is_some() && guard.id == named);
        named.or_else(|| guards().next())
    }

    /// What the machine names as the guard, by either of the property's names.
    pub fn guard_name(&self) -> Option<String> {
        let mut machine = self.merged("machine");
        let current = machine.remove("confidential-guest-support");
        current.or_else(|| machine.remove("memory-encryption"))
    }

    /// Bytes; `None` when `-m` cannot be read.
    pub fn memory(&self) -> Option<u64> {
        self.merged_kind("m").map_or(Some(DEFAULT_MEMORY), |text| {
            quantity::size(text, Unit::Mebibyte)
        })
    }

    /// The count that `-smp` gives or that follows from its topology; `None` when it cannot be
    /// read.
    pub fn vcpus(&self) -> Option<u64> {
        if let Some(count) = self.merged_kind("smp") {
            return quantity::number(count);
        }
        let parts = self.merged("smp");
        // Without a count all that there may be are there.
        if let Some(most) = parts.get("maxcpus") {
            return quantity::number(most);
        }
        TOPOLOGY
            .iter()
            .filter_map(|name| parts.get(*name))
            .try_fold(1_u64, |count, part| {
                count.checked_mul(quantity::number(part)?)
            })
    }

    /// Accelerators in the order in which QEMU tries them. Empty: QEMU's own choice, TCG.
    pub fn accelerators(&self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        if self.has("enable-kvm") {
            found.push("kvm".to_owned());
        }
        found.extend(self.items("accel").map(|item| item.kind.clone()));
        if let Some(list) = self.merged("machine").get("accel") {
            found.extend(list.split(':').map(str::to_owned));
        }
        found
    }

    /// Model and features of the last `-cpu`.
    pub fn cpu(&self) -> Option<Cpu> {
        self.texts("cpu").last().map(Cpu::parse)
    }
}

/// A `-cpu` option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    pub model: String,
    /// Values by name, dashes for underscores. `+name` is `on`, `-name` is `off`.
    pub features: BTreeMap<String, String>,
}

impl Cpu {
    /// Commas cannot be doubled here.
    fn parse(text: &str) -> Self {
        let mut parts = text.split(',');
        let model = parts.next().unwrap_or_default().to_owned();
        let mut features = BTreeMap::new();
        for part in parts.filter(|part| !part.is_empty()) {
            let (name, value) = match (part.strip_prefix('+'), part.strip_prefix('-')) {
                (Some(name), _) => (name, "on"),
                (None, Some(name)) => (name, "off"),
                (None, None) => part.split_once('=').unwrap_or((part, "on")),
            };
            features.insert(name.replace('_', "-"), value.to_owned());
        }
        Self { model, features }
    }

    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        quantity::switch(self.features.get(name)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(argv: &[&str]) -> Arguments {
        let argv: Vec<_> = argv.iter().map(|argument| (*argument).to_owned()).collect();
        Arguments::parse(&argv)
    }

    /// How many vCPUs QEMU 10.0.2 told by `query-cpus-fast` after each `-smp`.
    #[test]
    fn vcpus_are_as_many_as_qemu_makes() {
        let cases = [
            ("4", 4),
            ("cpus=3", 3),
            ("sockets=1,cores=4,threads=1", 4),
            ("maxcpus=4", 4),
            ("4,maxcpus=8", 4),
            ("cores=2,maxcpus=8", 8),
            ("0x4", 4),
            ("010", 8),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(&["-smp", text]).vcpus(), Some(expected), "{text}");
        }
        assert_eq!(parse(&[]).vcpus(), Some(1));
    }

    /// QEMU 10.0.2 told by `qom-get` that SMM and HPET are off after the same options.
    #[test]
    fn a_machine_that_is_given_twice_is_merged() {
        let first = ["-machine", "pc-q35-10.0,smm=off"];
        let second = ["-M", "hpet=off", "--machine", "kernel_irqchip=split"];
        let arguments = parse(&[&first[..], &second[..]].concat());
        let merged = arguments.merged("machine");
        for (name, value) in [("smm", "off"), ("hpet", "off"), ("kernel-irqchip", "split")] {
            assert_eq!(merged.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(arguments.merged_kind("machine"), Some("pc-q35-10.0"));
    }
}
