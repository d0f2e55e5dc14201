//! The backends of this daemon, by the names that config gives them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use super::component::{LoadError, LoadedBackend};
use super::engine::BackendEngine;
use super::settings::SharedSetting;
use crate::spec::permissions::Permissions;

/// One `[[backend]]` of the config file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendConfig {
    pub name: String,
    pub path: PathBuf,
    /// SHA-256 of the component, hexadecimal.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Load whatever lies at `path`. For development.
    #[serde(default)]
    pub allow_unpinned: bool,
    #[serde(default)]
    pub grants: Permissions,
    #[serde(default)]
    pub settings: BTreeMap<String, toml::Value>,
}

/// A configured backend: in service, or the reason why not.
#[derive(Debug)]
pub struct CatalogEntry {
    pub config: BackendConfig,
    pub state: Result<Arc<LoadedBackend>, LoadError>,
}

/// One that does not load is kept with its reason and never stops the others.
#[derive(Debug, Default)]
pub struct Catalog {
    entries: Vec<CatalogEntry>,
    default: Option<String>,
}

/// Why no backend can be used for a request.
#[derive(Debug, thiserror::Error)]
pub enum ChooseError {
    #[error("there is no backend {name:?}; configured are {known}")]
    Unknown { name: String, known: String },
    #[error("backend {name:?} is not in service: {reason}")]
    NotInService {
        name: String,
        reason: String,
        remedy: &'static str,
    },
    #[error("no backend is named, and none can be chosen by itself: {}", listed(.verdicts))]
    NoneFits { verdicts: Vec<Verdict> },
    #[error("no backend is named, and several could be chosen: {}", listed(.verdicts))]
    SeveralFit { verdicts: Vec<Verdict> },
}

/// What was found of a backend when one was to be chosen by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub name: String,
    /// Why not; none: its checks pass.
    pub reason: Option<String>,
}

fn listed(verdicts: &[Verdict]) -> String {
    if verdicts.is_empty() {
        return "no backend is configured".to_owned();
    }
    let one = |verdict: &Verdict| match &verdict.reason {
        Some(reason) => format!("{} ({reason})", verdict.name),
        None => format!("{} (its checks pass)", verdict.name),
    };
    verdicts.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl Catalog {
    pub async fn load(
        engine: &BackendEngine,
        configs: Vec<BackendConfig>,
        default: Option<String>,
        shared: Vec<SharedSetting>,
    ) -> Self {
        let shared = Arc::new(shared);
        let mut loading = Vec::new();
        for config in configs {
            let engine = engine.clone();
            let shared = Arc::clone(&shared);
            loading.push(tokio::spawn(async move {
                let state = LoadedBackend::load(&engine, &config, &shared)
                    .await
                    .map(Arc::new);
                CatalogEntry { config, state }
            }));
        }
        let mut entries = Vec::new();
        for task in loading {
            let Ok(entry) = task.await else { continue };
            match &entry.state {
                Ok(backend) => tracing::info!(
                    backend = backend.name(),
                    tee = backend.info().tee,
                    version = backend.info().version,
                    sha256 = backend.sha256(),
                    "backend in service"
                ),
                Err(error) => tracing::error!(
                    backend = entry.config.name,
                    error = %chain(error),
                    "backend not in service"
                ),
            }
            entries.push(entry);
        }
        Self { entries, default }
    }

    pub fn entries(&self) -> &[CatalogEntry] {
        &self.entries
    }

    pub fn default_name(&self) -> Option<&str> {
        self.default.as_deref()
    }

    /// The backend of that name, if it is in service.
    pub fn get(&self, name: &str) -> Result<Arc<LoadedBackend>, ChooseError> {
        match self.entries.iter().find(|entry| entry.config.name == name) {
            None => Err(ChooseError::Unknown {
                name: crate::spec::printable(name),
                known: self.known(),
            }),
            Some(CatalogEntry {
                state: Err(error), ..
            }) => Err(ChooseError::NotInService {
                name: name.to_owned(),
                reason: chain(error),
                remedy: error.remedy(),
            }),
            Some(CatalogEntry {
                state: Ok(backend), ..
            }) => Ok(Arc::clone(backend)),
        }
    }

    fn known(&self) -> String {
        if self.entries.is_empty() {
            return "none".to_owned();
        }
        let names: Vec<_> = self
            .entries
            .iter()
            .map(|entry| entry.config.name.as_str())
            .collect();
        names.join(", ")
    }
}

/// An error with its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
