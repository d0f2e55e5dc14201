//! One line in the log for each call that changes something: who, what, to which VM, and what came
//! of it. Its target is `audit`, so that it can be kept apart from the rest.

use std::fmt::Display;
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

    pub(super) fn created(&self, created: &Result<Arc<VmStatus>, CreateError>) {
        match created {
            Ok(vm) => self.line("create", &vm.id, "ok"),
            Err(error) => self.line("create", &"none", error.id().as_str()),
        }
    }

    pub(super) fn did<T, E: Catalogued>(&self, what: &str, vm: &VmId, done: &Result<T, E>) {
        match done {
            Ok(_) => self.line(what, vm, "ok"),
            Err(error) => self.line(what, vm, error.id().as_str()),
        }
    }

    fn line(&self, what: &str, vm: &dyn Display, outcome: &str) {
        let address = self.address.map(|address| address.to_string());
        tracing::info!(
            target: "audit",
            action = what,
            %vm,
            outcome,
            peer = address.as_deref().unwrap_or("unknown"),
            certificate = self.certificate.as_deref().unwrap_or("none"),
        );
    }
}
