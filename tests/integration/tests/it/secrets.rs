//! Where secrets of a request end up: a canary in every secret field is searched wherever the
//! daemon writes or answers, and is found in the guest's two shares only, as long as the VM exists.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use casemate_catalogue::ErrorId;
use casemate_integration::daemon::{Daemon, Setup, Verb, eventually};
use casemate_integration::predecessor::CreateReq;
use casemate_integration::processes;
use casemate_integration::tmpfs::Tmpfs;
use casemate_proto::v1;
use casemate_proto::v1::backend_service_client::BackendServiceClient;
use casemate_proto::v1::config_service_client::ConfigServiceClient;
use rustix::process::Signal;
use serde_json::json;
use tonic::Code;
use tonic_types::StatusExt as _;

/// All that is logged, but for the compiler of components: hundreds of megabytes, before there is
/// any VM.
const LOG: &str = "trace,cranelift_codegen=off,cranelift_frontend=off,wasmtime_internal_cranelift=off,regalloc2=off";

/// What every canary begins with, split so that this program's own text is none.
fn canary(field: &str) -> String {
    format!("{}{}-{field}", "canary-", "f0e1d2c3")
}

fn needle() -> Vec<u8> {
    canary("").trim_end_matches('-').as_bytes().to_vec()
}

fn secret_spec() -> v1::VmSpec {
    v1::VmSpec {
        name: "secretive".to_owned(),
        environment: [("TOKEN".to_owned(), canary("environment"))].into(),
        certificates: Some(v1::Certificates {
            client_certificate: canary("certificate").into_bytes(),
            client_key: canary("key").into_bytes(),
            server_ca: canary("ca").into_bytes(),
        }),
        secrets: [("token.key".to_owned(), canary("secret").into_bytes())].into(),
        ..v1::VmSpec::default()
    }
}

/// All fields but `aa_kbs_params`, which is a part of the command line, and so not secret.
fn predecessor_request() -> CreateReq {
    CreateReq {
        agent_log_level: "debug".to_owned(),
        agent_cvm_server_ca_cert: canary("old-ca").into_bytes(),
        agent_cvm_client_key: canary("old-key").into_bytes(),
        agent_cvm_client_cert: canary("old-certificate").into_bytes(),
        agent_cvm_server_url: canary("old-url"),
        agent_cvm_ca_url: canary("old-ca-url"),
        agent_certs_token: canary("old-token"),
        aws_access_key_id: canary("old-id"),
        aws_secret_access_key: canary("old-secret"),
        aws_endpoint_url: canary("old-endpoint"),
        aws_region: canary("old-region"),
        ..CreateReq::default()
    }
}

fn holds(bytes: &[u8]) -> bool {
    let needle = needle();
    bytes.windows(needle.len()).any(|part| part == needle)
}

/// Files below a folder that hold a canary.
fn files_with_it(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").flatten() {
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && std::fs::read(entry.path()).is_ok_and(|text| holds(&text)) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Processes whose command line or environment holds one, this one's aside.
fn processes_with_it() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        for file in ["cmdline", "environ"] {
            let path = entry.path().join(file);
            if std::fs::read(&path).is_ok_and(|text| holds(&text)) {
                found.push(path);
            }
        }
    }
    found
}

fn shares_of(folder: &Path) -> Vec<PathBuf> {
    [
        "certs/ca.pem",
        "certs/cert.pem",
        "certs/key.pem",
        "env/environment",
    ]
    .map(|name| folder.join(name))
    .into()
}

/// All that the daemon answers with, as text.
async fn answers(daemon: &Daemon, id: &str) -> Vec<String> {
    let mut answers = vec![
        format!("{:?}", daemon.list().await),
        format!("{:?}", daemon.get(id).await),
    ];
    let plan = v1::PlanVmRequest {
        spec: Some(secret_spec()),
        ..v1::PlanVmRequest::default()
    };
    answers.push(format!("{:?}", daemon.vms().await.plan_vm(plan).await));
    let mut config = ConfigServiceClient::new(daemon.channel().await);
    let explained = config.explain_config(v1::ExplainConfigRequest {}).await;
    answers.push(format!("{explained:?}"));
    let mut doctor = BackendServiceClient::new(daemon.channel().await);
    let diagnosis = doctor.check_host(v1::CheckHostRequest::default()).await;
    answers.push(format!("{diagnosis:?}"));
    for backend in ["plain-kvm", "no-such"] {
        let name = backend.to_owned();
        let backend = daemon.backends().await;
        let mut backend = backend;
        answers.push(format!(
            "{:?}",
            backend.get_backend(v1::GetBackendRequest { name }).await
        ));
    }
    for path in ["/health", "/ready", "/metrics", "/no-such-route"] {
        answers.push(daemon.ask_http("GET", path).await);
        answers.push(daemon.ask_http("POST", path).await);
    }
    answers
}

