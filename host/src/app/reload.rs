//! Reload at SIGHUP: everything is read and checked first, then taken over as a whole. What is wrong
//! is reported and changes nothing; what takes a restart is named and keeps its value.

use std::collections::BTreeSet;
use std::sync::Arc;

use casemate_catalogue::ErrorId;
use tokio::sync::mpsc;

use super::check::of_backends;
use super::notify::Notifier;
use super::{LogFilter, load_catalog};
use crate::api::deadline::DefaultDeadline;
use crate::backend::catalog::chain;
use crate::backend::{BackendConfig, BackendEngine, Catalog};
use crate::config::sources::{Changed, Effective, Reloaded};
use crate::config::{Config, ConfigError, ConfigErrors, Inputs, explain};
use crate::lease::Ports;
use crate::qemu::process::Credentials;
use crate::qemu::schema::{ProbeError, Qemu};
use crate::vm::catalogued::Catalogued;
use crate::vm::live::Live;
use crate::vm::manager::VmManager;

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    #[error(transparent)]
    Shape(#[from] ConfigError),
    #[error("backend {name:?} would not be in service: {reason}")]
    Backend { name: String, reason: String },
    #[error("the new `qemu.binary` cannot be used: {0}")]
    Qemu(#[source] ProbeError),
    #[error("the log filter cannot be set: {0}")]
    Log(String),
}

impl Catalogued for ReloadError {
    fn id(&self) -> ErrorId {
        match self {
            // Each of them was said by itself.
            Self::Config(errors) => match errors.0.first() {
                Some(error) => error.id(),
                None => ErrorId::ConfigShape,
            },
            Self::Shape(error) => error.id(),
            Self::Backend { .. } => ErrorId::ReloadBackend,
            Self::Qemu(_) => ErrorId::ReloadQemu,
            Self::Log(_) => ErrorId::ReloadLog,
        }
    }

    fn subject(&self) -> Option<String> {
        match self {
            Self::Config(errors) => errors.0.first().and_then(Catalogued::subject),
            Self::Shape(error) => error.subject(),
            Self::Backend { name, .. } => Some(name.clone()),
            Self::Qemu(_) => Some("qemu.binary".to_owned()),
            Self::Log(_) => Some("log".to_owned()),
        }
    }
}

/// What the daemon was built from, for building parts of it anew.
pub(super) struct Reloader {
    pub(super) inputs: Inputs,
    pub(super) engine: BackendEngine,
    pub(super) manager: VmManager,
    pub(super) effective: Effective,
    pub(super) probing: Credentials,
    pub(super) ports: Ports,
    pub(super) log: LogFilter,
    pub(super) default_deadline: DefaultDeadline,
}

impl std::fmt::Debug for Reloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloader")
            .field("inputs", &self.inputs)
            .finish_non_exhaustive()
    }
}

impl Reloader {
    /// Reloads whenever it is asked to, one reload after the other.
    /// The service manager hears of each, and that the daemon is `serving` again: also where nothing
    /// was changed.
    pub(super) async fn run(
        mut self,
        mut asked: mpsc::Receiver<()>,
        notifier: &Notifier,
        serving: &str,
    ) {
        while asked.recv().await.is_some() {
            notifier.reloading();
            let outcome = self.reload().await;
            notifier.ready(serving);
            let metrics = &self.manager.host().metrics;
            metrics.config_reloaded(if outcome.is_ok() {
                "applied"
            } else {
                "refused"
            });
            match outcome {
                Ok(Reloaded {
                    applied, waiting, ..
                }) => {
                    tracing::info!(changed = %list(&applied), "config reloaded");
                    if !waiting.is_empty() {
                        tracing::warn!(keys = %list(&waiting), "a restart is needed for these");
                    }
                }
                Err(error) => tracing::error!(
                    error = %chain(&error),
                    remedy = error.remedy(),
                    id = error.id().as_str(),
                    "config not reloaded: nothing was changed"
                ),
            }
        }
        std::future::pending::<()>().await;
    }

    async fn reload(&mut self) -> Result<Reloaded, ReloadError> {
        let next = self.inputs.load()?;
        let reloaded = self.effective.reloaded(&next.effective);
        let config = Config::from_effective(&reloaded.effective, next.config.backends)?;
        let old = self.manager.host().live();
        let catalog = load_catalog(&self.engine, &config, &reloaded.effective).await;
        refuse_lost_backends(&old.catalog, &catalog)?;
        let qemu = if config.qemu.binary == old.qemu_config.binary {
            Arc::clone(&old.qemu)
        } else {
            let qemu = Qemu::new(config.qemu.binary.clone(), self.probing);
            qemu.info().await.map_err(ReloadError::Qemu)?;
            Arc::new(qemu)
        };
        self.log.set(&config.log).map_err(ReloadError::Log)?;
        // From here on nothing fails.
        let of_backends = of_backends(&config, &reloaded.effective, &catalog);
        for warning in next.warnings.iter().chain(&of_backends) {
            tracing::warn!("{warning}");
        }
        let changed = changed_backends(&old.catalog, &catalog);
        if !changed.is_empty() {
            tracing::info!(backends = changed.join(", "), "config of backends changed");
        }
        let host = self.manager.host();
        let (limits, timeout) = (config.capacity(), config.grpc.timeout);
        let rows = explain::rows(&reloaded.effective, &config.backends, &reloaded.waiting);
        host.live
            .store(Arc::new(live(config, catalog, qemu, &self.ports, rows)));
        host.metrics.set_vm_limit(limits.vms);
        host.capacity.set_limits(limits);
        self.default_deadline.set(timeout);
        self.effective = reloaded.effective.clone();
        Ok(reloaded)
    }
}

/// The part of a config that a reload replaces.
pub(super) fn live(
    config: Config,
    catalog: Catalog,
    qemu: Arc<Qemu>,
    ports: &Ports,
    rows: Vec<explain::Row>,
) -> Live {
    let range = config.network.ports.clone();
    Live {
        catalog,
        qemu,
        qemu_config: config.qemu,
        ports: range.map(|range| ports.with_range(range)),
        network: config.network,
        disk: config.disk,
        attestation: config.attestation,
        shutdown: config.on_shutdown,
        shutdown_time: config.shutdown_time,
        defaults: config.vm,
        rows,
    }
}

/// A bad component leaves the old one serving. One that did not serve before is no loss.
fn refuse_lost_backends(old: &Catalog, new: &Catalog) -> Result<(), ReloadError> {
    for entry in new.entries() {
        let failed_before = old
            .entries()
            .iter()
            .any(|before| before.config.name == entry.config.name && before.state.is_err());
        if let Err(error) = &entry.state
            && !failed_before
        {
            return Err(ReloadError::Backend {
                name: entry.config.name.clone(),
                reason: chain(error),
            });
        }
    }
    Ok(())
}

/// Names of backends that are new, gone, or configured otherwise.
fn changed_backends<'a>(old: &'a Catalog, new: &'a Catalog) -> Vec<&'a str> {
    fn configs(catalog: &Catalog) -> impl Iterator<Item = &BackendConfig> {
        catalog.entries().iter().map(|entry| &entry.config)
    }
    let gone = configs(old).filter(|backend| !configs(new).any(|other| other == *backend));
    let come = configs(new).filter(|backend| !configs(old).any(|other| other == *backend));
    let names: BTreeSet<&str> = gone.chain(come).map(|backend| &*backend.name).collect();
    names.into_iter().collect()
}

fn list(changes: &[Changed]) -> String {
    if changes.is_empty() {
        return "no value of a key".to_owned();
    }
    let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
    changes.join(", ")
}
