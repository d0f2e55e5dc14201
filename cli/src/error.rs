//! What can go wrong, how it is said, and with which exit code.

use std::path::PathBuf;
use std::time::Duration;

use casemate_catalogue::ErrorId;
use casemate_host::backend::catalog::chain;
use casemate_host::vm::catalogued::Catalogued;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::backend::refused::Refused as ComponentRefused;
use crate::plain_text;
use crate::refusal::Refusal;

/// Exit code where nothing better is known; the help text documents all of them.
const OTHER: u8 = 1;

/// Where the daemon gives none.
const CUT_OFF_REMEDY: &str = "run the command again, which begins with everything as it is; let \
    nothing slow read its output";

#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error("{endpoint} is not the address of a daemon: {reason}")]
    Endpoint { endpoint: String, reason: String },
    #[error("cannot reach casemated at {endpoint}: {reason}")]
    Unreachable { endpoint: String, reason: String },
    #[error("cannot {doing}: TLS with the daemon failed: {reason}")]
    TlsFailed { doing: &'static str, reason: String },
    #[error("no TLS to the daemon: {reason}")]
    Tls { reason: String },
    #[error("{place} holds no token: wanted is one line of visible ASCII characters")]
    Token { place: String },
    #[error(
        "the token of {named_by} is not sent to {endpoint}: whoever is on the way there could read it"
    )]
    TokenExposed {
        endpoint: String,
        /// Who named the token.
        named_by: String,
    },
    #[error("there is no context {name:?}")]
    ContextUnknown { name: String },
    #[error(
        "{name:?} is no name of a context: wanted are 1 to 63 letters, digits, `.`, `_` and `-`"
    )]
    ContextName { name: String },
    #[error("the contexts in {} cannot be {what}: {reason}", .path.display())]
    ContextsFile {
        path: PathBuf,
        what: &'static str,
        reason: String,
    },
    #[error("cannot {doing}: the connection to the daemon broke before it answered: {reason}")]
    Broken { doing: &'static str, reason: String },
    #[error("cannot {doing} any longer: the connection to the daemon broke, or the daemon ended")]
    BrokenOff { doing: &'static str },
    #[error("cannot {doing}: no answer within {}", humantime::format_duration(*.timeout))]
    Timeout {
        doing: &'static str,
        timeout: Duration,
    },
    #[error("cannot {doing}: {} ({})", Refusal::of(.status).first_line(), Refusal::of(.status).code.name())]
    Refused {
        doing: &'static str,
        status: Box<Status>,
    },
    /// A reader of changes that did not keep up.
    #[error("cannot {doing} any longer: {} ({})", Refusal::of(.status).first_line(), Refusal::of(.status).code.name())]
    CutOff {
        doing: &'static str,
        status: Box<Status>,
    },
    /// The daemon left out what its interface promises.
    #[error("cannot {doing}: the daemon's answer has no {missing}")]
    Incomplete {
        doing: &'static str,
        missing: &'static str,
    },
    #[error("the daemon's answer cannot be shown: {reason}")]
    Unshowable { reason: String },
    #[error("--expect-generation is for one VM, and {wanted} are named")]
    GenerationOfOne { wanted: usize },
    #[error("VM {id} is {state}{}", of_detail(.detail))]
    EndedEarly {
        id: String,
        state: &'static str,
        detail: String,
    },
    #[error("VM {id} runs, and nothing answered at {address} within {}", humantime::format_duration(*.waited))]
    AgentSilent {
        id: String,
        address: String,
        waited: Duration,
    },
    #[error("interrupted: {left}")]
    Interrupted { left: Left },
    #[error("no VM has {wanted:?} as its name, its ID or the beginning of its ID")]
    NoSuchVm { wanted: String },
    #[error("{wanted:?} fits several VMs:\n{}", .candidates.join("\n"))]
    AmbiguousVm {
        wanted: String,
        /// One line each, ID first.
        candidates: Vec<String>,
    },
    /// Each failure was reported when it happened.
    #[error("{failed} of {wanted} VMs were not {done}")]
    NotAllDone {
        /// What was to be done: `removed`.
        done: &'static str,
        failed: usize,
        wanted: usize,
        worst: u8,
        id: ErrorId,
    },
    /// Which and why was shown before.
    #[error("no VM{} can be started on this host: {}", of_backend(.backend.as_deref()), plain_text::escaped(.cause))]
    HostUnfit {
        /// The one that was asked about; none: all.
        backend: Option<String>,
        cause: String,
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
    /// Nothing of a value is in the reason: it may be secret.
    #[error("{file} describes no VM: {reason}")]
    SpecFile { file: String, reason: String },
    #[error("cannot write the pages to {}: {source}", .folder.display())]
    Pages {
        folder: PathBuf,
        source: std::io::Error,
    },
    /// What is wrong, in the host's own words.
    #[error("{message}")]
    Measure {
        message: String,
        remedy: String,
        subject: Option<String>,
        id: ErrorId,
    },
    /// Boxed, because few errors are as large.
    #[error("{}", plain_text::escaped(&chain(.0.as_ref())))]
    Component(Box<ComponentRefused>),
    #[error("--set {key} is given twice")]
    SetTwice { key: String },
    #[error("there is no backend {backend:?}: looked for {looked}")]
    NoBackendFile { backend: String, looked: String },
    #[error("--format corim and --format trustee are for `measure` and `vm measurement`")]
    NoPolicy,
    #[error("a CoRIM is binary, and would garble a terminal")]
    BinaryToTerminal,
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
    #[error("cannot write the answer: {0}")]
    Output(std::io::Error),
}

impl CliError {
    /// Of a watch: the daemon does not keep changes for a reader that does not take them.
    pub(crate) fn of_watch(self) -> Self {
        match self {
            Self::Refused { doing, status } if status.code() == Code::Aborted => {
                Self::CutOff { doing, status }
            }
            error => error,
        }
    }

    /// What the host's own code says, which this program ran itself.
    pub(crate) fn measure(error: &dyn Catalogued) -> Self {
        Self::Measure {
            message: plain_text::escaped(&chain(error)),
            remedy: plain_text::escaped(&error.remedy()),
            subject: error.subject(),
            id: error.id(),
        }
    }

    /// Its entry in the catalogue, which has the exit code and the remedy.
    pub(crate) fn id(&self) -> ErrorId {
        match self {
            Self::Endpoint { .. } => ErrorId::EndpointForm,
            Self::Unreachable { .. } => ErrorId::DaemonUnreachable,
            Self::TlsFailed { .. } => ErrorId::TlsFailed,
            Self::Tls { .. } => ErrorId::ClientTls,
            Self::Token { .. } => ErrorId::TokenForm,
            Self::TokenExposed { .. } => ErrorId::TokenExposed,
            Self::ContextUnknown { .. } => ErrorId::ContextUnknown,
            Self::ContextName { .. } => ErrorId::ContextName,
            Self::ContextsFile { .. } => ErrorId::ContextsFile,
            Self::GenerationOfOne { .. } => ErrorId::GenerationOfOne,
            Self::EndedEarly { .. } => ErrorId::VmEndedEarly,
            Self::AgentSilent { .. } => ErrorId::AgentSilent,
            Self::Interrupted { .. } => ErrorId::Interrupted,
            Self::SpecFile { .. } => ErrorId::SpecFile,
            Self::Broken { .. } | Self::BrokenOff { .. } => ErrorId::ConnectionBroken,
            Self::Timeout { .. } => ErrorId::ClientTimeout,
            Self::Refused { status, .. } | Self::CutOff { status, .. } => Refusal::of(status).id,
            Self::Incomplete { .. } | Self::Unshowable { .. } => ErrorId::AnswerIncomplete,
            Self::NoSuchVm { .. } => ErrorId::VmNameUnknown,
            Self::AmbiguousVm { .. } => ErrorId::VmNameAmbiguous,
            Self::NotAllDone { id, .. } => *id,
            Self::HostUnfit { .. } => ErrorId::HostUnfit,
            Self::Input { .. } => ErrorId::InputUnreadable,
            Self::EnvironmentFile { .. } => ErrorId::EnvironmentFile,
            Self::Measure { id, .. } => *id,
            Self::Component(refused) => refused.id(),
            Self::SetTwice { .. } => ErrorId::SettingTwice,
            Self::NoBackendFile { .. } => ErrorId::MeasureBackend,
            Self::NoPolicy => ErrorId::FormatOfPolicies,
            Self::BinaryToTerminal => ErrorId::BinaryToTerminal,
            Self::Runtime(_) => ErrorId::ClientStart,
            Self::Output(_) | Self::Pages { .. } => ErrorId::OutputUnwritable,
        }
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { status, .. } | Self::CutOff { status, .. } => {
                Refusal::of(status).exit_code()
            }
            Self::NotAllDone { worst, .. } => *worst,
            _ => self.id().entry().exit_code().unwrap_or(OTHER),
        }
    }

    /// What the error is about.
    fn subject(&self) -> Option<String> {
        let subject = match self {
            Self::Endpoint { endpoint, .. }
            | Self::Unreachable { endpoint, .. }
            | Self::TokenExposed { endpoint, .. } => endpoint.clone(),
            Self::Token { place } => place.clone(),
            Self::ContextUnknown { name } | Self::ContextName { name } => name.clone(),
            Self::EndedEarly { id, .. } | Self::AgentSilent { id, .. } => id.clone(),
            Self::SpecFile { file, .. } => file.clone(),
            Self::ContextsFile { path, .. } | Self::Pages { folder: path, .. } => {
                path.display().to_string()
            }
            Self::Refused { status, .. } | Self::CutOff { status, .. } => {
                return Refusal::of(status).subject;
            }
            Self::Measure { subject, .. } => subject.clone()?,
            Self::Component(refused) => refused.subject()?,
            Self::SetTwice { key } => key.clone(),
            Self::NoBackendFile { backend, .. } => backend.clone(),
            Self::NoSuchVm { wanted } | Self::AmbiguousVm { wanted, .. } => wanted.clone(),
            Self::Input { path, .. } | Self::EnvironmentFile { path, .. } => {
                path.display().to_string()
            }
            Self::Broken { .. }
            | Self::BrokenOff { .. }
            | Self::Timeout { .. }
            | Self::Incomplete { .. }
            | Self::Unshowable { .. }
            | Self::Tls { .. }
            | Self::TlsFailed { .. }
            | Self::GenerationOfOne { .. }
            | Self::Interrupted { .. }
            | Self::NotAllDone { .. }
            | Self::HostUnfit { .. }
            | Self::NoPolicy
            | Self::BinaryToTerminal
            | Self::Runtime(_)
            | Self::Output(_) => return None,
        };
        let subject: String = plain_text::stripped(&subject).chars().take(64).collect();
        (!subject.is_empty()).then_some(subject)
    }

    /// The lines after the first: what the daemon said beyond it, what to do, and which error it
    /// is.
    pub(crate) fn details(&self) -> Vec<String> {
        if let Some(refusal) = self.refusal() {
            return refusal.details();
        }
        vec![
            format!("remedy: {}", self.remedy()),
            self.id().label(self.subject().as_deref()),
        ]
    }

    /// What the daemon said, where it did.
    fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused { status, .. } => Some(Refusal::of(status)),
            Self::CutOff { status, .. } => Some(Refusal::of(status).or_remedy(CUT_OFF_REMEDY)),
            _ => None,
        }
    }

    fn remedy(&self) -> String {
        let remedy = match self {
            Self::Measure { remedy, .. } => remedy,
            // Of the id of its worst cause, which was told with that cause.
            Self::NotAllDone { .. } => ErrorId::VmsNotRemoved.entry().remedy,
            _ => self.id().entry().remedy,
        };
        match self {
            // Ready to be copied.
            Self::EndedEarly { id, .. } | Self::AgentSilent { id, .. } => {
                remedy.replace("logs ID", &format!("logs {}", plain_text::stripped(id)))
            }
            _ => remedy.to_owned(),
        }
    }

    /// For programs; `docs/errors.md` says what is in it.
    pub(crate) fn to_json(&self) -> Value {
        let mut error = match self.refusal() {
            Some(refusal) => refusal.to_json(),
            None => {
                let entry = self.id().entry();
                json!({
                    "id": entry.id,
                    "code": null,
                    "stage": entry.stage.as_str(),
                    "subject": self.subject(),
                    "remedy": self.remedy(),
                })
            }
        };
        error["message"] = Value::String(self.to_string());
        error
    }
}

