//! Where values come from, and which of them is used.
//!
//! The strongest source wins: command line, `CASEMATE_*`, the predecessor's variables, the file, the
//! default. Two sources of equal strength that differ are a conflict, which nobody but the operator
//! can decide.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::ConfigError;
use super::key::{Change, Default};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Default,
    File {
        path: Arc<PathBuf>,
        line: usize,
    },
    /// A variable of the predecessor.
    Predecessor(String),
    /// A `CASEMATE_*` variable.
    Variable(String),
    /// `--set` on the command line.
    Flag,
}

impl Source {
    fn strength(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Predecessor(_) => 2,
            Self::Variable(_) => 3,
            Self::Flag => 4,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Predecessor(name) | Self::Variable(name) => f.write_str(name),
            Self::Flag => f.write_str("--set"),
        }
    }
}

/// One source's word on one key, in canonical form.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub key: String,
    pub value: toml::Value,
    pub source: Source,
}

/// The value of a key that is used, and those that are not.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub value: toml::Value,
    pub source: Source,
    /// Weaker sources that name the key too, the strongest first; defaults left out.
    pub unused: Vec<(Source, toml::Value)>,
}

/// All values in effect, by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effective {
    entries: BTreeMap<String, Entry>,
}

impl Effective {
    /// Chooses among `candidates`; conflicts go to `errors`.
    pub fn choose(candidates: Vec<Candidate>, errors: &mut Vec<ConfigError>) -> Self {
        let mut by_key: BTreeMap<String, Vec<(Source, toml::Value)>> = BTreeMap::new();
        for declared in super::keys() {
            if let Default::Value(text) = declared.default
                && let Some(value) = declared.form.parse(text)
            {
                let given = by_key.entry(declared.name.to_owned()).or_default();
                given.push((Source::Default, value));
            }
        }
        for Candidate { key, value, source } in candidates {
            by_key.entry(key).or_default().push((source, value));
        }
        let mut entries = BTreeMap::new();
        for (key, mut given) in by_key {
            given.sort_by_key(|(source, _)| std::cmp::Reverse(source.strength()));
            // Only the strongest matter: what they override may differ as it likes.
            if let [(one, first), rest @ ..] = given.as_slice() {
                let equals = rest.iter().filter(|(other, second)| {
                    one.strength() == other.strength() && first != second
                });
                for (other, second) in equals {
                    errors.push(ConfigError::Conflict {
                        key: key.clone(),
                        first: said(one, first),
                        second: said(other, second),
                    });
                }
            }
            let mut given = given.into_iter();
            if let Some((source, value)) = given.next() {
                let unused = given
                    .filter(|(source, _)| *source != Source::Default)
                    .collect();
                entries.insert(
                    key,
                    Entry {
                        value,
                        source,
                        unused,
                    },
                );
            }
        }
        Self { entries }
    }

    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries
            .iter()
            .map(|(key, entry)| (key.as_str(), entry))
    }

    /// Sets what follows from other values.
    pub fn derive(&mut self, key: &str, value: toml::Value, source: Source) {
        let unused = Vec::new();
        let entry = Entry {
            value,
            source,
            unused,
        };
        self.entries.insert(key.to_owned(), entry);
    }

    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Whether anybody but the default named the key.
    pub fn is_given(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|entry| entry.source != Source::Default)
    }

    /// As one nested table, for the structs of the modules.
    pub fn table(&self) -> toml::Table {
        let mut root = toml::Table::new();
        for (key, entry) in &self.entries {
            insert(&mut root, key, entry.value.clone());
        }
        root
    }

    /// What a reload makes of these values: `next`, but for keys that take a restart.
    pub fn reloaded(&self, next: &Self) -> Reloaded {
        let mut reloaded = Reloaded {
            effective: next.clone(),
            applied: Vec::new(),
            waiting: Vec::new(),
        };
        let keys: std::collections::BTreeSet<&String> =
            self.entries.keys().chain(next.entries.keys()).collect();
        for key in keys {
            let (old, new) = (self.entries.get(key), next.entries.get(key));
            let value = |entry: Option<&Entry>| entry.map(|entry| entry.value.clone());
            if value(old) == value(new) {
                continue;
            }
            let changed = Changed {
                key: key.clone(),
                old: value(old),
                new: value(new),
                source: new.map(|entry| entry.source.clone()),
            };
            let at_restart = super::declared(key).is_some_and(|declared| match declared.change {
                Change::Reload => false,
                Change::Restart => true,
                Change::Tls => turns_tls(key, self, next),
            });
            if at_restart {
                match old {
                    Some(entry) => reloaded
                        .effective
                        .entries
                        .insert(key.clone(), entry.clone()),
                    None => reloaded.effective.entries.remove(key),
                };
                reloaded.waiting.push(changed);
            } else {
                reloaded.applied.push(changed);
            }
        }
        reloaded
    }
}

/// Whether the listener of a key speaks TLS in one of them only.
fn turns_tls(key: &str, old: &Effective, next: &Effective) -> bool {
    let listener = key.split('.').next().unwrap_or_default();
    let certificate = format!("{listener}.server_cert");
    old.get(&certificate).is_some() != next.get(&certificate).is_some()
}

/// Sets a dotted key, making tables on the way.
fn insert(table: &mut toml::Table, key: &str, value: toml::Value) {
    let Some((name, rest)) = key.split_once('.') else {
        table.insert(key.to_owned(), value);
        return;
    };
    let inner = table
        .entry(name)
        .or_insert_with(|| toml::Table::new().into());
    // A key is never a table and a value at once: the declarations see to that.
    if let toml::Value::Table(inner) = inner {
        insert(inner, rest, value);
    }
}

#[derive(Clone, Debug)]
pub struct Reloaded {
    pub effective: Effective,
    pub applied: Vec<Changed>,
    /// These keep their old value until a restart.
    pub waiting: Vec<Changed>,
}

/// A key with another value than before.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    pub key: String,
    pub old: Option<toml::Value>,
    pub new: Option<toml::Value>,
    pub source: Option<Source>,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown =
            |value: &Option<toml::Value>| value.as_ref().map_or_else(|| "unset".to_owned(), show);
        write!(
            f,
            "{} {} -> {}",
            self.key,
            shown(&self.old),
            shown(&self.new)
        )?;
        match &self.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

/// A value as an operator would write it in a file, on one harmless line.
pub fn show(value: &toml::Value) -> String {
    crate::spec::printable(&value.to_string())
}

/// `--set vm.vcpus = 4`, `MANAGER_MAX_VMS = 3`.
fn said(source: &Source, value: &toml::Value) -> String {
    format!("{source} says {}", show(value))
}
