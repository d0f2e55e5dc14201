//! A backend that breaks a rule stays harmless: each act of the fixture `misbehaving` ends in a
//! typed answer that says what to blame, and the daemon serves on.
//!
//! Plans are held against the system's QEMU. Almost all acts end before a process would start, so
//! `PlanVm` asks the question; `CreateVm` is asked where "nothing was started" is the point.

use std::time::Duration;

use casemate_integration::daemon::{Daemon, Setup, eventually};
use casemate_integration::leftovers;
use casemate_proto::v1;
use tonic::{Code, Status};

const BACKEND: &str = "misbehaving";
/// How every fault begins, whatever it is.
const FAULT: &str = "backend \"misbehaving\" is at fault: ";
/// Growth that 200 faulting calls may cause: allocators keep some pages, a leak of stores or
/// modules would keep 64 MiB for each call.
const MAX_GROWTH_KIB: u64 = 32 << 10;

/// An act and how the host has to answer it.
struct Case {
    act: &'static str,
    answer: Answer,
}

enum Answer {
    Accepted,
    /// A fault of this kind, with this part in the message.
    Fault(&'static str, &'static str),
    /// The backend's own error, or what this host cannot do: nobody's fault.
    Refused(Code, &'static str),
}

const fn accepted(act: &'static str) -> Case {
    Case {
        act,
        answer: Answer::Accepted,
    }
}

/// A plan that breaks a rule of the contract.
const fn broken(act: &'static str, part: &'static str) -> Case {
    fault(act, "contract", part)
}

const fn fault(act: &'static str, kind: &'static str, part: &'static str) -> Case {
    Case {
        act,
        answer: Answer::Fault(kind, part),
    }
}

const fn refused(act: &'static str, code: Code, part: &'static str) -> Case {
    Case {
        act,
        answer: Answer::Refused(code, part),
    }
}

/// Every act but those that only the deadline ends, under [`grants`].
const CASES: &[Case] = &[
    accepted("well"),
    refused("error", Code::Unavailable, "act: the act is an error"),
    fault(
        "hog",
        "memory-limit",
        "it wanted more than 64 MiB of memory",
    ),
    // The panic's text reaches the message by the log.
    fault("trap", "trap", "the act is a trap"),
    fault(
        "oversized",
        "output-limit",
        "its answer is larger than 8192 KiB",
    ),
    fault(
        "giant-list",
        "memory-limit",
        "it wanted more than 64 MiB of memory",
    ),
    fault(
        "log-flood",
        "log-flood",
        "it wrote more than 10000 log lines in one call",
    ),
    broken(
        "foreign-file",
        "firmware.bios: file 9999 is not of this request",
    ),
    broken("foreign-generated", "is already a file of this request"),
    refused(
        "foreign-read",
        Code::FailedPrecondition,
        "act: file 9999 is not of this request",
    ),
    broken(
        "ungranted-object",
        "objects[0]: type \"rng-random\" is not granted",
    ),
    broken(
        "announced-not-granted",
        "objects[0]: type \"iothread\" is not granted",
    ),
    broken(
        "ungranted-device",
        "extra-devices[0]: type \"virtio-rng-pci\" is not granted",
    ),
    broken(
        "secret-file",
        "objects[0] secret.file: QEMU takes it as a path",
    ),
    broken(
        "mem-path",
        "memory-backend-file.mem-path: QEMU takes it as a path",
    ),
    broken("bytes-path", "or a granted `host-path`, not `bytes`"),
    broken(
        "host-path-ungranted",
        "host path \"/etc/shadow\" is not granted",
    ),
    broken(
        "filter-dump",
        "objects[0] filter-dump.file: QEMU takes it as a path",
    ),
    broken(
        "machine-kernel",
        "machine.kernel: the host renders it from `boot`",
    ),
    broken(
        "machine-dumpdtb",
        "machine.dumpdtb: QEMU opens or writes it as a file",
    ),
    refused("fact-denied", Code::FailedPrecondition, "act: denied"),
    refused("fact-ungranted", Code::FailedPrecondition, "act: denied"),
    broken(
        "cpu-comma",
        "cpu.model-id: `-cpu` has no way to write a comma",
    ),
    broken(
        "virtio-fsdev",
        "devices.virtio-properties.fsdev: the host renders it",
    ),
    broken(
        "virtio-iothread",
        "devices.virtio-properties.iothread: the host renders it",
    ),
    broken(
        "generated-qcow2",
        "firmware.pflash.options.code.format: a generated file is raw",
    ),
    broken(
        "comma",
        "machine.smm: \"on,kernel=/etc/shadow\" is no value of QEMU type",
    ),
    broken("newline", "smm: it holds the control character '\\n'"),
    broken("nul", "smm: it holds the control character '\\0'"),
    broken(
        "control-in-finding",
        "findings[0].detail: it holds the control character",
    ),
    broken("host-owned-smp", "smp.cpus: the host renders it"),
    broken("host-owned-memory", "memory.size: the host renders it"),
    broken(
        "host-owned-size",
        "memory-backend.size: the host sets it from the request",
    ),
    broken(
        "host-owned-accel",
        "machine.accel: the host renders it from config",
    ),
    broken(
        "host-owned-backend",
        "machine.memory-backend: the host renders it",
    ),
    broken(
        "host-owned-guard",
        "machine.confidential-guest-support: the host renders it",
    ),
    broken(
        "host-owned-id",
        "objects[0].id: ids that start with casemate- are the host's",
    ),
    broken("duplicate-id", "id \"ram\": it is used twice"),
    broken("dash-id", "objects[0].id: \"-x\" is no id"),
    broken("digit-id", "objects[0].id: \"9x\" is no id"),
    broken(
        "missing-id",
        "object memory-backend-ram: an object needs an id",
    ),
    broken("ghost-guard", "guard: \"ghost\" is the id of no object"),
    broken(
        "guard",
        "guard: the backend announces protection `none`, and this plan has a guard",
    ),
    broken("unknown-extra", "extras.wish: this host knows no such key"),
    broken("bad-lease", "leases: \"../memory.max\" is no name"),
    broken("unknown-ability", "abilities: \"fly\" is none of"),
    broken(
        "unknown-transport",
        "devices.transport: \"telepathy\" is none of",
    ),
    broken(
        "unannounced-property",
        "objects[0]: type \"iothread\" is not granted",
    ),
    broken(
        "wrong-property",
        "memory-backend-ram.no-such-property: it is not granted",
    ),
    refused(
        "unknown-to-qemu",
        Code::FailedPrecondition,
        "has no property \"casemate-test\" of memory-backend-ram; QEMU 6.2 is the first that can have it, and this one is built without",
    ),
    refused(
        "type-unknown-to-qemu",
        Code::FailedPrecondition,
        "has no object type \"casemate-test-guest\"; QEMU 99.1 is the first that has it",
    ),
    broken("list-gap", "list \"host-nodes\" has a gap"),
    broken("deep", "is no property path"),
    // QEMU alone knows its hosts' nodes: `CreateVm` is asked below.
    accepted("big-number"),
    broken("long-text", "smm: 1048576 bytes are too many"),
    broken("empty-machine", "machine.kind: \"\" is no name"),
    broken(
        "option-in-machine",
        "machine.kind: \"q35,kernel=/etc/shadow\" is no name",
    ),
    broken("option-in-cpu", "cpu.kind: \"max,+avx\" is no name"),
    // Nothing is guarded, so nothing has an identity that names none; one that does is below.
    accepted("identity-dropped"),
    broken(
        "identity-invented",
        "identity-carrier: \"host-data\" is to carry an identity",
    ),
    broken(
        "fail-in-plan",
        "findings misbehaving.remark: a plan that fails a check",
    ),
];

/// Acts that never end by themselves.
const ENDLESS: [&str; 2] = ["loop", "read-flood"];

/// All that the fixture announces, `iothread` left out.
fn grants() -> toml::Table {
    toml::toml! {
        facts = [
            { fact = "qemu-machine", pattern = "*" },
            { fact = "read-text", pattern = "/sys/module/*" },
        ]

        [objects]
        secret = { properties = ["data", "file"] }
        memory-backend-file = { properties = ["mem-path", "share"] }
        memory-backend-ram = { properties = ["share", "host-nodes.*", "policy", "casemate-test"] }
        filter-dump = { properties = ["netdev", "file"] }
        casemate-test-guest = {}
    }
}

/// More than the fixture announces, from an operator who grants without looking.
fn careless_grants() -> toml::Table {
    toml::toml! {
        facts = [
            { fact = "qemu-machine", pattern = "*" },
            { fact = "read-text", pattern = "/sys/*" },
            { fact = "read-text", pattern = "/proc/*" },
        ]
        host-paths = ["/etc/*"]
        machine-texts = ["kernel", "dumpdtb"]

        [objects]
        iothread = { properties = ["poll-max-ns"] }
        rng-random = {}
        secret = { properties = ["data", "file"] }
        memory-backend-file = { properties = ["mem-path", "share"] }
        memory-backend-ram = { properties = ["no-such-property"] }
        filter-dump = { properties = ["netdev", "file"] }

        [devices]
        virtio-rng-pci = {}
    }
}

fn daemon_with(grants: toml::Table) -> Daemon {
    let mut setup = Setup::new();
    setup.add_backend(BACKEND, grants);
    setup.start()
}

fn spec(act: &str) -> v1::VmSpec {
    v1::VmSpec {
        backend: BACKEND.to_owned(),
        settings: [("act".to_owned(), act.to_owned())].into(),
        ..v1::VmSpec::default()
    }
}

async fn plan(daemon: &Daemon, act: &str) -> Result<v1::PlanVmResponse, Status> {
    let request = v1::PlanVmRequest {
        spec: Some(spec(act)),
        ..v1::PlanVmRequest::default()
    };
    Ok(daemon.vms().await.plan_vm(request).await?.into_inner())
}

/// The daemon's counters of this backend's faults: kind and number.
async fn faults(daemon: &Daemon) -> Vec<(String, u64)> {
    let (status, text) = daemon.get_http("/metrics").await;
    assert_eq!(status, 200);
    let prefix = format!("casemate_backend_faults_total{{backend=\"{BACKEND}\",kind=\"");
    text.lines()
        .filter_map(|line| line.strip_prefix(&prefix)?.split_once("\"} "))
        .map(|(kind, count)| (kind.to_owned(), count.parse().expect("a number")))
        .collect()
}

async fn fault_count(daemon: &Daemon, kind: &str) -> u64 {
    let faults = faults(daemon).await;
    faults
        .iter()
        .find(|(name, _)| name == kind)
        .map_or(0, |(_, count)| *count)
}

async fn fault_total(daemon: &Daemon) -> u64 {
    faults(daemon).await.iter().map(|(_, count)| count).sum()
}

/// The status of a fault says whose it is, what was wrong, and what to do.
fn assert_fault(act: &str, status: &Status, part: &str) {
    assert_eq!(status.code(), Code::Internal, "{act}: {status}");
    assert!(status.message().starts_with(FAULT), "{act}: {status}");
    assert!(
        status.message().contains(part),
        "{act}: wanted is {part:?}: {status}"
    );
    assert!(
        status
            .message()
            .contains("\nremedy: report it to the backend's vendor"),
        "{act}: {status}"
    );
}

async fn assert_case(daemon: &Daemon, case: &Case) {
    let act = case.act;
    let kind = match case.answer {
        Answer::Fault(kind, _) => Some(kind),
        _ => None,
    };
    let total = fault_total(daemon).await;
    let of_kind = fault_count(daemon, kind.unwrap_or_default()).await;
    let answer = plan(daemon, act).await;
    match (&case.answer, answer) {
        (Answer::Accepted, answer) => {
            let planned = answer.unwrap_or_else(|status| panic!("{act}: {status}"));
            assert_eq!(planned.backend, BACKEND, "{act}");
            assert!(!planned.confidential, "{act}");
        }
        (Answer::Fault(_, part), answer) => {
            assert_fault(act, &answer.expect_err(act), part);
        }
        (Answer::Refused(code, part), answer) => {
            let status = answer.expect_err(act);
            assert_eq!(status.code(), *code, "{act}: {status}");
            assert!(status.message().contains(part), "{act}: {status}");
            assert!(!status.message().contains("is at fault"), "{act}: {status}");
        }
    }
    let expected = u64::from(kind.is_some());
    assert_eq!(fault_total(daemon).await, total + expected, "{act}");
    if let Some(kind) = kind {
        assert_eq!(fault_count(daemon, kind).await, of_kind + 1, "{act}");
    }
    plan(daemon, "well")
        .await
        .unwrap_or_else(|status| panic!("after {act}: {status}"));
}

#[tokio::test]
async fn each_act_gets_its_typed_answer_and_the_daemon_serves_on() {
    let mut daemon = daemon_with(grants());
    for case in CASES {
        assert_case(&daemon, case).await;
    }
    for backend in ["plain-kvm", BACKEND] {
        let request = v1::GetBackendRequest {
            name: backend.to_owned(),
        };
        let answer = daemon
            .backends()
            .await
            .get_backend(request)
            .await
            .expect("it is configured");
        assert_eq!(
            answer.into_inner().backend.expect("a backend").status,
            "in-service"
        );
    }
    // What a backend wrote never ends a line of the daemon's log or drives a terminal.
    let log = daemon.log();
    assert!(
        !log.contains(|c: char| c.is_control() && c != '\n'),
        "control character in the log"
    );
    assert!(log.contains("log lines dropped"), "the flood is counted");
    assert!(
        log.matches("flood ").count() < 1_000,
        "the flood is not written"
    );
    leftovers::assert_nothing_left(&daemon.state_dir);
    assert_eq!(daemon.stop(), Some(0));
}

/// The fixture documents its acts in a table; one that is not asked about here proves nothing.
#[test]
fn no_act_is_left_out() {
    let mut asked: Vec<&str> = CASES.iter().map(|case| case.act).chain(ENDLESS).collect();
    let mut documented: Vec<&str> = include_str!("../../../fixtures/misbehaving/src/lib.rs")
        .lines()
        .skip_while(|line| !line.starts_with("//! -----"))
        .skip(1)
        .take_while(|line| !line.starts_with("//! ```"))
        .filter_map(|line| line.trim_start_matches("//! ").split_whitespace().next())
        .collect();
    asked.sort_unstable();
    documented.sort_unstable();
    assert_eq!(asked, documented);
}

/// A deadline covers the backend's own time and the host's in its name, and others are served
/// while it runs.
#[tokio::test]
async fn an_endless_call_is_ended_by_its_deadline_and_holds_up_nobody() {
    let daemon = daemon_with(grants());
    plan(&daemon, "well").await.expect("all is well");
    let started = std::time::Instant::now();
    let others = async {
        // The endless calls run for 5 s; these come and go meanwhile.
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..5 {
            plan(&daemon, "well")
                .await
                .expect("the same backend serves others");
        }
        let request = v1::PlanVmRequest {
            spec: Some(v1::VmSpec::default()),
            ..v1::PlanVmRequest::default()
        };
        daemon
            .vms()
            .await
            .plan_vm(request)
            .await
            .expect("another backend serves");
        assert_eq!(daemon.get_http("/ready").await.0, 200);
    };
    let [first, second] = ENDLESS;
    let (first_answer, second_answer, ()) =
        tokio::join!(plan(&daemon, first), plan(&daemon, second), others);
    for (act, answer) in [(first, first_answer), (second, second_answer)] {
        assert_fault(
            act,
            &answer.expect_err(act),
            "it did not answer within 5000 ms",
        );
    }
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(faults(&daemon).await, [("timeout".to_owned(), 2)]);
    plan(&daemon, "well").await.expect("the daemon serves on");
}

/// An announcement that hides a path and a grant that follows it leave only the host's own rules
/// between the backend and the file.
#[tokio::test]
async fn a_careless_grant_opens_no_path_and_no_fact() {
    let daemon = daemon_with(careless_grants());
    for case in [
        broken(
            "secret-file",
            "objects[0] secret.file: QEMU takes it as a path",
        ),
        broken(
            "mem-path",
            "so it has to be a `file` or a granted `host-path`, not `text`",
        ),
        broken(
            "bytes-path",
            "so it has to be a `file` or a granted `host-path`, not `bytes`",
        ),
        broken(
            "filter-dump",
            "objects[0] filter-dump.file: QEMU takes it as a path",
        ),
        broken(
            "machine-kernel",
            "machine.kernel: the host renders it from `boot`",
        ),
        broken(
            "machine-dumpdtb",
            "machine.dumpdtb: QEMU opens or writes it as a file",
        ),
        // Granted, but not announced.
        broken(
            "ungranted-object",
            "objects[0]: type \"rng-random\" is not granted",
        ),
        broken(
            "ungranted-device",
            "extra-devices[0]: type \"virtio-rng-pci\" is not granted",
        ),
        broken(
            "unannounced-property",
            "objects[0] iothread.poll-max-ns: it is not granted",
        ),
        broken(
            "wrong-property",
            "memory-backend-ram.no-such-property: it is not granted",
        ),
        refused("fact-denied", Code::FailedPrecondition, "act: denied"),
        refused("fact-ungranted", Code::FailedPrecondition, "act: denied"),
        // What is announced and granted is given: the refusals above are not for want of a grant.
        accepted("announced-not-granted"),
        accepted("host-path-ungranted"),
    ] {
        assert_case(&daemon, &case).await;
    }
    let planned = plan(&daemon, "host-path-ungranted")
        .await
        .expect("the operator granted it");
    assert!(
        planned
            .command
            .iter()
            .any(|argument| argument.contains("\"mem-path\":\"/etc/shadow\"")),
        "{:?}",
        planned.command
    );
}

#[tokio::test]
async fn a_create_that_a_fault_ends_starts_nothing_and_leaves_nothing() {
    let daemon = daemon_with(grants());
    for (act, part) in [
        ("trap", "the act is a trap"),
        (
            "mem-path",
            "memory-backend-file.mem-path: QEMU takes it as a path",
        ),
        ("newline", "smm: it holds the control character"),
        (
            "host-owned-accel",
            "machine.accel: the host renders it from config",
        ),
    ] {
        let status = daemon.create(spec(act)).await.expect_err(act);
        assert_fault(act, &status, part);
        assert!(
            status.message().contains("nothing was started"),
            "{act}: {status}"
        );
    }
    // Sound by every rule of the host, and QEMU's own to refuse.
    let status = daemon
        .create(spec("big-number"))
        .await
        .expect_err("no host has that node");
    assert_eq!(status.code(), Code::Aborted, "{status}");
    assert!(status.message().contains("QEMU said:"), "{status}");
    assert!(!status.message().contains("is at fault"), "{status}");
    let nothing = eventually("no VM is listed", Duration::from_secs(10), || async {
        daemon.list().await.is_empty().then_some(())
    });
    nothing.await;
    leftovers::assert_nothing_left(&daemon.state_dir);
    // One line for each QEMU that was started for a VM.
    assert_eq!(daemon.log().matches("QEMU's command").count(), 1);
}

/// The QEMU that is installed says itself which one it is.
#[tokio::test]
async fn what_qemu_lacks_is_named_with_the_qemu_that_has_it() {
    let daemon = daemon_with(grants());
    #[expect(clippy::disallowed_methods, reason = "the oracle")]
    let output = std::process::Command::new("qemu-system-x86_64")
        .arg("--version")
        .output()
        .expect("the system's QEMU runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let rest = text.strip_prefix("QEMU emulator version ");
    let installed = rest.and_then(|rest| rest.split_whitespace().next());
    let installed = installed.expect("QEMU says its version");
    for (act, words, remedy) in [
        (
            "type-unknown-to-qemu",
            "has no object type \"casemate-test-guest\"; QEMU 99.1 is the first that has it",
            "install QEMU 99.1 or newer, or choose another backend",
        ),
        (
            "unknown-to-qemu",
            "has no property \"casemate-test\" of memory-backend-ram; QEMU 6.2 is the first that can have it",
            "install a QEMU that is built with it, or choose another backend",
        ),
    ] {
        let status = plan(&daemon, act).await.expect_err(act);
        for part in [
            format!("QEMU {installed} {words}"),
            format!("\nremedy: {remedy}"),
            "qemu-lacks".to_owned(),
        ] {
            assert!(
                status.message().contains(&part),
                "{act}: wanted is {part:?}: {status}"
            );
        }
    }
}

/// A caller who names an identity has a VM that carries it, or none.
#[tokio::test]
async fn an_identity_that_is_named_and_not_carried_is_a_fault() {
    let daemon = daemon_with(grants());
    for act in ["well", "identity-dropped"] {
        let request = v1::PlanVmRequest {
            spec: Some(v1::VmSpec {
                identity: Some(v1::Identity {
                    algorithm: "raw".to_owned(),
                    digest: vec![7],
                }),
                ..spec(act)
            }),
            ..v1::PlanVmRequest::default()
        };
        let answer = daemon.vms().await.plan_vm(request).await;
        let status = answer.expect_err(act);
        let part =
            "identity-carrier: the request has an identity, and nothing of the plan carries it";
        assert_fault(act, &status, part);
    }
}

fn resident_kib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()));
    let status = status.expect("the daemon runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("a line");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}

#[tokio::test]
async fn two_hundred_faults_cost_no_memory() {
    const ACTS: [&str; 5] = ["trap", "hog", "oversized", "secret-file", "foreign-file"];
    let daemon = daemon_with(grants());
    let fault_for = async |calls: usize| {
        for act in ACTS.iter().cycle().take(calls) {
            plan(&daemon, act).await.expect_err(act);
        }
    };
    // Pools and caches fill before the first look.
    fault_for(20).await;
    let before = resident_kib(&daemon);
    fault_for(200).await;
    let grown = resident_kib(&daemon).saturating_sub(before);
    assert!(grown < MAX_GROWTH_KIB, "{grown} KiB more than {before} KiB");
    assert_eq!(fault_total(&daemon).await, 220);
}
