//! The one task that owns a VM, from its wish to its last file. It is always in one of four
//! phases: a launch, a QEMU that is up, none, or the removal; each listens to requests in its way.

mod down;
mod launching;
mod publisher;
mod removal;
mod requests;
mod up;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Instrument as _;

use super::console::ConsoleSource;
use super::error::{ActError, CreateError};
use super::manager::{Host, RemoveError};
use super::status::{VmState, VmStatus};
use crate::lease::{PortLease, Reservation, UidLease};
use crate::spec::VmId;
use crate::spec::lifecycle::{Action, Desired, Phase, Verdict, decide};
use crate::spec::plan::Ability;
use crate::spec::request::VmSpec;
use crate::store::{Deadline, Now, VmFiles, VmRecord};

pub(super) use publisher::Publisher;
pub use requests::GenerationChanged;
pub(super) use requests::{Asked, Requests};
pub(super) use up::{Up, state_of};

/// How often a deadline is looked at: timers stand still while the machine sleeps, and
/// CLOCK_BOOTTIME does not.
const DEADLINE_INTERVAL: Duration = Duration::from_secs(30);

/// Between two attempts to write a record.
const SAVE_INTERVAL: Duration = Duration::from_secs(2);

/// Whether the guest is asked before its QEMU is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Courtesy {
    Ask,
    Force,
}

/// What a VM that starts again may be measured as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expected {
    /// What it was measured as before.
    #[default]
    Recorded,
    /// Anything: whoever starts it accepts the change.
    Any,
}

/// For whoever waits for a removal.
pub(super) type Removal = oneshot::Sender<Result<(), RemoveError>>;

pub(super) type Reply = oneshot::Sender<Result<Arc<VmStatus>, ActError>>;

/// What a VM is asked for. Reads go through the published status instead.
#[derive(Debug)]
pub(super) enum VmRequest {
    /// All but `Remove`.
    Act {
        action: Action,
        courtesy: Courtesy,
        expected: Expected,
        reply: Reply,
    },
    /// Answered when the process is gone and the files are deleted.
    Remove(Removal),
    /// When it is to be removed, from now; none: never.
    SetTtl { ttl: Option<Duration>, reply: Reply },
    /// The daemon ends, and the VM with it: what is desired of it stays as it is.
    EndWithDaemon { courtesy: Courtesy, reply: Reply },
    /// The daemon ends and the VM stays.
    Detach,
}

/// What a task goes on with.
#[derive(Debug)]
pub(super) enum Next {
    /// The first launch, for whoever waits for it.
    Create(oneshot::Sender<Result<Arc<VmStatus>, CreateError>>),
    /// A later one.
    Launch,
    Up(Box<Up>),
    /// Nothing runs; started again at that time, if any.
    Down(Option<Instant>),
    /// Found without a QEMU by a daemon that was just started: the restart policy decides.
    FoundDown,
    Remove,
    /// Nothing is left, or nothing is to be done about it.
    End,
}

/// Who waits for what becomes of a VM.
#[derive(Debug, Default)]
struct Waiting {
    started: Vec<Reply>,
    stopped: Vec<Reply>,
    removed: Vec<Removal>,
    /// For its end with the daemon's.
    ended: Vec<Reply>,
    /// For another end of its time, while a launch has the VM.
    times: Vec<(Option<Duration>, Reply)>,
}

/// A VM, as its task has it.
#[derive(Debug)]
pub(super) struct Vm {
    pub(super) host: Arc<Host>,
    pub(super) id: VmId,
    /// With its secrets until the first launch is over.
    pub(super) spec: VmSpec,
    pub(super) record: VmRecord,
    /// None before the record exists.
    pub(super) files: Option<VmFiles>,
    pub(super) uid: Option<UidLease>,
    pub(super) port: Option<PortLease>,
    /// While it has a process or is about to.
    pub(super) reservation: Option<Reservation>,
    pub(super) publisher: Publisher,
    pub(super) console: Arc<ConsoleSource>,
    pub(super) restarts: RestartCount,
    /// Something is not in the record yet.
    pub(super) is_unsaved: bool,
    /// Of the next start.
    pub(super) expected: Expected,
}

/// How often in a row the restart policy had to act.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RestartCount(u32);

