//! What the fields of answers say is what is known from elsewhere: the config, the files, the
//! processes and the scripted QEMU's own record of its starts. Through gRPC and through HTTP.

use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup, eventually, free_port};
use casemate_integration::processes;
use jiff::Timestamp;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;

use super::both::{Call, over_grpc, over_http};

const PATIENCE: Duration = Duration::from_secs(60);

/// The same call both ways.
pub(super) async fn answers(daemon: &Daemon, call: &Call, id: &str) -> [(&'static str, Value); 2] {
    let grpc = over_grpc(daemon, call, id).await.expect("an answer");
    let http = over_http(daemon, call, id).await.expect("an answer");
    [("gRPC", grpc), ("HTTP", http)]
}

fn time(value: &Value) -> Timestamp {
    let text = value.as_str().unwrap_or_default();
    let time = text.parse();
    time.unwrap_or_else(|error| panic!("{text:?} is no time: {error}"))
}

fn assert_between(value: &Value, (begin, end): (Timestamp, Timestamp), what: &str) {
    let time = time(value);
    assert!(
        (begin..=end).contains(&time),
        "{what}: {time} is not between {begin} and {end}"
    );
}

/// The scripted QEMU's words about itself.
fn version_of(program: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "the oracle")]
    let output = std::process::Command::new(program)
        .arg("--version")
        .output();
    String::from_utf8(output.expect("it runs").stdout).expect("text")
}

/// The value behind a flag in the arguments of a start.
pub(super) fn argument<'a>(start: &'a Value, flag: &str) -> &'a str {
    let arguments = start["argv"].as_array().expect("arguments");
    let at = arguments.iter().position(|one| one == flag);
    let at = at.unwrap_or_else(|| panic!("no {flag} in {start}"));
    arguments[at + 1].as_str().expect("a text")
}

#[tokio::test]
async fn a_vm_is_told_as_config_files_and_processes_have_it() {
    let port = free_port();
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup.set("network.ports", format!("{port}-{port}"));
    let program = setup.config["qemu"]["binary"].as_str().map(str::to_owned);
    let daemon = setup.start();
    // A clock's tick before and after, for times may be cut to it.
    let begin = Timestamp::now() - Duration::from_secs(1);
    let spec = json!({
        "name": "web", "vcpus": 3, "memory_bytes": 384 << 20, "cpu": "max",
        "kernel_cmdline": "quiet a=b", "labels": {"tier": "web", "zone": "1"},
        "ttl_seconds": 3600, "restart_policy": "always",
    });
    let created = over_grpc(&daemon, &Call::Create(spec), "")
        .await
        .expect("it runs");
    let end = Timestamp::now() + Duration::from_secs(1);
    let folders = std::fs::read_dir(daemon.state_dir.join("records")).expect("records");
    let ids = folders
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let ids: Vec<String> = ids.collect();
    let [id] = &ids[..] else { panic!("{ids:?}") };
    let starts = Setup::fake_starts(daemon.folder.path());
    let machine = argument(&starts[0], "-machine").split(',').next();
    let version = version_of(&program.expect("it is set"));
    let list = Call::List("name=web");
    let [one, other] = answers(&daemon, &Call::Get("VM"), id).await;
    let listed = answers(&daemon, &list, id).await;
    let listed = listed.map(|(way, list)| (way, list["vms"][0].clone()));
    let [in_grpc, in_http] = listed;
    for (way, vm) in [one, other, ("gRPC", created), in_grpc, in_http] {
        let wanted = json!({
            "id": id, "name": "web", "state": "running", "detail": "", "backend": "plain-kvm",
            "tee": "none", "confidential": false, "vcpus": 3, "memory_bytes": 384 << 20,
            "machine": machine, "cpu": "max", "kernel_cmdline": "quiet a=b",
            "agent_address": format!("127.0.0.1:{port}"),
            "backend_sha256": artifacts::sha256(&artifacts::component("plain-kvm")),
            "pid": starts[0]["pid"], "restart_policy": "always", "restarts": 0,
            "labels": {"tier": "web", "zone": "1"}, "last_exit": null, "identity": null,
        });
        for (name, wanted) in wanted.as_object().expect("an object") {
            assert_eq!(vm[name], *wanted, "{way}: {name} of {vm:#}");
        }
        assert_eq!(
            processes::with_uuid(id),
            [vm["pid"].as_u64().expect("a pid") as u32]
        );
        let qemu_version = vm["qemu_version"].as_str().unwrap_or_default();
        assert!(
            !qemu_version.is_empty() && version.contains(qemu_version),
            "{vm:#}"
        );
        assert_between(&vm["created_at"], (begin, end), "created_at");
        assert_between(&vm["started_at"], (begin, end), "started_at");
        let hour = Duration::from_secs(3600);
        assert_between(&vm["expires_at"], (begin + hour, end + hour), "expires_at");
        assert!(
            vm["generation"].as_u64().is_some_and(|number| number > 0),
            "{vm:#}"
        );
    }
    // Findings are in one VM, and not in a list.
    for (way, vm) in answers(&daemon, &Call::Get("VM"), id).await {
        let found = vm["findings"].as_array().expect("findings");
        let wanted = json!({
            "id": "measurement.none", "severity": "note", "subject": "backend",
            "detail": "no hardware root of trust: nothing is measured, and the host can read the guest",
            "remedy": "choose a confidential backend where the guest must be protected from its host",
        });
        assert!(found.contains(&wanted), "{way}: {vm:#}");
    }
}

