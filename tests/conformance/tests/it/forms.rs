//! Forms of the report, expectations, kept requests and exit codes.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::broken::with_fault;
use crate::command::{component, judge, run, with_status};

/// A folder with a component of this fault.
fn faulty(fault: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("relic.wasm");
    std::fs::write(&path, with_fault(fault)).expect("a file");
    (folder, path)
}

fn text_of(path: &Path, arguments: &[&str]) -> (i32, String) {
    let path = path.display().to_string();
    let mut all = vec![path.as_str(), "--level", "L1", "--cases", "20"];
    all.extend(arguments);
    let output = run(&all);
    let code = output.status.code().expect("it exits");
    (code, String::from_utf8(output.stdout).expect("text"))
}

#[test]
fn every_form_shows_every_check_the_verdict_and_what_was_judged() {
    let (_folder, path) = faulty("guard-missing");
    let bytes = std::fs::read(&path).expect("the component");
    let digest = {
        use sha2::Digest as _;
        hex::encode(sha2::Sha256::digest(bytes))
    };
    for format in ["human", "json", "junit", "tap"] {
        let (code, text) = text_of(&path, &["--format", format]);
        assert_eq!(code, 1, "{format}");
        // A table breaks its lines where it is full.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for check in casemate_conformance::catalogue::CHECKS {
            assert!(text.contains(check.id), "{format} lacks {}", check.id);
        }
        assert!(text.contains(&digest), "{format} lacks the digest");
        assert!(
            text.contains("does not conform"),
            "{format} lacks the verdict"
        );
        assert!(
            text.contains("announces protection `guard`, and this plan has none"),
            "{format}"
        );
        assert!(
            !text.contains('\u{1b}'),
            "{format} has colours where nobody sees them"
        );
    }
}

#[test]
fn the_json_report_has_what_a_program_needs() {
    let (_folder, path) = faulty("guard-missing");
    let (_, report) = judge(&path, &["--level", "L1", "--cases", "20", "--seed", "11"]);
    let provenance = &report["provenance"];
    for key in ["component_sha256", "contract_sha256", "catalogue_sha256"] {
        assert_eq!(provenance[key].as_str().map(str::len), Some(64), "{key}");
    }
    assert_eq!(provenance["seed"], 11);
    assert_eq!(report["backend"]["tee"], "relic");
    assert_eq!(report["verdict"], "fails");
    let failed = report["checks"].as_array().expect("checks").iter();
    let failed: Vec<&Value> = failed.filter(|check| check["status"] == "fail").collect();
    let [failed] = failed[..] else {
        panic!("{failed:?}");
    };
    assert_eq!(failed["id"], "L1-27");
    assert_eq!(failed["anchor"], "types.wit#protection");
    assert_eq!(failed["failures"][0]["request"]["vcpus"], 2);
}

#[test]
fn tap_is_of_its_form() {
    let (_folder, path) = faulty("guard-missing");
    let (_, text) = text_of(&path, &["--format", "tap"]);
    let lines: Vec<&str> = text.lines().collect();
    let count = casemate_conformance::catalogue::CHECKS.len();
    assert_eq!(lines[0], "TAP version 14");
    assert_eq!(lines[1], format!("1..{count}"));
    let points = lines
        .iter()
        .filter(|line| line.starts_with("ok ") || line.starts_with("not ok "));
    for (number, line) in (1..).zip(points) {
        let rest = line.trim_start_matches("not ").trim_start_matches("ok ");
        assert!(rest.starts_with(&format!("{number} - ")), "{line}");
    }
    let failed = lines
        .iter()
        .filter(|line| line.starts_with("not ok ") && !line.contains("# TODO"));
    assert_eq!(failed.count(), 1);
    assert!(
        lines
            .iter()
            .any(|line| line.contains("# SKIP --level L1 was asked for"))
    );
    assert!(lines.contains(&"  ---") && lines.contains(&"  ..."));
}

#[test]
fn junit_is_read_back() {
    let (_folder, path) = faulty("guard-missing");
    let (_, text) = text_of(&path, &["--format", "junit"]);
    let report = quick_junit::Report::deserialize_from_str(&text).expect("it is JUnit");
    let count: usize = report
        .test_suites
        .iter()
        .map(|suite| suite.test_cases.len())
        .sum();
    assert_eq!(count, casemate_conformance::catalogue::CHECKS.len());
    let failures: usize = report.test_suites.iter().map(|suite| suite.failures).sum();
    assert_eq!(failures, 1);
}

