//! A property of both backends: whatever is accepted breaks no rule and fits QEMU's schema, whatever
//! is refused names what is at fault, and nothing makes the component trap.
//!
//! Requests are put together from values that are right, at a boundary or wrong. A trap and a plan
//! that the host's check finds fault with end the run of a case with a panic.

use std::cell::Cell;
use std::collections::BTreeMap;

use casemate_conformance::golden::cases::Case;
use casemate_rules::check;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use super::site::{Outcome, Site};
use super::{asked_for, world};

/// Each is a call of the component and questions to QEMU that it has answered before.
const RUNS: u32 = 300;

/// Values of one field or setting: such that fit, mostly, and such that may not. An empty one leaves
/// it out.
type Values = (&'static [&'static str], &'static [&'static str]);

fn one(values: Values) -> impl Strategy<Value = Option<String>> {
    prop_oneof![12 => select(values.0), 1 => select(values.1)]
        .prop_map(|value| (!value.is_empty()).then(|| value.to_owned()))
}

fn number<T: Copy + std::fmt::Debug + 'static>(
    values: (&'static [T], &'static [T]),
) -> impl Strategy<Value = T> {
    prop_oneof![12 => select(values.0), 1 => select(values.1)]
}

/// A table with some of these keys.
fn some(
    keys: &'static [(&'static str, Values)],
) -> impl Strategy<Value = BTreeMap<String, String>> {
    let entries: Vec<_> = keys
        .iter()
        .map(|(key, values)| (Just(*key), one(*values), prop::bool::weighted(0.25)))
        .collect();
    entries.prop_map(|entries| {
        entries
            .into_iter()
            .filter(|(_, _, is_taken)| *is_taken)
            .filter_map(|(key, value, _)| Some((key.to_owned(), value?)))
            .collect()
    })
}

struct Choices {
    cpus: Values,
    memory_mib: (&'static [u64], &'static [u64]),
    firmware: Values,
    identities: Values,
    settings: &'static [(&'static str, Values)],
    facts: &'static [(&'static str, Values)],
}

const VCPUS: (&[u32], &[u32]) = (&[1, 2, 8], &[0, 9, 5000]);
const SHA_256: &str = "sha-256:5555555555555555555555555555555555555555555555555555555555555555";

const SEV_SNP: Choices = Choices {
    cpus: (
        &["", "EPYC-v4", "EPYC-Genoa-v1"],
        &["EPYC", "host", "EPYC-Rome-v2", "EPYC-v"],
    ),
    memory_mib: (&[1, 2048, 3000, 1 << 20], &[0]),
    firmware: (
        &["OVMF.fd"],
        &["no-hashes.fd", "no-sev.fd", "odd-size.fd", "noise"],
    ),
    identities: (&["", "raw:00", SHA_256], &["raw:"]),
    settings: &[
        (
            "sev-snp-policy",
            (
                &["0x30000", "0x130000", "0x30137", "196608"],
                &["0x20000", "0xb0000", "0x70000", "x"],
            ),
        ),
        (
            "sev-snp-id-block",
            (&["@id-block@"], &["@id-block-of-another-policy@"]),
        ),
        (
            "sev-snp-id-auth",
            (&["@id-auth@", "@id-auth-with-author@"], &["AAAA"]),
        ),
        ("sev-snp-author-key", (&["off", "auto"], &["on", "maybe"])),
        ("sev-snp-vcek-disabled", (&["true", "false"], &["x"])),
        ("firmware", (&["auto", "bios"], &["igvm"])),
    ],
    facts: &[
        (
            "cpuid(0x8000001f)",
            (
                &["1780bff 4173 1fd 64", "3 416f 1fd 64"],
                &["1 0 0 0", "denied"],
            ),
        ),
        (
            "read-text(/sys/devices/system/cpu/smt/active)",
            (&["text: 0\n", "denied"], &["text: x"]),
        ),
        (
            "kvm-device-attribute(1/1)",
            (&["absent", "denied"], &["failed: x"]),
        ),
        ("device(/dev/sev)", (&["denied"], &["failed: x", "absent"])),
        (
            "qemu-machine(q35)",
            (&["text: pc-q35-9.2"], &["denied", "absent"]),
        ),
    ],
};

