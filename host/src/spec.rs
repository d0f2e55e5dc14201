//! Domain values: what is asked for, what a backend plans, what is allowed.
//!
//! Everything here is plain data without I/O. The API converts into these types once, at the edge;
//! `backend` and `qemu` speak them to each other without knowing each other.

pub mod byte_size;
pub mod facts;
pub mod files;
pub mod first_version;
pub mod go_duration;
pub mod identity;
pub mod lifecycle;
pub mod permissions;
pub mod plan;
pub mod request;

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Identity of a VM: the UUID that QEMU gets with `-uuid`, and that every API answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VmId(Uuid);

impl VmId {
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// The canonical hyphenated form only, so that one VM has one name in paths and logs.
    pub fn parse(text: &str) -> Option<Self> {
        let uuid = Uuid::try_parse(text).ok()?;
        (uuid.hyphenated().to_string() == text).then_some(Self(uuid))
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Who said it; decides whether a backend may replace it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    BuiltIn,
    Operator,
    Request,
}

/// What ids begin with that the host gives to QEMU; nobody else may.
pub const HOST_ID_PREFIX: &str = "casemate-";
/// Longest id, of an object, a device or a machine's part.
const MAX_ID: usize = 64;

/// QEMU's rule for ids (util/id.c): a letter, then letters, digits, `-`, `.` and `_`.
pub fn is_qemu_id(text: &str) -> bool {
    text.len() <= MAX_ID
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// A switch as operators write it.
pub fn parse_switch(text: &str) -> Option<bool> {
    match text {
        "on" | "true" | "1" => Some(true),
        "off" | "false" | "0" => Some(false),
        _ => None,
    }
}

/// `text` without what could end a line or drive a terminal, for messages and tables. Text from a
/// guest, a backend or QEMU passes through here before a person sees it.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            // Bidirectional overrides reorder what a person reads.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Its beginning, of `most` characters: enough to tell what it is.
pub fn printable_start(text: &str, most: usize) -> String {
    // Each character stays one.
    let start: String = text.chars().take(most).collect();
    printable(&start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_names_a_vm() {
        let id = VmId::random();
        assert_eq!(VmId::parse(&id.to_string()), Some(id));
        for text in [
            "",
            "..",
            "0",
            &id.to_string().to_uppercase(),
            &format!("{{{id}}}"),
        ] {
            assert_eq!(VmId::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn printable_text_cannot_drive_a_terminal() {
        assert_eq!(
            printable("a\u{1b}[2Jb\nc\u{202e}d\0"),
            "a\u{fffd}[2Jb c\u{fffd}d\u{fffd}"
        );
    }
}
