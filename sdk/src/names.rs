//! What QEMU takes as a name and as an id.

/// Letters, digits, `-`, `.` and `_`: what QEMU's machine and CPU names are made of. A comma would
/// begin a list of features, which is another thing.
pub fn is_qemu_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

/// An id as QEMU wants it, outside the host's own: a letter, then letters, digits, `-`, `.`, `_`.
pub fn is_id(id: &str) -> bool {
    id.starts_with(|first: char| first.is_ascii_alphabetic())
        && is_qemu_name(id)
        && !id.starts_with("casemate-")
}
