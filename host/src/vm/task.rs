//! The one task that owns a VM, from its wish to its last file.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Instrument as _;

use super::error::CreateError;
use super::launch::{self, Holdings, Launched};
use super::live::Live;
use super::manager::{Console, Host};
use super::planning;
use super::status::{ExitReason, PlannedStatus, VmState, VmStatus};
use super::stop::{self, Courtesy};
use crate::lease::SlotLease;
use crate::qemu::process::QemuProcess;
use crate::qemu::qmp::{Qmp, QmpEvent};
use crate::spec::VmId;
use crate::spec::plan::Ability;
use crate::spec::request::VmSpec;
use crate::store::{RECORD_FORMAT, VmRecord};

/// How long the rest of a monitor is read after QEMU's end.
const LAST_EVENTS: std::time::Duration = std::time::Duration::from_secs(1);

/// What a VM is asked for. Reads go through the published status instead.
#[derive(Debug)]
pub(super) enum VmRequest {
    /// Answered when the process is gone and the files are deleted.
    Remove(oneshot::Sender<()>),
}

/// Publishes every change with a generation of its own.
#[derive(Debug)]
pub(super) struct Publisher {
    sender: watch::Sender<Arc<VmStatus>>,
}

impl Publisher {
    pub(super) fn new(id: VmId, spec: &VmSpec) -> (Self, watch::Receiver<Arc<VmStatus>>) {
        let created_at = Timestamp::now();
        let expires_at = spec
            .ttl
            .and_then(|ttl| jiff::SignedDuration::try_from(ttl).ok())
            .and_then(|ttl| created_at.checked_add(ttl).ok());
        let status = VmStatus {
            id,
            name: spec.name.clone(),
            state: VmState::Creating,
            generation: 1,
            created_at,
            expires_at,
            planned: None,
            agent_address: None,
            pid: None,
        };
        let (sender, receiver) = watch::channel(Arc::new(status));
        (Self { sender }, receiver)
    }

    fn current(&self) -> Arc<VmStatus> {
        Arc::clone(&self.sender.borrow())
    }

    fn change(&self, change: impl FnOnce(&mut VmStatus)) {
        self.sender.send_modify(|status| {
            let mut next = VmStatus::clone(status);
            change(&mut next);
            next.generation += 1;
            *status = Arc::new(next);
        });
    }

    fn enter(&self, state: VmState) {
        tracing::info!(state = state.name(), detail = state.detail(), "state");
        self.change(|status| status.state = state);
    }
}

pub(super) struct VmTask {
    pub(super) host: Arc<Host>,
    /// The config that the VM is made from.
    pub(super) live: Arc<Live>,
    pub(super) id: VmId,
    pub(super) spec: VmSpec,
    pub(super) slot: SlotLease,
    pub(super) requests: mpsc::Receiver<VmRequest>,
    pub(super) publisher: Publisher,
    pub(super) console: Console,
    pub(super) reply: oneshot::Sender<Result<Arc<VmStatus>, CreateError>>,
}

impl VmTask {
    /// Runs until the VM is gone.
    pub(super) async fn run(self) {
        let span = tracing::info_span!("vm", id = %self.id);
        self.live().instrument(span).await;
    }

    async fn live(mut self) {
        let started = Instant::now();
        let (launched, removal) = self.launch().await;
        let outcome = launched
            .as_ref()
            .map_or_else(CreateError::outcome, |_| "running");
        self.host.metrics.created(outcome, started.elapsed());
        let (launched, powerdown) = match launched {
            Ok(launched) => launched,
            Err(error) => {
                tracing::warn!(error = %crate::backend::catalog::chain(&error), "not created");
                drop(self.slot);
                // Whoever waits for the removal of a VM that never was has what they want.
                let _ = self.reply.send(Err(error));
                if let Some(VmRequest::Remove(done)) = removal {
                    let _ = done.send(());
                }
                return;
            }
        };
        let agent_address = launched.agent_address;
        self.publisher
            .change(|status| status.agent_address = agent_address);
        self.publisher.enter(VmState::Running);
        let caller_is_gone = self.reply.send(Ok(self.publisher.current())).is_err();
        let courtesy = if powerdown {
            Courtesy::PowerButton(self.live.qemu_config.powerdown_time)
        } else {
            Courtesy::None
        };
        let mut owned = OwnedVm {
            expires_at: self.publisher.current().expires_at,
            publisher: self.publisher,
            requests: self.requests,
            slot: Some(self.slot),
            holdings: launched.holdings,
            courtesy,
        };
        if caller_is_gone {
            tracing::info!("the caller is gone: unwinding");
            owned.courtesy = Courtesy::None;
            owned.stop(launched.process, launched.qmp).await;
            owned.publisher.enter(VmState::Removing);
            return;
        }
        let done = owned.own(launched.process, launched.qmp).await;
        owned.publisher.enter(VmState::Removing);
        let OwnedVm {
            holdings,
            requests,
            publisher,
            ..
        } = owned;
        // Deleting may take a while; the runtime's threads are not for that.
        let deleted = tokio::task::spawn_blocking(move || drop(holdings)).await;
        if deleted.is_err() {
            tracing::error!("the files were not all deleted");
        }
        tracing::info!("gone");
        drop(publisher);
        for waiting in done.into_iter().chain(drain(requests)) {
            let _ = waiting.send(());
        }
    }

