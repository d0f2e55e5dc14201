//! Documents made from the declarations of keys and variables: the commented config file and the
//! tables of the reference. They cannot differ from what the daemon does.

use std::fmt::Write as _;

use super::environment::predecessor::{self, Meaning, Variable};
use super::key::{Change, Default, Key};
use super::sources::show;

/// Widest comment line of the file.
const WIDTH: usize = 96;

/// The backend of the packaged file, with all that it announces.
const PACKAGED_BACKEND: &str = include_str!("packaged-backend.toml");

/// What a client looks like; there is none by default.
const PACKAGED_CLIENT: &str = include_str!("packaged-client.toml");

/// The commented file, with every key and its default.
pub fn default_file() -> String {
    let mut text = String::from(
        "# Casemate's config file: /etc/casemate/casemate.toml.\n\
         # Every key is shown with its default. Sizes: bytes, or a number with K, M, G, T (binary).\n\
         # Times: `90s`, `1h30m`. Variables come before this file, `--set KEY=VALUE` before both.\n\
         # `casemate config explain` shows each value in effect and where it came from.\n",
    );
    let mut table = "";
    for key in super::keys() {
        let (in_table, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
        if in_table != table {
            let _ = write!(text, "\n[{in_table}]\n");
            table = in_table;
        } else {
            text.push('\n');
        }
        for line in comment(key) {
            let _ = writeln!(text, "# {line}");
        }
        let value = match (key.default, key.example) {
            (Default::Value(value), _) => written(key, value),
            (Default::Unset(_), example) => written(key, example.unwrap_or_default()),
        };
        let _ = writeln!(text, "# {name} = {value}");
    }
    text.push_str(PACKAGED_CLIENT);
    text.push_str(PACKAGED_BACKEND);
    text
}

fn written(key: &Key, value: &str) -> String {
    match key.form.parse(value) {
        Some(value) => show(&value),
        None => show(&toml::Value::from(value)),
    }
}

fn comment(key: &Key) -> Vec<String> {
    let mut words: Vec<&str> = key.doc.split(' ').collect();
    let without = match key.default {
        Default::Unset(without) => format!("Not set: {without}."),
        Default::Value(_) => String::new(),
    };
    words.extend(without.split(' ').filter(|word| !word.is_empty()));
    let effect = match key.change {
        Change::Reload => "",
        Change::Restart => "Takes effect at a restart.",
        Change::Tls => "Read again when it changes; turning TLS on or off takes a restart.",
    };
    words.extend(effect.split(' ').filter(|word| !word.is_empty()));
    let mut lines = vec![String::new()];
    for word in words {
        let line = lines.last_mut().expect("there is always a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// Table of all keys, in Markdown.
pub fn key_table() -> String {
    let mut text = String::from(
        "| key | variable | form | default | takes effect | meaning |\n|---|---|---|---|---|---|\n",
    );
    for key in super::keys() {
        let default = match key.default {
            Default::Value(value) => format!("`{}`", written(key, value)),
            Default::Unset(without) => format!("none: {without}"),
        };
        let effect = match key.change {
            Change::Reload => "reload",
            Change::Restart => "restart",
            Change::Tls => "reload, and when the file changes; restart, to turn TLS on or off",
        };
        let _ = writeln!(
            text,
            "| `{}` | `{}` | {} | {} | {effect} | {} |",
            key.name,
            key.variable(),
            cell(&key.form.wanted()),
            cell(&default),
            cell(key.doc)
        );
    }
    text
}

/// Table of the predecessor's variables, in Markdown.
pub fn predecessor_table() -> String {
    let mut text = String::from(
        "| variable | predecessor's default | form | meaning here |\n|---|---|---|---|\n",
    );
    for variable in predecessor::VARIABLES {
        let names: Vec<String> = variable
            .names
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        let default = if variable.default.is_empty() {
            String::new()
        } else {
            format!("`{}`", variable.default)
        };
        let _ = writeln!(
            text,
            "| {} | {default} | {} | {} |",
            names.join(", "),
            cell(&variable.form.wanted()),
            cell(&meaning(variable))
        );
    }
    text
}

fn meaning(variable: &Variable) -> String {
    match variable.meaning {
        Meaning::Key(key) => format!("`{key}`"),
        Meaning::Wish(key) => {
            format!("`{key}`, as a wish: a backend that cannot have it replaces it, with a finding")
        }
        Meaning::Setting(key) => format!("setting `{key}` of every backend that announces it"),
        Meaning::Words { key, on, off } => format!("`{key}`: `{on}`, or `{off}` when off"),
        Meaning::Listener { host, port } => format!("`{host}` and `{port}` in one"),
        Meaning::Chooses { on, off } => match off {
            Some(off) => format!(
                "`default_backend`: `{on}`, or `{off}` when off and no other technology is on"
            ),
            None => format!("`default_backend`: `{on}`; off says nothing"),
        },
        Meaning::Fixed => "accepted; it can have this one value only".to_owned(),
        Meaning::Identity => format!("`vm.identity`, if `{}` is on", predecessor::IDENTITY_SWITCH),
        Meaning::IdentitySwitch => format!("uses `{}`", predecessor::IDENTITY),
        Meaning::Ignored { when, why } => match when {
            predecessor::When::Given => format!("no effect, with a warning: {why}"),
            predecessor::When::True => format!("on: no effect, with a warning: {why}"),
            predecessor::When::False => format!("off: no effect, with a warning: {why}"),
        },
        Meaning::Later { feature } => {
            format!("checked; no effect yet, with a warning: this version does not have {feature}")
        }
        Meaning::Refused { feature, remedy } => format!(
            "checked; a value is refused at the start: this version does not have {feature} ({remedy})"
        ),
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
