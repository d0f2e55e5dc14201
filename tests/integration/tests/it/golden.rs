//! Requests, and what becomes of them: the arguments of a launch, or a refusal in words.
//!
//! A backend's cases are `plugins/NAME/tests/golden/cases.toml`; beside them lies for each its
//! outcome: `.args` with one argument a line, or `.refused` with code, subject, message and remedy.
//! `CASEMATE_UPDATE_GOLDEN=1` writes them anew, for a person to read the difference.
//!
//! What is written once is not right for that: each list of arguments is held against the rules of
//! `casemate-rules`, which shares no code with backends and host, and against QEMU itself. And each
//! rule of a backend has a case that misses it: `cargo xtask mutants` takes them out one by one.

mod images;
mod live;
mod random;
mod site;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use casemate_rules::{Debugging, Smt, World, check};

use casemate_conformance::golden::Text;
use casemate_conformance::golden::cases::Case;
use site::{Launch, Outcome, Site};

/// The fewest cases of a backend, so that none gets lost.
const FEWEST: usize = 40;
const UPDATE: &str = "CASEMATE_UPDATE_GOLDEN";

/// The argument lists of protected guests that a test looks at.
const BACKENDS: [&str; 2] = ["sev-snp", "tdx"];

/// Where the cases of a backend lie.
fn folder(backend: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../plugins")
        .join(backend)
        .join("tests/golden")
}

fn outcome_text(outcome: &Outcome) -> Text {
    match outcome {
        Outcome::Planned(launch) => {
            Text::planned(&launch.arguments, launch.checked.plan(), &launch.findings)
        }
        Outcome::Refused(error) => Text::refused(error),
        Outcome::Unfit(reason) => Text::unfit(reason),
    }
}

/// Writes what became of the case, or holds it against what is written.
fn compare(folder: &Path, case: &Case, outcome: &Outcome) -> Result<(), String> {
    let text = outcome_text(outcome);
    if std::env::var_os(UPDATE).is_some() {
        let written = text.write(folder, &case.name);
        written.expect("an outcome can be written");
        return Ok(());
    }
    match text.compare(folder, &case.name) {
        None => Ok(()),
        Some(difference) => Err(difference),
    }
}

/// What the rules have to know of a case, from the case and not from the backend.
fn world(site: &Site, case: &Case, launch: &Launch) -> World {
    let facts = |key: &str| case.facts.get(key).or_else(|| site.cases.host.get(key));
    let cbit = facts("cpuid(0x8000001f)").and_then(|value| {
        let ebx = value.as_str()?.split(' ').nth(1)?;
        Some(u32::from_str_radix(ebx, 16).ok()? & 0x3f)
    });
    let set = case.operator.get("sev-snp-cbitpos");
    let set = set.and_then(|value| u32::try_from(value.as_integer()?).ok());
    let bits = facts("kvm-device-attribute(1/1)").and_then(toml::Value::as_integer);
    let smt = facts("read-text(/sys/devices/system/cpu/smt/active)");
    let name = launch.request.file_with_role("firmware");
    let name = name.map_or_else(|| "noise".to_owned(), |file| file.label());
    World {
        cbit: cbit.or(set),
        cpus: cpus(facts("read-text(/sys/devices/system/cpu/present)")),
        smt: match smt.and_then(toml::Value::as_str) {
            Some("text: 1\n") => Smt::On,
            Some("text: 0\n") => Smt::Off,
            _ => Smt::Unknown,
        },
        snp_policy_bits: bits.map(|bits| u64::try_from(bits).expect("a mask")),
        snp_abi: None,
        debugging: Debugging::NotAsked,
        identity: case
            .identity()
            .expect("an identity")
            .map(|(_, digest)| digest),
        firmware: images::known(&name),
    }
}

