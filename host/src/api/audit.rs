//! One line in the log for each call that changes something: who, what, to which VM, and what came
//! of it. Its target is `audit`, so that it can be kept apart from the rest.

use std::net::SocketAddr;
use std::sync::Arc;

use tonic::Request;

use super::listener::Peer;
use crate::spec::VmId;
use crate::vm::catalogued::Catalogued;
use crate::vm::error::CreateError;
use crate::vm::status::VmStatus;

/// Who makes a call.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    address: Option<SocketAddr>,
    /// SHA-256 of the client's certificate, hexadecimal.
    certificate: Option<Arc<str>>,
}

impl Caller {
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let peer = request.extensions().get::<Peer>();
        Self {
            address: peer.and_then(|peer| peer.address),
            certificate: peer.and_then(|peer| peer.certificate.clone()),
        }
    }

    /// Begins a line, which is written whatever becomes of the call.
    pub(super) fn begins(self, action: &'static str, vm: Option<VmId>) -> Deed {
        Deed {
            caller: self,
            action,
            vm,
            outcome: None,
        }
    }
}

/// Something that a caller has asked for. A call whose caller leaves is dropped in the middle, and
/// what was asked for may be done all the same.
#[derive(Debug)]
pub(super) struct Deed {
    caller: Caller,
    action: &'static str,
    vm: Option<VmId>,
    outcome: Option<&'static str>,
}

impl Deed {
    pub(super) fn created(mut self, created: &Result<Arc<VmStatus>, CreateError>) {
        self.vm = created.as_ref().ok().map(|vm| vm.id);
        self.ended(created);
    }

    pub(super) fn ended<T, E: Catalogued>(mut self, done: &Result<T, E>) {
        self.outcome = Some(match done {
            Ok(_) => "ok",
            Err(error) => error.id().as_str(),
        });
    }
}

impl Drop for Deed {
    fn drop(&mut self) {
        let address = self.caller.address.map(|address| address.to_string());
        let vm = self.vm.map(|id| id.to_string());
        tracing::info!(
            target: "audit",
            action = self.action,
            vm = vm.as_deref().unwrap_or("none"),
            outcome = self.outcome.unwrap_or("caller-left"),
            peer = address.as_deref().unwrap_or("unknown"),
            certificate = self.caller.certificate.as_deref().unwrap_or("none"),
        );
    }
}