#[tokio::test]
async fn the_end_of_a_vm_is_told_as_the_kernel_and_qemu_have_it() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let daemon = setup.start();
    let spec = json!({"restart_policy": "always"});
    let created = over_grpc(&daemon, &Call::Create(spec), "")
        .await
        .expect("it runs");
    let id = created["id"].as_str().expect("an id");
    for (restarts, signal, reason, code, by) in [
        (1, Signal::KILL, "", Value::Null, json!(9)),
        // The guest shuts down.
        (2, Signal::USR1, "guest-shutdown", json!(0), Value::Null),
    ] {
        let begin = Timestamp::now() - Duration::from_secs(1);
        let pids = processes::with_uuid(id);
        processes::signal(pids[0], signal);
        eventually("the next start", PATIENCE, || async {
            let vm = over_http(&daemon, &Call::Get("VM"), id).await.ok()?;
            let pid = processes::with_uuid(id).first().copied();
            (pid.is_some_and(|pid| pid != pids[0]) && vm["state"] == "running").then_some(())
        })
        .await;
        let end = Timestamp::now() + Duration::from_secs(1);
        for (way, vm) in answers(&daemon, &Call::Get("VM"), id).await {
            assert_eq!(vm["restarts"], restarts, "{way}: {vm:#}");
            let exit = &vm["last_exit"];
            assert_eq!(exit["reason"], reason, "{way}: {vm:#}");
            assert_eq!(
                (&exit["code"], &exit["signal"]),
                (&code, &by),
                "{way}: {vm:#}"
            );
            assert_between(&exit["at"], (begin, end), "at");
        }
    }
    let created = over_grpc(&daemon, &Call::Create(json!({})), "")
        .await
        .expect("it runs");
    let id = created["id"].as_str().expect("an id");
    processes::signal(processes::with_uuid(id)[0], Signal::USR1);
    eventually("its end", PATIENCE, || async {
        let vm = over_http(&daemon, &Call::Get("VM"), id).await.ok()?;
        (vm["state"] == "exited").then_some(())
    })
    .await;
    for (way, vm) in answers(&daemon, &Call::Get("VM"), id).await {
        let detail = vm["detail"].as_str().unwrap_or_default();
        assert!(detail.contains("guest-shutdown"), "{way}: {vm:#}");
    }
}

