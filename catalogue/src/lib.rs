//! The catalogue of errors: one entry for every error that `casemated` and `casemate` can give.
//!
//! An error has an id that does not change. Programs decide by it, people look it up: the page
//! `docs/errors.md` is rendered from this table, and so are codes, HTTP statuses and exit codes.
//! What happened in one case, and what it is about, is said by the code that found it.
#![forbid(unsafe_code)]

pub use code::GrpcCode;
pub use markdown::markdown;
pub use table::ErrorId;

mod code;
mod markdown;
mod table;

/// `domain` of the `google.rpc.ErrorInfo` that a status carries.
pub const DOMAIN: &str = "casemate";

/// Where in the daemon's or the client's work an error is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    StartUp,
    Reload,
    Call,
    Request,
    Admission,
    Plan,
    Prepare,
    Launch,
    Act,
    Remove,
    Console,
    Distribution,
    Client,
}

impl Stage {
    /// In the order of the work.
    pub const ALL: [Self; 13] = [
        Self::StartUp,
        Self::Reload,
        Self::Call,
        Self::Request,
        Self::Admission,
        Self::Plan,
        Self::Prepare,
        Self::Launch,
        Self::Act,
        Self::Remove,
        Self::Console,
        Self::Distribution,
        Self::Client,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::StartUp => "start-up",
            Self::Reload => "reload",
            Self::Call => "call",
            Self::Request => "request",
            Self::Admission => "admission",
            Self::Plan => "plan",
            Self::Prepare => "prepare",
            Self::Launch => "launch",
            Self::Act => "act",
            Self::Remove => "remove",
            Self::Console => "console",
            Self::Distribution => "distribution",
            Self::Client => "client",
        }
    }

    /// What happens in it.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::StartUp => "`casemated` reads its config and takes what it needs, or ends.",
            Self::Reload => "`casemated` reads its config again, or goes on with the one it has.",
            Self::Call => "A call or an HTTP request is received.",
            Self::Request => "A request is read and held against what there is.",
            Self::Admission => "A VM gets its place before anything is spent on it.",
            Self::Plan => {
                "The backend is chosen and asked, and its plan is held against this host. \
                 Nothing was started."
            }
            Self::Prepare => "User, files and arguments of the VM are made.",
            Self::Launch => "QEMU is started and the guest let run.",
            Self::Act => "A VM is started, stopped, paused, resumed or reset, or watched.",
            Self::Remove => "A VM is stopped and deleted.",
            Self::Console => "A guest's console is read.",
            Self::Distribution => {
                "A backend's component is pushed, pulled, pinned or checked, by `casemate` or at a load."
            }
            Self::Client => "`casemate` itself, before or after the daemon's part.",
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a program hears of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As a gRPC status.
    Grpc(GrpcCode),
    /// As a gRPC status, with an HTTP status that says more than the code's own.
    GrpcAs(GrpcCode, u16),
    /// As an HTTP status that no gRPC code stands for.
    Http(u16),
    /// As the exit code of the program that ends.
    Exit(u8),
    /// As the exit code of the error that it was made from.
    ExitOfItsCause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Kebab-case; never changed and never used again for something else.
    pub id: &'static str,
    pub stage: Stage,
    pub answer: Answer,
    /// One sentence.
    pub cause: &'static str,
    /// What the reader can do; shown where the error itself knows nothing better.
    pub remedy: &'static str,
}

impl Entry {
    pub fn grpc(&self) -> Option<GrpcCode> {
        match self.answer {
            Answer::Grpc(code) | Answer::GrpcAs(code, _) => Some(code),
            Answer::Http(_) | Answer::Exit(_) | Answer::ExitOfItsCause => None,
        }
    }

    pub fn http_status(&self) -> Option<u16> {
        match self.answer {
            Answer::Grpc(code) => Some(code.http_status()),
            Answer::Http(status) | Answer::GrpcAs(_, status) => Some(status),
            Answer::Exit(_) | Answer::ExitOfItsCause => None,
        }
    }

    /// Of `casemate`; of `casemated` for the stage `start-up`.
    pub fn exit_code(&self) -> Option<u8> {
        match self.answer {
            Answer::Grpc(code) | Answer::GrpcAs(code, _) => Some(code.exit_code()),
            Answer::Exit(code) => Some(code),
            Answer::Http(_) | Answer::ExitOfItsCause => None,
        }
    }
}

impl ErrorId {
    pub fn as_str(self) -> &'static str {
        self.entry().id
    }

    /// `reason` of the `google.rpc.ErrorInfo`: the id in UPPER_SNAKE_CASE.
    pub fn reason(self) -> String {
        self.as_str().to_ascii_uppercase().replace('-', "_")
    }

    pub fn from_reason(reason: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|id| id.reason() == reason)
    }

    /// Of a problem (RFC 9457).
    pub fn urn(self) -> String {
        format!("urn:casemate:error:{}", self.as_str())
    }

    /// The last line of an error for people: what to look up, and what it is about.
    pub fn label(self, subject: Option<&str>) -> String {
        let Entry { id, stage, .. } = self.entry();
        match subject {
            Some(subject) => format!("error: {id} (stage {stage}, subject {subject})"),
            None => format!("error: {id} (stage {stage})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_names_its_error() {
        assert_eq!(ErrorId::VmLimit.as_str(), "vm-limit");
        assert_eq!(ErrorId::VmLimit.reason(), "VM_LIMIT");
        for id in ErrorId::ALL {
            assert_eq!(ErrorId::from_reason(&id.reason()), Some(*id));
        }
        assert_eq!(ErrorId::from_reason("VM-LIMIT"), None);
    }

    #[test]
    fn a_label_has_a_subject_where_there_is_one() {
        assert_eq!(
            ErrorId::FileUnusable.label(Some("kernel")),
            "error: file-unusable (stage plan, subject kernel)"
        );
        assert_eq!(
            ErrorId::VmLimit.label(None),
            "error: vm-limit (stage admission)"
        );
    }
}