#[test]
fn an_expected_failure_is_no_failure_and_an_unexpected_pass_is_one() {
    let (folder, path) = faulty("ability-twice");
    let known = folder.path().join("known.toml");
    let expect = |text: &str| std::fs::write(&known, text).expect("a file");
    let known_path = known.display().to_string();
    let arguments = ["--level", "L1", "--cases", "20", "--expect", &known_path];
    expect("[[expected]]\ncheck = \"L1-39\"\nreason = \"once in 0.2\"\n");
    let (code, report) = judge(&path, &arguments);
    assert_eq!(code, 0);
    assert_eq!(report["verdict"], "conforms-but-for-known");
    assert_eq!(with_status(&report, "expected-fail", "MUST"), ["L1-39"]);
    let (_, text) = text_of(&path, &["--expect", &known_path]);
    assert!(text.contains("once in 0.2"), "{text}");
    expect(
        "[[expected]]\ncheck = \"L1-39\"\nreason = \"x\"\n[[expected]]\ncheck = \"L1-01\"\nreason = \"y\"\n",
    );
    let (code, report) = judge(&path, &arguments);
    assert_eq!(code, 1);
    assert_eq!(with_status(&report, "unexpected-pass", "MUST"), ["L1-01"]);
    // A reader of TAP takes no `ok … # TODO` for a failure.
    let (_, text) = text_of(&path, &["--expect", &known_path, "--format", "tap"]);
    let line = text
        .lines()
        .find(|line| line.contains(" - L1-01 "))
        .expect("it is there");
    assert!(
        line.starts_with("not ok ") && !line.contains("# TODO"),
        "{line}"
    );
}

#[test]
fn a_request_by_chance_is_shrunk_kept_and_run_again() {
    let (folder, path) = faulty("chance-traps");
    let kept = folder.path().join("kept");
    let kept_path = kept.display().to_string();
    let (code, _) = judge(
        &path,
        &["--level", "L1", "--cases", "150", "--keep", &kept_path],
    );
    assert_eq!(code, 1);
    let file = kept.join("L1-01-1.json");
    let text = std::fs::read_to_string(&file).expect("it is kept");
    let request: Value = serde_json::from_str(&text).expect("it is JSON");
    // The least number of vCPUs that traps, and all else as usual.
    assert_eq!(request["request"]["vcpus"], 2_000);
    assert_eq!(request["request"]["identity"], Value::Null);
    assert_eq!(request["request"]["facts"], serde_json::json!([]));
    let file = file.display().to_string();
    let (code, report) = judge(&path, &["--replay", &file]);
    assert_eq!(code, 1);
    assert_eq!(with_status(&report, "fail", "MUST"), ["L1-01"]);
    let (_whole_folder, whole) = faulty("none");
    let (code, report) = judge(&whole, &["--replay", &file]);
    assert_eq!(code, 0, "{report}");
    // It is about one request.
    assert_eq!(report["verdict"], "no-longer-fails");
    let sentence = report["sentence"].as_str().expect("a sentence");
    assert!(!sentence.contains("conforms"), "{sentence}");
}

/// A kept request fails again by its own check, whatever that looks at, or is refused in clear words.
#[test]
fn a_kept_request_is_judged_by_its_check_or_not_at_all() {
    let (_whole_folder, whole) = faulty("none");
    for (fault, check) in [
        ("value-refused-unnamed", "L1-09"),
        ("form-ignored", "L1-10"),
        ("extras-refused", "L1-06"),
        ("fail-and-plan", "L1-17"),
        ("identity-dropped", "L1-21"),
        ("identity-refused", "L1-58"),
        ("machine-replaced", "L1-23"),
        ("file-left", "L1-26"),
        ("traps-at-a-thousand", "L1-47"),
        ("cmdline-left", "L1-59"),
        ("built-in-refused", "L1-63"),
    ] {
        let (folder, path) = faulty(fault);
        let kept = folder.path().join("kept");
        let kept_path = kept.display().to_string();
        judge(
            &path,
            &["--level", "L1", "--cases", "20", "--keep", &kept_path],
        );
        let file = kept.join(format!("{check}-1.json")).display().to_string();
        let failed = |path: &Path| {
            let (_, report) = judge(path, &["--replay", &file]);
            let forces = ["MUST", "SHOULD"].map(|force| with_status(&report, "fail", force));
            (forces.concat(), report)
        };
        let (again, report) = failed(&path);
        assert!(again.iter().any(|one| one == check), "{fault}: {report}");
        let (mended, report) = failed(&whole);
        assert_eq!(mended, Vec::<String>::new(), "{fault}");
        let own = report["checks"].as_array().expect("checks").iter();
        let own = own
            .into_iter()
            .find(|one| one["id"] == check)
            .expect("it is there");
        assert_eq!(own["status"], "pass", "{fault}");
    }
    let (folder, path) = faulty("register-zeros");
    let kept = folder.path().join("kept");
    let kept_path = kept.display().to_string();
    judge(
        &path,
        &["--level", "L1", "--cases", "20", "--keep", &kept_path],
    );
    let file = kept.join("L1-51-1.json").display().to_string();
    let output = run(&[&path.display().to_string(), "--replay", &file]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("L1-51 is judged by more than one request"),
        "{said}"
    );
    assert!(
        said.contains("remedy: run the suite with the seed"),
        "{said}"
    );
}