/// A daemon with a backend of each kind: one of another maker, and one whose file is not what the
/// config pins.
fn daemon_with_backends() -> Daemon {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    // Of what it announces one thing is granted.
    setup.add_backend(
        "umbra",
        toml::toml! { facts = [{ fact = "qemu-machine", pattern = "pc" }] },
    );
    setup.add_iothreads("mirror", "broken");
    let backends = setup.config["backend"].as_array_mut().expect("an array");
    let broken = backends.last_mut().and_then(toml::Value::as_table_mut);
    broken
        .expect("a table")
        .insert("sha256".to_owned(), "0".repeat(64).into());
    setup.start()
}

fn by_name<'a>(list: &'a Value, name: &str) -> &'a Value {
    let found = list.as_array().into_iter().flatten();
    let mut found = found.filter(|one| one["name"] == name);
    let found = found.next();
    found.unwrap_or_else(|| panic!("no {name} in {list:#}"))
}

#[tokio::test]
async fn backends_are_told_as_config_and_components_have_them() {
    let daemon = daemon_with_backends();
    let path = |name: &str| artifacts::component(name).display().to_string();
    for (way, list) in answers(&daemon, &Call::Backends, "").await {
        let umbra = by_name(&list["backends"], "umbra");
        let wanted = json!({
            "name": "umbra", "tee": "umbra", "protection": "none", "vendor": "Umbra Works",
            "version": env!("CARGO_PKG_VERSION"), "api_version": "1.0.0",
            "sha256": artifacts::sha256(&artifacts::component("umbra")), "path": path("umbra"),
            "architectures": ["x86_64"], "tier": "strict", "carries_identity": false, "status": "in-service", "error": "", "is_default": false,
            "settings": [], "findings": [], "canary_of": "", "canary_labels": {},
            "grants": [
                {"kind": "fact", "what": "qemu-machine pc", "granted": true,
                 "reason": "the versioned name of the machine that the simulator runs in"},
                {"kind": "object", "what": "memory-backend-memfd (share)", "reason": "", "granted": false},
                {"kind": "device", "what": "pvpanic-pci ()", "reason": "", "granted": false},
            ],
        });
        assert_eq!(*umbra, wanted, "{way}");
        let plain = by_name(&list["backends"], "plain-kvm");
        assert_eq!(plain["is_default"], true, "{way}: {plain:#}");
        let settings = plain["settings"].as_array().expect("settings");
        let firmware = settings.iter().find(|setting| setting["key"] == "firmware");
        let firmware = firmware.expect("it has that setting");
        assert_eq!(firmware["value"], "none", "{way}: {firmware:#}");
        assert_eq!(firmware["per_request"], true, "{way}: {firmware:#}");
        for (member, part) in [("kind", "pflash"), ("description", "irmware")] {
            let text = firmware[member].as_str().unwrap_or_default();
            assert!(text.contains(part), "{way}: {firmware:#}");
        }
        let broken = by_name(&list["backends"], "broken");
        assert_eq!(broken["status"], "failed", "{way}: {broken:#}");
        assert_eq!(broken["path"], path("mirror"), "{way}: {broken:#}");
        let error = broken["error"].as_str().unwrap_or_default();
        let digest = artifacts::sha256(&artifacts::component("mirror"));
        assert!(error.contains(&digest), "{way}: {broken:#}");
    }
    for (way, umbra) in answers(&daemon, &Call::Backend("umbra"), "").await {
        let findings = umbra["findings"].as_array().expect("findings");
        assert!(
            findings
                .iter()
                .any(|finding| finding["id"] == "umbra.machine"),
            "{way}: {umbra:#}"
        );
    }
}

