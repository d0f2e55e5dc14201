//! The newest QEMU and the firmware that set-up unpacks are what other tests take them for.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Stdio;

use casemate_integration::artifacts;
use serde_json::{Value, json};

/// First release, by its first two numbers, whose schema has `tdx-guest`, as QEMU's own change log
/// of that release says.
const FIRST_WITH_TDX: (u64, u64) = (10, 1);

/// The answers to commands without arguments.
fn answers(program: &Path, commands: &[&str]) -> Vec<Value> {
    let commands = commands.iter().map(|name| json!({"execute": name}));
    answers_to(program, &commands.collect::<Vec<_>>())
}

/// What a QEMU without machine, environment and working folder says over QMP: its greeting, and the
/// answers to `qmp_capabilities` and to each command.
pub(crate) fn answers_to(program: &Path, commands: &[Value]) -> Vec<Value> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the QEMU itself is the subject, without the daemon"
    )]
    let mut command = std::process::Command::new(program);
    let mut child = command
        .args(["-M", "none", "-S", "-nodefaults", "-display", "none"])
        .args(["-qmp", "stdio"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it can be started");
    let mut requests = child.stdin.take().expect("it is a pipe");
    let mut lines = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
    let mut next = || -> Value {
        let line = lines.next().expect("QEMU goes on").expect("text");
        serde_json::from_str(&line).expect("JSON")
    };
    let mut answers = vec![next()];
    // One after the other: a QEMU that quits does not wait for a reader.
    for command in [json!({"execute": "qmp_capabilities"})]
        .iter()
        .chain(commands)
    {
        writeln!(requests, "{command}").expect("QEMU reads");
        answers.push(next());
    }
    writeln!(requests, "{{\"execute\":\"quit\"}}").expect("QEMU reads");
    for line in lines {
        line.expect("text");
    }
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", program.display());
    answers
}

/// Types that `object-add` takes: the cases of its argument's variants, as in QEMU's
/// `docs/devel/qapi-code-gen.rst`, "Client JSON Protocol introspection".
fn object_types(schema: &Value) -> BTreeSet<&str> {
    let entries = schema.as_array().expect("a list");
    let named = |name: &str| {
        let mut entries = entries.iter();
        entries
            .find(|entry| entry["name"] == name)
            .expect("it is there")
    };
    let argument = named("object-add")["arg-type"].as_str().expect("a name");
    let variants = named(argument)["variants"].as_array().expect("a list");
    let cases = variants
        .iter()
        .filter_map(|variant| variant["case"].as_str());
    cases.collect()
}

/// The release that each QEMU says it is decides what has to be in its schema.
#[test]
fn a_qemu_knows_tdx_guests_from_10_1_on() {
    let newest = artifacts::newest_qemu();
    for program in artifacts::qemus().iter().chain(&newest) {
        let answers = answers(program, &["query-qmp-schema"]);
        let version = &answers[0]["QMP"]["version"]["qemu"];
        let number = |part: &str| version[part].as_u64().expect("a number");
        let version = (number("major"), number("minor"));
        let types = object_types(&answers[2]["return"]);
        let name = program.display();
        assert!(types.contains("rng-random"), "{name}: {types:?}");
        assert_eq!(
            types.contains("tdx-guest"),
            version >= FIRST_WITH_TDX,
            "{name} {version:?}"
        );
        if Some(program) == newest.as_ref() {
            assert!(version >= FIRST_WITH_TDX, "{name} {version:?}");
        }
    }
}

/// Asked for every type, a QEMU loads all its modules; one of the system's would end it.
#[test]
fn the_newest_qemu_has_its_own_modules() {
    let Some(program) = artifacts::newest_qemu() else {
        return;
    };
    let answers = answers(&program, &["qom-list-types"]);
    let types = answers[2]["return"].as_array().expect("a list");
    // QEMU has it in a module of its own since 6.1.
    assert!(types.iter().any(|of| of["name"] == "virtio-gpu-pci"));
}

/// The packages' own descriptors say which file is for which technology.
#[test]
fn the_unpacked_firmware_is_described_by_its_packages() {
    let descriptors = artifacts::confidential_firmware_descriptors();
    if descriptors.is_empty() {
        return;
    }
    for (file, feature) in [
        ("OVMF.amdsev.fd", "amd-sev-snp"),
        ("OVMF.inteltdx.ms.fd", "intel-tdx"),
    ] {
        let firmware = artifacts::confidential_firmware(file).expect("it is unpacked with them");
        let size = std::fs::metadata(&firmware).expect("it is there").len();
        // QEMU maps such a file below 4 GiB by whole units of 64 KiB, and refuses others.
        assert!(size > 0 && size.is_multiple_of(64 * 1024), "{file}: {size}");
        let describes = |path: &Path| {
            let text = std::fs::read_to_string(path).expect("it is text");
            let value: Value = serde_json::from_str(&text).expect("JSON");
            let mapping = &value["mapping"];
            let is_it = mapping["filename"]
                .as_str()
                .is_some_and(|name| Path::new(name).file_name() == firmware.file_name());
            let features = value["features"].as_array().cloned().unwrap_or_default();
            is_it && mapping["device"] == "memory" && features.contains(&Value::from(feature))
        };
        assert!(
            descriptors.iter().any(|path| describes(path)),
            "{file}: {descriptors:?}"
        );
    }
}
