//! Publishes every change of one VM, each with a generation of its own.

use std::sync::Arc;

use tokio::sync::watch;

use crate::vm::events::{VmChange, VmEvents};
use crate::vm::status::{VmState, VmStatus};

#[derive(Debug)]
pub(in crate::vm) struct Publisher {
    sender: watch::Sender<Arc<VmStatus>>,
    events: Arc<VmEvents>,
}

impl Publisher {
    pub(in crate::vm) fn new(
        mut status: VmStatus,
        events: Arc<VmEvents>,
    ) -> (Self, watch::Receiver<Arc<VmStatus>>) {
        status.generation = events.next_generation();
        let status = Arc::new(status);
        let (sender, receiver) = watch::channel(Arc::clone(&status));
        events.publish(VmChange::Changed(status));
        (Self { sender, events }, receiver)
    }

    pub(in crate::vm) fn current(&self) -> Arc<VmStatus> {
        Arc::clone(&self.sender.borrow())
    }

    pub(in crate::vm) fn change(&self, change: impl FnOnce(&mut VmStatus)) {
        let mut next = VmStatus::clone(&self.sender.borrow());
        change(&mut next);
        next.generation = self.events.next_generation();
        let next = Arc::new(next);
        self.sender.send_replace(Arc::clone(&next));
        self.events.publish(VmChange::Changed(next));
    }

    /// Entering a state again, with the same reason, is no change.
    pub(in crate::vm) fn enter(&self, state: VmState) {
        if self.current().state != state {
            tracing::info!(state = state.name(), detail = state.detail(), "state");
            self.change(|status| status.state = state);
        }
    }

    pub(in crate::vm) fn removed(&self) {
        self.events.publish(VmChange::Removed {
            id: self.current().id,
            generation: self.events.next_generation(),
        });
    }
}
