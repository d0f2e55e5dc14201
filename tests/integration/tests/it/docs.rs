//! Documents that are made from the code, and the catalogue of errors that they are made from.

use std::collections::BTreeSet;

use casemate_catalogue::ErrorId;

use crate::tidy;

/// Holds a document equal to what the code says, or rewrites it when `CASEMATE_UPDATE_DOCS=1` is
/// set. `path` is below the workspace.
fn assert_generated(path: &str, content: &str) {
    let file = tidy::workspace().join(path);
    if std::env::var_os("CASEMATE_UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("the folder can be made");
        std::fs::write(&file, content).expect("the document can be written");
        return;
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    let differing = found
        .lines()
        .chain(std::iter::repeat(""))
        .zip(content.lines())
        .enumerate()
        .find(|(_, (found, wanted))| found != wanted);
    assert!(
        found == content,
        "{path} is not what the code says, from {differing:?} on: set CASEMATE_UPDATE_DOCS=1 and run this test again"
    );
}

/// Holds the part of a document between two markers equal to what the code says.
fn assert_generated_part(path: &str, begin: &str, content: &str) {
    const END: &str = "<!-- end -->";
    let file = tidy::workspace().join(path);
    let text = std::fs::read_to_string(&file).expect("the document is there");
    let (before, rest) = text.split_once(begin).expect("the marker is there");
    let (_, after) = rest.split_once(END).expect("the end is there");
    assert_generated(path, &format!("{before}{begin}\n\n{content}\n{END}{after}"));
}

#[test]
fn the_packaged_config_file_shows_every_key_with_its_default() {
    let wanted = casemate_host::config::document::default_file();
    assert_generated("packaging/casemate.toml", &wanted);
}

#[test]
fn the_reference_of_the_config_has_every_key_and_variable() {
    use casemate_host::config::document;
    let path = "docs/configuration.md";
    assert_generated_part(path, "<!-- keys: generated -->", &document::key_table());
    assert_generated_part(
        path,
        "<!-- predecessor variables: generated -->",
        &document::predecessor_table(),
    );
}

#[test]
fn the_page_of_errors_is_the_catalogue() {
    assert_generated("docs/errors.md", &casemate_catalogue::markdown());
}

#[test]
fn ids_are_unique_and_speak_for_themselves() {
    let mut seen = BTreeSet::new();
    for id in ErrorId::ALL {
        let entry = id.entry();
        assert!(seen.insert(entry.id), "{} is there twice", entry.id);
        let words = entry.id.split('-');
        let is_kebab_case = words.clone().all(|word| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        });
        assert!(is_kebab_case, "{} is not kebab-case", entry.id);
        let variant: String = words
            .map(|word| word[..1].to_ascii_uppercase() + &word[1..])
            .collect();
        assert_eq!(variant, format!("{id:?}"));
        assert!(
            entry.cause.ends_with('.') && !entry.cause.contains('\n'),
            "{}: {:?} is no sentence",
            entry.id,
            entry.cause
        );
        // It follows `remedy: ` on one line.
        assert!(
            !entry.remedy.is_empty()
                && !entry.remedy.ends_with('.')
                && !entry.remedy.contains('\n'),
            "{}: {:?}",
            entry.id,
            entry.remedy
        );
    }
}

#[test]
fn every_error_of_the_catalogue_is_given_somewhere() {
    let mut named = BTreeSet::new();
    for folder in ["host/src", "cli/src"] {
        for (_, text) in tidy::sources(&tidy::workspace().join(folder)) {
            let code = tidy::code(&text);
            for rest in code.split("ErrorId::").skip(1) {
                let end = rest.find(|c: char| !c.is_ascii_alphanumeric());
                named.insert(rest[..end.unwrap_or(rest.len())].to_owned());
            }
        }
    }
    for id in ErrorId::ALL {
        assert!(
            named.contains(&format!("{id:?}")),
            "no code gives {}",
            id.as_str()
        );
    }
}
