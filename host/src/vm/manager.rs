//! The registry of VMs and their admission: a handle that everyone may clone.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};

use super::error::CreateError;
use super::live::Live;
use super::planning::{self, Planned};
use super::status::VmStatus;
use super::task::{Publisher, VmRequest, VmTask};
use crate::lease::{SlotLease, Slots, UidLease, Uids};
use crate::metrics::Metrics;
use crate::spec::VmId;
use crate::spec::request::VmSpec;
use crate::store::StateDir;

/// Requests that may wait for a VM's task, which is busy only while it stops.
const REQUEST_QUEUE: usize = 16;
/// Longest wait for all VMs at the daemon's end.
const SHUTDOWN_TIME: Duration = Duration::from_secs(60);

/// What all VMs of this daemon share.
#[derive(Debug)]
pub struct Host {
    /// What a reload replaces.
    pub live: ArcSwap<Live>,
    pub store: StateDir,
    pub slots: Slots,
    pub uids: Option<Uids>,
    pub metrics: Metrics,
}

impl Host {
    /// The config as it is now. A caller takes it once and keeps to it.
    pub fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }
}

/// The console file, held open: its path lies in a folder that the VM's user could change.
#[derive(Clone, Debug, Default)]
pub(super) struct Console(Arc<OnceLock<Arc<File>>>);

impl Console {
    pub(super) fn set(&self, file: Arc<File>) {
        let _ = self.0.set(file);
    }
}

#[derive(Debug)]
struct Entry {
    /// Order of creation.
    sequence: u64,
    requests: mpsc::Sender<VmRequest>,
    status: watch::Receiver<Arc<VmStatus>>,
    console: Console,
}

/// A VM of an earlier daemon that may still run: it keeps its slot and its user.
#[derive(Debug)]
pub struct LostVm {
    status: Arc<VmStatus>,
    _slot: SlotLease,
    _uid: Option<UidLease>,
}

impl LostVm {
    pub fn new(status: VmStatus, slot: SlotLease, uid: Option<UidLease>) -> Self {
        Self {
            status: Arc::new(status),
            _slot: slot,
            _uid: uid,
        }
    }
}

