//! SIGHUP, and what the daemon says of its config. With the scripted QEMU, because no guest is the
//! subject.

use std::time::Duration;

use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup, eventually};
use casemate_proto::v1;
use casemate_proto::v1::config_service_client::ConfigServiceClient;
use rustix::process::Signal;
use serde_json::json;

/// Changes the config file of a running daemon and has it read.
async fn reload(daemon: &Daemon, change: impl Fn(&mut toml::Table), outcome: &str) {
    let path = daemon.folder.path().join("casemate.toml");
    let text = std::fs::read_to_string(&path).expect("the config is there");
    let mut config: toml::Table = text.parse().expect("it parses");
    change(&mut config);
    reload_text(daemon, &config.to_string(), outcome).await;
}

async fn reload_text(daemon: &Daemon, text: &str, outcome: &str) {
    std::fs::write(daemon.folder.path().join("casemate.toml"), text).expect("a file");
    let count = || async {
        let name = format!("casemate_config_reloads_total{{outcome=\"{outcome}\"}} ");
        let (_, metrics) = daemon.get_http("/metrics").await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.and_then(|count| count.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let before = count().await;
    daemon.signal(Signal::HUP);
    eventually(outcome, Duration::from_secs(30), || async {
        (count().await == before + 1).then_some(())
    })
    .await;
}

async fn explained(daemon: &Daemon, key: &str) -> v1::ConfigValue {
    let mut client = ConfigServiceClient::new(daemon.channel().await);
    let answer = client.explain_config(v1::ExplainConfigRequest {}).await;
    let values = answer.expect("an answer").into_inner().values;
    let value = values.into_iter().find(|value| value.key == key);
    value.unwrap_or_else(|| panic!("{key} is not explained"))
}

fn set(config: &mut toml::Table, table: &str, key: &str, value: impl Into<toml::Value>) {
    let table = match table {
        "" => config,
        table => config
            .entry(table)
            .or_insert_with(|| toml::Table::new().into())
            .as_table_mut()
            .expect("a table"),
    };
    table.insert(key.to_owned(), value.into());
}

fn setup() -> Setup {
    let mut setup = Setup::new();
    setup.set("max_vms", 1);
    setup.use_fake_qemu(&json!({}));
    setup
}

#[tokio::test]
async fn a_reload_takes_over_all_that_it_can_and_names_the_rest() {
    let daemon = setup().start();
    let first = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    daemon
        .create(v1::VmSpec::default())
        .await
        .expect_err("the limit is 1");
    reload(
        &daemon,
        |config| {
            set(config, "", "max_vms", 3);
            set(config, "vm", "vcpus", 2);
            set(config, "", "log", "debug");
            set(config, "grpc", "port", 1);
        },
        "applied",
    )
    .await;
    let second = daemon
        .create(v1::VmSpec::default())
        .await
        .expect("the limit is 3");
    assert_eq!((first.vcpus, second.vcpus), (1, 2));
    let (_, metrics) = daemon.get_http("/metrics").await;
    assert!(metrics.contains("casemate_vm_limit 3"), "{metrics}");
    let log = daemon.log();
    for part in [
        "max_vms 1 -> 3",
        "vm.vcpus 1 -> 2",
        "grpc.port 0 -> 1",
        "a restart is needed",
        "DEBUG",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    // Where it really listens, and what waits.
    let port = explained(&daemon, "grpc.port").await;
    assert_eq!(port.value, "0");
    assert!(
        port.notes
            .iter()
            .any(|note| note.contains("a restart is needed")),
        "{port:?}"
    );
    let limit = explained(&daemon, "max_vms").await;
    assert_eq!(limit.value, "3");
    // A VM of before is as it was, and can be removed.
    assert_eq!(daemon.get(&first.id).await.expect("it runs").vcpus, 1);
    daemon.remove(&first.id).await.expect("removal works");
}

#[tokio::test]
async fn a_reload_with_a_mistake_changes_nothing() {
    let daemon = setup().start();
    reload_text(&daemon, "max_vms = \"many\"\n", "refused").await;
    let log = daemon.log();
    for part in [
        "casemate.toml:1: max_vms is",
        "nothing was changed",
        "config-value",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    daemon
        .create(v1::VmSpec::default())
        .await
        .expect("the old config serves");
    daemon
        .create(v1::VmSpec::default())
        .await
        .expect_err("the limit is still 1");
}

/// A component that was replaced by another file leaves the old one serving.
#[tokio::test]
async fn a_reload_with_a_bad_component_leaves_the_old_one_serving() {
    let mut setup = setup();
    let component = setup.folder.path().join("backend.wasm");
    std::fs::copy(artifacts::component("plain-kvm"), &component).expect("a copy");
    let backend = setup.config["backend"][0].as_table_mut().expect("a table");
    backend.insert("path".to_owned(), component.display().to_string().into());
    let daemon = setup.start();
    std::fs::write(&component, "no component").expect("a file");
    let path = daemon.folder.path().join("casemate.toml");
    let config = std::fs::read_to_string(&path).expect("the config is there");
    reload_text(&daemon, &config, "refused").await;
    let log = daemon.log();
    assert!(
        log.contains("backend \"plain-kvm\" would not be in service"),
        "{log}"
    );
    daemon
        .create(v1::VmSpec::default())
        .await
        .expect("the old component serves");
    // Another component under the same name, with its digest, is taken over.
    std::fs::copy(artifacts::component("umbra"), &component).expect("a copy");
    let digest = artifacts::sha256(&component);
    reload(
        &daemon,
        |config| {
            set(config, "", "max_vms", 0);
            let backend = config["backend"][0].as_table_mut().expect("a table");
            backend.insert("sha256".to_owned(), digest.clone().into());
            backend.remove("settings");
            backend.insert(
                "grants".to_owned(),
                toml::toml! { facts = [{ fact = "qemu-machine", pattern = "*" }] }.into(),
            );
        },
        "applied",
    )
    .await;
    let mut client = daemon.backends().await;
    let listed = client.list_backends(v1::ListBackendsRequest {}).await;
    let backends = listed.expect("a list").into_inner().backends;
    assert_eq!(
        (&*backends[0].tee, &*backends[0].sha256),
        ("umbra", &*digest)
    );
}

#[tokio::test]
async fn every_value_is_explained_with_its_source() {
    let mut setup = setup();
    setup.variable("MANAGER_MAX_VMS", "2");
    setup.flags.push("network.agent_port=7003".to_owned());
    let daemon = setup.start();
    for (key, value, source) in [
        ("max_vms", "2", "MANAGER_MAX_VMS"),
        ("network.agent_port", "7003", "--set"),
        ("network.id", "\"vmnic\"", "default"),
        ("default_backend", "\"plain-kvm\"", "casemate.toml:"),
        (
            "backend.plain-kvm.settings.firmware",
            "\"none\"",
            "config file",
        ),
        ("instance_id", "", "default"),
    ] {
        let explained = explained(&daemon, key).await;
        assert_eq!(explained.value, value, "{key}");
        assert!(explained.source.contains(source), "{explained:?}");
    }
    let limit = explained(&daemon, "max_vms").await;
    assert!(limit.notes[0].contains("not used: 1 from"), "{limit:?}");
    for declared in casemate_host::config::keys() {
        explained(&daemon, declared.name).await;
    }
    // The same for people and scripts.
    let casemate = |arguments: &[&str]| {
        #[expect(clippy::disallowed_methods, reason = "the subject of the test")]
        let mut command = std::process::Command::new(artifacts::program("casemate"));
        let output = command
            .env("CASEMATE_ENDPOINT", daemon.endpoint())
            .args(arguments)
            .output()
            .expect("casemate runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let table = casemate(&["config", "explain", "max_vms"]);
    assert!(
        table.contains("MANAGER_MAX_VMS") && table.contains("not used: 1"),
        "{table}"
    );
    let given = casemate(&["config", "explain", "--set-only", "--format", "json"]);
    let given: serde_json::Value = serde_json::from_str(&given).expect("JSON");
    let given = given.as_array().expect("an array");
    assert!(
        given
            .iter()
            .any(|value| value["key"] == "network.agent_port")
    );
    assert!(given.iter().all(|value| value["source"] != "default"));
    assert_eq!(
        casemate(&["config", "default"]),
        casemate_host::config::document::default_file()
    );
}

/// Nothing is said, and no backend of the host guards guests: the daemon starts and says so.
#[tokio::test]
async fn without_a_choice_no_backend_is_guessed() {
    let mut setup = setup();
    setup.unset("default_backend");
    let daemon = setup.start();
    let (status, ready) = daemon.get_http("/ready").await;
    assert_eq!(status, 503);
    let refused = daemon
        .create(v1::VmSpec::default())
        .await
        .expect_err("no backend");
    for text in [&*ready, refused.message()] {
        assert!(
            text.contains("none can be chosen by itself: plain-kvm (protects no guests"),
            "{text}"
        );
    }
    // Both say what to do.
    for part in ["`default_backend`", "`plain-kvm` by name"] {
        assert!(ready.contains(part), "{part}: {ready}");
    }
    for part in [
        "`default_backend`",
        "`plain-kvm` by name",
        "error: backend-not-chosen",
    ] {
        assert!(refused.message().contains(part), "{refused}");
    }
    let named = v1::VmSpec {
        backend: "plain-kvm".to_owned(),
        ..v1::VmSpec::default()
    };
    daemon.create(named).await.expect("it was named");
}

/// The fixture's checks pass on any host. A guard takes KVM, so a plan shows the choice.
#[tokio::test]
async fn the_one_confidential_backend_whose_checks_pass_is_chosen() {
    let mut one = setup();
    one.unset("default_backend");
    one.set("qemu.accelerator", "kvm");
    one.add_iothreads("sealed", "sealed");
    let daemon = one.start();
    // Ready it is where there is a KVM too.
    let (_, ready) = daemon.get_http("/ready").await;
    let ready: serde_json::Value = serde_json::from_str(&ready).expect("JSON");
    let checks = ready["checks"].as_array().expect("a list");
    let chosen = checks.iter().find(|check| check["id"] == "backend");
    assert_eq!(
        chosen.expect("it is checked")["detail"],
        "sealed",
        "{ready}"
    );
    let request = v1::PlanVmRequest::default();
    let plan = daemon.vms().await.plan_vm(request).await.expect("a plan");
    let plan = plan.into_inner();
    assert_eq!((&*plan.backend, plan.confidential), ("sealed", true));

    let mut two = setup();
    two.unset("default_backend");
    two.add_iothreads("sealed", "sealed");
    two.add_iothreads("sealed", "other");
    let daemon = two.start();
    let refused = daemon
        .create(v1::VmSpec::default())
        .await
        .expect_err("two fit");
    assert!(
        refused.message().contains("several could be chosen")
            && refused
                .message()
                .contains("sealed (its checks pass), other (its checks pass)"),
        "{refused}"
    );
}

/// A file that was there and is not: nothing is taken over from nothing.
#[tokio::test]
async fn a_reload_without_its_file_changes_nothing() {
    let daemon = setup().start();
    let path = daemon.folder.path().join("casemate.toml");
    let text = std::fs::read_to_string(&path).expect("the config is there");
    std::fs::remove_file(&path).expect("it was there");
    daemon.signal(Signal::HUP);
    eventually("the refusal", Duration::from_secs(30), || async {
        daemon.log().contains("config-unreadable").then_some(())
    })
    .await;
    daemon
        .create(v1::VmSpec::default())
        .await
        .expect("the old config serves");
    // What a backend is given and what it may have is told when it changes, and a typing mistake is.
    std::fs::write(&path, &text).expect("a file");
    reload(
        &daemon,
        |config| {
            set(config, "settings", "memory-slotz", 1);
            let backend = config["backend"][0].as_table_mut().expect("a table");
            backend.insert("allow_unpinned".to_owned(), true.into());
        },
        "applied",
    )
    .await;
    let log = daemon.log();
    for part in [
        "config of backends changed backends=\"plain-kvm\"",
        "setting \"memory-slotz\" (",
        "the closest one is \"memory-slots\"",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

/// What is effective is told, not what was overridden.
#[tokio::test]
async fn a_backends_setting_is_explained_as_it_gets_it() {
    let mut setup = setup();
    setup.unset("network.ports");
    setup.variable("MANAGER_QEMU_MEMORY_SLOTS", "3");
    setup.variable("MANAGER_QEMU_HOST_FWD_AGENT", "7020");
    let backend = setup.config["backend"][0].as_table_mut().expect("a table");
    let settings = toml::toml! {
        firmware = "none"
        memory-slots = 7
    };
    backend.insert("settings".to_owned(), settings.into());
    let daemon = setup.start();
    let slots = explained(&daemon, "backend.plain-kvm.settings.memory-slots").await;
    assert_eq!(
        (&*slots.value, &*slots.source),
        ("3", "MANAGER_QEMU_MEMORY_SLOTS")
    );
    assert!(slots.notes[0].contains("not used: 7"), "{slots:?}");
    let ports = explained(&daemon, "network.ports").await;
    assert_eq!(ports.value, "\"7020-65535\"");
    let grants = explained(&daemon, "backend.plain-kvm.grants").await;
    assert!(grants.value.contains("/dev/kvm"), "{grants:?}");
}

/// A package may bring another QEMU under the same name while the daemon runs.
#[tokio::test]
async fn a_qemu_that_was_changed_is_asked_again() {
    let daemon = setup().start();
    let probes = async || {
        let request = v1::PlanVmRequest {
            spec: Some(v1::VmSpec::default()),
            ..v1::PlanVmRequest::default()
        };
        let planned = daemon.vms().await.plan_vm(request).await;
        planned.expect("it is planned");
        daemon.log().matches("QEMU probed").count()
    };
    let before = probes().await;
    assert!(before > 0);
    assert_eq!(probes().await, before);
    // A running program cannot be opened to be written, and its times can be set all the same.
    let program = std::fs::File::open(daemon.folder.path().join("fake/fake-qemu"));
    let changed = program.and_then(|file| file.set_modified(std::time::SystemTime::UNIX_EPOCH));
    changed.expect("its time can be set");
    assert_eq!(probes().await, before + 1);
    assert_eq!(probes().await, before + 1);
}
