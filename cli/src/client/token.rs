//! The token that says who calls. It comes from a file or a variable, never from the command line,
//! which every user of the machine can read; and it is in no message.

use std::path::Path;

use tonic::metadata::{Ascii, MetadataValue};

use crate::error::CliError;

/// Longer is no token of anybody's, but a file that was named by mistake.
const MAX_LENGTH: usize = 8192;

/// As the header `authorization` has it; shows as `Sensitive`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token(MetadataValue<Ascii>);

impl Token {
    pub(crate) fn read(path: &Path) -> Result<Self, CliError> {
        let bytes = std::fs::read(path).map_err(|source| CliError::Input {
            path: path.to_owned(),
            source,
        })?;
        let text = String::from_utf8(bytes).unwrap_or_default();
        Self::parse(&text).ok_or_else(|| CliError::Token {
            place: path.display().to_string(),
        })
    }

    /// The end of its line is no part of it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let token = text.trim_end_matches(['\r', '\n']);
        let is_token = (1..=MAX_LENGTH).contains(&token.len())
            && token.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_token {
            return None;
        }
        let mut header: MetadataValue<Ascii> = format!("Bearer {token}").parse().ok()?;
        header.set_sensitive(true);
        Some(Self(header))
    }

    pub(crate) fn header(&self) -> MetadataValue<Ascii> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_word() {
        for (text, header) in [
            ("abc.DEF-1", Some("Bearer abc.DEF-1")),
            ("abc\n", Some("Bearer abc")),
            ("abc\r\n", Some("Bearer abc")),
            ("two words", None),
            ("one\ntwo", None),
            ("größe", None),
            ("\n", None),
            ("", None),
        ] {
            let token = Token::parse(text);
            let found = token.as_ref().map(|token| token.0.to_str().unwrap());
            assert_eq!(found, header, "{text:?}");
        }
        assert!(Token::parse(&"a".repeat(MAX_LENGTH + 1)).is_none());
        let shown = format!("{:?}", Token::parse("hidden"));
        assert!(!shown.contains("hidden"), "{shown}");
    }
}
