//! Every command that README.md and docs/ have, run as it stands there: those of blocks, whose
//! output is held against what is documented, and those that stand in tables. With real guests
//! under emulation.
//!
//! A block or a command that is new fails these tests until it has a row here: a scene in which it
//! is run, or the suite that runs it instead.

mod document;
mod inline;
mod shown;
mod stage;

use std::collections::BTreeSet;

use casemate_integration::artifacts;
use casemate_integration::certificates::Authority;
use casemate_integration::daemon::Setup;
use casemate_integration::registry::Registry;

use crate::access;
use crate::images::guest;
use document::{Block, Command};
use shown::Shown;
use stage::{Endpoint, Stage, Started};

/// What becomes of a block.
enum Fate {
    /// It is run there.
    In(fn() -> Stage),
    /// It goes on where the block before it ended, in the same shell.
    Continues,
    /// Another suite or test runs it.
    Elsewhere(&'static str),
}

struct Row {
    document: &'static str,
    /// The beginning of the block's first command.
    begins: &'static str,
    fate: Fate,
    shown: Shown,
}

const fn row(document: &'static str, begins: &'static str, fate: Fate, shown: Shown) -> Row {
    Row {
        document,
        begins,
        fate,
        shown,
    }
}

const ROWS: &[Row] = &[
    row(
        "README.md",
        "cargo xtask demo --keep",
        Fate::Elsewhere(
            "`cargo xtask test` does it once the tests have passed, `--only first-screen` alone",
        ),
        Shown::All,
    ),
    row(
        "README.md",
        "casemated --config casemate.toml",
        Fate::In(without_a_daemon),
        Shown::All,
    ),
    row(
        "README.md",
        "casemate vm create --name own",
        Fate::In(with_images),
        Shown::All,
    ),
    row(
        "README.md",
        "curl -s http://127.0.0.1:7003/v1/vms -H",
        Fate::In(plain),
        Shown::All,
    ),
    row(
        "README.md",
        "echo test > token.txt",
        Fate::In(with_a_client),
        Shown::All,
    ),
    row(
        "docs/api.md",
        "curl -s -i http://127.0.0.1:7003/v1/vms",
        Fate::In(plain),
        Shown::All,
    ),
    row("docs/api.md", "VM=$(", Fate::Continues, Shown::All),
    row(
        "docs/api.md",
        "curl -s 'http://127.0.0.1:7003/v1/vms?label",
        Fate::Continues,
        Shown::All,
    ),
    row(
        "docs/api.md",
        "curl -sN http://127.0.0.1:7003/v1/events",
        Fate::Continues,
        Shown::All,
    ),
    row(
        "docs/api.md",
        "curl -s http://127.0.0.1:7003/v1/vms/c0a1",
        Fate::Continues,
        Shown::All,
    ),
    row(
        "docs/backend-guide.md",
        "casemate backend new demo",
        Fate::Elsewhere("`vendor::two_printed_commands_make_a_backend_that_starts_a_vm`"),
        Shown::All,
    ),
    row(
        "docs/backend-guide.md",
        "casemate backend build",
        Fate::Elsewhere("`vendor::two_printed_commands_make_a_backend_that_starts_a_vm`"),
        Shown::All,
    ),
    row(
        "docs/cli.md",
        "casemate context set prod",
        Fate::In(over_tls),
        Shown::All,
    ),
    row(
        "docs/configuration.md",
        "casemated --check-config",
        Fate::In(with_warnings),
        Shown::All,
    ),
    // A test's config sets further keys.
    row(
        "docs/configuration.md",
        "casemate config explain",
        Fate::In(with_sources),
        Shown::Among,
    ),
    row(
        "docs/configuration.md",
        "casemate backend reload",
        Fate::In(plain),
        Shown::All,
    ),
    row(
        "docs/configuration.md",
        "curl --unix-socket",
        Fate::In(with_sockets),
        Shown::All,
    ),
    row(
        "docs/distribution.md",
        "openssl ecparam -name prime256v1",
        Fate::In(with_a_registry),
        Shown::All,
    ),
    row(
        "docs/distribution.md",
        "casemate backend inspect",
        Fate::Continues,
        Shown::All,
    ),
    row(
        "docs/distribution.md",
        "SHA256=$(",
        Fate::Continues,
        Shown::All,
    ),
    // What a machine has is its own; `doctor` holds each finding.
    row(
        "docs/doctor.md",
        "casemate doctor",
        Fate::In(with_all_backends),
        Shown::HostFindings,
    ),
    row(
        "docs/identity.md",
        "printf 'NONCE=7",
        Fate::In(without_a_daemon),
        Shown::Digits,
    ),
    row(
        "docs/identity.md",
        "{ printf 'casemate-config-v1",
        Fate::Continues,
        Shown::Digits,
    ),
    row(
        "docs/measurement.md",
        "casemate measure --backend sev-snp",
        Fate::Elsewhere("`measured::offline::the_documented_command_prints_what_is_documented`"),
        Shown::All,
    ),
];

/// Real QEMU and the tests' guest, which hears no power button; streams end.
fn setup() -> Setup {
    let mut setup = Setup::new();
    setup.set("qemu.powerdown_time", "1s");
    setup.set("http.stream_time", "2s");
    setup
}

fn plain() -> Stage {
    Stage::new(setup(), Started::Beforehand, Endpoint::Variable)
}

fn without_a_daemon() -> Stage {
    Stage::new(setup(), Started::NotYet, Endpoint::Variable)
}

fn with_images() -> Stage {
    let mut setup = setup();
    let root = setup.folder.path().join("images");
    setup.set("images.roots", root.display().to_string());
    std::fs::create_dir_all(root.join("debian")).expect("a folder");
    std::fs::copy(artifacts::kernel(), root.join("debian/vmlinuz")).expect("a copy");
    guest::own_initrd(&root.join("debian/initrd.img"));
    for image in ["models.img", "data.raw"] {
        std::fs::write(root.join(image), vec![0; 1 << 20]).expect("a file");
    }
    let stage = Stage::new(setup, Started::Beforehand, Endpoint::Variable);
    stage.file("token.txt", "secret\n");
    stage
}

/// The client of the example, whose token is `test`.
fn with_a_client() -> Stage {
    let mut setup = setup();
    let text = std::fs::read_to_string(crate::tidy::workspace().join("README.md"));
    let text = text.expect("a text");
    let example = text.split("```toml\n").nth(1).expect("the example");
    let example = example.split("```").next().expect("its end");
    let example: toml::Table = example.parse().expect("TOML");
    setup.set("client", example["client"].clone());
    Stage::new(setup, Started::Beforehand, Endpoint::Variable)
}

/// A daemon over TLS with a client, and a context of another name.
fn over_tls() -> Stage {
    let mut setup = setup();
    let root = Authority::root("root");
    let server = root.server();
    for (key, name, content) in [
        ("grpc.server_cert", "server.pem", &server.certificate),
        ("grpc.server_key", "server.key", &server.key),
    ] {
        let path = setup.folder.path().join(name);
        std::fs::write(&path, content).expect("a file");
        setup.set(key, path.display().to_string());
    }
    access::with_clients(&mut setup, vec![access::token_client("prod", &["viewer"])]);
    let stage = Stage::new(setup, Started::Beforehand, Endpoint::Unset);
    stage.file("prod-ca.pem", root.certificate());
    stage.file(".prod-token", access::token_of("prod"));
    let (code, said) = stage.run(
        "casemate context set other --endpoint https://prod.example:7001 --ca-cert prod-ca.pem --token-file ~/.prod-token",
    );
    assert_eq!(code, Some(0), "{said}");
    stage
}

fn with_warnings() -> Stage {
    let mut setup = setup();
    setup.set("vm.kernel", "/var/lib/images/bzImage");
    setup.variable("MANAGER_QEMU_USE_SUDO", "true");
    Stage::new(setup, Started::NotYet, Endpoint::Variable)
}

fn with_sources() -> Stage {
    let mut setup = setup();
    setup.set("max_vms", 20).set("vm.memory", "4G");
    setup.set("vm.kernel", "/var/lib/images/bzImage");
    setup.variable("MANAGER_MAX_VMS", "12");
    setup.flags.push("vm.vcpus=2".to_owned());
    let backend = &mut setup.config["backend"][0];
    backend["settings"] = toml::toml! { firmware = "auto" }.into();
    let backend = backend.as_table_mut().expect("a table");
    backend.insert("allow_unpinned".to_owned(), false.into());
    Stage::new(setup, Started::Beforehand, Endpoint::Variable)
}

fn with_sockets() -> Stage {
    let mut setup = setup();
    for key in ["grpc", "http"] {
        let socket = setup.folder.path().join(format!("{key}.sock"));
        setup.set(&format!("{key}.socket"), socket.display().to_string());
    }
    Stage::new(setup, Started::Beforehand, Endpoint::Variable)
}

fn with_all_backends() -> Stage {
    let mut setup = setup();
    setup.unset("default_backend");
    setup.add_packaged("sev-snp").add_packaged("tdx");
    Stage::new(setup, Started::Beforehand, Endpoint::Variable)
}

/// A registry and a component.
fn with_a_registry() -> Stage {
    let registry = Registry::start().expect("`cargo xtask setup` unpacks one from Debian");
    let stage = Stage::new(setup(), Started::NotYet, Endpoint::Variable).with_registry(registry);
    let component = std::fs::read(artifacts::component("plain-kvm"));
    stage.file("plain-kvm.wasm", component.expect("it was built"));
    stage
}

/// A stage, and all that is run on it in one shell.
struct Group {
    document: &'static str,
    scene: fn() -> Stage,
    commands: Vec<(Command, Shown)>,
}

/// Blocks by the scene in which they are run; those that no row has, in words.
fn groups() -> (Vec<Group>, Vec<String>) {
    let mut rows = ROWS.iter().peekable();
    let mut groups: Vec<Group> = Vec::new();
    let mut unknown = Vec::new();
    for (document, text) in document::all() {
        for Block { commands } in document::blocks(&text) {
            let first = commands[0].line.clone();
            let found =
                rows.next_if(|row| row.document == document && first.starts_with(row.begins));
            let Some(row) = found else {
                unknown.push(format!("{document}: {first}"));
                continue;
            };
            let commands = commands.into_iter().map(|command| (command, row.shown));
            match row.fate {
                Fate::In(scene) => groups.push(Group {
                    document: row.document,
                    scene,
                    commands: commands.collect(),
                }),
                Fate::Continues => {
                    let group = groups.last_mut().expect("a scene goes before");
                    group.commands.extend(commands);
                }
                Fate::Elsewhere(suite) => println!("{document}: `{first}`: {suite}"),
            }
        }
    }
    unknown.extend(rows.map(|row| format!("no block of {}: {}", row.document, row.begins)));
    (groups, unknown)
}

#[test]
fn every_block_has_its_row() {
    let (_, unknown) = groups();
    assert!(
        unknown.is_empty(),
        "blocks and rows that have no other side, in the order of documents: {unknown:#?}"
    );
}

#[test]
fn every_block_does_what_is_documented() {
    let (groups, _) = groups();
    let mut wrong = Vec::new();
    for group in groups {
        let stage = (group.scene)();
        for word in stage.play(&group.commands) {
            wrong.push(format!("{}: {word}", group.document));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn every_command_of_a_table_is_run() {
    let documents = document::all();
    let spans = documents
        .iter()
        .flat_map(|(_, text)| document::in_tables(text));
    let spans: BTreeSet<String> = spans.collect();
    let known: BTreeSet<String> = inline::INLINE
        .iter()
        .map(|row| row.span.to_owned())
        .collect();
    assert_eq!(spans, known, "commands in tables, and those that are known");

    let stage = inline::stage();
    let mut wrong = Vec::new();
    for row in inline::INLINE {
        if let Err(what) = row.run(&stage) {
            wrong.push(format!("{}: {what}", row.span));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Its backend is another one here, which protects nothing.
#[test]
fn the_documented_file_is_a_vm() {
    let text = std::fs::read_to_string(crate::tidy::workspace().join("docs/cli.md"));
    let text = text.expect("a text");
    let example = text.split("```yaml\n").nth(1).expect("the example");
    let example = example.split("```").next().expect("its end");
    let guarded = "backend: sev-snp\n";
    assert!(example.contains(guarded), "{example}");
    let example = example
        .replace(guarded, "backend: plain-kvm\n")
        .replace("require_confidential: true", "require_confidential: false");
    let stage = with_images();
    stage.file("vm.yaml", example);
    let (code, said) = stage.run("casemate plan --file vm.yaml");
    assert_eq!(code, Some(0), "{said}");
    for part in ["@data-disk:data@", "size=2048M"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
