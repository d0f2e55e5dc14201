//! One setting each: its announcement and its reading, so that key, form and default stay one thing.
//!
//! The host checks settings against the announcement. They are checked again here, because a
//! backend is a function on its own and must answer with an error, not a panic, whatever it is given.

use crate::answer::{invalid_request, quoted};
use crate::bindings::casemate::tee::types::{Error, HostContext, Origin, SettingSpec, Value};
use crate::names::is_id;

/// A value with the one who said it.
#[derive(Debug, Clone, PartialEq)]
pub struct Sourced<T> {
    pub value: T,
    pub origin: Origin,
}

impl<T> Sourced<T> {
    /// A built-in value may be replaced or left out; what a person named may not.
    pub fn is_named(&self) -> bool {
        self.origin != Origin::BuiltIn
    }

    fn built_in(value: T) -> Self {
        Self {
            value,
            origin: Origin::BuiltIn,
        }
    }
}

/// The words of a `one-of` setting. The first is the default.
pub type Words<T> = &'static [(&'static str, T)];

/// Who may set a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetBy {
    Operator,
    Request,
}

/// The announcement of a setting.
pub fn spec(
    key: &str,
    kind: &str,
    default: Option<Value>,
    description: &str,
    set_by: SetBy,
) -> SettingSpec {
    SettingSpec {
        key: key.to_owned(),
        kind: kind.to_owned(),
        default,
        description: description.to_owned(),
        per_request: match set_by {
            SetBy::Operator => false,
            SetBy::Request => true,
        },
    }
}

/// The announcement of a setting that is one of some words.
pub fn spec_of_words<T>(
    key: &str,
    words: Words<T>,
    description: &str,
    set_by: SetBy,
) -> SettingSpec {
    let kind = format!("one-of:{}", joined(words, "|"));
    let default = words.first().map(|(word, _)| text(word));
    spec(key, &kind, default, description, set_by)
}

pub fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn joined<T>(words: Words<T>, separator: &str) -> String {
    let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    words.join(separator)
}

fn find<'a>(host: &'a HostContext, key: &str) -> Option<(&'a Value, Origin)> {
    host.settings
        .iter()
        .find(|setting| setting.key == key)
        .map(|setting| (&setting.value, setting.origin))
}

pub fn unsigned(host: &HostContext, key: &str, default: u64) -> Result<Sourced<u64>, Error> {
    Ok(optional_unsigned(host, key)?.unwrap_or_else(|| Sourced::built_in(default)))
}

/// A number that has no default.
pub fn optional_unsigned(host: &HostContext, key: &str) -> Result<Option<Sourced<u64>>, Error> {
    match find(host, key) {
        None => Ok(None),
        Some((Value::Unsigned(value), origin)) => Ok(Some(Sourced {
            value: *value,
            origin,
        })),
        Some(_) => Err(wrong_form(key, "a number that is not negative")),
    }
}

pub fn boolean(host: &HostContext, key: &str, default: bool) -> Result<Sourced<bool>, Error> {
    match find(host, key) {
        None => Ok(Sourced::built_in(default)),
        Some((Value::Boolean(value), origin)) => Ok(Sourced {
            value: *value,
            origin,
        }),
        Some(_) => Err(wrong_form(key, "true or false")),
    }
}

pub fn one_of<T: Copy>(
    host: &HostContext,
    key: &str,
    words: Words<T>,
) -> Result<Sourced<T>, Error> {
    let (wanted, origin) = match find(host, key) {
        None => match words.first() {
            Some((_, value)) => return Ok(Sourced::built_in(*value)),
            None => return Err(wrong_form(key, "nothing")),
        },
        Some((Value::Text(text), origin)) => (text.as_str(), origin),
        Some(_) => return Err(wrong_form(key, &format!("one of {}", joined(words, ", ")))),
    };
    match words.iter().find(|(word, _)| *word == wanted) {
        Some((_, value)) => Ok(Sourced {
            value: *value,
            origin,
        }),
        None => Err(invalid_request(
            key,
            &format!(
                "{} is not a value of setting {key}, which is one of {}",
                quoted(wanted),
                joined(words, ", ")
            ),
            &format!("set {key} to one of these"),
        )),
    }
}

/// An id as QEMU wants it: a letter, then letters, digits, `-`, `.` and `_`.
pub fn identifier(host: &HostContext, key: &str, default: &str) -> Result<String, Error> {
    let id = match find(host, key) {
        None => default,
        Some((Value::Text(text), _)) => text,
        Some(_) => return Err(wrong_form(key, "an id")),
    };
    if !is_id(id) {
        return Err(invalid_request(
            key,
            &format!(
                "{} is not an id, which starts with a letter, holds only letters, digits, `-`, `.` \
                 and `_`, and does not start with `casemate-`",
                quoted(id)
            ),
            &format!("set {key} to an id such as {default}"),
        ));
    }
    Ok(id.to_owned())
}

