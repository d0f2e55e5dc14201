//! The table of checks as the documentation has it.

use std::fmt::Write as _;

use crate::catalogue::{CHECKS, Level};

/// One table for each level.
pub fn tables() -> String {
    let mut text = String::new();
    for level in Level::ALL {
        let _ = writeln!(text, "### {}: {}\n", level.as_str(), level.title());
        let _ = writeln!(text, "| check | | rule | of | in the specification |");
        let _ = writeln!(text, "|---|---|---|---|---|");
        for check in CHECKS.iter().filter(|check| check.level == level) {
            let rule = check.rule.replace('|', "\\|");
            let _ = writeln!(
                text,
                "| {} | {} | {rule} | {} | `{}` |",
                check.id,
                check.force.as_str(),
                check.claim.as_str(),
                check.anchor
            );
        }
        text.push('\n');
    }
    text.trim_end().to_owned()
}
