//! `docs/conformance.md` has the table of checks as the suite has it.

use crate::command::workspace;

#[test]
fn the_table_of_checks_is_the_catalogue() {
    const BEGIN: &str = "<!-- checks: generated -->";
    const END: &str = "<!-- end -->";
    let path = workspace().join("docs/conformance.md");
    let text = std::fs::read_to_string(&path).expect("the document is there");
    let (before, rest) = text.split_once(BEGIN).expect("the marker is there");
    let (_, after) = rest.split_once(END).expect("the end is there");
    let tables = casemate_conformance::markdown::tables();
    let wanted = format!("{before}{BEGIN}\n\n{tables}\n\n{END}{after}");
    if std::env::var_os("CASEMATE_UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(&path, wanted).expect("the document can be written");
        return;
    }
    assert!(
        text == wanted,
        "docs/conformance.md is not what the suite says: set CASEMATE_UPDATE_DOCS=1 and run this test again"
    );
}
