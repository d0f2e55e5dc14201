//! Reload at SIGHUP: everything is read and checked first, then taken over as a whole. What is wrong
//! is reported and changes nothing; what takes a restart is named and keeps its value.

use std::collections::BTreeSet;
use std::sync::Arc;

use casemate_catalogue::ErrorId;

use super::check::of_backends;
use super::listeners::ListenersTls;
use super::notify::Notifier;
use super::{LogFilter, load_catalog};
use crate::api::access::clients::ClientConfig;
use crate::api::access::gate::Gate;
use crate::api::deadline::DefaultDeadline;
use crate::api::tls::TlsError;
use crate::backend::catalog::chain;
use crate::backend::{BackendConfig, BackendEngine, Catalog, CatalogEntry};
use crate::config::sources::{Changed, Effective, Reloaded};
use crate::config::{Config, ConfigError, ConfigErrors, Inputs, Tables, explain};
use crate::lease::Ports;
use crate::qemu::process::Credentials;
use crate::qemu::schema::{ProbeError, Qemu};
use crate::vm::catalogued::Catalogued;
use crate::vm::live::Live;
use crate::vm::manager::VmManager;
use crate::vm::reloading::{
    BackendChange, BackendReload, ReloadQueue, ReloadRefused, ReloadReport,
};

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
    #[error("TLS of `[{listener}]`")]
    Tls {
        listener: &'static str,
        #[source]
        source: Box<TlsError>,
    },
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
            Self::Tls { .. } => ErrorId::ReloadTls,
            Self::Log(_) => ErrorId::ReloadLog,
        }
    }

    fn subject(&self) -> Option<String> {
        match self {
            Self::Config(errors) => errors.0.first().and_then(Catalogued::subject),
            Self::Shape(error) => error.subject(),
            Self::Backend { name, .. } => Some(name.clone()),
            Self::Qemu(_) => Some("qemu.binary".to_owned()),
            Self::Tls { listener, .. } => Some((*listener).to_owned()),
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
    pub(super) clients: Vec<ClientConfig>,
    pub(super) gate: Arc<Gate>,
    pub(super) tls: ListenersTls,
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
    pub(super) async fn run(mut self, mut asked: ReloadQueue, notifier: &Notifier, serving: &str) {
        while let Some(turn) = asked.next().await {
            notifier.reloading();
            let old = self.manager.host().live();
            let outcome = self.reload().await;
            notifier.ready(serving);
            let live = self.manager.host().live();
            let metrics = &self.manager.host().metrics;
            let outcome = match outcome {
                Ok(reloaded) => {
                    metrics.config_reloaded("applied");
                    let report = report(&reloaded, &old.catalog, &live.catalog);
                    for backend in &report.backends {
                        metrics.backend_reloaded(&backend.name, backend.change.as_str());
                    }
                    tracing::info!(changed = %list(&reloaded.applied), "config reloaded");
                    if !reloaded.waiting.is_empty() {
                        let keys = list(&reloaded.waiting);
                        tracing::warn!(%keys, "a restart is needed for these");
                    }
                    Ok(report)
                }
                Err(error) => {
                    metrics.config_reloaded("refused");
                    if let ReloadError::Backend { name, .. } = &error {
                        metrics.backend_reloaded(name, "refused");
                    }
                    tracing::error!(
                        error = %chain(&error),
                        remedy = error.remedy(),
                        id = error.id().as_str(),
                        "config not reloaded: nothing was changed"
                    );
                    Err(ReloadRefused::Refused {
                        what: chain(&error),
                        subject: error.subject(),
                        remedy: error.remedy(),
                    })
                }
            };
            turn.end(&outcome);
        }
        std::future::pending::<()>().await;
    }

    async fn reload(&mut self) -> Result<Reloaded, ReloadError> {
        let next = self.inputs.load()?;
        let reloaded = self.effective.reloaded(&next.effective);
        let tables = Tables {
            backends: next.config.backends,
            clients: next.config.clients,
        };
        let config = Config::from_effective(&reloaded.effective, tables)?;
        // What was read fits together; so has to what it becomes with the values that stay: clients
        // that go may have been what kept a listener closed.
        let mut errors = Vec::new();
        config.check(&reloaded.effective, &mut errors);
        if !errors.is_empty() {
            return Err(ConfigErrors(errors).into());
        }
        let old = self.manager.host().live();
        let catalog = load_catalog(&self.engine, &config, &reloaded.effective, &old.catalog).await;
        refuse_lost_backends(&old.catalog, &catalog)?;
        let qemu = if config.qemu.binary == old.qemu_config.binary {
            Arc::clone(&old.qemu)
        } else {
            let qemu = Qemu::new(config.qemu.binary.clone(), self.probing);
            qemu.info().await.map_err(ReloadError::Qemu)?;
            Arc::new(qemu)
        };
        let host = self.manager.host();
        let tls = tokio::task::block_in_place(|| self.tls.prepare(&config));
        let tls = tls.map_err(|(listener, source)| {
            host.metrics.tls_reloaded(listener, "refused");
            ReloadError::Tls { listener, source }
        })?;
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
        let (limits, timeout) = (config.capacity(), config.grpc.timeout);
        let rows = explain::rows(&reloaded.effective, &config, &reloaded.waiting);
        if self.clients != config.clients {
            let names: Vec<&str> = config.clients.iter().map(|client| &*client.name).collect();
            tracing::info!(clients = names.join(", "), "clients changed");
        }
        // The stricter comes first: with clients a certificate may not be needed any more, and
        // without them it may be all that is.
        if config.clients.is_empty() {
            tls.take(&host.metrics);
            self.gate.set(&config.clients, config.limits);
        } else {
            self.gate.set(&config.clients, config.limits);
            tls.take(&host.metrics);
        }
        self.clients.clone_from(&config.clients);
        catalog.announce(&old.catalog);
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
        images: config.images,
        attestation: config.attestation,
        stream_time: config.http.stream_time,
        shutdown: config.on_shutdown,
        shutdown_time: config.shutdown_time,
        defaults: config.vm,
        rows,
    }
}

/// A bad component leaves the old one serving. One that did not serve before is no loss.
fn refuse_lost_backends(old: &Catalog, new: &Catalog) -> Result<(), ReloadError> {
    let mut refusal = Ok(());
    for entry in new.entries() {
        let failed_before = old
            .entries()
            .iter()
            .any(|before| before.config.name == entry.config.name && before.state.is_err());
        if let Err(error) = &entry.state
            && !failed_before
        {
            // The refusal names the first; who mends wants all of them.
            let (name, reason) = (entry.config.name.clone(), chain(error));
            tracing::error!(
                backend = name,
                error = reason,
                "backend would not be in service"
            );
            if refusal.is_ok() {
                refusal = Err(ReloadError::Backend { name, reason });
            }
        }
    }
    refusal
}

/// What a reload did, for those who asked for it.
fn report(reloaded: &Reloaded, old: &Catalog, new: &Catalog) -> ReloadReport {
    let keys = |changes: &[Changed]| changes.iter().map(|change| change.key.clone()).collect();
    let now = new.entries().iter().map(|entry| {
        let before = old
            .entries()
            .iter()
            .find(|before| before.config.name == entry.config.name);
        backend_report(before, entry)
    });
    let gone = old.entries().iter().filter(|before| {
        let name = &before.config.name;
        !new.entries().iter().any(|entry| entry.config.name == *name)
    });
    let gone = gone.map(|before| BackendReload {
        name: before.config.name.clone(),
        change: BackendChange::Removed,
        before: before
            .state
            .as_ref()
            .ok()
            .map(|old| old.sha256().to_owned()),
        now: None,
        version: None,
        error: None,
    });
    ReloadReport {
        backends: now.chain(gone).collect(),
        changed: keys(&reloaded.applied),
        waiting: keys(&reloaded.waiting),
    }
}

fn backend_report(before: Option<&CatalogEntry>, now: &CatalogEntry) -> BackendReload {
    let served = before.and_then(|before| before.state.as_ref().ok());
    let change = match (served, &now.state) {
        (_, Err(_)) => BackendChange::Failed,
        (None, Ok(_)) => BackendChange::Added,
        (Some(old), Ok(new)) if old.sha256() != new.sha256() => BackendChange::Replaced,
        (Some(old), Ok(new))
            if before.is_some_and(|before| before.config == now.config)
                && old.is_configured_as(new) =>
        {
            BackendChange::Unchanged
        }
        (Some(_), Ok(_)) => BackendChange::Reconfigured,
    };
    let serves = now.state.as_ref().ok();
    BackendReload {
        name: now.config.name.clone(),
        change,
        before: served.map(|old| old.sha256().to_owned()),
        now: serves.map(|new| new.sha256().to_owned()),
        version: serves.map(|new| new.info().version.clone()),
        error: now.state.as_ref().err().map(|error| chain(error)),
    }
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
