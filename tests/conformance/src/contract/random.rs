//! Requests by chance, from a seed that repeats them, each shrunk to the least that shows a fault.

use std::cell::RefCell;

use casemate_host::backend::{SettingKind, SettingSpec};
use casemate_host::spec::Origin;
use casemate_host::spec::facts::{FactFailure, FactQuestion};
use casemate_host::spec::identity::{Identity, IdentitySource};
use casemate_host::spec::request::{Accelerator, Choice, Setting};
use proptest::prelude::*;
use proptest::strategy::Union;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::{to_disk, values};
use crate::catalogue::{self as checks, Check, Force};
use crate::draft::{Content, Draft, FactDraft};
use crate::ledger::Ledger;
use crate::subject::{Outcome, Subject, Trial};

/// What chance starts from, and how far it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chance {
    pub seed: u64,
    pub cases: u32,
}

/// Different faults that one run looks for.
const MOST_FAULTS: usize = 4;
/// Steps of shrinking. Each is a call of some milliseconds.
const SHRINK_STEPS: u32 = 512;

pub(super) fn run(subject: &Subject, ledger: &mut Ledger, draft: &Draft, chance: &Chance) {
    let asked = match subject.plan(ledger, draft, &trial()) {
        Outcome::Planned(planned) => planned.asked,
        Outcome::Refused(refused) => refused.asked,
        Outcome::Broken(_) => Vec::new(),
    };
    let strategy = drafts(draft, &subject.info().settings, &asked);
    for _ in 0..MOST_FAULTS {
        let known = RefCell::new(ledger.clone());
        let mut runner = TestRunner::new_with_rng(
            Config {
                cases: chance.cases,
                failure_persistence: None,
                max_shrink_iters: SHRINK_STEPS,
                ..Config::default()
            },
            rng(chance.seed),
        );
        let found = runner.run(&strategy, |draft| {
            let mut seen = Ledger::default();
            attempt(subject, &mut seen, &draft);
            match new_fault(&known.borrow(), &seen) {
                Some(check) => Err(TestCaseError::fail(check.id)),
                None => Ok(()),
            }
        });
        let Err(proptest::test_runner::TestError::Fail(_, least)) = found else {
            break;
        };
        attempt(subject, ledger, &least);
        if new_fault(&known.borrow(), ledger).is_none() {
            break;
        }
    }
    ledger.tried(&checks::PLAN_ANSWERS);
}

fn trial() -> Trial {
    Trial::new(&checks::PLAN_ANSWERS, "a request by chance")
}

fn attempt(subject: &Subject, ledger: &mut Ledger, draft: &Draft) {
    subject.check(
        ledger,
        draft,
        &Trial::new(&checks::CHECK_ANSWERS, "a host by chance"),
    );
    subject.plan(ledger, draft, &trial());
}

/// A check that failed and had not before. A trap that another part found already is not found again
/// by chance.
fn new_fault(known: &Ledger, seen: &Ledger) -> Option<&'static Check> {
    static BY_TRAPS: [&Check; 12] = [
        &checks::FACTS_FAIL,
        &checks::FACT_TEXTS,
        &checks::VALUES_TAKEN,
        &checks::VALUES_REFUSED,
        &checks::IDENTITY_WHOLE,
        &checks::MACHINE_NAMED,
        &checks::CPU_NAMED,
        &checks::HOSTILE_FILES,
        &checks::HOSTILE_TEXTS,
        &checks::EXTREME_SIZES,
        &checks::BOOT,
        &checks::FILES_USED,
    ];
    let has_trapped = BY_TRAPS.iter().any(|check| known.has_failed(check));
    seen.failed().filter_map(checks::by_id).find(|check| {
        let is_trap = **check == checks::PLAN_ANSWERS || **check == checks::CHECK_ANSWERS;
        check.force == Force::Must && !known.has_failed(check) && !(is_trap && has_trapped)
    })
}

