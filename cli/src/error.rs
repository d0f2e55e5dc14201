//! What can go wrong, how it is said, and with which exit code.

use std::path::PathBuf;
use std::time::Duration;

use tonic::{Code, Status};

use crate::plain_text;

/// Exit codes; the help text documents them. 2 is also clap's.
const OTHER: u8 = 1;
const USAGE: u8 = 2;
const NOT_FOUND: u8 = 3;
const INVALID: u8 = 4;
const EXHAUSTED: u8 = 5;
const PRECONDITION: u8 = 6;
const UNAVAILABLE: u8 = 7;
const INTERNAL: u8 = 8;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("{endpoint} is not the address of a daemon: {reason}")]
    Endpoint { endpoint: String, reason: String },
    #[error("cannot reach casemated at {endpoint}: {reason}")]
    Unreachable { endpoint: String, reason: String },
    #[error("cannot {doing}: the connection to the daemon broke before it answered")]
    Broken { doing: &'static str },
    #[error("cannot {doing}: no answer within {}", humantime::format_duration(*.timeout))]
    Timeout {
        doing: &'static str,
        timeout: Duration,
    },
    #[error("cannot {doing}: {} ({})", first_line(.status), code_name(.status.code()))]
    Refused {
        doing: &'static str,
        status: Box<Status>,
    },
    /// The daemon left out what its interface promises.
    #[error("cannot {doing}: the daemon's answer has no {missing}")]
    Incomplete {
        doing: &'static str,
        missing: &'static str,
    },
    #[error("no VM has {wanted:?} as its name, its ID or the beginning of its ID")]
    NoSuchVm { wanted: String },
    #[error("{wanted:?} fits several VMs:\n{}", .candidates.join("\n"))]
    AmbiguousVm {
        wanted: String,
        /// One line each, ID first.
        candidates: Vec<String>,
    },
    /// Each failure was reported when it happened.
    #[error("{failed} of {wanted} VMs were not removed")]
    NotAllRemoved {
        failed: usize,
        wanted: usize,
        worst: u8,
    },
    #[error("cannot read {}: {source}", .path.display())]
    Input {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} line {line}: {reason}", .path.display())]
    EnvironmentFile {
        path: PathBuf,
        line: usize,
        reason: String,
    },
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
    #[error("cannot write the answer: {0}")]
    Output(std::io::Error),
}

impl CliError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Endpoint { .. } => USAGE,
            Self::EnvironmentFile { .. } | Self::AmbiguousVm { .. } => INVALID,
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Timeout { .. } => UNAVAILABLE,
            Self::Refused { status, .. } => exit_code_of(status.code()),
            Self::Incomplete { .. } => INTERNAL,
            Self::NoSuchVm { .. } => NOT_FOUND,
            Self::NotAllRemoved { worst, .. } => *worst,
            Self::Input { .. } | Self::Runtime(_) | Self::Output(_) => OTHER,
        }
    }

    /// The lines after the first: what the daemon said beyond it, and what to do.
    pub(crate) fn details(&self) -> Vec<String> {
        match self {
            Self::Refused { status, .. } => {
                let lines = status.message().lines().skip(1);
                let mut details: Vec<String> = lines.map(plain_text::escaped).collect();
                if status.code() == Code::Unimplemented {
                    details
                        .push("remedy: use a client and a daemon of the same version".to_owned());
                }
                details
            }
            Self::Unreachable { .. } => vec![
                "remedy: is casemated running (systemctl status casemated)? Name its gRPC address \
                 with --endpoint or CASEMATE_ENDPOINT if it is another one"
                    .to_owned(),
            ],
            Self::Endpoint { .. } => {
                vec!["remedy: give a URL such as http://127.0.0.1:7001".to_owned()]
            }
            Self::Broken { .. } => vec![
                "remedy: see the daemon's log, and look with `casemate vm list` what came of it"
                    .to_owned(),
            ],
            Self::Timeout { .. } => vec![
                "remedy: the daemon may still be at it: look with `casemate vm list`, or wait \
                 longer with --timeout"
                    .to_owned(),
            ],
            Self::NoSuchVm { .. } => vec!["remedy: `casemate vm list` shows all".to_owned()],
            Self::AmbiguousVm { .. } => {
                vec!["remedy: give more of the ID".to_owned()]
            }
            Self::Incomplete { .. } => {
                vec!["remedy: use a client and a daemon of the same version".to_owned()]
            }
            Self::EnvironmentFile { .. } => {
                vec!["remedy: a line is NAME=VALUE, empty, or begins with #".to_owned()]
            }
            Self::NotAllRemoved { .. }
            | Self::Input { .. }
            | Self::Runtime(_)
            | Self::Output(_) => Vec::new(),
        }
    }
}

fn first_line(status: &Status) -> String {
    match status.message().lines().next() {
        Some(line) if !line.trim().is_empty() => plain_text::escaped(line),
        _ => "the daemon gave no reason".to_owned(),
    }
}

fn exit_code_of(code: Code) -> u8 {
    match code {
        Code::NotFound => NOT_FOUND,
        Code::InvalidArgument | Code::OutOfRange => INVALID,
        Code::ResourceExhausted => EXHAUSTED,
        Code::FailedPrecondition | Code::Aborted => PRECONDITION,
        Code::Unavailable | Code::DeadlineExceeded => UNAVAILABLE,
        Code::Internal | Code::DataLoss => INTERNAL,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unimplemented
        | Code::Unauthenticated => OTHER,
    }
}

/// As gRPC's own documents write it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_exit_code() {
        for (code, name, exit) in [
            (Code::NotFound, "NOT_FOUND", 3),
            (Code::InvalidArgument, "INVALID_ARGUMENT", 4),
            (Code::ResourceExhausted, "RESOURCE_EXHAUSTED", 5),
            (Code::FailedPrecondition, "FAILED_PRECONDITION", 6),
            (Code::Aborted, "ABORTED", 6),
            (Code::Unavailable, "UNAVAILABLE", 7),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", 7),
            (Code::Internal, "INTERNAL", 8),
            (Code::Unimplemented, "UNIMPLEMENTED", 1),
        ] {
            let error = CliError::Refused {
                doing: "create the VM",
                status: Box::new(Status::new(code, "why\nmore\x1b[0m")),
            };
            assert_eq!(error.exit_code(), exit);
            assert_eq!(
                error.to_string(),
                format!("cannot create the VM: why ({name})")
            );
            assert_eq!(error.details()[0], "more\\x1b[0m");
        }
    }

    #[test]
    fn a_silent_refusal_is_said_to_be_one() {
        let error = CliError::Refused {
            doing: "create the VM",
            status: Box::new(Status::new(Code::Internal, "")),
        };
        assert_eq!(
            error.to_string(),
            "cannot create the VM: the daemon gave no reason (INTERNAL)"
        );
    }
}
