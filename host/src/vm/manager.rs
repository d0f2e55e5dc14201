//! The registry of VMs and their admission: a handle that everyone may clone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::console::{ConsoleRange, ConsoleReader, ConsoleSource};
use super::doctor::LookTurn;
use super::error::{ActError, CreateError};
use super::events::{VmEvents, VmWatch};
use super::keyed::{Going, KeyedCreates};
use super::live::Live;
use super::planning::{self, Planned};
use super::reloading::Reloads;
use super::sealed::SealedFiles;
use super::status::{VmState, VmStatus};
use super::task::{
    Asked, Courtesy, Expected, GenerationChanged, Next, Publisher, Requests, RestartCount, Vm,
    VmRequest, VmTask,
};
use crate::backend::CallError;
use crate::config::OnShutdown;
use crate::confine::Confinement;
use crate::failpoint;
use crate::lease::{Capacity, Demand, Reservation, UidLease, Uids};
use crate::metrics::Metrics;
use crate::qemu::process::Credentials;
use crate::spec::VmId;
use crate::spec::lifecycle::{Action, Denial, Desired, Phase};
use crate::spec::request::{Goal, SpecRecord, VmSpec};
use crate::store::{
    Deadline, IdempotencyRecord, Now, Progress, RECORD_FORMAT, StateDir, StoreError, VmRecord,
};

/// Requests that may wait for a VM's task, which takes them at once but for a QMP command's time.
const REQUEST_QUEUE: usize = 16;
/// How long tasks may take to let go of their VMs.
const DETACH_TIME: Duration = Duration::from_secs(10);

/// What all VMs of this daemon share.
#[derive(Debug)]
pub struct Host {
    /// What a reload replaces.
    pub live: ArcSwap<Live>,
    pub reloads: Reloads,
    pub store: StateDir,
    pub capacity: Capacity,
    pub uids: Option<Uids>,
    pub confinement: Confinement,
    pub metrics: Arc<Metrics>,
    pub events: Arc<VmEvents>,
    /// Held by the one who looks at the host.
    pub look: LookTurn,
    pub sealed: SealedFiles,
    /// Of programs that measure.
    pub tool_credentials: Credentials,
    /// Of those that run at once.
    pub tool_turns: Semaphore,
}

/// Programs that measure at once, for launches and plans together.
pub const MOST_TOOLS: usize = 2;

impl Host {
    /// The config as it is now. A caller takes it once and keeps to it.
    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Counts what a backend did wrong.
    pub(super) fn count_fault(&self, error: &CallError) {
        if let CallError::Fault { backend, fault } = error {
            self.metrics.backend_fault(backend, fault.kind());
        }
    }

    pub(super) fn backend_failed(&self, error: CallError) -> CreateError {
        self.count_fault(&error);
        CreateError::Backend(error)
    }
}

#[derive(Debug)]
struct Entry {
    requests: mpsc::Sender<Asked>,
    status: watch::Receiver<Arc<VmStatus>>,
    console: Arc<ConsoleSource>,
}

/// A VM of an earlier daemon that may still run: it keeps its place and its user.
#[derive(Debug)]
pub struct LostVm {
    status: Arc<VmStatus>,
    _reservation: Reservation,
    _uid: Option<UidLease>,
    /// By what a create that is sent again is known.
    key: Option<IdempotencyRecord>,
}

impl LostVm {
    pub fn new(
        status: VmStatus,
        reservation: Reservation,
        uid: Option<UidLease>,
        key: Option<IdempotencyRecord>,
    ) -> Self {
        Self {
            status: Arc::new(status),
            _reservation: reservation,
            _uid: uid,
            key,
        }
    }
}

