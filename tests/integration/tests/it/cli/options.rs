//! What a real daemon makes of the CLI's options. With the scripted QEMU, but for the guest that
//! gets files, a disk and a secret of its own.

use std::path::Path;

use casemate_integration::daemon::{Daemon, Setup};
use casemate_integration::{artifacts, leftovers};
use serde_json::{Value, json};

use super::{casemate, command_to, json_of, text};
use crate::images::guest;

fn setup() -> Setup {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup
}

fn names(vms: &Value) -> Vec<&str> {
    let vms = vms.as_array().expect("VMs");
    vms.iter().filter_map(|vm| vm["name"].as_str()).collect()
}

/// Exit code and what was said.
fn refused(daemon: &Daemon, arguments: &[&str], code: i32, id: &str) -> String {
    let output = casemate(daemon, arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    assert!(error.contains(id), "{arguments:?}: {error}");
    error
}

#[test]
fn a_time_to_live_is_set_anew_and_taken_away() {
    let daemon = setup().start();
    let created = json_of(&daemon, &["vm", "create", "--name", "web", "--ttl", "1h"]);
    json_of(&daemon, &["vm", "create", "--name", "job"]);
    let ends = |name: &str| json_of(&daemon, &["vm", "show", name])["expires_at"].clone();
    let first = ends("web");
    assert_eq!(first, created["expires_at"]);
    let extended = json_of(&daemon, &["vm", "extend", "web", "job", "--ttl", "2h"]);
    assert_eq!(extended[0]["extended"], true, "{extended}");
    assert!(ends("web").as_str() > first.as_str(), "{}", ends("web"));
    assert_ne!(ends("job"), "");
    let output = casemate(&daemon, &["vm", "extend", "web", "--forever"]);
    assert!(text(&output.stdout).starts_with("extended "), "{output:?}");
    assert_eq!(ends("web"), "");
    assert_ne!(ends("job"), "", "it was not asked for");
    refused(&daemon, &["vm", "extend", "web"], 2, "--forever");
    refused(&daemon, &["vm", "extend", "box", "--forever"], 3, "\"box\"");
    // A time that comes.
    json_of(&daemon, &["vm", "extend", "web", "--ttl", "1s"]);
    super::waiting::eventually_not(
        || names(&json_of(&daemon, &["vm", "list"])).contains(&"web"),
        "it is never removed",
    );
}

#[test]
fn a_list_has_what_fits() {
    let daemon = setup().start();
    for (name, labels) in [
        ("web", &["team=blue", "tier=web"][..]),
        ("job", &["team=blue"]),
        ("box", &["team=red"]),
    ] {
        let labels = labels.iter().flat_map(|label| ["--label", label]);
        let create = ["vm", "create", "--name", name].into_iter().chain(labels);
        json_of(&daemon, &create.collect::<Vec<_>>());
    }
    json_of(&daemon, &["vm", "stop", "--force", "job"]);
    let shown = json_of(&daemon, &["vm", "show", "web"]);
    assert_eq!(shown["labels"], json!({"team": "blue", "tier": "web"}));
    for (filter, wanted) in [
        (&[][..], &["web", "job", "box"][..]),
        (&["--label", "team=blue"], &["web", "job"]),
        (&["--label", "team=blue", "--label", "tier=web"], &["web"]),
        (&["--label", "team=green"], &[]),
        (&["--label", "team=green", "--label", "team=blue"], &[]),
        (&["--state", "stopped"], &["job"]),
        (
            &["--state", "stopped", "--state", "running"],
            &["web", "job", "box"],
        ),
        (&["--state", "running", "--label", "team=blue"], &["web"]),
        (&["--name", "box"], &["box"]),
        (&["--backend", "plain-kvm"], &["web", "job", "box"]),
        (&["--backend", "other"], &[]),
    ] {
        let list = json_of(&daemon, &[&["vm", "list"], filter].concat());
        assert_eq!(names(&list), wanted, "{filter:?}");
    }
}

/// More VMs than a page of the API has: they are copies of the record of one that is down.
#[test]
fn a_list_has_all_pages() {
    const COPIES: usize = 1_001;
    let mut setup = setup();
    setup.set("on_shutdown", "leave");
    let mut daemon = setup.start();
    let one = json_of(&daemon, &["vm", "create", "--name", "many"]);
    json_of(&daemon, &["vm", "stop", "--force", "many"]);
    assert_eq!(daemon.stop(), Some(0));
    let id = one["id"].as_str().expect("an id");
    let records = daemon.state_dir.join("records");
    let record = std::fs::read_to_string(records.join(id).join("vm.json")).expect("a record");
    for number in 0..COPIES {
        let copy = format!("00000000-0000-4000-8000-{number:012x}");
        let folder = records.join(&copy);
        std::fs::create_dir(&folder).expect("a folder");
        std::fs::set_permissions(&folder, closed(0o700)).expect("a mode");
        let path = folder.join("vm.json");
        std::fs::write(&path, record.replace(id, &copy)).expect("a file");
        std::fs::set_permissions(&path, closed(0o600)).expect("a mode");
    }
    daemon.restart();
    let list = json_of(&daemon, &["vm", "list", "--name", "many"]);
    let mut ids: Vec<&str> = list
        .as_array()
        .expect("VMs")
        .iter()
        .filter_map(|vm| vm["id"].as_str())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), COPIES + 1);
}

