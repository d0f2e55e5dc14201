//! Every announced setting: at its default, at each form of its kind, and at what is not of its kind.

use casemate_host::backend::{BackendError, BackendErrorKind, SettingSpec};
use casemate_host::spec::Origin;
use casemate_host::spec::plan::Value;
use casemate_host::spec::request::Setting;

use super::{Sound, values};
use crate::catalogue::{self as checks, Check};
use crate::draft::{Content, Draft, FileDraft};
use crate::ledger::Ledger;
use crate::subject::{Outcome, Refused, Subject, Trial};

/// Id of the file of a setting of kind `file`.
const FILE_ID: u32 = 1_000;

pub(super) fn run(subject: &Subject, ledger: &mut Ledger, sound: &Sound) {
    let specs = subject.info().settings.clone();
    if !specs.is_empty() {
        // Those that have a default have it in every request, so this one did.
        ledger.tried(&checks::DEFAULTS_WORK);
    }
    for spec in &specs {
        default_said(subject, ledger, &sound.draft, spec);
        for value in values::of_kind(&spec.kind, FILE_ID) {
            taken(subject, ledger, &sound.draft, spec, value);
        }
        for value in values::not_of_kind(&spec.kind) {
            refused(subject, ledger, &sound.draft, spec, value);
        }
    }
}

fn with(draft: &Draft, spec: &SettingSpec, value: Value) -> Draft {
    let mut draft = draft.with_setting(Setting {
        key: spec.key.clone(),
        value,
        origin: if spec.per_request {
            Origin::Request
        } else {
            Origin::Operator
        },
    });
    if matches!(spec.kind, casemate_host::backend::SettingKind::File) {
        let role = format!("setting:{}", spec.key);
        draft.files.retain(|file| file.role != role);
        draft.files.push(FileDraft {
            id: FILE_ID,
            role,
            content: Content::Named("noise".to_owned()),
            origin: Origin::Operator,
        });
    }
    draft
}

/// A default that somebody says by name is still a value that works. A default of the whole may not fit
/// this request once it is a wish, and then the error names it.
fn default_said(subject: &Subject, ledger: &mut Ledger, draft: &Draft, spec: &SettingSpec) {
    let Some(default) = &spec.default else {
        return;
    };
    let draft = with(draft, spec, default.clone());
    let what = format!(
        "setting {:?} at its default {default:?}, said by name",
        spec.key
    );
    judge(
        subject,
        ledger,
        &checks::DEFAULTS_WORK,
        &draft,
        &spec.key,
        &what,
    );
}

fn taken(subject: &Subject, ledger: &mut Ledger, draft: &Draft, spec: &SettingSpec, value: Value) {
    let what = format!("setting {:?} with the value {}", spec.key, brief(&value));
    let draft = with(draft, spec, value);
    judge(
        subject,
        ledger,
        &checks::VALUES_TAKEN,
        &draft,
        &spec.key,
        &what,
    );
}

fn refused(
    subject: &Subject,
    ledger: &mut Ledger,
    draft: &Draft,
    spec: &SettingSpec,
    value: Value,
) {
    let what = format!(
        "setting {:?} of kind {} with {}",
        spec.key,
        spec.kind_text,
        brief(&value)
    );
    let draft = with(draft, spec, value);
    judge(
        subject,
        ledger,
        &checks::VALUES_REFUSED,
        &draft,
        &spec.key,
        &what,
    );
}

/// Whether the answer to `draft` is what `check` wants of the setting `key` in it.
pub(super) fn judge(
    subject: &Subject,
    ledger: &mut Ledger,
    check: &'static Check,
    draft: &Draft,
    key: &str,
    what: &str,
) {
    let outcome = subject.plan(ledger, draft, &Trial::new(check, what));
    let problem = if *check == checks::VALUES_REFUSED {
        kept_out(&outcome, key)
    } else if *check == checks::VALUES_TAKEN && is_of_the_host(&outcome) {
        None
    } else {
        named(&outcome, key)
    };
    ledger.judge(
        check,
        problem.map(|problem| format!("{what}: {problem}")),
        Some(draft),
    );
}

/// What is wrong with an answer to a value that is not of its kind.
fn kept_out(outcome: &Outcome, key: &str) -> Option<String> {
    match outcome {
        Outcome::Planned(_) => Some("it became a plan".to_owned()),
        Outcome::Refused(refused) if refused.error.subject != key => Some(format!(
            "the subject is {:?}: {}",
            refused.error.subject, refused.error
        )),
        Outcome::Refused(_) | Outcome::Broken(_) => None,
    }
}

/// A mode that this host does not have is the host's fault, and may be told by the fact that says so.
fn is_of_the_host(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Refused(refused) => refused.error.kind == BackendErrorKind::UnsupportedHost,
        Outcome::Planned(_) | Outcome::Broken(_) => false,
    }
}

/// What is wrong with an answer to a value of its kind.
fn named(outcome: &Outcome, key: &str) -> Option<String> {
    let Outcome::Refused(Refused { error, .. }) = outcome else {
        return None;
    };
    (!names(error, key))
        .then(|| format!("refused by an error that does not name the setting: {error}"))
}

fn names(error: &BackendError, key: &str) -> bool {
    let texts = [&error.subject, &error.message, &error.remedy];
    texts.into_iter().any(|text| text.contains(key))
        || error
            .details
            .iter()
            .any(|(name, value)| name.contains(key) || value.contains(key))
}

/// A value for a message.
fn brief(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = format!("{value:?}");
    if text.chars().count() <= LONGEST {
        return text;
    }
    let start: String = text.chars().take(LONGEST).collect();
    format!("{start}…")
}
