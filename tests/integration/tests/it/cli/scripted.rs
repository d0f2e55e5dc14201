//! What is sent for each flag, and what is made of the answers, with a daemon that is scripted: the
//! requests are the subject.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::process::Output;
use std::sync::{Arc, Mutex};

use casemate_integration::mute;
use casemate_proto::v1;
use casemate_proto::v1::vm_service_server::{VmService, VmServiceServer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::Stream;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status};

use super::{command_to, text};

const FIRST: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const SECOND: &str = "bbbbbbbb-0000-4000-8000-000000000002";
const THIRD: &str = "cccccccc-0000-4000-8000-000000000003";

/// The generation that changes may expect.
const GENERATION: u64 = 7;

/// An idempotency key that was used for something else.
const USED_KEY: &str = "used";

fn vm(id: &str, name: &str) -> v1::Vm {
    let mut vm = v1::Vm {
        id: id.to_owned(),
        name: name.to_owned(),
        backend: "plain-kvm".to_owned(),
        generation: GENERATION,
        labels: [("team".to_owned(), "blue".to_owned())].into(),
        ..v1::Vm::default()
    };
    vm.set_state(v1::VmState::Running);
    vm
}

/// A request: who sent it, and what was in it.
#[derive(Clone, Debug)]
struct Seen {
    authorization: Option<String>,
    message: String,
}

#[derive(Clone, Debug, Default)]
struct Scripted {
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Scripted {
    fn note<Message: std::fmt::Debug>(&self, request: Request<Message>) -> Message {
        let authorization = request.metadata().get("authorization");
        let authorization = authorization.map(|value| {
            let text = value.to_str().expect("it is a text");
            text.to_owned()
        });
        let message = request.into_inner();
        self.seen
            .lock()
            .expect("no test panics with it")
            .push(Seen {
                authorization,
                message: format!("{message:?}"),
            });
        message
    }

    fn changed(&self, id: &str, expected: Option<u64>) -> Result<Option<v1::Vm>, Status> {
        match expected {
            Some(generation) if generation != GENERATION => {
                Err(Status::aborted("the VM has changed since"))
            }
            _ => Ok(Some(vm(id, "first"))),
        }
    }
}

type Answers<Message> = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

#[tonic::async_trait]
impl VmService for Scripted {
    type WatchVmsStream = Answers<v1::WatchVmsResponse>;
    type GetConsoleStream = Answers<v1::GetConsoleResponse>;

    async fn start_vm(
        &self,
        request: Request<v1::StartVmRequest>,
    ) -> Result<Response<v1::StartVmResponse>, Status> {
        let message = self.note(request);
        let vm = self.changed(&message.id, message.expected_generation)?;
        Ok(Response::new(v1::StartVmResponse { vm }))
    }

    async fn stop_vm(
        &self,
        request: Request<v1::StopVmRequest>,
    ) -> Result<Response<v1::StopVmResponse>, Status> {
        let message = self.note(request);
        let vm = self.changed(&message.id, message.expected_generation)?;
        Ok(Response::new(v1::StopVmResponse { vm }))
    }

    async fn restart_vm(
        &self,
        request: Request<v1::RestartVmRequest>,
    ) -> Result<Response<v1::RestartVmResponse>, Status> {
        let message = self.note(request);
        let vm = self.changed(&message.id, message.expected_generation)?;
        Ok(Response::new(v1::RestartVmResponse { vm }))
    }

    async fn pause_vm(
        &self,
        request: Request<v1::PauseVmRequest>,
    ) -> Result<Response<v1::PauseVmResponse>, Status> {
        let message = self.note(request);
        let vm = self.changed(&message.id, message.expected_generation)?;
        Ok(Response::new(v1::PauseVmResponse { vm }))
    }

    async fn resume_vm(
        &self,
        request: Request<v1::ResumeVmRequest>,
    ) -> Result<Response<v1::ResumeVmResponse>, Status> {
        let message = self.note(request);
        let vm = self.changed(&message.id, message.expected_generation)?;
        Ok(Response::new(v1::ResumeVmResponse { vm }))
    }

