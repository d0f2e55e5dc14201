//! Measurement: what a verifier will see of a launch, of the same launch again, and of one that
//! differs in one input.

use std::collections::BTreeMap;

use casemate_attestation::Register;
use casemate_host::backend::BackendError;
use casemate_host::spec::facts::{FactFailure, FactRecord};
use casemate_host::spec::identity::{Identity, IdentitySource};
use casemate_host::spec::plan::{BootInputs, Firmware, LaunchPlan};

use super::{Sound, different};
use crate::catalogue as checks;
use crate::draft::{Content, Draft};
use crate::ledger::Ledger;
use crate::subject::{FileNames, Launch, Outcome, Planned, Subject, Trial, arguments};

pub(super) fn run(subject: &Subject, ledger: &mut Ledger, start: &Draft, sound: Option<&Sound>) {
    if !subject.optional().measurement {
        return;
    }
    let Some(sound) = sound else {
        elsewhere(subject, ledger, start);
        for check in [&checks::MEASURED_SAME, &checks::MEASURED_INPUTS] {
            ledger.skip(check, "no request became a plan that could be measured");
        }
        return;
    };
    let Some(first) = usual(subject, ledger, sound) else {
        if !ledger.has_failed(&checks::MEASURE_ANSWERS) {
            elsewhere(subject, ledger, start);
        }
        return;
    };
    elsewhere(subject, ledger, start);
    let again = Trial::new(&checks::MEASURED_SAME, "the usual launch again");
    let second = measured(subject, ledger, &sound.draft, &sound.planned, &again);
    let problem = different(
        &format!("{:?}", Some(&first)),
        &format!("{:?}", second.as_ref()),
    );
    ledger.judge(&checks::MEASURED_SAME, problem, Some(&sound.draft));
    facts(subject, ledger, sound);
    inputs(subject, ledger, sound, &first);
    hostile(subject, ledger, sound);
    if subject.optional().tool {
        tool(subject, ledger, sound);
    }
}

/// The registers of the usual launch. A host measures every launch before it starts it, so what is
/// planned and then not measured never runs.
fn usual(subject: &Subject, ledger: &mut Ledger, sound: &Sound) -> Option<Vec<Register>> {
    let trial = Trial::new(&checks::MEASURE_ANSWERS, "the usual launch");
    let draft = &sound.draft;
    match answer(subject, ledger, draft, &sound.planned, &trial) {
        Some(Ok(registers)) => Some(registers),
        Some(Err(error)) => {
            let problem = format!("the usual launch was planned, and is not measured: {error}");
            ledger.fail(&checks::MEASURE_ANSWERS, problem, Some(draft));
            None
        }
        None => {
            let why = "no launch that a host would start could be measured";
            ledger.skip(&checks::MEASURED_SAME, why);
            ledger.skip(&checks::MEASURED_INPUTS, why);
            None
        }
    }
}

/// The registers of a launch by its own plan.
fn measured(
    subject: &Subject,
    ledger: &mut Ledger,
    draft: &Draft,
    planned: &Planned,
    trial: &Trial,
) -> Option<Vec<Register>> {
    answer(subject, ledger, draft, planned, trial)?.ok()
}

/// None: there is no launch, or no answer, which the ledger has.
fn answer(
    subject: &Subject,
    ledger: &mut Ledger,
    draft: &Draft,
    planned: &Planned,
    trial: &Trial,
) -> Option<Result<Vec<Register>, BackendError>> {
    let arguments = launch_arguments(planned)?;
    let launch = Launch {
        request: &planned.request,
        plan: &planned.plan,
        arguments: &arguments,
        facts: &planned.facts,
    };
    subject.measure(ledger, draft, trial, &launch)
}

fn launch_arguments(planned: &Planned) -> Option<Vec<String>> {
    let checked = planned.checked.as_ref()?;
    arguments(&planned.request, checked, FileNames::ById).ok()
}

