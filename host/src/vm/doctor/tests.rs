//! The judgement, by tables. What is wanted is what an operator has to be told; that the values are
//! true is for the daemon's own tests.

use super::*;
use crate::confine::ConfineError;
use crate::lease::{CapacityLimits, Demand};
use crate::qemu::descriptors::Source;
use crate::qemu::schema::ProbeError;
use crate::spec::facts::FactValue;

fn defaults(flags: &[&str]) -> VmDefaults {
    let inputs = crate::config::Inputs {
        file: crate::config::ConfigFile::Usual("/no/such/file".into()),
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        environment: Vec::new(),
    };
    inputs.load().unwrap().config.vm
}

/// Severity, a part of what is said, and whether there is a remedy exactly where one is needed.
fn assert_says(finding: &Finding, id: &str, severity: Severity, part: &str) {
    assert_eq!(
        (&*finding.id, finding.severity),
        (id, severity),
        "{finding:?}"
    );
    assert!(finding.detail.contains(part), "{part:?}: {finding:?}");
    assert!(!finding.subject.is_empty(), "{finding:?}");
    let has_remedy = !finding.remedy.is_empty();
    assert_eq!(has_remedy, severity != Severity::Pass, "{finding:?}");
}

#[test]
fn no_qemu_is_told_as_a_create_tells_it() {
    let found = Ok((PathBuf::from("/usr/bin/qemu"), "10.0.2".to_owned()));
    let part = "/usr/bin/qemu is QEMU 10.0.2";
    assert_says(&of_qemu(found), id::QEMU, Severity::Pass, part);
    let error = CreateError::from(ProbeError::NotFound {
        binary: "qemu-x".into(),
        searched: "/bin".to_owned(),
    });
    let remedy = error.remedy();
    let finding = of_qemu(Err(error));
    assert_says(
        &finding,
        id::QEMU,
        Severity::Fail,
        "there is no QEMU \"qemu-x\"",
    );
    assert_eq!(finding.remedy, remedy);
}

#[test]
fn kvm_is_needed_unless_guests_are_emulated() {
    let failed = FactFailure::Failed("Permission denied".to_owned());
    for (accelerator, device, severity, part) in [
        (
            Accelerator::Kvm,
            Ok(FactValue::Present),
            Severity::Pass,
            "can be opened",
        ),
        (
            Accelerator::Kvm,
            Err(FactFailure::Absent),
            Severity::Fail,
            "there is no /dev/kvm",
        ),
        (
            Accelerator::Kvm,
            Err(failed),
            Severity::Fail,
            "Permission denied",
        ),
        (
            Accelerator::Tcg,
            Err(FactFailure::Absent),
            Severity::Note,
            "emulated",
        ),
        (
            Accelerator::Tcg,
            Ok(FactValue::Present),
            Severity::Note,
            "emulated",
        ),
    ] {
        assert_says(&of_kvm(accelerator, &device), id::KVM, severity, part);
    }
}

