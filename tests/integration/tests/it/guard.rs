//! A guard is what makes a VM confidential: it is announced, in the plan, and read back from QEMU.
//!
//! The fixture `sealed` has a guard that protects nothing, because CI has no confidential hardware.
//! A launch under KVM uses the scripted QEMU: a real one refuses that object as its guard, and the
//! KVM of a CI machine boots no guest. The scripted one leaves `/dev/kvm` alone, but the daemon
//! opens it, so these tests say that they are skipped where it cannot.

use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup, Verb, eventually};
use casemate_integration::leftovers;
use casemate_proto::v1;
use serde_json::json;
use tonic::{Code, Status};

fn setup() -> Setup {
    let mut setup = Setup::new();
    setup.add_iothreads("sealed", "sealed");
    setup
}

fn spec(backend: &str) -> v1::VmSpec {
    v1::VmSpec {
        backend: backend.to_owned(),
        ..v1::VmSpec::default()
    }
}

fn sealed_with(setting: &str, value: &str) -> v1::VmSpec {
    v1::VmSpec {
        settings: [(setting.to_owned(), value.to_owned())].into(),
        ..spec("sealed")
    }
}

fn confidential(spec: v1::VmSpec) -> v1::VmSpec {
    v1::VmSpec {
        require_confidential: true,
        ..spec
    }
}

async fn plan(daemon: &Daemon, spec: v1::VmSpec) -> Result<v1::PlanVmResponse, Status> {
    let request = v1::PlanVmRequest {
        spec: Some(spec),
        ..v1::PlanVmRequest::default()
    };
    Ok(daemon.vms().await.plan_vm(request).await?.into_inner())
}

/// Both calls refuse, with the same code and this part of a message.
async fn assert_refused(daemon: &Daemon, spec: v1::VmSpec, code: Code, part: &str) {
    let planned = plan(daemon, spec.clone()).await.expect_err(part);
    let created = daemon.create(spec).await.expect_err(part);
    for status in [planned, created] {
        assert_eq!(status.code(), code, "{status}");
        assert!(
            status.message().contains(part),
            "wanted is {part:?}: {status}"
        );
        assert!(status.message().contains("\nremedy: "), "{status}");
    }
}

async fn assert_nothing_is_left(daemon: &Daemon) {
    eventually("no VM is listed", Duration::from_secs(10), || async {
        daemon.list().await.is_empty().then_some(())
    })
    .await;
    leftovers::assert_nothing_left(&daemon.state_dir);
}

