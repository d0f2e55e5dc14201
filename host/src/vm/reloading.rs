//! Asking for a reload: a signal asks and goes, a call waits for what became of it, and others watch.
//!
//! Reloads are made one after the other (`app/reload`). All who ask while one goes on share the next.

use casemate_catalogue::ErrorId;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::catalogued::Catalogued;
use super::events::WatchEnd;

/// Those who may wait for the next reload.
const QUEUE: usize = 64;
/// Reloads that may wait for the slowest of those who watch; each takes seconds.
const BACKLOG: usize = 64;

/// What a reload did.
#[derive(Clone, Debug, Default)]
pub struct ReloadReport {
    /// In the order of the config; those that it has no more are the last.
    pub backends: Vec<BackendReload>,
    /// Keys of the config whose values were taken over.
    pub changed: Vec<String>,
    /// Keys of the config whose new values take a restart.
    pub waiting: Vec<String>,
}

/// What a reload did to one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendReload {
    pub name: String,
    pub change: BackendChange,
    /// SHA-256 of the component that served before.
    pub before: Option<String>,
    /// SHA-256 of the one that serves now.
    pub now: Option<String>,
    pub version: Option<String>,
    /// Why it is not in service.
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendChange {
    Added,
    /// Another component.
    Replaced,
    /// The same component with another config.
    Reconfigured,
    Unchanged,
    /// It was not in service before, and is not now.
    Failed,
    Removed,
}

impl BackendChange {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Replaced => "replaced",
            Self::Reconfigured => "reconfigured",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
            Self::Removed => "removed",
        }
    }
}

/// Why nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReloadRefused {
    #[error("nothing was changed: {what}")]
    Refused {
        what: String,
        subject: Option<String>,
        remedy: String,
    },
    #[error("the daemon is shutting down")]
    Closing,
}

impl Catalogued for ReloadRefused {
    fn id(&self) -> ErrorId {
        match self {
            Self::Refused { .. } => ErrorId::ReloadRefused,
            Self::Closing => ErrorId::ShuttingDown,
        }
    }

    fn subject(&self) -> Option<String> {
        match self {
            Self::Refused { subject, .. } => subject.clone(),
            Self::Closing => None,
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::Refused { remedy, .. } => remedy.clone(),
            Self::Closing => self.id().entry().remedy.to_owned(),
        }
    }
}

pub type ReloadResult = Result<ReloadReport, ReloadRefused>;

/// For those who watch. What there is now, they look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadEvent {
    Reloaded,
    /// Nothing was changed, because of this backend or key.
    Refused {
        subject: Option<String>,
    },
}

impl ReloadEvent {
    fn of(outcome: &ReloadResult) -> Self {
        match outcome {
            Ok(_) => Self::Reloaded,
            Err(refused) => Self::Refused {
                subject: refused.subject(),
            },
        }
    }
}

/// One who waits; none: nobody does.
type Waiting = Option<oneshot::Sender<ReloadResult>>;

/// A handle to ask and to watch with.
#[derive(Clone, Debug)]
pub struct Reloads {
    asked: mpsc::Sender<Waiting>,
    events: broadcast::Sender<ReloadEvent>,
}

/// What was asked, for the one who reloads.
#[derive(Debug)]
pub struct ReloadQueue {
    asked: mpsc::Receiver<Waiting>,
    events: broadcast::Sender<ReloadEvent>,
}

/// Reloads from now on.
#[derive(Debug)]
pub struct ReloadWatch(broadcast::Receiver<ReloadEvent>);

impl ReloadWatch {
    /// The end of the next reload. Cancel-safe.
    pub async fn next(&mut self) -> Result<ReloadEvent, WatchEnd> {
        Ok(self.0.recv().await?)
    }
}

impl Reloads {
    pub fn new() -> (Self, ReloadQueue) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let events = broadcast::channel(BACKLOG).0;
        let reloads = Self {
            asked: sender,
            events: events.clone(),
        };
        let queue = ReloadQueue {
            asked: receiver,
            events,
        };
        (reloads, queue)
    }

    pub fn watch(&self) -> ReloadWatch {
        ReloadWatch(self.events.subscribe())
    }

    /// Asks and does not wait.
    pub fn signal(&self) {
        // Where the queue is full, the next reload is still to come, and reads the newest config.
        drop(self.asked.try_send(None));
    }

    /// Asks, and waits for the outcome. A reload that was asked for is made, whoever leaves.
    pub async fn reload(&self) -> ReloadResult {
        let (sender, outcome) = oneshot::channel();
        let asked = self.asked.send(Some(sender)).await;
        asked.map_err(|_| ReloadRefused::Closing)?;
        outcome.await.unwrap_or(Err(ReloadRefused::Closing))
    }
}

impl ReloadQueue {
    /// All who wait for the next reload; none: nobody will ask any more.
    pub async fn next(&mut self) -> Option<ReloadTurn> {
        let mut waiting = vec![self.asked.recv().await?];
        while let Ok(another) = self.asked.try_recv() {
            waiting.push(another);
        }
        Some(ReloadTurn {
            waiting,
            events: self.events.clone(),
        })
    }
}

/// Those whose reload it is, and those who watch.
#[derive(Debug)]
pub struct ReloadTurn {
    waiting: Vec<Waiting>,
    events: broadcast::Sender<ReloadEvent>,
}

impl ReloadTurn {
    pub fn end(self, outcome: &ReloadResult) {
        // Nobody watches: then nobody misses it.
        let _ = self.events.send(ReloadEvent::of(outcome));
        for waiting in self.waiting.into_iter().flatten() {
            // Who left wants to know nothing.
            let _ = waiting.send(outcome.clone());
        }
    }
}
