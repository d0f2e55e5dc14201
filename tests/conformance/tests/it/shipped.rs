//! The shipped backends conform to all that they claim.

use crate::command::{component, details, failed_should, judge, with_status};

#[test]
fn shipped_backends_conform() {
    for (name, claims) in [
        ("plain-kvm", &["settings", "facts", "golden"][..]),
        (
            "sev-snp",
            &["settings", "facts", "guard", "measures", "tool", "golden"],
        ),
        ("tdx", &["settings", "facts", "guard", "measures", "golden"]),
    ] {
        let (code, report) = judge(&component(name), &[]);
        assert_eq!(code, 0, "{name}:\n{}", details(&report));
        assert_eq!(report["verdict"], "conforms", "{name}");
        assert!(
            failed_should(&report).is_empty(),
            "{name}:\n{}",
            details(&report)
        );
        for claim in claims {
            let made = report["claims"].as_array().expect("claims");
            assert!(
                made.iter().any(|one| one == claim),
                "{name} claims no {claim}"
            );
        }
        // A check that is skipped holds nothing: what is claimed is tried.
        let allowed: &[&str] = match name {
            "plain-kvm" => &[
                "L0-12", "L1-28", "L1-49", "L1-50", "L1-51", "L1-52", "L1-53", "L1-54", "L1-55",
                "L1-56", "L1-57", "L1-58", "L1-61", "L2-04",
            ],
            "sev-snp" => &["L1-57", "L2-04"],
            _ => &["L0-12", "L1-56", "L1-57", "L2-04"],
        };
        assert_eq!(with_status(&report, "skip", "MUST"), allowed, "{name}");
    }
}

#[test]
fn a_seed_repeats_a_run_and_golden_requests_are_found_or_named() {
    let plain = component("plain-kvm");
    let arguments = ["--level", "L1", "--seed", "7", "--cases", "50"];
    let (_, first) = judge(&plain, &arguments);
    let (_, second) = judge(&plain, &arguments);
    assert_eq!(first, second);
    assert_eq!(first["provenance"]["seed"], 7);
    let elsewhere = tempfile::tempdir().expect("a folder");
    let copy = elsewhere.path().join("sev-snp.wasm");
    std::fs::copy(component("sev-snp"), &copy).expect("a copy");
    let (code, report) = judge(&copy, &["--level", "L2", "--cases", "10"]);
    // On an ordinary host it has nothing to plan, and that is shown.
    assert_eq!(code, 0, "{}", details(&report));
    assert_eq!(report["verdict"], "not-proven");
    let skipped = with_status(&report, "skip", "MUST");
    for check in ["L1-06", "L1-21", "L1-53", "L2-01"] {
        assert!(
            skipped.iter().any(|one| one == check),
            "{check}: {skipped:?}"
        );
    }
    let golden = crate::command::workspace().join("plugins/sev-snp/tests/golden");
    let golden = golden.display().to_string();
    let (code, report) = judge(
        &copy,
        &["--level", "L2", "--cases", "10", "--golden", &golden],
    );
    assert_eq!(code, 0, "{}", details(&report));
    assert!(
        !with_status(&report, "skip", "MUST")
            .iter()
            .any(|one| one == "L2-01")
    );
}
