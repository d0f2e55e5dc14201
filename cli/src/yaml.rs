//! YAML, written and read. It holds the same values as JSON.

use serde_json::Value;

use crate::error::CliError;

/// One document, without a marker.
pub(crate) fn text(value: &Value) -> Result<String, CliError> {
    serde_saphyr::to_string(value).map_err(|error| CliError::Unshowable {
        reason: error.to_string(),
    })
}

/// Nothing of the text is in the error: it may hold secrets.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| match error.location() {
        Some(location) => format!(
            "it is no YAML from line {} column {} on",
            location.line(),
            location.column()
        ),
        None => "it is no YAML of one document".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for value in [
            json!({"a": ["no", "yes", "on", "null", "~", "1", "1e3", "0x10", "1:30", ""]}),
            json!({"time": "2026-01-02T12:00:00Z", "size": 70_368_744_177_664_u64}),
            json!({"text": "two\nlines\n", "tab": "a\tb", "esc": "\u{1b}[2J\u{9b}\u{202e}\u{7f}"}),
            json!({"odd": ["# no comment", "a: b", "- x", "{", "'", "\"", " x ", "größe", "日本"]}),
            json!({"none": null, "yes": true, "empty": {}, "list": [], "n": -1}),
            json!([]),
            json!("x"),
        ] {
            let text = text(&value).unwrap();
            assert_eq!(parse(&text), Ok(value), "{text}");
        }
    }

    #[test]
    fn an_error_says_where_and_not_what() {
        for text in [
            "a: 'hidden",
            "a: [hidden",
            "hidden: {a: b",
            "a: 1\na: hidden\n",
            "a: *hidden",
        ] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("hidden"), "{error}");
            assert!(error.contains("line "), "{error}");
        }
    }
}
