//! One option that is taken apart: an object, a device, the machine.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::keyval::{KeyvalError, Pair};
use crate::quantity::{self, Unit};

/// How an option was written. It matters: JSON has types, an option string has texts alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    Keyval,
}

/// An option's properties. Of two with one name the last is kept, as QEMU does with option strings;
/// in JSON it refuses them, which this parser does not see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub form: Form,
    /// Value of the implied key: type of an object, driver of a device, name of a machine. Empty
    /// where it is not given.
    pub kind: String,
    pub id: Option<String>,
    /// All others. A value of an option string is a JSON string; a part without `=` is `on`.
    pub properties: Map<String, Value>,
}

/// A property, read as what it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading<T> {
    Absent,
    /// It is there, and of another type or form. The text says what it is.
    Wrong(String),
    Is(T),
}

impl<T> Reading<T> {
    pub fn value(self) -> Option<T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Wrong(_) => None,
        }
    }

    fn from(found: Option<&Value>, read: impl FnOnce(&Value) -> Option<T>) -> Self {
        let Some(value) = found else {
            return Self::Absent;
        };
        read(value).map_or_else(|| Self::Wrong(value.to_string()), Self::Is)
    }
}

/// Why an option could not be taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ItemError {
    Keyval(KeyvalError),
    /// What the JSON parser said.
    Json(String),
}

impl Item {
    /// `implied` is the key that a first part without `=` stands for.
    pub(crate) fn parse(text: &str, form: Form, implied: &str) -> Result<Self, ItemError> {
        let mut properties = match form {
            Form::Json => {
                serde_json::from_str(text).map_err(|error| ItemError::Json(error.to_string()))?
            }
            Form::Keyval => keyval_properties(text, implied)?,
        };
        let mut take = |key: &str| match properties.shift_remove(key) {
            Some(Value::String(text)) => Some(text),
            Some(other) => Some(other.to_string()),
            None => None,
        };
        let kind = take(implied).unwrap_or_default();
        let id = take("id");
        Ok(Self {
            form,
            kind,
            id,
            properties,
        })
    }

    /// A whole number. QEMU takes a negative one in JSON for the unsigned one with its bits, and
    /// refuses it in an option string.
    pub fn number(&self, name: &str) -> Reading<u64> {
        Reading::from(self.properties.get(name), |value| match self.form {
            Form::Json => value
                .as_u64()
                .or_else(|| Some(value.as_i64()?.cast_unsigned())),
            Form::Keyval => quantity::number(value.as_str()?),
        })
    }

    pub fn switch(&self, name: &str) -> Reading<bool> {
        Reading::from(self.properties.get(name), |value| match self.form {
            Form::Json => value.as_bool(),
            Form::Keyval => quantity::switch(value.as_str()?),
        })
    }

    pub fn text(&self, name: &str) -> Reading<&str> {
        let found = self.properties.get(name);
        match found {
            None => Reading::Absent,
            Some(Value::String(text)) => Reading::Is(text),
            Some(other) => Reading::Wrong(other.to_string()),
        }
    }

    /// Bytes.
    pub fn size(&self, name: &str) -> Reading<u64> {
        Reading::from(self.properties.get(name), |value| match self.form {
            Form::Json => value.as_u64(),
            Form::Keyval => quantity::size(value.as_str()?, Unit::Byte),
        })
    }

    /// What a text in base64 stands for, if it is the one way to write it: padded, and without
    /// stray bits at its end (RFC 4648 section 3.5).
    pub fn bytes(&self, name: &str) -> Reading<Vec<u8>> {
        Reading::from(self.properties.get(name), |value| {
            STANDARD.decode(value.as_str()?).ok()
        })
    }

    /// Whether a switch is written as off. Those that are `on`, `off` or `auto` to QEMU are texts in
    /// JSON too.
    pub(crate) fn is_off(&self, name: &str) -> bool {
        self.says(name, false)
    }

    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.says(name, true)
    }

    fn says(&self, name: &str, wanted: bool) -> bool {
        match self.properties.get(name) {
            Some(Value::Bool(value)) => *value == wanted,
            Some(Value::String(text)) => quantity::switch(text) == Some(wanted),
            _ => false,
        }
    }

    /// For messages.
    pub(crate) fn label(&self) -> String {
        match &self.id {
            Some(id) => format!("{} `{id}`", self.kind),
            None => format!("{} without an id", self.kind),
        }
    }
}

fn keyval_properties(text: &str, implied: &str) -> Result<Map<String, Value>, ItemError> {
    let mut properties = Map::new();
    for pair in Pair::split(text).map_err(ItemError::Keyval)? {
        // An option without an implied key takes a first part without `=` as a switch.
        let (key, value) = match (pair.key.is_empty(), pair.value) {
            (true, Some(value)) if implied.is_empty() => (value, "on".to_owned()),
            (true, value) => (implied.to_owned(), value.unwrap_or_default()),
            (false, value) => (pair.key, value.unwrap_or_else(|| "on".to_owned())),
        };
        properties.insert(key, Value::String(value));
    }
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What QEMU 10.0.2 said of a JSON policy that is a text, a fraction or a truth value:
    /// "Parameter 'policy' expects uint64". Of -1 it read back 2^64 - 1.
    #[test]
    fn numbers_in_json_are_numbers() {
        for (policy, expected) in [
            ("196608", Some(196_608)),
            ("-1", Some(u64::MAX)),
            ("196608.0", None),
            ("1.5", None),
            ("true", None),
            ("\"196608\"", None),
        ] {
            let text = format!(r#"{{"qom-type":"a","policy":{policy}}}"#);
            let item = Item::parse(&text, Form::Json, "qom-type").expect("an object");
            assert_eq!(item.number("policy").value(), expected, "{policy}");
        }
    }

    /// The same value in both forms, and of two values the last one: QEMU 10.0.2 read back a
    /// `cbitpos` of 2 after `cbitpos=1,cbitpos=2`.
    #[test]
    fn json_has_types_and_an_option_string_has_texts() {
        let json = r#"{"qom-type":"sev-snp-guest","id":"a","policy":"0x30000","cbitpos":2}"#;
        let keyval = "sev-snp-guest,id=a,policy=0x30000,cbitpos=1,cbitpos=2";
        for (text, form, policy) in [
            (json, Form::Json, Reading::Wrong("\"0x30000\"".to_owned())),
            (keyval, Form::Keyval, Reading::Is(0x30000)),
        ] {
            let item = Item::parse(text, form, "qom-type").expect("an object");
            assert_eq!(item.kind, "sev-snp-guest");
            assert_eq!(item.id.as_deref(), Some("a"));
            assert_eq!(item.number("policy"), policy);
            assert_eq!(item.number("cbitpos"), Reading::Is(2));
            assert_eq!(item.number("reduced-phys-bits"), Reading::Absent);
        }
    }

    /// RFC 4648 section 10 has `Zg==` for `f`; sections 3.2 and 3.5 say what is not canonical. QEMU
    /// takes stray bits at the end, and cuts off what is not padded.
    #[test]
    fn base64_has_one_form() {
        for (text, good) in [
            ("Zg==", true),
            ("Zg", false),
            ("Zg=", false),
            ("Zh==", false),
            ("test-host-data", false),
            (" Zg==", false),
        ] {
            let item =
                Item::parse(&format!("a,b={text}"), Form::Keyval, "qom-type").expect("an object");
            assert_eq!(item.bytes("b").value().is_some(), good, "{text}");
        }
    }
}