    /// Runs the launch, and listens meanwhile.
    async fn launch(&mut self) -> (Result<(Launched, bool), CreateError>, Option<VmRequest>) {
        let (cancel, cancelled) = watch::channel(false);
        let launch = Launch {
            host: &self.host,
            live: &self.live,
            id: self.id,
            spec: &self.spec,
            publisher: &self.publisher,
            console: &self.console,
            cancelled,
        };
        // A removal ends a launch wherever it is, and so does a caller who left. The launch is told
        // rather than dropped: it gives back what it holds when QEMU is dead, not before.
        let mut running = std::pin::pin!(launch.run());
        let asked_to_end = async {
            tokio::select! {
                request = self.requests.recv() => request,
                () = self.reply.closed() => None,
            }
        };
        tokio::select! {
            launched = &mut running => (launched, None),
            removal = asked_to_end => {
                let _ = cancel.send(true);
                if let Ok((mut launched, _)) = running.await {
                    launched.process.kill().await;
                }
                (Err(CreateError::Removed), removal)
            }
        }
    }
}

/// What a launch borrows from its task, which goes on listening meanwhile.
struct Launch<'a> {
    host: &'a Host,
    live: &'a Arc<Live>,
    id: VmId,
    spec: &'a VmSpec,
    publisher: &'a Publisher,
    console: &'a Console,
    cancelled: watch::Receiver<bool>,
}

impl Launch<'_> {
    /// For steps that hold no process: they may simply be dropped.
    async fn unless_cancelled<T>(
        &self,
        step: impl Future<Output = Result<T, CreateError>>,
    ) -> Result<T, CreateError> {
        let mut cancelled = self.cancelled.clone();
        tokio::select! {
            _ = cancelled.wait_for(|cancelled| *cancelled) => Err(CreateError::Removed),
            result = step => result,
        }
    }

    async fn run(&self) -> Result<(Launched, bool), CreateError> {
        let planned = self
            .unless_cancelled(planning::plan(self.host, self.live, self.spec))
            .await?;
        let status = planned.status();
        self.publisher
            .change(|published| published.planned = Some(status.clone()));
        let prepared = launch::prepare(self.host, self.id, self.spec, &planned);
        let prepared = self.unless_cancelled(prepared).await?;
        self.console.set(Arc::clone(&prepared.console));
        self.publisher.enter(VmState::Starting);
        let record = self.record(&status, &planned);
        let powerdown = planned
            .checked
            .plan()
            .abilities
            .contains(&Ability::Powerdown);
        let launched = launch::start(
            self.host,
            self.id,
            &planned,
            prepared,
            record,
            self.cancelled.clone(),
        )
        .await?;
        let pid = launched.process.identity().pid;
        self.publisher.change(|status| status.pid = Some(pid));
        Ok((launched, powerdown))
    }

    fn record(&self, status: &PlannedStatus, planned: &planning::Planned) -> VmRecord {
        let published = self.publisher.current();
        VmRecord {
            format: RECORD_FORMAT,
            id: self.id,
            name: self.spec.name.clone(),
            backend: status.backend.clone(),
            backend_sha256: status.backend_sha256.clone(),
            tee: status.tee.clone(),
            qemu_version: status.qemu_version.clone(),
            created_at: published.created_at.to_string(),
            expires_at: published.expires_at.map(|time| time.to_string()),
            vcpus: status.vcpus,
            memory_bytes: status.memory_bytes,
            request: planned.request.record(),
            plan: planned.checked.plan().clone(),
            facts: planned.facts.clone(),
            command: Vec::new(),
            agent_address: None,
            process: None,
        }
    }
}

