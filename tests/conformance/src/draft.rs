//! A request with the host that it meets, as plain values: what chance makes, what is shrunk, and what
//! is kept in a file to be run again.

use casemate_host::spec::Origin;
use casemate_host::spec::facts::{FactAnswer, FactQuestion};
use casemate_host::spec::identity::Identity;
use casemate_host::spec::request::{Accelerator, Boot, Choice, HostDevice, Setting};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    pub architecture: String,
    pub accelerator: Accelerator,
    /// Those that differ from the announced defaults.
    pub settings: Vec<Setting>,
    pub files: Vec<FileDraft>,
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub boot: Boot,
    pub machine: Option<Choice>,
    pub cpu: Option<Choice>,
    pub kernel_cmdline: String,
    pub devices: Vec<HostDevice>,
    /// Ids of data disks; their devices are among `devices`.
    pub data_disks: Vec<String>,
    pub identity: Option<Identity>,
    pub extras: Vec<(String, String)>,
    /// Answers that differ from those of the world.
    pub facts: Vec<FactDraft>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactDraft {
    pub question: FactQuestion,
    pub answer: FactAnswer,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDraft {
    pub id: u32,
    pub role: String,
    pub content: Content,
    pub origin: Origin,
}

/// What is in a file, or why nothing is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// A file beside the golden requests, or an image that the suite makes.
    Named(String),
    Empty,
    /// The first bytes of a named one.
    Beginning {
        of: String,
        bytes: u64,
    },
    /// A named one with the bits of one byte turned over.
    Flipped {
        of: String,
        at: u64,
    },
    /// Bytes that a seed repeats.
    Noise {
        bytes: u64,
        seed: u64,
    },
    /// Zeros that take no space on disk.
    Zeros(u64),
    /// It cannot be opened.
    Missing,
    /// It is open, and every read fails.
    Unreadable(String),
    /// A named one, of which half is gone since its size was taken.
    Shortened(String),
}

impl Draft {
    pub fn file(&self, role: &str) -> Option<&FileDraft> {
        self.files.iter().find(|file| file.role == role)
    }

    /// Adds a named file in this role, in the place of any other, and tells its id.
    pub fn add_file(&mut self, role: &str, name: &str, origin: Origin) -> u32 {
        self.files.retain(|file| file.role != role);
        let highest = self.files.iter().map(|file| file.id).max();
        let id = highest.unwrap_or(0) + 1;
        self.files.push(FileDraft {
            id,
            role: role.to_owned(),
            content: Content::Named(name.to_owned()),
            origin,
        });
        id
    }

    /// The same with other content of each file in this role.
    #[must_use]
    pub fn with_content(&self, role: &str, content: &Content) -> Self {
        let mut draft = self.clone();
        for file in draft.files.iter_mut().filter(|file| file.role == role) {
            file.content = content.clone();
        }
        draft
    }

    /// The same with this setting in the place of any other value of it.
    #[must_use]
    pub fn with_setting(&self, setting: Setting) -> Self {
        let mut draft = self.clone();
        draft.settings.retain(|one| one.key != setting.key);
        draft.settings.push(setting);
        draft
    }

    #[must_use]
    pub fn with_fact(&self, question: &FactQuestion, answer: FactAnswer) -> Self {
        let mut draft = self.clone();
        draft.facts.retain(|fact| fact.question != *question);
        draft.facts.push(FactDraft {
            question: question.clone(),
            answer,
        });
        draft
    }
}
