//! Facts about the host, as a backend asks for them: question, answer and the record of both.
//!
//! A plan is a function of the request and this record, so a record that is stored with a VM can
//! be replayed on another machine.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use serde::{Deserialize, Serialize};

/// One question. The variants are the functions of the contract's `facts` interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FactQuestion {
    Cpuid { leaf: u32, subleaf: u32 },
    KvmCapability(u32),
    KvmDeviceAttribute { group: u32, attribute: u64 },
    ReadText(String),
    Device(String),
    Socket(String),
    QemuVersion,
    QemuType(String),
    QemuMachine(String),
    QmpQuery(String),
}

impl FactQuestion {
    /// Function name in the contract, as in `need.fact`.
    pub fn function(&self) -> &'static str {
        match self {
            Self::Cpuid { .. } => "cpuid",
            Self::KvmCapability(_) => "kvm-capability",
            Self::KvmDeviceAttribute { .. } => "kvm-device-attribute",
            Self::ReadText(_) => "read-text",
            Self::Device(_) => "device",
            Self::Socket(_) => "socket",
            Self::QemuVersion => "qemu-version",
            Self::QemuType(_) => "qemu-type",
            Self::QemuMachine(_) => "qemu-machine",
            Self::QmpQuery(_) => "qmp-query",
        }
    }

    /// The argument in the form that a pattern is compared with.
    pub fn argument(&self) -> String {
        match self {
            Self::Cpuid { leaf, .. } => format!("{leaf:#x}"),
            Self::KvmCapability(number) => number.to_string(),
            Self::KvmDeviceAttribute { group, attribute } => format!("{group}/{attribute}"),
            Self::ReadText(text)
            | Self::Device(text)
            | Self::Socket(text)
            | Self::QemuType(text)
            | Self::QemuMachine(text)
            | Self::QmpQuery(text) => text.clone(),
            Self::QemuVersion => String::new(),
        }
    }
}

impl fmt::Display for FactQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:?})", self.function(), self.argument())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FactValue {
    Cpuid {
        eax: u32,
        ebx: u32,
        ecx: u32,
        edx: u32,
    },
    Signed(i64),
    Unsigned(u64),
    Text(String),
    Names(Vec<String>),
    Present,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FactFailure {
    Absent,
    Denied,
    Failed(String),
}

pub type FactAnswer = Result<FactValue, FactFailure>;

/// Everything that was asked during one call, in order, each question once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FactRecord {
    entries: Vec<(FactQuestion, FactAnswer)>,
}

/// Bound of a record: an honest backend asks some dozens of questions.
pub const MAX_FACTS: usize = 1_000;

impl FactRecord {
    pub fn get(&self, question: &FactQuestion) -> Option<&FactAnswer> {
        self.entries
            .iter()
            .find(|(asked, _)| asked == question)
            .map(|(_, answer)| answer)
    }

    /// Keeps the answer; false when the record is full.
    pub fn insert(&mut self, question: FactQuestion, answer: FactAnswer) -> bool {
        if self.entries.len() >= MAX_FACTS {
            return false;
        }
        self.entries.push((question, answer));
        true
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

pub type AnswerFuture<'a> = Pin<Box<dyn Future<Output = FactAnswer> + Send + 'a>>;

/// Where answers come from: the host itself, or a record that is replayed.
pub trait FactSource: Send + Sync + fmt::Debug {
    fn answer<'a>(&'a self, question: &'a FactQuestion) -> AnswerFuture<'a>;
}

/// A record as a source. What was not asked then cannot be answered now.
impl FactSource for FactRecord {
    fn answer<'a>(&'a self, question: &'a FactQuestion) -> AnswerFuture<'a> {
        Box::pin(async move {
            self.get(question).cloned().unwrap_or_else(|| {
                Err(FactFailure::Failed(
                    "not in the record that is replayed".to_owned(),
                ))
            })
        })
    }
}
