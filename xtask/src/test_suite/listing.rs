//! Which tests there are, asked of the test programs themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::child;
use crate::run::Run;

/// A test program that Cargo built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TestProgram {
    pub(super) path: PathBuf,
    /// The `Cargo.toml` of its package.
    pub(super) manifest: PathBuf,
}

impl TestProgram {
    /// Cargo appends a digest to the name.
    pub(super) fn target(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let target = stem.rsplit_once('-').map_or(&*stem, |(target, _)| target);
        target.to_owned()
    }
}

/// Programs by the full names of their tests. A program is known by its target: `it`,
/// `casemate_host`. Two packages can have one of the same name.
#[derive(Debug, Default)]
pub(super) struct Listing {
    tests: BTreeMap<String, Vec<String>>,
    ignored: BTreeSet<String>,
}

impl Listing {
    /// Of built test programs.
    pub(super) fn ask(run: &Run, programs: &[TestProgram]) -> Result<Self> {
        let mut listing = Self::default();
        for program in programs {
            let list = |more: &[&str]| {
                let mut command = child::program(&program.path);
                command.args(["--list", "--format", "terse"]).args(more);
                child::capture(run, &mut command)
            };
            listing.add(&program.target(), &list(&[])?, &list(&["--ignored"])?);
        }
        Ok(listing)
    }

    pub(super) fn add(&mut self, program: &str, listed: &str, ignored: &str) {
        for name in names(listed) {
            let programs = self.tests.entry(name.to_owned()).or_default();
            programs.push(program.to_owned());
        }
        self.ignored.extend(names(ignored).map(str::to_owned));
    }

    /// The programs that have a test of this name.
    pub(super) fn programs(&self, test: &str) -> &[String] {
        self.tests.get(test).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_ignored(&self, test: &str) -> bool {
        self.ignored.contains(test)
    }
}

/// Benchmarks and the last line, with the sum, are no tests.
fn names(listed: &str) -> impl Iterator<Item = &str> {
    listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
}

/// The test program in one line of what Cargo says of a build, where there is one.
pub(super) fn program_in(message: &str) -> Result<Option<TestProgram>> {
    let message: Value =
        serde_json::from_str(message).context("cargo said something that is no JSON")?;
    let is_test = message["reason"] == "compiler-artifact" && message["profile"]["test"] == true;
    let (Some(path), Some(manifest), true) = (
        message["executable"].as_str(),
        message["manifest_path"].as_str(),
        is_test,
    ) else {
        return Ok(None);
    };
    Ok(Some(TestProgram {
        path: path.into(),
        manifest: manifest.into(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_known_by_name_and_program() {
        let mut listing = Listing::default();
        listing.add(
            "it",
            "boot::it_boots: test\nbench::fast: benchmark\nconfine::serve: test\n",
            "confine::serve: test\n",
        );
        listing.add("casemate_host", "boot::it_boots: test\n", "");
        assert_eq!(
            listing.programs("boot::it_boots"),
            ["it", "casemate_host"].map(str::to_owned)
        );
        assert!(listing.programs("bench::fast").is_empty());
        assert!(listing.is_ignored("confine::serve"));
        assert!(!listing.is_ignored("boot::it_boots"));
    }

    #[test]
    fn test_programs_are_told_from_what_else_is_built() {
        let said = |text: &str| program_in(text).unwrap();
        let test = r#"{"reason":"compiler-artifact","manifest_path":"/w/host/Cargo.toml","profile":{"test":true},"executable":"/t/deps/casemate_host-0a1b"}"#;
        let program = said(test).unwrap();
        assert_eq!(program.target(), "casemate_host");
        assert_eq!(program.manifest, PathBuf::from("/w/host/Cargo.toml"));
        for other in [
            r#"{"reason":"compiler-artifact","manifest_path":"/w/host/Cargo.toml","profile":{"test":false},"executable":"/t/casemated"}"#,
            r#"{"reason":"compiler-artifact","manifest_path":"/w/host/Cargo.toml","profile":{"test":true},"executable":null}"#,
            r#"{"reason":"build-finished","success":true}"#,
        ] {
            assert_eq!(said(other), None, "{other}");
        }
        assert!(program_in("warning: words").is_err());
    }
}
