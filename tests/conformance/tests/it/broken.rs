//! Components that break one rule each: the command exits with 1, and of all MUST that rule's check fails
//! and no other.
//!
//! Most of them are one component, `tests/fixtures/broken`, with another mark in its bytes. What a
//! component is before anything of it runs is made in `made`.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::command::{component, details, failed_should, judge, run, with_status};
use crate::made;

/// Bytes of the mark, as the fixture has it.
const MARK: usize = 48;
const PREFIX: &str = "casemate-fault:";
/// Threads that try components: each waits for compilations and for two deadlines.
const THREADS: usize = 3;

/// Each fault of the fixture, and the check that is made for it.
const FAULTS: &[(&str, &str)] = &[
    ("describe-traps", "L0-07"),
    ("describe-unsound", "L0-08"),
    ("extra-unknown-value", "L0-08"),
    ("describe-asks", "L0-10"),
    ("need-unknown", "L0-11"),
    ("need-without-match", "L0-11"),
    ("no-architecture", "L0-13"),
    ("plan-traps", "L1-01"),
    ("chance-traps", "L1-01"),
    ("check-traps", "L1-02"),
    ("loops", "L1-03"),
    ("hoards", "L1-03"),
    ("floods", "L1-03"),
    ("oversized", "L1-03"),
    ("extras-refused", "L1-06"),
    ("default-refused", "L1-08"),
    ("value-refused-unnamed", "L1-09"),
    ("asks-unannounced", "L1-11"),
    ("asks-without-form", "L1-11"),
    ("measure-asks-unannounced", "L1-11"),
    ("fact-traps", "L1-12"),
    ("fact-text-traps", "L1-14"),
    ("finding-control", "L1-15"),
    ("finding-id", "L1-15"),
    ("warning-without-remedy", "L1-16"),
    ("pass-with-remedy", "L1-16"),
    ("fail-and-plan", "L1-17"),
    ("error-without-remedy", "L1-19"),
    ("error-control", "L1-19"),
    ("identity-cut", "L1-21"),
    ("identity-dropped", "L1-21"),
    ("identity-of-none", "L1-21"),
    ("identity-at-the-right", "L1-21"),
    ("carrier-invented", "L1-22"),
    ("machine-replaced", "L1-23"),
    ("shares-refused-machine-replaced", "L1-23"),
    ("cpu-replaced", "L1-24"),
    ("default-replaced-silently", "L1-25"),
    ("file-left", "L1-26"),
    ("guard-missing", "L1-27"),
    ("guard-ghost", "L1-28"),
    ("object-unannounced", "L1-29"),
    ("property-unannounced", "L1-29"),
    ("device-unannounced", "L1-30"),
    ("machine-text", "L1-31"),
    ("cpu-comma", "L1-31"),
    ("path-as-text", "L1-32"),
    ("file-as-value", "L1-32"),
    ("path-that-climbs", "L1-32"),
    ("host-owned-machine", "L1-33"),
    ("host-owned-smp", "L1-33"),
    ("host-owned-size", "L1-33"),
    ("host-owned-virtio", "L1-33"),
    ("id-missing", "L1-34"),
    ("id-twice", "L1-34"),
    ("id-of-the-host", "L1-34"),
    ("text-newline", "L1-35"),
    ("property-twice", "L1-35"),
    ("file-foreign", "L1-36"),
    ("generated-over-a-file", "L1-36"),
    ("boot-without-kernel", "L1-37"),
    ("kernel-beside-disk", "L1-37"),
    ("boot-traps", "L1-37"),
    ("machine-alias", "L1-38"),
    ("ability-unknown", "L1-39"),
    ("ability-twice", "L1-39"),
    ("lease-name", "L1-40"),
    ("lease-of-none", "L1-40"),
    ("transport-unknown", "L1-41"),
    ("overhead-huge", "L1-41"),
    ("extra-key", "L1-42"),
    ("fail-in-plan", "L1-43"),
    ("firmware-option", "L1-44"),
    ("file-traps", "L1-45"),
    ("text-traps", "L1-46"),
    ("size-traps", "L1-47"),
    ("traps-at-a-thousand", "L1-47"),
    ("foreign-read", "L1-48"),
    ("measure-traps", "L1-49"),
    ("measure-refuses", "L1-49"),
    ("register-twice", "L1-50"),
    ("register-algorithm", "L1-50"),
    ("register-source", "L1-50"),
    ("register-zeros", "L1-51"),
    ("register-short", "L1-51"),
    ("register-without-reason", "L1-52"),
    ("register-of-one-choice", "L1-52"),
    ("register-stuck", "L1-54"),
    ("elsewhere-traps", "L1-55"),
    ("parse-traps", "L1-56"),
    ("tool-by-path", "L1-57"),
    ("identity-refused", "L1-58"),
    ("cmdline-left", "L1-59"),
    ("smp-too-small", "L1-60"),
    ("register-of-nothing", "L1-61"),
    ("refused-misspelt", "L1-62"),
    ("refused-control", "L1-62"),
    ("refused-without-end", "L1-62"),
    ("built-in-refused", "L1-63"),
];