#[derive(Debug, Default)]
struct Registry {
    closing: bool,
    entries: BTreeMap<VmId, Entry>,
    /// Records of an earlier daemon whose process may still run. Shown, never touched.
    lost: BTreeMap<VmId, LostVm>,
    keyed: KeyedCreates,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RemoveError {
    #[error("there is no VM {0}")]
    NotFound(VmId),
    #[error(transparent)]
    Changed(#[from] GenerationChanged),
    #[error("VM {id} is lost: {detail}")]
    Lost { id: VmId, detail: String },
    #[error("VM {id} is stopped, and not all of its files can be deleted; that is tried again")]
    FilesLeft { id: VmId },
    #[error("the daemon is shutting down; the next one goes on with the removal of VM {id}")]
    Closing { id: VmId },
    #[error("the task of VM {id} failed")]
    Internal { id: VmId },
}

#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    #[error("there is no VM {0}")]
    NotFound(VmId),
    #[error("the console cannot be read")]
    Open(#[source] StoreError),
    #[error("the console cannot be read")]
    Read(#[source] std::io::Error),
}

/// How something is done to a VM.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    pub courtesy: Courtesy,
    /// For what starts it.
    pub expected: Expected,
    /// Of the VM, as the caller saw it last.
    pub generation: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct VmManager {
    host: Arc<Host>,
    registry: Arc<Mutex<Registry>>,
    /// Closed when the last task has ended.
    tasks: TaskTracker,
}

type TaskTracker = tokio_util::task::TaskTracker;

impl VmManager {
    pub fn new(host: Arc<Host>) -> Self {
        Self {
            host,
            registry: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn shared_host(&self) -> Arc<Host> {
        Arc::clone(&self.host)
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Changes under this lock are single insertions and removals: a panic leaves it sound.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a VM that cannot be proven to be this daemon's.
    pub fn add_lost(&self, vm: LostVm) {
        let mut registry = self.registry();
        if let Some(key) = &vm.key {
            registry
                .keyed
                .belongs(&vm.status.created_by, key, vm.status.id);
        }
        registry.lost.insert(vm.status.id, vm);
    }

    /// Starts a VM and answers once QEMU says that it runs. A caller that drops the future before
    /// the answer gets no VM: the task unwinds. With an idempotency key it goes on, and is what a
    /// caller gets who asks for the same again.
    pub async fn create(&self, spec: VmSpec) -> Result<Arc<VmStatus>, CreateError> {
        let Some(wish) = spec.idempotency.clone() else {
            return self.create_for_caller(VmId::random(), spec, None).await;
        };
        let created = {
            let mut registry = self.registry();
            match registry.keyed.find(&spec.created_by, &wish)? {
                Some(created) => created,
                None => {
                    let id = VmId::random();
                    let key = IdempotencyRecord::new(&wish);
                    let (creation, created) = registry.keyed.begin(&spec.created_by, &key, id);
                    let manager = self.clone();
                    self.tasks.spawn(async move {
                        let outcome = manager.create_for_caller(id, spec, Some(key)).await;
                        if outcome.is_err() {
                            manager.registry().keyed.forget(id);
                        }
                        creation.end(outcome);
                    });
                    created
                }
            }
        };
        let id = created.outcome().await?;
        // Removed, or about to be.
        let is_going = self.registry().keyed.is_going(id);
        self.get(id)
            .filter(|vm| !is_going && vm.state != VmState::Removing)
            .ok_or(CreateError::Removed)
    }

    async fn create_for_caller(
        &self,
        id: VmId,
        spec: VmSpec,
        idempotency: Option<IdempotencyRecord>,
    ) -> Result<Arc<VmStatus>, CreateError> {
        let (reply, answer) = oneshot::channel();
        let live = self.host.live();
        let demand = Demand {
            vms: 1,
            vcpus: u64::from(spec.vcpus.unwrap_or(live.defaults.vcpus)),
            ..Demand::default()
        };
        // Taken with what QEMU needs beside it, when that is planned: of a burst, as many as fit
        // get it.
        let memory = Demand {
            memory_bytes: spec.memory_bytes.unwrap_or(live.defaults.memory),
            ..Demand::default()
        };
        {
            let mut registry = self.registry();
            if registry.closing {
                return Err(CreateError::Closing);
            }
            let reservation = self
                .host
                .capacity
                .is_free(&memory)
                .and_then(|()| self.host.capacity.reserve(demand))
                .map_err(CreateError::from)
                .inspect_err(|error| {
                    self.host.metrics.created(error.outcome(), Duration::ZERO);
                })?;
            failpoint::reach("reserved");
            let now = Now::read();
            let record = VmRecord {
                format: RECORD_FORMAT,
                id,
                spec: SpecRecord::from(&spec),
                desired: Desired::Running,
                progress: Progress::Creating,
                created_at: now.wall,
                expires: spec.ttl.and_then(|ttl| Deadline::after(&now, ttl)),
                uid: None,
                launches: 0,
                restarts: 0,
                agent_address: None,
                process: None,
                last_exit: None,
                failure: None,
                returns: false,
                port: None,
                boot_id: String::new(),
                idempotency,
            };
            let found = Found {
                status: VmStatus::of_record(&record, VmState::Creating, None),
                record,
                spec,
                reservation: Some(reservation),
                uid: None,
                port: None,
                files: None,
            };
            self.start_task(&mut registry, found, Next::Create(reply));
        }
        let answer = answer.await.unwrap_or(Err(CreateError::Internal));
        if answer.is_err() {
            // Whoever hears of a failure must find nothing of it in a list.
            self.registry().entries.remove(&id);
        }
        answer
    }

    /// Takes a VM of an earlier daemon into service.
    pub(super) fn take_over(&self, found: Found, next: Next) {
        let mut registry = self.registry();
        self.start_task(&mut registry, found, next);
    }

    fn start_task(&self, registry: &mut Registry, found: Found, next: Next) {
        let id = found.record.id;
        let (requests, receiver) = mpsc::channel(REQUEST_QUEUE);
        let (publisher, status) = Publisher::new(found.status, Arc::clone(&self.host.events));
        let requests_of_task = Requests::new(receiver, status.clone());
        if let Some(key) = &found.record.idempotency {
            registry
                .keyed
                .belongs(&found.record.spec.created_by, key, id);
        }
        let console = Arc::new(ConsoleSource::default());
        console.set_launches(found.record.launches);
        if let Some(folder) = found.files.as_ref().map(|files| files.record().try_clone()) {
            match folder {
                Ok(folder) => console.set(folder),
                Err(error) => tracing::warn!(%id, %error, "its console cannot be read"),
            }
        }
        let vm = Vm {
            host: Arc::clone(&self.host),
            id,
            spec: found.spec,
            record: found.record,
            files: found.files,
            uid: found.uid,
            port: found.port,
            reservation: found.reservation,
            publisher,
            console: Arc::clone(&console),
            restarts: RestartCount::default(),
            is_unsaved: false,
            expected: Expected::default(),
        };
        registry.entries.insert(
            id,
            Entry {
                requests,
                status,
                console,
            },
        );
        let manager = self.clone();
        let task = VmTask::new(vm, requests_of_task);
        self.tasks.spawn(async move {
            let ended = tokio::spawn(task.run(next)).await;
            let mut registry = manager.registry();
            let entry = registry.entries.remove(&id);
            match ended {
                Ok(waiting) => {
                    registry.keyed.forget(id);
                    drop(registry);
                    for removed in waiting {
                        let _ = removed.send(Ok(()));
                    }
                }
                Err(error) => {
                    tracing::error!(%id, %error, "the task of a VM failed");
                    if let Some(entry) = entry {
                        let vm = manager.without_task(&entry.status.borrow());
                        registry.lost.insert(id, vm);
                    }
                }
            }
        });
    }

    /// A VM whose task failed: it may run, and nobody looks after it before the next daemon.
    fn without_task(&self, last: &VmStatus) -> LostVm {
        let mut status = last.clone();
        let reason = "its task failed, which is a bug: restart casemated to take it over again";
        status.state = VmState::Lost(reason.to_owned());
        status.generation = self.host.events.next_generation();
        let reservation = self.host.capacity.count(status.demand());
        LostVm::new(
            status,
            reservation,
            super::adopt::uid_of(&self.host, last.id, None),
            // It is known already.
            None,
        )
    }

    /// What `create` would start.
    pub async fn plan(&self, spec: &VmSpec) -> Result<Planned, CreateError> {
        planning::plan(&self.host, &self.host.live(), spec).await
    }

    /// Does what a create does, with all that it takes, up to where QEMU waits before the guest's
    /// first instruction, and undoes it.
    pub async fn rehearse(&self, spec: &VmSpec) -> Result<(), CreateError> {
        let spec = VmSpec {
            goal: Goal::Prelaunch,
            ..spec.clone()
        };
        match self.create(spec).await {
            Err(CreateError::Rehearsed) => Ok(()),
            Err(error) => Err(error),
            // A start with that goal has no other end.
            Ok(_) => Err(CreateError::Internal),
        }
    }

    pub fn get(&self, id: VmId) -> Option<Arc<VmStatus>> {
        let registry = self.registry();
        match registry.entries.get(&id) {
            Some(entry) => Some(Arc::clone(&entry.status.borrow())),
            None => registry.lost.get(&id).map(|vm| Arc::clone(&vm.status)),
        }
    }

    /// All VMs, in the order of their creation; it is the same after a restart of the daemon.
    pub fn list(&self) -> Vec<Arc<VmStatus>> {
        let registry = self.registry();
        let lost = registry.lost.values().map(|vm| Arc::clone(&vm.status));
        let entries = registry.entries.values();
        let mut all: Vec<_> = entries
            .map(|entry| Arc::clone(&entry.status.borrow()))
            .chain(lost)
            .collect();
        all.sort_unstable_by_key(|status| status.place());
        all
    }

    /// Every change from now on, of one VM or of all, and how they are now.
    pub fn watch(&self, only: Option<VmId>) -> VmWatch {
        // In this order, so that a change is told twice rather than never; the watch sorts it out.
        let changes = self.host.events.subscribe();
        let mut present = self.list();
        present.retain(|status| only.is_none_or(|only| only == status.id));
        VmWatch {
            present,
            changes,
            only,
        }
    }

    /// Does something to a VM, and answers when it is done.
    pub async fn act(
        &self,
        id: VmId,
        action: Action,
        manner: Manner,
    ) -> Result<Arc<VmStatus>, ActError> {
        if self.registry().closing && matches!(action, Action::Start | Action::Restart) {
            return Err(ActError::Closing);
        }
        let (reply, answer) = oneshot::channel();
        let request = VmRequest::Act {
            action,
            courtesy: manner.courtesy,
            expected: manner.expected,
            reply,
        };
        self.ask(id, action, manner.generation, request, answer)
            .await
    }

    /// Sets when a VM is removed, from now on; none: never.
    pub async fn set_ttl(
        &self,
        id: VmId,
        ttl: Option<Duration>,
        generation: Option<u64>,
    ) -> Result<Arc<VmStatus>, ActError> {
        let (reply, answer) = oneshot::channel();
        let request = VmRequest::SetTtl { ttl, reply };
        self.ask(id, Action::ExtendTtl, generation, request, answer)
            .await
    }

    /// Hands a request to the VM's task and waits for its answer.
    async fn ask(
        &self,
        id: VmId,
        action: Action,
        expected_generation: Option<u64>,
        request: VmRequest,
        answer: oneshot::Receiver<Result<Arc<VmStatus>, ActError>>,
    ) -> Result<Arc<VmStatus>, ActError> {
        let requests = {
            let registry = self.registry();
            if registry.lost.contains_key(&id) {
                let denial = Denial::Phase(Phase::Lost);
                return Err(ActError::Denied { id, action, denial });
            }
            match registry.entries.get(&id) {
                Some(entry) => entry.requests.clone(),
                None => return Err(ActError::NotFound(id)),
            }
        };
        let asked = Asked {
            request,
            expected_generation,
        };
        if requests.send(asked).await.is_err() {
            return Err(ActError::NotFound(id));
        }
        answer.await.unwrap_or_else(|_| {
            Err(if self.registry().closing {
                ActError::Closing
            } else {
                ActError::NotFound(id)
            })
        })
    }

    /// Stops a VM and deletes what belongs to it. Answers when that is done; asking twice is fine.
    pub async fn remove(
        &self,
        id: VmId,
        expected_generation: Option<u64>,
    ) -> Result<(), RemoveError> {
        let requests = {
            let registry = self.registry();
            if let Some(vm) = registry.lost.get(&id) {
                return Err(RemoveError::Lost {
                    id,
                    detail: vm.status.state.detail(),
                });
            }
            match registry.entries.get(&id) {
                Some(entry) => entry.requests.clone(),
                None => return Err(RemoveError::NotFound(id)),
            }
        };
        let (done, answer) = oneshot::channel();
        let asked = Asked {
            request: VmRequest::Remove(done),
            expected_generation,
        };
        self.registry().keyed.set_going(id, Going::Away);
        if requests.send(asked).await.is_ok() {
            match answer.await {
                Ok(removed) => removed.inspect_err(|error| {
                    if matches!(error, RemoveError::Changed(_)) {
                        self.registry().keyed.set_going(id, Going::Nowhere);
                    }
                })?,
                Err(_) => self.is_over(id)?,
            }
        } else {
            self.is_over(id)?;
        }
        self.gone(id).await;
        Ok(())
    }

    /// Judges a task that ended without an answer: with its VM, unless something ended it before.
    fn is_over(&self, id: VmId) -> Result<(), RemoveError> {
        let registry = self.registry();
        if registry.closing {
            Err(RemoveError::Closing { id })
        } else if registry.lost.contains_key(&id) {
            Err(RemoveError::Internal { id })
        } else {
            Ok(())
        }
    }

    /// Waits until the entry has left the registry, so that a list after a removal is true.
    async fn gone(&self, id: VmId) {
        let status = self
            .registry()
            .entries
            .get(&id)
            .map(|entry| entry.status.clone());
        if let Some(mut status) = status {
            while status.changed().await.is_ok() {}
        }
        while self.registry().entries.contains_key(&id) {
            tokio::task::yield_now().await;
        }
    }

    pub fn console(&self, id: VmId, range: ConsoleRange) -> Result<ConsoleReader, ConsoleError> {
        let (console, status) = {
            let registry = self.registry();
            let entry = registry
                .entries
                .get(&id)
                .ok_or(ConsoleError::NotFound(id))?;
            (Arc::clone(&entry.console), entry.status.clone())
        };
        console.read(range, status).map_err(ConsoleError::Open)
    }

    /// The longest that `shut_down` takes.
    pub fn shut_down_time(&self) -> Duration {
        let live = self.host.live();
        match live.shutdown {
            OnShutdown::StopVms => live.shutdown_time + DETACH_TIME * 3,
            OnShutdown::Leave => DETACH_TIME,
        }
    }

    /// Refuses further VMs; lets go of those that there are, or stops them all, in parallel.
    pub async fn shut_down(&self) {
        let live = self.host.live();
        let ids: Vec<VmId> = {
            let mut registry = self.registry();
            registry.closing = true;
            registry.entries.keys().copied().collect()
        };
        if live.shutdown == OnShutdown::StopVms {
            self.stop_all(&ids, live.shutdown_time).await;
        }
        let mut detaching = tokio::task::JoinSet::new();
        for id in ids {
            let entry = self
                .registry()
                .entries
                .get(&id)
                .map(|entry| entry.requests.clone());
            if let Some(requests) = entry {
                // A queue may be full of what a silent QEMU is asked.
                detaching.spawn(async move { requests.send(VmRequest::Detach.into()).await });
            }
        }
        self.tasks.close();
        if tokio::time::timeout(DETACH_TIME, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::error!("not all VMs were let go in time");
        }
    }

    async fn stop_all(&self, ids: &[VmId], limit: Duration) {
        let stop = |courtesy| {
            let mut stops = tokio::task::JoinSet::new();
            for id in ids.iter().copied() {
                let manager = self.clone();
                stops.spawn(async move {
                    manager.end_with_daemon(id, courtesy).await;
                });
            }
            async move { while stops.join_next().await.is_some() {} }
        };
        if tokio::time::timeout(limit, stop(Courtesy::Ask))
            .await
            .is_err()
        {
            tracing::warn!("not all VMs ended in time; they are ended by force");
            let force = stop(Courtesy::Force);
            if tokio::time::timeout(DETACH_TIME * 2, force).await.is_err() {
                tracing::error!("not all VMs ended; the next daemon finds them");
            }
        }
    }

    /// Returns when its QEMU is gone.
    async fn end_with_daemon(&self, id: VmId, courtesy: Courtesy) {
        let entry = self
            .registry()
            .entries
            .get(&id)
            .map(|entry| entry.requests.clone());
        let Some(requests) = entry else { return };
        let (reply, answer) = oneshot::channel();
        let request = VmRequest::EndWithDaemon { courtesy, reply };
        if requests.send(request.into()).await.is_ok() && !matches!(answer.await, Ok(Ok(_))) {
            tracing::debug!(%id, "not stopped, or gone meanwhile");
        }
    }

    /// States of all VMs, for metrics.
    pub fn state_names(&self) -> Vec<&'static str> {
        self.list()
            .iter()
            .map(|status| status.state.name())
            .collect()
    }
}

/// All that makes a VM when its task begins.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) status: VmStatus,
    pub(super) record: VmRecord,
    pub(super) spec: VmSpec,
    pub(super) reservation: Option<Reservation>,
    pub(super) uid: Option<UidLease>,
    pub(super) port: Option<crate::lease::PortLease>,
    pub(super) files: Option<crate::store::VmFiles>,
}
