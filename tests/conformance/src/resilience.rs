//! L3: a host that fails, and budgets. Budgets are the suite's own, with a reason each; only what the
//! host itself would end is a MUST.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use casemate_host::backend::{BackendEngine, Limits, LoadedBackend, Tier};

use crate::catalogue as checks;
use crate::contract::different;
use crate::draft::{Content, Draft};
use crate::ledger::Ledger;
use crate::subject::{Outcome, Subject, Trial};

/// A caller waits for a plan, and a list of backends is asked one after the other.
const PLAN_BUDGET: Duration = Duration::from_millis(50);
/// A daemon compiles every backend when it starts.
const COMPILE_BUDGET: Duration = Duration::from_secs(10);
/// What it compiles, it reads first, and its digest is taken.
const SIZE_BUDGET: usize = 2 << 20;
/// The other three quarters are room for firmware that grows.
const MEMORY_SHARE: usize = 4;
/// Calls of one run, as many as VMs on a host and more.
const CALLS: usize = 1_000;
/// Calls until allocator and runtime have what they keep.
const WARM_UP: usize = 100;
/// What the host's memory may grow by over the rest of them. A leak of one request would be more.
const GROWTH: u64 = 16 << 20;
/// What a fact takes on a host that is busy.
const SLOW_FACT: Duration = Duration::from_millis(40);

/// What is known of the component from its loading.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Component<'a> {
    pub(crate) path: &'a Path,
    pub(crate) tier: Tier,
    pub(crate) bytes: usize,
    pub(crate) compiled: Duration,
}

pub(crate) fn run(
    subject: &Subject,
    ledger: &mut Ledger,
    start: &Draft,
    component: &Component<'_>,
) {
    let problem = (component.bytes > SIZE_BUDGET).then(|| {
        format!(
            "it has {} KiB, more than {}",
            component.bytes >> 10,
            SIZE_BUDGET >> 10
        )
    });
    ledger.judge(&checks::SMALL, problem, None);
    let problem = (component.compiled > COMPILE_BUDGET).then(|| {
        format!(
            "it took {:?}, more than {COMPILE_BUDGET:?}",
            component.compiled
        )
    });
    ledger.judge(&checks::COMPILE_TIME, problem, None);
    files(subject, ledger, start);
    slow_facts(subject, ledger, start);
    many(subject, ledger, start);
    memory(subject, ledger, start, component);
}

/// Reads that fail, at the start and half-way.
fn files(subject: &Subject, ledger: &mut Ledger, start: &Draft) {
    for file in &start.files {
        let Content::Named(name) = &file.content else {
            continue;
        };
        for content in [
            Content::Missing,
            Content::Unreadable(name.clone()),
            Content::Shortened(name.clone()),
        ] {
            let draft = start.with_content(&file.role, &content);
            let trial = Trial::new(
                &checks::FILES_FAIL,
                format!("the {} is {content:?}", file.role),
            );
            subject.check(ledger, &draft, &trial);
            subject.plan(ledger, &draft, &trial);
        }
    }
}

fn slow_facts(subject: &Subject, ledger: &mut Ledger, start: &Draft) {
    let trial = Trial::new(
        &checks::SLOW_FACTS,
        format!("facts that take {SLOW_FACT:?} each"),
    );
    let host = Arc::new(subject.host(start).slow(SLOW_FACT));
    subject.plan_with(ledger, start, &trial, host, Vec::new);
}

/// Called again and again.
fn many(subject: &Subject, ledger: &mut Ledger, start: &Draft) {
    let trial = Trial::new(&checks::FLAT, format!("one of {CALLS} calls"));
    let first = subject.plan(ledger, start, &trial);
    if let Outcome::Broken(_) = first {
        return;
    }
    let first = first.answer();
    let mut times = Vec::with_capacity(CALLS);
    let mut before = None;
    for index in 1..CALLS {
        if index == WARM_UP {
            before = resident();
        }
        let outcome = subject.plan(ledger, start, &trial);
        if let Outcome::Broken(_) = outcome {
            // The ledger has why, and each of the others could take as long.
            break;
        }
        let answer = outcome.answer();
        if let Some(problem) = different(&first, &answer) {
            ledger.fail(
                &checks::FLAT,
                format!("call {index}: {problem}"),
                Some(start),
            );
            return;
        }
        if let Outcome::Planned(planned) = outcome {
            times.push(planned.elapsed);
        }
    }
    match (before, resident()) {
        (Some(before), Some(after)) => {
            let grown = after.saturating_sub(before);
            let problem =
                (grown > GROWTH).then(|| format!("{} MiB more after {CALLS} calls", grown >> 20));
            ledger.judge(&checks::FLAT, problem, None);
        }
        _ => ledger.skip(&checks::FLAT, "/proc/self/statm does not tell"),
    }
    times.sort_unstable();
    match times.get(times.len() / 2) {
        Some(median) => {
            let problem = (*median > PLAN_BUDGET)
                .then(|| format!("{median:?} in the median, more than {PLAN_BUDGET:?}"));
            ledger.judge(&checks::PLAN_TIME, problem, None);
        }
        None => ledger.skip(&checks::PLAN_TIME, "no request became a plan"),
    }
}

/// Bytes of this process that are in memory.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * PAGE)
}

/// The least page of any machine: a greater one makes the figure smaller and no wrong one greater.
const PAGE: u64 = 4096;

/// The same backend with less memory.
fn memory(subject: &Subject, ledger: &mut Ledger, start: &Draft, component: &Component<'_>) {
    if component.tier == Tier::Std {
        ledger.skip(
            &checks::MEMORY,
            "the memory of the tier std is for the runtime of a language",
        );
        return;
    }
    let path = component.path;
    let limits = Limits::default();
    let less = Limits {
        memory_bytes: limits.memory_bytes / MEMORY_SHARE,
        ..limits
    };
    let loaded = BackendEngine::new(less).ok().map(|engine| {
        let config = crate::load::config(path, component.tier);
        subject
            .runtime()
            .block_on(LoadedBackend::load(&engine, &config, &[]))
    });
    let problem = match loaded {
        Some(Ok(backend)) => {
            let subject = subject.of_another_config(backend);
            let trial = Trial::new(&checks::MEMORY, "a call with less memory");
            let mut seen = Ledger::default();
            let outcome = subject.plan(&mut seen, start, &trial);
            matches!(outcome, Outcome::Broken(_))
                .then(|| format!("a plan is not made within {} MiB", less.memory_bytes >> 20))
        }
        Some(Err(error)) => Some(format!(
            "it is not loaded within {} MiB: {error}",
            less.memory_bytes >> 20
        )),
        None => {
            ledger.skip(&checks::MEMORY, "a second engine does not start");
            return;
        }
    };
    ledger.judge(&checks::MEMORY, problem, None);
}
