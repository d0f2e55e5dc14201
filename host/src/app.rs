//! Wires every module; the only file that knows them all.

mod check;
pub mod notify;
pub mod problem;
mod reload;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::api;
use crate::api::deadline::DefaultDeadline;
use crate::api::listener::Listener;
use crate::api::tls::{Alpn, TlsAcceptor, TlsConfig};
use crate::backend::{BackendEngine, Catalog, Limits};
use crate::config::sources::Effective;
use crate::config::{Config, Inputs, Loaded, explain};
use crate::lease::{Ports, Slots, Uids};
use crate::metrics::Metrics;
use crate::qemu::process::{self, Credentials};
use crate::qemu::schema::Qemu;
use crate::spec::VmId;
use crate::store::{Announcement, LeftContent, LeftRecord, StateDir, StoreError};
use crate::vm::manager::{Host, LostVm, VmManager};
use crate::vm::status::{PlannedStatus, VmState, VmStatus};

pub use check::check;
pub use problem::{BuildError, RunError};

use check::of_backends;
use notify::Notifier;
use reload::Reloader;

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
    instance_id: Arc<str>,
    reloader: Reloader,
}

impl App {
    /// `inputs` is where `loaded` came from, for reloads.
    pub async fn build(inputs: Inputs, loaded: Loaded, log: LogFilter) -> Result<Self, BuildError> {
        let Loaded {
            config,
            effective,
            warnings,
        } = loaded;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let (grpc_tls, http_tls) = tls_acceptors(&config)?;
        let store = StateDir::open(&config.state_dir)?;
        let instance_id = match &config.instance_id {
            Some(id) => id.clone(),
            None => store.instance_id()?,
        };
        let slots = Slots::new(config.max_vms);
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
        let lost = settle_left_records(&store, &slots, uids.as_ref())?;
        let grpc = listen("grpc", config.grpc.listener.address(), grpc_tls).await?;
        let http = listen("http", config.http.address(), http_tls).await?;
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
        let (catalog, probed) =
            tokio::join!(load_catalog(&engine, &config, &effective), qemu.info());
        if let Err(error) = probed {
            tracing::error!(error = %crate::backend::catalog::chain(&error), "no QEMU yet");
        }
        for warning in of_backends(&config, &effective, &catalog) {
            tracing::warn!("{warning}");
        }
        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), &instance_id)?;
        metrics.set_vm_limit(config.max_vms);
        let own_ports = [grpc_address.port(), http_address.port()];
        // One pool for all ranges that reloads bring.
        let ports = Ports::new(1..=u16::MAX, own_ports);
        let rows = explain::rows(&effective, &config.backends, &[]);
        let endpoints = json!({
            "pid": std::process::id(),
            "grpc": grpc_address.to_string(),
            "http": http_address.to_string(),
        });
        let announcement = store.announce(endpoints.to_string().as_bytes())?;
        let default_deadline = DefaultDeadline::new(config.grpc.timeout);
        let live = reload::live(config, catalog, qemu, &ports, rows);
        let host = Host {
            live: arc_swap::ArcSwap::from_pointee(live),
            store,
            slots,
            uids,
            metrics,
        };
        let manager = VmManager::new(host, lost);
        let reloader = Reloader {
            inputs: inputs.pinned(),
            engine,
            manager: manager.clone(),
            effective,
            probing,
            ports,
            log,
            default_deadline: default_deadline.clone(),
        };
        tracing::info!(grpc = %grpc_address, http = %http_address, instance = instance_id, "listening");
        Ok(Self {
            manager,
            reloader,
            grpc,
            http,
            default_deadline,
            instance_id: instance_id.into(),
            _announcement: announcement,
        })
    }

    /// Serves until `stop` resolves, then removes all VMs and ends. Each message of `reloads` reads
    /// the config anew.
    pub async fn run(
        self,
        stop: impl Future<Output = ()>,
        reloads: mpsc::Receiver<()>,
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
            self.default_deadline,
            wait(stopped.clone()),
        );
        let http = api::http::serve(
            self.http,
            self.manager.clone(),
            Arc::clone(&self.instance_id),
            wait(stopped),
        );
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
        notifier.stopping();
        self.manager.shut_down().await;
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
        if tokio::time::timeout(std::time::Duration::from_secs(5), drained)
            .await
            .is_err()
        {
            grpc.abort();
            http.abort();
        }
        ended.unwrap_or(Ok(()))
    }
}