/// What breaks a SHOULD and decides nothing.
const LESSER_FAULTS: &[(&str, &str)] = &[("form-ignored", "L1-10")];

/// What is unusual and breaks no rule.
const ODDITIES: &[&str] = &[
    "cmdline-left-and-told",
    "disk-only",
    "measures-a-part",
    "shares-refused",
];

/// What keeps a claim from ever being tried, and the claims that are left open.
const UNTRIED: &[(&str, &[&str])] = &[
    (
        "plan-refuses",
        &["backend", "settings", "guard", "measures", "tool"],
    ),
    (
        "setting-required",
        &["backend", "settings", "guard", "measures", "tool"],
    ),
];

/// The fixture with this fault, or with `none`.
pub(crate) fn with_fault(fault: &str) -> Vec<u8> {
    let mut bytes = std::fs::read(component("broken")).expect("the fixture is built");
    let mark = format!("{PREFIX}none.");
    let found: Vec<usize> = (0..bytes.len())
        .filter(|at| bytes[*at..].starts_with(mark.as_bytes()))
        .collect();
    let [at] = found[..] else {
        panic!("the mark is there {} times", found.len());
    };
    let mark = format!("{PREFIX}{fault}");
    assert!(mark.len() < MARK, "{fault}");
    let mark = format!("{mark:.<MARK$}");
    bytes[at..at + MARK].copy_from_slice(mark.as_bytes());
    bytes
}

/// Levels of no use here are left out: budgets, and golden requests that there are none of.
fn attempt(path: &Path, check: &str) -> Result<(), String> {
    let (code, report) = judge(path, &["--level", "L2", "--cases", "150"]);
    let failed = with_status(&report, "fail", "MUST");
    if code == 1 && failed == [check] {
        return Ok(());
    }
    Err(format!(
        "wanted is {check}; exit code {code}, failed {failed:?}\n{}",
        details(&report)
    ))
}

/// What is wrong with any of them.
fn attempt_all(components: Vec<(String, PathBuf, &'static str)>) -> Vec<String> {
    let queue = Mutex::new(components);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no thread fails").pop();
                    let Some((name, path, check)) = next else {
                        return;
                    };
                    if let Err(difference) = attempt(&path, check) {
                        let told = format!("{name}: {difference}");
                        wrong.lock().expect("no thread fails").push(told);
                    }
                }
            });
        }
    });
    wrong.into_inner().expect("no thread fails")
}

#[test]
fn without_a_fault_the_fixture_conforms() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("relic.wasm");
    std::fs::write(&path, with_fault("none")).expect("a file");
    let (code, report) = judge(&path, &[]);
    assert_eq!(code, 0, "{}", details(&report));
    let failed = failed_should(&report);
    assert!(failed.is_empty(), "{}", details(&report));
    assert_eq!(report["verdict"], "conforms");
    // It claims all that a component can, so that each fault has a check that is tried.
    let skipped = with_status(&report, "skip", "MUST");
    let without_golden = ["L2-01", "L2-02", "L2-04"];
    assert_eq!(skipped, without_golden);
}

