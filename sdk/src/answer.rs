//! Errors and findings. They are shown to people and written to logs, and they quote text that came
//! from outside, so all of them are made here, where that text is made safe to show.

use crate::bindings::casemate::tee::types::{Error, ErrorCode, Finding, Severity};

/// Longest text that a message quotes. What is longer is no name that anybody would recognise, and
/// the host limits the size of an answer.
const LONGEST_QUOTE_CHARS: usize = 100;

/// Longest single line of a message: a sentence with a few quotes in it.
const LONGEST_LINE_CHARS: usize = 600;

/// One line that holds no control character, whatever the text holds.
pub fn shown(text: &str) -> String {
    clipped(text, LONGEST_LINE_CHARS)
}

/// A value from outside, quoted for a message.
pub fn quoted(text: &str) -> String {
    format!("`{}`", clipped(text, LONGEST_QUOTE_CHARS))
}

fn clipped(text: &str, longest: usize) -> String {
    let mut line: String = text
        .chars()
        .take(longest)
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .collect();
    if text.chars().nth(longest).is_some() {
        line.push('…');
    }
    line
}

pub fn invalid_request(subject: &str, message: &str, remedy: &str) -> Error {
    error(ErrorCode::InvalidRequest, subject, message, remedy)
}

pub fn unsuitable_file(role: &str, message: &str, remedy: &str) -> Error {
    error(ErrorCode::UnsuitableFile, role, message, remedy)
}

pub fn unsupported_host(subject: &str, message: &str, remedy: &str) -> Error {
    error(ErrorCode::UnsupportedHost, subject, message, remedy)
}

pub fn unavailable(subject: &str, message: &str, remedy: &str) -> Error {
    error(ErrorCode::Unavailable, subject, message, remedy)
}

fn error(code: ErrorCode, subject: &str, message: &str, remedy: &str) -> Error {
    Error {
        code,
        subject: shown(subject),
        message: shown(message),
        remedy: shown(remedy),
        details: Vec::new(),
    }
}

pub fn pass(id: &str, subject: &str, detail: &str) -> Finding {
    finding(Severity::Pass, id, subject, detail, "")
}

pub fn note(id: &str, subject: &str, detail: &str, remedy: &str) -> Finding {
    finding(Severity::Note, id, subject, detail, remedy)
}

pub fn warn(id: &str, subject: &str, detail: &str, remedy: &str) -> Finding {
    finding(Severity::Warn, id, subject, detail, remedy)
}

pub fn fail(id: &str, error: &Error) -> Finding {
    finding(
        Severity::Fail,
        id,
        &error.subject,
        &error.message,
        &error.remedy,
    )
}

fn finding(severity: Severity, id: &str, subject: &str, detail: &str, remedy: &str) -> Finding {
    Finding {
        id: id.to_owned(),
        severity,
        subject: shown(subject),
        detail: shown(detail),
        remedy: shown(remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_one_harmless_line() {
        for (text, expected) in [
            ("EPYC-v4", "EPYC-v4"),
            ("a\nb\u{1b}[2Jc\0", "a b [2Jc "),
            ("größe", "größe"),
            ("", ""),
        ] {
            assert_eq!(shown(text), expected);
        }
        assert_eq!(
            quoted(&"x".repeat(5000)).chars().count(),
            LONGEST_QUOTE_CHARS + 3
        );
        assert_eq!(
            shown(&"x".repeat(LONGEST_LINE_CHARS)).len(),
            LONGEST_LINE_CHARS
        );
    }
}