/// Each fact of the measurement's own, denied, absent and failed.
fn facts(subject: &Subject, ledger: &mut Ledger, sound: &Sound) {
    let Some(arguments) = launch_arguments(&sound.planned) else {
        return;
    };
    let none = FactRecord::default();
    for need in &subject.info().needs {
        for failure in [
            FactFailure::Denied,
            FactFailure::Absent,
            FactFailure::Failed("made up by the suite".to_owned()),
        ] {
            let mut draft = sound.draft.clone();
            let asked = sound.planned.asked.iter();
            for question in asked.filter(|question| need.pattern.matches(question)) {
                draft = draft.with_fact(question, Err(failure.clone()));
            }
            let what = format!(
                "a launch where {} {} is {failure:?}",
                need.pattern.fact, need.pattern.pattern
            );
            let launch = Launch {
                request: &sound.planned.request,
                plan: &sound.planned.plan,
                arguments: &arguments,
                facts: &none,
            };
            subject.measure(
                ledger,
                &draft,
                &Trial::new(&checks::MEASURE_ANSWERS, what),
                &launch,
            );
        }
    }
}

/// Launches that differ in one thing. A register whose named input has another value has another one
/// too. An input of which only a part is measured may keep its value, and then so may the register.
fn inputs(subject: &Subject, ledger: &mut Ledger, sound: &Sound, first: &[Register]) {
    for (name, draft) in changes(&sound.draft) {
        let trial = Trial::new(
            &checks::MEASURED_INPUTS,
            format!("a launch with another {name}"),
        );
        let Outcome::Planned(planned) = subject.plan(ledger, &draft, &trial) else {
            continue;
        };
        let Some(second) = measured(subject, ledger, &draft, &planned, &trial) else {
            continue;
        };
        let second: BTreeMap<&str, &Register> = second
            .iter()
            .map(|register| (register.name.as_str(), register))
            .collect();
        for before in first {
            let Some(after) = second.get(before.name.as_str()) else {
                continue;
            };
            let problem = stuck(before, after);
            ledger.judge(&checks::MEASURED_INPUTS, problem, Some(&draft));
        }
    }
}

fn changes(draft: &Draft) -> Vec<(&str, Draft)> {
    let mut changes = Vec::new();
    for file in &draft.files {
        if let Content::Named(name) = &file.content {
            // In the middle of an image of firmware lies code, and no table.
            let size = crate::golden::images::bytes(name).map_or(2, |bytes| bytes.len() as u64);
            let content = Content::Flipped {
                of: name.clone(),
                at: size / 2,
            };
            changes.push((file.role.as_str(), draft.with_content(&file.role, &content)));
        }
    }
    let mut other = draft.clone();
    other.kernel_cmdline.push_str(" conformance=1");
    changes.push(("kernel-cmdline", other));
    let mut other = draft.clone();
    other.vcpus += 1;
    changes.push(("vcpus", other));
    let mut other = draft.clone();
    other.identity = Some(Identity {
        algorithm: "sha-256".to_owned(),
        digest: vec![0x5c; 32],
        source: IdentitySource::Request,
    });
    changes.push(("identity", other));
    changes
}

/// Why a register did not follow its inputs.
fn stuck(before: &Register, after: &Register) -> Option<String> {
    let is_same = before.value == after.value && before.value.candidates().next().is_some();
    if !is_same {
        return None;
    }
    let name = &before.name;
    for input in &before.inputs {
        let now = after.inputs.iter().find(|one| one.name == input.name);
        if now.is_some_and(|now| now.value != input.value) {
            return Some(format!(
                "register {name} names the input {:?}, which changed, and has the same value",
                input.name
            ));
        }
    }
    None
}