const TDX: Choices = Choices {
    cpus: (&["", "host"], &["EPYC", "max"]),
    memory_mib: (&[1, 2048, 3000, 65_536], &[0, 61_441, 65_537]),
    firmware: (
        &["OVMF.fd"],
        &["no-tdx.fd", "payload.fd", "odd-size.fd", "noise"],
    ),
    identities: (&["", "raw:00", SHA_256], &["raw:"]),
    settings: &[
        (
            "tdx-attributes",
            (
                &[
                    "0x10000000",
                    "0x50000000",
                    "0x8000000010000000",
                    "0x40000000",
                ],
                &["0x10000001", "0x2", "x"],
            ),
        ),
        ("tdx-sept-ve-disable", (&["true", "false"], &["x"])),
    ],
    facts: &[
        (
            "socket(/var/run/tdx-qgs/qgs.socket)",
            (&["absent", "denied", "failed: x"], &["present"]),
        ),
        (
            "read-text(/sys/devices/system/cpu/present)",
            (&["denied", "text: x"], &["text: 0\n"]),
        ),
        (
            "read-text(/sys/fs/cgroup/misc.capacity)",
            (&["absent", "denied"], &["text: tdx 1"]),
        ),
        (
            "qemu-machine(q35)",
            (&["text: pc-q35-10.0"], &["denied", "absent"]),
        ),
    ],
};

fn cases(choices: &'static Choices) -> impl Strategy<Value = Case> {
    (
        prop::bool::weighted(0.25),
        number(VCPUS),
        number(choices.memory_mib),
        one(choices.cpus),
        one(choices.firmware),
        one(choices.identities),
        some(choices.settings),
        some(choices.facts),
    )
        .prop_map(
            |(from_disk, vcpus, memory_mib, cpu, firmware, identity, request, facts)| Case {
                name: "random".to_owned(),
                boot: from_disk.then(|| "disk".to_owned()),
                vcpus: Some(vcpus),
                memory_mib: Some(memory_mib),
                facts: facts
                    .into_iter()
                    .map(|(key, value)| (key, toml::Value::String(value)))
                    .chain(["9.2", "10.0"].map(|version| {
                        let key = format!("qemu-type(pc-q35-{version}-machine)");
                        (key, toml::Value::String("present".to_owned()))
                    }))
                    .chain(cpu.iter().map(|cpu| {
                        let key = format!("qemu-type({cpu}-x86_64-cpu)");
                        (key, toml::Value::String("present".to_owned()))
                    }))
                    .collect(),
                cpu,
                files: firmware
                    .into_iter()
                    .map(|name| ("firmware".to_owned(), name))
                    .collect(),
                identity,
                request,
                ..Case::default()
            },
        )
}

fn hold(backend: &'static str, choices: &'static Choices) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let _inside = runtime.enter();
    let Some(site) = Site::open(backend) else {
        return;
    };
    let (planned, refused) = (Cell::new(0_u32), Cell::new(0_u32));
    let config = Config {
        cases: RUNS,
        failure_persistence: None,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&cases(choices), |case| {
        match runtime.block_on(site.run(&case)) {
            Outcome::Planned(launch) => {
                planned.set(planned.get() + 1);
                let asked = asked_for(&case);
                let mut violations = check(&launch.arguments, &world(&site, &case, &launch));
                violations.retain(|violation| !asked.contains(violation.rule));
                prop_assert!(violations.is_empty(), "{violations:?}");
            }
            Outcome::Refused(error) => {
                refused.set(refused.get() + 1);
                prop_assert!(!error.subject.is_empty() && !error.message.is_empty());
                prop_assert!(!error.remedy.is_empty());
            }
            // A setting that is not of its form.
            Outcome::Unfit(_) => refused.set(refused.get() + 1),
        }
        Ok(())
    });
    println!(
        "{backend}: {} planned, {} refused",
        planned.get(),
        refused.get()
    );
    assert!(planned.get() >= RUNS / 5, "too few requests are accepted");
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn what_sev_snp_accepts_breaks_no_rule() {
    hold("sev-snp", &SEV_SNP);
}

#[test]
fn what_tdx_accepts_breaks_no_rule() {
    hold("tdx", &TDX);
}