fn flatten(result: Result<Result<(), RunError>, tokio::task::JoinError>) -> Result<(), RunError> {
    result.unwrap_or_else(|error| Err(RunError::Http(std::io::Error::other(error))))
}

/// For gRPC and for HTTP; none where the config names no certificate.
fn tls_acceptors(
    config: &Config,
) -> Result<(Option<TlsAcceptor>, Option<TlsAcceptor>), BuildError> {
    let acceptor = |listener, tls: &TlsConfig, alpn| {
        tls.acceptor(alpn).map_err(|source| BuildError::Tls {
            listener,
            source: Box::new(source),
        })
    };
    Ok((
        acceptor("grpc", &config.grpc.listener.tls, Alpn::H2)?,
        acceptor("http", &config.http.tls, Alpn::Http11)?,
    ))
}

async fn load_catalog(engine: &BackendEngine, config: &Config, effective: &Effective) -> Catalog {
    Catalog::load(
        engine,
        config.backends.clone(),
        config.default_backend.clone(),
        Config::shared_settings(effective),
    )
    .await
}

async fn listen(
    listener: &'static str,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
) -> Result<Listener, BuildError> {
    Listener::bind(listener, address, tls)
        .await
        .map_err(|source| BuildError::Listen {
            listener,
            address,
            source,
        })
}

/// What an earlier daemon left: a VM whose process is gone is cleared away; one whose process may
/// still run is shown as lost and never touched, and its user and slot are not given to another; a
/// record that does not parse is reported.
fn settle_left_records(
    store: &StateDir,
    slots: &Slots,
    uids: Option<&Uids>,
) -> Result<Vec<LostVm>, StoreError> {
    let mut lost = Vec::new();
    for LeftRecord { path, id, content } in store.left_records()? {
        let Some(id) = id else {
            tracing::warn!(path = %path.display(), "no VM's record; left alone");
            continue;
        };
        let (name, created_at, planned, detail) = match &content {
            LeftContent::Broken(reason) => {
                let reason = crate::spec::printable(reason);
                tracing::error!(path = %path.display(), reason, "record set aside");
                (
                    String::new(),
                    None,
                    None,
                    format!("its record cannot be used: {reason}"),
                )
            }
            LeftContent::Record(record) => {
                // A process that was not recorded, or not well, still has the id in its command.
                let running = record
                    .process
                    .as_ref()
                    .is_some_and(|process| process.is_alive())
                    || process::is_uuid_of_a_process(&id.to_string());
                let detail = if !running {
                    tracing::warn!(%id, "VM of an earlier daemon: its process is gone");
                    match store.delete_left(id) {
                        Ok(()) => continue,
                        Err(error) => undeletable(&error),
                    }
                } else if let Some(process) = &record.process {
                    format!("process {} was started by an earlier daemon", process.pid)
                } else {
                    "a process names it, which an earlier daemon started".to_owned()
                };
                (
                    record.name.clone(),
                    record.created_at.parse().ok(),
                    Some(PlannedStatus::of_record(record)),
                    detail,
                )
            }
            LeftContent::Nothing => {
                tracing::warn!(%id, "VM of an earlier daemon: it was not started");
                match store.delete_left(id) {
                    Ok(()) => continue,
                    Err(error) => (String::new(), None, None, undeletable(&error)),
                }
            }
        };
        tracing::warn!(%id, detail, "VM of an earlier daemon: lost");
        let uid = uids
            .zip(store.user_of(id))
            .and_then(|(uids, uid)| uids.reserve(uid));
        let status = lost_status(id, &name, detail, created_at, planned);
        lost.push(LostVm::new(status, slots.count(), uid));
    }
    Ok(lost)
}

/// What is said of a VM that is gone but for its files.
fn undeletable(error: &StoreError) -> String {
    let error = crate::backend::catalog::chain(error);
    format!("nothing of it runs, and its files cannot be deleted: {error}")
}

fn lost_status(
    id: VmId,
    name: &str,
    detail: String,
    created_at: Option<Timestamp>,
    planned: Option<PlannedStatus>,
) -> VmStatus {
    VmStatus {
        id,
        name: name.to_owned(),
        state: VmState::Lost(detail),
        generation: 1,
        created_at: created_at.unwrap_or(Timestamp::UNIX_EPOCH),
        expires_at: None,
        planned,
        agent_address: None,
        pid: None,
    }
}
