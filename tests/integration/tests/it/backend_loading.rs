//! A component that cannot be used is told from one that can, says what is wrong with it and who
//! must act, and stops nobody else.
//!
//! Components that no toolchain makes by mistake are made here, from the contract's own WIT with
//! one thing changed: they have the right shape, and every function of theirs traps.

use std::path::{Path, PathBuf};

use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup};
use casemate_proto::v1;
use tonic::Code;
use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, Resolve};

/// The contract's version, as its files begin.
const CONTRACT: &str = "package casemate:tee@1.0.0;";
/// Worlds of the contract's package that no backend should be built for.
const OTHER_WORLDS: &str = "
    interface later {
        now: func() -> u64;
    }
    world overreaching {
        include tee-backend;
        import later;
        import wasi:cli/environment@0.2.0;
        import elsewhere:radio/antenna;
    }
    world mute {
        import files;
        import facts;
        import log;
    }
";
const WASI: &str = "
    package wasi:cli@0.2.0;
    interface environment {
        get-environment: func() -> list<tuple<string, string>>;
    }
";
const ELSEWHERE: &str = "
    package elsewhere:radio;
    interface antenna {
        send: func(text: string);
    }
";

/// A component for `world` whose functions all trap, built against the contract with `from`
/// replaced by `to`.
fn dummy(world: &str, from: &str, to: &str) -> Vec<u8> {
    changed(world, &[(from, to)])
}

fn changed(world: &str, changes: &[(&str, &str)]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
    let mut replaced = vec![false; changes.len()];
    for entry in std::fs::read_dir(contract).expect("the contract is there") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "wit") {
            continue;
        }
        let mut text = std::fs::read_to_string(&path).expect("the contract is readable");
        for ((from, to), replaced) in changes.iter().zip(&mut replaced) {
            *replaced |= text.contains(from);
            text = text.replace(from, to);
        }
        let name = path.file_name().expect("a file has a name");
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    assert!(
        replaced.iter().all(|replaced| *replaced),
        "the contract lacks one of {changes:?}"
    );
    std::fs::write(folder.path().join("others.wit"), OTHER_WORLDS).expect("a file");
    for (name, text) in [("cli", WASI), ("radio", ELSEWHERE)] {
        let package = folder.path().join("deps").join(name);
        std::fs::create_dir_all(&package).expect("a folder");
        std::fs::write(package.join("package.wit"), text).expect("a file");
    }
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(folder.path()).expect("the WIT is valid");
    let world = resolve
        .select_world(&[package], Some(world))
        .expect("the world is there");
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .expect("the module takes it");
    let mut encoder = ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .expect("the module is one of the contract");
    encoder.encode().expect("it makes a component")
}

/// The contract as it is, with another version.
fn of_version(version: &str) -> Vec<u8> {
    let package = format!("package casemate:tee@{version};");
    dummy("tee-backend", CONTRACT, &package)
}

/// A daemon's config with backends that are to fail, and what each must say.
struct Failing {
    setup: Setup,
    expected: Vec<(String, Vec<String>)>,
}

impl Failing {
    fn new() -> Self {
        Self {
            setup: Setup::new(),
            expected: Vec::new(),
        }
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.setup.folder.path().join(format!("{name}.wasm"))
    }

    /// A backend at `path`, unpinned unless `change` says otherwise.
    fn add(
        &mut self,
        name: &str,
        path: &Path,
        change: impl FnOnce(&mut toml::Table),
        parts: &[&str],
    ) {
        let mut backend = toml::Table::new();
        backend.insert("name".to_owned(), name.into());
        backend.insert("path".to_owned(), path.display().to_string().into());
        backend.insert("allow_unpinned".to_owned(), true.into());
        change(&mut backend);
        let backends = self.setup.config["backend"]
            .as_array_mut()
            .expect("an array");
        backends.push(backend.into());
        let parts = parts.iter().map(|part| (*part).to_owned()).collect();
        self.expected.push((name.to_owned(), parts));
    }

    fn add_bytes(&mut self, name: &str, bytes: &[u8], parts: &[&str]) {
        let path = self.path_of(name);
        std::fs::write(&path, bytes).expect("a file");
        self.add(name, &path, |_| {}, parts);
    }
}

