//! A program that measures beside the backend: it runs where config allows it, as nobody, and what
//! it says has to agree. The real program, COCONUT-SVSM's, is in no registry; these are scripts.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use casemate_integration::artifacts;
use casemate_integration::daemon::Setup;
use casemate_proto::v1;
use tonic::Code;

use super::{kernel_of, setup, sha384};

/// SHA-256 of no file here.
const OTHER_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A script at `name` in a folder of its own.
fn script(setup: &Setup, name: &str, body: &str) -> PathBuf {
    let folder = setup.folder.path().join("tools");
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a script");
    for (path, mode) in [(&folder, 0o755), (&path, 0o755)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
    }
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_agrees_is_heard_with_the_file_and_the_command() {
    let mut setup = setup();
    // What it got goes into a file that it may write to.
    let heard = setup.folder.path().join("heard");
    std::fs::write(&heard, "").expect("a file");
    std::fs::set_permissions(&heard, std::fs::Permissions::from_mode(0o666)).expect("a mode");
    let body = format!(
        "{{ echo \"arguments $*\"; echo \"user $(id -u)\"; echo \"environment $(env | grep -cv -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=)\"; }} > {}\nexec sha384sum \"$2\" | cut -d' ' -f1 | tr a-f A-F",
        heard.display()
    );
    let tool = script(&setup, "gauge-tool", &body);
    let digest = artifacts::sha256(&tool);
    // A folder that holds it, named as the predecessor does.
    let folder = tool.parent().expect("a folder").display().to_string();
    setup.variable("MANAGER_IGVMMEASURE_BINARY", &folder);
    setup.set("attestation.tool_sha256", digest);
    let daemon = setup.start();
    daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let heard = std::fs::read_to_string(&heard).expect("it is there");
    let lines: Vec<&str> = heard.lines().collect();
    assert!(
        lines[0].starts_with("arguments --kernel /proc/self/fd/"),
        "{heard}"
    );
    assert!(lines[0].contains(" -append "), "{heard}");
    assert_ne!(lines[1], "user 0", "{heard}");
    assert_eq!(lines[2], "environment 0", "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_fails_or_says_something_else_ends_the_launch() {
    struct Case {
        name: &'static str,
        file: &'static str,
        body: &'static str,
        pin: Option<&'static str>,
        /// None: the VM starts.
        refused: Option<&'static [&'static str]>,
    }
    let case = |name, file, body, refused| Case {
        name,
        file,
        body,
        pin: None,
        refused,
    };
    for case in [
        case(
            "another digest",
            "gauge-tool",
            "echo 0707070707070707070707070707070707070707070707070707070707070707070707070707070707070707070707070707 | cut -c1-96",
            Some(
                &[
                    "gauge-tool says that gauge-digest is 0707",
                    "computed KERNEL",
                    "measurements-differ",
                ][..],
            ),
        ),
        case(
            "no digest",
            "gauge-tool",
            "echo hello",
            Some(&["it printed no digest in hexadecimal"]),
        ),
        case(
            "a failure",
            "gauge-tool",
            "echo broken >&2; exit 3",
            Some(&["ended with", "3", "broken", "measuring-tool"]),
        ),
        case(
            "no end",
            "gauge-tool",
            "sleep 600",
            Some(&["did not end within 2 s", "measuring-tool"]),
        ),
        case(
            "no end of its output",
            "gauge-tool",
            "exec cat /dev/zero",
            Some(&["prints more than", "measuring-tool"]),
        ),
        Case {
            name: "another program than was pinned",
            file: "gauge-tool",
            body: "echo hello",
            pin: Some(OTHER_DIGEST),
            refused: Some(&["config pins 0000", "measuring-tool"]),
        },
        // Config allows one program, and the backend asks for another.
        case("not allowed", "other-tool", "exit 1", None),
    ] {
        let mut setup = setup();
        let kernel = sha384(&kernel_of(&setup));
        let tool = script(&setup, case.file, case.body);
        setup.set("attestation.tool", tool.display().to_string());
        setup.set("attestation.tool_time", "2s");
        if let Some(pin) = case.pin {
            setup.set("attestation.tool_sha256", pin);
        }
        let daemon = setup.start();
        let request = v1::PlanVmRequest {
            spec: Some(v1::VmSpec::default()),
            dry_run: false,
        };
        let planned = daemon.vms().await.plan_vm(request).await;
        match (case.refused, planned) {
            (None, Ok(_)) => {}
            (Some(parts), Err(status)) => {
                let expected = [Code::FailedPrecondition, Code::InvalidArgument];
                assert!(expected.contains(&status.code()), "{}: {status}", case.name);
                for part in parts {
                    let part = part.replace("KERNEL", &kernel);
                    assert!(status.message().contains(&part), "{}: {status}", case.name);
                }
            }
            (_, outcome) => panic!("{}: {outcome:?}", case.name),
        }
    }
}