#[tokio::test]
async fn the_host_is_told_as_its_config_and_files_are() {
    let daemon = daemon_with_backends();
    for (way, checked) in answers(&daemon, &Call::CheckHost(""), "").await {
        assert_eq!(checked["usable"], true, "{way}");
        let found = checked["host_findings"].as_array().expect("findings");
        let limit = found.iter().find(|finding| finding["id"] == "host.limits");
        assert_eq!(limit.expect("the limits")["subject"], "max_vms", "{way}");
        let plain = by_name(&checked["backends"], "plain-kvm");
        for (member, wanted) in [
            ("tee", json!("none")),
            ("protection", json!("none")),
            ("status", json!("in-service")),
            ("error", json!("")),
            ("usable", json!(true)),
        ] {
            assert_eq!(plain[member], wanted, "{way}: {plain:#}");
        }
        let broken = by_name(&checked["backends"], "broken");
        let digest = artifacts::sha256(&artifacts::component("mirror"));
        assert_eq!(broken["status"], "failed", "{way}");
        assert_eq!(broken["usable"], false, "{way}");
        let [load] = &broken["findings"].as_array().expect("findings")[..] else {
            panic!("{way}: {broken:#}");
        };
        assert_eq!(load["id"], "backend.load", "{way}");
        assert_eq!(load["severity"], "fail", "{way}");
        assert_eq!(load["subject"], "broken", "{way}");
        assert!(
            load["remedy"].as_str().is_some_and(|text| !text.is_empty()),
            "{way}"
        );
        for text in [&load["detail"], &broken["error"]] {
            let text = text.as_str().unwrap_or_default();
            assert!(text.contains(&digest), "{way}: {broken:#}");
        }
    }
    for (way, checked) in answers(&daemon, &Call::CheckHost("umbra"), "").await {
        let names = checked["backends"].as_array().expect("backends").iter();
        let names: Vec<&Value> = names.map(|backend| &backend["name"]).collect();
        assert_eq!(names, ["umbra"], "{way}");
    }
}

#[tokio::test]
async fn values_of_the_config_are_told_with_their_sources() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup.set("max_vms", 7);
    setup.flags.push("max_vms=8".to_owned());
    let daemon = setup.start();
    for (way, config) in answers(&daemon, &Call::Config, "").await {
        let values = config["values"].as_array().expect("values");
        let limit = values.iter().find(|value| value["key"] == "max_vms");
        let limit = limit.unwrap_or_else(|| panic!("{way}: no max_vms in {config:#}"));
        assert_eq!(limit["value"], "8", "{way}");
        assert_eq!(limit["source"], "--set", "{way}");
        let note = limit["notes"][0].as_str().unwrap_or_default();
        assert!(note.contains("not used: 7 from"), "{way}: {limit:#}");
    }
}

#[tokio::test]
async fn a_plan_is_told_with_all_that_it_is_made_of() {
    let mut setup = Setup::new();
    setup.add_backend("gauge", toml::toml! { facts = [{ fact = "qemu-version" }] });
    setup.use_fake_qemu(&json!({}));
    let kernel = artifacts::kernel();
    let daemon = setup.start();
    let spec = json!({"backend": "gauge", "name": "planned", "kernel_cmdline": "quiet from=plan"});
    for (way, plan) in answers(&daemon, &Call::Plan(spec.clone()), "").await {
        assert_eq!(plan["backend"], "gauge", "{way}");
        assert_eq!(plan["tee"], "gauge", "{way}");
        assert_eq!(plan["confidential"], false, "{way}");
        assert_eq!(plan["dry_run"], "", "{way}");
        let command = plan["command"].as_array().expect("a command");
        assert!(
            command.iter().any(|word| word == "quiet from=plan"),
            "{way}: {plan:#}"
        );
        let script = plan["standalone_script"].as_str().unwrap_or_default();
        assert!(script.starts_with("#!/bin/sh\n"), "{way}: {script}");
        let digest = crate::measured::sha384(&kernel);
        for (member, part) in [
            ("measurement", &*digest),
            ("facts", "10.0.2"),
            ("plan", "\"kind\":\"pc\""),
        ] {
            let text = plan[member].to_string();
            assert!(text.contains(part), "{way}: {member}: {text}");
        }
    }
    for (way, plan) in answers(&daemon, &Call::DryCreate(spec), "").await {
        assert_eq!(plan["dry_run"], "prelaunch", "{way}");
    }
    for (way, plan) in answers(&daemon, &Call::Plan(json!({})), "").await {
        let findings = plan["findings"].as_array().expect("findings");
        assert!(
            findings
                .iter()
                .any(|finding| finding["id"] == "measurement.none"),
            "{way}: {plan:#}"
        );
    }
}

