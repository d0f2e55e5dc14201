//! The packaged config is one that the daemon takes, and it grants the packaged backend exactly
//! what that announces: nothing is missing, and nothing is open that is not used.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use casemate_host::backend::{BackendConfig, BackendEngine, Limits, LoadedBackend};
use casemate_host::config::{ConfigFile, Inputs};
use casemate_host::spec::permissions::Permissions;
use casemate_integration::artifacts;
use casemate_integration::daemon::Setup;
use casemate_proto::v1;

fn packaged_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/casemate.toml")
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
    assert!(
        warnings.lines().count() == 1 && warnings.contains("plain-kvm.wasm"),
        "{warnings}"
    );

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
async fn its_grants_are_what_the_backend_announces_and_no_more() {
    let inputs = Inputs {
        file: ConfigFile::Named(packaged_path()),
        flags: Vec::new(),
        environment: Vec::new(),
    };
    let config = inputs.load().expect("the packaged config is valid").config;
    let packaged = &config.backends[0];
    // A package does not decide that VMs are unprotected.
    assert_eq!(config.default_backend, None);
    assert!(
        !packaged.allow_unpinned,
        "a package loads nothing that it does not know"
    );

    let engine = BackendEngine::new(Limits::default()).expect("the engine starts");
    let path = artifacts::component(&packaged.name);
    let built = BackendConfig {
        allow_unpinned: true,
        path,
        ..packaged.clone()
    };
    let loaded = LoadedBackend::load(&engine, &built, &[])
        .await
        .expect("the component loads");
    let announced = sorted(loaded.info().announced.clone());
    assert_eq!(sorted(packaged.grants.clone()), announced);
    assert_eq!(sorted(Permissions::clone(loaded.permissions())), announced);
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
