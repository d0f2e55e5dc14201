//! The table. Each case has a VM of its own for each interface, in the state that it wants.

use casemate_catalogue::ErrorId;
use casemate_integration::daemon::{Daemon, Verb};
use casemate_proto::v1;
use serde_json::{Value, json};

use super::both::{Call, Outcome, alike, over_grpc, over_http};

/// What the VM of a case is, before the call.
#[derive(Clone, Copy, Debug)]
enum Before {
    NoVm,
    Running,
    Paused,
    Stopped,
}

/// What is to come of it.
#[derive(Clone, Debug)]
enum Wanted {
    /// An answer that has these members.
    Answer(Value),
    Refused(ErrorId),
}

struct Case {
    name: &'static str,
    before: Before,
    call: Call,
    wanted: Wanted,
}

const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

fn cases() -> Vec<Case> {
    use Before::{NoVm, Paused, Running, Stopped};
    let done = |name, before, call, answer: Value| Case {
        name,
        before,
        call,
        wanted: Wanted::Answer(answer),
    };
    let refused = |name, before, call, id| Case {
        name,
        before,
        call,
        wanted: Wanted::Refused(id),
    };
    let create = |name, spec: Value, answer| done(name, NoVm, Call::Create(spec), answer);
    let no_vm = |name, spec: Value, id| refused(name, NoVm, Call::Create(spec), id);
    let long = |length: usize| "a".repeat(length);
    let many = |count: usize| -> serde_json::Map<String, Value> {
        (0..count).map(|n| (format!("K{n}"), json!("v"))).collect()
    };
    vec![
        // Creating.
        create(
            "nothing",
            json!({}),
            json!({"state": "running", "backend": "plain-kvm", "confidential": false, "name": "", "labels": {}, "created_by": ""}),
        ),
        create(
            "a name",
            json!({"name": "web-1.a_b"}),
            json!({"name": "web-1.a_b"}),
        ),
        create(
            "the longest name",
            json!({"name": long(63)}),
            json!({"name": long(63)}),
        ),
        create(
            "a backend",
            json!({"backend": "plain-kvm"}),
            json!({"backend": "plain-kvm"}),
        ),
        create(
            "vCPUs and memory",
            json!({"vcpus": 3, "memory_bytes": 384 << 20}),
            json!({"vcpus": 3, "memory_bytes": 384 << 20}),
        ),
        create(
            "machine and CPU",
            json!({"machine": "q35", "cpu": "max"}),
            json!({"machine": "pc-q35-10.0", "cpu": "max"}),
        ),
        create(
            "a boot by name",
            json!({"boot": "kernel"}),
            json!({"state": "running"}),
        ),
        create(
            "a command line",
            json!({"kernel_cmdline": "quiet a=b"}),
            json!({"kernel_cmdline": "quiet a=b"}),
        ),
        create(
            "an empty command line",
            json!({"kernel_cmdline": ""}),
            json!({"kernel_cmdline": ""}),
        ),
        create(
            "an environment",
            json!({"environment": {"A_1": "x=y z", "_B": ""}}),
            json!({"state": "running"}),
        ),
        create(
            "certificates",
            json!({"certificates": {"client_certificate": "YQ==", "client_key": "Yg==", "server_ca": "Yw=="}}),
            json!({"state": "running"}),
        ),
        create(
            "a setting of this VM",
            json!({"settings": {"firmware": "none"}}),
            json!({"state": "running"}),
        ),
        create(
            "a time to live",
            json!({"ttl_seconds": 3600}),
            json!({"expires_at": "(own)"}),
        ),
        create(
            "a restart policy",
            json!({"restart_policy": "on-failure"}),
            json!({"restart_policy": "on-failure", "restarts": 0}),
        ),
        create(
            "labels",
            json!({"labels": {"team/a": "b c", "e": ""}}),
            json!({"labels": {"team/a": "b c", "e": ""}}),
        ),
        no_vm(
            "a name with a blank",
            json!({"name": "a b"}),
            ErrorId::RequestField,
        ),
        no_vm(
            "a name that is too long",
            json!({"name": long(64)}),
            ErrorId::RequestField,
        ),
        no_vm(
            "a name with a line break",
            json!({"name": "a\n"}),
            ErrorId::RequestField,
        ),
        no_vm(
            "no such backend",
            json!({"backend": "nobody"}),
            ErrorId::BackendUnknown,
        ),
        no_vm(
            "a backend with a control character",
            json!({"backend": "a\u{7}"}),
            ErrorId::RequestField,
        ),
        no_vm(
            "memory that is no MiB",
            json!({"memory_bytes": 1_000_000}),
            ErrorId::RequestField,
        ),
        no_vm(
            "more memory than any machine has",
            json!({"memory_bytes": (1_u64 << 46) + (1 << 20)}),
            ErrorId::RequestField,
        ),
        no_vm(
            "more memory than this host has",
            json!({"memory_bytes": 1_u64 << 46}),
            ErrorId::MemoryExhausted,
        ),
        no_vm(
            "a machine with a line break",
            json!({"machine": "q35\nx"}),
            ErrorId::RequestField,
        ),
        no_vm(
            "no such machine",
            json!({"machine": "no-such-machine"}),
            ErrorId::BackendRefusedRequest,
        ),
        no_vm(
            "a command line that is too long",
            json!({"kernel_cmdline": long(4097)}),
            ErrorId::KernelCmdline,
        ),
        no_vm(
            "a command line with a line break",
            json!({"kernel_cmdline": "a\nb"}),
            ErrorId::KernelCmdline,
        ),
        no_vm(
            "a variable that is no name",
            json!({"environment": {"1A": "x"}}),
            ErrorId::RequestEnvironment,
        ),
        no_vm(
            "a variable that is the daemon's",
            json!({"environment": {"AGENT_CVM_ID": "x"}}),
            ErrorId::RequestEnvironment,
        ),
        no_vm(
            "a variable with a line break",
            json!({"environment": {"A": "x\nB=1"}}),
            ErrorId::RequestEnvironment,
        ),
        no_vm(
            "a variable with a NUL",
            json!({"environment": {"A": "\0"}}),
            ErrorId::RequestEnvironment,
        ),
        no_vm(
            "a variable that is too long",
            json!({"environment": {"A": long(65_537)}}),
            ErrorId::RequestEnvironment,
        ),
        no_vm(
            "too many variables",
            json!({"environment": many(257)}),
            ErrorId::RequestEnvironment,
        ),
        no_vm(
            "a setting that nobody knows",
            json!({"settings": {"no-such": "x"}}),
            ErrorId::SettingUnknown,
        ),
        no_vm(
            "no time to live",
            json!({"ttl_seconds": 0}),
            ErrorId::RequestTtl,
        ),
        no_vm(
            "an endless time to live",
            json!({"ttl_seconds": 316_224_001}),
            ErrorId::RequestTtl,
        ),
        no_vm(
            "a label without a key",
            json!({"labels": {"": "x"}}),
            ErrorId::RequestField,
        ),
        no_vm(
            "a label's key with a blank",
            json!({"labels": {"a b": "x"}}),
            ErrorId::RequestField,
        ),
        no_vm(
            "a label's value with a line break",
            json!({"labels": {"a": "x\ny"}}),
            ErrorId::RequestField,
        ),
        no_vm(
            "a label's value that is too long",
            json!({"labels": {"a": long(256)}}),
            ErrorId::RequestField,
        ),
        no_vm(
            "too many labels",
            json!({"labels": many(65)}),
            ErrorId::RequestField,
        ),
        no_vm(
            "an identity of no algorithm",
            json!({"identity": {"algorithm": "md5", "digest": "AAAA"}}),
            ErrorId::RequestField,
        ),
        no_vm(
            "an identity that is too short",
            json!({"identity": {"algorithm": "sha-256", "digest": "AAAA"}}),
            ErrorId::RequestField,
        ),
        no_vm(
            "an identity that nobody can verify",
            json!({"identity": {"algorithm": "raw", "digest": "AAAA"}}),
            ErrorId::BackendRefusedRequest,
        ),
        no_vm(
            "a confidential VM of a backend that has none",
            json!({"require_confidential": true}),
            ErrorId::NotConfidential,
        ),
        no_vm(
            "a disk where there is none",
            json!({"boot": "disk"}),
            ErrorId::QemuLacks,
        ),
        // Planning.
        done(
            "a plan",
            NoVm,
            Call::Plan(json!({"vcpus": 2})),
            json!({"backend": "plain-kvm", "tee": "none", "confidential": false, "dry_run": ""}),
        ),
        done(
            "a dry run",
            NoVm,
            Call::DryCreate(json!({})),
            json!({"dry_run": "prelaunch"}),
        ),
        refused(
            "a plan of a bad request",
            NoVm,
            Call::Plan(json!({"name": "a b"})),
            ErrorId::RequestField,
        ),
        refused(
            "a dry run of a bad request",
            NoVm,
            Call::DryCreate(json!({"ttl_seconds": 0})),
            ErrorId::RequestTtl,
        ),
        // Looking.
        done(
            "a VM",
            Running,
            Call::Get("VM"),
            json!({"id": "(own)", "state": "running"}),
        ),
        refused("nobody", NoVm, Call::Get(NOBODY), ErrorId::NoSuchVm),
        refused("what is no id", NoVm, Call::Get("no-id"), ErrorId::NoSuchVm),
        refused(
            "an id in another form",
            NoVm,
            Call::Get("00000000000040008000000000000000"),
            ErrorId::NoSuchVm,
        ),
        done(
            "none of a name",
            Running,
            Call::List("name=nobody-has-this"),
            json!({"vms": [], "next_page_token": ""}),
        ),
        done(
            "none of a state",
            Running,
            Call::List("state=lost"),
            json!({"vms": []}),
        ),
        refused(
            "a page that is too large",
            NoVm,
            Call::List("page_size=1001"),
            ErrorId::RequestField,
        ),
        refused(
            "a page of nowhere",
            NoVm,
            Call::List("page_token=x"),
            ErrorId::RequestField,
        ),
        done(
            "a console",
            Running,
            Call::Console("VM", "tail_bytes=0&previous=0"),
            json!("fake console of VM\n"),
        ),
        refused(
            "nobody's console",
            NoVm,
            Call::Console(NOBODY, ""),
            ErrorId::NoSuchVm,
        ),
        refused(
            "a measurement where nothing is measured",
            Running,
            Call::Measurement("VM", "json"),
            ErrorId::NoMeasurement,
        ),
        refused(
            "nobody's measurement",
            NoVm,
            Call::Measurement(NOBODY, "corim"),
            ErrorId::NoSuchVm,
        ),
        done(
            "a watch of one VM",
            Running,
            Call::Watch("VM"),
            json!({"state": "running"}),
        ),
        refused(
            "a watch of nobody",
            NoVm,
            Call::Watch(NOBODY),
            ErrorId::NoSuchVm,
        ),
        done("backends", NoVm, Call::Backends, json!({})),
        done(
            "a backend",
            NoVm,
            Call::Backend("plain-kvm"),
            json!({"name": "plain-kvm", "status": "in-service", "protection": "none"}),
        ),
        refused(
            "no such backend to look at",
            NoVm,
            Call::Backend("nobody"),
            ErrorId::NoSuchBackend,
        ),
        done(
            "the host",
            NoVm,
            Call::CheckHost("plain-kvm"),
            json!({"usable": true}),
        ),
        refused(
            "the host for nobody",
            NoVm,
            Call::CheckHost("nobody"),
            ErrorId::NoSuchBackend,
        ),
        done("the config", NoVm, Call::Config, json!({})),
        // Changing.
        done(
            "a stop",
            Running,
            Call::Act("stop", "VM", ""),
            json!({"state": "stopped"}),
        ),
        done(
            "a stop by force",
            Running,
            Call::Act("stop", "VM", "force=true"),
            json!({"state": "stopped"}),
        ),
        done(
            "a stop of what is stopped",
            Stopped,
            Call::Act("stop", "VM", ""),
            json!({"state": "stopped"}),
        ),
        done(
            "a start",
            Stopped,
            Call::Act("start", "VM", ""),
            json!({"state": "running"}),
        ),
        done(
            "a start that accepts",
            Stopped,
            Call::Act("start", "VM", "accept_measurement=true"),
            json!({"state": "running"}),
        ),
        done(
            "a start of what runs",
            Running,
            Call::Act("start", "VM", ""),
            json!({"state": "running"}),
        ),
        done(
            "a restart",
            Running,
            Call::Act("restart", "VM", "force=true"),
            json!({"state": "running"}),
        ),
        done(
            "a pause",
            Running,
            Call::Act("pause", "VM", ""),
            json!({"state": "paused"}),
        ),
        done(
            "a resume",
            Paused,
            Call::Act("resume", "VM", ""),
            json!({"state": "running"}),
        ),
        done(
            "a reset",
            Running,
            Call::Act("reset", "VM", ""),
            json!({"state": "running"}),
        ),
        refused(
            "a start of what is paused",
            Paused,
            Call::Act("start", "VM", ""),
            ErrorId::NotNow,
        ),
        refused(
            "a pause of what is stopped",
            Stopped,
            Call::Act("pause", "VM", ""),
            ErrorId::NotNow,
        ),
        refused(
            "a reset of what is stopped",
            Stopped,
            Call::Act("reset", "VM", ""),
            ErrorId::NotNow,
        ),
        refused(
            "a start of nobody",
            NoVm,
            Call::Act("start", NOBODY, ""),
            ErrorId::NoSuchVm,
        ),
        refused(
            "a stop of what is no id",
            NoVm,
            Call::Act("stop", "x", ""),
            ErrorId::NoSuchVm,
        ),
        done(
            "another end",
            Running,
            Call::Ttl("VM", Some(7200)),
            json!({"expires_at": "(own)"}),
        ),
        done(
            "no end",
            Running,
            Call::Ttl("VM", None),
            json!({"expires_at": ""}),
        ),
        done(
            "an end of what is stopped",
            Stopped,
            Call::Ttl("VM", Some(60)),
            json!({"expires_at": "(own)"}),
        ),
        refused(
            "an end that is none",
            Running,
            Call::Ttl("VM", Some(0)),
            ErrorId::RequestTtl,
        ),
        refused(
            "an end of nobody",
            NoVm,
            Call::Ttl(NOBODY, Some(60)),
            ErrorId::NoSuchVm,
        ),
        done("a removal", Running, Call::Remove("VM"), json!(null)),
        refused(
            "a removal of nobody",
            NoVm,
            Call::Remove(NOBODY),
            ErrorId::NoSuchVm,
        ),
        // With a condition that does not hold.
        refused(
            "a start if",
            Stopped,
            Call::ActIf("start", 1),
            ErrorId::GenerationChanged,
        ),
        refused(
            "a stop if",
            Running,
            Call::ActIf("stop", 1),
            ErrorId::GenerationChanged,
        ),
        refused(
            "a restart if",
            Running,
            Call::ActIf("restart", 1),
            ErrorId::GenerationChanged,
        ),
        refused(
            "a pause if",
            Running,
            Call::ActIf("pause", 1),
            ErrorId::GenerationChanged,
        ),
        refused(
            "a resume if",
            Paused,
            Call::ActIf("resume", 1),
            ErrorId::GenerationChanged,
        ),
        refused(
            "a reset if",
            Running,
            Call::ActIf("reset", 1),
            ErrorId::GenerationChanged,
        ),
        refused(
            "a removal if",
            Running,
            Call::ActIf("remove", 1),
            ErrorId::GenerationChanged,
        ),
    ]
}