fn closed(mode: u32) -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}

#[test]
fn a_key_is_one_vm_however_often_it_is_given() {
    let daemon = setup().start();
    let create = |name: &'static str, key: &'static str| {
        ["vm", "create", "--name", name, "--idempotency-key", key]
    };
    let first = json_of(&daemon, &create("web", "k"));
    let again = json_of(&daemon, &create("web", "k"));
    assert_eq!(again["id"], first["id"]);
    let id = first["id"].as_str().expect("an id");
    let error = refused(&daemon, &create("job", "k"), 10, "idempotency-key-reused");
    assert!(error.contains(id), "{error}");
    assert_ne!(json_of(&daemon, &create("web", "other"))["id"], first["id"]);
    assert_eq!(names(&json_of(&daemon, &["vm", "list"])), ["web", "web"]);
}

/// With the real QEMU, which has to take the command.
#[test]
fn a_dry_run_of_create_leaves_nothing() {
    let daemon = Setup::new().start();
    let plan = json_of(&daemon, &["vm", "create", "--name", "web", "--dry-run"]);
    assert_eq!(plan["dry_run"], "prelaunch", "{plan}");
    assert_eq!(plan["backend"], "plain-kvm");
    let shown = casemate(&daemon, &["vm", "create", "--dry-run"]);
    assert!(text(&shown.stdout).contains("-machine"), "{shown:?}");
    assert!(text(&shown.stderr).contains("QEMU took"), "{shown:?}");
    assert_eq!(json_of(&daemon, &["vm", "list"]), json!([]));
    leftovers::assert_nothing_left(&daemon.state_dir);
    // What could not be created cannot be tried either.
    let wrong = ["vm", "create", "--dry-run", "--machine", "pdp11"];
    refused(&daemon, &wrong, 4, "pdp11");
}