/// Requests with canaries that are refused, at different stages.
async fn refusals(daemon: &Daemon) -> Vec<tonic::Status> {
    type Change = fn(&mut v1::VmSpec);
    let v1_cases: &[Change] = &[
        |spec| drop(spec.environment.insert("B".to_owned(), canary("b\nA=1"))),
        |spec| drop(spec.environment.insert("B".to_owned(), canary("\0"))),
        |spec| {
            drop(
                spec.environment
                    .insert("B".to_owned(), canary("").repeat(10_000)),
            );
        },
        |spec| drop(spec.environment.insert("B C".to_owned(), canary("b"))),
        |spec| {
            drop(
                spec.environment
                    .insert("AGENT_CVM_ID".to_owned(), canary("b")),
            );
        },
        |spec| {
            let certificates = spec.certificates.get_or_insert_default();
            certificates.client_key = canary("").repeat(30_000).into_bytes();
        },
        |spec| drop(spec.secrets.insert("a/b".to_owned(), canary("b").into())),
        |spec| drop(spec.secrets.insert(".b".to_owned(), canary("b").into())),
        |spec| {
            let content = canary("").repeat(10_000).into_bytes();
            drop(spec.secrets.insert("b".to_owned(), content));
        },
        |spec| {
            for number in 0..5 {
                let content = canary("").repeat(4_000).into_bytes();
                drop(spec.secrets.insert(format!("b{number}"), content));
            }
        },
        |spec| spec.name = "a b".to_owned(),
        |spec| spec.backend = "no-such".to_owned(),
        |spec| spec.machine = "no-such".to_owned(),
        |spec| drop(spec.settings.insert("no-such".to_owned(), "x".to_owned())),
        |spec| spec.require_confidential = true,
    ];
    let mut refused = Vec::new();
    for change in v1_cases {
        let mut spec = secret_spec();
        change(&mut spec);
        refused.push(daemon.create(spec).await.expect_err("it is refused"));
    }
    type OldChange = fn(&mut CreateReq);
    let old_cases: &[OldChange] = &[
        |request| request.aws_secret_access_key.push('\n'),
        |request| request.agent_certs_token.push('\0'),
        |request| request.ttl = "soon".to_owned(),
        |request| request.aa_kbs_params = "a b".to_owned(),
    ];
    for change in old_cases {
        let mut request = predecessor_request();
        change(&mut request);
        let answer = daemon.predecessor().await.create_vm(request).await;
        refused.push(answer.expect_err("it is refused"));
    }
    refused
}

