//! Domain errors as gRPC statuses, in one match each. The message has up to three parts on lines of
//! their own: what happened, QEMU's last lines, and what to do.

use tonic::{Code, Status};

use super::from_proto::SpecError;
use crate::backend::catalog::{ChooseError, chain};
use crate::backend::{BackendErrorKind, CallError};
use crate::qemu::schema::ProbeError;
use crate::vm::error::CreateError;
use crate::vm::manager::{ConsoleError, RemoveError};

pub(super) fn of_spec_error(error: &SpecError) -> Status {
    Status::invalid_argument(message(&error.to_string(), None, error.remedy()))
}

pub(super) fn of_create_error(error: &CreateError) -> Status {
    let code = match error {
        CreateError::Closing => Code::Unavailable,
        CreateError::Exhausted(_) => Code::ResourceExhausted,
        CreateError::Choose(ChooseError::Unknown { .. }) => Code::InvalidArgument,
        CreateError::Choose(_) => Code::FailedPrecondition,
        CreateError::Setting(_) | CreateError::Request { .. } => Code::InvalidArgument,
        CreateError::Backend(CallError::Backend(answer)) => match answer.kind {
            BackendErrorKind::InvalidRequest => Code::InvalidArgument,
            BackendErrorKind::Unavailable => Code::Unavailable,
            BackendErrorKind::UnsupportedHost
            | BackendErrorKind::UnsuitableFile
            | BackendErrorKind::Other => Code::FailedPrecondition,
        },
        CreateError::Backend(CallError::Fault { .. }) => Code::Internal,
        CreateError::File { .. }
        | CreateError::Unsupported { .. }
        | CreateError::NotConfidential { .. }
        | CreateError::Device { .. }
        | CreateError::Spawn(_)
        | CreateError::Disk(_)
        | CreateError::Tool(_)
        | CreateError::Probe(ProbeError::NotFound { .. } | ProbeError::Spawn { .. }) => {
            Code::FailedPrecondition
        }
        CreateError::Probe(ProbeError::Qmp { .. })
        | CreateError::QemuEnded { .. }
        | CreateError::Qmp { .. }
        | CreateError::NotRunning { .. }
        | CreateError::Guard { .. }
        | CreateError::Removed => Code::Aborted,
        CreateError::Render(_) | CreateError::Store(_) | CreateError::Internal => Code::Internal,
    };
    Status::new(
        code,
        message(&chain(error), error.qemu_stderr(), &error.remedy()),
    )
}

pub(super) fn of_call_error(error: &CallError) -> Status {
    match error {
        CallError::Backend(answer) => {
            Status::failed_precondition(message(&answer.to_string(), None, &answer.remedy))
        }
        CallError::Fault { .. } => Status::internal(message(
            &chain(error),
            None,
            "report it to the backend's vendor",
        )),
    }
}

pub(super) fn of_remove_error(error: &RemoveError) -> Status {
    match error {
        RemoveError::NotFound(_) => Status::not_found(message(&error.to_string(), None, LIST)),
        RemoveError::Lost { .. } => Status::failed_precondition(message(
            &error.to_string(),
            None,
            "see whether that process is a VM of this host, and end it by hand",
        )),
    }
}

pub(super) fn of_console_error(error: &ConsoleError) -> Status {
    match error {
        ConsoleError::NotFound(_) => Status::not_found(message(&error.to_string(), None, LIST)),
        ConsoleError::Read(_) => Status::internal(chain(error)),
    }
}

const LIST: &str = "`casemate vm list` shows what there is";

/// For an id that is no id: there can be no such VM.
pub(super) fn no_such_vm(id: &str) -> Status {
    let id: String = crate::spec::printable(id).chars().take(64).collect();
    Status::not_found(message(&format!("there is no VM {id:?}"), None, LIST))
}

/// Longest part of a message: clients refuse trailers of more than 8 to 16 KiB.
const MAX_PART: usize = 2 << 10;

fn message(what: &str, qemu: Option<&str>, remedy: &str) -> String {
    let shortened = |text: &str| text.chars().take(MAX_PART).collect::<String>();
    let mut text = shortened(what);
    if let Some(lines) = qemu {
        text.push_str("\nQEMU said:\n");
        // The end tells why.
        let surplus = lines.chars().count().saturating_sub(MAX_PART);
        text.extend(lines.chars().skip(surplus));
    }
    if !remedy.is_empty() {
        text.push_str("\nremedy: ");
        text.push_str(&shortened(remedy));
    }
    text
}
