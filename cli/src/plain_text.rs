//! Text from outside, made harmless for a terminal.
//!
//! A control character can move the cursor, change the title, answer back into the shell's input;
//! a direction mark can make a line read as another one. In tables such characters are left out,
//! because they have no meaning there. In messages and consoles they are shown, because somebody
//! may need to see them.

/// For one line: a table's cell, a name.
pub(crate) fn stripped(text: &str) -> String {
    text.chars()
        .map(|character| if character == '\n' { ' ' } else { character })
        .filter(|&character| is_harmless(character))
        .collect()
}

/// For messages of several lines: newline and tab stay, others become `\x1b` or `\u{202e}`.
pub(crate) fn escaped(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    for character in text.chars() {
        push_escaped(&mut output, character, &['\n', '\t']);
    }
    output
}

/// For JSON, whose own escapes only cover ASCII. What is left is inside its strings, so that the
/// text stays JSON with the same meaning.
pub(crate) fn escaped_json(text: &str) -> String {
    let mut output = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmless(character) || character == '\n' {
            output.push(character);
        } else {
            // All of them lie in the plane that one escape can name.
            output.push_str(&format!("\\u{:04x}", u32::from(character)));
        }
    }
    output
}

/// A console's bytes as they come, in chunks that may end inside a character.
#[derive(Debug, Default)]
pub(crate) struct ConsoleEscaper {
    /// The beginning of a character whose rest is in the next chunk: at most three bytes.
    pending: Vec<u8>,
}

impl ConsoleEscaper {
    pub(crate) fn push(&mut self, chunk: &[u8]) -> String {
        self.pending.extend_from_slice(chunk);
        let bytes = std::mem::take(&mut self.pending);
        let mut output = String::with_capacity(bytes.len());
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (valid, invalid) = match std::str::from_utf8(rest) {
                Ok(text) => (text, None),
                Err(error) => {
                    let (valid, _) = rest.split_at(error.valid_up_to());
                    let valid = std::str::from_utf8(valid).unwrap_or_default();
                    (valid, Some(error.error_len()))
                }
            };
            for character in valid.chars() {
                push_escaped(&mut output, character, &['\n', '\t', '\r']);
            }
            rest = &rest[valid.len()..];
            match invalid {
                None => {}
                Some(Some(length)) => {
                    let (wrong, after) = rest.split_at(length);
                    push_bytes(&mut output, wrong);
                    rest = after;
                }
                Some(None) => {
                    self.pending = rest.to_vec();
                    break;
                }
            }
        }
        output
    }

    /// What is left when the console ends inside a character.
    pub(crate) fn finish(self) -> String {
        let mut output = String::new();
        push_bytes(&mut output, &self.pending);
        output
    }
}

fn push_escaped(output: &mut String, character: char, kept: &[char]) {
    if is_harmless(character) || kept.contains(&character) {
        output.push(character);
    } else if character.is_ascii() {
        output.push_str(&format!("\\x{:02x}", u32::from(character)));
    } else {
        output.extend(character.escape_unicode());
    }
}

fn push_bytes(output: &mut String, bytes: &[u8]) {
    for byte in bytes {
        output.push_str(&format!("\\x{byte:02x}"));
    }
}

fn is_harmless(character: char) -> bool {
    let changes_direction = matches!(
        character,
        '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    !character.is_control() && !changes_direction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_lose_what_is_harmful() {
        for (text, expected) in [
            ("vm-1", "vm-1"),
            ("größe", "größe"),
            ("a\x1b[31mb", "a[31mb"),
            ("two\nlines", "two lines"),
            ("\u{9b}2J\u{202e}x\x07\x7f", "2Jx"),
        ] {
            assert_eq!(stripped(text), expected);
        }
    }

    #[test]
    fn messages_show_what_is_harmful() {
        for (text, expected) in [
            ("one\n\ttwo", "one\n\ttwo"),
            ("a\x1b[31mb\r", "a\\x1b[31mb\\x0d"),
            ("\u{9b}2J\u{202e}", "\\u{9b}2J\\u{202e}"),
        ] {
            assert_eq!(escaped(text), expected);
        }
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({"detail": "a\u{9b}2J\u{202e}b\x7f\x1bg\n", "list": [1, 2]});
        let text = escaped_json(&format!("{value:#}"));
        assert!(text.chars().all(|c| is_harmless(c) || c == '\n'));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
    }

    #[test]
    fn consoles_are_escaped_over_chunks() {
        for (chunks, expected) in [
            (vec![b"boot\r\n".as_slice(), b"ok\tx"], "boot\r\nok\tx"),
            (vec![b"\x1b]0;title\x07"], "\\x1b]0;title\\x07"),
            (vec![b"gr\xc3", b"\xb6\xc3\x9fe"], "größe"),
            (vec![b"\xe2", b"\x82", b"\xac"], "€"),
            (vec![b"\xff\xfeok"], "\\xff\\xfeok"),
            (vec![b"\xc2", b"\x9b2J"], "\\u{9b}2J"),
            (vec![b"\xc3", b"("], "\\xc3("),
            (vec![b"end\xe2\x82"], "end\\xe2\\x82"),
        ] {
            let mut escaper = ConsoleEscaper::default();
            let mut output: String = chunks.iter().map(|chunk| escaper.push(chunk)).collect();
            output.push_str(&escaper.finish());
            assert_eq!(output, expected);
        }
    }
}