/// What WatchVms tells while `during` runs, until something is removed.
async fn watched(daemon: &Daemon) -> tokio::task::JoinHandle<String> {
    let mut vms = daemon.vms().await;
    let stream = vms.watch_vms(v1::WatchVmsRequest::default()).await;
    let mut stream = stream.expect("it streams").into_inner();
    tokio::spawn(async move {
        let mut told = String::new();
        let mut removed = 0;
        while let Ok(Some(change)) = stream.message().await {
            told.push_str(&format!("{change:?}\n"));
            if matches!(
                change.change,
                Some(v1::watch_vms_response::Change::Removed(_))
            ) {
                removed += 1;
                if removed == 2 {
                    break;
                }
            }
        }
        told
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "another user's look at a VM's files"
)]
fn read_as(uid: u32, path: &Path) -> Result<Vec<u8>, String> {
    let output = Command::new("setpriv")
        .args(["--reuid", &uid.to_string(), "--regid", &uid.to_string()])
        .args(["--clear-groups", "cat"])
        .arg(path)
        .output()
        .expect("setpriv is there");
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn uid_of(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let uid = line.and_then(|line| line.split_whitespace().next());
    uid.and_then(|uid| uid.parse().ok()).expect("a number")
}

/// The kind of the file system that a file lies on.
fn file_system(path: &Path) -> String {
    #[expect(clippy::disallowed_methods, reason = "not this project's own word")]
    let mut stat = Command::new("stat");
    let output = stat.args(["-f", "-c", "%T"]).arg(path).output();
    let output = output.expect("stat is there").stdout;
    String::from_utf8_lossy(&output).trim().to_owned()
}

#[tokio::test]
async fn a_canary_in_every_secret_field_is_in_the_shares_and_nowhere_else() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: other users and processes, because this is not root");
        return;
    }
    let mut setup = Setup::new();
    setup.set("log", LOG);
    let run = setup.folder.path().join("run");
    // Deleted when nothing is mounted in it any more.
    let _folder = Arc::clone(&setup.folder);
    let Some(_tmpfs) = Tmpfs::mount(&run, "16m") else {
        return;
    };
    let secrets = run.join("casemate");
    setup.set("secrets_dir", secrets.display().to_string());
    let daemon = setup.start();
    let watch = watched(&daemon).await;
    let mine = daemon.create(secret_spec()).await.expect("it runs");
    let old = daemon
        .predecessor()
        .await
        .create_vm(predecessor_request())
        .await;
    let old = old.expect("it runs").into_inner().cvm_id;
    let old = daemon.get(&old).await.expect("it is listed");

    // In memory, in the guest's files, all of them.
    let own = secrets.join(instance(&daemon));
    let mut wanted = [
        vec![own.join(&mine.id).join("env/secrets/token.key")],
        shares_of(&own.join(&mine.id)),
        shares_of(&own.join(&old.id)),
    ]
    .concat();
    wanted.sort();
    assert_eq!(files_with_it(&run), wanted);
    for path in &wanted {
        assert_eq!(file_system(path), "tmpfs", "{}", path.display());
    }
    let environment = std::fs::read_to_string(own.join(&old.id).join("env/environment"));
    let environment = environment.expect("root reads it");
    for field in [
        "url", "ca-url", "token", "id", "secret", "endpoint", "region",
    ] {
        let canary = canary(&format!("old-{field}\n"));
        assert!(environment.contains(&canary), "{field}: {environment}");
    }

    // Nobody reads them but the VM's own user.
    let uid = uid_of(mine.pid);
    let secret = own.join(&mine.id).join("env/secrets/token.key");
    for path in shares_of(&own.join(&mine.id)).into_iter().chain([secret]) {
        assert!(
            read_as(uid, &path).is_ok_and(|text| holds(&text)),
            "{}",
            path.display()
        );
        for other in [uid_of(old.pid), 65_534] {
            let error = read_as(other, &path).expect_err("it is closed");
            assert!(error.contains("Permission denied"), "{error}");
        }
    }

    for status in refusals(&daemon).await {
        let metadata = format!("{:?} {:?}", status.metadata(), status.get_error_details());
        assert!(
            !holds(format!("{status} {metadata}").as_bytes()),
            "{status:?}"
        );
        assert!(!holds(status.details()), "{status:?}");
    }
    for answer in answers(&daemon, &mine.id).await {
        assert!(!holds(answer.as_bytes()), "{answer}");
    }
    assert_eq!(processes_with_it(), Vec::<PathBuf>::new());
    // Without the shares' own folder, where they are meant to be.
    let elsewhere = files_with_it(daemon.folder.path());
    assert_eq!(elsewhere, wanted, "state directory, log and all else");

    for vm in [&mine, &old] {
        daemon.remove(&vm.id).await.expect("it can be removed");
    }
    let told = watch.await.expect("it was watched");
    assert!(told.contains(&mine.id) && !holds(told.as_bytes()), "{told}");
    daemon.assert_unwound().await;
    assert!(daemon.log().contains(" TRACE "), "the log is complete");
    assert_eq!(files_with_it(daemon.folder.path()), Vec::<PathBuf>::new());
}

fn instance(daemon: &Daemon) -> String {
    let id = std::fs::read_to_string(daemon.state_dir.join("instance-id"));
    id.expect("it is there").trim().to_owned()
}

/// With the scripted QEMU, because the real one cannot be made to die at a chosen moment.
#[tokio::test]
async fn a_launch_that_fails_leaves_no_secret() {
    for script in [
        json!({"die_at": "cont", "stderr": "no luck\n"}),
        json!({"hang_at": "hostfwd", "ignore": ["sigterm"]}),
    ] {
        let mut setup = Setup::new();
        setup.set("log", LOG).set("qemu.start_time", "3s");
        setup.use_fake_qemu(&script);
        let daemon = setup.start();
        let status = daemon.create(secret_spec()).await.expect_err("it fails");
        assert!(!holds(status.message().as_bytes()), "{status}");
        assert_eq!(files_with_it(daemon.folder.path()), Vec::<PathBuf>::new());
        daemon.assert_unwound().await;
    }
}