fn add_what_is_no_component(failing: &mut Failing) {
    let not = "not a WebAssembly component";
    failing.add_bytes(
        "garbage",
        &[0xde, 0xad, 0xbe, 0xef, 0],
        &["is something else", not],
    );
    failing.add_bytes(
        "text",
        b"(component)\n",
        &["is text (compile it to the binary format)", not],
    );
    failing.add_bytes("empty", b"", &["is empty", not]);
    let core = b"\0asm\x01\0\0\0";
    failing.add_bytes(
        "core",
        core,
        &[
            "is a core module (wrap it with `wasm-tools component new`)",
            not,
        ],
    );
    let elf = b"\x7fELF\x02\x01\x01\0rest";
    failing.add_bytes(
        "machine-code",
        elf,
        &["precompiled code is never accepted", not],
    );
    let whole = std::fs::read(artifacts::component("plain-kvm")).expect("it was built");
    failing.add_bytes(
        "truncated",
        &whole[..whole.len() / 2],
        &["is not a valid component: "],
    );
}

fn add_what_cannot_be_read(failing: &mut Failing) {
    let missing = failing.path_of("missing");
    failing.add(
        "missing",
        &missing,
        |_| {},
        &["missing.wasm", "cannot be read: No such file"],
    );
    let folder = failing.setup.folder.path().join("folder");
    std::fs::create_dir(&folder).expect("a folder");
    failing.add(
        "folder",
        &folder,
        |_| {},
        &["cannot be read: it is not a regular file"],
    );
    // A reader would wait for its writer, and the daemon's start with it.
    let pipe = failing.path_of("pipe");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).expect("a pipe");
    failing.add(
        "pipe",
        &pipe,
        |_| {},
        &["cannot be read: it is not a regular file"],
    );
    let large = failing.path_of("large");
    std::fs::File::create(&large)
        .and_then(|file| file.set_len(17 << 20))
        .expect("a file");
    failing.add(
        "large",
        &large,
        |_| {},
        &["is larger than the limit of 16 MiB"],
    );
    // With the other tier the same file is read, and one of twice the size is not.
    let std = |backend: &mut toml::Table| {
        backend.insert("tier".to_owned(), "std".into());
    };
    failing.add("large-std", &large, std, &["is something else"]);
    let larger = failing.path_of("larger-std");
    std::fs::File::create(&larger)
        .and_then(|file| file.set_len(33 << 20))
        .expect("a file");
    failing.add(
        "larger-std",
        &larger,
        std,
        &["is larger than the limit of 32 MiB"],
    );
}

fn add_what_is_not_pinned(failing: &mut Failing) {
    let component = artifacts::component("plain-kvm");
    let actual = artifacts::sha256(&component);
    let other = "00".repeat(32);
    let pin = |digest: &str| {
        let digest = digest.to_owned();
        move |backend: &mut toml::Table| {
            backend.insert("sha256".to_owned(), digest.into());
        }
    };
    let pinned = format!("config pins {other}");
    failing.add(
        "mismatch",
        &component,
        pin(&other),
        &[&actual, &pinned, "put the pinned file back"],
    );
    let offer = format!("set `sha256 = \"{actual}\"`");
    let unpin = |backend: &mut toml::Table| {
        backend.remove("allow_unpinned");
    };
    failing.add(
        "unpinned",
        &component,
        unpin,
        &["no digest is pinned", &offer],
    );
}

fn add_what_breaks_the_contract(failing: &mut Failing) {
    let overreaching = dummy("overreaching", "package ", "package ");
    let imports = [
        "casemate:tee/later@1.0.0",
        "wasi:cli/environment@0.2.0",
        "elsewhere:radio/antenna",
    ];
    let mut parts = vec![
        "which the `strict` tier does not offer",
        "wasm32-unknown-unknown",
    ];
    parts.extend(imports);
    failing.add_bytes("overreaching", &overreaching, &parts);
    for (version, who) in [
        ("2.0.0", "the host must be upgraded"),
        ("0.1.0", "the backend must be upgraded"),
        ("1.1.0-rc.1", "the backend must be upgraded"),
    ] {
        let found =
            format!("casemate:tee/backend@{version}, and this host serves 1.x, as of 1.0: {who}");
        let name = format!("version-{}", version.replace('.', "-"));
        failing.add_bytes(&name, &of_version(version), &[&found]);
    }
    // It asks for a function that this host does not have yet.
    let function = [
        (CONTRACT, "package casemate:tee@1.4.0;"),
        (
            "    qemu-version: func()",
            "    uptime: func() -> u64;\n    qemu-version: func()",
        ),
    ];
    failing.add_bytes(
        "later-function",
        &changed("tee-backend", &function),
        &["casemate:tee/backend@1.4.0, and this host serves 1.x, as of 1.0: the host must be upgraded"],
    );
    let mute = dummy("mute", "package ", "package ");
    failing.add_bytes(
        "mute",
        &mute,
        &["it exports no casemate:tee/backend@1.x interface"],
    );
    // An added field changes what is exported, another signature what is imported.
    let field = dummy(
        "tee-backend",
        "        tee: string,",
        "        tee: string, motto: string,",
    );
    let parts = [
        "it does not fit the contract casemate:tee/backend@1.x",
        "expected record of 13 fields, found 14",
    ];
    failing.add_bytes("added-field", &field, &parts);
    let signature = dummy(
        "tee-backend",
        "qemu-version: func()",
        "qemu-version: func(of: string)",
    );
    failing.add_bytes(
        "other-signature",
        &signature,
        &["it does not fit the contract", "qemu-version"],
    );
}

