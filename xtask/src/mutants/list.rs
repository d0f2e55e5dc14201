//! The lists of mutants: for each backend its rules, and how each is taken out.
//!
//! A list is `plugins/NAME/tests/mutants.toml`. Each `[[mutant]]` has the name of a `rule`, the
//! `file` that holds it, and the text `from`, which occurs there once and is replaced by `to`.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context, Result, bail};
use toml_edit::{DocumentMut, Table};

use super::copy::is_copied;

/// Backends that have a list.
pub(super) const BACKENDS: [&str; 3] = ["plain-kvm", "sev-snp", "tdx"];

/// The least that a list has, so that none is emptied unseen.
const FEWEST: usize = 20;

const KEYS: [&str; 4] = ["rule", "file", "from", "to"];

/// A backend without one of its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mutant {
    /// What is taken out.
    pub(super) rule: String,
    /// Path in the repository.
    pub(super) file: String,
    pub(super) from: String,
    pub(super) to: String,
}

/// Why a mutant cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotMade {
    #[error("its text `from` is not in the file: the rule was changed, so the list has to be too")]
    Absent,
    #[error("its text `from` is {count} times in the file, so it is not clear which one is meant")]
    Several { count: usize },
    #[error("`from` and `to` are the same")]
    NoChange,
}

impl Mutant {
    /// The text of its file without the rule.
    pub(super) fn applied_to(&self, text: &str) -> Result<String, NotMade> {
        if self.from == self.to {
            return Err(NotMade::NoChange);
        }
        // No text is between any two characters.
        if self.from.is_empty() {
            return Err(NotMade::Absent);
        }
        match text.matches(&self.from).count() {
            0 => Err(NotMade::Absent),
            1 => Ok(text.replacen(&self.from, &self.to, 1)),
            count => Err(NotMade::Several { count }),
        }
    }
}

/// Which mutants are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// All backends where there is none.
    pub backend: Option<String>,
    /// All rules where there is none.
    pub rule: Option<String>,
    /// The first of so many, and so on: a sample over the whole of each list. All where there is none.
    pub every: Option<NonZeroUsize>,
}

impl Selection {
    /// The chosen mutants by backend, read from the lists in `workspace`.
    pub(super) fn read(&self, workspace: &Path) -> Result<Vec<(&'static str, Vec<Mutant>)>> {
        let mut chosen = Vec::new();
        for backend in BACKENDS {
            if self.backend.as_deref().is_some_and(|name| name != backend) {
                continue;
            }
            let mut mutants = read(workspace, backend)?;
            if let Some(rule) = &self.rule {
                mutants.retain(|mutant| mutant.rule == *rule);
            }
            if let Some(every) = self.every {
                mutants = mutants.into_iter().step_by(every.get()).collect();
            }
            if !mutants.is_empty() {
                chosen.push((backend, mutants));
            }
        }
        match (&self.backend, &self.rule) {
            _ if !chosen.is_empty() => Ok(chosen),
            (Some(backend), None) => bail!(
                "{backend:?} has no list of mutants; those that have one are {}",
                BACKENDS.join(", ")
            ),
            (_, Some(rule)) => bail!("no list of the chosen backends has a rule {rule:?}"),
            (None, None) => bail!("there is no mutant in any list"),
        }
    }
}

/// The list of a backend.
pub(super) fn read(workspace: &Path, backend: &str) -> Result<Vec<Mutant>> {
    let path = workspace
        .join("plugins")
        .join(backend)
        .join("tests/mutants.toml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is no list of mutants", path.display()))
}

fn parse(text: &str) -> Result<Vec<Mutant>> {
    let document: DocumentMut = text.parse().context("it is not TOML")?;
    if let Some((key, _)) = document.iter().find(|(key, _)| *key != "mutant") {
        bail!("{key:?} is nothing but [[mutant]]");
    }
    let tables = document
        .get("mutant")
        .and_then(|item| item.as_array_of_tables())
        .context("it has no [[mutant]]")?;
    let mutants = tables
        .iter()
        .zip(1..)
        .map(|(table, number)| mutant(table).with_context(|| format!("mutant {number}")))
        .collect::<Result<Vec<_>>>()?;
    if mutants.len() < FEWEST {
        bail!("it has {} mutants, {FEWEST} are the fewest", mutants.len());
    }
    let mut rules = BTreeSet::new();
    for mutant in &mutants {
        if !rules.insert(&mutant.rule) {
            bail!("rule {:?} is there twice", mutant.rule);
        }
    }
    Ok(mutants)
}

