//! Wires every module; the only file that knows them all.

mod check;
mod listeners;
pub mod measure;
pub mod notify;
pub mod problem;
mod reload;

use std::future::Future;
use std::sync::Arc;

use serde_json::json;
use tokio::sync::{Semaphore, watch};

use crate::api;
use crate::api::access::gate::Gate;
use crate::api::deadline::DefaultDeadline;
use crate::api::listener::Listener;
use crate::backend::{BackendEngine, Catalog, Limits};
use crate::config::sources::Effective;
use crate::config::{Config, Inputs, Loaded, explain};
use crate::confine::Confinement;
use crate::lease::{Capacity, Ports, Uids};
use crate::metrics::Metrics;
use crate::qemu::process::Credentials;
use crate::qemu::schema::Qemu;
use crate::store::{Announcement, StateDir};
use crate::vm::adopt;
use crate::vm::config::Outbound;
use crate::vm::doctor::LookTurn;
use crate::vm::events::VmEvents;
use crate::vm::manager::{Host, MOST_TOOLS, VmManager};
use crate::vm::reloading::{ReloadQueue, Reloads};
use crate::vm::sealed::SealedFiles;

pub use check::check;
pub use problem::{BuildError, RunError};

use check::of_backends;
use listeners::{ListenersTls, listen};
use notify::Notifier;
use reload::Reloader;

/// How long calls under way may take at the end.
const DRAIN_TIME: std::time::Duration = std::time::Duration::from_secs(5);

/// Changes what is logged while the daemon runs.
pub struct LogFilter(Box<SetFilter>);

type SetFilter = dyn Fn(&str) -> Result<(), String> + Send + Sync;

impl std::fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogFilter")
    }
}

impl LogFilter {
    pub fn new(set: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self(Box::new(set))
    }

    fn set(&self, filter: &str) -> Result<(), String> {
        (self.0)(filter)
    }
}

/// A daemon that is ready to serve.
#[derive(Debug)]
pub struct App {
    /// First, so that it goes while the state directory is still locked.
    _announcement: Announcement,
    manager: VmManager,
    grpc: Listener,
    http: Listener,
    default_deadline: DefaultDeadline,
    gate: Arc<Gate>,
    tls: ListenersTls,
    instance_id: Arc<str>,
    reloader: Reloader,
}

impl App {
    /// `inputs` is where `loaded` came from, for reloads.
    pub async fn build(
        inputs: Inputs,
        loaded: Loaded,
        log: LogFilter,
        reloads: Reloads,
    ) -> Result<Self, BuildError> {
        let Loaded {
            config,
            effective,
            warnings,
        } = loaded;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let tls = ListenersTls::new(&config)?;
        let store = StateDir::open(&config.state_dir, &config.secrets_dir)?;
        match store.secrets() {
            Some(folder) => tracing::debug!(path = %folder.display(), "secrets lie in memory"),
            None => tracing::info!(
                secrets_dir = %config.secrets_dir.display(),
                "not on a tmpfs: secrets lie in the state directory"
            ),
        }
        let instance_id = match &config.instance_id {
            Some(id) => id.clone(),
            None => store.instance_id()?,
        };
        let confinement = Confinement::detect(&store.instance_id()?).await;
        if config.network.outbound == Outbound::Filtered
            && let Err(error) = confinement.is_enforceable()
        {
            tracing::warn!(
                error = %crate::backend::catalog::chain(&error),
                "guests cannot be kept from this host, so none are started; see `network.outbound`"
            );
        }
        let capacity = Capacity::new(config.capacity());
        // Only root can start a process as another user. The last user of the range is for the
        // QEMU that is only asked questions.
        let (first, last) = (*config.qemu.uids.start(), *config.qemu.uids.end());
        let uids = rustix::process::geteuid()
            .is_root()
            .then(|| Uids::new(first..=last - 1));
        if uids.is_none() {
            tracing::warn!(
                "not root: all QEMUs run as this user, and each could read the others' files"
            );
        }
        let (grpc, http) = listen(&config, &tls).await?;
        let (grpc_address, http_address) = (grpc.address(), http.address());
        let probing = match &uids {
            Some(_) => Credentials::User {
                uid: last,
                gid: last,
            },
            None => Credentials::Daemon,
        };
        let qemu = Arc::new(Qemu::new(config.qemu.binary.clone(), probing));
        let engine = BackendEngine::new(Limits::default())?;
        let nothing = Catalog::default();
        let (catalog, probed) = tokio::join!(
            load_catalog(&engine, &config, &effective, &nothing),
            qemu.info()
        );
        if let Err(error) = probed {
            tracing::error!(error = %crate::backend::catalog::chain(&error), "no QEMU yet");
        }
        catalog.announce(&nothing);
        for warning in of_backends(&config, &effective, &catalog) {
            tracing::warn!("{warning}");
        }
        let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"), &instance_id)?);
        metrics.set_vm_limit(config.max_vms);
        let own_ports = [grpc_address.port(), http_address.port()];
        // One pool for all ranges that reloads bring.
        let ports = Ports::new(1..=u16::MAX, own_ports);
        let rows = explain::rows(&effective, &config, &[]);
        let endpoints = json!({
            "pid": std::process::id(),
            "grpc": grpc_address.to_string(),
            "http": http_address.to_string(),
        });
        let default_deadline = DefaultDeadline::new(config.grpc.timeout);
        let gate = Arc::new(Gate::new(
            &config.clients,
            config.limits,
            config.grpc.reflection,
            Arc::clone(&metrics),
        ));
        let clients = config.clients.clone();
        let sockets: Vec<String> = [&config.grpc.listener.socket, &config.http.listener.socket]
            .into_iter()
            .flatten()
            .map(|path| path.display().to_string())
            .collect();
        let on_boot = config.on_boot;
        let live = reload::live(config, catalog, qemu, &ports, rows);
        let events = Arc::new(VmEvents::new(store.first_generation()?));
        let host = Arc::new(Host {
            live: arc_swap::ArcSwap::from_pointee(live),
            reloads,
            store,
            capacity,
            uids,
            confinement,
            metrics,
            events,
            look: LookTurn::default(),
            sealed: SealedFiles::default(),
            tool_credentials: probing,
            tool_turns: Semaphore::new(MOST_TOOLS),
        });
        let manager = VmManager::new(Arc::clone(&host));
        adopt::adopt(&manager, on_boot).await?;
        // Last: who reads it may call at once.
        let announcement = host.store.announce(endpoints.to_string().as_bytes())?;
        let reloader = Reloader {
            inputs: inputs.pinned(),
            engine,
            manager: manager.clone(),
            effective,
            probing,
            ports,
            log,
            default_deadline: default_deadline.clone(),
            clients,
            gate: Arc::clone(&gate),
            tls: tls.clone(),
        };
        if !sockets.is_empty() {
            tracing::info!(sockets = sockets.join(", "), "listening on UNIX sockets");
        }
        tracing::info!(grpc = %grpc_address, http = %http_address, instance = instance_id, "listening");
        Ok(Self {
            manager,
            reloader,
            grpc,
            http,
            default_deadline,
            gate,
            tls,
            instance_id: instance_id.into(),
            _announcement: announcement,
        })
    }

