//! An error as the interfaces tell it, before it is a gRPC status or an HTTP problem: both are made
//! from this, and say the same.

use casemate_catalogue::ErrorId;

use crate::backend::catalog::chain;
use crate::spec::printable;
use crate::vm::catalogued::Catalogued;

/// Longest subject.
const MAX_SUBJECT: usize = 64;

/// Small, because it is in every answer's type.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) id: ErrorId,
    /// On one line, as is `remedy`.
    pub(super) what: Box<str>,
    pub(super) subject: Option<Box<str>>,
    pub(super) remedy: Box<str>,
    /// The field of the request that is at fault.
    pub(super) field: Option<Box<str>>,
    pub(super) qemu_stderr: Option<Box<str>>,
}

impl<E: Catalogued> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::of(&error)
    }
}

impl Refused {
    pub(super) fn of(error: &impl Catalogued) -> Self {
        let subject = error.subject().map(|subject| subject_of(&subject));
        Self {
            id: error.id(),
            what: printable(&chain(error)).into(),
            subject: subject
                .filter(|subject| !subject.is_empty())
                .map(Into::into),
            remedy: printable(&error.remedy()).into(),
            field: error.field().map(Into::into),
            qemu_stderr: error.qemu_stderr().map(Into::into),
        }
    }
}

/// On one line, and closed by the parenthesis after it only.
fn subject_of(text: &str) -> String {
    printable(text).trim().chars().take(MAX_SUBJECT).collect()
}