/// What was not looked at is not known, and a failure that ends the run hides all the rest.
#[test]
fn a_failure_that_ends_the_run_is_not_expected_away() {
    let folder = tempfile::tempdir().expect("a folder");
    let known = folder.path().join("known.toml");
    for (mark, check) in [("plan-traps", "L1-01"), ("describe-traps", "L0-07")] {
        let (_folder, path) = faulty(mark);
        let text = format!("[[expected]]\ncheck = \"{check}\"\nreason = \"in 0.2\"\n");
        std::fs::write(&known, text).expect("a file");
        let known = known.display().to_string();
        let (code, report) = judge(&path, &["--expect", &known]);
        assert_eq!(code, 1, "{mark}");
        assert_eq!(with_status(&report, "fail", "MUST"), [check], "{mark}");
        assert_eq!(report["verdict"], "fails", "{mark}");
        // Nor is anything tried from there on.
        let deeper = report["checks"].as_array().expect("checks").iter();
        let mut deeper = deeper.filter(|one| one["id"] == "L3-05" || one["id"] == "L3-07");
        assert!(deeper.all(|one| one["status"] == "skip"), "{mark}");
    }
}

/// The level that was asked for decides what is shown.
#[test]
fn what_lies_deeper_than_the_level_is_no_part_of_the_report() {
    let (_folder, path) = faulty("none");
    let (_, report) = judge(&path, &["--level", "L0"]);
    assert_eq!(report["verdict"], "conforms");
    let sentence = report["sentence"].as_str().expect("a sentence");
    assert!(
        sentence.starts_with("it conforms to L0 in what it claims: backend, facts"),
        "{sentence}"
    );
}

/// What a start needs and nobody can guess comes from golden requests.
#[test]
fn everything_starts_from_the_first_golden_request_that_becomes_a_plan() {
    let (folder, path) = faulty("setting-required");
    let golden = folder.path().join("tests/golden");
    std::fs::create_dir_all(&golden).expect("a folder");
    let cases = "[host]\n\"device(/dev/kvm)\" = \"present\"\n\"cpuid(0x0)\" = \"0 0 0 0\"\n\
                 \"qemu-version()\" = \"text: 10.0.2\"\n\"qemu-machine(q35)\" = \"text: pc-q35-10.0\"\n\
                 \"qemu-type(EPYC-x86_64-cpu)\" = \"present\"\n\
                 [[case]]\nname = \"nothing\"\n\
                 [[case]]\nname = \"high\"\nrequest = { level = \"high\" }\n";
    std::fs::write(golden.join("cases.toml"), cases).expect("a file");
    let update = ["--level", "L2", "--cases", "20", "--update-golden"];
    judge(&path, &update);
    let (code, report) = judge(&path, &["--level", "L2", "--cases", "20"]);
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["verdict"], "conforms", "{report}");
}

#[test]
fn what_cannot_be_used_is_said_and_is_no_verdict() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let plain = component("plain-kvm").display().to_string();
    let unknown = file(
        "unknown.toml",
        "[[expected]]\ncheck = \"L9-01\"\nreason = \"x\"\n",
    );
    let cases = folder.path().join("golden");
    std::fs::create_dir(&cases).expect("a folder");
    std::fs::write(
        cases.join("cases.toml"),
        "[host]\n\"moon(full)\" = \"yes\"\n[[case]]\nname = \"x\"\n",
    )
    .expect("a file");
    let cases = cases.display().to_string();
    let no_request = file("no-request.json", "{}");
    let missing = folder.path().join("missing.wasm").display().to_string();
    for (arguments, parts) in [
        (
            vec![missing.as_str()],
            ["missing.wasm", "remedy: name the component's file"],
        ),
        (
            vec![&plain, "--expect", &unknown],
            ["L9-01", "there is no such check"],
        ),
        (
            vec![&plain, "--golden", &cases],
            ["moon(full)", "function of `facts`"],
        ),
        (
            vec![&plain, "--replay", &no_request],
            ["no-request.json", "wanted is JSON as --keep writes it"],
        ),
        (vec![&plain, "--format", "xml"], ["--format", "junit"]),
        (vec![&plain, "--level", "L4"], ["--level", "L3"]),
        (vec![], ["FILE.wasm", "Usage"]),
    ] {
        let output = run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        for part in parts {
            assert!(said.contains(part), "{arguments:?} lacks {part:?}: {said}");
        }
    }
}