/// Files that changed between plan and launch, and sizes at their bounds.
fn hostile(subject: &Subject, ledger: &mut Ledger, sound: &Sound) {
    let Some(arguments) = launch_arguments(&sound.planned) else {
        return;
    };
    let mut drafts = Vec::new();
    for file in &sound.draft.files {
        for content in [
            Content::Empty,
            Content::Noise {
                bytes: 4096,
                seed: 5,
            },
            Content::Noise {
                bytes: 1 << 20,
                seed: 6,
            },
            Content::Missing,
        ] {
            let what = format!("a launch whose {} is {content:?}", file.role);
            drafts.push((what, sound.draft.with_content(&file.role, &content)));
        }
    }
    for vcpus in [0, 1, 4096, u32::MAX] {
        let mut draft = sound.draft.clone();
        draft.vcpus = vcpus;
        drafts.push((format!("a launch of {vcpus} vCPUs"), draft));
    }
    let mut without = sound.draft.clone();
    without.files.clear();
    drafts.push(("a launch without files".to_owned(), without));
    for (what, draft) in drafts {
        let Ok(request) = subject.request(&draft) else {
            continue;
        };
        let launch = Launch {
            request: &request,
            plan: &sound.planned.plan,
            arguments: &arguments,
            facts: &sound.planned.facts,
        };
        subject.measure(
            ledger,
            &draft,
            &Trial::new(&checks::MEASURE_ANSWERS, what),
            &launch,
        );
    }
}

/// As `casemate measure` asks: machine, CPU model, firmware and boot inputs, and facts of a record or
/// none.
fn elsewhere(subject: &Subject, ledger: &mut Ledger, usual: &Draft) {
    let id_of = |role: &str| usual.file(role).map_or(0, |file| file.id);
    let with_kernel = BootInputs {
        kernel: true,
        initrd: true,
        cmdline: true,
    };
    let models = ["EPYC-v4", "EPYC-Milan-v2", "host", "no-such-model"];
    let firmwares = [
        Firmware::Bios(id_of("firmware")),
        Firmware::Igvm(id_of("firmware")),
        Firmware::None,
    ];
    for model in models {
        for firmware in &firmwares {
            for boot in [with_kernel, BootInputs::default()] {
                let plan = LaunchPlan::to_measure(model, firmware.clone(), boot);
                let Ok(request) = subject.request(usual) else {
                    return;
                };
                let none = FactRecord::default();
                let launch = Launch {
                    request: &request,
                    plan: &plan,
                    arguments: &[],
                    facts: &none,
                };
                let what = format!("a launch elsewhere of {model} with {firmware:?}");
                let trial = Trial::new(&checks::MEASURED_ELSEWHERE, what);
                subject.measure(ledger, usual, &trial, &launch);
                let unknown = unknown_facts(subject, usual);
                subject.measure(ledger, &unknown, &trial, &launch);
            }
        }
    }
}

/// A host of which nothing is known.
fn unknown_facts(subject: &Subject, draft: &Draft) -> Draft {
    let mut draft = draft.clone();
    for (question, _) in &subject.world.host {
        let failed = FactFailure::Failed("not in the record that is replayed".to_owned());
        draft = draft.with_fact(question, Err(failed));
    }
    draft
}

fn tool(subject: &Subject, ledger: &mut Ledger, sound: &Sound) {
    let Some(arguments) = launch_arguments(&sound.planned) else {
        return;
    };
    let launch = Launch {
        request: &sound.planned.request,
        plan: &sound.planned.plan,
        arguments: &arguments,
        facts: &sound.planned.facts,
    };
    let long = vec![b'a'; 1 << 20];
    let digits = "ab".repeat(48);
    let outputs: [&[u8]; 9] = [
        b"",
        b"\n",
        &[0xff, 0xfe, 0, 1],
        b"{",
        b"{\"measurement\": null}",
        b"[[[[[[[[[[[[[[[[",
        digits.as_bytes(),
        "größe: ☃".as_bytes(),
        &long,
    ];
    subject.tool(ledger, &sound.draft, &launch, &outputs);
}