impl From<ComponentRefused> for CliError {
    fn from(refused: ComponentRefused) -> Self {
        Self::Component(Box::new(refused))
    }
}

/// What an interrupted command leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nobody waits for the VM any more, and the daemon unmakes it.
    NoVm,
    /// The request has an idempotency key, and goes on.
    Request,
    Vm(String),
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoVm => f.write_str("the daemon unmakes what it has begun, and no VM is left"),
            Self::Request => f.write_str(
                "the daemon goes on for the idempotency key; the same command again gives its VM",
            ),
            Self::Vm(id) => write!(f, "VM {id} is there; `casemate vm remove {id}` removes it"),
        }
    }
}

fn of_detail(detail: &str) -> String {
    match plain_text::escaped(detail) {
        detail if detail.is_empty() => detail,
        detail => format!(": {detail}"),
    }
}

fn of_backend(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| {
        format!(" of backend {}", plain_text::escaped(name))
    })
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
            (Code::Unauthenticated, "UNAUTHENTICATED", 9),
            (Code::PermissionDenied, "PERMISSION_DENIED", 9),
            (Code::AlreadyExists, "ALREADY_EXISTS", 10),
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
    fn an_error_of_its_own_says_which_it_is() {
        let error = CliError::NoSuchVm {
            wanted: "web\u{1b}".to_owned(),
        };
        assert_eq!(
            error.details(),
            [
                "remedy: `casemate vm list` shows all",
                "error: vm-name-unknown (stage client, subject web)"
            ]
        );
        assert_eq!(
            error.to_json(),
            json!({
                "id": "vm-name-unknown",
                "code": null,
                "stage": "client",
                "subject": "web",
                "remedy": "`casemate vm list` shows all",
                "message": "no VM has \"web\\u{1b}\" as its name, its ID or the beginning of its ID",
            })
        );
        for (error, exit) in [
            (error, 3),
            (
                CliError::Broken {
                    doing: "x",
                    reason: String::new(),
                },
                7,
            ),
            (CliError::BrokenOff { doing: "x" }, 7),
            (CliError::Output(std::io::Error::other("x")), 1),
            (
                CliError::HostUnfit {
                    backend: None,
                    cause: String::new(),
                },
                6,
            ),
            (
                CliError::Endpoint {
                    endpoint: String::new(),
                    reason: String::new(),
                },
                2,
            ),
        ] {
            assert_eq!(error.exit_code(), exit, "{error}");
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
