//! QEMU's option strings: `first,key=value,key=value`, where a comma in a value is doubled.

use std::fmt;

/// One part of an option string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Empty for a first part without `=`, whose key the option implies.
    pub key: String,
    /// `None` for a later part without `=`, such as `readonly`.
    pub value: Option<String>,
}

/// Why a text is no option string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyvalError {
    /// `a=b,,=c` or `=a`: there is a value and no key.
    NoKey,
}

impl fmt::Display for KeyvalError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey => formatter.write_str("a part has no key"),
        }
    }
}

impl std::error::Error for KeyvalError {}

impl Pair {
    /// All parts, in their order. A comma at the end is allowed, as QEMU allows it.
    pub fn split(text: &str) -> Result<Vec<Self>, KeyvalError> {
        let mut pairs = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let (pair, after) = Self::take(rest, pairs.is_empty())?;
            pairs.push(pair);
            rest = after;
        }
        Ok(pairs)
    }

    fn take(text: &str, first: bool) -> Result<(Self, &str), KeyvalError> {
        let end = text.find(['=', ',']).unwrap_or(text.len());
        let (key, after) = text.split_at_checked(end).unwrap_or((text, ""));
        if let Some(value) = after.strip_prefix('=') {
            if key.is_empty() {
                return Err(KeyvalError::NoKey);
            }
            let (value, after) = take_value(value);
            let pair = Self {
                key: key.to_owned(),
                value: Some(value),
            };
            return Ok((pair, after));
        }
        if first {
            let (value, after) = take_value(text);
            let pair = Self {
                key: String::new(),
                value: Some(value),
            };
            return Ok((pair, after));
        }
        if key.is_empty() {
            return Err(KeyvalError::NoKey);
        }
        let pair = Self {
            key: key.to_owned(),
            value: None,
        };
        Ok((pair, after.strip_prefix(',').unwrap_or(after)))
    }
}

/// The text up to the first single comma, with doubled ones made single, and what follows it.
fn take_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let Some((before, after)) = rest.split_once(',') else {
            value.push_str(rest);
            return (value, "");
        };
        value.push_str(before);
        match after.strip_prefix(',') {
            Some(after) => {
                value.push(',');
                rest = after;
            }
            None => return (value, after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The grammar is that which QEMU's keyval parser documents: an implied first key, doubled commas
    /// in values alone, a comma at the end. QEMU 10.0.2 told by `query-name` that `-name a,,b,…` is
    /// `a,b` and `-name guest=a,,,…` is `a,`.
    #[test]
    fn option_strings_are_split_as_qemu_does() {
        type Parts<'a> = &'a [(&'a str, Option<&'a str>)];
        let cases: &[(&str, Parts<'_>)] = &[
            ("", &[]),
            ("q35", &[("", Some("q35"))]),
            ("type=q35", &[("type", Some("q35"))]),
            ("q35,smm=off", &[("", Some("q35")), ("smm", Some("off"))]),
            ("q35,", &[("", Some("q35"))]),
            ("a,,b,c=d,,e", &[("", Some("a,b")), ("c", Some("d,e"))]),
            (
                "file=,if=pflash",
                &[("file", Some("")), ("if", Some("pflash"))],
            ),
            ("file=a=b", &[("file", Some("a=b"))]),
            (
                "file=a,readonly,if=b",
                &[("file", Some("a")), ("readonly", None), ("if", Some("b"))],
            ),
            ("file=a,,,if=b", &[("file", Some("a,")), ("if", Some("b"))]),
        ];
        for (text, expected) in cases {
            let pairs = Pair::split(text).expect("an option string");
            let pairs: Vec<_> = pairs
                .iter()
                .map(|pair| (pair.key.as_str(), pair.value.as_deref()))
                .collect();
            assert_eq!(&pairs, expected, "{text}");
        }
        for text in ["=a", "a=b,=c", "a=b,c,,d"] {
            assert_eq!(Pair::split(text), Err(KeyvalError::NoKey), "{text}");
        }
    }
}