/// Two objects of a plan cannot have one id.
pub fn same_id(key: &str, other: &str, id: &str) -> Error {
    invalid_request(
        key,
        &format!(
            "{key} and {other} are both {}, and an id is given once",
            quoted(id)
        ),
        &format!("set {key} to another id than {other}"),
    )
}

/// Bytes that have exactly `length`, or nothing.
pub fn bytes(host: &HostContext, key: &str, length: usize) -> Result<Option<Vec<u8>>, Error> {
    match find(host, key) {
        None => Ok(None),
        Some((Value::Bytes(bytes), _)) if bytes.len() == length => Ok(Some(bytes.clone())),
        Some((Value::Bytes(bytes), _)) => Err(invalid_request(
            key,
            &format!(
                "{key} has {} bytes, wanted is exactly {length}",
                bytes.len()
            ),
            &format!("give {key} as base64 of {length} bytes"),
        )),
        Some(_) => Err(wrong_form(key, &format!("base64 of {length} bytes"))),
    }
}

/// A path on the host, or nothing.
pub fn host_path(host: &HostContext, key: &str) -> Result<Option<Sourced<String>>, Error> {
    match find(host, key) {
        None => Ok(None),
        Some((Value::HostPath(path), origin)) => Ok(Some(Sourced {
            value: path.clone(),
            origin,
        })),
        Some(_) => Err(wrong_form(key, "an absolute path")),
    }
}

/// Flags of 64 bits, in decimal or, as specifications write them, in hexadecimal.
pub fn flags(host: &HostContext, key: &str, default: u64) -> Result<Sourced<u64>, Error> {
    let (written, origin) = match find(host, key) {
        None => return Ok(Sourced::built_in(default)),
        Some((Value::Text(text), origin)) => (text.as_str(), origin),
        Some(_) => return Err(wrong_form(key, "a text with a number, such as 0x30000")),
    };
    let hexadecimal = written
        .strip_prefix("0x")
        .or_else(|| written.strip_prefix("0X"));
    // `from_str_radix` takes a sign, which is no digit here.
    let plain = |digits: &str| !digits.starts_with('+') && !digits.starts_with('-');
    let value = match hexadecimal {
        Some(digits) if plain(digits) => u64::from_str_radix(digits, 16).ok(),
        None if plain(written) => written.parse().ok(),
        _ => None,
    };
    match value {
        Some(value) => Ok(Sourced { value, origin }),
        None => Err(invalid_request(
            key,
            &format!(
                "{} is no number of 64 bits in decimal or, with 0x, in hexadecimal",
                quoted(written)
            ),
            &format!("set {key} to a number such as {default:#x}"),
        )),
    }
}

/// As [`flags`], where leaving it out means something of its own. `example` is for messages.
pub fn optional_flags(
    host: &HostContext,
    key: &str,
    example: u64,
) -> Result<Option<Sourced<u64>>, Error> {
    match find(host, key) {
        None => Ok(None),
        Some(_) => flags(host, key, example).map(Some),
    }
}

fn wrong_form(key: &str, wanted: &str) -> Error {
    invalid_request(
        key,
        &format!("setting {key} has a value of the wrong form, wanted is {wanted}"),
        &format!("set {key} to {wanted}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::casemate::tee::types::Setting;

    fn host(value: Value) -> HostContext {
        HostContext {
            architecture: "x86_64".to_owned(),
            accelerator: "kvm".to_owned(),
            settings: vec![Setting {
                key: "key".to_owned(),
                value,
                origin: Origin::Operator,
            }],
            files: Vec::new(),
        }
    }

    #[test]
    fn flags_are_read_as_specifications_write_them() {
        for (written, expected) in [
            ("0x30000", Some(0x30000)),
            ("0X1f", Some(0x1f)),
            ("196608", Some(196_608)),
            ("0xffffffffffffffff", Some(u64::MAX)),
            ("0x10000000000000000", None),
            ("0x", None),
            ("", None),
            ("0x+1", None),
            ("+1", None),
            ("-1", None),
            ("30000h", None),
        ] {
            let read = flags(&host(text(written)), "key", 7);
            assert_eq!(read.map(|flags| flags.value).ok(), expected, "{written}");
        }
        let absent = flags(&host(text("1")), "other", 7).expect("it has a default");
        assert_eq!((absent.value, absent.is_named()), (7, false));
    }

    #[test]
    fn bytes_have_the_length_that_is_wanted_and_are_never_cut() {
        for (length, fits) in [(31, false), (32, true), (33, false), (0, false)] {
            let read = bytes(&host(Value::Bytes(vec![1; length])), "key", 32);
            assert_eq!(read.is_ok(), fits, "{length}");
        }
        assert_eq!(bytes(&host(text("AAAA")), "other", 32), Ok(None));
        bytes(&host(text("AAAA")), "key", 32).expect_err("text is no bytes");
    }
}
