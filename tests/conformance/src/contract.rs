//! L1: answers keep the contract, whatever is asked. Each part tries requests of one kind; every answer
//! is judged where it comes in (`subject`), so most checks are tried by all of them.

mod facts;
mod hostile;
mod measured;
mod named;
mod random;
mod replay;
mod settings;
mod values;

use std::sync::Arc;

use casemate_host::backend::{BackendError, BackendErrorKind};
use casemate_host::spec::Origin;
use casemate_host::spec::plan::Severity;
use casemate_host::spec::request::{Boot, Choice};

use crate::catalogue::{self as checks, Check};
use crate::draft::Draft;
use crate::golden::Golden;
use crate::golden::cases::CasesError;
use crate::ledger::Ledger;
use crate::subject::{Ending, Outcome, Planned, Subject, Trial};
use crate::world::device;

pub use random::Chance;
pub use replay::ReplayError;
pub(crate) use replay::replay;

/// A request that becomes a plan, with the plan.
#[derive(Debug)]
pub(crate) struct Sound {
    pub(crate) draft: Draft,
    pub(crate) planned: Planned,
}

/// What is known once everything was tried.
#[derive(Debug)]
pub(crate) enum Tried {
    /// The request that all others were made from.
    From(Box<Draft>),
    /// The first request has no answer, so nothing more can be said.
    Nothing,
}

/// Why nothing is tried after a first request without an answer.
pub(crate) const NO_FIRST_ANSWER: &str = "the usual request already has no answer";

/// Tries everything, from the first of `golden` that becomes a plan or a plain request that does. What
/// needs a plan is skipped where no request becomes one.
pub(crate) fn run(
    subject: &Subject,
    ledger: &mut Ledger,
    golden: &Golden<'_>,
    chance: &Chance,
) -> Result<Tried, CasesError> {
    let mut golden = golden.starts();
    let first = golden.next().transpose()?;
    let usual = first.as_ref().unwrap_or(&subject.world.usual);
    let trial = Trial::new(&checks::PLAN_ANSWERS, "the usual request");
    if let Outcome::Broken(Ending::Fault) = subject.plan(ledger, usual, &trial) {
        ledger.end(&checks::PLAN_ANSWERS);
        ledger.end(&checks::LIMITS);
        let of_level = |check: &&Check| check.level == checks::Level::L1;
        for check in checks::CHECKS.iter().copied().filter(of_level) {
            ledger.skip(check, NO_FIRST_ANSWER);
        }
        return Ok(Tried::Nothing);
    }
    let golden = first.into_iter().map(Ok).chain(golden);
    let sound = sound(subject, ledger, golden)?;
    let start = sound
        .as_ref()
        .map_or(&subject.world.usual, |sound| &sound.draft)
        .clone();
    if check_and_plan_agree(subject, ledger, &start, "the usual host").is_none() {
        // It counts once, and not against all that is tried from here.
        subject.leave_check();
    }
    same_again(subject, ledger, &start);
    match &sound {
        Some(sound) => {
            extras(subject, ledger, sound);
            settings::run(subject, ledger, sound);
            named::run(subject, ledger, sound);
        }
        None => {
            for check in NEED_A_PLAN {
                ledger.skip(
                    check,
                    "no request became a plan: say with golden requests what a host answers that can do it",
                );
            }
        }
    }
    other_architecture(subject, ledger, &start);
    facts::run(subject, ledger, &start);
    hostile::run(subject, ledger, &start);
    measured::run(subject, ledger, &start, sound.as_ref());
    random::run(subject, ledger, &start, chance);
    Ok(Tried::From(Box::new(start)))
}

/// What is of no use where every request is refused.
static NEED_A_PLAN: [&Check; 8] = [
    &checks::EXTRAS_IGNORED,
    &checks::DEFAULTS_WORK,
    &checks::VALUES_TAKEN,
    &checks::VALUES_REFUSED,
    &checks::IDENTITY_WHOLE,
    &checks::MACHINE_NAMED,
    &checks::REPLACED_TOLD,
    &checks::BUILT_IN_PLANNED,
];

/// The first golden request that becomes a plan, else the first of some plain ones that does.
fn sound(
    subject: &Subject,
    ledger: &mut Ledger,
    golden: impl Iterator<Item = Result<Draft, CasesError>>,
) -> Result<Option<Sound>, CasesError> {
    for draft in golden {
        let draft = draft?;
        let trial = Trial::new(&checks::PLAN_ANSWERS, "a golden request");
        if let Outcome::Planned(planned) = subject.plan(ledger, &draft, &trial) {
            return Ok(Some(without_refused(subject, ledger, draft, planned)));
        }
    }
    Ok(plain_sound(subject, ledger))
}