/// CPUs of a case's host; where nobody can tell, the rule about them is not judged.
fn cpus(present: Option<&toml::Value>) -> u32 {
    match present.and_then(toml::Value::as_str) {
        Some("text: 0-7\n") => 8,
        Some("text: 0-1,4-5\n") => 4,
        Some("text: 0\n") => 1,
        _ => u32::MAX,
    }
}

/// Rules that a case breaks because somebody asked for it by name, and was warned.
fn asked_for(case: &Case) -> BTreeSet<&'static str> {
    let mut asked = BTreeSet::new();
    if case.operator.contains_key("sev-snp-reduced-phys-bits") {
        asked.insert("snp.reduced-phys-bits");
    }
    let wish = |key: &str| case.request.get(key).map(String::as_str);
    // Bit 28 by either of its two names.
    let attributes = wish("tdx-attributes").and_then(|text| text.strip_prefix("0x"));
    let attributes = attributes.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    if wish("tdx-sept-ve-disable") == Some("false")
        || attributes.is_some_and(|attributes| attributes & 1 << 28 == 0)
    {
        asked.extend(["tdx.sept-ve-disable", "tdx.attributes-sept-ve"]);
    }
    asked
}

async fn run(backend: &'static str) {
    let Some(site) = Site::open(backend) else {
        return;
    };
    let folder = folder(backend);
    let mut names = BTreeSet::new();
    let mut wrong = Vec::new();
    let (mut planned, mut refused) = (0, 0);
    for case in &site.cases.cases {
        assert!(
            names.insert(case.name.clone()),
            "{} is there twice",
            case.name
        );
        let outcome = site.run(case).await;
        if let Err(difference) = compare(&folder, case, &outcome) {
            wrong.push(difference);
        }
        let Outcome::Planned(launch) = outcome else {
            refused += 1;
            continue;
        };
        planned += 1;
        let asked = asked_for(case);
        for violation in check(&launch.arguments, &world(&site, case, &launch)) {
            if !asked.contains(violation.rule) {
                wrong.push(format!(
                    "{}: breaks rule {}: {}",
                    case.name, violation.rule, violation.detail
                ));
            }
        }
    }
    for entry in std::fs::read_dir(&folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        let name = path.file_stem().expect("a file").to_string_lossy();
        if path.extension().is_some_and(|kind| kind != "toml") && !names.contains(name.as_ref()) {
            wrong.push(format!("{} is the outcome of no case", path.display()));
        }
    }
    println!("{backend}: {planned} planned, {refused} refused");
    assert!(names.len() >= FEWEST, "{} cases", names.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn requests_for_plain_kvm_become_what_is_written() {
    run("plain-kvm").await;
}

#[tokio::test]
async fn requests_for_sev_snp_become_what_is_written() {
    run("sev-snp").await;
}

#[tokio::test]
async fn requests_for_tdx_become_what_is_written() {
    run("tdx").await;
}

/// `docs/launch-failures.md` says what a person would read; the cases say whether that is so.
#[test]
fn the_table_of_launch_failures_quotes_the_cases() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/launch-failures.md");
    let text = std::fs::read_to_string(path).expect("the document is there");
    let mut rows = 0;
    for line in text.lines() {
        let Some((rest, shown_by)) = line
            .strip_suffix("` |")
            .and_then(|line| line.rsplit_once(" | `"))
        else {
            continue;
        };
        let Some((backend, case)) = shown_by.split_once('/') else {
            continue;
        };
        let (_, said) = rest.rsplit_once(" | ").expect("three columns");
        let outcome = ["refused", "args"]
            .map(|kind| folder(backend).join(format!("{case}.{kind}")))
            .into_iter()
            .find(|path| path.exists());
        let outcome = outcome.unwrap_or_else(|| panic!("there is no case {shown_by}"));
        let outcome = std::fs::read_to_string(outcome).expect("it was there");
        let says_nothing = said.starts_with("nothing: ");
        assert!(says_nothing || outcome.contains(said), "{shown_by}: {said}");
        rows += 1;
    }
    assert!(rows >= 20, "{rows}");
}
