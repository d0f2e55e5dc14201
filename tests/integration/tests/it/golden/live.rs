//! QEMU's own word on the lists of the golden cases.
//!
//! Without the hardware a launch ends where KVM is asked for the type of VM. Everything that QEMU
//! parses has been parsed then: the machine and its properties, the CPU model, every object.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use casemate_host::qemu::command::Form;
use casemate_host::spec::plan::Firmware;
use casemate_integration::artifacts;
use serde_json::{Value, json};

use super::BACKENDS;
use super::site::{Launch, Outcome, Site, render};

/// QEMU answers or ends in a fraction of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// As the daemon would start it, with real paths in place of descriptors.
fn arguments(launch: &Launch, disk: &Path, folder: &Path) -> Vec<String> {
    let files = launch.request.host.files.iter();
    let files: BTreeMap<u32, String> = files
        .map(|file| (file.id, file.path.display().to_string()))
        .collect();
    let form = Form::Standalone { forward: None };
    let rendered = render(&launch.request, &launch.checked, files, &form);
    let data = folder.join("data.qcow2").display().to_string();
    let path = |text: String| {
        let disks = launch.request.data_disks.iter();
        let text = disks.fold(text, |text, one| {
            text.replace(&format!("@{}@", one.device_id()), &data)
        });
        text.replace("@disk@", &disk.display().to_string())
            .replace("@env_share@", &folder.display().to_string())
            .replace("@certs_share@", &folder.display().to_string())
    };
    rendered.into_iter().map(path).collect()
}

/// What it says until it ends.
async fn last_words(qemu: &Path, arguments: &[String]) -> String {
    #[expect(clippy::disallowed_methods, reason = "the subject of the test")]
    let mut command = tokio::process::Command::new(qemu);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output.expect("QEMU ends").expect("QEMU starts");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn every_list_is_taken_by_qemu_up_to_the_type_of_vm() {
    if !Path::new("/dev/kvm").exists() {
        println!("skipped: there is no /dev/kvm, at which these launches would end");
        return;
    }
    let Some(qemu) = artifacts::newest_qemu() else {
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let disk = folder.path().join("disk.qcow2");
    for image in [&disk, &folder.path().join("data.qcow2")] {
        #[expect(clippy::disallowed_methods, reason = "a disk for QEMU")]
        let mut image_tool = Command::new("qemu-img");
        image_tool.args(["create", "-q", "-f", "qcow2"]);
        let made = image_tool.arg(image).arg("1M").status();
        assert!(made.expect("qemu-img starts").success());
    }
    for (backend, technology) in BACKENDS.iter().zip(["SEV-SNP", "TDX"]) {
        let site = Site::open(backend).expect("there is a QEMU");
        let (mut tried, mut not_run) = (0, 0);
        for case in &site.cases.cases {
            let Outcome::Planned(launch) = site.run(case).await else {
                continue;
            };
            if matches!(launch.checked.plan().firmware, Firmware::Igvm(_)) {
                not_run += 1;
                continue;
            }
            let words = last_words(&qemu, &arguments(&launch, &disk, folder.path())).await;
            let end = format!("vm-type {technology} not supported by KVM");
            assert!(words.contains(&end), "{}: {words}", case.name);
            tried += 1;
        }
        println!("{backend}: {tried} lists tried, {not_run} with IGVM not run");
        assert!(tried > 10, "{tried}");
    }
}

/// One idle QEMU, spoken to over standard input and output.
struct Idle {
    child: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Idle {
    fn start(qemu: &Path) -> Self {
        use std::io::BufRead as _;
        #[expect(clippy::disallowed_methods, reason = "the subject of the test")]
        let mut command = Command::new(qemu);
        let mut child = command
            .args([
                "-M",
                "none",
                "-nodefaults",
                "-display",
                "none",
                "-S",
                "-qmp",
                "stdio",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("QEMU starts");
        let output = child.stdout.take().expect("it was piped");
        let mut idle = Self {
            child,
            lines: std::io::BufReader::new(output).lines(),
        };
        idle.lines.next().expect("a greeting").expect("a line");
        idle.ask(&json!({"execute": "qmp_capabilities"}));
        idle
    }

    fn ask(&mut self, command: &Value) -> Value {
        use std::io::Write as _;
        let input = self.child.stdin.as_mut().expect("it was piped");
        writeln!(input, "{command}").expect("QEMU reads");
        loop {
            let line = self.lines.next().expect("an answer").expect("a line");
            let answer: Value = serde_json::from_str(&line).expect("JSON");
            if answer.get("event").is_none() {
                return answer;
            }
        }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn every_object_is_made_by_qemu() {
    let Some(qemu) = artifacts::newest_qemu() else {
        return;
    };
    let mut idle = Idle::start(&qemu);
    for backend in BACKENDS {
        let site = Site::open(backend).expect("there is a QEMU");
        let (mut made, mut not_run) = (0, 0);
        for case in &site.cases.cases {
            let Outcome::Planned(launch) = site.run(case).await else {
                continue;
            };
            let pairs = launch.arguments.iter().zip(launch.arguments.iter().skip(1));
            for (_, object) in pairs.filter(|(option, _)| *option == "-object") {
                let object: Value = serde_json::from_str(object).expect("JSON");
                if object["qom-type"] == "igvm-cfg" {
                    not_run += 1;
                    continue;
                }
                let id = object["id"].clone();
                let answer = idle.ask(&json!({"execute": "object-add", "arguments": object}));
                assert_eq!(answer["return"], json!({}), "{}: {answer}", case.name);
                idle.ask(&json!({"execute": "object-del", "arguments": {"id": id}}));
                made += 1;
            }
        }
        println!("{backend}: {made} objects made, {not_run} igvm-cfg not run");
        assert!(made > 20, "{made}");
    }
}