#[test]
fn a_change_is_made_to_the_vm_that_was_seen() {
    let daemon = setup().start();
    let seen = json_of(&daemon, &["vm", "create", "--name", "web"])["generation"].to_string();
    json_of(
        &daemon,
        &["vm", "pause", "web", "--expect-generation", &seen],
    );
    for (verb, more) in [
        ("stop", &["--force"][..]),
        ("resume", &[]),
        ("extend", &["--forever"]),
        ("remove", &[]),
    ] {
        let arguments = [&["vm", verb, "web", "--expect-generation", &seen], more].concat();
        refused(&daemon, &arguments, 6, "generation-changed");
        assert_eq!(json_of(&daemon, &["vm", "show", "web"])["state"], "paused");
    }
    let now = json_of(&daemon, &["vm", "show", "web"])["generation"].to_string();
    json_of(
        &daemon,
        &["vm", "remove", "web", "--expect-generation", &now],
    );
    assert_eq!(json_of(&daemon, &["vm", "list"]), json!([]));
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// Files below the image root, a disk and secrets reach the guest that they are for.
#[tokio::test]
async fn a_guest_gets_the_files_disks_and_secrets_of_the_command() {
    let mut setup = Setup::new();
    let root = setup.folder.path().join("images");
    std::fs::create_dir(&root).expect("a folder");
    setup.set("images.roots", path(&root));
    setup.set("vm.kernel", "/no/such/kernel");
    std::fs::copy(artifacts::kernel(), root.join("vmlinuz")).expect("a copy");
    guest::own_initrd(&root.join("initrd"));
    for (name, begin) in [("models.img", "first of all"), ("more.img", "second disk.")] {
        let mut image = begin.as_bytes().to_vec();
        image.resize(1 << 20, 0);
        std::fs::write(root.join(name), image).expect("a file");
    }
    let secrets = [("tls.key", "of the key"), ("api.token", "of the token")].map(|(name, text)| {
        let file = setup.folder.path().join(name);
        std::fs::write(&file, text).expect("a file");
        format!("{name}={}", file.display())
    });
    let daemon = setup.start();
    let created = json_of(
        &daemon,
        &[
            "vm",
            "create",
            "--kernel",
            "vmlinuz",
            "--initrd",
            "initrd",
            "--data-disk",
            "models=models.img,format=raw",
            "--data-disk",
            "more=more.img,format=raw",
            "--secret",
            &secrets[0],
            "--secret",
            &secrets[1],
            "--wait",
        ],
    );
    assert_eq!(created["files"]["kernel"], "vmlinuz", "{created}");
    assert_eq!(created["data_disks"][1]["id"], "more", "{created}");
    let field = |name: &str| created[name].as_str().expect("text").to_owned();
    guest::assert_guest(&field("agent_address"), &field("id")).await;
    refused(
        &daemon,
        &["vm", "create", "--kernel", "missing"],
        6,
        "image-unusable",
    );
}

/// A daemon's clients, by token, through the CLI.
#[test]
fn a_role_decides_what_a_token_may_do() {
    use crate::access::{token_client, token_of, with_clients};

    let mut setup = setup();
    let clients = ["viewer", "operator", "admin", "secrets"];
    with_clients(
        &mut setup,
        clients.map(|role| token_client(role, &[role])).to_vec(),
    );
    let daemon = setup.start();
    let run = |token: Option<&str>, arguments: &[&str]| {
        let mut command = command_to(&daemon.endpoint(), arguments);
        match token {
            Some(token) => command.env("CASEMATE_TOKEN", token),
            None => command.env_remove("CASEMATE_TOKEN"),
        };
        command.output().expect("casemate runs")
    };
    for (client, arguments, code, id) in [
        ("operator", &["vm", "create", "--name", "web"][..], 0, ""),
        ("viewer", &["vm", "create"], 9, "role-missing"),
        ("viewer", &["vm", "list"], 0, ""),
        ("viewer", &["vm", "remove", "web"], 9, ""),
        ("viewer", &["plan"], 9, "role-missing"),
        ("operator", &["vm", "logs", "web"], 9, "role-missing"),
        ("operator", &["config", "explain"], 9, "role-missing"),
        ("admin", &["config", "explain"], 0, ""),
        // By its id: a name takes a list, which is a viewer's.
        ("secrets", &["vm", "list"], 9, "role-missing"),
        ("nobody", &["vm", "list"], 9, "unauthenticated"),
    ] {
        let output = run(Some(&token_of(client)), arguments);
        let error = text(&output.stderr);
        let what = format!("{client} {arguments:?}: {error}");
        assert_eq!(output.status.code(), Some(code), "{what}");
        assert!(error.contains(id), "{what}");
        assert!(!error.contains("canary-token"), "{what}");
    }
    let output = run(None, &["vm", "list"]);
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    // As a file, which is how most have it.
    let file = daemon.folder.path().join("token");
    std::fs::write(&file, format!("{}\n", token_of("viewer"))).expect("a file");
    let output = run(None, &["vm", "list", "--token-file", &path(&file)]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains(" web "), "{output:?}");
}

#[test]
fn a_daemon_is_reached_by_its_socket() {
    let mut setup = setup();
    let socket = setup.folder.path().join("grpc.sock");
    setup.set("grpc.socket", path(&socket));
    let daemon = setup.start();
    let run = |endpoint: &str, arguments: &[&str]| {
        let output = command_to(endpoint, arguments).output();
        output.expect("casemate runs")
    };
    let endpoint = format!("unix://{}", socket.display());
    let created = run(&endpoint, &["vm", "create", "--name", "web"]);
    assert!(created.status.success(), "{}", text(&created.stderr));
    assert_eq!(names(&json_of(&daemon, &["vm", "list"])), ["web"]);
    let nowhere = run(&format!("{endpoint}.none"), &["vm", "list"]);
    assert_eq!(nowhere.status.code(), Some(7), "{}", text(&nowhere.stderr));
}
