//! `casemate doctor` against a daemon: what the host and each backend lack, in which order, with
//! which exit code; and that `/ready` says the same. With the scripted QEMU, because no guest is the
//! subject.

use casemate_integration::daemon::{Daemon, Setup};
use casemate_proto::v1;
use serde_json::{Value, json};

use crate::cli::{casemate, text};

/// In the order in which they are told; of some there are several findings.
const HOST_IDS: [&str; 10] = [
    "host.qemu",
    "host.kvm",
    "host.firmware",
    "host.images",
    "host.state-dir",
    "host.network",
    "host.ports",
    "host.limits",
    "host.leases",
    "host.backends",
];

/// Exit code of a host on which no VM can be started.
const UNFIT: i32 = 6;

fn setup() -> Setup {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup
}

/// Its exit code and its answer as JSON.
fn doctor(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = casemate(
        daemon,
        &[&["doctor", "--format", "json"], arguments].concat(),
    );
    let answer = serde_json::from_slice(&output.stdout);
    let answer = answer.unwrap_or_else(|_| panic!("no JSON: {}", text(&output.stderr)));
    (output.status.code(), answer)
}

fn findings(value: &Value) -> &[Value] {
    value.as_array().expect("an array of findings")
}

fn ids(value: &Value) -> Vec<&str> {
    let ids = findings(value).iter();
    ids.map(|finding| finding["id"].as_str().expect("an id"))
        .collect()
}

/// The finding with that id and subject.
fn finding<'a>(value: &'a Value, id: &str, subject: &str) -> &'a Value {
    findings(value)
        .iter()
        .find(|finding| finding["id"] == id && finding["subject"] == subject)
        .unwrap_or_else(|| panic!("no {id} ({subject}) in {value:#}"))
}

fn failures(value: &Value) -> Vec<&str> {
    let failed = findings(value).iter().filter(|f| f["severity"] == "fail");
    failed
        .map(|finding| finding["id"].as_str().expect("an id"))
        .collect()
}

fn assert_detail(finding: &Value, severity: &str, part: &str) {
    assert_eq!(finding["severity"], severity, "{finding:#}");
    let detail = finding["detail"].as_str().expect("a text");
    assert!(detail.contains(part), "{part:?}: {finding:#}");
    let has_remedy = finding["remedy"] != "";
    assert_eq!(has_remedy, severity != "pass", "{finding:#}");
}

