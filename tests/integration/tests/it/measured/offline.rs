//! `casemate measure`: the same values without a daemon, and clear words where there is none.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use casemate_integration::{artifacts, daemon::Setup, mute};
use casemate_proto::v1;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with the files of the documented example.
fn files() -> Option<TempDir> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in [
        ("kernel.bin", vec![b'K'; 1 << 20]),
        ("initrd.bin", vec![b'I'; 512 << 10]),
    ] {
        std::fs::write(folder.path().join(name), bytes).expect("a file");
    }
    for name in ["OVMF.amdsev.fd", "OVMF.inteltdx.ms.fd"] {
        let firmware = artifacts::confidential_firmware(name)?;
        std::fs::copy(firmware, folder.path().join(name)).expect("a copy");
    }
    Some(folder)
}

/// As installed: the components lie in `lib` beside the folder of the program.
struct Installed {
    folder: TempDir,
}

impl Installed {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let backends = folder.path().join("lib/casemate/backends");
        std::fs::create_dir_all(&backends).expect("a folder");
        std::fs::create_dir_all(folder.path().join("bin")).expect("a folder");
        let program = folder.path().join("bin/casemate");
        std::fs::copy(artifacts::program("casemate"), program).expect("a copy");
        for name in ["sev-snp", "tdx", "plain-kvm", "gauge"] {
            let to = backends.join(format!("{name}.wasm"));
            std::fs::copy(artifacts::component(name), to).expect("a copy");
        }
        Self { folder }
    }

    fn run(&self, folder: &Path, arguments: &[&str]) -> Output {
        #[expect(clippy::disallowed_methods, reason = "the program under test")]
        let output = Command::new(self.folder.path().join("bin/casemate"))
            .args(mute::arguments(arguments))
            .current_dir(folder)
            .env_clear()
            .output();
        mute::ended(output.expect("it starts"))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The command and what it prints, as `docs/measurement.md` has them. `…` stands for the rest of a
/// digest that changes with each build or file.
fn documented() -> (Vec<String>, Vec<String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/measurement.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let mut lines = page
        .lines()
        .skip_while(|line| !line.starts_with("$ casemate measure"));
    let command = lines.next().expect("a command");
    let command = shlex_split(command.trim_start_matches("$ casemate "));
    let printed = lines.take_while(|line| *line != "```");
    (command, printed.map(str::to_owned).collect())
}

/// Words, of which one may be in double quotes.
fn shlex_split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('"').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

#[test]
fn the_documented_command_prints_what_is_documented() {
    let Some(files) = files() else { return };
    let (command, expected) = documented();
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let output = Installed::new().run(files.path(), &command);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    let printed: Vec<&str> = printed.lines().collect();
    assert_eq!(printed.len(), expected.len(), "{printed:#?}");
    // The package may have moved on; what the digest is then, the oracles know.
    let firmware = artifacts::sha256(&files.path().join("OVMF.amdsev.fd"));
    let is_documented = firmware.starts_with("3e4fd0b3fe3b2dbe");
    for (printed, expected) in printed.iter().zip(&expected) {
        let expected = match expected.split_once("sha-384:56") {
            Some((before, _)) if !is_documented => before,
            _ => expected.trim_end_matches('…'),
        };
        assert!(printed.starts_with(expected), "{printed}\n{expected}");
    }
}

/// What a policy is beside the launch: values of PCRs, a signature, and what the reports carry.
#[test]
fn pcr_values_a_signature_and_an_identity_are_told_with_a_measurement() {
    let Some(files) = files() else { return };
    let installed = Installed::new();
    let pcr = "ab".repeat(32);
    let values = json!({"pcr_values": {"sha256": {"4": pcr}}}).to_string();
    std::fs::write(files.path().join("pcrs.json"), values).expect("a file");
    std::fs::write(files.path().join("key.pem"), super::TEST_KEY).expect("a file");
    let measure = |flags: &[&str]| {
        let snp = [
            "measure",
            "--backend",
            "sev-snp",
            "--vcpus",
            "1",
            "--cpu",
            "EPYC-v4",
        ];
        let firmware = ["--firmware", "OVMF.amdsev.fd"];
        let output = installed.run(files.path(), &[&snp[..], &firmware, flags].concat());
        assert!(
            output.status.success(),
            "{flags:?}: {}",
            text(&output.stderr)
        );
        output.stdout
    };
    let with_pcrs = text(&measure(&["--pcr-values", "pcrs.json", "--format", "json"]));
    assert!(with_pcrs.contains(&pcr), "{with_pcrs}");
    // Tag 18: COSE_Sign1.
    let signed = measure(&["--signing-key", "key.pem", "--format", "corim"]);
    assert_eq!(signed[0], 0xd2);
    let identity = "2a".repeat(32);
    let named = format!("sha-256:{identity}");
    let carried = text(&measure(&["--identity", &named, "--format", "json"]));
    assert!(carried.contains(&identity), "{carried}");
}

#[test]
fn what_cannot_be_measured_is_told_with_what_to_do() {
    let Some(files) = files() else { return };
    let installed = Installed::new();
    let snp = ["measure", "--backend", "sev-snp", "--vcpus", "1"];
    for (arguments, code, parts) in [
        (
            &["--cpu", "EPYC-v4", "--firmware", "missing.fd"][..],
            1,
            &[
                "the firmware file \"missing.fd\" cannot be used",
                "input-unreadable",
            ][..],
        ),
        (
            &["--cpu", "Skylake-Server", "--firmware", "OVMF.amdsev.fd"],
            4,
            &["no signature that is known", "EPYC-Turin"],
        ),
        (
            &["--cpu", "EPYC-v4", "--firmware", "kernel.bin"],
            6,
            &[
                "there is no table of OVMF at the end of the file",
                "remedy: ",
            ],
        ),
        (
            &["--cpu", "EPYC-v4", "--igvm", "kernel.bin"],
            6,
            &["instead of \"IGVM\""],
        ),
        (
            &[
                "--cpu",
                "EPYC-v4",
                "--firmware",
                "OVMF.amdsev.fd",
                "--set",
                "guest-features=0x20",
            ],
            4,
            &["bit 0 says that SNP is active"],
        ),
        (
            &[
                "--cpu",
                "EPYC-v4",
                "--firmware",
                "OVMF.amdsev.fd",
                "--set",
                "no-such=1",
            ],
            1,
            &["no-such", "measure-backend"],
        ),
        (
            &[
                "--cpu",
                "EPYC-v4",
                "--firmware",
                "OVMF.amdsev.fd",
                "--facts",
                "kernel.bin",
            ],
            1,
            &["is no record of facts", "facts-form"],
        ),
        (
            &[
                "--cpu",
                "EPYC-v4",
                "--firmware",
                "OVMF.inteltdx.ms.fd",
                "--kernel",
                "kernel.bin",
            ],
            6,
            &["would not be part of the launch measurement"],
        ),
        (&["--cpu", "EPYC-v4"], 2, &["--firmware", "--igvm"]),
        (
            &[
                "--cpu",
                "EPYC-v4",
                "--firmware",
                "OVMF.amdsev.fd",
                "--initrd",
                "initrd.bin",
            ],
            2,
            &["--kernel"],
        ),
        (
            &[
                "--cpu",
                "EPYC-v4",
                "--firmware",
                "OVMF.amdsev.fd",
                "--backend",
                "nobody",
            ],
            2,
            &["--backend"],
        ),
    ] {
        let arguments: Vec<&str> = snp.iter().chain(arguments).copied().collect();
        let output = installed.run(files.path(), &arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{arguments:?}: {part}: {said}");
        }
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    for (backend, parts) in [
        (
            "nobody",
            &["there is no backend \"nobody\"", "measure-backend"][..],
        ),
        (
            "kernel.bin",
            &["is text (compile it to the binary format), not a WebAssembly component"],
        ),
        ("plain-kvm", &["measures nothing", "no-measurement"]),
    ] {
        let arguments = [
            "measure",
            "--backend",
            backend,
            "--vcpus",
            "1",
            "--cpu",
            "x",
        ];
        let arguments = arguments.iter().chain(&["--firmware", "OVMF.amdsev.fd"]);
        let output = installed.run(files.path(), &arguments.copied().collect::<Vec<_>>());
        let said = text(&output.stderr);
        assert!(!output.status.success());
        for part in parts {
            assert!(said.contains(part), "{backend}: {part}: {said}");
        }
    }
    let output = installed.run(files.path(), &["vm", "list", "--format", "corim"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("format-of-policies"));
}

#[test]
fn facts_of_another_machine_count() {
    let Some(files) = files() else { return };
    let installed = Installed::new();
    let facts = json!([
        ["qemu-version", {"Ok": {"text": "10.1.0"}}],
        [{"kvm-device-attribute": {"group": 1, "attribute": 0}}, {"Ok": {"unsigned": 0x21}}],
    ]);
    let path = files.path().join("facts.json");
    // As a daemon prints it, alone and with the rest of a plan.
    for document in [facts.clone(), json!({"plan": {}, "facts": facts})] {
        std::fs::write(&path, document.to_string()).expect("a file");
        let tdx = [
            "measure",
            "--backend",
            "tdx",
            "--vcpus",
            "1",
            "--cpu",
            "host",
        ];
        let tdx = tdx
            .iter()
            .chain(&["--firmware", "OVMF.inteltdx.ms.fd", "--format", "json"]);
        let without = measured(&installed, files.path(), tdx.clone().copied());
        assert_eq!(without["registers"][0]["value"], Value::Null);
        assert_eq!(without["qemu_version"], Value::Null);
        let with = tdx.copied().chain(["--facts", "facts.json"]);
        let with = measured(&installed, files.path(), with);
        // The first of what may hold otherwise is QEMU's own since 10.1.
        assert_eq!(
            with["registers"][0]["value"],
            without["registers"][0]["alternatives"][0]["value"]
        );
        assert_eq!(with["qemu_version"], "10.1.0");
        let snp = [
            "measure",
            "--backend",
            "sev-snp",
            "--vcpus",
            "1",
            "--cpu",
            "EPYC-v4",
        ];
        let snp = snp
            .iter()
            .chain(&["--firmware", "OVMF.amdsev.fd", "--format", "json"]);
        let source = |document: &Value| {
            let inputs = document["registers"][0]["inputs"].as_array().cloned();
            let inputs = inputs.expect("inputs");
            let features = inputs.iter().find(|one| one["name"] == "guest-features");
            features.expect("an input")["source"].clone()
        };
        let without = measured(&installed, files.path(), snp.clone().copied());
        assert_eq!(source(&without), "assumed");
        let with = snp.copied().chain(["--facts", "facts.json"]);
        assert_eq!(source(&measured(&installed, files.path(), with)), "fact");
    }
}

fn measured<'a>(
    installed: &Installed,
    folder: &Path,
    arguments: impl Iterator<Item = &'a str>,
) -> Value {
    let output = installed.run(folder, &arguments.collect::<Vec<_>>());
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// What a daemon's plan says is what this program says with that plan's facts, of the same files.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_and_the_program_say_the_same() {
    let setup: Setup = super::setup();
    let (kernel, initrd) = (super::kernel_of(&setup), setup.folder.path().join("initrd"));
    let daemon = setup.start();
    let spec = v1::VmSpec {
        kernel_cmdline: Some("console=ttyS0 ".to_owned()),
        settings: [("level".to_owned(), "5".to_owned())].into(),
        ..v1::VmSpec::default()
    };
    let request = v1::PlanVmRequest {
        spec: Some(spec),
        dry_run: false,
    };
    let plan = daemon.vms().await.plan_vm(request).await;
    let plan = plan.expect("a plan").into_inner();
    let planned: Value = serde_json::from_str(&plan.measurement_json).expect("JSON");
    let folder = tempfile::tempdir().expect("a folder");
    let facts: PathBuf = folder.path().join("facts.json");
    std::fs::write(&facts, &plan.facts_json).expect("a file");
    let path = |path: &Path| path.display().to_string();
    let (kernel, initrd, facts) = (path(&kernel), path(&initrd), path(&facts));
    let arguments = [
        "measure",
        "--backend",
        "gauge",
        "--vcpus",
        "1",
        "--cpu",
        "max",
        "--firmware",
        &kernel,
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--cmdline",
        "console=ttyS0 ",
        "--set",
        "level=5",
        "--facts",
        &facts,
        "--format",
        "json",
    ];
    let said = measured(&Installed::new(), folder.path(), arguments.into_iter());
    assert_eq!(said["registers"], planned["registers"]);
    assert_eq!(said["backend"], planned["backend"]);
    assert_eq!(said["qemu_version"], planned["qemu_version"]);
}