#[test]
fn each_fault_fails_the_check_that_is_made_for_it_and_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let components = FAULTS.iter().map(|(fault, check)| {
        let path = folder.path().join(format!("{fault}.wasm"));
        std::fs::write(&path, with_fault(fault)).expect("a file");
        ((*fault).to_owned(), path, *check)
    });
    let wrong = attempt_all(components.collect());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn what_breaks_no_must_is_no_failure() {
    let folder = tempfile::tempdir().expect("a folder");
    let judged = |mark: &str| {
        let path = folder.path().join(format!("{mark}.wasm"));
        std::fs::write(&path, with_fault(mark)).expect("a file");
        judge(&path, &["--level", "L2", "--cases", "50"])
    };
    for (fault, check) in LESSER_FAULTS {
        let (code, report) = judged(fault);
        assert_eq!(code, 0, "{fault}: {}", details(&report));
        assert_eq!(failed_should(&report), [*check], "{fault}");
    }
    for oddity in ODDITIES {
        let (code, report) = judged(oddity);
        assert_eq!(code, 0, "{oddity}: {}", details(&report));
        assert_eq!(
            report["verdict"], "conforms",
            "{oddity}: {}",
            report["sentence"]
        );
        let failed = failed_should(&report);
        assert!(failed.is_empty(), "{oddity}: {}", details(&report));
    }
}

/// Nothing fails, and nothing is said to conform.
#[test]
fn a_claim_that_is_never_tried_is_not_proven() {
    let folder = tempfile::tempdir().expect("a folder");
    for (mark, claims) in UNTRIED {
        let path = folder.path().join(format!("{mark}.wasm"));
        std::fs::write(&path, with_fault(mark)).expect("a file");
        let arguments = ["--level", "L2", "--cases", "20"];
        let (code, report) = judge(&path, &arguments);
        assert_eq!(code, 0, "{mark}: {}", details(&report));
        assert_eq!(report["verdict"], "not-proven", "{mark}");
        let unproven = report["unproven"].as_array().expect("a list").iter();
        let unproven: Vec<&str> = unproven.filter_map(|one| one["claim"].as_str()).collect();
        assert_eq!(unproven, *claims, "{mark}");
        let sentence = report["sentence"].as_str().expect("a sentence");
        assert!(
            sentence.starts_with("it is not proven that it conforms to L2"),
            "{sentence}"
        );
        let strict = [&arguments[..], &["--proven"]].concat();
        assert_eq!(judge(&path, &strict).0, 1, "{mark}");
        for format in ["human", "junit", "tap"] {
            let path = path.display().to_string();
            let all = [&[path.as_str(), "--format", format], &arguments[..]].concat();
            let text = String::from_utf8(run(&all).stdout).expect("text");
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            for part in ["not-proven:guard", "not proven: guard"] {
                if text.contains(part) == (part.contains('-') == (format == "junit")) {
                    continue;
                }
                panic!("{format} of {mark}: {text}");
            }
            assert!(text.contains("no plan had a guard"), "{format}");
        }
    }
}

#[test]
fn what_is_no_backend_fails_the_check_that_is_made_for_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let components = made::components().into_iter().map(|(name, bytes, check)| {
        let path = folder.path().join(format!("{name}.wasm"));
        std::fs::write(&path, bytes).expect("a file");
        (name.to_owned(), path, check)
    });
    let wrong = attempt_all(components.collect());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// A fault that the fixture does not know would be no fault.
#[test]
fn the_faults_are_those_of_the_fixture() {
    let folder = crate::command::workspace().join("tests/fixtures/broken/src");
    let mut sources = String::new();
    for entry in std::fs::read_dir(folder).expect("the fixture is there") {
        let path = entry.expect("an entry").path();
        sources.push_str(&std::fs::read_to_string(path).expect("a source"));
    }
    let mut made: Vec<&str> = sources
        .split("has(\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    made.sort_unstable();
    made.dedup();
    let faults = FAULTS.iter().chain(LESSER_FAULTS).map(|(fault, _)| *fault);
    let untried = UNTRIED.iter().map(|(mark, _)| *mark);
    let mut listed: Vec<&str> = faults
        .chain(ODDITIES.iter().copied())
        .chain(untried)
        .collect();
    listed.sort_unstable();
    assert_eq!(made, listed);
}
