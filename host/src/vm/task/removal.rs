//! The end of a VM: its files go, its record last, and then it is nowhere.

use super::{Next, VmRequest, VmTask};
use crate::spec::lifecycle::Desired;
use crate::vm::error::ActError;
use crate::vm::launch;
use crate::vm::status::VmState;

impl VmTask {
    /// Deletes a VM whose process is gone.
    pub(super) async fn remove(&mut self) -> Next {
        self.vm.desire(Desired::Absent);
        self.vm.enter(VmState::Removing);
        self.give_back().await;
        tracing::info!("gone");
        Next::End
    }

    /// Deletes all that a VM had and answers everyone who waits.
    pub(super) async fn give_back(&mut self) {
        if let Some(place) = self
            .vm
            .record
            .process
            .take()
            .and_then(|process| process.place)
        {
            launch::remove_place(&place).await;
        }
        let files = self.vm.files.take();
        // Deleting may take a while; the runtime's threads are not for that.
        let deleted =
            tokio::task::spawn_blocking(move || files.is_none_or(|mut files| files.delete())).await;
        if !deleted.unwrap_or(false) {
            tracing::error!("not all files were deleted; the next start tries again");
            // Nobody else gets to read them.
            std::mem::forget(self.vm.uid.take());
        }
        self.vm.uid = None;
        self.vm.port = None;
        self.vm.reservation = None;
        self.vm.publisher.removed();
        self.requests.close();
        while let Ok(request) = self.requests.try_recv() {
            match request {
                VmRequest::Remove(done) => self.waiting.removed.push(done),
                VmRequest::Act { reply, .. } => {
                    let _ = reply.send(Err(ActError::NotFound(self.vm.id)));
                }
                VmRequest::Detach => {}
            }
        }
        let waiting = std::mem::take(&mut self.waiting);
        for reply in waiting.started.into_iter().chain(waiting.stopped) {
            let _ = reply.send(Err(ActError::NotFound(self.vm.id)));
        }
        // Answered when the VM is in no list any more.
        self.waiting.removed = waiting.removed;
    }
}
