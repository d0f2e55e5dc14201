//! One call, two ways. Answers are compared as JSON, errors by their id, words, remedy and field.

use casemate_catalogue::ErrorId;
use casemate_integration::daemon::Daemon;
use casemate_integration::http::{Answer, Request};
use casemate_proto::v1;
use serde::Serialize;
use serde_json::{Value, json};
use tonic::Status;
use tonic_types::StatusExt as _;

/// A call, with `VM` where the id of its VM is to stand.
#[derive(Clone, Debug)]
pub(super) enum Call {
    /// A `VmSpec` as JSON.
    Create(Value),
    DryCreate(Value),
    Plan(Value),
    Get(&'static str),
    /// A query of `/v1/vms`.
    List(&'static str),
    /// Action, id, query.
    Act(&'static str, &'static str, &'static str),
    /// The same with an expected generation.
    ActIf(&'static str, u64),
    Remove(&'static str),
    /// Seconds; none: for ever.
    Ttl(&'static str, Option<u32>),
    Measurement(&'static str, &'static str),
    Console(&'static str, &'static str),
    Watch(&'static str),
    Backends,
    Backend(&'static str),
    CheckHost(&'static str),
    Reload,
    Config,
}

/// What came of a call.
pub(super) type Outcome = Result<Value, Told>;

/// An error, as both interfaces tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) id: String,
    what: String,
    remedy: String,
    subject: Option<String>,
    field: Option<String>,
    qemu: Option<String>,
}

impl Told {
    fn of_status(status: &Status) -> Self {
        let info = status.get_details_error_info().expect("an ErrorInfo");
        let entry = ErrorId::from_reason(&info.reason).expect("an id of the catalogue");
        assert_eq!(
            Some(status.code() as i32),
            entry.entry().grpc().map(|code| code.number()),
            "{status}"
        );
        let violations = status.get_details_bad_request();
        let field =
            violations.and_then(|request| Some(request.field_violations.first()?.field.clone()));
        let message = status.message();
        let before = message.split("\nremedy: ").next().unwrap_or_default();
        let (what, qemu) = match before.split_once("\nQEMU said:\n") {
            Some((what, qemu)) => (what, Some(qemu.to_owned())),
            None => (before, None),
        };
        Self {
            id: entry.as_str().to_owned(),
            what: what.to_owned(),
            remedy: info.metadata["remedy"].clone(),
            subject: info.metadata.get("subject").cloned(),
            field,
            qemu,
        }
    }

    fn of_answer(answer: &Answer) -> Self {
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{}",
            answer.text()
        );
        let problem = answer.json();
        let text = |member: &str| problem[member].as_str().map(str::to_owned);
        let id = answer.problem();
        let entry = ErrorId::ALL.iter().find(|known| known.as_str() == id);
        let entry = entry.expect("an id of the catalogue").entry();
        assert_eq!(Some(answer.status), entry.http_status(), "{problem}");
        assert_eq!(problem["status"], answer.status);
        assert_eq!(problem["title"], entry.cause);
        Self {
            id,
            what: text("detail").expect("a detail"),
            remedy: text("remedy").expect("a remedy"),
            subject: text("subject"),
            field: text("field"),
            qemu: text("qemu_stderr"),
        }
    }
}

/// What differs between two VMs that were asked for alike.
const OWN: [&str; 8] = [
    "id",
    "created_at",
    "expires_at",
    "started_at",
    "agent_address",
    "pid",
    "generation",
    "at",
];

/// `value` without what is one VM's own.
pub(super) fn alike(value: &Value, id: &str) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().map(|(name, value)| {
                let is_own = OWN.contains(&name.as_str()) && !value.is_null() && *value != "";
                let value = if is_own {
                    json!("(own)")
                } else {
                    alike(value, id)
                };
                (name.clone(), value)
            });
            Value::Object(kept.collect())
        }
        Value::Array(items) => items.iter().map(|item| alike(item, id)).collect(),
        Value::String(text) if !id.is_empty() => text.replace(id, "VM").into(),
        other => other.clone(),
    }
}

fn put(text: &str, id: &str) -> String {
    text.replace("VM", id)
}

fn spec_of(json: &Value) -> v1::VmSpec {
    serde_json::from_value(json.clone()).expect("a VmSpec")
}

fn shown(message: &impl Serialize) -> Value {
    serde_json::to_value(message).expect("JSON")
}

/// A query's parameters.
fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').expect("name=value"))
}

fn list_request(query: &str) -> v1::ListVmsRequest {
    let mut request = v1::ListVmsRequest::default();
    for (name, value) in pairs(query) {
        match name {
            "name" => request.name = value.to_owned(),
            "backend" => request.backend = value.to_owned(),
            "page_size" => request.page_size = value.parse().expect("a number"),
            "page_token" => request.page_token = value.to_owned(),
            "state" => {
                let name = format!("VM_STATE_{}", value.to_uppercase());
                let state = v1::VmState::from_str_name(&name).expect("a state");
                request.states.push(state.into());
            }
            "label" => {
                let (key, value) = value.split_once("%3D").expect("KEY=VALUE");
                request.labels.insert(key.to_owned(), value.to_owned());
            }
            other => panic!("{other}"),
        }
    }
    request
}

pub(super) async fn over_grpc(daemon: &Daemon, call: &Call, id: &str) -> Outcome {
    let outcome = grpc(daemon, call, id).await;
    outcome.map_err(|status| Told::of_status(&status))
}

async fn grpc(daemon: &Daemon, call: &Call, vm: &str) -> Result<Value, Status> {
    let (mut vms, mut backends) = (daemon.vms().await, daemon.backends().await);
    let some_vm = |vm: Option<v1::Vm>| vm.as_ref().map_or(Value::Null, shown);
    Ok(match call {
        Call::Create(spec) | Call::DryCreate(spec) => {
            let request = v1::CreateVmRequest {
                spec: Some(spec_of(spec)),
                dry_run: matches!(call, Call::DryCreate(_)),
                ..Default::default()
            };
            let created = vms.create_vm(request).await?.into_inner();
            match created.plan {
                Some(plan) => shown(&plan),
                None => some_vm(created.vm),
            }
        }
        Call::Plan(spec) => {
            let request = v1::PlanVmRequest {
                spec: Some(spec_of(spec)),
                dry_run: false,
            };
            shown(&vms.plan_vm(request).await?.into_inner())
        }
        Call::Get(id) => {
            let request = v1::GetVmRequest { id: put(id, vm) };
            some_vm(vms.get_vm(request).await?.into_inner().vm)
        }
        Call::List(query) => shown(&vms.list_vms(list_request(query)).await?.into_inner()),
        Call::Act(action, id, query) => {
            let is_set =
                |wanted: &str| pairs(query).any(|(name, value)| name == wanted && value == "true");
            act(
                &mut vms,
                action,
                put(id, vm),
                is_set("force"),
                is_set("accept_measurement"),
                None,
            )
            .await?
        }
        Call::ActIf(action, generation) => {
            act(
                &mut vms,
                action,
                vm.to_owned(),
                false,
                false,
                Some(*generation),
            )
            .await?
        }
        Call::Remove(id) => {
            let request = v1::RemoveVmRequest {
                id: put(id, vm),
                ..Default::default()
            };
            vms.remove_vm(request).await?;
            Value::Null
        }
        Call::Ttl(id, ttl_seconds) => {
            let request = v1::ExtendTtlRequest {
                id: put(id, vm),
                ttl_seconds: *ttl_seconds,
                expected_generation: None,
            };
            some_vm(vms.extend_ttl(request).await?.into_inner().vm)
        }
        Call::Measurement(id, format) => {
            let name = format!("MEASUREMENT_FORMAT_{}", format.to_uppercase());
            let format = v1::MeasurementFormat::from_str_name(&name).expect("a format");
            let request = v1::GetMeasurementRequest {
                id: put(id, vm),
                format: format.into(),
            };
            let measured = vms.get_measurement(request).await?.into_inner();
            json!({"media_type": measured.media_type, "document": measured.document})
        }
        Call::Console(id, query) => {
            let number = |wanted: &str| {
                let found = pairs(query).find(|(name, _)| *name == wanted);
                found.map_or(0, |(_, value)| value.parse().expect("a number"))
            };
            let request = v1::GetConsoleRequest {
                id: put(id, vm),
                tail_bytes: number("tail_bytes"),
                previous: u32::try_from(number("previous")).expect("small"),
                follow: false,
            };
            let mut stream = vms.get_console(request).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(piece) = stream.message().await? {
                bytes.extend(piece.data);
            }
            json!(String::from_utf8_lossy(&bytes))
        }
        Call::Watch(id) => {
            let request = v1::WatchVmsRequest { id: put(id, vm) };
            let mut stream = vms.watch_vms(request).await?.into_inner();
            let first = stream.message().await?.expect("a change");
            match first.change {
                Some(v1::watch_vms_response::Change::Vm(vm)) => shown(&vm),
                other => panic!("{other:?}"),
            }
        }
        Call::Backends => shown(
            &backends
                .list_backends(v1::ListBackendsRequest {})
                .await?
                .into_inner(),
        ),
        Call::Backend(name) => {
            let request = v1::GetBackendRequest {
                name: (*name).to_owned(),
            };
            let found = backends.get_backend(request).await?.into_inner();
            shown(&found.backend.expect("a backend"))
        }
        Call::CheckHost(name) => {
            let request = v1::CheckHostRequest {
                backend: (*name).to_owned(),
            };
            shown(&backends.check_host(request).await?.into_inner())
        }
        Call::Reload => shown(
            &backends
                .reload_backends(v1::ReloadBackendsRequest {})
                .await?
                .into_inner(),
        ),
        Call::Config => {
            let mut config =
                v1::config_service_client::ConfigServiceClient::new(daemon.channel().await);
            shown(
                &config
                    .explain_config(v1::ExplainConfigRequest {})
                    .await?
                    .into_inner(),
            )
        }
    })
}

async fn act(
    vms: &mut v1::vm_service_client::VmServiceClient<tonic::transport::Channel>,
    action: &str,
    id: String,
    force: bool,
    accept_measurement: bool,
    expected_generation: Option<u64>,
) -> Result<Value, Status> {
    let vm = match action {
        "start" => {
            let request = v1::StartVmRequest {
                id,
                accept_measurement,
                expected_generation,
            };
            vms.start_vm(request).await?.into_inner().vm
        }
        "stop" => {
            let request = v1::StopVmRequest {
                id,
                force,
                expected_generation,
            };
            vms.stop_vm(request).await?.into_inner().vm
        }
        "restart" => {
            let request = v1::RestartVmRequest {
                id,
                force,
                accept_measurement,
                expected_generation,
            };
            vms.restart_vm(request).await?.into_inner().vm
        }
        "pause" => {
            let request = v1::PauseVmRequest {
                id,
                expected_generation,
            };
            vms.pause_vm(request).await?.into_inner().vm
        }
        "resume" => {
            let request = v1::ResumeVmRequest {
                id,
                expected_generation,
            };
            vms.resume_vm(request).await?.into_inner().vm
        }
        "reset" => {
            let request = v1::ResetVmRequest {
                id,
                expected_generation,
            };
            vms.reset_vm(request).await?.into_inner().vm
        }
        "remove" => {
            let request = v1::RemoveVmRequest {
                id,
                expected_generation,
            };
            vms.remove_vm(request).await?;
            None
        }
        other => panic!("{other}"),
    };
    Ok(vm.as_ref().map_or(Value::Null, shown))
}

fn request_of(call: &Call, vm: &str) -> Request {
    let of_vm = |id: &str, rest: &str| format!("/v1/vms/{}{rest}", put(id, vm));
    match call {
        Call::Create(spec) => Request::post("/v1/vms", &json!({"spec": spec})),
        Call::DryCreate(spec) => Request::post("/v1/vms", &json!({"spec": spec, "dry_run": true})),
        Call::Plan(spec) => Request::post("/v1/plan", &json!({"spec": spec})),
        Call::Get(id) => Request::get(&of_vm(id, "")),
        Call::List(query) => Request::get(&format!("/v1/vms?{query}")),
        Call::Act(action, id, query) => {
            Request::new("POST", &of_vm(id, &format!("/{action}?{query}")))
        }
        Call::ActIf(action, generation) => {
            let request = match *action {
                "remove" => Request::new("DELETE", &of_vm("VM", "")),
                action => Request::new("POST", &of_vm("VM", &format!("/{action}"))),
            };
            request.header("If-Match", &format!("\"{generation}\""))
        }
        Call::Remove(id) => Request::new("DELETE", &of_vm(id, "")),
        Call::Ttl(id, Some(seconds)) => {
            let body = json!({"ttl_seconds": seconds}).to_string();
            Request::new("PUT", &of_vm(id, "/ttl")).json(&body)
        }
        Call::Ttl(id, None) => Request::new("DELETE", &of_vm(id, "/ttl")),
        Call::Measurement(id, format) => {
            Request::get(&of_vm(id, &format!("/measurement?format={format}")))
        }
        Call::Console(id, query) => Request::get(&of_vm(id, &format!("/console?{query}"))),
        Call::Watch("") => Request::get("/v1/events"),
        Call::Watch(id) => Request::get(&format!("/v1/events?vm={}", put(id, vm))),
        Call::Backends => Request::get("/v1/backends"),
        Call::Backend(name) => Request::get(&format!("/v1/backends/{name}")),
        Call::CheckHost("") => Request::get("/v1/host/check"),
        Call::CheckHost(name) => Request::get(&format!("/v1/host/check?backend={name}")),
        Call::Reload => Request::new("POST", "/v1/host/reload"),
        Call::Config => Request::get("/v1/config"),
    }
}

pub(super) async fn over_http(daemon: &Daemon, call: &Call, id: &str) -> Outcome {
    let answer = request_of(call, id).send(daemon.http).await;
    let answer = answer.expect("an answer");
    if !(200..300).contains(&answer.status) {
        return Err(Told::of_answer(&answer));
    }
    Ok(match call {
        Call::Measurement(..) => json!({
            "media_type": answer.header("content-type"),
            "document": answer.body,
        }),
        Call::Console(..) => json!(answer.text()),
        Call::Watch(_) => {
            // Its first event.
            let text = answer.text();
            let data = text.lines().find_map(|line| line.strip_prefix("data: "));
            serde_json::from_str(data.expect("data")).expect("JSON")
        }
        _ if answer.status == 204 => Value::Null,
        _ => answer.json(),
    })
}
