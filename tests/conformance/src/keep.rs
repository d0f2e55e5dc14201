//! Requests that showed a failure, kept in files that can be run again.

use std::path::{Path, PathBuf};

use casemate_host::regular_file::{self, ReadError};
use serde::{Deserialize, Serialize};

use crate::catalogue::{Check, by_id};
use crate::draft::Draft;
use crate::report::{Report, Status};

/// Largest such file: the longest request has a command line of 60 KB.
const LARGEST: u64 = 4 << 20;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Number of the check that failed.
    pub check: String,
    /// What was wrong then.
    pub detail: String,
    /// Of the component that it failed with.
    pub component_sha256: String,
    pub seed: u64,
    pub request: Draft,
}

impl Kept {
    /// The check that failed.
    pub fn check(&self) -> Result<&'static Check, KeepError> {
        by_id(&self.check).ok_or_else(|| KeepError::NoSuchCheck(self.check.clone()))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    #[error("a kept request is of the check {0:?}, and there is no such check")]
    NoSuchCheck(String),
    #[error("{path:?} cannot be written: {source}", path = .path.display())]
    Write {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path:?} cannot be read: {source}", path = .path.display())]
    Read { path: PathBuf, source: ReadError },
    #[error("{path:?} is no kept request: {reason}; wanted is JSON as --keep writes it", path = .path.display())]
    Form { path: PathBuf, reason: String },
}

/// Writes one file for each failure that a request shows, and tells their paths.
pub fn keep(report: &Report, folder: &Path) -> Result<Vec<PathBuf>, KeepError> {
    let mut written = Vec::new();
    let failed = report.rows.iter();
    let failed = failed.filter(|row| matches!(row.status, Status::Fail | Status::ExpectedFail));
    for row in failed {
        for (number, failure) in (1..).zip(&row.failures) {
            let Some(draft) = &failure.draft else {
                continue;
            };
            let path = folder.join(format!("{}-{number}.json", row.check.id));
            let kept = Kept {
                check: row.check.id.to_owned(),
                detail: failure.detail.clone(),
                component_sha256: report.provenance.component_sha256.clone(),
                seed: report.provenance.seed,
                request: (**draft).clone(),
            };
            let write = || -> std::io::Result<()> {
                std::fs::create_dir_all(folder)?;
                let mut text = serde_json::to_string_pretty(&kept)?;
                text.push('\n');
                std::fs::write(&path, text)
            };
            match write() {
                Ok(()) => written.push(path),
                Err(source) => return Err(KeepError::Write { path, source }),
            }
        }
    }
    Ok(written)
}

pub fn read(path: &Path) -> Result<Kept, KeepError> {
    let form = |reason: String| KeepError::Form {
        path: path.to_owned(),
        reason,
    };
    let bytes = regular_file::read(path, LARGEST).map_err(|source| KeepError::Read {
        path: path.to_owned(),
        source,
    })?;
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| form(error.to_string()))?;
    kept.check()?;
    Ok(kept)
}
