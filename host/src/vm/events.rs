//! Every change of every VM, numbered and published. Nobody who listens can hold up a VM: a reader
//! that falls too far behind is cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::broadcast::{self, error::RecvError};

use super::status::VmStatus;
use crate::spec::VmId;

/// Changes that may wait for the slowest reader; each is a pointer.
const BACKLOG: usize = 1_024;

#[derive(Clone, Debug)]
pub enum VmChange {
    /// The VM as it is now.
    Changed(Arc<VmStatus>),
    /// It is gone.
    Removed { id: VmId, generation: u64 },
}

impl VmChange {
    pub fn id(&self) -> VmId {
        match self {
            Self::Changed(status) => status.id,
            Self::Removed { id, .. } => *id,
        }
    }

    pub fn generation(&self) -> u64 {
        match self {
            Self::Changed(status) => status.generation,
            Self::Removed { generation, .. } => *generation,
        }
    }
}

/// The numbers and the listeners of one daemon.
#[derive(Debug)]
pub struct VmEvents {
    generation: AtomicU64,
    sender: broadcast::Sender<VmChange>,
}

/// Why a reader gets nothing more.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WatchEnd {
    #[error("the reader is too slow: {missed} changes were not kept for it")]
    TooSlow { missed: u64 },
    #[error("the daemon is shutting down")]
    Closing,
}

impl From<RecvError> for WatchEnd {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Lagged(missed) => Self::TooSlow { missed },
            RecvError::Closed => Self::Closing,
        }
    }
}

impl VmEvents {
    /// `first` is a number that no earlier daemon gave out.
    pub fn new(first: u64) -> Self {
        Self {
            generation: AtomicU64::new(first),
            sender: broadcast::channel(BACKLOG).0,
        }
    }

    pub(super) fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn publish(&self, change: VmChange) {
        // Nobody listens: then nobody misses it.
        let _ = self.sender.send(change);
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<VmChange> {
        self.sender.subscribe()
    }
}

/// A reader: what there was when it came, and what changes since.
#[derive(Debug)]
pub struct VmWatch {
    /// The VMs at the start.
    pub present: Vec<Arc<VmStatus>>,
    pub(super) changes: broadcast::Receiver<VmChange>,
    pub(super) only: Option<VmId>,
}

impl VmWatch {
    /// The next change. Cancel-safe.
    pub async fn next(&mut self) -> Result<VmChange, WatchEnd> {
        loop {
            let change = self.changes.recv().await?;
            // What the list of the start told already.
            let is_known = self
                .present
                .iter()
                .any(|status| status.id == change.id() && status.generation >= change.generation());
            if !is_known && self.only.is_none_or(|only| only == change.id()) {
                return Ok(change);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_reader_is_cut_off_and_blocks_nobody() {
        let events = VmEvents::new(7);
        let watch = |events: &VmEvents| VmWatch {
            present: Vec::new(),
            changes: events.subscribe(),
            only: None,
        };
        let (mut slow, mut quick) = (watch(&events), watch(&events));
        for number in 0..=BACKLOG as u64 {
            let generation = events.next_generation();
            assert_eq!(generation, 7 + number);
            events.publish(VmChange::Removed {
                id: VmId::random(),
                generation,
            });
            assert_eq!(quick.next().await.unwrap().generation(), generation);
        }
        assert_eq!(
            slow.next().await.unwrap_err(),
            WatchEnd::TooSlow { missed: 1 }
        );
        drop(events);
        assert_eq!(quick.next().await.unwrap_err(), WatchEnd::Closing);
    }
}
