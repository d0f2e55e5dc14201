//! What QEMU takes as a name and as an id.

/// Longest name that the host takes; QEMU's own are a third of it.
const LONGEST_NAME: usize = 128;
/// Longest id that the host takes.
const LONGEST_ID: usize = 64;

/// Letters, digits, `-`, `.` and `_`: what QEMU's machine and CPU names are made of. A comma would
/// begin a list of features, which is another thing.
pub fn is_qemu_name(name: &str) -> bool {
    let mut characters = name.chars();
    name.len() <= LONGEST_NAME
        && characters
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric())
        && characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
}

/// An id as QEMU wants it, outside the host's own: a letter, then letters, digits, `-`, `.`, `_`.
pub fn is_id(id: &str) -> bool {
    id.len() <= LONGEST_ID
        && id.starts_with(|first: char| first.is_ascii_alphabetic())
        && is_qemu_name(id)
        && !id.starts_with("casemate-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_an_id_have_their_form_and_their_length() {
        let long = "x".repeat(LONGEST_NAME);
        for (text, name, id) in [
            ("EPYC-v4", true, true),
            ("4x", true, false),
            ("casemate-x", true, false),
            ("a,b", false, false),
            ("größe", false, false),
            ("", false, false),
            (&long[..LONGEST_ID], true, true),
            (&long[..LONGEST_ID + 1], true, false),
            (&long, true, false),
            (&format!("{long}x"), false, false),
        ] {
            assert_eq!((is_qemu_name(text), is_id(text)), (name, id), "{text:?}");
        }
    }
}