/// The VM of a case; its id is empty where there is none.
async fn vm(daemon: &Daemon, before: Before) -> String {
    if matches!(before, Before::NoVm) {
        return String::new();
    }
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    match before {
        Before::NoVm | Before::Running => {}
        Before::Paused => drop(daemon.act(Verb::Pause, &vm.id).await.expect("it is paused")),
        Before::Stopped => drop(
            daemon
                .act(Verb::ForceStop, &vm.id)
                .await
                .expect("it is down"),
        ),
    }
    vm.id
}

/// Whether `answer` has all that `wanted` has.
fn has(answer: &Value, wanted: &Value) -> bool {
    match (answer, wanted) {
        (Value::Object(answer), Value::Object(wanted)) => wanted
            .iter()
            .all(|(name, value)| answer.get(name).is_some_and(|found| has(found, value))),
        _ => answer == wanted,
    }
}

/// What is wrong with an outcome.
fn judge(case: &Case, way: &str, outcome: &Outcome) -> Option<String> {
    let Case { name, wanted, .. } = case;
    let is_right = match (outcome, wanted) {
        (Ok(answer), Wanted::Answer(wanted)) => has(answer, wanted),
        (Err(told), Wanted::Refused(id)) => told.id == id.as_str(),
        _ => false,
    };
    (!is_right).then(|| format!("{name}, {way}: {outcome:#?}\nwanted {wanted:?}"))
}