#[derive(Debug)]
pub(super) struct VmTask {
    pub(super) vm: Vm,
    pub(super) requests: Requests,
    waiting: Waiting,
}

impl VmTask {
    pub(super) fn new(vm: Vm, requests: Requests) -> Self {
        Self {
            vm,
            requests,
            waiting: Waiting::default(),
        }
    }

    /// Runs until the VM is gone or the daemon lets go of it. Those who are returned wait for its
    /// removal, and are to be told when it is in no list any more.
    pub(super) async fn run(mut self, begin: Next) -> Vec<Removal> {
        let span = tracing::info_span!("vm", id = %self.vm.id);
        async {
            let mut next = begin;
            loop {
                next = match next {
                    Next::Create(reply) => self.create(reply).await,
                    Next::Launch => self.launch_again().await,
                    Next::Up(up) => self.up(*up).await,
                    Next::Down(restart) => self.down(restart).await,
                    Next::FoundDown => Next::Down(self.vm.restart_of_found()),
                    Next::Remove => self.remove().await,
                    Next::End => break,
                };
            }
        }
        .instrument(span)
        .await;
        self.waiting.removed
    }
}

impl Vm {
    fn abilities(&self) -> Vec<Ability> {
        let status = self.publisher.current();
        let planned = status.planned.as_ref();
        planned.map_or_else(Vec::new, |planned| planned.abilities.clone())
    }

    /// Judges an action by the state that everybody sees.
    fn judge(&self, action: Action) -> Verdict {
        let phase = match self.record.desired {
            // What is to be removed is on its way out, whatever it is doing.
            Desired::Absent => Phase::Removing,
            Desired::Running | Desired::Stopped => self.publisher.current().state.phase(),
        };
        decide(action, phase, &self.abilities())
    }

    fn denied(&self, action: Action, verdict: Verdict) -> ActError {
        match verdict {
            Verdict::Deny(denial) => ActError::Denied {
                id: self.id,
                action,
                denial,
            },
            Verdict::Accept | Verdict::Ignore => ActError::Superseded {
                id: self.id,
                action,
            },
        }
    }

    fn enter(&self, state: VmState) {
        self.publisher.enter(state);
    }

    /// Puts what is desired into the record, before anything is done about it.
    fn desire(&mut self, desired: Desired) {
        if self.record.desired != desired {
            self.record.desired = desired;
            self.save();
        }
    }

    /// Sets the end of its time, where that may be, and tells who asked.
    fn set_ttl(&mut self, ttl: Option<Duration>, reply: Reply) {
        match self.judge(Action::ExtendTtl) {
            Verdict::Accept | Verdict::Ignore => {}
            verdict @ Verdict::Deny(_) => {
                let _ = reply.send(Err(self.denied(Action::ExtendTtl, verdict)));
                return;
            }
        }
        self.record.expires = ttl.and_then(|ttl| Deadline::after(&Now::read(), ttl));
        self.save();
        let expires_at = self.record.expires.as_ref().map(|expires| expires.wall);
        self.publisher
            .change(|status| status.expires_at = expires_at);
        let _ = reply.send(Ok(self.publisher.current()));
    }

    /// Writes the record. What cannot be written (a full disk) does not stop a VM from being
    /// stopped or removed; it is tried again.
    fn save(&mut self) {
        let Some(files) = &self.files else { return };
        let written = files.record().write(&self.record);
        self.is_unsaved = written.is_err();
        if let Err(error) = written {
            tracing::error!(error = %crate::backend::catalog::chain(&error), "record not written");
        }
    }

    /// Sleeps until a record that could not be written is to be tried again.
    fn save_due(&self) -> impl Future<Output = ()> + use<> {
        let is_due = self.is_unsaved;
        async move {
            if is_due {
                tokio::time::sleep(SAVE_INTERVAL).await;
            } else {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Sleeps until the VM's time is over; for ever where there is no such time.
    async fn expired(&self) {
        let Some(deadline) = &self.record.expires else {
            return std::future::pending().await;
        };
        loop {
            let left = deadline.left(&Now::read());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(DEADLINE_INTERVAL)).await;
        }
    }
}

fn answer_all(waiting: &mut Vec<Reply>, status: &Arc<VmStatus>) {
    for reply in waiting.drain(..) {
        // Whoever left needs no answer.
        let _ = reply.send(Ok(Arc::clone(status)));
    }
}
