//! Rules of a plan, of findings and of errors that the host does not hold a backend to, because a
//! daemon can live with what breaks them. Whoever reads the answer cannot.

use std::collections::BTreeSet;

use casemate_attestation::{Algorithm, Register};
use casemate_host::backend::BackendError;
use casemate_host::spec::Origin;
use casemate_host::spec::facts::FactQuestion;
use casemate_host::spec::permissions::Permissions;
use casemate_host::spec::plan::{Finding, LaunchPlan, Severity};
use casemate_host::spec::request::{Boot, Choice};

use crate::catalogue as checks;
use crate::draft::Draft;
use crate::ledger::Ledger;
use crate::topology;
use crate::world::World;

/// Longest text of an error that the host shows whole.
const LONGEST_SHOWN: usize = 2_000;
/// Kinds of device that a host attaches (`host-device`).
const KINDS: [&str; 6] = ["net", "disk", "share-9p", "vsock", "vfio", "console"];
/// What stands in place of a control character when the host has an error's text.
const REPLACED: char = '\u{fffd}';

/// What of a plan the contract says and the host does not check.
pub(crate) fn plan(ledger: &mut Ledger, world: &World, draft: &Draft, plan: &LaunchPlan) {
    // What came through the host's own checks has kept these.
    for check in [
        &checks::FORM,
        &checks::IDS,
        &checks::FILES_OF_REQUEST,
        &checks::BOOT,
        &checks::NO_EXTRAS,
        &checks::NO_FAIL,
        &checks::GUARD_AS_PROMISED,
        &checks::FINDINGS_FORM,
        &checks::TRANSPORT,
    ] {
        ledger.tried(check);
    }
    ledger.tried(match draft.identity {
        Some(_) => &checks::IDENTITY_WHOLE,
        None => &checks::NO_IDENTITY,
    });
    if plan.guard.is_some() {
        ledger.tried(&checks::GUARD_IS_OBJECT);
    }
    let aliases = world.aliases(draft);
    let versioned = |name: &str| aliases.get(name).map_or(name, String::as_str).to_owned();
    let machine = &plan.machine.kind;
    let problem = (versioned(machine) != *machine).then(|| {
        format!(
            "the machine is {machine:?}, which is an alias: {:?} is its versioned name",
            versioned(machine)
        )
    });
    ledger.judge(&checks::MACHINE_VERSIONED, problem, Some(draft));
    let is_machine = |choice: &Choice| versioned(&choice.value) == versioned(machine);
    let is_cpu = |choice: &Choice| is_model(&plan.cpu.kind, &choice.value);
    for (subject, choice, used, is_used) in [
        (
            "machine",
            &draft.machine,
            machine,
            draft.machine.as_ref().is_none_or(is_machine),
        ),
        (
            "cpu",
            &draft.cpu,
            &plan.cpu.kind,
            draft.cpu.as_ref().is_none_or(is_cpu),
        ),
    ] {
        let Some(choice) = choice
            .as_ref()
            .filter(|choice| choice.origin == Origin::BuiltIn)
        else {
            continue;
        };
        let is_told = plan
            .findings
            .iter()
            .any(|finding| finding.subject == subject);
        let problem = (!is_used && !is_told).then(|| {
            format!(
                "the built-in {subject} {:?} became {used:?}, and no finding has the subject `{subject}`",
                choice.value
            )
        });
        ledger.judge(&checks::REPLACED_TOLD, problem, Some(draft));
    }
    abilities(ledger, draft, plan);
    leases(ledger, draft, plan);
    command_line(ledger, draft, plan);
    vcpus(ledger, draft, plan);
    refused(ledger, draft, plan);
    findings(ledger, Some(draft), &plan.findings);
}

/// A model without a version stands for each of its versions.
fn is_model(used: &str, wanted: &str) -> bool {
    let rest = used.strip_prefix(wanted);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("-v"))
}

fn abilities(ledger: &mut Ledger, draft: &Draft, plan: &LaunchPlan) {
    let mut seen = BTreeSet::new();
    let twice = plan
        .abilities
        .iter()
        .find(|ability| !seen.insert(ability.name()));
    let problem = twice.map(|ability| format!("{:?} is there twice", ability.name()));
    ledger.judge(&checks::ABILITIES, problem, Some(draft));
}

fn leases(ledger: &mut Ledger, draft: &Draft, plan: &LaunchPlan) {
    let mut seen = BTreeSet::new();
    let problem = plan.leases.iter().find_map(|lease| {
        if lease.amount == 0 {
            return Some(format!("{:?} is taken none of", lease.name));
        }
        let is_new = seen.insert(&lease.name);
        (!is_new).then(|| format!("{:?} is there twice", lease.name))
    });
    ledger.judge(&checks::LEASES, problem, Some(draft));
}

