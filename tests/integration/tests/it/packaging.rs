//! The packaged config is one that the daemon takes, and it grants each packaged backend
//! exactly what that announces: nothing is missing, and nothing is open that is not used. The packaged
//! units say what the daemon relies on, and systemd understands them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use casemate_host::backend::{BackendConfig, BackendEngine, Limits, LoadedBackend};
use casemate_host::config::{ConfigFile, Inputs};
use casemate_host::spec::permissions::Permissions;
use casemate_integration::artifacts;
use casemate_integration::daemon::Setup;
use casemate_proto::v1;

/// Backends, with the host paths that QEMU may open for their guests. No backend announces these:
/// they are the operator's alone to give.
const PACKAGED: [(&str, &[&str]); 3] = [
    ("plain-kvm", &[]),
    ("sev-snp", &["/dev/sev"]),
    ("tdx", &["/var/run/tdx-qgs/qgs.socket"]),
];

fn packaged(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../packaging")
        .join(name)
}

fn packaged_path() -> PathBuf {
    packaged("casemate.toml")
}

fn check_config(path: &Path) -> Output {
    #[expect(clippy::disallowed_methods, reason = "the subject of the test")]
    let mut command = Command::new(artifacts::program("casemated"));
    command
        .env_clear()
        .arg("--check-config")
        .arg("--config")
        .arg(path)
        .output()
        .expect("casemated starts")
}

#[test]
fn the_packaged_config_passes_the_daemons_own_check() {
    let output = check_config(&packaged_path());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // The package is not installed here, and nothing is pinned in a source tree.
    let warnings = String::from_utf8_lossy(&output.stderr);
    let warnings: Vec<&str> = warnings.lines().collect();
    assert_eq!(warnings.len(), PACKAGED.len(), "{warnings:?}");
    for (line, (name, _)) in warnings.iter().zip(PACKAGED) {
        assert!(line.contains(&format!("{name}.wasm")), "{line}");
    }

    let folder = tempfile::tempdir().expect("a temporary folder");
    let spoiled = folder.path().join("casemate.toml");
    let text = std::fs::read_to_string(packaged_path()).expect("the packaged config is there");
    std::fs::write(&spoiled, text.replace("# max_vms", "max_vmss")).expect("a file");
    let output = check_config(&spoiled);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("max_vmss"));
}

/// In one order, because neither side promises any.
fn sorted(mut permissions: Permissions) -> Permissions {
    permissions
        .facts
        .sort_by(|a, b| (&a.fact, &a.pattern).cmp(&(&b.fact, &b.pattern)));
    permissions
}

#[tokio::test]
async fn its_grants_are_what_the_backends_announce_and_no_more() {
    let inputs = Inputs {
        file: ConfigFile::Named(packaged_path()),
        flags: Vec::new(),
        environment: Vec::new(),
    };
    let config = inputs.load().expect("the packaged config is valid").config;
    // A package does not decide that VMs are unprotected.
    assert_eq!(config.default_backend, None);
    let names = config.backends.iter().map(|backend| backend.name.as_str());
    assert!(names.eq(PACKAGED.map(|(name, _)| name)));
    let engine = BackendEngine::new(Limits::default()).expect("the engine starts");
    for (packaged, (name, host_paths)) in config.backends.iter().zip(PACKAGED) {
        assert!(
            !packaged.allow_unpinned,
            "a package loads nothing that it does not know"
        );
        let built = BackendConfig {
            allow_unpinned: true,
            path: artifacts::component(name),
            ..packaged.clone()
        };
        let loaded = LoadedBackend::load(&engine, &built, &[])
            .await
            .expect("the component loads");
        let announced = sorted(Permissions {
            host_paths: host_paths.iter().map(|path| (*path).to_owned()).collect(),
            ..loaded.info().announced.clone()
        });
        assert_eq!(sorted(packaged.grants.clone()), announced, "{name}");
        let effective = sorted(Permissions::clone(loaded.permissions()));
        assert_eq!(effective, announced, "{name}");
    }
}

#[tokio::test]
async fn the_daemon_shows_every_grant_as_given() {
    let daemon = Setup::new().start();
    let mut client = daemon.backends().await;
    let listed = client
        .list_backends(v1::ListBackendsRequest {})
        .await
        .expect("a list");
    let request = v1::GetBackendRequest {
        name: "plain-kvm".to_owned(),
    };
    let shown = client
        .get_backend(request)
        .await
        .expect("it is configured")
        .into_inner()
        .backend;
    for backend in listed.into_inner().backends.into_iter().chain(shown) {
        assert_eq!(backend.status, "in-service", "{}", backend.error);
        assert!(!backend.grants.is_empty());
        for grant in &backend.grants {
            assert!(
                grant.granted,
                "{} {} is not granted",
                grant.kind, grant.what
            );
        }
    }
}

