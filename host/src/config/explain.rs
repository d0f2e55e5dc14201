//! Every value in effect, with its source: for `casemate config explain`.

use std::fmt::Write as _;

use super::Config;
use super::key::Default;
use super::sources::{Changed, Effective, Source, show};
use crate::api::access::clients::{ClientConfig, Mark};
use crate::backend::BackendConfig;

/// Where backends are configured.
const FILE: &str = "config file";

/// One value, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub key: String,
    /// As it would stand in the file; empty where there is none.
    pub value: String,
    /// `default`, `/etc/casemate/casemate.toml:12`, `MANAGER_MAX_VMS`, `CASEMATE_MAX_VMS`, `--set`.
    pub source: String,
    /// What it means that there is no value; weaker sources; a value that waits for a restart.
    pub notes: Vec<String>,
}

/// All declared keys in their order, then those of open tables, then the clients and the backends.
pub fn rows(effective: &Effective, config: &Config, waiting: &[Changed]) -> Vec<Row> {
    let mut rows = Vec::new();
    for declared in super::keys() {
        let mut row = row(effective, declared.name);
        if let (None, Default::Unset(without)) = (effective.get(declared.name), declared.default) {
            row.notes.push(format!("not set: {without}"));
        }
        rows.push(row);
    }
    for (key, _) in effective.entries() {
        if super::declared(key).is_none() {
            rows.push(row(effective, key));
        }
    }
    for change in waiting {
        if let Some(row) = rows.iter_mut().find(|row| row.key == change.key) {
            row.notes.push(format!("a restart is needed for: {change}"));
        }
    }
    for client in &config.clients {
        rows.extend(of_client(client));
    }
    for backend in &config.backends {
        rows.extend(of_backend(effective, backend));
    }
    rows
}

fn row(effective: &Effective, key: &str) -> Row {
    let entry = effective.get(key);
    Row {
        key: key.to_owned(),
        value: entry.map(|entry| show(&entry.value)).unwrap_or_default(),
        source: entry.map_or_else(
            || Source::Default.to_string(),
            |entry| entry.source.to_string(),
        ),
        notes: entry
            .map(|entry| {
                entry
                    .unused
                    .iter()
                    .map(|(source, value)| format!("not used: {} from {source}", show(value)))
                    .collect()
            })
            .unwrap_or_default(),
    }
}

/// Not the digest of a token: one of a token that a person chose could be guessed.
fn of_client(client: &ClientConfig) -> Vec<Row> {
    let roles: Vec<&str> = client.roles.iter().map(|role| role.as_str()).collect();
    let mut values = vec![("roles", show(&toml::Value::from(roles)))];
    values.extend(client.marks.iter().map(|mark| {
        let value = match mark {
            Mark::Token(_) => "a digest that is not shown".to_owned(),
            Mark::Certificate(text) | Mark::Dns(text) | Mark::Uri(text) => {
                show(&toml::Value::from(text.as_str()))
            }
            Mark::Uid(uid) => uid.to_string(),
        };
        (mark.key(), value)
    }));
    let rows = values.into_iter().map(|(key, value)| Row {
        key: format!("client.{}.{key}", client.name),
        value,
        source: FILE.to_owned(),
        notes: Vec::new(),
    });
    rows.collect()
}

fn of_backend(effective: &Effective, backend: &BackendConfig) -> Vec<Row> {
    let text = |text: &str| show(&toml::Value::from(text));
    let mut values = vec![("path".to_owned(), text(&backend.path.to_string_lossy()))];
    if let Some(digest) = &backend.sha256 {
        values.push(("sha256".to_owned(), text(digest)));
    }
    values.push((
        "allow_unpinned".to_owned(),
        backend.allow_unpinned.to_string(),
    ));
    if let Some(keys) = &backend.signature_keys {
        let keys = toml::Value::from(keys.clone());
        values.push(("signature_keys".to_owned(), show(&keys)));
    }
    values.push(("tier".to_owned(), text(backend.tier.as_str())));
    if let Ok(grants) = toml::Value::try_from(&backend.grants) {
        values.push(("grants".to_owned(), show(&grants)));
    }
    if let Some(canary) = &backend.canary {
        values.push(("canary.of".to_owned(), text(&canary.of)));
        let labels = toml::Table::from_iter(
            canary
                .labels
                .iter()
                .map(|(key, value)| (key.clone(), value.clone().into())),
        );
        values.push(("canary.labels".to_owned(), show(&labels.into())));
    }
    let name = crate::spec::printable(&backend.name);
    let mut rows: Vec<Row> = values
        .into_iter()
        .map(|(key, value)| Row {
            key: format!("backend.{name}.{key}"),
            value,
            source: FILE.to_owned(),
            notes: Vec::new(),
        })
        .collect();
    for (key, own) in &backend.settings {
        // A source that is stronger than the file comes before the backend's own table.
        let shared = effective
            .get(&format!("{}{key}", super::key::SETTINGS))
            .filter(|entry| !matches!(entry.source, Source::File { .. } | Source::Default));
        rows.push(Row {
            key: format!("backend.{name}.settings.{key}"),
            value: show(shared.map_or(own, |entry| &entry.value)),
            source: shared.map_or_else(|| FILE.to_owned(), |entry| entry.source.to_string()),
            notes: shared
                .map(|_| format!("not used: {} from {FILE}", show(own)))
                .into_iter()
                .collect(),
        });
    }
    rows
}

/// Lines for a terminal or a pipe: key, value, source, and notes below.
pub fn text(rows: &[Row]) -> String {
    let width = |of: fn(&Row) -> &String| {
        rows.iter()
            .map(|row| of(row).chars().count())
            .max()
            .unwrap_or(0)
            // A long path must not push the rest of all lines away.
            .min(44)
    };
    let (keys, values) = (width(|row| &row.key), width(|row| &row.value));
    let mut text = String::new();
    for row in rows {
        let value = if row.value.is_empty() {
            "-"
        } else {
            &row.value
        };
        let _ = writeln!(text, "{:keys$}  {value:values$}  {}", row.key, row.source);
        for note in &row.notes {
            let _ = writeln!(text, "    {note}");
        }
    }
    text
}