    async fn reset_vm(
        &self,
        request: Request<v1::ResetVmRequest>,
    ) -> Result<Response<v1::ResetVmResponse>, Status> {
        let message = self.note(request);
        let vm = self.changed(&message.id, message.expected_generation)?;
        Ok(Response::new(v1::ResetVmResponse { vm }))
    }

    async fn extend_ttl(
        &self,
        request: Request<v1::ExtendTtlRequest>,
    ) -> Result<Response<v1::ExtendTtlResponse>, Status> {
        let message = self.note(request);
        let vm = self.changed(&message.id, message.expected_generation)?;
        Ok(Response::new(v1::ExtendTtlResponse { vm }))
    }

    async fn remove_vm(
        &self,
        request: Request<v1::RemoveVmRequest>,
    ) -> Result<Response<v1::RemoveVmResponse>, Status> {
        let message = self.note(request);
        self.changed(&message.id, message.expected_generation)?;
        Ok(Response::new(v1::RemoveVmResponse {}))
    }

    async fn create_vm(
        &self,
        request: Request<v1::CreateVmRequest>,
    ) -> Result<Response<v1::CreateVmResponse>, Status> {
        let message = self.note(request);
        if message.idempotency_key == USED_KEY {
            return Err(Status::already_exists("the key was used for another VM"));
        }
        let answer = match message.dry_run {
            true => v1::CreateVmResponse {
                vm: None,
                plan: Some(v1::PlanVmResponse {
                    command: vec!["qemu".to_owned(), "-S".to_owned()],
                    dry_run: "prelaunch".to_owned(),
                    plan_json: "{}".to_owned(),
                    ..v1::PlanVmResponse::default()
                }),
            },
            false => {
                let mut vm = vm(FIRST, "first");
                vm.agent_address = message
                    .spec
                    .unwrap_or_default()
                    .environment
                    .remove("AGENT")
                    .unwrap_or_default();
                v1::CreateVmResponse {
                    vm: Some(vm),
                    plan: None,
                }
            }
        };
        Ok(Response::new(answer))
    }

    async fn get_vm(
        &self,
        request: Request<v1::GetVmRequest>,
    ) -> Result<Response<v1::GetVmResponse>, Status> {
        let message = self.note(request);
        let vm = Some(vm(&message.id, "first"));
        Ok(Response::new(v1::GetVmResponse { vm }))
    }

    /// Two pages; nobody without a token is let in who asks for this backend.
    async fn list_vms(
        &self,
        request: Request<v1::ListVmsRequest>,
    ) -> Result<Response<v1::ListVmsResponse>, Status> {
        let message = self.note(request);
        match message.backend.as_str() {
            "unknown-caller" => return Err(Status::unauthenticated("who are you?")),
            "no-role" => return Err(Status::permission_denied("it takes the role viewer")),
            _ => {}
        }
        let (vms, next_page_token) = match message.page_token.as_str() {
            "" => (vec![vm(FIRST, "first"), vm(SECOND, "second")], "two"),
            "two" => (vec![vm(THIRD, "third")], ""),
            other => return Err(Status::invalid_argument(other.to_owned())),
        };
        Ok(Response::new(v1::ListVmsResponse {
            vms,
            next_page_token: next_page_token.to_owned(),
        }))
    }

    /// The second VM stops, and goes; then the daemon ends. Of one VM nothing more is heard.
    async fn watch_vms(
        &self,
        request: Request<v1::WatchVmsRequest>,
    ) -> Result<Response<Self::WatchVmsStream>, Status> {
        use v1::watch_vms_response::Change;
        let only = self.note(request).id;
        if only == FIRST {
            return Ok(Response::new(Box::pin(tokio_stream::pending())));
        }
        let mut stopped = vm(SECOND, "second");
        stopped.set_state(v1::VmState::Stopped);
        let mut changes = vec![
            Change::Vm(vm(FIRST, "first")),
            Change::Vm(vm(SECOND, "second")),
            Change::Synchronized(true),
            Change::Vm(stopped),
            Change::Removed(SECOND.to_owned()),
        ];
        if only == SECOND {
            changes.remove(0);
        }
        let answers = changes.into_iter().map(|change| {
            Ok(v1::WatchVmsResponse {
                generation: GENERATION,
                change: Some(change),
            })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(
            answers.collect::<Vec<_>>(),
        ))))
    }

