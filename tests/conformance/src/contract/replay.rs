//! One kept request again: what its check looks at is looked at, and a check that needs more than one
//! request is refused, because nothing of it would be judged.

use casemate_host::spec::request::Setting;

use super::{
    check_and_plan_agree, different, named, of_another_architecture, same_again, settings,
};
use crate::catalogue::{self as checks, Check};
use crate::draft::Draft;
use crate::ledger::Ledger;
use crate::subject::{Subject, Trial};

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("{} is judged by more than one request, so a kept one does not show it again", .0.id)]
    NotOfOneRequest(&'static Check),
    #[error("the kept request of {} has no setting of this backend, and the check is about one", .0.id)]
    NoSetting(&'static Check),
}

/// How a check is judged by a request.
enum Judged {
    /// By any answer to it.
    ByAnswer,
    /// By `check` and `plan` together.
    ByBoth,
    /// By the same request again.
    Again,
    /// By the same request without extras.
    WithoutExtras,
    OfArchitecture,
    OfIdentity,
    OfBuiltIn,
    OfSetting,
}

/// None: a request alone does not show it.
fn judged(check: &'static Check) -> Option<Judged> {
    static BY_MORE: [&Check; 11] = [
        // The fact that differed is not kept.
        &checks::DENIED_TOLD,
        // A launch is a request and what was planned for it.
        &checks::MEASURE_ANSWERS,
        &checks::REGISTERS_FORM,
        &checks::REGISTER_VALUES,
        &checks::REGISTERS_HONEST,
        &checks::MEASURED_SAME,
        &checks::MEASURED_INPUTS,
        &checks::MEASURED_ELSEWHERE,
        &checks::REGISTER_INPUTS,
        &checks::TOOL_ANSWERS,
        &checks::TOOL_NAMED,
    ];
    static OF_ANSWERS: [&Check; 2] = [&checks::FILES_FAIL, &checks::LOG_LINES];
    if BY_MORE.contains(&check) {
        return None;
    }
    let by = [
        (&checks::SAME_ANSWER, Judged::Again),
        (&checks::REPLAYED, Judged::Again),
        (&checks::EXTRAS_IGNORED, Judged::WithoutExtras),
        (&checks::OTHER_ARCHITECTURE, Judged::OfArchitecture),
        (&checks::DEFAULTS_WORK, Judged::OfSetting),
        (&checks::VALUES_TAKEN, Judged::OfSetting),
        (&checks::VALUES_REFUSED, Judged::OfSetting),
        (&checks::FAIL_MEANS_NO, Judged::ByBoth),
        (&checks::NO_IS_TOLD, Judged::ByBoth),
        (&checks::IDENTITY_WHOLE, Judged::OfIdentity),
        (&checks::IDENTITY_PLANNED, Judged::OfIdentity),
        (&checks::BUILT_IN_PLANNED, Judged::OfBuiltIn),
    ];
    let special = by.into_iter().find(|(one, _)| **one == *check);
    let is_answer = check.level == checks::Level::L1 || OF_ANSWERS.contains(&check);
    special
        .map(|(_, how)| how)
        .or_else(|| is_answer.then_some(Judged::ByAnswer))
}

/// Judges `check` by `draft`, and whatever else the answers show.
pub(crate) fn replay(
    subject: &Subject,
    ledger: &mut Ledger,
    check: &'static Check,
    draft: &Draft,
) -> Result<(), ReplayError> {
    const WHAT: &str = "the kept request";
    let trial = Trial::new(check, WHAT);
    match judged(check).ok_or(ReplayError::NotOfOneRequest(check))? {
        Judged::ByAnswer => {
            subject.check(ledger, draft, &trial);
            subject.plan(ledger, draft, &trial);
        }
        Judged::ByBoth => {
            check_and_plan_agree(subject, ledger, draft, WHAT);
        }
        Judged::Again => same_again(subject, ledger, draft),
        Judged::WithoutExtras => {
            let mut plain = draft.clone();
            plain.extras.clear();
            let plain = subject.plan(ledger, &plain, &trial);
            let outcome = subject.plan(ledger, draft, &trial);
            let problem = different(&plain.answer(), &outcome.answer());
            ledger.judge(check, problem, Some(draft));
        }
        Judged::OfArchitecture => of_another_architecture(subject, ledger, draft),
        Judged::OfIdentity => named::identity(subject, ledger, draft, WHAT),
        Judged::OfBuiltIn => named::built_in(subject, ledger, draft),
        Judged::OfSetting => {
            let key = setting_of(subject, draft).ok_or(ReplayError::NoSetting(check))?;
            settings::judge(subject, ledger, check, draft, key, WHAT);
        }
    }
    Ok(())
}

/// The setting that a kept request is about: the last one that was put into it.
fn setting_of<'a>(subject: &Subject, draft: &'a Draft) -> Option<&'a str> {
    let Setting { key, .. } = draft.settings.last()?;
    let mut specs = subject.info().settings.iter();
    specs.any(|spec| spec.key == *key).then_some(key)
}