/// Everyone who asked for the removal meanwhile.
fn drain(mut requests: mpsc::Receiver<VmRequest>) -> Vec<oneshot::Sender<()>> {
    requests.close();
    let mut waiting = Vec::new();
    while let Ok(VmRequest::Remove(done)) = requests.try_recv() {
        waiting.push(done);
    }
    waiting
}

/// A VM past its launch.
struct OwnedVm {
    publisher: Publisher,
    requests: mpsc::Receiver<VmRequest>,
    slot: Option<SlotLease>,
    holdings: Holdings,
    expires_at: Option<Timestamp>,
    courtesy: Courtesy,
}

/// Everything that can happen to a running VM.
enum VmEvent {
    Exited(crate::qemu::process::Exit),
    Qmp(Option<QmpEvent>),
    Request(Option<VmRequest>),
    Expired,
}

impl OwnedVm {
    /// Watches the VM until it is to be removed; the process is reaped when this returns.
    async fn own(&mut self, mut process: QemuProcess, mut qmp: Qmp) -> Option<oneshot::Sender<()>> {
        let mut shutdown: Option<String> = None;
        let mut monitor_is_open = true;
        loop {
            let event = tokio::select! {
                biased;
                exit = process.wait() => VmEvent::Exited(exit),
                request = self.requests.recv() => VmEvent::Request(request),
                () = until(self.expires_at) => VmEvent::Expired,
                // Last: a QEMU that was taken over could send events without end.
                event = qmp.event(), if monitor_is_open => VmEvent::Qmp(event),
            };
            match event {
                VmEvent::Exited(exit) => {
                    // The last event may still be on its way: the monitor is at its end, and what
                    // is left of it is read.
                    let rest = async {
                        while let Some(event) = qmp.event().await {
                            note_shutdown(&mut shutdown, event);
                        }
                    };
                    if tokio::time::timeout(LAST_EVENTS, rest).await.is_err() {
                        tracing::debug!("the monitor outlives its QEMU");
                    }
                    let words = process.last_words().await;
                    if !words.is_empty() {
                        tracing::warn!(stderr = words, "QEMU's last words");
                    }
                    // Nothing of a process is kept for a VM that only waits for its removal.
                    drop((process, qmp));
                    self.release();
                    self.publisher
                        .enter(VmState::Exited(ExitReason { shutdown, exit }));
                    return self.rest().await;
                }
                VmEvent::Qmp(Some(event)) => note_shutdown(&mut shutdown, event),
                VmEvent::Qmp(None) => monitor_is_open = false,
                VmEvent::Request(Some(VmRequest::Remove(done))) => {
                    self.stop(process, qmp).await;
                    return Some(done);
                }
                VmEvent::Request(None) => {
                    self.stop(process, qmp).await;
                    return None;
                }
                VmEvent::Expired => {
                    tracing::info!("its time to live is over");
                    self.stop(process, qmp).await;
                    return None;
                }
            }
        }
    }

    /// After QEMU's end: nothing runs, but console and record are kept until the removal.
    async fn rest(&mut self) -> Option<oneshot::Sender<()>> {
        tokio::select! {
            request = self.requests.recv() => request.map(|VmRequest::Remove(done)| done),
            () = until(self.expires_at) => None,
        }
    }

    async fn stop(&mut self, mut process: QemuProcess, mut qmp: Qmp) {
        self.publisher.enter(VmState::Stopping);
        let exit = stop::stop(&mut process, &mut qmp, self.courtesy).await;
        tracing::info!(%exit, "stopped");
        self.release();
    }

    /// Gives back what only a process needs.
    fn release(&mut self) {
        self.slot = None;
        self.holdings.port = None;
        self.publisher.change(|status| {
            status.agent_address = None;
            status.pid = None;
        });
    }
}

fn note_shutdown(shutdown: &mut Option<String>, event: QmpEvent) {
    tracing::debug!(event = event.name, "QMP event");
    if event.name == "SHUTDOWN" {
        *shutdown = event.reason;
    }
}

/// Sleeps until `time`; for ever where there is none.
async fn until(time: Option<Timestamp>) {
    match time {
        None => std::future::pending().await,
        Some(time) => {
            let left = Timestamp::now().duration_until(time);
            let left = std::time::Duration::try_from(left).unwrap_or_default();
            tokio::time::sleep(left).await;
        }
    }
}