/// Adds a backend whose file is not what the config pins.
fn add_unpinned(setup: &mut Setup, name: &str) {
    setup.add_iothreads("mirror", name);
    let backends = setup.config["backend"].as_array_mut().expect("an array");
    let added = backends.last_mut().and_then(toml::Value::as_table_mut);
    added
        .expect("a table")
        .insert("sha256".to_owned(), "0".repeat(64).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_told_first_and_then_each_backend() {
    let mut setup = setup();
    add_unpinned(&mut setup, "broken");
    setup.add_backend("umbra", toml::Table::new());
    let daemon = setup.start();
    let (code, answer) = doctor(&daemon, &[]);
    assert_eq!(code, Some(0), "{answer:#}");
    assert_eq!(answer["usable"], true);

    let mut told = ids(&answer["host_findings"]);
    told.dedup();
    assert_eq!(told.pop(), Some("backend"));
    assert_eq!(told, HOST_IDS);
    assert_eq!(failures(&answer["host_findings"]), [""; 0]);
    let kvm = finding(&answer["host_findings"], "host.kvm", "qemu.accelerator");
    assert_detail(kvm, "note", "emulated");
    let backends = finding(&answer["host_findings"], "host.backends", "backend");
    assert_detail(
        backends,
        "warn",
        "in service are plain-kvm, umbra; not in service are broken",
    );

    let told = findings(&answer["backends"]).iter().map(|backend| {
        let text = |member: &str| backend[member].as_str().expect("a text").to_owned();
        (
            text("name"),
            text("tee"),
            text("status"),
            backend["usable"] == true,
        )
    });
    let wanted = [
        ("plain-kvm", "none", "in-service", true),
        ("broken", "", "failed", false),
        ("umbra", "umbra", "in-service", true),
    ];
    let wanted = wanted.map(|(name, tee, status, is_usable)| {
        (
            name.to_owned(),
            tee.to_owned(),
            status.to_owned(),
            is_usable,
        )
    });
    assert_eq!(Vec::from_iter(told), wanted);
    let load = finding(&answer["backends"][1]["findings"], "backend.load", "broken");
    assert_detail(load, "fail", "config pins 0000");
    // The findings are those that the backend gives when it is shown alone.
    let request = v1::GetBackendRequest {
        name: "umbra".to_owned(),
    };
    let shown = daemon.backends().await.get_backend(request).await;
    let shown = shown.expect("an answer").into_inner().backend;
    let shown = shown.expect("a backend").findings;
    let shown: Vec<&str> = shown.iter().map(|finding| &*finding.id).collect();
    assert_eq!(ids(&answer["backends"][2]["findings"]), shown);
    assert!(!shown.is_empty());

    let output = casemate(&daemon, &["doctor"]);
    let tree = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{tree}");
    let titles: Vec<&str> = tree
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with(' '))
        .collect();
    assert_eq!(titles.len(), 4, "{tree}");
    for (title, part) in titles.iter().zip([
        "host: can start VMs",
        "plain-kvm (tee none, protection none): can start VMs",
        "broken (failed): cannot start VMs: ",
        "umbra (tee umbra, protection none): can start VMs",
    ]) {
        assert!(title.starts_with(part), "{title}");
    }
    assert!(!tree.contains('\u{1b}'), "no colours in a pipe: {tree}");
}

#[test]
fn one_backend_alone_is_asked_for() {
    let mut setup = setup();
    add_unpinned(&mut setup, "broken");
    let daemon = setup.start();
    for (name, code, part) in [
        ("plain-kvm", Some(0), ""),
        ("broken", Some(UNFIT), "error: host-unfit (stage client)"),
        ("nobody", Some(3), "there is no backend \"nobody\""),
    ] {
        let output = casemate(&daemon, &["doctor", "--backend", name]);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), code, "{name}: {errors}");
        assert!(errors.contains(part), "{name}: {errors}");
        let shown = text(&output.stdout);
        let others = ["plain-kvm (", "broken ("];
        for other in others.iter().filter(|other| !other.starts_with(name)) {
            assert!(!shown.contains(other), "{name}: {shown}");
        }
    }
}

/// What is wrong with a host, and the first of its findings that fails.
struct Lack {
    name: &'static str,
    setup: fn(&mut Setup),
    id: &'static str,
    subject: &'static str,
    part: &'static str,
}

