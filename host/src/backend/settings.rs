//! Settings of a backend: the host knows their kinds and where a value came from, not what they
//! mean. Config and requests give text; a backend gets values of the announced kind.

use std::collections::BTreeMap;
use std::path::PathBuf;

use base64::Engine as _;

use super::bindings::casemate::tee::types;
use super::describe::{SettingKind, SettingSpec};
use crate::spec::permissions::is_plain_absolute;
use crate::spec::plan::Value;
use crate::spec::{Origin, byte_size, parse_switch};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingError {
    #[error("{key:?} is no setting of this backend; it has {known}")]
    Unknown { key: String, known: String },
    #[error("{key:?} is {value:?}; wanted is {wanted}")]
    Form {
        key: String,
        value: String,
        wanted: String,
    },
    #[error("{key:?} cannot be set for one VM; it is for the operator's config")]
    NotPerRequest { key: String },
    #[error(
        "{key:?} names a path of the host, which a request may not; it is for the operator's config"
    )]
    PathInRequest { key: String },
}

/// A setting with a value.
#[derive(Clone, Debug, PartialEq)]
pub struct SettingInput {
    pub key: String,
    pub value: SettingValue,
    /// Where an operator's value stands; empty for others.
    pub place: String,
}

/// An operator's setting for every backend that announces it.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedSetting {
    pub key: String,
    pub value: toml::Value,
    /// A variable, or file and line.
    pub place: String,
    pub rank: SharedRank,
}

/// Whether a backend's own table comes before a shared setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedRank {
    /// From the same file: the nearer word wins.
    BelowOwn,
    /// From a source that is stronger than the file.
    AboveOwn,
}