/// What lies in memory goes with the boot of the host, which a fresh tmpfs stands for.
#[tokio::test]
async fn secrets_in_memory_are_gone_after_a_reboot_and_the_start_says_so() {
    let mut setup = Setup::new();
    let run = setup.folder.path().join("run");
    // Deleted when nothing is mounted in it any more.
    let _folder = Arc::clone(&setup.folder);
    let Some(tmpfs) = Tmpfs::mount(&run, "16m") else {
        return;
    };
    let secrets = run.join("casemate").display().to_string();
    setup
        .set("secrets_dir", secrets)
        .set("on_shutdown", "leave");
    setup.use_fake_qemu(&json!({}));
    let mut daemon = setup.start();
    let secret = daemon.create(secret_spec()).await.expect("it runs");
    let plain = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    for vm in [&secret, &plain] {
        daemon.act(Verb::ForceStop, &vm.id).await.expect("it stops");
    }
    daemon
        .act(Verb::Start, &secret.id)
        .await
        .expect("the secrets are there");
    daemon
        .act(Verb::ForceStop, &secret.id)
        .await
        .expect("it stops");
    assert_eq!(daemon.stop(), Some(0));
    drop(tmpfs);
    let _fresh = Tmpfs::mount(&run, "16m").expect("as before");
    daemon.restart();

    let status = daemon
        .act(Verb::Start, &secret.id)
        .await
        .expect_err("no secrets");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let info = status.get_details_error_info().expect("an ErrorInfo");
    assert_eq!(*info.reason, *ErrorId::SecretsGone.reason(), "{status}");
    daemon
        .act(Verb::Start, &plain.id)
        .await
        .expect("it has none to miss");
    for vm in [&secret, &plain] {
        daemon.remove(&vm.id).await.expect("it can be removed");
    }
    daemon.assert_unwound().await;
}

/// Aborts a process, after its limit on cores was raised as far as that is allowed.
fn abort(pid: u32) {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let raw = raw.expect("a pid");
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    // A hard limit is raised by CAP_SYS_RESOURCE, which root has not in every container.
    if let Err(error) = prlimit(Some(raw), Resource::Core, unlimited) {
        println!("not tried without its limit on cores, which holds by itself: {error}");
    }
    processes::signal(pid, Signal::ABORT);
}

/// The daemon's memory has had secrets in it. A process of the test's own shows that the kernel
/// would have dumped it.
#[tokio::test]
async fn a_daemon_that_is_aborted_leaves_no_core() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: limits of other processes, because this is not root");
        return;
    }
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let mut daemon = setup.start();
    // Where a core would go: it is relative to this folder, which the daemon has too.
    let before = cores();
    #[expect(clippy::disallowed_methods, reason = "a process that may be dumped")]
    let mut other = Command::new("sleep")
        .arg("600")
        .stdin(Stdio::null())
        .spawn()
        .expect("it starts");
    abort(other.id());
    let control: ExitStatus = other.wait().expect("it ends");
    let left: Vec<PathBuf> = cores()
        .into_iter()
        .filter(|core| !before.contains(core))
        .collect();
    for core in left {
        std::fs::remove_file(core).expect("it is this test's own");
    }
    assert_eq!(control.signal(), Some(Signal::ABORT.as_raw()));
    if !control.core_dumped() {
        println!("skipped: this kernel writes no core of any process");
        return;
    }

    let vm = daemon.create(secret_spec()).await.expect("it runs");
    abort(daemon.pid());
    let status = daemon.wait();
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
    assert!(!status.core_dumped(), "{status}");
    assert_eq!(cores(), before);
    daemon.restart();
    eventually("its removal", Duration::from_secs(60), || async {
        daemon.remove(&vm.id).await.ok()
    })
    .await;
}

fn cores() -> Vec<PathBuf> {
    let here = std::env::current_dir().expect("a folder");
    let entries = std::fs::read_dir(here).expect("a folder").flatten();
    let cores = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"core"));
    cores.map(|entry| entry.path()).collect()
}
