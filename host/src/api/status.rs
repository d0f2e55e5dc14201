//! Domain errors as gRPC statuses. What a status says is the error's and the catalogue's; this is
//! its form: a message of up to four parts on lines of their own (what happened, QEMU's last lines,
//! what to do, which error it is), and the same for programs as `google.rpc.ErrorInfo`, with
//! `google.rpc.BadRequest` where a field is at fault.

use std::collections::HashMap;

use casemate_catalogue::DOMAIN;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::refused::Refused;
use crate::vm::catalogued::Catalogued;

/// Bytes that the parts of a message may take in the trailers, all together below the 8 KiB from
/// which on clients may refuse trailers. An English text of `MAX_WHAT` has some 900 characters.
const MAX_WHAT: usize = 2_300;
const MAX_QEMU: usize = 2_300;
const MAX_REMEDY: usize = 1_000;
/// What a field's violation repeats of the message.
const MAX_VIOLATION: usize = 500;

/// The status of an error.
pub(super) fn of(error: &impl Catalogued) -> Status {
    Refused::of(error).into()
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        let Refused {
            id,
            what,
            subject,
            remedy,
            field,
            qemu_stderr,
        } = refused;
        let entry = id.entry();
        let remedy = beginning(&remedy, MAX_REMEDY);
        let what = beginning(&what, MAX_WHAT);
        let mut message = what.clone();
        if let Some(lines) = &qemu_stderr {
            message.push_str("\nQEMU said:\n");
            // The end tells why.
            message.push_str(end(lines, MAX_QEMU));
        }
        message.push_str("\nremedy: ");
        message.push_str(&remedy);
        message.push('\n');
        message.push_str(&id.label(subject.as_deref()));
        let mut metadata = HashMap::from([
            ("stage".to_owned(), entry.stage.to_string()),
            ("remedy".to_owned(), remedy),
        ]);
        if let Some(subject) = subject {
            metadata.insert("subject".to_owned(), subject.into());
        }
        let mut details = ErrorDetails::with_error_info(id.reason(), DOMAIN, metadata);
        if let Some(field) = field {
            details.add_bad_request_violation(field, beginning(&what, MAX_VIOLATION));
        }
        // An entry without a code is for programs that end; none of those is answered over gRPC.
        let code = entry
            .grpc()
            .map_or(Code::Internal, |code| Code::from_i32(code.number()));
        Self::with_error_details(code, message, details)
    }
}

/// What a character takes in the trailers, in thirds of a byte: percent-encoded in the message, and
/// in base64 in the details, which repeat the message because some clients read only those.
fn wire_thirds(character: char) -> usize {
    let bytes = character.len_utf8();
    let encoded = if character.is_ascii_alphanumeric() {
        bytes
    } else {
        3 * bytes
    };
    3 * encoded + 4 * bytes
}

fn beginning(text: &str, limit: usize) -> String {
    let mut thirds = 0;
    text.chars()
        .take_while(|character| {
            thirds += wire_thirds(*character);
            thirds <= 3 * limit
        })
        .collect()
}

fn end(text: &str, limit: usize) -> &str {
    let mut thirds = 0;
    let kept = text.char_indices().rev().take_while(|(_, character)| {
        thirds += wire_thirds(*character);
        thirds <= 3 * limit
    });
    let start = kept.last().map_or(text.len(), |(index, _)| index);
    &text[start..]
}

#[cfg(test)]
mod tests {
    use casemate_catalogue::ErrorId;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Endless(String);

    impl Catalogued for Endless {
        fn id(&self) -> ErrorId {
            ErrorId::QemuEnded
        }
        fn subject(&self) -> Option<String> {
            Some(self.0.clone())
        }
        fn remedy(&self) -> String {
            self.0.clone()
        }
        fn qemu_stderr(&self) -> Option<&str> {
            Some(&self.0)
        }
        fn field(&self) -> Option<String> {
            Some("spec.kernel_cmdline".to_owned())
        }
    }

    #[test]
    fn the_longest_status_fits_into_trailers() {
        for text in [
            "a",
            " ",
            "%",
            "\n",
            "ü",
            "\u{1f980}",
            "one word, and another; ",
        ] {
            let status = of(&Endless(text.repeat(20_000)));
            let encoded: usize = status
                .message()
                .chars()
                .map(|c| {
                    if c.is_ascii_alphanumeric() {
                        1
                    } else {
                        3 * c.len_utf8()
                    }
                })
                .sum();
            let size = encoded + status.details().len().div_ceil(3) * 4;
            assert!(size < 8 << 10, "{text:?}: {size}");
            let last = status.message().lines().last().unwrap_or_default();
            assert!(
                last.starts_with("error: qemu-ended (stage launch"),
                "{last}"
            );
        }
    }

    #[test]
    fn a_status_says_the_same_to_people_and_to_programs() {
        let status = of(&Endless("a\nb".to_owned()));
        assert_eq!(status.code(), Code::Aborted);
        assert_eq!(
            status.message(),
            "a b\nQEMU said:\na\nb\nremedy: a b\nerror: qemu-ended (stage launch, subject a b)"
        );
        let info = status.get_details_error_info().unwrap();
        assert_eq!((&*info.reason, &*info.domain), ("QEMU_ENDED", "casemate"));
        assert_eq!(info.metadata["stage"], "launch");
        assert_eq!(info.metadata["subject"], "a b");
        assert_eq!(info.metadata["remedy"], "a b");
    }
}