#[test]
fn golden_requests_of_a_vendor_are_written_held_and_found_out() {
    let (folder, path) = faulty("none");
    let golden = folder.path().join("tests/golden");
    std::fs::create_dir_all(golden.join("files")).expect("a folder");
    std::fs::write(
        golden.join("files/relic.fd"),
        "firmware of the vendor's own",
    )
    .expect("a file");
    let case = |name: &str, more: &str| format!("[[case]]\nname = \"{name}\"\n{more}\n");
    let mut cases = "[host]\n\"device(/dev/kvm)\" = \"present\"\n\"cpuid(0x0)\" = \"0 0 0 0\"\n\
                     \"qemu-version()\" = \"text: 10.0.2\"\n\"qemu-machine(q35)\" = \"text: pc-q35-10.0\"\n\
                     \"qemu-type(EPYC-x86_64-cpu)\" = \"present\"\n"
        .to_owned();
    cases += &case("plain", "");
    cases += &case("own-firmware", "files = { firmware = \"relic.fd\" }");
    cases += &case("high", "request = { level = \"high\" }");
    cases += &case("level-unknown", "request = { level = \"middle\" }");
    cases += &case("no-kvm", "facts = { \"device(/dev/kvm)\" = \"absent\" }");
    for number in 1..=5 {
        cases += &case(&format!("vcpus-{number}"), &format!("vcpus = {number}"));
    }
    std::fs::write(golden.join("cases.toml"), cases).expect("a file");
    let arguments = ["--level", "L2", "--cases", "20"];
    // Nothing is written yet.
    let (code, report) = judge(&path, &arguments);
    assert_eq!(
        (code, with_status(&report, "fail", "MUST")),
        (1, vec!["L2-01".to_owned()])
    );
    let (code, _) = judge(
        &path,
        &["--level", "L2", "--cases", "20", "--update-golden"],
    );
    assert_eq!(code, 0);
    let (code, report) = judge(&path, &arguments);
    assert_eq!(code, 0, "{report}");
    let outcome = |name: &str| std::fs::read_to_string(golden.join(name)).expect("it is written");
    assert!(outcome("plain.args").contains("pc-q35-10.0,"));
    assert!(outcome("high.args").contains("\"level\":\"high\""));
    assert!(outcome("level-unknown.refused").starts_with("by the host\n"));
    assert!(outcome("no-kvm.refused").starts_with("UnsupportedHost\nsubject: device\n"));
    // Another answer, and an outcome of nothing.
    std::fs::write(golden.join("plain.args"), "-name\nother\n").expect("a file");
    std::fs::write(golden.join("gone.refused"), "").expect("a file");
    let (code, report) = judge(&path, &arguments);
    assert_eq!(code, 1);
    assert_eq!(with_status(&report, "fail", "MUST"), ["L2-01", "L2-02"]);
}

/// A typing mistake in a golden request is told with what there is, and never becomes an outcome.
#[test]
fn what_a_golden_request_misspells_is_told() {
    let (folder, path) = faulty("none");
    let golden = folder.path().join("tests/golden");
    std::fs::create_dir_all(&golden).expect("a folder");
    let arguments = ["--level", "L2", "--cases", "20", "--update-golden"];
    let write = |files: &str| {
        let cases = format!("[host]\n\n[[case]]\nname = \"one\"\nfiles = {{ {files} }}\n");
        std::fs::write(golden.join("cases.toml"), cases).expect("a file");
    };
    let component = path.display().to_string();
    for (files, parts) in [
        (
            "firmware = \"nope.fd\"",
            ["\"nope.fd\"", "L2-01", "OVMF.fd"],
        ),
        (
            "firmwar = \"relic.fd\"",
            ["firmwar", "firmware-code", "setting:KEY"],
        ),
    ] {
        write(files);
        let output = run(&[&[component.as_str()][..], &arguments].concat());
        assert!(!output.status.success(), "{output:?}");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        for part in parts {
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