fn add_what_does_not_describe_itself(failing: &mut Failing) {
    let traps = of_version("1.0.0");
    failing.add_bytes(
        "traps",
        &traps,
        &["its `describe` failed: it trapped: ", "unreachable"],
    );
    // Later versions of the same contract are served: they come as far as the one above.
    for version in ["1.0.7", "1.3.0"] {
        failing.add_bytes(
            &format!("later-{}", version.replace('.', "-")),
            &of_version(version),
            &["its `describe` failed: it trapped: "],
        );
    }
}

fn add_what_is_set_wrongly(failing: &mut Failing) {
    let component = artifacts::component("plain-kvm");
    let set = |key: &'static str, value: toml::Value| {
        move |backend: &mut toml::Table| {
            let settings: toml::Table = [(key.to_owned(), value)].into_iter().collect();
            backend.insert("settings".to_owned(), settings.into());
        }
    };
    let unknown = &[
        "the backend's settings in the config file: \"colour\" is no setting of this backend; it has ",
        "firmware",
    ];
    failing.add(
        "unknown-setting",
        &component,
        set("colour", "red".into()),
        unknown,
    );
    let form = &[
        "the backend's settings in the config file: \"firmware\" is \"floppy\"; wanted is one of auto, pflash",
    ];
    failing.add(
        "wrong-form",
        &component,
        set("firmware", "floppy".into()),
        form,
    );
    let list = toml::Value::Array(Vec::new());
    let shape =
        &["the backend's settings in the config file: \"firmware\" is \"[]\"; wanted is a string"];
    failing.add("wrong-shape", &component, set("firmware", list), shape);
}

async fn listed(daemon: &Daemon) -> Vec<v1::Backend> {
    let answer = daemon
        .backends()
        .await
        .list_backends(v1::ListBackendsRequest {})
        .await;
    answer.expect("a list").into_inner().backends
}

fn spec(backend: &str) -> v1::VmSpec {
    v1::VmSpec {
        backend: backend.to_owned(),
        ..v1::VmSpec::default()
    }
}