fn rng(seed: u64) -> TestRng {
    let mut bytes = [0; 32];
    for (chunk, turn) in bytes.chunks_mut(8).zip(0_u32..) {
        chunk.copy_from_slice(&seed.rotate_left(turn * 16).to_le_bytes());
    }
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

fn setting(specs: &[SettingSpec]) -> BoxedStrategy<Vec<Setting>> {
    // A file of a setting is a file of the request, and no value alone.
    let plain = |spec: &&SettingSpec| !matches!(spec.kind, SettingKind::File);
    if !specs.iter().any(|spec| plain(&spec)) {
        return Just(Vec::new()).boxed();
    }
    let one = specs.iter().filter(plain).map(|spec| {
        let key = spec.key.clone();
        let origin = if spec.per_request {
            Origin::Request
        } else {
            Origin::Operator
        };
        let values = values::of_kind(&spec.kind, 0);
        prop::sample::select(values)
            .prop_map(move |value| Setting {
                key: key.clone(),
                value,
                origin,
            })
            .boxed()
    });
    prop::collection::vec(Union::new(one), 0..4)
        .prop_map(|mut settings| {
            settings.reverse();
            let mut seen = std::collections::BTreeSet::new();
            settings.retain(|setting| seen.insert(setting.key.clone()));
            settings
        })
        .boxed()
}

fn fact_changes(asked: &[FactQuestion]) -> BoxedStrategy<Vec<FactDraft>> {
    if asked.is_empty() {
        return Just(Vec::new()).boxed();
    }
    let failure = prop_oneof![
        Just(FactFailure::Denied),
        Just(FactFailure::Absent),
        Just(FactFailure::Failed("by chance".to_owned())),
    ];
    let one =
        (prop::sample::select(asked.to_vec()), failure).prop_map(|(question, failure)| FactDraft {
            question,
            answer: Err(failure),
        });
    prop_oneof![4 => Just(Vec::new()), 1 => prop::collection::vec(one, 1..3)].boxed()
}

fn choice(usual: Option<Choice>, names: &'static [&'static str]) -> BoxedStrategy<Option<Choice>> {
    let origin = prop::sample::select(vec![Origin::BuiltIn, Origin::Operator, Origin::Request]);
    let named = (prop::sample::select(names), origin).prop_map(|(name, origin)| {
        Some(Choice {
            value: name.to_owned(),
            origin,
        })
    });
    prop_oneof![5 => Just(usual), 1 => Just(None), 2 => named].boxed()
}

fn identity() -> impl Strategy<Value = Option<Identity>> {
    let one = prop::sample::select(vec![
        ("sha-256", 32),
        ("sha-384", 48),
        ("raw", 7),
        ("raw", 64),
    ]);
    let one = (one, any::<u8>()).prop_map(|((algorithm, length), byte)| {
        Some(Identity {
            algorithm: algorithm.to_owned(),
            digest: (0..length).map(|index| byte.wrapping_add(index)).collect(),
            source: IdentitySource::Request,
        })
    });
    prop_oneof![3 => Just(None), 1 => one]
}

/// What a daemon would pass on: of the forms that it checks, and of any value in them.
fn drafts(
    usual: &Draft,
    specs: &[SettingSpec],
    asked: &[FactQuestion],
) -> impl Strategy<Value = Draft> + use<> {
    let usual = usual.clone();
    let size = (
        prop_oneof![Just(usual.vcpus), 1_u32..=4096],
        prop_oneof![
            Just(usual.memory_bytes),
            (1_u64..=1 << 24).prop_map(|mib| mib << 20)
        ],
    );
    let names = (
        choice(
            usual.machine.clone(),
            &["q35", "pc", "pc-q35-10.1", "pc-q35-10.0", "virt", "none"],
        ),
        choice(
            usual.cpu.clone(),
            &["EPYC", "EPYC-v4", "EPYC-Milan-v2", "host", "max", "qemu64"],
        ),
    );
    let boot = (
        prop::bool::weighted(0.2),
        prop_oneof![3 => Just(usual.kernel_cmdline.clone()), 1 => "[ -~äß☃]{0,60}"],
        prop::bool::weighted(0.1),
    );
    let files = prop::collection::vec(prop::bool::weighted(0.06), usual.files.len());
    let rest = (setting(specs), fact_changes(asked), identity(), files);
    (size, names, boot, rest).prop_map(
        move |(
            (vcpus, memory_bytes),
            (machine, cpu),
            (from_disk, kernel_cmdline, with_tcg),
            (settings, facts, identity, odd_files),
        )| {
            let mut draft = usual.clone();
            draft.vcpus = vcpus;
            draft.memory_bytes = memory_bytes;
            draft.machine = machine;
            draft.cpu = cpu;
            draft.kernel_cmdline = kernel_cmdline;
            draft.identity = identity;
            for setting in settings {
                draft = draft.with_setting(setting);
            }
            draft.facts = facts;
            if with_tcg {
                draft.accelerator = Accelerator::Tcg;
            }
            if from_disk {
                to_disk(&mut draft);
            }
            let odd = draft
                .files
                .iter_mut()
                .zip(odd_files)
                .filter(|(_, is_odd)| *is_odd);
            for (file, _) in odd {
                file.content = Content::Noise {
                    bytes: 4096,
                    seed: 9,
                };
            }
            draft
        },
    )
}