/// With KVM, without which nothing is guarded; the guest is scripted.
#[tokio::test]
async fn a_guarded_vm_is_told_as_such_with_its_identity() {
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    if let Err(error) = device {
        println!("skipped: /dev/kvm cannot be opened: {error}");
        return;
    }
    let mut setup = Setup::new();
    setup.add_iothreads("sealed", "sealed");
    setup.use_fake_qemu(&json!({}));
    setup.set("qemu.accelerator", "kvm");
    let daemon = setup.start();
    // 48 bytes of 0x2a.
    let asked = json!({"algorithm": "sha-384", "digest": "Kioq".repeat(16)});
    let wanted = json!({"algorithm": "sha-384", "digest": "2a".repeat(48), "source": "request"});
    let spec = json!({"backend": "sealed", "identity": asked, "require_confidential": true});
    let created = over_grpc(&daemon, &Call::Create(spec.clone()), "")
        .await
        .expect("it runs");
    let id = created["id"].as_str().expect("an id");
    let [one, other] = answers(&daemon, &Call::Get("VM"), id).await;
    let [plan, other_plan] = answers(&daemon, &Call::Plan(spec), "").await;
    for (way, told) in [one, other, plan, other_plan] {
        assert_eq!(told["confidential"], true, "{way}: {told:#}");
        assert_eq!(told["tee"], "sealed", "{way}: {told:#}");
        assert_eq!(told["identity"], wanted, "{way}: {told:#}");
    }
    for (way, list) in answers(&daemon, &Call::Backends, "").await {
        let sealed = by_name(&list["backends"], "sealed");
        assert_eq!(sealed["protection"], "guard", "{way}: {sealed:#}");
        assert_eq!(sealed["carries_identity"], true, "{way}: {sealed:#}");
    }
    for (way, checked) in answers(&daemon, &Call::CheckHost(""), "").await {
        let sealed = by_name(&checked["backends"], "sealed");
        assert_eq!(sealed["protection"], "guard", "{way}: {sealed:#}");
    }
}

/// `/health` and `/ready`, which are not about VMs.
#[tokio::test]
async fn the_daemon_tells_of_itself_as_it_was_set_up() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup.set("max_vms", 1);
    let daemon = setup.start();
    let (status, body) = daemon.get_http("/health").await;
    let health: Value = serde_json::from_str(&body).expect("JSON");
    let instance = std::fs::read_to_string(daemon.state_dir.join("instance-id"));
    assert_eq!(status, 200);
    assert_eq!(health["status"], "pass");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(health["description"], "casemate manager service");
    assert_eq!(health["instance_id"], instance.expect("it is kept"));
    let built = time(&health["build_time"]);
    assert!(built < Timestamp::now(), "{body}");
    over_grpc(&daemon, &Call::Create(json!({})), "")
        .await
        .expect("it runs");
    let (status, body) = daemon.get_http("/ready").await;
    let ready: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((status, &ready["status"]), (503, &json!("fail")));
    let checks = ready["checks"].as_array().expect("checks");
    let failed = checks.iter().filter(|check| check["status"] == "fail");
    let failed: Vec<&Value> = failed.collect();
    let [limit] = failed[..] else {
        panic!("{body}");
    };
    assert_eq!(limit["id"], "host.limits");
    assert_eq!(limit["subject"], "max_vms");
    for (member, part) in [("detail", "1"), ("remedy", "max_vms")] {
        let text = limit[member].as_str().unwrap_or_default();
        assert!(text.contains(part), "{member}: {limit:#}");
    }
}