/// The first of some plain requests that becomes a plan.
fn plain_sound(subject: &Subject, ledger: &mut Ledger) -> Option<Sound> {
    let usual = &subject.world.usual;
    let mut first_refusal = None;
    for (what, draft) in plain_requests(usual) {
        let trial = Trial::new(&checks::PLAN_ANSWERS, what);
        match subject.plan(ledger, &draft, &trial) {
            Outcome::Planned(planned) => {
                return Some(without_refused(subject, ledger, draft, planned));
            }
            Outcome::Refused(refused) => {
                first_refusal.get_or_insert(refused.error);
            }
            Outcome::Broken(_) => {}
        }
    }
    if let Some(error) = first_refusal {
        refused_for_a_setting(subject, ledger, &error);
    }
    None
}

/// A setting that has a default is no reason to refuse a request that leaves it alone. One that has
/// none may be needed, and the request has nothing in its place.
fn refused_for_a_setting(subject: &Subject, ledger: &mut Ledger, error: &BackendError) {
    let mut specs = subject.info().settings.iter();
    let Some(spec) = specs.find(|spec| spec.key == error.subject) else {
        return;
    };
    if spec.default.is_none() {
        let key = &spec.key;
        let why = format!(
            "no request is planned without the setting {key:?}, which has no default: set it in golden requests"
        );
        ledger.skip(&checks::DEFAULTS_WORK, why);
        return;
    }
    let problem = format!(
        "no request becomes a plan, and the usual one is refused for a setting that nobody set: {error}"
    );
    let usual = &subject.world.usual;
    ledger.judge(&checks::DEFAULTS_WORK, Some(problem), Some(usual));
}

/// The same without the devices that the plan refuses: a host starts no plan with them, and looks no
/// further at it.
fn without_refused(
    subject: &Subject,
    ledger: &mut Ledger,
    draft: Draft,
    planned: Box<Planned>,
) -> Sound {
    let refused = &planned.plan.devices.refused;
    let mut less = draft.clone();
    less.devices
        .retain(|device| !refused.contains(&device.kind));
    if less.devices.len() < draft.devices.len() {
        let trial = Trial::new(
            &checks::PLAN_ANSWERS,
            "a request without the devices that the backend refuses",
        );
        if let Outcome::Planned(planned) = subject.plan(ledger, &less, &trial) {
            return Sound {
                draft: less,
                planned: *planned,
            };
        }
    }
    Sound {
        draft,
        planned: *planned,
    }
}

/// The usual request, and the same with less.
fn plain_requests(usual: &Draft) -> Vec<(&'static str, Draft)> {
    let changed = |change: fn(&mut Draft)| {
        let mut draft = usual.clone();
        change(&mut draft);
        draft
    };
    vec![
        ("the usual request", usual.clone()),
        (
            "a request that names neither machine nor CPU model",
            changed(|draft| {
                draft.machine = None;
                draft.cpu = None;
            }),
        ),
        (
            "a request with the CPU model `host`",
            changed(|draft| {
                draft.cpu = Some(Choice {
                    value: "host".to_owned(),
                    origin: Origin::Operator,
                });
            }),
        ),
        (
            "a request with a kernel alone",
            changed(|draft| draft.files.retain(|file| file.role == "kernel")),
        ),
        ("a request that boots from its disk", changed(to_disk)),
        (
            "a request that boots from its disk, with a firmware and no kernel",
            changed(|draft| {
                draft.files.retain(|file| file.role == "firmware");
                to_disk(draft);
            }),
        ),
        (
            "a request with a disk alone",
            changed(|draft| {
                draft.files.clear();
                to_disk(draft);
            }),
        ),
    ]
}

/// What a daemon adds to a request that boots from a disk.
fn to_disk(draft: &mut Draft) {
    if draft.boot == Boot::Disk {
        return;
    }
    draft.boot = Boot::Disk;
    draft.devices.push(device("disk", "disk0", Vec::new()));
    draft.add_file("disk", "disk", Origin::Operator);
}