#[test]
fn firmware_that_somebody_named_has_to_be_there() {
    let file = |role, origin, problem: Option<&str>| NamedFile {
        role,
        path: format!("/fw/{role}").into(),
        origin,
        problem: problem.map(str::to_owned),
    };
    let descriptors = Descriptors::of(vec![
        Source {
            path: "/d/10.json".into(),
            content: Ok(r#"{"mapping": {"device": "flash"}}"#.to_owned()),
        },
        Source {
            path: "/d/20.json".into(),
            content: Ok("{".to_owned()),
        },
    ]);
    let files = [
        file("firmware", Origin::BuiltIn, None),
        file("firmware-code", Origin::BuiltIn, Some("No such file")),
        file("igvm", Origin::Operator, Some("No such file")),
    ];
    let findings = of_firmware(&files, &descriptors);
    let part = "readable are /fw/firmware (vm.firmware); 1 firmware descriptor";
    let wanted = [
        ("firmware", Severity::Pass, part),
        (
            "vm.igvm",
            Severity::Warn,
            "/fw/igvm cannot be used: No such file",
        ),
        (
            "/d/20.json",
            Severity::Note,
            "is skipped: it is no firmware descriptor",
        ),
    ];
    assert_eq!(findings.len(), wanted.len(), "{findings:?}");
    for (finding, (subject, severity, part)) in findings.iter().zip(wanted) {
        assert_eq!(finding.subject, subject);
        assert_says(finding, id::FIRMWARE, severity, part);
    }
    let none = of_firmware(&[], &Descriptors::default());
    assert_says(
        &none[0],
        id::FIRMWARE,
        Severity::Note,
        "no firmware was found",
    );
}

#[test]
fn a_state_directory_that_takes_no_record_is_a_failure() {
    let path = || PathBuf::from("/state");
    let room = |free_bytes, is_read_only| Room {
        free_bytes,
        is_read_only,
    };
    let owner = StoreError::Owner {
        path: path(),
        owner: 5,
        wanted: 0,
    };
    let mode = StoreError::Mode {
        path: path(),
        mode: 0o777,
    };
    let gone = StoreError::NotADirectory { path: path() };
    let away = std::io::Error::other("away");
    for (check, room, severity, part) in [
        (
            Ok(()),
            Ok(room(2 << 30, false)),
            Severity::Pass,
            "has 2048 MiB left",
        ),
        (
            Ok(()),
            Ok(room(SCARCE_ROOM - 1, false)),
            Severity::Warn,
            "has 1023 MiB left",
        ),
        (
            Ok(()),
            Ok(room(LEAST_ROOM - 1, false)),
            Severity::Fail,
            "is full",
        ),
        (
            Ok(()),
            Ok(room(2 << 30, true)),
            Severity::Fail,
            "is read-only",
        ),
        (Ok(()), Err(away), Severity::Fail, "away"),
        (
            Err(owner),
            Ok(room(2 << 30, false)),
            Severity::Warn,
            "belongs to user 5",
        ),
        (
            Err(mode),
            Ok(room(2 << 30, false)),
            Severity::Warn,
            "mode 0777",
        ),
        (
            Err(gone),
            Ok(room(2 << 30, false)),
            Severity::Fail,
            "is not a directory",
        ),
    ] {
        let finding = of_state_dir(Path::new("/state"), check, room);
        assert_says(&finding, id::STATE_DIR, severity, part);
    }
}

#[test]
fn guests_that_cannot_be_kept_from_the_host_are_not_started() {
    let unavailable = ConfineError::Unavailable("not root".to_owned());
    for (outbound, enforceable, severity, part) in [
        (
            Outbound::Filtered,
            Ok(()),
            Severity::Pass,
            "nothing of this host",
        ),
        (
            Outbound::Filtered,
            Err(unavailable),
            Severity::Fail,
            "not root",
        ),
        (Outbound::None, Ok(()), Severity::Pass, "reach nothing"),
        (
            Outbound::Unfiltered,
            Ok(()),
            Severity::Note,
            "own services too",
        ),
    ] {
        let finding = of_network(outbound, enforceable);
        assert_says(&finding, id::NETWORK, severity, part);
    }
}

#[test]
fn a_port_is_busy_where_its_listener_is_in_the_way() {
    let listeners: Vec<SocketAddr> = [
        "127.0.0.1:1",
        "10.0.0.1:2",
        "0.0.0.0:3",
        "[::]:4",
        "[::1]:5",
        "[::ffff:127.0.0.1]:6",
    ]
    .iter()
    .map(|address| address.parse().unwrap())
    .collect();
    // By what bind(2) answers with EADDRINUSE to (tcp(7), ipv6(7)).
    for (address, busy) in [
        (Ipv4Addr::LOCALHOST, &[1, 3, 4, 6][..]),
        (Ipv4Addr::UNSPECIFIED, &[1, 2, 3, 4, 6]),
        (Ipv4Addr::new(10, 0, 0, 1), &[2, 3, 4]),
        (Ipv4Addr::new(10, 0, 0, 2), &[3, 4]),
    ] {
        let found = busy_ports(&listeners, address);
        assert_eq!(Vec::from_iter(found), busy, "{address}");
    }
}

#[test]
fn without_a_free_port_no_vm_can_be_made() {
    for (ports, severity, part) in [
        (None, Severity::Pass, "the kernel chooses"),
        (
            Some((6100..=6109, 3)),
            Severity::Pass,
            "3 of the 10 ports 6100-6109 are free",
        ),
        (
            Some((6100..=6109, 0)),
            Severity::Fail,
            "none of the ports 6100-6109 is free",
        ),
    ] {
        assert_says(&of_ports(ports), id::PORTS, severity, part);
    }
}

#[test]
fn a_limit_fails_when_the_smallest_vm_is_too_much() {
    let defaults = defaults(&["vm.vcpus=4", "vm.memory=2048M"]);
    let usage = |taken: (u64, u64, u64), limits: (u64, u64, u64)| Usage {
        taken: Demand {
            vms: taken.0,
            vcpus: taken.1,
            memory_bytes: taken.2 * MIB,
            ..Demand::default()
        },
        limits: CapacityLimits {
            vms: limits.0,
            vcpus: limits.1,
            memory_bytes: limits.2 * MIB,
            ..CapacityLimits::default()
        },
    };
    use Severity::{Fail, Pass, Warn};
    for (taken, limits, severities, parts) in [
        (
            (3, 4, 5),
            (0, 0, 0),
            [Pass, Pass, Pass],
            [
                "3 VMs taken, and there is no limit",
                "4 vCPUs taken",
                "5 MiB of memory taken",
            ],
        ),
        (
            (1, 4, 2048),
            (2, 8, 4096),
            [Pass, Pass, Pass],
            [
                "1 of 2 VMs taken, 1 free",
                "4 of 8 vCPUs taken, 4 free",
                "2048 MiB free",
            ],
        ),
        (
            (1, 5, 2049),
            (2, 8, 4096),
            [Pass, Warn, Warn],
            [
                "1 of 2",
                "whose request names nothing takes 4",
                "takes 2048 MiB",
            ],
        ),
        (
            (2, 8, 4096),
            (2, 8, 4096),
            [Fail, Fail, Fail],
            ["2 of 2 VMs taken, 0 free", "0 free", "0 MiB free"],
        ),
        // After a reload with lower limits.
        (
            (3, 9, 4097),
            (2, 8, 4096),
            [Fail, Fail, Fail],
            ["0 free", "0 free", "0 MiB free"],
        ),
    ] {
        let findings = of_limits(&usage(taken, limits), &defaults);
        let keys: Vec<_> = findings.iter().map(|finding| &*finding.subject).collect();
        assert_eq!(keys, ["max_vms", "max_vcpus", "max_memory"]);
        for ((finding, severity), part) in findings.iter().zip(severities).zip(parts) {
            assert_says(finding, id::LIMITS, severity, part);
        }
    }
}

#[test]
fn leases_are_held_against_what_the_kernel_counts() {
    let amounts = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
        let owned = pairs
            .iter()
            .map(|(name, amount)| ((*name).to_owned(), *amount));
        owned.collect()
    };
    type Amounts = &'static [(&'static str, u64)];
    /// Subject, severity, and a part of what is said.
    type Wanted = &'static [(&'static str, Severity, &'static str)];
    let cases: &[(Amounts, Amounts, Amounts, Amounts, Wanted)] = &[
        (
            &[],
            &[],
            &[],
            &[],
            &[("leases", Severity::Pass, "counts nothing")],
        ),
        (
            &[("a", 0)],
            &[],
            &[("a", 0)],
            &[],
            &[("leases", Severity::Pass, "counts nothing")],
        ),
        (
            &[("a", 5)],
            &[("a", 2)],
            &[("a", 9)],
            &[("a", 3)],
            &[(
                "leases.a",
                Severity::Pass,
                "2 of 5 are taken; in use on this host are 3 of 9",
            )],
        ),
        (
            &[("a", 10)],
            &[],
            &[("a", 9)],
            &[],
            &[(
                "leases.a",
                Severity::Warn,
                "the config has 10 of a and the host 9",
            )],
        ),
        (
            &[("a", 9)],
            &[("a", 2)],
            &[("a", 9)],
            &[("a", 9)],
            &[(
                "leases.a",
                Severity::Warn,
                "all 9 of a are in use on this host",
            )],
        ),
        (
            &[("b", 1)],
            &[],
            &[("a", 9)],
            &[],
            &[("leases.b", Severity::Note, "the kernel does not count b")],
        ),
    ];
    for (granted, taken, capacity, current, wanted) in cases {
        let usage = Usage {
            taken: Demand {
                leases: amounts(taken),
                ..Demand::default()
            },
            limits: CapacityLimits {
                leases: amounts(granted),
                ..CapacityLimits::default()
            },
        };
        let counted = Counted {
            capacity: amounts(capacity),
            current: amounts(current),
        };
        let findings = of_leases(&usage, &counted);
        assert_eq!(findings.len(), wanted.len(), "{findings:?}");
        for (finding, (subject, severity, part)) in findings.iter().zip(*wanted) {
            assert_eq!(finding.subject, *subject);
            assert_says(finding, id::LEASES, *severity, part);
        }
    }
}