/// Section and assignments of a unit, in order.
fn assignments(unit: &str) -> Vec<(String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in unit.lines().filter(|line| !line.starts_with('#')) {
        if let Some((key, value)) = line.split_once('=') {
            found.push((format!("{section}{key}"), value.to_owned()));
        } else if !line.is_empty() {
            section = line.to_owned();
        }
    }
    found
}

#[test]
fn the_service_says_what_the_daemon_relies_on() {
    let unit = std::fs::read_to_string(packaged("casemated.service")).expect("it is packaged");
    let found = assignments(&unit);
    for (key, wanted) in [
        // It says when it is ready, and that it lives.
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("WatchdogSec", "30"),
        ("Restart", "on-failure"),
        ("RestartPreventExitStatus", "78"),
        ("ExecReload", "/bin/kill -HUP $MAINPID"),
        // VMs outlive it.
        ("KillMode", "process"),
        ("RuntimeDirectoryPreserve", "yes"),
        // The state directory's mode is checked at each start.
        ("StateDirectory", "casemate"),
        ("StateDirectoryMode", "0711"),
    ] {
        let values: Vec<&str> = found
            .iter()
            .filter(|(name, _)| *name == format!("[Service]{key}"))
            .map(|(_, value)| value.as_str())
            .collect();
        assert_eq!(values, [wanted], "{key}");
    }
    // What would break it: compiled code, /dev/kvm, images anywhere, cgroups made by hand, users of
    // QEMU's own.
    for key in [
        "MemoryDenyWriteExecute",
        "PrivateDevices",
        "DevicePolicy",
        "DeviceAllow",
        "ProtectClock",
        "ProtectHome",
        "PrivateTmp",
        "ProtectControlGroups",
        "ProtectKernelTunables",
        "PrivateUsers",
        "CapabilityBoundingSet",
        "RestrictSUIDSGID",
        "User",
    ] {
        let key = format!("[Service]{key}");
        assert!(found.iter().all(|(name, _)| *name != key), "{key}");
    }
}

#[test]
fn systemd_understands_the_units() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unit = std::fs::read_to_string(packaged("casemated.service")).expect("it is packaged");
    let program = artifacts::program("casemated");
    // The package is not installed here.
    let unit = unit.replace("/usr/bin/casemated", &program.display().to_string());
    let verify = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        #[expect(clippy::disallowed_methods, reason = "the subject of the test")]
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]).arg(&path).output()
    };
    let slice = std::fs::read_to_string(packaged("casemate.slice")).expect("it is packaged");
    for (name, text, wanted) in [
        ("casemated.service", unit.as_str(), ""),
        ("casemate.slice", slice.as_str(), ""),
        // It does complain where there is a reason.
        (
            "casemated.service",
            &unit.replace("WatchdogSec=", "WatchDogSec="),
            "WatchDogSec",
        ),
    ] {
        let output = match verify(name, text) {
            Ok(output) => output,
            Err(error) => {
                println!("skipped: no systemd-analyze: {error}");
                return;
            }
        };
        let said = String::from_utf8_lossy(&output.stderr);
        // It speaks of the machine's own units as well.
        let ours: String = said
            .lines()
            .filter(|line| line.contains("casemate"))
            .collect();
        if wanted.is_empty() {
            assert_eq!(ours, "", "{name}");
        } else {
            assert!(ours.contains(wanted), "{name}: {said}");
        }
    }
}

/// Of ten; what is left open is what the list above says. Another systemd counts a little otherwise.
const MOST_EXPOSURE: &str = "65";

#[test]
fn the_service_is_as_closed_as_its_work_allows() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unit = std::fs::read_to_string(packaged("casemated.service")).expect("it is packaged");
    let judge = |text: &str| {
        let path = folder.path().join("casemated.service");
        std::fs::write(&path, text).expect("a file");
        #[expect(clippy::disallowed_methods, reason = "the subject of the test")]
        let mut command = Command::new("systemd-analyze");
        command
            .args(["security", "--no-pager", "--offline=true", "--threshold"])
            .arg(MOST_EXPOSURE)
            .arg(&path)
            .output()
    };
    let says = |output: &Output| {
        let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        said.lines().last().unwrap_or_default().to_owned()
    };
    let output = match judge(&unit) {
        Ok(output) if !output.stdout.is_empty() => output,
        Ok(output) => {
            println!(
                "skipped: systemd-analyze judges no files: {}",
                says(&output)
            );
            return;
        }
        Err(error) => {
            println!("skipped: no systemd-analyze: {error}");
            return;
        }
    };
    assert!(output.status.success(), "{}", says(&output));
    // It does say no to a service that is more open.
    let open: Vec<&str> = unit
        .lines()
        .filter(|line| !line.starts_with("SystemCallFilter=") && !line.starts_with("Restrict"))
        .collect();
    let output = judge(&open.join("\n")).expect("it started before");
    assert!(!output.status.success(), "{}", says(&output));
}
