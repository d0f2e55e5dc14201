//! What can be called, once for all interfaces: each call takes its caller and a message and gives a
//! message or a refusal. gRPC and HTTP are forms of this, and add no rule of their own.
//!
//! A call first asks whether its caller has the role that it takes.

mod host;
mod list;
mod streams;
mod vms;

use tokio_stream::wrappers::ReceiverStream;

use super::refusal::Refusal;
use super::refused::Refused;
use crate::spec::VmId;
use crate::vm::manager::VmManager;

pub(super) use vms::Change;

/// A stream that a task of its own feeds; the task ends when its reader has left.
pub(super) type Pieces<T> = ReceiverStream<Result<T, Refused>>;

/// Everything that can be called.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    manager: VmManager,
}

impl Calls {
    pub(super) fn new(manager: VmManager) -> Self {
        Self { manager }
    }

    pub(super) fn manager(&self) -> &VmManager {
        &self.manager
    }
}

fn parse_id(text: &str) -> Result<VmId, Refusal> {
    VmId::parse(text).ok_or_else(|| Refusal::no_such_vm(text))
}