    async fn get_console(
        &self,
        _: Request<v1::GetConsoleRequest>,
    ) -> Result<Response<Self::GetConsoleStream>, Status> {
        let said = v1::GetConsoleResponse {
            data: b"first words\nlast \x1b[2Jwords\n\n".to_vec(),
            omitted_bytes: 0,
        };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(said)]))))
    }

    async fn get_measurement(
        &self,
        request: Request<v1::GetMeasurementRequest>,
    ) -> Result<Response<v1::GetMeasurementResponse>, Status> {
        self.note(request);
        Ok(Response::new(v1::GetMeasurementResponse {
            document: b"{\"registers\": [1]}".to_vec(),
            media_type: "application/json".to_owned(),
        }))
    }

    async fn plan_vm(
        &self,
        _: Request<v1::PlanVmRequest>,
    ) -> Result<Response<v1::PlanVmResponse>, Status> {
        Err(Status::unimplemented("no subject here"))
    }
}

/// Served for as long as this lives.
pub(super) struct Served {
    scripted: Scripted,
    pub(super) endpoint: String,
    _runtime: tokio::runtime::Runtime,
}

impl Served {
    pub(super) fn new() -> Self {
        Self::with(|router| async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("it is bound");
            tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
            format!("http://{address}")
        })
    }

    fn at_socket(path: &Path) -> Self {
        Self::with(|router| async {
            let listener = UnixListener::bind(path).expect("a socket");
            tokio::spawn(router.serve_with_incoming(UnixListenerStream::new(listener)));
            format!("unix://{}", path.display())
        })
    }

    fn with<Serving: Future<Output = String>>(serve: impl FnOnce(Router) -> Serving) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let scripted = Scripted::default();
        let service = VmServiceServer::new(scripted.clone());
        let endpoint = runtime.block_on(serve(Server::builder().add_service(service)));
        Self {
            scripted,
            endpoint,
            _runtime: runtime,
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let output = command_to(&self.endpoint, arguments).output();
        mute::ended(output.expect("casemate runs"))
    }

    /// What was sent since the last time.
    fn sent(&self) -> Vec<Seen> {
        let mut seen = self.scripted.seen.lock().expect("no test panics with it");
        std::mem::take(&mut *seen)
    }

    /// The last request of a command that goes well.
    fn last_sent(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        self.sent().pop().expect("something was sent").message
    }
}

#[test]
fn every_flag_of_a_change_is_sent() {
    let served = Served::new();
    for (arguments, parts) in [
        (
            &["start", "first", "--accept-measurement"][..],
            &["StartVmRequest", "accept_measurement: true"][..],
        ),
        (
            &["stop", "first", "--force"],
            &["StopVmRequest", "force: true", "expected_generation: None"],
        ),
        (
            &["stop", "first", "--expect-generation", "7"],
            &["StopVmRequest", "expected_generation: Some(7)"],
        ),
        (
            &["start", "first", "--expect-generation", "7"],
            &["StartVmRequest", "expected_generation: Some(7)"],
        ),
        (
            &["restart", "first", "--expect-generation", "7"],
            &["RestartVmRequest", "expected_generation: Some(7)"],
        ),
        (
            &["pause", "first", "--expect-generation", "7"],
            &["PauseVmRequest", "expected_generation: Some(7)"],
        ),
        (
            &["resume", "first", "--expect-generation", "7"],
            &["ResumeVmRequest", "expected_generation: Some(7)"],
        ),
        (
            &["reset", "first", "--expect-generation", "7"],
            &["ResetVmRequest", "expected_generation: Some(7)"],
        ),
        (
            &["remove", "first", "--expect-generation", "7"],
            &["RemoveVmRequest", "expected_generation: Some(7)"],
        ),
        (
            &["extend", "first", "--ttl", "2h", "--expect-generation", "7"],
            &[
                "ExtendTtlRequest",
                "ttl_seconds: Some(7200)",
                "expected_generation: Some(7)",
            ],
        ),
        (
            &["extend", "first", "--forever"],
            &["ExtendTtlRequest", "ttl_seconds: None"],
        ),
        // It is on the second page.
        (&["stop", "third"], &["StopVmRequest", THIRD]),
    ] {
        let sent = served.last_sent(&[&["vm"], arguments].concat());
        for part in parts {
            assert!(sent.contains(part), "{arguments:?}: {sent}");
        }
    }
    let output = served.run(&[
        "vm", "extend", "first", "second", "--ttl", "90s", "--format", "json",
    ]);
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value[1]["extended"], true, "{value}");
    assert_eq!(value[1]["vm"]["id"], SECOND, "{value}");
    let output = served.run(&["vm", "stop", "first", "--expect-generation", "8"]);
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
}

