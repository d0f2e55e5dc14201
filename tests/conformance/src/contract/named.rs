//! What somebody named: an identity, a machine, a CPU model, files; and ways to boot.

use std::collections::BTreeSet;

use casemate_host::qemu::cpu_type;
use casemate_host::spec::Origin;
use casemate_host::spec::facts::{FactQuestion, FactValue};
use casemate_host::spec::identity::{Identity, IdentitySource};
use casemate_host::spec::request::{Accelerator, Choice};

use super::{Sound, to_disk};
use crate::catalogue as checks;
use crate::draft::Draft;
use crate::facts::Rest;
use crate::ledger::Ledger;
use crate::subject::{Outcome, Subject, Trial};
use crate::world::{BUILT_IN_CPU, BUILT_IN_MACHINE, device};

/// Algorithm and bytes of identities that the contract allows.
const IDENTITIES: [(&str, usize); 7] = [
    ("sha-256", 32),
    ("sha-384", 48),
    ("sha-512", 64),
    ("raw", 1),
    ("raw", 20),
    ("raw", 32),
    ("raw", 64),
];

/// Of the identity that a daemon gives a VM for which the caller names none: the operator's, else a
/// digest of what the guest is configured with.
const USUAL_ALGORITHMS: [&str; 2] = ["sha-256", "raw"];
const USUAL_LENGTH: usize = 32;

pub(super) fn run(subject: &Subject, ledger: &mut Ledger, sound: &Sound) {
    identities(subject, ledger, &sound.draft);
    machines(subject, ledger, &sound.draft);
    models(subject, ledger, &sound.draft);
    defaults(subject, ledger, &sound.draft);
    files(subject, ledger, &sound.draft);
    boots(subject, ledger, &sound.draft);
}

fn identities(subject: &Subject, ledger: &mut Ledger, draft: &Draft) {
    for (algorithm, length) in IDENTITIES {
        let digest = (1_u8..).take(length).collect();
        let mut draft = draft.clone();
        draft.identity = Some(Identity {
            algorithm: algorithm.to_owned(),
            digest,
            source: IdentitySource::Request,
        });
        let what = format!("an identity of {length} bytes ({algorithm})");
        identity(subject, ledger, &draft, &what);
    }
}

/// A request with an identity: refused for that by its name, and not refused at all where it is of the
/// length that every VM has one of.
pub(super) fn identity(subject: &Subject, ledger: &mut Ledger, draft: &Draft, what: &str) {
    let outcome = subject.plan(ledger, draft, &Trial::new(&checks::IDENTITY_WHOLE, what));
    let refused = match &outcome {
        Outcome::Refused(refused) => Some(&refused.error),
        Outcome::Planned(_) | Outcome::Broken(_) => None,
    };
    if let Some(error) = refused {
        let problem = (error.subject != "identity")
            .then(|| format!("{what}: refused, and the subject is not `identity`: {error}"));
        ledger.judge(&checks::IDENTITY_WHOLE, problem, Some(draft));
    }
    let is_usual = |one: &Identity| {
        USUAL_ALGORITHMS.contains(&one.algorithm.as_str()) && one.digest.len() == USUAL_LENGTH
    };
    if !draft.identity.as_ref().is_some_and(is_usual) {
        return;
    }
    if !subject.info().carries_identity {
        ledger.skip(
            &checks::IDENTITY_PLANNED,
            "it announces that it carries none (`identity` = `none`)",
        );
        return;
    }
    let problem = refused
        .map(|error| format!("{what}: refused, and every VM with a guard has such a one: {error}"));
    ledger.judge(&checks::IDENTITY_PLANNED, problem, Some(draft));
}

fn choice(value: &str, origin: Origin) -> Option<Choice> {
    Some(Choice {
        value: value.to_owned(),
        origin,
    })
}

const NAMED: [Origin; 2] = [Origin::Operator, Origin::Request];

fn machines(subject: &Subject, ledger: &mut Ledger, draft: &Draft) {
    let mut names: BTreeSet<String> = ["q35", "pc", "virt", "no-such-machine"]
        .map(str::to_owned)
        .into();
    names.extend(types_of_the_host(subject, "-machine"));
    for (alias, name) in subject.world.aliases(draft) {
        names.extend([alias, name]);
    }
    for name in names {
        for origin in NAMED {
            let mut draft = draft.clone();
            draft.machine = choice(&name, origin);
            let trial = Trial::new(
                &checks::MACHINE_NAMED,
                format!("machine {name:?}, named by {}", said(origin)),
            );
            subject.plan(ledger, &draft, &trial);
        }
    }
}

fn models(subject: &Subject, ledger: &mut Ledger, draft: &Draft) {
    let mut names: BTreeSet<String> = ["host", "max", "EPYC-v4", "no-such-model"]
        .map(str::to_owned)
        .into();
    let end = cpu_type("", &draft.architecture);
    names.extend(types_of_the_host(subject, &end));
    for name in names {
        for origin in NAMED {
            let mut draft = draft.clone();
            draft.cpu = choice(&name, origin);
            let trial = Trial::new(
                &checks::CPU_NAMED,
                format!("CPU model {name:?}, named by {}", said(origin)),
            );
            subject.plan(ledger, &draft, &trial);
        }
    }
}

fn said(origin: Origin) -> &'static str {
    match origin {
        Origin::BuiltIn => "nobody",
        Origin::Operator => "the operator",
        Origin::Request => "the caller",
    }
}

