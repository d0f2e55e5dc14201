//! What is safe to show: errors end in logs and on terminals.

/// Longest line of an answer (`LONGEST_LINE_CHARS` of the SDK): what is longer is cut there, and the
/// reason is at its end.
const LONGEST: usize = 600;

/// A sentence for people, as the tests of the crates want it too.
pub fn assert_sentence(text: &str) {
    assert!(!text.is_empty());
    assert!(!text.ends_with(['.', ' ', ':']), "{text:?}");
    assert_harmless(text);
    assert!(text.chars().count() <= LONGEST, "{text:?}");
}

pub fn assert_harmless(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