/// A `fail` of `check` means that `plan` cannot succeed; and what keeps a host from all plans is to be
/// found by `check`.
pub(crate) fn check_and_plan_agree(
    subject: &Subject,
    ledger: &mut Ledger,
    draft: &Draft,
    what: &str,
) -> Option<Vec<casemate_host::spec::plan::Finding>> {
    let trial = Trial::new(&checks::CHECK_ANSWERS, what);
    let findings = subject.check(ledger, draft, &trial)?.findings;
    let fail = findings
        .iter()
        .find(|finding| finding.severity == Severity::Fail);
    let outcome = subject.plan(ledger, draft, &Trial::new(&checks::PLAN_ANSWERS, what));
    match (outcome, fail) {
        (Outcome::Planned(_), fail) => {
            let problem = fail.map(|finding| {
                format!(
                    "{what}: `check` fails with {} ({}), and `plan` succeeds",
                    finding.id, finding.detail
                )
            });
            ledger.judge(&checks::FAIL_MEANS_NO, problem, Some(draft));
        }
        (Outcome::Refused(refused), _) => {
            ledger.tried(&checks::FAIL_MEANS_NO);
            if refused.error.kind == BackendErrorKind::UnsupportedHost {
                // A request may be what another host needs: then a warning about the same is enough.
                let is_told = findings.iter().any(|finding| match finding.severity {
                    Severity::Fail => true,
                    Severity::Warn => finding.subject == refused.error.subject,
                    Severity::Pass | Severity::Note => false,
                });
                let problem = (!is_told).then(|| {
                    format!(
                        "{what}: `plan` says {}, and `check` tells nothing of it",
                        refused.error
                    )
                });
                ledger.judge(&checks::NO_IS_TOLD, problem, Some(draft));
            }
        }
        (Outcome::Broken(_), _) => {}
    }
    Some(findings)
}

/// The same in another instance, and again from what was recorded.
fn same_again(subject: &Subject, ledger: &mut Ledger, draft: &Draft) {
    let trial = Trial::new(&checks::SAME_ANSWER, "the same request again");
    let first = subject.plan(ledger, draft, &trial);
    let second = subject.plan(ledger, draft, &trial);
    let problem = different(&first.answer(), &second.answer());
    ledger.judge(&checks::SAME_ANSWER, problem, Some(draft));
    let check_twice = || Trial::new(&checks::SAME_ANSWER, "`check` again");
    let one = subject.check(ledger, draft, &check_twice());
    let other = subject.check(ledger, draft, &check_twice());
    if let (Some(one), Some(other)) = (one, other) {
        let problem = different(
            &format!("{:?}", one.findings),
            &format!("{:?}", other.findings),
        );
        ledger.judge(&checks::SAME_ANSWER, problem, Some(draft));
    }
    let Outcome::Planned(planned) = first else {
        return;
    };
    let trial = Trial::new(&checks::REPLAYED, "the request from recorded facts");
    let record = Arc::new(planned.facts.clone());
    let replayed = subject.plan_with(ledger, draft, &trial, record, Vec::new);
    let problem = different(&format!("{:?}", planned.plan), &replayed.answer());
    ledger.judge(&checks::REPLAYED, problem, Some(draft));
}

/// Where two answers part, with what is before it.
pub(crate) fn different(one: &str, other: &str) -> Option<String> {
    const AROUND: usize = 120;
    if one == other {
        return None;
    }
    let pairs = one.chars().zip(other.chars());
    let same = pairs.take_while(|(one, other)| one == other).count();
    let part = |text: &str| -> String {
        text.chars()
            .skip(same.saturating_sub(AROUND / 2))
            .take(AROUND)
            .collect()
    };
    Some(format!("first …{}…, then …{}…", part(one), part(other)))
}

/// Keys that no version of the contract has.
fn extras(subject: &Subject, ledger: &mut Ledger, sound: &Sound) {
    let key = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let trial = Trial::new(&checks::EXTRAS_IGNORED, "a request with unknown extras");
    let mut draft = sound.draft.clone();
    draft.extras = vec![
        key("conformance.unknown", "1"),
        key("x-later-minor", "a value, with commas"),
        key("", ""),
    ];
    let outcome = subject.plan(ledger, &draft, &trial);
    let problem = different(&format!("{:?}", sound.planned.plan), &outcome.answer());
    ledger.judge(&checks::EXTRAS_IGNORED, problem, Some(&draft));
}

fn other_architecture(subject: &Subject, ledger: &mut Ledger, start: &Draft) {
    let announced = &subject.info().architectures;
    for architecture in ["x86_64", "aarch64", "s390x", "riscv64"] {
        if announced.iter().any(|one| one == architecture) {
            continue;
        }
        let mut draft = start.clone();
        draft.architecture = architecture.to_owned();
        of_another_architecture(subject, ledger, &draft);
    }
}

fn of_another_architecture(subject: &Subject, ledger: &mut Ledger, draft: &Draft) {
    let what = format!(
        "a request for {}, which is not announced",
        draft.architecture
    );
    let trial = Trial::new(&checks::OTHER_ARCHITECTURE, &what);
    let outcome = subject.plan(ledger, draft, &trial);
    let problem = matches!(outcome, Outcome::Planned(_)).then(|| format!("{what} became a plan"));
    ledger.judge(&checks::OTHER_ARCHITECTURE, problem, Some(draft));
}