/// Names whose type the world's QEMU has.
fn types_of_the_host(subject: &Subject, end: &str) -> Vec<String> {
    let types =
        subject
            .world
            .host
            .iter()
            .filter_map(|(question, answer)| match (question, answer) {
                (FactQuestion::QemuType(name), Ok(FactValue::Names(_))) => name.strip_suffix(end),
                _ => None,
            });
    types.map(str::to_owned).collect()
}

/// A request that leaves machine and CPU model to the daemon.
pub(super) fn built_in(subject: &Subject, ledger: &mut Ledger, draft: &Draft) {
    let mut usual = draft.clone();
    usual.machine = choice(BUILT_IN_MACHINE, Origin::BuiltIn);
    usual.cpu = choice(BUILT_IN_CPU, Origin::BuiltIn);
    let what = format!("machine {BUILT_IN_MACHINE:?} and CPU model {BUILT_IN_CPU:?}, built in");
    let outcome = subject.plan(ledger, &usual, &Trial::new(&checks::REPLACED_TOLD, &what));
    let problem = match &outcome {
        Outcome::Refused(refused) => Some(format!(
            "{what}: refused, and every VM has these whose request and operator name none: {}",
            refused.error
        )),
        Outcome::Planned(_) | Outcome::Broken(_) => None,
    };
    ledger.judge(&checks::BUILT_IN_PLANNED, problem, Some(&usual));
}

/// Built-in choices, which may be replaced.
fn defaults(subject: &Subject, ledger: &mut Ledger, draft: &Draft) {
    built_in(subject, ledger, draft);
    for name in ["q35", "pc", "virt", "no-such-machine"] {
        let mut draft = draft.clone();
        draft.machine = choice(name, Origin::BuiltIn);
        let what = format!("machine {name:?}, which nobody named");
        subject.plan(ledger, &draft, &Trial::new(&checks::REPLACED_TOLD, what));
    }
    for name in ["EPYC", "max", "qemu64", "host", "no-such-model"] {
        let mut draft = draft.clone();
        draft.cpu = choice(name, Origin::BuiltIn);
        let what = format!("CPU model {name:?}, which nobody named");
        subject.plan(ledger, &draft, &Trial::new(&checks::REPLACED_TOLD, what));
    }
}

fn files(subject: &Subject, ledger: &mut Ledger, draft: &Draft) {
    let mut variants = Vec::new();
    for file in &draft.files {
        let mut draft = draft.clone();
        for one in draft.files.iter_mut().filter(|one| one.id == file.id) {
            one.origin = Origin::Request;
        }
        variants.push((format!("the {} of the request", file.role), draft));
    }
    for (roles, name) in [
        (&["igvm"][..], "coconut.igvm"),
        (&["firmware-code"], "OVMF.fd"),
        (&["firmware-code", "firmware-vars"], "OVMF.fd"),
        (&["firmware"], "OVMF.fd"),
    ] {
        let mut draft = draft.clone();
        for role in roles {
            draft.add_file(role, name, Origin::Request);
        }
        variants.push((format!("{} of the request", roles.join(" and ")), draft));
    }
    for (what, draft) in variants {
        let outcome = subject.plan(ledger, &draft, &Trial::new(&checks::FILES_USED, &what));
        if let Outcome::Planned(planned) = outcome
            && planned.unfit.is_none()
        {
            ledger.tried(&checks::FILES_USED);
        }
    }
}

fn boots(subject: &Subject, ledger: &mut Ledger, draft: &Draft) {
    let changed = |change: fn(&mut Draft)| {
        let mut draft = draft.clone();
        change(&mut draft);
        draft
    };
    for (what, draft) in [
        ("a boot from disk", changed(to_disk)),
        (
            "a boot from disk beside a kernel of the request",
            changed(|draft| {
                to_disk(draft);
                for file in &mut draft.files {
                    if file.role == "kernel" {
                        file.origin = Origin::Request;
                    }
                }
            }),
        ),
        (
            "a boot from disk without any file",
            changed(|draft| {
                to_disk(draft);
                draft.files.clear();
            }),
        ),
        (
            "a boot without an initrd",
            changed(|draft| draft.files.retain(|file| file.role != "initrd")),
        ),
        (
            "a boot without a kernel",
            changed(|draft| draft.files.retain(|file| file.role != "kernel")),
        ),
        (
            "a boot without any file",
            changed(|draft| draft.files.clear()),
        ),
        (
            "a boot without a command line",
            changed(|draft| draft.kernel_cmdline.clear()),
        ),
        (
            "a boot without any device",
            changed(|draft| draft.devices.clear()),
        ),
        (
            "a boot with tcg",
            changed(|draft| draft.accelerator = Accelerator::Tcg),
        ),
        (
            "a boot with every kind of device",
            changed(|draft| {
                for kind in ["vsock", "vfio", "console", "teleporter"] {
                    draft
                        .devices
                        .push(device(kind, &format!("{kind}0"), Vec::new()));
                }
            }),
        ),
    ] {
        subject.plan(ledger, &draft, &Trial::new(&checks::BOOT, what));
    }
    // Firmware of every kind that hosts have, so that its options are seen.
    if subject.world.rest == Rest::Ordinary || draft.file("firmware").is_some() {
        let mut flash = draft.clone();
        flash.files.retain(|file| file.role != "firmware");
        for role in ["firmware-code", "firmware-vars"] {
            flash.add_file(role, "OVMF.fd", Origin::Operator);
        }
        subject.plan(
            ledger,
            &flash,
            &Trial::new(&checks::FIRMWARE_OPTIONS, "firmware in two flash chips"),
        );
    }
}
