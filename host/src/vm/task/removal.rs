//! The end of a VM: its files go, its record last, and then it is nowhere.

use std::time::Duration;

use super::{Next, VmRequest, VmTask};
use crate::spec::lifecycle::Desired;
use crate::vm::error::ActError;
use crate::vm::launch;
use crate::vm::manager::RemoveError;
use crate::vm::status::VmState;

/// Between two attempts to delete files that could not be deleted.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

impl VmTask {
    /// Deletes a VM whose process is gone. While its files cannot be deleted it stays in the list.
    pub(super) async fn remove(&mut self) -> Next {
        self.vm.desire(Desired::Absent);
        self.vm.enter(VmState::Removing);
        while !self.delete_files().await {
            tracing::error!("not all files were deleted; to be tried again");
            let id = self.vm.id;
            for removed in self.waiting.removed.drain(..) {
                let _ = removed.send(Err(RemoveError::FilesLeft { id }));
            }
            let request = tokio::select! {
                request = self.requests.recv() => request,
                () = tokio::time::sleep(RETRY_INTERVAL) => continue,
            };
            match request {
                None | Some(VmRequest::Detach) => return Next::End,
                Some(VmRequest::Remove(done)) => self.waiting.removed.push(done),
                // It is on its way out already.
                Some(VmRequest::EndWithDaemon { .. }) => {}
                Some(VmRequest::SetTtl { ttl, reply }) => self.vm.set_ttl(ttl, reply),
                Some(VmRequest::Act { action, reply, .. }) => {
                    let verdict = self.vm.judge(action);
                    let _ = reply.send(Err(self.vm.denied(action, verdict)));
                }
            }
        }
        self.give_back().await;
        tracing::info!("gone");
        Next::End
    }

    /// Deletes what a VM has on disk. Repeatable.
    async fn delete_files(&mut self) -> bool {
        let Some(mut files) = self.vm.files.take() else {
            return true;
        };
        // Deleting may take a while; the runtime's threads are not for that.
        let deleting = tokio::task::spawn_blocking(move || {
            let deleted = files.delete();
            (files, deleted)
        });
        match deleting.await {
            Ok((_, true)) => true,
            Ok((files, false)) => {
                self.vm.files = Some(files);
                false
            }
            Err(error) => {
                tracing::error!(%error, "deleting its files failed");
                true
            }
        }
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
        if !self.delete_files().await {
            tracing::error!("not all files were deleted; the next start tries again");
            // Nobody else gets to read them.
            std::mem::forget(self.vm.uid.take());
        }
        self.vm.uid = None;
        self.vm.port = None;
        self.vm.reservation = None;
        self.vm.publisher.removed();
        self.requests.close();
        while let Some(request) = self.requests.left() {
            match request {
                VmRequest::Remove(done) => self.waiting.removed.push(done),
                VmRequest::Act { reply, .. } | VmRequest::SetTtl { reply, .. } => {
                    let _ = reply.send(Err(ActError::NotFound(self.vm.id)));
                }
                VmRequest::EndWithDaemon { .. } | VmRequest::Detach => {}
            }
        }
        let waiting = std::mem::take(&mut self.waiting);
        let times = waiting.times.into_iter().map(|(_, reply)| reply);
        let acts = waiting.started.into_iter().chain(waiting.stopped);
        for reply in acts.chain(times) {
            let _ = reply.send(Err(ActError::NotFound(self.vm.id)));
        }
        // Answered when the VM is in no list any more.
        self.waiting.removed = waiting.removed;
    }
}
