//! Calls that are answered piece by piece. What waits for a slow reader is bounded, and nobody else
//! waits for it.

use casemate_proto::v1;
use casemate_proto::v1::watch_backends_response::Change as BackendChange;
use casemate_proto::v1::watch_vms_response::Change;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Calls, Pieces, parse_id};
use crate::api::access::{Caller, Role};
use crate::api::refused::Refused;
use crate::api::to_proto;
use crate::vm::console::{ConsoleRange, Follow};
use crate::vm::events::VmChange;
use crate::vm::manager::{ConsoleError, VmManager};
use crate::vm::reloading::ReloadEvent;
use crate::vm::status::VmStatus;

/// Messages that may wait for a slow reader.
const BACKLOG: usize = 8;

fn pieces<T, F>(feed: impl FnOnce(mpsc::Sender<Result<T, Refused>>) -> F) -> Pieces<T>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(BACKLOG);
    tokio::spawn(feed(sender));
    ReceiverStream::new(receiver)
}

impl Calls {
    pub(in crate::api) fn watch_vms(
        &self,
        caller: &Caller,
        request: &v1::WatchVmsRequest,
    ) -> Result<Pieces<v1::WatchVmsResponse>, Refused> {
        caller.require(Role::Viewer)?;
        let only = match request.id.as_str() {
            "" => None,
            id => Some(self.find_vm(caller, id)?.id),
        };
        let mut watch = self.manager.watch(only);
        Ok(pieces(move |sender| async move {
            let changed = |vm: &VmStatus| v1::WatchVmsResponse {
                generation: vm.generation,
                change: Some(Change::Vm(to_proto::vm_in_list(vm))),
            };
            let mut generation = 0;
            for vm in &watch.present {
                generation = generation.max(vm.generation);
                if sender.send(Ok(changed(vm))).await.is_err() {
                    return;
                }
            }
            let mut next = v1::WatchVmsResponse {
                generation,
                change: Some(Change::Synchronized(true)),
            };
            // What waits in the channel is the reader's; what waits in the watch is counted there.
            while sender.send(Ok(next)).await.is_ok() {
                let change = tokio::select! {
                    change = watch.next() => change,
                    () = sender.closed() => return,
                };
                next = match change {
                    Ok(VmChange::Changed(vm)) => changed(&vm),
                    Ok(VmChange::Removed { id, generation }) => v1::WatchVmsResponse {
                        generation,
                        change: Some(Change::Removed(id.to_string())),
                    },
                    Err(end) => {
                        let _ = sender.send(Err(end.into())).await;
                        return;
                    }
                };
            }
        }))
    }

    pub(in crate::api) fn watch_backends(
        &self,
        caller: &Caller,
    ) -> Result<Pieces<v1::WatchBackendsResponse>, Refused> {
        caller.require(Role::Viewer)?;
        let manager = self.manager.clone();
        // Before the first look, so that no reload comes between.
        let mut reloads = manager.host().reloads.watch();
        Ok(pieces(move |sender| async move {
            let mut told = Vec::new();
            let mut changes = backend_changes(&mut told, &manager);
            changes.push(BackendChange::Synchronized(true));
            loop {
                for change in changes.drain(..) {
                    let message = v1::WatchBackendsResponse {
                        change: Some(change),
                    };
                    if sender.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
                let event = tokio::select! {
                    event = reloads.next() => event,
                    () = sender.closed() => return,
                };
                match event {
                    Ok(ReloadEvent::Reloaded) => changes = backend_changes(&mut told, &manager),
                    Ok(ReloadEvent::Refused { subject }) => {
                        let subject = subject.unwrap_or_default();
                        changes.push(BackendChange::ReloadRefused(subject));
                    }
                    Err(end) => {
                        let _ = sender.send(Err(end.into())).await;
                        return;
                    }
                }
            }
        }))
    }

    pub(in crate::api) fn get_console(
        &self,
        caller: &Caller,
        request: &v1::GetConsoleRequest,
    ) -> Result<Pieces<v1::GetConsoleResponse>, Refused> {
        caller.require(Role::Secrets)?;
        let range = ConsoleRange {
            tail: request.tail_bytes,
            follow: if request.follow {
                Follow::UntilDown
            } else {
                Follow::UntilNow
            },
            previous: request.previous,
        };
        let mut console = self.manager.console(parse_id(&request.id)?, range)?;
        Ok(pieces(move |sender| async move {
            loop {
                let piece = tokio::select! {
                    piece = console.next() => piece,
                    () = sender.closed() => return,
                };
                let message = match piece {
                    None => return,
                    Some(Ok(piece)) => Ok(v1::GetConsoleResponse {
                        data: piece.bytes,
                        omitted_bytes: piece.omitted,
                    }),
                    Some(Err(error)) => Err(ConsoleError::Read(error).into()),
                };
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        }))
    }
}

/// What is not as it was `told`, which it is from then on.
fn backend_changes(told: &mut Vec<v1::Backend>, manager: &VmManager) -> Vec<BackendChange> {
    let now = to_proto::backends(&manager.host().live().catalog);
    let is_there = |name: &str| now.iter().any(|backend| backend.name == name);
    let gone = told.iter().filter(|backend| !is_there(&backend.name));
    let gone = gone.map(|backend| BackendChange::Removed(backend.name.clone()));
    let others = now.iter().filter(|backend| !told.contains(backend));
    let others = others.map(|backend| BackendChange::Backend(backend.clone()));
    let changes = gone.chain(others).collect();
    *told = now;
    changes
}
