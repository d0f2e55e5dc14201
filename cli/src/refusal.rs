//! What a daemon's refusal says: the lines of its message for people, and the same in its details
//! for programs.
//!
//! A status without details is from something else than `casemated`, or from gRPC itself: then the
//! code alone has to tell. Whatever is in a status is text from outside.

use casemate_catalogue::{DOMAIN, ErrorId, GrpcCode};
use serde_json::{Value, json};
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::plain_text;

const QEMU_SAID: &str = "QEMU said:";
const REMEDY: &str = "remedy: ";
const LABEL: &str = "error: ";

#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: GrpcCode,
    /// The daemon's own, or one of the client's where the daemon names none that is known here.
    pub(crate) id: ErrorId,
    /// As the daemon named it; a later daemon may have errors that this client does not know.
    named: Option<String>,
    stage: String,
    pub(crate) subject: Option<String>,
    remedy: String,
    /// Without the first.
    lines: Vec<String>,
    first: String,
}

impl Refusal {
    pub(crate) fn of(status: &Status) -> Self {
        let code = GrpcCode::from_number(status.code() as i32);
        let info = status
            .get_details_error_info()
            .filter(|info| info.domain == DOMAIN);
        let named = info.as_ref().map(|info| info.reason.clone());
        let id = named
            .as_deref()
            .and_then(ErrorId::from_reason)
            .unwrap_or(match code {
                GrpcCode::Unimplemented => ErrorId::MethodUnknown,
                _ => ErrorId::AnswerUnexplained,
            });
        let of_info = |key: &str| {
            info.as_ref()
                .and_then(|info| info.metadata.get(key).cloned())
        };
        let mut lines = status.message().lines().map(str::to_owned);
        Self {
            code,
            id,
            named: named.map(|reason| reason.to_ascii_lowercase().replace('_', "-")),
            stage: of_info("stage").unwrap_or_else(|| id.entry().stage.to_string()),
            subject: of_info("subject"),
            remedy: of_info("remedy").unwrap_or_else(|| id.entry().remedy.to_owned()),
            first: lines.next().unwrap_or_default(),
            lines: lines.collect(),
        }
    }

    /// With that remedy, if the daemon gave none.
    pub(crate) fn or_remedy(mut self, remedy: &str) -> Self {
        if self.named.is_none() {
            remedy.clone_into(&mut self.remedy);
        }
        self
    }

    pub(crate) fn exit_code(&self) -> u8 {
        let code = self.id.entry().exit_code();
        code.unwrap_or_else(|| self.code.exit_code())
    }

    pub(crate) fn first_line(&self) -> String {
        if self.first.trim().is_empty() {
            return "the daemon gave no reason".to_owned();
        }
        plain_text::escaped(&self.first)
    }

    /// As the daemon wrote them, with what it left out.
    pub(crate) fn details(&self) -> Vec<String> {
        let mut details: Vec<String> = self
            .lines
            .iter()
            .map(|line| plain_text::escaped(line))
            .collect();
        if self.named.is_none() {
            if !details.iter().any(|line| line.starts_with(REMEDY)) {
                details.push(format!("{REMEDY}{}", self.remedy));
            }
            details.push(self.id.label(None));
        }
        details
    }

    /// QEMU's last lines: what the message has between the first line and the remedy.
    fn qemu_stderr(&self) -> Option<String> {
        let (said, rest) = self.lines.split_first()?;
        if said != QEMU_SAID {
            return None;
        }
        // From the end: QEMU may write anything, lines like those below it among it.
        let mut rest = rest;
        for beginning in [LABEL, REMEDY] {
            if let Some((last, before)) = rest.split_last()
                && last.starts_with(beginning)
            {
                rest = before;
            }
        }
        Some(rest.join("\n"))
    }

    pub(crate) fn to_json(&self) -> Value {
        let mut value = json!({
            "id": self.named.as_deref().unwrap_or(self.id.as_str()),
            "code": self.code.name(),
            "stage": self.stage,
            "subject": self.subject,
            "remedy": self.remedy,
        });
        if let Some(stderr) = self.qemu_stderr() {
            value["qemu_stderr"] = Value::String(stderr);
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::ErrorDetails;

    use super::*;

    fn status(reason: &str) -> Status {
        let metadata = [("stage", "launch"), ("subject", "qemu"), ("remedy", "wait")];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
        let message = "it ended\nQEMU said:\nremedy: none\nno\nremedy: wait\nerror: x";
        Status::with_error_details(Code::Aborted, message, details)
    }

    #[test]
    fn details_are_read_and_qemus_lines_found() {
        let refusal = Refusal::of(&status("QEMU_ENDED"));
        assert_eq!(refusal.id, ErrorId::QemuEnded);
        assert_eq!(refusal.details().last().unwrap(), "error: x");
        assert_eq!(
            refusal.to_json(),
            json!({
                "id": "qemu-ended",
                "code": "ABORTED",
                "stage": "launch",
                "subject": "qemu",
                "remedy": "wait",
                "qemu_stderr": "remedy: none\nno",
            })
        );
    }

    #[test]
    fn an_error_of_a_later_daemon_keeps_its_id() {
        let refusal = Refusal::of(&status("SOMETHING_NEW"));
        assert_eq!(refusal.id, ErrorId::AnswerUnexplained);
        assert_eq!(refusal.to_json()["id"], "something-new");
        assert_eq!(refusal.exit_code(), 6);
    }

    #[test]
    fn a_status_of_something_else_is_told_by_its_code() {
        let refusal = Refusal::of(&Status::unimplemented(""));
        assert_eq!(refusal.first_line(), "the daemon gave no reason");
        assert_eq!(
            refusal.details(),
            [
                "remedy: use a client and a daemon of the same version",
                "error: method-unknown (stage call)"
            ]
        );
        let refusal = Refusal::of(&Status::internal("no\nremedy: wait"));
        assert_eq!(
            refusal.details(),
            ["remedy: wait", "error: answer-unexplained (stage client)"]
        );
        assert_eq!(refusal.to_json()["subject"], Value::Null);
    }
}