fn mutant(table: &Table) -> Result<Mutant> {
    if let Some((key, _)) = table.iter().find(|(key, _)| !KEYS.contains(key)) {
        bail!("{key:?} is none of {}", KEYS.join(", "));
    }
    let text = |key: &str| -> Result<String> {
        let value = table.get(key).and_then(|item| item.as_str());
        let value = value.with_context(|| format!("{key:?} is missing or no text"))?;
        Ok(value.to_owned())
    };
    let mutant = Mutant {
        rule: text("rule")?,
        file: text("file")?,
        from: text("from")?,
        to: text("to")?,
    };
    if !is_copied(&mutant.file) {
        bail!("no component is made from {:?}", mutant.file);
    }
    Ok(mutant)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sources of the repository are what the lists are held against, so that a rule that is
    /// changed or moved takes its mutant along.
    #[test]
    fn every_mutant_can_be_made_of_the_sources_as_they_are() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for backend in BACKENDS {
            let mutants = read(&workspace, backend).unwrap();
            assert!(mutants.len() >= FEWEST, "{backend}");
            let mut made = BTreeSet::new();
            for mutant in mutants {
                let text = std::fs::read_to_string(workspace.join(&mutant.file));
                let text = text.unwrap_or_else(|error| panic!("{}: {error}", mutant.file));
                let changed = mutant.applied_to(&text).unwrap_or_else(|error| {
                    panic!("{backend}: {} in {}: {error}", mutant.rule, mutant.file)
                });
                // Tests are no part of a component.
                let before_tests = text.split("#[cfg(test)]").next().unwrap();
                assert!(
                    before_tests.contains(&mutant.from),
                    "{backend}: {} changes nothing but tests",
                    mutant.rule
                );
                assert!(
                    made.insert((mutant.file, changed)),
                    "{backend}: {} is another mutant's change",
                    mutant.rule
                );
            }
        }
    }

    #[test]
    fn a_mutant_is_made_where_it_is_clear_what_is_replaced() {
        for (text, from, to, expected) in [
            ("a b c", "b", "x", Ok("a x c")),
            ("a b c", "b c", "", Ok("a ")),
            ("a\n b\n", "a\n b", "b", Ok("b\n")),
            ("a b b", "b", "x", Err(NotMade::Several { count: 2 })),
            ("a b c", "d", "x", Err(NotMade::Absent)),
            ("a b c", "", "x", Err(NotMade::Absent)),
            ("a b c", "b", "b", Err(NotMade::NoChange)),
        ] {
            let mutant = Mutant {
                rule: "rule".to_owned(),
                file: "sdk/src/lib.rs".to_owned(),
                from: from.to_owned(),
                to: to.to_owned(),
            };
            let made = mutant.applied_to(text);
            assert_eq!(made, expected.map(str::to_owned), "{from:?} in {text:?}");
        }
    }

    fn list(mutants: impl IntoIterator<Item = String>) -> String {
        mutants.into_iter().collect()
    }

    fn entry(rule: &str, file: &str, more: &str) -> String {
        format!("[[mutant]]\nrule = '{rule}'\nfile = '{file}'\nfrom = 'a'\n{more}\n")
    }

    #[test]
    fn a_list_that_is_not_of_its_form_is_refused() {
        let file = "plugins/tdx/src/plan.rs";
        let good = |count: usize| (0..count).map(|n| entry(&format!("rule-{n}"), file, "to = 'b'"));
        assert_eq!(parse(&list(good(FEWEST))).unwrap().len(), FEWEST);
        for (what, more, complaint) in [
            ("short", list(good(FEWEST - 1)), "are the fewest"),
            ("empty", String::new(), "no [[mutant]]"),
            ("no TOML", "[[mutant]".to_owned(), "not TOML"),
            (
                "a rule twice",
                list(good(FEWEST)) + &entry("rule-0", file, "to = 'c'"),
                "twice",
            ),
            (
                "an unknown key",
                list(good(FEWEST)) + &entry("x", file, "to = 'c'\nwhy = 'd'"),
                "\"why\"",
            ),
            (
                "an unknown table",
                list(good(FEWEST)) + "[other]\n",
                "\"other\"",
            ),
            (
                "no `to`",
                list(good(FEWEST)) + &entry("x", file, ""),
                "\"to\"",
            ),
            (
                "a file of the host",
                list(good(FEWEST)) + &entry("x", "host/src/lib.rs", "to = 'c'"),
                "no component",
            ),
            (
                "a file outside",
                list(good(FEWEST)) + &entry("x", "sdk/../../x.rs", "to = 'c'"),
                "no component",
            ),
        ] {
            let error = format!("{:#}", parse(&more).expect_err(what));
            assert!(error.contains(complaint), "{what}: {error}");
        }
    }

    #[test]
    fn what_nobody_has_cannot_be_chosen() {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let choose = |backend: Option<&str>, rule: Option<&str>| {
            let selection = Selection {
                backend: backend.map(str::to_owned),
                rule: rule.map(str::to_owned),
                every: None,
            };
            let chosen = selection.read(&workspace).ok()?;
            Some(
                chosen
                    .iter()
                    .map(|(backend, _)| *backend)
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(choose(None, None), Some(BACKENDS.to_vec()));
        assert_eq!(choose(Some("tdx"), None), Some(vec!["tdx"]));
        assert_eq!(choose(Some("gauge"), None), None);
        assert_eq!(choose(None, Some("no such rule")), None);
        let first = read(&workspace, "tdx").unwrap().swap_remove(0).rule;
        assert_eq!(choose(Some("tdx"), Some(&first)), Some(vec!["tdx"]));
        let sample = Selection {
            backend: Some("tdx".to_owned()),
            rule: None,
            every: NonZeroUsize::new(4),
        };
        let whole = read(&workspace, "tdx").unwrap();
        let (_, sample) = sample.read(&workspace).unwrap().swap_remove(0);
        assert_eq!(sample.len(), whole.len().div_ceil(4));
        assert_eq!(sample[1], whole[4]);
    }
}
