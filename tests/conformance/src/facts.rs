//! A host that is made up: it answers facts from a list, and notes what was asked.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use casemate_host::spec::facts::{
    AnswerFuture, FactAnswer, FactFailure, FactQuestion, FactSource, FactValue,
};
use casemate_host::spec::permissions::{FactPattern, Permissions};

/// What is answered to a question that is not in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// As a record that is replayed: nobody knows.
    Unknown,
    /// As an ordinary host with a recent QEMU and KVM and without any particular technology.
    Ordinary,
}

/// QEMU of an ordinary host.
const VERSION: &str = "10.1.0";
/// Aliases of its machines.
const ALIASES: [(&str, &str); 4] = [
    ("q35", "pc-q35-10.1"),
    ("pc", "pc-i440fx-10.1"),
    ("virt", "virt-10.1"),
    ("s390-ccw-virtio", "s390-ccw-virtio-10.1"),
];

impl Rest {
    fn answer(self, question: &FactQuestion) -> FactAnswer {
        if self == Self::Unknown {
            return Err(FactFailure::Failed(
                "not in the record that is replayed".to_owned(),
            ));
        }
        match question {
            FactQuestion::Cpuid { .. } => Ok(FactValue::Cpuid {
                eax: 0,
                ebx: 0,
                ecx: 0,
                edx: 0,
            }),
            FactQuestion::KvmCapability(_) => Ok(FactValue::Signed(1)),
            FactQuestion::Device(path) if path == "/dev/kvm" => Ok(FactValue::Present),
            FactQuestion::QemuVersion => Ok(FactValue::Text(VERSION.to_owned())),
            FactQuestion::QemuType(_) => Ok(FactValue::Names(Vec::new())),
            FactQuestion::QemuMachine(alias) => {
                let known = ALIASES.iter().find(|(name, _)| name == alias);
                let name = known.map_or(alias.as_str(), |(_, name)| name);
                Ok(FactValue::Text(name.to_owned()))
            }
            FactQuestion::QmpQuery(_) => Ok(FactValue::Text("{}".to_owned())),
            FactQuestion::KvmDeviceAttribute { .. }
            | FactQuestion::ReadText(_)
            | FactQuestion::Device(_)
            | FactQuestion::Socket(_) => Err(FactFailure::Absent),
        }
    }

    /// Versioned names by alias.
    pub fn aliases(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let known = match self {
            Self::Unknown => &[][..],
            Self::Ordinary => &ALIASES[..],
        };
        known.iter().copied()
    }
}

/// Facts of one call.
#[derive(Debug)]
pub struct MadeUpHost {
    answers: Vec<(FactQuestion, FactAnswer)>,
    rest: Rest,
    announced: Permissions,
    delay: Duration,
    asked: Mutex<Vec<FactQuestion>>,
}

impl MadeUpHost {
    pub fn new(
        answers: Vec<(FactQuestion, FactAnswer)>,
        rest: Rest,
        announced: Permissions,
    ) -> Self {
        Self {
            answers,
            rest,
            announced,
            delay: Duration::ZERO,
            asked: Mutex::default(),
        }
    }

    /// Each answer takes this long.
    #[must_use]
    pub fn slow(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// What was asked, in order.
    pub fn asked(&self) -> Vec<FactQuestion> {
        let asked = self.asked.lock();
        asked.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn find(&self, question: &FactQuestion) -> FactAnswer {
        if !self.announced.allows_fact(question) {
            return Err(FactFailure::Denied);
        }
        let known = self
            .answers
            .iter()
            .rev()
            .find(|(known, _)| known == question);
        known.map_or_else(|| self.rest.answer(question), |(_, answer)| answer.clone())
    }
}

impl FactSource for MadeUpHost {
    fn answer<'a>(&'a self, question: &'a FactQuestion) -> AnswerFuture<'a> {
        let asked = self.asked.lock();
        asked
            .unwrap_or_else(PoisonError::into_inner)
            .push(question.clone());
        Box::pin(async move {
            if !self.delay.is_zero() {
                tokio::time::sleep(self.delay).await;
            }
            self.find(question)
        })
    }
}

/// Functions of the contract's `facts`.
pub const FUNCTIONS: [&str; 10] = [
    "cpuid",
    "kvm-capability",
    "kvm-device-attribute",
    "read-text",
    "device",
    "socket",
    "qemu-version",
    "qemu-type",
    "qemu-machine",
    "qmp-query",
];

/// Whatever a backend asks for reaches the made-up host, which tells what was not announced.
pub fn everything_asked() -> Permissions {
    Permissions {
        facts: FUNCTIONS
            .map(|fact| FactPattern {
                fact: fact.to_owned(),
                pattern: "*".to_owned(),
            })
            .into(),
        ..Permissions::default()
    }
}