    /// Serves until `stop` resolves, then lets go of all VMs, or stops them, and ends. Whoever asks
    /// in `reloads` has the config read anew.
    pub async fn run(
        self,
        stop: impl Future<Output = ()>,
        reloads: ReloadQueue,
        notifier: Notifier,
    ) -> Result<(), RunError> {
        let (stopping, stopped) = watch::channel(false);
        let wait = |mut stopped: watch::Receiver<bool>| async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        let serving = format!(
            "Serving gRPC at {}, HTTP at {}",
            self.grpc.address(),
            self.http.address()
        );
        let grpc = api::grpc::serve(
            self.grpc,
            self.manager.clone(),
            self.default_deadline.clone(),
            Arc::clone(&self.gate),
            wait(stopped.clone()),
        );
        let http = api::http::serve(
            self.http,
            self.manager.clone(),
            Arc::clone(&self.instance_id),
            self.default_deadline,
            self.gate,
            wait(stopped),
        );
        self.tls.watch(&self.manager.host().metrics);
        let (mut grpc, mut http) = (tokio::spawn(grpc), tokio::spawn(http));
        notifier.ready(&serving);
        // Until the runtime ends: a shutdown that is slow is alive.
        tokio::spawn(notifier.clone().keep_watchdog());
        let ended = tokio::select! {
            () = stop => None,
            () = self.reloader.run(reloads, &notifier, &serving) => None,
            result = &mut grpc => Some(flatten(result.map(|result| result.map_err(RunError::from)))),
            result = &mut http => Some(flatten(result.map(|result| result.map_err(RunError::Http)))),
        };
        tracing::info!("stopping");
        notifier.stopping(self.manager.shut_down_time() + DRAIN_TIME + DRAIN_TIME);
        self.manager.shut_down().await;
        self.manager.host().confinement.leave();
        let _ = stopping.send(true);
        // Streams of slow clients must not hold the end.
        let drained = async {
            // The one that ended was awaited above.
            if !grpc.is_finished() {
                let _ = (&mut grpc).await;
            }
            if !http.is_finished() {
                let _ = (&mut http).await;
            }
        };
        if tokio::time::timeout(DRAIN_TIME, drained).await.is_err() {
            grpc.abort();
            http.abort();
        }
        ended.unwrap_or(Ok(()))
    }
}

fn flatten(result: Result<Result<(), RunError>, tokio::task::JoinError>) -> Result<(), RunError> {
    result.unwrap_or_else(|error| Err(RunError::Http(std::io::Error::other(error))))
}

/// `before` is what serves until now.
async fn load_catalog(
    engine: &BackendEngine,
    config: &Config,
    effective: &Effective,
    before: &Catalog,
) -> Catalog {
    Catalog::load(
        engine,
        config.backends.clone(),
        config.default_backend.clone(),
        Config::shared_settings(effective),
        before,
    )
    .await
}