#[tokio::test]
async fn the_same_call_has_the_same_outcome_through_grpc_and_http() {
    let cases = cases();
    assert!(cases.len() >= 60, "{}", cases.len());
    let daemon = super::daemon();
    let mut wrong = Vec::new();
    for case in &cases {
        let (one, other) = (
            vm(&daemon, case.before).await,
            vm(&daemon, case.before).await,
        );
        let grpc = over_grpc(&daemon, &case.call, &one).await;
        let http = over_http(&daemon, &case.call, &other).await;
        let grpc = grpc.map(|answer| alike(&answer, &one));
        let http = http.map(|answer| alike(&answer, &other));
        wrong.extend(judge(case, "gRPC", &grpc));
        wrong.extend(judge(case, "HTTP", &http));
        // A message names the VM.
        let (grpc, http) = (as_text(&grpc, &one), as_text(&http, &other));
        if grpc != http {
            wrong.push(format!("{}: gRPC: {grpc}\nHTTP: {http}", case.name));
        }
        // What is still there is in nobody's way, and counts for memory.
        for vm in daemon.list().await {
            let removed = daemon.remove(&vm.id).await;
            removed.unwrap_or_else(|status| panic!("{}: {status}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn as_text(outcome: &Outcome, id: &str) -> String {
    let text = match outcome {
        Ok(answer) => format!("{answer:#}"),
        Err(told) => format!("{told:#?}"),
    };
    let text = if id.is_empty() {
        text
    } else {
        text.replace(id, "VM")
    };
    // Generations differ from VM to VM.
    let mut words = Vec::new();
    for word in text.split_inclusive(' ') {
        let is_number = word
            .trim_end_matches([' ', ','])
            .bytes()
            .all(|b| b.is_ascii_digit());
        words.push(if is_number { "N " } else { word });
    }
    words.concat()
}
