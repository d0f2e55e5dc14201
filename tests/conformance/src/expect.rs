//! Failures that are known: a file that says which, and why.

use std::path::{Path, PathBuf};

use casemate_host::regular_file::{self, ReadError};
use serde::Deserialize;

use crate::catalogue::by_id;

/// Largest such file; one has at most a line or two for each check.
const LARGEST: u64 = 1 << 20;

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Expectations {
    #[serde(default)]
    pub expected: Vec<Expected>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Number of a check.
    pub check: String,
    /// Why it fails for now; shown in every report.
    pub reason: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ExpectError {
    #[error("expectations {path:?} cannot be read: {source}", path = .path.display())]
    Unreadable { path: PathBuf, source: ReadError },
    #[error("expectations {path:?} are not of their form: {reason}; wanted is TOML with `[[expected]]`, `check = \"L1-07\"` and `reason = \"…\"`", path = .path.display())]
    Form { path: PathBuf, reason: String },
    #[error("expectations {path:?} name {check:?}, and there is no such check", path = .path.display())]
    NoSuchCheck { path: PathBuf, check: String },
    #[error("expectations {path:?} name {check} twice", path = .path.display())]
    Twice { path: PathBuf, check: String },
    #[error("expectations {path:?} give no reason for {check}", path = .path.display())]
    NoReason { path: PathBuf, check: String },
}

impl Expectations {
    pub fn read(path: &Path) -> Result<Self, ExpectError> {
        let bytes =
            regular_file::read(path, LARGEST).map_err(|source| ExpectError::Unreadable {
                path: path.to_owned(),
                source,
            })?;
        let text = String::from_utf8_lossy(&bytes);
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ExpectError> {
        let path = path.to_owned();
        let read: Self = match toml::from_str(text) {
            Ok(read) => read,
            Err(error) => {
                let reason = error.to_string();
                return Err(ExpectError::Form { path, reason });
            }
        };
        let mut seen = std::collections::BTreeSet::new();
        for one in &read.expected {
            let check = one.check.clone();
            if by_id(&check).is_none() {
                return Err(ExpectError::NoSuchCheck { path, check });
            }
            if one.reason.trim().is_empty() {
                return Err(ExpectError::NoReason { path, check });
            }
            if !seen.insert(&one.check) {
                return Err(ExpectError::Twice { path, check });
            }
        }
        Ok(read)
    }

    pub fn reason(&self, id: &str) -> Option<&str> {
        let mut expected = self.expected.iter();
        expected
            .find(|one| one.check == id)
            .map(|one| one.reason.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expectations_are_of_checks_that_are_there_with_a_reason_each() {
        let parse = |text: &str| Expectations::parse(Path::new("known.toml"), text);
        let known = parse("[[expected]]\ncheck = \"L1-07\"\nreason = \"later\"\n").unwrap();
        assert_eq!(known.reason("L1-07"), Some("later"));
        assert_eq!(known.reason("L1-08"), None);
        assert_eq!(parse("").unwrap(), Expectations::default());
        for (text, complaint) in [
            (
                "[[expected]]\ncheck = \"L9-99\"\nreason = \"x\"\n",
                "no such check",
            ),
            (
                "[[expected]]\ncheck = \"L1-07\"\nreason = \" \"\n",
                "no reason",
            ),
            ("[[expected]]\ncheck = \"L1-07\"\n", "not of their form"),
            ("[[known]]\n", "not of their form"),
            ("[[expected", "not of their form"),
            (
                "[[expected]]\ncheck = \"L1-07\"\nreason = \"x\"\n\
                 [[expected]]\ncheck = \"L1-07\"\nreason = \"y\"\n",
                "twice",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(
                error.contains(complaint) && error.contains("known.toml"),
                "{error}"
            );
        }
    }
}
