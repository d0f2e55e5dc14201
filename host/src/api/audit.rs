//! One line in the log for each call that changes something: who, what, to which VM, and what came
//! of it; and one for each call that was refused for who made it. Their target is `audit`, so that
//! they can be kept apart from the rest.

use std::sync::Arc;

use super::access::{AccessError, Caller};
use crate::spec::VmId;
use crate::vm::catalogued::Catalogued;
use crate::vm::error::CreateError;
use crate::vm::status::VmStatus;

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
    /// Begins a line, which is written whatever becomes of the call.
    pub(super) fn begins(caller: Caller, action: &'static str, vm: Option<VmId>) -> Self {
        Self {
            caller,
            action,
            vm,
            outcome: None,
        }
    }

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
        let who = Who::of(&self.caller);
        let vm = self.vm.map(|id| id.to_string());
        tracing::info!(
            target: "audit",
            action = self.action,
            vm = vm.as_deref().unwrap_or("none"),
            outcome = self.outcome.unwrap_or("caller-left"),
            client = who.client,
            peer = %who.peer,
            uid = %who.uid,
            certificate = who.certificate,
        );
    }
}

/// A line for a call that was refused for who made it, or how often.
pub(super) fn refused(caller: &Caller, error: &AccessError) {
    let who = Who::of(caller);
    tracing::info!(
        target: "audit",
        action = "refused",
        call = caller.call(),
        outcome = error.id().as_str(),
        reason = error.to_string(),
        client = who.client,
        peer = %who.peer,
        uid = %who.uid,
        certificate = who.certificate,
    );
}

/// A caller as a line has it.
struct Who<'a> {
    client: &'a str,
    peer: String,
    uid: String,
    certificate: &'a str,
}

impl<'a> Who<'a> {
    fn of(caller: &'a Caller) -> Self {
        let client = match caller.name() {
            "" => "none",
            name => name,
        };
        let peer = match (caller.address(), caller.uid()) {
            (Some(address), _) => address.to_string(),
            (None, Some(_)) => "unix".to_owned(),
            (None, None) => "unknown".to_owned(),
        };
        let uid = caller.uid();
        Self {
            client,
            peer,
            uid: uid.map_or_else(|| "none".to_owned(), |uid| uid.to_string()),
            certificate: caller.certificate().unwrap_or("none"),
        }
    }
}
