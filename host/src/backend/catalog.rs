//! The backends of this daemon, by the names that config gives them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use tokio::sync::Semaphore;

use super::canary::{self, Canary};
use super::component::{LoadError, LoadedBackend};
use super::describe::Protection;
use super::engine::BackendEngine;
use super::settings::SharedSetting;
use super::tier::Tier;
use crate::spec::permissions::Permissions;

/// Components that are compiled at once. One that is made to be costly takes hundreds of MiB, and
/// the compiler uses all processors for each.
const LOADS_AT_ONCE: usize = 2;

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
    /// Public keys of which one has to have signed the component, or paths of their files. None: no
    /// signature is looked for.
    #[serde(default)]
    pub signature_keys: Option<Vec<String>>,
    /// What it may import beside the contract.
    #[serde(default)]
    pub tier: Tier,
    #[serde(default)]
    pub grants: Permissions,
    #[serde(default)]
    pub settings: BTreeMap<String, toml::Value>,
    /// Takes the place of another backend for VMs with certain labels.
    #[serde(default)]
    pub canary: Option<Canary>,
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
    /// `before` is the catalog that serves until now; of it, compiled code is used again.
    pub async fn load(
        engine: &BackendEngine,
        configs: Vec<BackendConfig>,
        default: Option<String>,
        shared: Vec<SharedSetting>,
        before: &Self,
    ) -> Self {
        let shared = Arc::new(shared);
        let before: Arc<[Arc<LoadedBackend>]> = before.in_service().cloned().collect();
        let mut loading = Vec::new();
        let turns = Arc::new(Semaphore::new(LOADS_AT_ONCE));
        for config in configs {
            let engine = engine.clone();
            let shared = Arc::clone(&shared);
            let before = Arc::clone(&before);
            let turns = Arc::clone(&turns);
            let wanted = config.clone();
            let task = tokio::spawn(async move {
                // It is never closed.
                let _turn = turns.acquire().await;
                LoadedBackend::load_after(&engine, &wanted, &shared, &before).await
            });
            loading.push((config, task));
        }
        let mut entries = Vec::new();
        for (config, task) in loading {
            let state = match task.await {
                Ok(loaded) => loaded.map(Arc::new),
                Err(panic) => Err(LoadError::Panicked(panic.to_string())),
            };
            entries.push(CatalogEntry { config, state });
        }
        keep_protection(&mut entries);
        Self { entries, default }
    }

    /// Says in the log what is in service from now on, and what is not.
    pub fn announce(&self, before: &Self) {
        for entry in &self.entries {
            match &entry.state {
                // A reload that changes nothing is no news.
                Ok(backend) if before.in_service().any(|known| known.is_as(backend)) => {}
                Ok(backend) => tracing::info!(
                    backend = backend.name(),
                    tee = backend.info().tee,
                    version = backend.info().version,
                    tier = backend.tier().as_str(),
                    sha256 = backend.sha256(),
                    "backend in service"
                ),
                Err(error) => tracing::error!(
                    backend = entry.config.name,
                    error = %chain(error),
                    "backend not in service"
                ),
            }
        }
    }

    pub fn entries(&self) -> &[CatalogEntry] {
        &self.entries
    }

    pub fn in_service(&self) -> impl Iterator<Item = &Arc<LoadedBackend>> {
        self.entries
            .iter()
            .filter_map(|entry| entry.state.as_ref().ok())
    }

    pub fn default_name(&self) -> Option<&str> {
        self.default.as_deref()
    }

    /// The name of the backend that a new VM with these labels gets in place of `name`. While that one
    /// is out of service nobody knows whether a canary protects as it does, and none takes its place.
    pub fn routed<'a>(&'a self, name: &'a str, labels: &BTreeMap<String, String>) -> &'a str {
        let mut serving = self.in_service();
        if !serving.any(|backend| backend.name() == name) {
            return name;
        }
        canary::routed(self.entries.iter().map(|entry| &entry.config), name, labels)
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

/// A canary is of the technology whose place it takes: nobody who asked for a guarded VM gets one that
/// is guarded otherwise, or not at all, because of a label.
fn keep_protection(entries: &mut [CatalogEntry]) {
    let guards: BTreeMap<String, (String, Protection)> = entries
        .iter()
        .filter_map(|entry| {
            let info = entry.state.as_ref().ok()?.info();
            let guard = (info.tee.clone(), info.protection);
            Some((entry.config.name.clone(), guard))
        })
        .collect();
    for entry in entries {
        let Some(canary) = &entry.config.canary else {
            continue;
        };
        let (own, of) = (guards.get(&entry.config.name), guards.get(&canary.of));
        if let (Some(own), Some(of)) = (own, of)
            && own != of
        {
            let words = |(tee, protection): &(String, Protection)| {
                format!("tee {tee}, protection {}", protection.as_str())
            };
            entry.state = Err(LoadError::Canary {
                of: canary.of.clone(),
                own: words(own),
                wanted: words(of),
            });
        }
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