#[test]
fn every_flag_of_a_new_vm_is_sent() {
    let served = Served::new();
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "hidden").expect("a file");
    let spec = folder.path().join("spec.yaml");
    std::fs::write(&spec, "name: file\nvcpus: 3\nlabels: {a: file}\n").expect("a file");
    let (secret, spec) = (
        format!("token={}", secret.display()),
        spec.display().to_string(),
    );
    let hidden = format!("{:?}", b"hidden".as_slice());
    for (arguments, parts) in [
        (
            &["--label", "team=blue"][..],
            &["labels: {\"team\": \"blue\"}"][..],
        ),
        (
            &[
                "--kernel",
                "k",
                "--initrd",
                "i",
                "--firmware",
                "f",
                "--igvm",
                "g",
                "--disk",
                "d",
                "--disk-format",
                "raw",
            ],
            &[
                "kernel: \"k\"",
                "initrd: \"i\"",
                "firmware: \"f\"",
                "igvm: \"g\"",
                "disk: \"d\"",
                "disk_format: \"raw\"",
            ],
        ),
        (
            &["--data-disk", "data=x,format=qcow2"],
            &["id: \"data\"", "image: \"x\"", "format: \"qcow2\""],
        ),
        (&["--secret", &secret], &["secrets: {\"token\"", &hidden]),
        (
            &["--idempotency-key", "once"],
            &["idempotency_key: \"once\"", "dry_run: false"],
        ),
        (&["--dry-run"], &["dry_run: true"]),
        (
            &["--file", &spec, "--name", "flag"],
            &["name: \"flag\"", "vcpus: 3", "{\"a\": \"file\"}"],
        ),
    ] {
        let sent = served.last_sent(&[&["vm", "create"], arguments].concat());
        for part in parts {
            assert!(sent.contains(part), "{arguments:?}: {sent}");
        }
    }
    let mut stdin = command_to(&served.endpoint, &["vm", "create", "--file", "-"]);
    stdin.stdin(std::fs::File::open(&spec).expect("the file"));
    assert!(stdin.output().expect("casemate runs").status.success());
    assert!(served.sent()[0].message.contains("vcpus: 3"));

    let plan = served.run(&["vm", "create", "--dry-run"]);
    assert_eq!(text(&plan.stdout), "qemu \\\n  -S\n");
    assert!(text(&plan.stderr).contains("dry run: QEMU took the command"));
    let used = served.run(&["vm", "create", "--idempotency-key", USED_KEY]);
    assert_eq!(used.status.code(), Some(10), "{}", text(&used.stderr));
}

#[test]
fn a_list_is_chosen_by_the_daemon_and_has_all_its_pages() {
    let served = Served::new();
    let output = served.run(&[
        "vm",
        "list",
        "--name",
        "web",
        "--backend",
        "tdx",
        "--state",
        "running",
        "--state",
        "exited",
        "--label",
        "a=1",
        "--format",
        "json",
    ]);
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let ids: Vec<&Value> = value
        .as_array()
        .into_iter()
        .flatten()
        .map(|vm| &vm["id"])
        .collect();
    assert_eq!(ids, [FIRST, SECOND, THIRD]);
    let sent = served.sent();
    assert_eq!(sent.len(), 2);
    for (sent, token) in sent.iter().zip(["page_token: \"\"", "page_token: \"two\""]) {
        for part in [
            "name: \"web\"",
            "backend: \"tdx\"",
            "Running",
            "Exited",
            "{\"a\": \"1\"}",
            token,
        ] {
            assert!(sent.message.contains(part), "{sent:?}");
        }
    }
}