#[derive(Debug, Default)]
struct Registry {
    closing: bool,
    next_sequence: u64,
    entries: BTreeMap<VmId, Entry>,
    /// Records of an earlier daemon whose process may still run. Shown, never touched.
    lost: BTreeMap<VmId, LostVm>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RemoveError {
    #[error("there is no VM {0}")]
    NotFound(VmId),
    #[error("VM {id} is lost: {detail}")]
    Lost { id: VmId, detail: String },
}

#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    #[error("there is no VM {0}")]
    NotFound(VmId),
    #[error("the console cannot be read")]
    Read(#[source] std::io::Error),
}

#[derive(Clone, Debug)]
pub struct VmManager {
    host: Arc<Host>,
    registry: Arc<Mutex<Registry>>,
}

impl VmManager {
    pub fn new(host: Host, lost: Vec<LostVm>) -> Self {
        let lost = lost.into_iter().map(|vm| (vm.status.id, vm)).collect();
        let registry = Registry {
            lost,
            ..Registry::default()
        };
        Self {
            host: Arc::new(host),
            registry: Arc::new(Mutex::new(registry)),
        }
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Changes under this lock are single insertions and removals: a panic leaves it sound.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a VM and answers once QEMU says that it runs. A caller that drops the future before
    /// the answer gets no VM: the task unwinds.
    pub async fn create(&self, spec: VmSpec) -> Result<Arc<VmStatus>, CreateError> {
        let id = VmId::random();
        let (reply, answer) = oneshot::channel();
        {
            let mut registry = self.registry();
            if registry.closing {
                return Err(CreateError::Closing);
            }
            let slot = self
                .host
                .slots
                .take()
                .map_err(CreateError::from)
                .inspect_err(|error| {
                    self.host.metrics.created(error.outcome(), Duration::ZERO);
                })?;
            let (requests, receiver) = mpsc::channel(REQUEST_QUEUE);
            let (publisher, status) = Publisher::new(id, &spec);
            let console = Console::default();
            let task = VmTask {
                host: Arc::clone(&self.host),
                live: self.host.live(),
                id,
                spec,
                slot,
                requests: receiver,
                publisher,
                console: console.clone(),
                reply,
            };
            let sequence = registry.next_sequence;
            registry.next_sequence += 1;
            registry.entries.insert(
                id,
                Entry {
                    sequence,
                    requests,
                    status,
                    console,
                },
            );
            let manager = self.clone();
            tokio::spawn(async move {
                // A task that panics must not leave its entry behind.
                if tokio::spawn(task.run()).await.is_err() {
                    tracing::error!(%id, "the task of a VM failed");
                }
                manager.registry().entries.remove(&id);
            });
        }
        let answer = answer.await.unwrap_or(Err(CreateError::Internal));
        if answer.is_err() {
            // Whoever hears of a failure must find nothing of it in a list.
            self.registry().entries.remove(&id);
        }
        answer
    }

    /// What `create` would start.
    pub async fn plan(&self, spec: &VmSpec) -> Result<Planned, CreateError> {
        planning::plan(&self.host, &self.host.live(), spec).await
    }

    pub fn get(&self, id: VmId) -> Option<Arc<VmStatus>> {
        let registry = self.registry();
        match registry.entries.get(&id) {
            Some(entry) => Some(Arc::clone(&entry.status.borrow())),
            None => registry.lost.get(&id).map(|vm| Arc::clone(&vm.status)),
        }
    }

    /// All VMs, in the order of their creation, lost ones first.
    pub fn list(&self) -> Vec<Arc<VmStatus>> {
        let registry = self.registry();
        let mut entries: Vec<_> = registry.entries.values().collect();
        entries.sort_by_key(|entry| entry.sequence);
        let lost = registry.lost.values().map(|vm| Arc::clone(&vm.status));
        lost.chain(
            entries
                .iter()
                .map(|entry| Arc::clone(&entry.status.borrow())),
        )
        .collect()
    }

    /// Stops a VM and deletes what belongs to it. Answers when that is done; asking twice is fine.
    pub async fn remove(&self, id: VmId) -> Result<(), RemoveError> {
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
        if requests.send(VmRequest::Remove(done)).await.is_ok() {
            // A task that ends without an answer has ended with its VM.
            let _ = answer.await;
        }
        self.gone(id).await;
        Ok(())
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

    /// The last `tail` bytes of the console; 0 means all.
    pub async fn console(&self, id: VmId, tail: u64) -> Result<Vec<u8>, ConsoleError> {
        let console = {
            let registry = self.registry();
            let entry = registry
                .entries
                .get(&id)
                .ok_or(ConsoleError::NotFound(id))?;
            entry.console.clone()
        };
        let Some(file) = console.0.get().cloned() else {
            return Ok(Vec::new());
        };
        let read = tokio::task::spawn_blocking(move || read_tail(&file, tail)).await;
        match read {
            Ok(result) => result.map_err(ConsoleError::Read),
            Err(_) => Err(ConsoleError::Read(std::io::Error::other(
                "the daemon is shutting down",
            ))),
        }
    }

    /// Refuses further VMs and removes all that there are, in parallel.
    pub async fn shut_down(&self) {
        let ids: Vec<VmId> = {
            let mut registry = self.registry();
            registry.closing = true;
            registry.entries.keys().copied().collect()
        };
        let mut removals = tokio::task::JoinSet::new();
        for id in ids {
            let manager = self.clone();
            removals.spawn(async move { manager.remove(id).await });
        }
        let all = async { while removals.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_TIME, all).await.is_err() {
            tracing::error!("not all VMs ended in time; what is left is killed");
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

/// Most console that one answer holds.
const MAX_CONSOLE: u64 = 16 << 20;

fn read_tail(file: &File, tail: u64) -> std::io::Result<Vec<u8>> {
    let size = file.metadata()?.len();
    let wanted = if tail == 0 { size } else { tail.min(size) }.min(MAX_CONSOLE);
    let mut buffer = vec![0; usize::try_from(wanted).map_err(std::io::Error::other)?];
    let mut offset = size - wanted;
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset)? {
            0 => break,
            count => {
                filled += count;
                offset += count as u64;
            }
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}