#[tokio::test]
async fn without_kvm_there_is_no_guard() {
    let daemon = setup().start();
    let part = "a guard without KVM protects nothing";
    assert_refused(&daemon, spec("sealed"), Code::FailedPrecondition, part).await;
    assert_refused(
        &daemon,
        confidential(spec("sealed")),
        Code::FailedPrecondition,
        part,
    )
    .await;
    assert_nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn a_guard_that_was_announced_has_to_be_in_the_plan() {
    let daemon = setup().start();
    for (setting, value, rule) in [
        (
            "give-guard",
            "off",
            "guard: the backend announces protection `guard`, and this plan has none",
        ),
        (
            "guard-id",
            "ghost",
            "guard: \"ghost\" is the id of no object of the plan",
        ),
        (
            "guard-id",
            "vmnic",
            "guard: \"vmnic\" is the id of no object of the plan",
        ),
    ] {
        let part = format!("backend \"sealed\" is at fault: its answer breaks a rule: {rule}");
        assert_refused(&daemon, sealed_with(setting, value), Code::Internal, &part).await;
    }
    assert_nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn a_wish_for_confidentiality_is_never_dropped() {
    let daemon = setup().start();
    let planned = plan(&daemon, spec("plain-kvm")).await.expect("it plans");
    assert!(!planned.confidential);
    let part =
        "the request asks for a confidential VM, and backend \"plain-kvm\" plans one that is not";
    let wish = confidential(spec("plain-kvm"));
    assert_refused(&daemon, wish, Code::FailedPrecondition, part).await;
    assert_nothing_is_left(&daemon).await;
}

/// A daemon with KVM and the scripted QEMU, where `/dev/kvm` can be opened.
fn daemon_with_kvm() -> Option<Daemon> {
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    if let Err(error) = device {
        println!("skipped: /dev/kvm cannot be opened: {error}");
        return None;
    }
    let mut setup = setup();
    setup.set("qemu.accelerator", "kvm");
    setup.use_fake_qemu(&json!({}));
    Some(setup.start())
}

fn rewrite_script(folder: &Path, script: &serde_json::Value) {
    std::fs::write(folder.join("fake/fake-qemu.script"), script.to_string()).expect("a file");
}

#[tokio::test]
async fn a_vm_is_confidential_once_qemu_has_its_guard() {
    let Some(daemon) = daemon_with_kvm() else {
        return;
    };
    let planned = plan(&daemon, confidential(spec("sealed")))
        .await
        .expect("it plans");
    assert!(planned.confidential);
    assert_eq!(planned.tee, "sealed");
    let machine = planned
        .command
        .iter()
        .find(|part| part.contains("confidential-guest-support="));
    assert!(machine.is_some_and(|part| part.contains("confidential-guest-support=seal")));

    let created = daemon
        .create(confidential(spec("sealed")))
        .await
        .expect("it runs");
    let listed = daemon.list().await;
    for vm in [&created, &listed[0]] {
        assert_eq!(vm.state(), v1::VmState::Running);
        assert!(vm.confidential);
        assert_eq!((vm.backend.as_str(), vm.tee.as_str()), ("sealed", "sealed"));
    }
    let plain = daemon.create(spec("plain-kvm")).await.expect("it runs");
    assert!(!plain.confidential);
    for vm in [&created, &plain] {
        daemon.remove(&vm.id).await.expect("removal works");
    }
    assert_nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn a_qemu_that_has_another_guard_runs_no_guest() {
    let Some(daemon) = daemon_with_kvm() else {
        return;
    };
    for (guard, found) in [("/objects/other", "\"/objects/other\""), ("", "\"\"")] {
        rewrite_script(daemon.folder.path(), &json!({"guard": guard}));
        let status = daemon
            .create(spec("sealed"))
            .await
            .expect_err("the guard is not the plan's");
        assert_eq!(status.code(), Code::Aborted, "{status}");
        let part = format!("the plan's guard is \"/objects/seal\", and QEMU has {found}");
        assert!(status.message().contains(&part), "{status}");
        assert!(
            status.message().contains("\nremedy: do not use this QEMU"),
            "{status}"
        );
        assert_nothing_is_left(&daemon).await;
    }
    assert_eq!(Setup::fake_starts(daemon.folder.path()).len(), 2);
    rewrite_script(daemon.folder.path(), &json!({}));
    let vm = daemon
        .create(spec("sealed"))
        .await
        .expect("a sound QEMU is used again");
    assert!(vm.confidential);
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn configured(environment: &[(&str, &str)], ca: &str) -> v1::VmSpec {
    let variables = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    v1::VmSpec {
        environment: variables.collect(),
        certificates: Some(v1::Certificates {
            server_ca: ca.into(),
            ..v1::Certificates::default()
        }),
        ..spec("sealed")
    }
}

fn named(algorithm: &str, digest: &[u8], spec: v1::VmSpec) -> v1::VmSpec {
    v1::VmSpec {
        identity: Some(v1::Identity {
            algorithm: algorithm.to_owned(),
            digest: digest.to_vec(),
        }),
        ..spec
    }
}

/// How the fixture's plans carry an identity: its bytes, and one zero.
fn carrier(identity: &v1::VmIdentity) -> String {
    let mut bytes = hex::decode(&identity.digest).expect("hexadecimal");
    bytes.push(0);
    base64(&bytes)
}

/// The identity of a plan, which its command carries.
async fn planned_identity(daemon: &Daemon, spec: v1::VmSpec) -> v1::VmIdentity {
    let planned = plan(daemon, spec).await.expect("it is planned");
    let identity = planned.identity.expect("it has an identity");
    let command = planned.command.join(" ");
    assert!(command.contains(&carrier(&identity)), "{command}");
    identity
}

/// A guard takes KVM to be started, and a plan shows it without.
fn daemon_that_plans(operator: Option<&[u8]>) -> Daemon {
    let mut setup = setup();
    setup.set("qemu.accelerator", "kvm");
    if let Some(digest) = operator {
        setup.set("vm.identity", base64(digest));
    }
    setup.start()
}

/// What coreutils make of the files of a configuration.
fn digest_by_coreutils(environment: &str, ca: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("environment"), environment).expect("a file");
    std::fs::write(folder.path().join("ca.pem"), ca).expect("a file");
    #[expect(clippy::disallowed_methods, reason = "the oracle")]
    let output = std::process::Command::new("sh")
        .arg("-c")
        .arg(r"{ printf 'casemate-config-v1\n'; LC_ALL=C sort environment; printf '\0'; cat ca.pem; } | sha256sum")
        .current_dir(folder.path())
        .output()
        .expect("there is a shell");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let digest = text.split_whitespace().next();
    digest.expect("a digest").to_owned()
}

#[tokio::test]
async fn a_vm_is_identified_by_its_configuration_unless_somebody_says_otherwise() {
    let daemon = daemon_that_plans(None);
    let base = configured(&[("A", "1"), ("B", "two words")], "a CA\n");
    let identity = planned_identity(&daemon, base.clone()).await;
    let wanted = v1::VmIdentity {
        algorithm: "sha-256".to_owned(),
        digest: digest_by_coreutils("B=two words\nA=1\n", "a CA\n"),
        source: "configuration".to_owned(),
    };
    assert_eq!(identity, wanted);

    let mut same = configured(&[("B", "two words"), ("A", "1")], "a CA\n");
    same.name = "another".to_owned();
    same.certificates.get_or_insert_default().client_key = b"a key".to_vec();
    assert_eq!(planned_identity(&daemon, same).await, identity);
    for (environment, ca) in [("A=1\nB=2\n", "a CA\n"), ("A=1\nB=two words\n", "")] {
        let variables: Vec<_> = environment
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        let other = planned_identity(&daemon, configured(&variables, ca)).await;
        assert_ne!(other, identity);
        assert_eq!(other.digest, digest_by_coreutils(environment, ca));
    }
    let request = v1::VmIdentity {
        algorithm: "sha-384".to_owned(),
        digest: "2a".repeat(48),
        source: "request".to_owned(),
    };
    let wish = named("sha-384", &[0x2a; 48], base.clone());
    assert_eq!(planned_identity(&daemon, wish.clone()).await, request);

    let daemon = daemon_that_plans(Some(&[9; 32]));
    let operators = v1::VmIdentity {
        algorithm: "raw".to_owned(),
        digest: "09".repeat(32),
        source: "operator".to_owned(),
    };
    assert_eq!(planned_identity(&daemon, base).await, operators);
    assert_eq!(planned_identity(&daemon, wish).await, request);
    // What protects nothing carries none.
    let plain = plan(&daemon, spec("plain-kvm")).await.expect("it plans");
    assert_eq!(plain.identity, None);
}

#[tokio::test]
async fn an_identity_that_cannot_be_carried_is_refused() {
    let daemon = setup().start();
    for (spec, part) in [
        (
            named("sha-256", &[7; 31], spec("sealed")),
            "identity: a digest of sha-256 has 32 bytes, and this one has 31",
        ),
        (
            named("md5", &[7; 16], spec("sealed")),
            "identity: \"md5\" is none of raw, sha-256, sha-384, sha-512",
        ),
        (
            named("raw", &[], spec("plain-kvm")),
            "identity: a digest of raw has 1 to 64 bytes, and this one has 0",
        ),
        (
            named("raw", &[7; 32], spec("plain-kvm")),
            "plain KVM has nothing that carries an identity",
        ),
    ] {
        assert_refused(&daemon, spec, Code::InvalidArgument, part).await;
    }
    assert_nothing_is_left(&daemon).await;
}

/// The word of a backend is not enough: the host looks for the bytes.
#[tokio::test]
async fn an_identity_that_is_not_carried_whole_is_a_fault() {
    let daemon = daemon_that_plans(None);
    for carry in ["cut", "other", "more", "nowhere"] {
        let status = plan(&daemon, sealed_with("carry", carry))
            .await
            .expect_err(carry);
        assert_eq!(status.code(), Code::Internal, "{status}");
        let part = "identity-carrier: no object of the plan has the property";
        assert!(status.message().contains(part), "{carry}: {status}");
    }
    plan(&daemon, sealed_with("carry", "whole"))
        .await
        .expect("it is carried whole");
}

/// The component of `sealed`, in whose announcement another word stands about its identity.
fn sealed_of(word: &str, folder: &Path) -> PathBuf {
    const MARK: &[u8] = b"sealed-identity:carried.";
    let mut bytes = std::fs::read(artifacts::component("sealed")).expect("it is built");
    let at = bytes.windows(MARK.len()).position(|there| there == MARK);
    let at = at.expect("the mark is there");
    let mark = format!("sealed-identity:{word:.<8}");
    assert_eq!(mark.len(), MARK.len(), "{word}");
    bytes[at..at + MARK.len()].copy_from_slice(mark.as_bytes());
    let path = folder.join(format!("sealed-{word}.wasm"));
    std::fs::write(&path, bytes).expect("a file");
    path
}

/// A technology whose reports have no place for an identity: its VMs have none and are started, and
/// one that a caller names is not dropped. The component carries it all the same, which is a fault.
#[tokio::test]
async fn a_guard_that_carries_no_identity_is_given_none() {
    let folder = tempfile::tempdir().expect("a folder");
    for operator in [None, Some([9; 32])] {
        let mut setup = setup();
        setup.set("qemu.accelerator", "kvm");
        if let Some(digest) = operator {
            setup.set("vm.identity", base64(&digest));
        }
        for word in ["none", "some"] {
            setup.add_iothreads("sealed", word);
            let backends = setup.config["backend"].as_array_mut().expect("an array");
            let added = backends.last_mut().and_then(toml::Value::as_table_mut);
            let added = added.expect("a table");
            let path = sealed_of(word, folder.path());
            added.insert("sha256".to_owned(), artifacts::sha256(&path).into());
            added.insert("path".to_owned(), path.display().to_string().into());
        }
        let daemon = setup.start();
        let planned = plan(&daemon, confidential(configured(&[("A", "1")], "a CA\n"))).await;
        assert!(planned.expect("it is planned").identity.is_some());

        let without = v1::VmSpec {
            backend: "none".to_owned(),
            ..confidential(configured(&[("A", "1")], "a CA\n"))
        };
        let planned = plan(&daemon, without.clone()).await.expect("it is planned");
        assert_eq!(planned.identity, None, "{operator:?}");
        assert!(planned.confidential);
        let status = plan(&daemon, named("raw", &[7; 32], without)).await;
        let status = status.expect_err("it is named");
        assert_eq!(status.code(), Code::Internal, "{status}");
        let part = "identity-carrier: \"data\" is to carry an identity, and the backend says";
        assert!(status.message().contains(part), "{status}");

        let request = v1::ListBackendsRequest::default();
        let list = daemon.backends().await.list_backends(request).await;
        let list = list.expect("they are listed").into_inner().backends;
        let one = |name: &str| list.iter().find(|backend| backend.name == name);
        for (name, carries) in [("sealed", true), ("none", false), ("plain-kvm", false)] {
            let backend = one(name).expect(name);
            assert_eq!(backend.carries_identity, carries, "{backend:?}");
        }
        let refused = one("some").expect("it is listed");
        assert_eq!(refused.status, "failed");
        let part = "extras.identity is \"some\"; wanted is `none`, or no such key";
        assert!(refused.error.contains(part), "{}", refused.error);
    }
}

/// By the second start its variables lie in its shares alone, and the config says something else.
#[tokio::test]
async fn an_identity_is_the_same_at_every_start() {
    let Some(mut daemon) = daemon_with_kvm() else {
        return;
    };
    let wish = configured(&[("A", "1")], "a CA\n");
    let created = daemon.create(wish.clone()).await.expect("it runs");
    let identity = created.identity.clone().expect("it has an identity");
    assert_eq!(identity.digest, digest_by_coreutils("A=1\n", "a CA\n"));
    let id = &created.id;
    daemon.act(Verb::ForceStop, id).await.expect("it ends");
    let started = daemon.act(Verb::Start, id).await.expect("it runs again");
    assert_eq!(started.identity, created.identity);

    assert_eq!(daemon.stop(), Some(0));
    daemon.setup.set("vm.identity", base64(&[9; 32]));
    daemon.restart();
    daemon.act(Verb::Start, id).await.expect("it runs again");
    let found = daemon.get(id).await.expect("it is listed");
    assert_eq!(found.identity, created.identity);
    let starts = Setup::fake_starts(daemon.folder.path());
    assert_eq!(starts.len(), 3);
    for start in &starts {
        let arguments = start["argv"].to_string();
        assert!(arguments.contains(&carrier(&identity)), "{arguments}");
    }
    // The config has its effect on others.
    let other = daemon.create(wish).await.expect("it runs");
    let other = other.identity.expect("it has an identity");
    assert_eq!(other.source, "operator");
}