#[test]
fn who_calls_is_said_with_every_call() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "from-file\n").expect("a file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("ours");
    let file = file.display().to_string();
    for served in [
        Served::new(),
        Served::at_socket(&folder.path().join("socket")),
    ] {
        for (variable, arguments, expected) in [
            ("", &["vm", "list"][..], None),
            (
                "from-variable",
                &["vm", "list"],
                Some("Bearer from-variable"),
            ),
            (
                "from-variable",
                &["vm", "show", "first", "--token-file", &file],
                Some("Bearer from-file"),
            ),
            (
                "from-variable",
                &["vm", "watch"],
                Some("Bearer from-variable"),
            ),
            (
                "",
                &["vm", "stop", "first", "--token-file", &file],
                Some("Bearer from-file"),
            ),
        ] {
            let mut command = command_to(&served.endpoint, arguments);
            command
                .env("CASEMATE_TOKEN", variable)
                .output()
                .expect("casemate runs");
            let sent = served.sent();
            assert!(!sent.is_empty(), "{arguments:?} at {}", served.endpoint);
            for sent in sent {
                assert_eq!(sent.authorization.as_deref(), expected, "{arguments:?}");
            }
        }
    }
    let served = Served::new();
    for (backend, part) in [
        ("unknown-caller", "UNAUTHENTICATED"),
        ("no-role", "PERMISSION_DENIED"),
    ] {
        let output = served.run(&["vm", "list", "--backend", backend]);
        assert_eq!(output.status.code(), Some(9), "{}", text(&output.stderr));
        assert!(
            text(&output.stderr).contains(part),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn a_watched_list_prints_changes_where_nothing_is_drawn() {
    let served = Served::new();
    let events = |arguments: &[&str]| -> Vec<String> {
        let output = served.run(&[arguments, &["--format", "json"]].concat());
        text(&output.stdout)
            .lines()
            .map(|line| {
                let value: Value = serde_json::from_str(line).expect("an object on each line");
                match (&value["vm"], &value["removed"]) {
                    (Value::Null, Value::Null) => "synchronized".to_owned(),
                    (Value::Null, removed) => {
                        format!("removed {}", &removed.as_str().unwrap_or_default()[..2])
                    }
                    (vm, _) => format!("{} {}", vm["name"], vm["state"]).replace('"', ""),
                }
            })
            .collect()
    };
    assert_eq!(
        events(&["vm", "list", "--watch"]),
        [
            "first running",
            "second running",
            "synchronized",
            "second stopped",
            "removed bb"
        ]
    );
    assert_eq!(
        events(&["vm", "list", "--watch", "--state", "running"]),
        [
            "first running",
            "second running",
            "synchronized",
            "second stopped"
        ]
    );
    assert_eq!(
        events(&["vm", "show", "second", "--watch"])
            .last()
            .map(String::as_str),
        Some("removed bb")
    );
    let lines = text(
        &served
            .run(&["vm", "list", "--watch", "--name", "second"])
            .stdout,
    );
    assert!(
        lines.starts_with("TIME ") && !lines.contains("first"),
        "{lines}"
    );
    let documents = text(
        &served
            .run(&["vm", "list", "--watch", "--format", "yaml"])
            .stdout,
    );
    assert_eq!(documents.matches("---\n").count(), 5, "{documents}");
}

#[test]
fn yaml_has_the_values_of_json() {
    let served = Served::new();
    let yaml = text(
        &served
            .run(&["vm", "show", "first", "--format", "yaml"])
            .stdout,
    );
    for line in [
        "state: running",
        "labels:\n  team: blue",
        "last_exit: null",
        "findings: []",
    ] {
        assert!(yaml.contains(line), "{yaml}");
    }
    let measured = served.run(&["vm", "measurement", "first", "--format", "yaml"]);
    assert_eq!(text(&measured.stdout), "registers:\n- 1\n");
    let json = served.run(&["vm", "measurement", "first", "--format", "json"]);
    assert_eq!(
        serde_json::from_slice::<Value>(&json.stdout).expect("JSON"),
        json!({"registers": [1]})
    );
}