#[tokio::test]
async fn what_does_not_load_says_why_and_stops_nobody() {
    let mut failing = Failing::new();
    add_what_is_no_component(&mut failing);
    add_what_cannot_be_read(&mut failing);
    add_what_is_not_pinned(&mut failing);
    add_what_breaks_the_contract(&mut failing);
    add_what_does_not_describe_itself(&mut failing);
    add_what_is_set_wrongly(&mut failing);
    let Failing { setup, expected } = failing;
    let daemon = setup.start();

    let backends = listed(&daemon).await;
    let names: Vec<&str> = backends
        .iter()
        .map(|backend| backend.name.as_str())
        .collect();
    let mut configured = vec!["plain-kvm"];
    configured.extend(expected.iter().map(|(name, _)| name.as_str()));
    assert_eq!(names, configured, "in the order of the config file");
    assert_eq!(backends[0].status, "in-service");
    let log = daemon.log();
    let mut wrong = Vec::new();
    for (backend, (name, parts)) in backends[1..].iter().zip(&expected) {
        assert_eq!(backend.status, "failed", "{name}");
        assert!(
            !backend.error.contains(char::is_control),
            "{name}: {:?}",
            backend.error
        );
        for part in parts
            .iter()
            .filter(|part| !backend.error.contains(part.as_str()))
        {
            wrong.push(format!("{name}: wanted is {part:?}: {}", backend.error));
        }
        assert!(log.contains(&backend.error), "{name}: the log says it too");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let (status, body) = daemon.get_http("/ready").await;
    assert_eq!(status, 200, "{body}");
    let request = v1::PlanVmRequest {
        spec: Some(v1::VmSpec::default()),
        ..v1::PlanVmRequest::default()
    };
    daemon
        .vms()
        .await
        .plan_vm(request)
        .await
        .expect("the default backend serves");
    let refusal = daemon
        .create(spec("garbage"))
        .await
        .expect_err("it is not in service");
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
    let part = "backend \"garbage\" is not in service: ";
    assert!(refusal.message().contains(part), "{refusal}");
    assert!(
        refusal.message().contains("not a WebAssembly component"),
        "{refusal}"
    );
    let refusal = daemon
        .create(spec("nobody"))
        .await
        .expect_err("nobody has that name");
    assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
    assert!(
        refusal
            .message()
            .contains("configured are plain-kvm, garbage, "),
        "{refusal}"
    );
}

#[tokio::test]
async fn an_operator_may_load_what_is_not_pinned() {
    let mut failing = Failing::new();
    failing.add("loose", &artifacts::component("plain-kvm"), |_| {}, &[]);
    let daemon = failing.setup.start();
    let backends = listed(&daemon).await;
    assert_eq!(backends[1].status, "in-service", "{}", backends[1].error);
    // The digest of what runs is shown, pinned or not.
    assert_eq!(
        backends[1].sha256,
        artifacts::sha256(&artifacts::component("plain-kvm"))
    );
}

#[tokio::test]
async fn a_default_that_does_not_load_makes_the_daemon_unready_and_is_named() {
    let mut failing = Failing::new();
    failing.add_bytes("broken", b"(component)", &[]);
    failing.setup.set("default_backend", "broken");
    let daemon = failing.setup.start();
    let reason = "backend \"broken\" is not in service: ";

    let (status, body) = daemon.get_http("/ready").await;
    assert_eq!(status, 503);
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["status"], "fail");
    let checks = body["checks"].as_array().expect("a list");
    let check = checks
        .iter()
        .find(|check| check["id"] == "backend")
        .expect("it is checked");
    assert_eq!(check["status"], "fail");
    let detail = check["detail"].as_str().expect("a text");
    assert!(
        detail.contains(reason) && detail.contains("is text"),
        "{detail}"
    );
    assert_eq!(
        daemon.get_http("/health").await.0,
        200,
        "the process itself is well"
    );

    let refusal = daemon
        .create(v1::VmSpec::default())
        .await
        .expect_err("no default serves");
    assert_eq!(refusal.code(), Code::FailedPrecondition, "{refusal}");
    assert!(refusal.message().contains(reason), "{refusal}");
    assert!(
        refusal
            .message()
            .contains("compile it to the binary format"),
        "{refusal}"
    );
    // One that is named, and loads, is used all the same.
    let request = v1::PlanVmRequest {
        spec: Some(spec("plain-kvm")),
        ..v1::PlanVmRequest::default()
    };
    daemon
        .vms()
        .await
        .plan_vm(request)
        .await
        .expect("it serves");
}

#[test]
fn two_backends_of_one_name_are_an_error_of_the_config_file() {
    let mut failing = Failing::new();
    failing.add("plain-kvm", &artifacts::component("plain-kvm"), |_| {}, &[]);
    let log = failing.setup.try_start().expect_err("the name is taken");
    assert!(
        log.contains("two backends are named \"plain-kvm\""),
        "{log}"
    );
}

/// What is granted in vain is a warning at the start and of a check; what is missing is told with the
/// backend.
#[tokio::test]
async fn grants_that_do_not_fit_are_told() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&serde_json::json!({}));
    setup.add_backend(
        "sealed",
        toml::toml! {
            facts = [
                { fact = "qemu-machine", pattern = "q35" },
                { fact = "devise", pattern = "/dev/sev" },
            ]

            [objects]
            iothread = { properties = ["poll"] }
            secret = { properties = ["format"] }
            sev-guestt = {}
        },
    );
    let check = setup.command().arg("--check-config").output();
    let check = String::from_utf8_lossy(&check.expect("it runs").stderr).into_owned();
    let daemon = setup.start();
    for said in [daemon.log(), check] {
        for part in [
            "fact devise \"/dev/sev\"",
            "property poll of object iothread",
            "object sev-guestt",
        ] {
            let line = format!("[backend.grants] of \"sealed\" has {part}, which the backend");
            let line = line.replace('"', "\\\"");
            let is_there = said.contains(&line) || said.contains(&line.replace("\\\"", "\""));
            assert!(is_there, "{line}: {said}");
        }
        assert!(!said.contains("of \"plain-kvm\" has"), "{said}");
    }
    let request = v1::GetBackendRequest {
        name: "sealed".to_owned(),
    };
    let answer = daemon.backends().await.get_backend(request).await;
    let backend = answer.expect("it is there").into_inner().backend;
    let grants = backend.expect("a backend").grants;
    let of = |what: &str| {
        let found = grants.iter().find(|grant| grant.what.starts_with(what));
        let grant = found.unwrap_or_else(|| panic!("{what}: {grants:?}"));
        (grant.granted, grant.reason.as_str())
    };
    assert_eq!(of("secret"), (false, "not granted: data"));
    assert_eq!(of("iothread"), (true, ""));
    assert!(of("qemu-machine").0);
}
