//! What is wrong with a config that only shows when its backends and files are looked at: for
//! `--check-config`, and for the log of a start and a reload.

use super::listeners::{self, ListenersTls};
use super::load_catalog;
use super::problem::BuildError;
use crate::backend::{BackendEngine, Catalog, Limits};
use crate::config::sources::{Effective, Source};
use crate::config::{Config, Loaded, Warning};

/// Warnings for a config with which a start would succeed; the error of one with which it would not.
pub async fn check(loaded: &Loaded) -> Result<Vec<String>, BuildError> {
    let mut problems: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let engine = BackendEngine::new(Limits::default())?;
    let Loaded {
        config, effective, ..
    } = loaded;
    ListenersTls::new(config)?;
    listeners::check(config)?;
    let catalog = load_catalog(&engine, config, effective, &Catalog::default()).await;
    for entry in catalog.entries() {
        if let Err(error) = &entry.state {
            problems.push(format!(
                "backend {:?} would not be in service: {}",
                entry.config.name,
                crate::backend::catalog::chain(error)
            ));
        }
    }
    let unused = of_backends(config, effective, &catalog);
    problems.extend(unused.iter().map(ToString::to_string));
    Ok(problems)
}

/// What the config says to backends and none of them hears.
pub(super) fn of_backends(
    config: &Config,
    effective: &Effective,
    catalog: &Catalog,
) -> Vec<Warning> {
    let mut warnings = unused_identity(config, catalog);
    warnings.extend(unheard_settings(effective, catalog));
    warnings.extend(unused_grants(catalog));
    warnings
}

/// What is granted and nobody asks for.
fn unused_grants(catalog: &Catalog) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for entry in catalog.entries() {
        let Ok(backend) = &entry.state else { continue };
        let grants = backend.unannounced(&entry.config.grants);
        warnings.extend(grants.into_iter().map(|what| Warning::GrantUnused {
            backend: entry.config.name.clone(),
            what: crate::spec::printable(&what),
        }));
    }
    warnings
}

/// Settings that an operator wrote for every backend, and that none announces: typing mistakes. The
/// predecessor's variables are for technologies that may not be here.
fn unheard_settings(effective: &Effective, catalog: &Catalog) -> Vec<Warning> {
    let announced: Vec<&str> = catalog
        .entries()
        .iter()
        .filter_map(|entry| entry.state.as_ref().ok())
        .flat_map(|backend| &backend.info().settings)
        .map(|setting| setting.key.as_str())
        .collect();
    effective
        .entries()
        .filter(|(_, entry)| !matches!(entry.source, Source::Predecessor(_)))
        .filter_map(|(key, entry)| {
            let setting = key.strip_prefix(crate::config::key::SETTINGS)?;
            (!announced.contains(&setting)).then(|| Warning::UnheardSetting {
                key: setting.to_owned(),
                source: entry.source.to_string(),
                closest: crate::config::closest(setting, announced.iter().copied()),
            })
        })
        .collect()
}

fn unused_identity(config: &Config, catalog: &Catalog) -> Vec<Warning> {
    if config.vm.identity.is_none() {
        return Vec::new();
    }
    let backends = catalog
        .entries()
        .iter()
        .filter_map(|entry| entry.state.as_ref().ok());
    backends
        .filter(|backend| !backend.info().carries_identity)
        .map(|backend| Warning::IdentityUnused {
            backend: backend.name().to_owned(),
        })
        .collect()
}
