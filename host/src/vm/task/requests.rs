//! What a VM's task hears. A request may come with the generation that its caller saw: it is held
//! against the VM's own when the task takes it, so that nothing comes between.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::VmRequest;
use crate::spec::VmId;
use crate::vm::error::ActError;
use crate::vm::manager::RemoveError;
use crate::vm::status::VmStatus;

/// A VM that is no more what its caller saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("VM {id} has generation {now}, and the caller expects {expected}")]
pub struct GenerationChanged {
    pub id: VmId,
    pub expected: u64,
    pub now: u64,
}

/// A request and the generation for which it is meant; none: whatever the VM has become.
#[derive(Debug)]
pub(in crate::vm) struct Asked {
    pub(in crate::vm) request: VmRequest,
    pub(in crate::vm) expected_generation: Option<u64>,
}

impl From<VmRequest> for Asked {
    fn from(request: VmRequest) -> Self {
        Self {
            request,
            expected_generation: None,
        }
    }
}

#[derive(Debug)]
pub(in crate::vm) struct Requests {
    queue: mpsc::Receiver<Asked>,
    status: watch::Receiver<Arc<VmStatus>>,
}

impl Requests {
    pub(in crate::vm) fn new(
        queue: mpsc::Receiver<Asked>,
        status: watch::Receiver<Arc<VmStatus>>,
    ) -> Self {
        Self { queue, status }
    }

    /// The next request whose condition holds; the others are refused on the way. None when nobody
    /// can ask any more. Cancel-safe.
    pub(super) async fn recv(&mut self) -> Option<VmRequest> {
        loop {
            let asked = self.queue.recv().await?;
            if let Some(request) = self.unless_changed(asked) {
                return Some(request);
            }
        }
    }

    /// What is left when the queue is closed.
    pub(super) fn close(&mut self) {
        self.queue.close();
    }

    pub(super) fn left(&mut self) -> Option<VmRequest> {
        self.queue.try_recv().ok().map(|asked| asked.request)
    }

    fn unless_changed(&self, asked: Asked) -> Option<VmRequest> {
        let (id, now) = {
            let status = self.status.borrow();
            (status.id, status.generation)
        };
        match asked.expected_generation {
            Some(expected) if expected != now => {
                asked
                    .request
                    .refuse(GenerationChanged { id, expected, now });
                None
            }
            _ => Some(asked.request),
        }
    }
}

impl VmRequest {
    fn refuse(self, changed: GenerationChanged) {
        match self {
            Self::Act { reply, .. } | Self::SetTtl { reply, .. } => {
                let _ = reply.send(Err(ActError::Changed(changed)));
            }
            Self::Remove(done) => {
                let _ = done.send(Err(RemoveError::Changed(changed)));
            }
            // The daemon's own, which have no condition.
            Self::EndWithDaemon { .. } | Self::Detach => {}
        }
    }
}
