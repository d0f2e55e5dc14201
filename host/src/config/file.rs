//! The config file: TOML, each value with its line.
//!
//! Values of declared keys are read one by one, so that an error can name line, value and form.
//! `[[backend]]` tables have a shape of their own, which serde reads; `[[client]]` tables are read by
//! `clients`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::key;
use super::sources::{Candidate, Source};
use super::{ConfigError, Tables, clients};
use crate::backend::{BackendConfig, canary};
use crate::regular_file::{self, ReadError};

/// Largest file that is read; one with a hundred backends has some 100 KiB.
const MAX_FILE: u64 = 4 << 20;

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct FileContent {
    pub candidates: Vec<Candidate>,
    pub tables: Tables,
}

#[derive(Debug, Default, Deserialize)]
struct Backends {
    #[serde(default, rename = "backend")]
    backends: Vec<BackendConfig>,
}

pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let content = regular_file::read(path, MAX_FILE).map_err(|error| match error {
        ReadError::Io(source) => unreadable(source),
        ReadError::TooLarge => unreadable(io::Error::other("it is larger than 4 MiB")),
    })?;
    String::from_utf8(content).map_err(|_| unreadable(io::Error::other("it is not UTF-8")))
}

/// Reads all that `text` says; everything that is wrong goes to `errors`.
pub(super) fn parse(path: &Path, text: &str, errors: &mut Vec<ConfigError>) -> FileContent {
    let mut content = FileContent::default();
    let syntax = |error: toml::de::Error| ConfigError::Syntax {
        path: path.to_owned(),
        message: error.to_string().trim_end().to_owned(),
    };
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            errors.push(syntax(error));
            return content;
        }
    };
    let mut walk = Walk {
        path: Arc::new(path.to_owned()),
        text,
        candidates: Vec::new(),
        errors,
    };
    walk.table("", document.get_ref());
    content.candidates = walk.candidates;
    if let Some(tables) = document.get_ref().get("client") {
        content.tables.clients = clients::read(path, text, tables, errors);
    }
    match toml::from_str::<Backends>(text) {
        Ok(backends) => content.tables.backends = backends.backends,
        Err(error) => errors.push(syntax(error)),
    }
    for (index, backend) in content.tables.backends.iter().enumerate() {
        let mut earlier = content.tables.backends[..index].iter();
        if earlier.any(|other| other.name == backend.name) {
            errors.push(ConfigError::DuplicateBackend {
                path: path.to_owned(),
                name: backend.name.clone(),
            });
        }
    }
    for (name, source) in canary::faults(&content.tables.backends) {
        errors.push(ConfigError::Canary {
            path: path.to_owned(),
            name,
            source,
        });
    }
    content
}

struct Walk<'a> {
    path: Arc<PathBuf>,
    text: &'a str,
    candidates: Vec<Candidate>,
    errors: &'a mut Vec<ConfigError>,
}

impl Walk<'_> {
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let source = Source::File {
                path: Arc::clone(&self.path),
                line: line_of(self.text, name.span().start),
            };
            let key = format!("{prefix}{}", name.get_ref());
            if key == "backend" || key == "client" {
                // Arrays of tables, which are read by themselves.
                continue;
            }
            if let DeValue::Table(inner) = value.get_ref()
                && is_table(&key)
            {
                self.table(&format!("{key}."), inner);
                continue;
            }
            let Some(form) = super::form_of(&key) else {
                let closest = super::closest(&key, super::keys().map(|known| known.name));
                self.errors.push(ConfigError::UnknownKey {
                    place: source.to_string(),
                    key: crate::spec::printable(&key),
                    closest,
                });
                continue;
            };
            match scalar(value.get_ref()).and_then(|value| form.read(&value)) {
                Some(value) => self.candidates.push(Candidate { key, value, source }),
                None => self.errors.push(ConfigError::Value {
                    place: format!("{source}: {key}"),
                    value: shown(self.text, value.span()),
                    wanted: form.wanted(),
                }),
            }
        }
    }
}

/// Whether keys are declared below `name`, or may be there.
fn is_table(name: &str) -> bool {
    let table = format!("{name}.");
    super::keys().any(|known| known.name.starts_with(&table))
        || [key::NETWORK_PROPERTIES, key::SETTINGS, key::LEASES].contains(&table.as_str())
}

pub(super) fn scalar(value: &DeValue<'_>) -> Option<toml::Value> {
    Some(match value {
        DeValue::String(text) => toml::Value::String(text.clone().into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .ok()?
            .into(),
        DeValue::Float(number) => number.as_str().parse::<f64>().ok()?.into(),
        DeValue::Boolean(flag) => (*flag).into(),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => return None,
    })
}

/// From 1 up.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

/// A value as it stands in the file, without more of it than a line has.
pub(super) fn shown(text: &str, span: std::ops::Range<usize>) -> String {
    const MOST: usize = 80;
    let text = text.get(span).unwrap_or_default();
    let mut shown: String = text.chars().take(MOST).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    crate::spec::printable(&shown)
}