/// A kernel without the words that its request has for it is another guest than was asked for.
fn command_line(ledger: &mut Ledger, draft: &Draft, plan: &LaunchPlan) {
    const FIELD: &str = "kernel-cmdline";
    let is_wanted = draft.boot == Boot::Kernel && !draft.kernel_cmdline.is_empty();
    if !is_wanted || !plan.boot.kernel {
        return;
    }
    let is_told = plan.findings.iter().any(|finding| finding.subject == FIELD);
    let problem = (!plan.boot.cmdline && !is_told).then(|| {
        format!("the command line does not come with the kernel, and no finding has the subject `{FIELD}`")
    });
    ledger.judge(&checks::CMDLINE_PASSED, problem, Some(draft));
}

fn vcpus(ledger: &mut Ledger, draft: &Draft, plan: &LaunchPlan) {
    // The contract has no request without any.
    if draft.vcpus == 0 {
        return;
    }
    ledger.judge(
        &checks::TOPOLOGY,
        topology::problem(&plan.smp, draft.vcpus),
        Some(draft),
    );
}

/// A kind that is written wrong refuses nothing.
fn refused(ledger: &mut Ledger, draft: &Draft, plan: &LaunchPlan) {
    let mut seen = BTreeSet::new();
    let problem = plan.devices.refused.iter().find_map(|kind| {
        if !KINDS.contains(&kind.as_str()) {
            return Some(format!("{kind:?} is none of {}", KINDS.join(", ")));
        }
        (!seen.insert(kind)).then(|| format!("{kind:?} is there twice"))
    });
    ledger.judge(&checks::REFUSED_KINDS, problem, Some(draft));
}

/// Digests that come from nothing. A claim may be a value of its own.
pub(crate) fn registers(ledger: &mut Ledger, draft: &Draft, what: &str, registers: &[Register]) {
    let is_digest = |one: &&Register| {
        one.algorithm != Algorithm::Raw && one.value.candidates().next().is_some()
    };
    let mut digests = registers.iter().filter(is_digest);
    let constant = digests.find(|one| one.inputs.is_empty());
    let problem =
        constant.map(|one| format!("{what}: register {} has a digest and no input", one.name));
    ledger.judge(&checks::REGISTER_INPUTS, problem, Some(draft));
}

/// What a person who reads findings needs.
pub(crate) fn findings(ledger: &mut Ledger, draft: Option<&Draft>, findings: &[Finding]) {
    for finding in findings {
        let has_remedy = !finding.remedy.trim().is_empty();
        let problem = match finding.severity {
            Severity::Pass if has_remedy => Some("passes and has a remedy"),
            Severity::Warn | Severity::Fail if !has_remedy => Some("has no remedy"),
            _ if finding.detail.trim().is_empty() => Some("has no detail"),
            _ if finding.subject.trim().is_empty() => Some("has no subject"),
            _ => None,
        };
        let problem = problem.map(|problem| {
            format!(
                "finding {} ({}) {problem}",
                finding.id,
                finding.severity.as_str()
            )
        });
        ledger.judge(&checks::REMEDIES, problem, draft);
    }
}

/// What a person who reads an error needs. It may quote the request, and `quotable`.
pub(crate) fn error(ledger: &mut Ledger, draft: &Draft, quotable: &str, error: &BackendError) {
    let parts = [
        ("subject", &error.subject),
        ("message", &error.message),
        ("remedy", &error.remedy),
    ];
    let shown = |name: &str| format!("the {name} of the error {error} (remedy: {})", error.remedy);
    let whole = parts.iter().find_map(|(name, text)| {
        if text.trim().is_empty() {
            return Some(format!("{} is empty", shown(name)));
        }
        let may_quote = quotable.contains(REPLACED) || mentions_replaced(draft);
        if text.contains(REPLACED) && !may_quote {
            return Some(format!("{} has a control character", shown(name)));
        }
        let is_cut = text.chars().count() >= LONGEST_SHOWN;
        is_cut.then(|| format!("the {name} of an error has {LONGEST_SHOWN} characters or more"))
    });
    ledger.judge(&checks::ERRORS_WHOLE, whole, Some(draft));
    let form = parts[1..].iter().find_map(|(name, text)| {
        let ends = text.trim_end().ends_with('.') && !text.trim_end().ends_with("...");
        ends.then(|| format!("{} ends with a period", shown(name)))
    });
    ledger.judge(&checks::ERRORS_FORM, form, Some(draft));
}

/// Whether the request itself has the sign, which an error may quote.
fn mentions_replaced(draft: &Draft) -> bool {
    format!("{draft:?}").contains(REPLACED)
}

/// Facts that were asked for, against those that were announced.
pub(crate) fn asked(
    ledger: &mut Ledger,
    draft: &Draft,
    announced: &Permissions,
    asked: &[FactQuestion],
) {
    let foreign = asked
        .iter()
        .find(|question| !announced.allows_fact(question));
    let problem = foreign.map(|question| {
        format!("it asked for {question}, and no need that it announces covers that")
    });
    ledger.judge(&checks::FACTS_ANNOUNCED, problem, Some(draft));
}
