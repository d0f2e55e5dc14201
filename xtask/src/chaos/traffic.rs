//! Clients that create, stop, start and remove VMs at random, and write down what was answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use casemate_proto::v1::vm_service_client::VmServiceClient;
use casemate_proto::v1::{
    CreateVmRequest, ListVmsRequest, RemoveVmRequest, StartVmRequest, StopVmRequest, Vm, VmSpec,
};
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::dice::Dice;
use super::ledger::{Deed, Ledger};
use super::tally::Refusals;
use crate::demo::BACKEND;

/// Beyond the daemon's own limits of a start and of a stop, so that a call that hangs is the
/// daemon's fault.
const CALL_TIME: Duration = Duration::from_secs(120);
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// Under this name a guest is given its nonce.
pub(super) const NONCE_VARIABLE: &str = "CHAOS_NONCE";

/// What all clients share.
#[derive(Clone, Debug)]
pub(super) struct Books {
    ledger: Arc<Mutex<Ledger>>,
    refusals: Arc<Mutex<Refusals>>,
}

impl Books {
    pub(super) fn new(wanted: usize) -> Self {
        Self {
            ledger: Arc::new(Mutex::new(Ledger::new(wanted))),
            refusals: Arc::new(Mutex::new(Refusals::default())),
        }
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn refusals(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to one daemon; it ends with it.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    client: VmServiceClient<Channel>,
}

fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIME);
    request
}

impl Connection {
    pub(super) async fn open(grpc_address: &str) -> Result<Self> {
        let channel = Channel::from_shared(format!("http://{grpc_address}"))
            .context("it is no address")?
            .connect_timeout(CONNECT_TIME)
            .timeout(CALL_TIME)
            .connect()
            .await
            .with_context(|| format!("cannot connect to {grpc_address}"))?;
        Ok(Self {
            client: VmServiceClient::new(channel),
        })
    }

    pub(super) async fn list(&mut self) -> Result<Vec<Vm>, Status> {
        let answer = self
            .client
            .list_vms(timed(ListVmsRequest::default()))
            .await?;
        Ok(answer.into_inner().vms)
    }

    pub(super) async fn create(&mut self, name: &str, nonce: &str) -> Result<Vm, Status> {
        let spec = VmSpec {
            name: name.to_owned(),
            backend: BACKEND.to_owned(),
            environment: [(NONCE_VARIABLE.to_owned(), nonce.to_owned())].into(),
            ..VmSpec::default()
        };
        let request = CreateVmRequest {
            spec: Some(spec),
            ..Default::default()
        };
        answered(self.client.create_vm(timed(request)).await?.into_inner().vm)
    }

    pub(super) async fn start(&mut self, id: &str) -> Result<Vm, Status> {
        let request = StartVmRequest {
            id: id.to_owned(),
            ..StartVmRequest::default()
        };
        answered(self.client.start_vm(timed(request)).await?.into_inner().vm)
    }

    pub(super) async fn stop(&mut self, id: &str, force: bool) -> Result<(), Status> {
        let id = id.to_owned();
        let request = StopVmRequest {
            id,
            force,
            ..Default::default()
        };
        self.client.stop_vm(timed(request)).await.map(|_| ())
    }

    pub(super) async fn remove(&mut self, id: &str) -> Result<(), Status> {
        let request = RemoveVmRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        self.client.remove_vm(timed(request)).await.map(|_| ())
    }
}

fn answered(vm: Option<Vm>) -> Result<Vm, Status> {
    vm.ok_or_else(|| Status::data_loss("the answer has no VM"))
}

/// One client: deeds one after the other, until it is told to end or a call fails that says that
/// the daemon is gone.
pub(super) async fn client(
    mut connection: Connection,
    books: Books,
    mut dice: Dice,
    pause_millis: std::ops::Range<u64>,
    ends: Arc<AtomicBool>,
) {
    while !ends.load(Ordering::Relaxed) {
        let deed = books.ledger().choose(&mut dice);
        if let Some(deed) = deed
            && do_it(&mut connection, &books, deed).await == Daemon::Gone
        {
            return;
        }
        let pause = dice.millis(pause_millis.clone());
        tokio::time::sleep(pause).await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Daemon {
    There,
    Gone,
}

async fn do_it(connection: &mut Connection, books: &Books, deed: Deed) -> Daemon {
    let (name, verb) = match &deed {
        Deed::Create { name, .. } => (name.clone(), "create"),
        Deed::Start { name, .. } => (name.clone(), "start"),
        Deed::Stop { name, .. } => (name.clone(), "stop"),
        Deed::Remove { name, .. } => (name.clone(), "remove"),
    };
    let outcome = match &deed {
        Deed::Create { name, nonce } => {
            let made = connection.create(name, nonce).await;
            made.map(|vm| books.ledger().change(name, |entry| entry.runs_as(&vm)))
        }
        Deed::Start { name, id } => {
            let started = connection.start(id).await;
            started.map(|vm| books.ledger().change(name, |entry| entry.runs_as(&vm)))
        }
        Deed::Stop { name, id, force } => {
            let stopped = connection.stop(id, *force).await;
            stopped.map(|()| {
                books
                    .ledger()
                    .change(name, super::ledger::Entry::is_stopped);
            })
        }
        Deed::Remove { name, id } => {
            let removed = connection.remove(id).await;
            removed.map(|()| drop(books.ledger().entries.remove(name)))
        }
    };
    let mut ledger = books.ledger();
    ledger.change(&name, |entry| {
        entry.is_busy = false;
        if let Err(status) = &outcome {
            entry.note(format!("{verb}: {}: {}", status.code(), status.message()));
        }
    });
    drop(ledger);
    match outcome {
        Ok(()) => Daemon::There,
        Err(status) if is_gone(&status) => Daemon::Gone,
        Err(status) => {
            books.refusals().count(verb, &status);
            Daemon::There
        }
    }
}

/// Whether a call failed because the connection did, and not because the daemon said so.
pub(super) fn is_gone(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}
