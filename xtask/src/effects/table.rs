//! `tests/effects.toml`: the parts of the interfaces, and the tests that miss each when it is gone.
//!
//! `[tests]` gives the tests short names: `cases = "it api::cases::…"`. Every other table is a kind of
//! part (`rpc`, `request`, `response`, `route`, …: `tests/integration/src/mute/part.rs`), and a row of
//! it `"NAME" = ["cases"]` or `"NAME" = "cases"`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use toml_edit::{DocumentMut, Item};

const TESTS: &str = "tests";
/// The only program whose tests run with something muted.
const PROGRAM: &str = "it ";

/// Parts by name, each with the full names of its tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table(BTreeMap<String, Vec<String>>);

impl Table {
    pub fn read(workspace: &Path) -> Result<Self> {
        let path = super::table_path(workspace);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is no table of parts", path.display()))
    }

    pub fn parts(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.0
            .iter()
            .map(|(part, tests)| (part.as_str(), tests.as_slice()))
    }

    fn parse(text: &str) -> Result<Self> {
        let document: DocumentMut = text.parse().context("it is not TOML")?;
        let names = names(document.get(TESTS))?;
        let mut used = BTreeSet::new();
        let mut parts = BTreeMap::new();
        for (kind, rows) in document.iter().filter(|(kind, _)| *kind != TESTS) {
            let rows = rows
                .as_table()
                .with_context(|| format!("{kind:?} is no table"))?;
            for (name, tests) in rows {
                let mut full = Vec::new();
                for short in shorts(tests).with_context(|| format!("the row {kind}:{name}"))? {
                    let test = names
                        .get(short)
                        .with_context(|| format!("{kind}:{name}: [tests] has no {short:?}"))?;
                    used.insert(short.to_owned());
                    full.push(test.clone());
                }
                parts.insert(format!("{kind}:{name}"), full);
            }
        }
        if let Some(idle) = names.keys().find(|short| !used.contains(*short)) {
            bail!("no row names {idle:?} of [tests]");
        }
        ensure!(!parts.is_empty(), "it has no row");
        Ok(Self(parts))
    }
}

fn names(tests: Option<&Item>) -> Result<BTreeMap<String, String>> {
    let tests = tests
        .and_then(Item::as_table)
        .context("it has no [tests]")?;
    let names = tests.iter().map(|(short, test)| {
        let test = test.as_str().filter(|test| test.starts_with(PROGRAM));
        let test = test.with_context(|| format!("{short:?} is no test such as \"it api::…\""))?;
        Ok((short.to_owned(), test.to_owned()))
    });
    names.collect()
}

fn shorts(tests: &Item) -> Result<Vec<&str>> {
    if let Some(one) = tests.as_str() {
        return Ok(vec![one]);
    }
    let several = tests.as_array().context("it names no test")?;
    let several: Option<Vec<&str>> = several.iter().map(toml_edit::Value::as_str).collect();
    let several = several.context("a test is named by its short name")?;
    ensure!(!several.is_empty(), "it names no test");
    Ok(several)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = r#"
[tests]
one = "it a::one"
two = "it b::two"

[rpc]
"casemate.v1.VmService/PauseVm" = "one"

[exit]
6 = ["one", "two"]
"#;

    #[test]
    fn a_part_has_the_full_names_of_its_tests() {
        let table = Table::parse(TABLE).unwrap();
        let parts: Vec<_> = table.parts().collect();
        assert_eq!(
            parts,
            [
                (
                    "exit:6",
                    &["it a::one".to_owned(), "it b::two".to_owned()][..]
                ),
                (
                    "rpc:casemate.v1.VmService/PauseVm",
                    &["it a::one".to_owned()][..]
                ),
            ]
        );
    }

    #[test]
    fn a_table_that_says_something_else_is_refused() {
        for (from, to) in [
            ("[tests]", "[test]"),
            ("\"it a::one\"", "\"a::one\""),
            ("\"it a::one\"", "1"),
            ("PauseVm\" = \"one\"", "PauseVm\" = 1"),
            ("PauseVm\" = \"one\"", "PauseVm\" = []"),
            ("PauseVm\" = \"one\"", "PauseVm\" = \"three\""),
            ("[\"one\", \"two\"]", "\"one\""),
            ("[\"one\", \"two\"]", "[1]"),
            ("[rpc]", "rpc = 1\n[x]"),
        ] {
            assert!(TABLE.contains(from), "{from}");
            let spoilt = TABLE.replacen(from, to, 1);
            assert!(Table::parse(&spoilt).is_err(), "{from} as {to}");
        }
    }
}
