//! Facts, one at a time: denied, absent, failed, and of any content.

use std::collections::BTreeMap;

use casemate_host::spec::facts::{FactAnswer, FactFailure, FactQuestion, FactValue};
use casemate_host::spec::plan::{Finding, Severity};

use super::check_and_plan_agree;
use crate::catalogue as checks;
use crate::draft::Draft;
use crate::ledger::Ledger;
use crate::subject::{Outcome, Subject, Trial};

/// Names of a type that no QEMU has that many of.
const MANY_NAMES: usize = 2_000;

pub(super) fn run(subject: &Subject, ledger: &mut Ledger, draft: &Draft) {
    let asked = asked(subject, ledger, draft);
    let usual = subject.check(
        ledger,
        draft,
        &Trial::new(&checks::CHECK_ANSWERS, "the usual host"),
    );
    let usual = usual.map(|checked| complaints(&checked.findings));
    for question in &asked {
        let mut told = BTreeMap::new();
        for (name, failure) in [
            ("denied", FactFailure::Denied),
            ("absent", FactFailure::Absent),
            (
                "failed",
                FactFailure::Failed("made up by the suite".to_owned()),
            ),
        ] {
            let what = format!("{question} is {name}");
            let changed = draft.with_fact(question, Err(failure));
            let findings = both(subject, ledger, &changed, &what, &checks::FACTS_FAIL);
            told.insert(name, findings.map(|findings| complaints(&findings)));
        }
        let said = |name: &str| told.get(name).and_then(Option::as_ref);
        if let (Some(denied), Some(absent), Some(usual)) = (said("denied"), said("absent"), &usual)
        {
            let is_mixed_up = denied == absent && denied != usual;
            let problem = is_mixed_up.then(|| {
                format!(
                    "{question}: `check` finds the same where it is denied and where it is absent"
                )
            });
            ledger.judge(&checks::DENIED_TOLD, problem, Some(draft));
        }
        for (what, answer) in contents(question) {
            let what = format!("{question} is {what}");
            let changed = draft.with_fact(question, answer);
            both(subject, ledger, &changed, &what, &checks::FACT_TEXTS);
        }
    }
}

/// What is told as missing or doubtful.
fn complaints(findings: &[Finding]) -> Vec<Finding> {
    let findings = findings.iter();
    let bad = findings.filter(|one| matches!(one.severity, Severity::Warn | Severity::Fail));
    bad.cloned().collect()
}

/// What the usual request and `check` ask for; what else is announced can be asked for by others.
fn asked(subject: &Subject, ledger: &mut Ledger, draft: &Draft) -> Vec<FactQuestion> {
    let trial = Trial::new(&checks::PLAN_ANSWERS, "the usual request");
    let mut asked = match subject.plan(ledger, draft, &trial) {
        Outcome::Planned(planned) => planned.asked,
        Outcome::Refused(refused) => refused.asked,
        Outcome::Broken(_) => Vec::new(),
    };
    let trial = Trial::new(&checks::CHECK_ANSWERS, "the usual host");
    if let Some(checked) = subject.check(ledger, draft, &trial) {
        asked.extend(checked.asked);
    }
    let mut once = Vec::new();
    for question in asked {
        if subject.announced().allows_fact(&question) && !once.contains(&question) {
            once.push(question);
        }
    }
    once
}

/// `check` and `plan`, which have to agree. A trap counts against `check` the rule.
fn both(
    subject: &Subject,
    ledger: &mut Ledger,
    draft: &Draft,
    what: &str,
    rule: &'static checks::Check,
) -> Option<Vec<Finding>> {
    let trial = Trial::new(rule, what);
    let answers = subject.check(ledger, draft, &trial).is_some();
    let outcome = subject.plan(ledger, draft, &trial);
    if !answers || matches!(outcome, Outcome::Broken(_)) {
        return None;
    }
    check_and_plan_agree(subject, ledger, draft, what)
}

/// Answers that a host may give and that nobody expects.
fn contents(question: &FactQuestion) -> Vec<(&'static str, FactAnswer)> {
    let text = |text: &str| Ok(FactValue::Text(text.to_owned()));
    match question {
        FactQuestion::Cpuid { .. } => vec![
            ("all zeros", registers(0)),
            ("all ones", registers(u32::MAX)),
            ("no letters", registers(0x1b_07_00_ff)),
        ],
        FactQuestion::KvmCapability(_) => vec![
            ("the least number", Ok(FactValue::Signed(i64::MIN))),
            ("below zero", Ok(FactValue::Signed(-1))),
            ("zero", Ok(FactValue::Signed(0))),
            ("the greatest number", Ok(FactValue::Signed(i64::MAX))),
        ],
        FactQuestion::KvmDeviceAttribute { .. } => vec![
            ("zero", Ok(FactValue::Unsigned(0))),
            ("the greatest number", Ok(FactValue::Unsigned(u64::MAX))),
        ],
        FactQuestion::QemuType(_) => vec![
            ("without any property", Ok(FactValue::Names(Vec::new()))),
            (
                "of odd properties",
                Ok(FactValue::Names(vec![
                    String::new(),
                    "\u{1b}[2J,=\n".to_owned(),
                ])),
            ),
            (
                "of many properties",
                Ok(FactValue::Names(vec!["x".to_owned(); MANY_NAMES])),
            ),
        ],
        FactQuestion::Device(_) | FactQuestion::Socket(_) => {
            vec![("there", Ok(FactValue::Present))]
        }
        FactQuestion::ReadText(_)
        | FactQuestion::QemuVersion
        | FactQuestion::QemuMachine(_)
        | FactQuestion::QmpQuery(_) => vec![
            ("empty", text("")),
            ("a line end", text("\n")),
            ("of control characters", text("\u{0}\u{1b}[2J\r\n\u{7f}")),
            ("of commas and quotes", text("q35,kernel=/etc/passwd \"'")),
            ("of other scripts", text("٣٤ ½ 漢字 ß")),
            ("a number without end", text(&"9".repeat(400))),
            ("below zero", text("-1")),
            ("numbers with signs", text("+1 -0 0x 1e309 nan\n")),
            (
                "a range backwards",
                text("9-0,4294967295-18446744073709551616\n"),
            ),
            ("long", text(&"sev_es 1\n".repeat(450))),
            ("deeply nested", text(&"[".repeat(4_000))),
            ("a version of zeros", text("0.0.0")),
            (
                "a version of great numbers",
                text("4294967296.4294967296.4294967296"),
            ),
        ],
    }
}

fn registers(word: u32) -> FactAnswer {
    Ok(FactValue::Cpuid {
        eax: word,
        ebx: word,
        ecx: word,
        edx: word,
    })
}