/// A setting that cannot be used, with the place where it stands.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{place}: {error}")]
pub struct PlacedError {
    pub place: String,
    pub error: SettingError,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SettingValue {
    Plain(Value),
    /// To be opened and given as a file with the role `setting:<key>`.
    File(PathBuf),
}

pub(super) fn parse_kind(text: &str) -> Option<SettingKind> {
    Some(match text {
        "boolean" => SettingKind::Boolean,
        "integer" => SettingKind::Integer,
        "unsigned" => SettingKind::Unsigned,
        "size" => SettingKind::Size,
        "text" => SettingKind::Text,
        "bytes" => SettingKind::Bytes { exact: None },
        "file" => SettingKind::File,
        "host-path" => SettingKind::HostPath,
        _ => {
            if let Some(count) = text.strip_prefix("bytes:") {
                SettingKind::Bytes {
                    exact: Some(count.parse().ok()?),
                }
            } else {
                let names: Vec<_> = text
                    .strip_prefix("one-of:")?
                    .split('|')
                    .map(str::to_owned)
                    .collect();
                if names
                    .iter()
                    .any(|name| name.is_empty() || name.contains(char::is_control))
                {
                    return None;
                }
                SettingKind::OneOf(names)
            }
        }
    })
}

pub(super) fn default_from_wit(value: types::Value) -> Value {
    match value {
        types::Value::Text(text) => Value::Text(text),
        types::Value::Integer(number) => Value::Integer(number),
        types::Value::Unsigned(number) => Value::Unsigned(number),
        types::Value::Boolean(flag) => Value::Boolean(flag),
        types::Value::Bytes(bytes) => Value::Bytes(bytes),
        types::Value::File(id) => Value::File(id),
        types::Value::HostPath(path) => Value::HostPath(path),
    }
}

/// Whether a default is of the announced kind. A file cannot have one: there is no file yet.
pub(super) fn is_of_kind(value: &Value, kind: &SettingKind) -> bool {
    match (value, kind) {
        (Value::Boolean(_), SettingKind::Boolean)
        | (Value::Integer(_), SettingKind::Integer)
        | (Value::Unsigned(_), SettingKind::Unsigned | SettingKind::Size) => true,
        (Value::Text(text), SettingKind::Text) => !text.contains(char::is_control),
        (Value::Bytes(bytes), SettingKind::Bytes { exact }) => {
            exact.is_none_or(|count| bytes.len() == count)
        }
        (Value::HostPath(path), SettingKind::HostPath) => is_plain_absolute(path),
        (Value::Text(text), SettingKind::OneOf(names)) => names.contains(text),
        _ => false,
    }
}

/// `text` as a value of `spec`.
fn parse(spec: &SettingSpec, text: &str) -> Result<SettingValue, SettingError> {
    let wanted = match &spec.kind {
        SettingKind::Boolean => "on, off, true, false, 1 or 0".to_owned(),
        SettingKind::Integer => "a whole number".to_owned(),
        SettingKind::Unsigned => "a whole number from 0".to_owned(),
        SettingKind::Size => "bytes, or a number with K, M, G or T".to_owned(),
        SettingKind::Text => "text without control characters".to_owned(),
        SettingKind::Bytes { exact: None } => "base64".to_owned(),
        SettingKind::Bytes { exact: Some(count) } => format!("base64 of {count} bytes"),
        SettingKind::File => "the path of a file".to_owned(),
        SettingKind::HostPath => "an absolute path without `.` and `..`".to_owned(),
        SettingKind::OneOf(names) => format!("one of {}", names.join(", ")),
    };
    let value = match &spec.kind {
        SettingKind::Boolean => parse_switch(text).map(Value::Boolean),
        SettingKind::Integer => text.parse().ok().map(Value::Integer),
        SettingKind::Unsigned => parse_unsigned(text).map(Value::Unsigned),
        SettingKind::Size => byte_size::parse(text).ok().map(Value::Unsigned),
        SettingKind::Text => {
            (!text.contains(char::is_control)).then(|| Value::Text(text.to_owned()))
        }
        SettingKind::Bytes { exact } => base64::engine::general_purpose::STANDARD
            .decode(text)
            .ok()
            .filter(|bytes| exact.is_none_or(|count| bytes.len() == count))
            .map(Value::Bytes),
        SettingKind::File => {
            if text.is_empty() || text.contains(char::is_control) {
                None
            } else {
                return Ok(SettingValue::File(PathBuf::from(text)));
            }
        }
        SettingKind::HostPath => is_plain_absolute(text).then(|| Value::HostPath(text.to_owned())),
        SettingKind::OneOf(names) => names
            .iter()
            .any(|name| name == text)
            .then(|| Value::Text(text.to_owned())),
    };
    value
        .map(SettingValue::Plain)
        .ok_or_else(|| SettingError::Form {
            key: spec.key.clone(),
            value: crate::spec::printable(text),
            wanted,
        })
}

fn parse_unsigned(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn spec_of<'a>(specs: &'a [SettingSpec], key: &str) -> Result<&'a SettingSpec, SettingError> {
    specs
        .iter()
        .find(|spec| spec.key == key)
        .ok_or_else(|| SettingError::Unknown {
            key: crate::spec::printable(key),
            known: if specs.is_empty() {
                "none".to_owned()
            } else {
                specs
                    .iter()
                    .map(|spec| spec.key.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            },
        })
}

/// The operator's settings, checked when the backend is loaded: its own table in the config file,
/// and those that are meant for every backend that announces them.
pub(super) fn from_config(
    specs: &[SettingSpec],
    own: &BTreeMap<String, toml::Value>,
    shared: &[SharedSetting],
) -> Result<Vec<SettingInput>, PlacedError> {
    const OWN: &str = "the backend's settings in the config file";
    let at = |place: &str| {
        let place = place.to_owned();
        move |error| PlacedError { place, error }
    };
    for key in own.keys() {
        spec_of(specs, key).map_err(at(OWN))?;
    }
    let mut inputs = Vec::new();
    for spec in specs {
        let of_rank = |rank| {
            let mut shared = shared.iter();
            shared
                .find(|setting| setting.key == spec.key && setting.rank == rank)
                .map(|setting| (&setting.value, setting.place.as_str()))
        };
        let found = of_rank(SharedRank::AboveOwn)
            .or_else(|| own.get(&spec.key).map(|value| (value, OWN)))
            .or_else(|| of_rank(SharedRank::BelowOwn));
        let Some((value, place)) = found else {
            continue;
        };
        let text = match value {
            toml::Value::String(text) => text.clone(),
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            other => {
                return Err(at(place)(SettingError::Form {
                    key: spec.key.clone(),
                    value: crate::spec::printable(&other.to_string()),
                    wanted: "a string, a whole number or a boolean".to_owned(),
                }));
            }
        };
        inputs.push(SettingInput {
            key: spec.key.clone(),
            value: parse(spec, &text).map_err(at(place))?,
            place: place.to_owned(),
        });
    }
    Ok(inputs)
}

/// One entry for each setting that has a value, the strongest source first looked at.
pub(super) fn merge(
    specs: &[SettingSpec],
    operator: &[SettingInput],
    request: &BTreeMap<String, String>,
) -> Result<Vec<(SettingInput, Origin)>, SettingError> {
    for key in request.keys() {
        let spec = spec_of(specs, key)?;
        if !spec.per_request {
            return Err(SettingError::NotPerRequest { key: key.clone() });
        }
        // The daemon would open it with its own rights.
        if matches!(spec.kind, SettingKind::File | SettingKind::HostPath) {
            return Err(SettingError::PathInRequest { key: key.clone() });
        }
    }
    let mut merged = Vec::new();
    for spec in specs {
        let input = |value| SettingInput {
            key: spec.key.clone(),
            value,
            place: String::new(),
        };
        let entry = if let Some(text) = request.get(&spec.key) {
            Some((input(parse(spec, text)?), Origin::Request))
        } else if let Some(given) = operator.iter().find(|input| input.key == spec.key) {
            Some((given.clone(), Origin::Operator))
        } else {
            spec.default
                .clone()
                .map(|value| (input(SettingValue::Plain(value)), Origin::BuiltIn))
        };
        merged.extend(entry);
    }
    Ok(merged)
}

/// A value as an operator would write it, for tables.
pub fn show(value: &Value) -> String {
    match value {
        Value::Text(text) | Value::HostPath(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Unsigned(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
        Value::Bytes(bytes) => base64::engine::general_purpose::STANDARD.encode(bytes),
        Value::File(id) => format!("file {id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: &str) -> SettingSpec {
        SettingSpec {
            key: "k".to_owned(),
            kind: parse_kind(kind).unwrap(),
            kind_text: kind.to_owned(),
            default: None,
            description: String::new(),
            per_request: true,
        }
    }

    #[test]
    fn text_becomes_a_value_of_the_kind() {
        for (kind, text, value) in [
            ("boolean", "on", Some(Value::Boolean(true))),
            ("boolean", "0", Some(Value::Boolean(false))),
            ("boolean", "yes", None),
            ("integer", "-3", Some(Value::Integer(-3))),
            ("unsigned", "0x30000", Some(Value::Unsigned(0x30000))),
            ("unsigned", "-1", None),
            ("size", "30G", Some(Value::Unsigned(30 << 30))),
            ("text", "a,b", Some(Value::Text("a,b".to_owned()))),
            ("text", "a\nb", None),
            ("bytes", "AAE=", Some(Value::Bytes(vec![0, 1]))),
            ("bytes:2", "AAE=", Some(Value::Bytes(vec![0, 1]))),
            ("bytes:3", "AAE=", None),
            (
                "host-path",
                "/run/x",
                Some(Value::HostPath("/run/x".to_owned())),
            ),
            ("host-path", "/run/../x", None),
            ("one-of:a|b", "b", Some(Value::Text("b".to_owned()))),
            ("one-of:a|b", "c", None),
        ] {
            let parsed = parse(&spec(kind), text).ok();
            assert_eq!(parsed, value.map(SettingValue::Plain), "{kind} {text:?}");
        }
        for kind in ["", "string", "bytes:x", "one-of:", "one-of:a||b"] {
            assert_eq!(parse_kind(kind), None, "{kind:?}");
        }
    }

    #[test]
    fn the_request_wins_over_the_operator_over_the_default() {
        let mut specs = vec![spec("text")];
        specs[0].default = Some(Value::Text("default".to_owned()));
        let operator = [SettingInput {
            key: "k".to_owned(),
            value: SettingValue::Plain(Value::Text("operator".to_owned())),
            place: "the config file".to_owned(),
        }];
        let request: BTreeMap<_, _> = [("k".to_owned(), "request".to_owned())].into();
        let origin = |operator: &[SettingInput], request: &BTreeMap<String, String>| {
            merge(&specs, operator, request).unwrap()[0].1
        };
        assert_eq!(origin(&[], &BTreeMap::new()), Origin::BuiltIn);
        assert_eq!(origin(&operator, &BTreeMap::new()), Origin::Operator);
        assert_eq!(origin(&operator, &request), Origin::Request);
        for kind in ["file", "host-path"] {
            let specs = [spec(kind)];
            let request: BTreeMap<_, _> = [("k".to_owned(), "/etc/shadow".to_owned())].into();
            assert_eq!(
                merge(&specs, &[], &request),
                Err(SettingError::PathInRequest {
                    key: "k".to_owned()
                })
            );
        }
        specs[0].per_request = false;
        assert_eq!(
            merge(&specs, &operator, &request),
            Err(SettingError::NotPerRequest {
                key: "k".to_owned()
            })
        );
    }

    #[test]
    fn a_shared_setting_goes_to_those_who_announce_it_and_a_variable_comes_before_the_file() {
        let specs = [spec("unsigned")];
        let shared = |rank| SharedSetting {
            key: "k".to_owned(),
            value: 1.into(),
            place: "MANAGER_K".to_owned(),
            rank,
        };
        let own: BTreeMap<_, _> = [("k".to_owned(), toml::Value::from(2))].into();
        let none = BTreeMap::new();
        let value = |own, shared: &[SharedSetting]| {
            let inputs = from_config(&specs, own, shared).unwrap();
            inputs.first().map(|input| input.value.clone())
        };
        let number = |number| Some(SettingValue::Plain(Value::Unsigned(number)));
        assert_eq!(value(&none, &[shared(SharedRank::BelowOwn)]), number(1));
        assert_eq!(value(&own, &[shared(SharedRank::BelowOwn)]), number(2));
        assert_eq!(value(&own, &[shared(SharedRank::AboveOwn)]), number(1));
        let other = SharedSetting {
            key: "other".to_owned(),
            ..shared(SharedRank::AboveOwn)
        };
        assert_eq!(value(&none, &[other]), None);
        let wrong = SharedSetting {
            value: "many".into(),
            ..shared(SharedRank::AboveOwn)
        };
        let error = from_config(&specs, &none, &[wrong])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("MANAGER_K") && error.contains("many"),
            "{error}"
        );
    }
}