#[test]
fn one_backend_in_service_is_enough() {
    for (backends, severity, part) in [
        (&[][..], Severity::Fail, "no backend is configured"),
        (&[("a", false)], Severity::Fail, "configured are a"),
        (
            &[("a", true), ("b", false), ("c", true)],
            Severity::Warn,
            "in service are a, c; not in service are b",
        ),
        (&[("a", true)], Severity::Pass, "in service are a"),
    ] {
        assert_says(&of_backends(backends), id::BACKENDS, severity, part);
    }
}

#[test]
fn a_host_is_usable_with_one_usable_backend() {
    let failing = || vec![fail("x", "x", "x", "x"), pass("y", "y", "y")];
    let sound = || vec![warn("x", "x", "x", "x"), pass("y", "y", "y")];
    let backend = |findings| BackendDiagnosis {
        name: "b".to_owned(),
        state: Err("x".to_owned()),
        findings,
    };
    for (host, backends, is_usable) in [
        (sound(), vec![], false),
        (sound(), vec![backend(failing())], false),
        (sound(), vec![backend(failing()), backend(sound())], true),
        (failing(), vec![backend(sound())], false),
        (vec![], vec![backend(vec![])], true),
    ] {
        let diagnosis = Diagnosis { host, backends };
        assert_eq!(diagnosis.is_usable(), is_usable, "{diagnosis:?}");
    }
}