const LACKS: &[Lack] = &[
    Lack {
        name: "no QEMU",
        setup: |setup| {
            setup.set("qemu.binary", "no-such-qemu");
        },
        id: "host.qemu",
        subject: "qemu.binary",
        part: "there is no QEMU \"no-such-qemu\"",
    },
    Lack {
        name: "no port",
        setup: |setup| {
            // Another program listens there, for as long as the tests run.
            let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = held.local_addr().expect("an address").port();
            std::mem::forget(held);
            setup.set("network.ports", format!("{port}-{port}"));
        },
        id: "host.ports",
        subject: "network.ports",
        part: "is free",
    },
    Lack {
        name: "no backend",
        setup: |setup| {
            setup.unset("backend");
            setup.unset("default_backend");
        },
        id: "host.backends",
        subject: "backend",
        part: "no backend is configured",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_lacks_is_the_first_cause() {
    for lack in LACKS {
        let mut setup = setup();
        (lack.setup)(&mut setup);
        let daemon = setup.start();
        let (code, answer) = doctor(&daemon, &[]);
        assert_eq!(code, Some(UNFIT), "{}: {answer:#}", lack.name);
        assert_eq!(answer["usable"], false, "{}", lack.name);
        let host = &answer["host_findings"];
        assert_eq!(failures(host).first(), Some(&lack.id), "{}", lack.name);
        let found = finding(host, lack.id, lack.subject);
        assert_detail(found, "fail", lack.part);

        let output = casemate(&daemon, &["doctor"]);
        let (tree, errors) = (text(&output.stdout), text(&output.stderr));
        let detail = found["detail"].as_str().expect("a text");
        let header = format!("host: cannot start VMs: {detail}\n");
        assert!(tree.starts_with(&header), "{}: {tree}", lack.name);
        let cause = format!("error: no VM can be started on this host: {detail}\n");
        assert!(errors.starts_with(&cause), "{}: {errors}", lack.name);
        assert_ready_agrees(&daemon, host).await;
    }
}

/// `/ready` has the host's findings as its checks, in their order, and then the backend's.
async fn assert_ready_agrees(daemon: &Daemon, host: &Value) {
    let (status, body) = daemon.get_http("/ready").await;
    let ready: Value = serde_json::from_str(&body).expect("JSON");
    let checks = ready["checks"].as_array().expect("a list");
    let (backend, of_host) = checks.split_last().expect("a check");
    assert_eq!(backend["id"], "backend");
    // What is chosen where nobody names a backend is no failure of the host.
    let (choice, host) = findings(host).split_last().expect("a finding");
    assert_eq!(choice["id"], "backend");
    assert_ne!(choice["severity"], "fail");
    assert_eq!(choice["severity"] == "pass", backend["status"] == "pass");
    assert_eq!(of_host.len(), host.len(), "{body}");
    for (check, finding) in of_host.iter().zip(host) {
        assert_eq!(check["id"], finding["id"]);
        assert_eq!(check["subject"], finding["subject"]);
        assert_eq!(check["status"], finding["severity"], "{check:#}");
    }
    let fails = checks.iter().any(|check| check["status"] == "fail");
    assert_eq!(status, if fails { 503 } else { 200 }, "{body}");
    assert_eq!(ready["status"], if fails { "fail" } else { "pass" });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_reached_shows_until_there_is_room_again() {
    let mut setup = setup();
    setup.set("max_vms", 1).set("max_vcpus", 4);
    setup.set("leases.seats", 2);
    let daemon = setup.start();
    let limit = |answer: &Value, key: &str| -> (String, String) {
        let finding = finding(&answer["host_findings"], "host.limits", key);
        let text = |member: &str| finding[member].as_str().expect("a text").to_owned();
        (text("severity"), text("detail"))
    };
    let told = |severity: &str, detail: &str| (severity.to_owned(), detail.to_owned());

    let (code, before) = doctor(&daemon, &[]);
    assert_eq!(code, Some(0), "{before:#}");
    assert_eq!(
        limit(&before, "max_vms"),
        told("pass", "0 of 1 VMs taken, 1 free")
    );
    // The kernel counts nothing of this name.
    let seats = finding(&before["host_findings"], "host.leases", "leases.seats");
    assert_detail(seats, "note", "0 of 2 are taken");

    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let (code, full) = doctor(&daemon, &[]);
    assert_eq!(code, Some(UNFIT), "{full:#}");
    assert_eq!(
        limit(&full, "max_vms"),
        told("fail", "1 of 1 VMs taken, 0 free")
    );
    assert_eq!(
        limit(&full, "max_vcpus"),
        told("pass", "1 of 4 vCPUs taken, 3 free")
    );
    assert_ready_agrees(&daemon, &full["host_findings"]).await;

    daemon.remove(&vm.id).await.expect("removal works");
    let (code, after) = doctor(&daemon, &[]);
    assert_eq!(code, Some(0), "{after:#}");
    assert_eq!(limit(&after, "max_vms"), limit(&before, "max_vms"));
}

/// What the config does not grant is not said to be missing.
#[test]
fn a_fact_that_is_not_granted_reads_as_such() {
    let mut setup = setup();
    setup.config["backend"][0]["grants"]["facts"] = toml::Value::Array(Vec::new());
    let daemon = setup.start();
    let (code, answer) = doctor(&daemon, &["--backend", "plain-kvm"]);
    assert_eq!(code, Some(0), "{answer:#}");
    let told = &answer["backends"][0]["findings"];
    for (id, subject) in [
        ("qemu.version", "qemu-version"),
        ("qemu.machine", "machine"),
    ] {
        let found = finding(told, id, subject);
        assert_detail(found, "warn", "the backend may not ask");
        let remedy = found["remedy"].as_str().expect("a text");
        assert!(remedy.contains("to the grants of plain-kvm"), "{found:#}");
    }
    // The host itself knows its QEMU all the same.
    let qemu = finding(&answer["host_findings"], "host.qemu", "qemu.binary");
    assert_detail(qemu, "pass", " is QEMU 10.0.2");
}

/// The descriptors have the form of those that distributions install (QEMU,
/// docs/interop/firmware.json). `mirror` shows what firmware it was given.
#[test]
fn firmware_is_chosen_by_the_descriptors_unless_somebody_named_one() {
    let mut setup = setup();
    setup.add_iothreads("mirror", "mirror");
    let folder = setup.folder.path().to_owned();
    let path = |name: &str| folder.join(name).display().to_string();
    let described = |features: &[&str], file: &str| {
        json!({
            "description": "a firmware",
            "interface-types": ["uefi"],
            "mapping": {"device": "memory", "filename": path(file)},
            "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
            "features": features,
            "tags": [],
        })
        .to_string()
    };
    let (etc, usr) = (folder.join("etc"), folder.join("usr"));
    for folder in [&etc, &usr] {
        std::fs::create_dir(folder).expect("a folder");
    }
    for name in ["plain.fd", "mirrored.fd", "own.fd", "built-in.fd"] {
        std::fs::write(folder.join(name), name).expect("a file");
    }
    let write = |path: std::path::PathBuf, text: &str| {
        std::fs::write(path, text).expect("a file");
    };
    write(
        usr.join("40-plain.json"),
        &described(&["acpi-s3"], "plain.fd"),
    );
    write(
        usr.join("50-mirrored.json"),
        &described(&["acpi-s3", "mirrored"], "mirrored.fd"),
    );
    write(usr.join("60-broken.json"), "{");
    setup.set(
        "vm.firmware_descriptors",
        format!("{}:{}", etc.display(), usr.display()),
    );
    let mut daemon = setup.start();
    let chosen = |daemon: &Daemon| -> Vec<String> {
        let (_, answer) = doctor(daemon, &["--backend", "mirror"]);
        findings(&answer["backends"][0]["findings"])
            .iter()
            .map(|finding| finding["detail"].as_str().expect("a text").to_owned())
            .collect()
    };
    assert_eq!(chosen(&daemon), ["mirrored.fd (built-in)"]);
    let (_, answer) = doctor(&daemon, &[]);
    let broken = usr.join("60-broken.json").display().to_string();
    let broken = finding(&answer["host_findings"], "host.firmware", &broken);
    assert_detail(broken, "note", "it is no firmware descriptor");
    let summary = finding(&answer["host_findings"], "host.firmware", "firmware");
    assert_detail(summary, "pass", "2 firmware descriptors");

    // The folder of the host's own weighs more.
    write(
        etc.join("50-mirrored.json"),
        &described(&["mirrored"], "own.fd"),
    );
    assert_eq!(chosen(&daemon), ["own.fd (built-in)"]);
    // Hidden: the default is left, where there is one.
    write(etc.join("50-mirrored.json"), "");
    assert!(
        !chosen(&daemon)
            .iter()
            .any(|file| file.starts_with("mirrored") || file.starts_with("own")),
    );
    std::fs::remove_file(etc.join("50-mirrored.json")).expect("it was there");

    daemon.stop();
    daemon.setup.set("vm.firmware", path("built-in.fd"));
    daemon.restart();
    assert_eq!(chosen(&daemon), ["built-in.fd (operator)"]);
}
