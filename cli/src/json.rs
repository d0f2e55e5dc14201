//! The answers as JSON, for programs. Field names are those of the API (`casemate.v1`) and stay.
//!
//! | command | value |
//! |---|---|
//! | `vm create`, `vm show` | a VM |
//! | `vm list` | an array of VMs, in order of creation |
//! | `vm start` | an array of `{wanted, id, started, vm, error}`, in the order asked; `vm` as it is then |
//! | `vm stop`, `restart`, `pause`, `resume`, `reset` | the same with `stopped`, `restarted`, `paused`, `resumed`, `reset` |
//! | `vm remove` | an array of `{wanted, id, removed, error}`, in the order asked |
//! | `vm watch` | an object on each line: `{time, generation}` and one of `vm`, `removed` (an ID), `synchronized` (true: what follows are changes) |
//! | `backend list` | an array of backends, without `findings` |
//! | `backend show` | a backend |
//! | `doctor` | `{usable, host_findings, backends}`; a backend is `{name, tee, protection, status, error, usable, findings}` |
//! | `config explain` | an array of `{key, value, source, notes}`, all texts |
//! | `plan` | `{backend, tee, confidential, command, standalone_script, findings, plan, identity, dry_run}`; `dry_run` is `prelaunch` after `--dry-run` |
//!
//! An error goes to standard error as `{"error": {id, message, code, stage, subject, remedy}}`, with
//! `qemu_stderr` where QEMU said anything; `docs/errors.md` has the ids. `error` in an array is
//! null, or such an object; the error after such an array has the id and exit code of the worst.
//!
//! A VM: `id`, `name`, `state` (`creating`, `starting`, `running`, `paused`, `stopping`, `stopped`,
//! `exited`, `failed`, `unresponsive`, `removing`, `lost`, `unspecified`), `detail`, `backend`,
//! `tee`, `confidential`, `vcpus`, `memory_bytes`, `machine`, `cpu`, `kernel_cmdline`,
//! `agent_address`, `created_at`, `expires_at`, `backend_sha256`, `qemu_version`, `pid`,
//! `generation`, `findings`, `restart_policy` (`never`, `on-failure`, `always`), `restarts`,
//! `started_at`, `last_exit`, `identity`. Texts that do not apply are empty, never absent. Sizes are bytes and
//! times are RFC 3339. `last_exit` is null before the first, then `{reason, code, signal, at}` with
//! null for the one of `code` and `signal` that does not apply. `identity` is null where there is
//! none, else `{algorithm, digest, source}`, the digest in hexadecimal and `source` one of `request`,
//! `operator`, `configuration`.
//!
//! A finding: `id`, `severity`, `subject`, `detail`, `remedy`. `plan` in the answer of `plan` is
//! the API's `plan_json` as JSON, not as a text. `vm logs`, `plan --standalone` and `completions`
//! write what they have as it is, whatever `--format` says. Where bytes of a console were not kept,
//! `vm logs` writes `{"omitted_bytes": N}` on a line of standard error.

use casemate_proto::v1;
use serde_json::{Value, json};

use crate::vm::{restart_policy_name, state_name};

pub(crate) fn vm(vm: &v1::Vm) -> Value {
    json!({
        "id": vm.id,
        "name": vm.name,
        "state": state_name(vm.state()),
        "detail": vm.detail,
        "backend": vm.backend,
        "tee": vm.tee,
        "confidential": vm.confidential,
        "vcpus": vm.vcpus,
        "memory_bytes": vm.memory_bytes,
        "machine": vm.machine,
        "cpu": vm.cpu,
        "kernel_cmdline": vm.kernel_cmdline,
        "agent_address": vm.agent_address,
        "created_at": vm.created_at,
        "expires_at": vm.expires_at,
        "backend_sha256": vm.backend_sha256,
        "qemu_version": vm.qemu_version,
        "pid": vm.pid,
        "generation": vm.generation,
        "findings": findings(&vm.findings),
        "restart_policy": restart_policy_name(vm.restart_policy()),
        "restarts": vm.restarts,
        "started_at": vm.started_at,
        "last_exit": vm.last_exit.as_ref().map(exit),
        "identity": vm.identity.as_ref().map(identity),
    })
}

fn identity(identity: &v1::VmIdentity) -> Value {
    json!({
        "algorithm": identity.algorithm,
        "digest": identity.digest,
        "source": identity.source,
    })
}

fn exit(exit: &v1::Exit) -> Value {
    json!({
        "reason": exit.reason,
        "code": exit.code,
        "signal": exit.signal,
        "at": exit.at,
    })
}

pub(crate) fn config_value(value: &v1::ConfigValue) -> Value {
    json!({
        "key": value.key,
        "value": value.value,
        "source": value.source,
        "notes": value.notes,
    })
}

pub(crate) fn backend(backend: &v1::Backend) -> Value {
    let settings: Vec<Value> = backend.settings.iter().map(setting).collect();
    let grants: Vec<Value> = backend.grants.iter().map(grant).collect();
    json!({
        "name": backend.name,
        "tee": backend.tee,
        "protection": backend.protection,
        "vendor": backend.vendor,
        "version": backend.version,
        "api_version": backend.api_version,
        "sha256": backend.sha256,
        "path": backend.path,
        "architectures": backend.architectures,
        "status": backend.status,
        "error": backend.error,
        "is_default": backend.is_default,
        "settings": settings,
        "grants": grants,
        "findings": findings(&backend.findings),
    })
}

/// A list leaves `findings` out, because the daemon only looks for one backend at a time.
pub(crate) fn backend_in_list(listed: &v1::Backend) -> Value {
    let mut value = backend(listed);
    if let Some(fields) = value.as_object_mut() {
        fields.shift_remove("findings");
    }
    value
}

pub(crate) fn plan(plan: &v1::PlanVmResponse) -> Value {
    let parsed = serde_json::from_str(&plan.plan_json)
        .unwrap_or_else(|_| Value::String(plan.plan_json.clone()));
    json!({
        "backend": plan.backend,
        "tee": plan.tee,
        "confidential": plan.confidential,
        "command": plan.command,
        "standalone_script": plan.standalone_script,
        "findings": findings(&plan.findings),
        "plan": parsed,
        "identity": plan.identity.as_ref().map(identity),
        "dry_run": plan.dry_run,
        "measurement": parsed_or_null(&plan.measurement_json),
        "facts": parsed_or_null(&plan.facts_json),
    })
}

/// JSON that the daemon made; null from one that does not know the field.
fn parsed_or_null(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

pub(crate) fn diagnosis(diagnosis: &v1::DiagnoseResponse) -> Value {
    let backend = |backend: &v1::BackendDiagnosis| {
        json!({
            "name": backend.name,
            "tee": backend.tee,
            "protection": backend.protection,
            "status": backend.status,
            "error": backend.error,
            "usable": backend.usable,
            "findings": findings(&backend.findings),
        })
    };
    let backends: Vec<Value> = diagnosis.backends.iter().map(backend).collect();
    json!({
        "usable": diagnosis.usable,
        "host_findings": findings(&diagnosis.host_findings),
        "backends": backends,
    })
}

fn findings(findings: &[v1::Finding]) -> Value {
    let object = |finding: &v1::Finding| {
        json!({
            "id": finding.id,
            "severity": finding.severity,
            "subject": finding.subject,
            "detail": finding.detail,
            "remedy": finding.remedy,
        })
    };
    findings.iter().map(object).collect()
}

fn setting(setting: &v1::BackendSetting) -> Value {
    json!({
        "key": setting.key,
        "kind": setting.kind,
        "value": setting.value,
        "description": setting.description,
        "per_request": setting.per_request,
    })
}

fn grant(grant: &v1::Grant) -> Value {
    json!({
        "kind": grant.kind,
        "what": grant.what,
        "reason": grant.reason,
        "granted": grant.granted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vm_has_all_its_fields_in_the_order_of_the_api() {
        let mut sample = v1::Vm {
            id: "aa11".to_owned(),
            memory_bytes: 512 << 20,
            findings: vec![v1::Finding::default()],
            ..v1::Vm::default()
        };
        sample.set_state(v1::VmState::Running);
        let value = vm(&sample);
        assert_eq!(value["state"], "running");
        assert_eq!(value["memory_bytes"], 536_870_912_u64);
        assert_eq!(value["expires_at"], "");
        assert_eq!(value["findings"][0]["severity"], "");
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 25);
        assert_eq!(keys[0], "id");
        assert_eq!(keys[19], "findings");
        assert_eq!(keys[23], "last_exit");
        assert_eq!(keys[24], "identity");
        assert_eq!(value["identity"], Value::Null);
        assert_eq!(value["restart_policy"], "never");
        assert_eq!(value["last_exit"], Value::Null);
        sample.last_exit = Some(v1::Exit {
            reason: "guest-shutdown".to_owned(),
            code: Some(0),
            ..v1::Exit::default()
        });
        assert_eq!(
            vm(&sample)["last_exit"],
            json!({"reason": "guest-shutdown", "code": 0, "signal": null, "at": ""})
        );
        sample.identity = Some(v1::VmIdentity {
            algorithm: "sha-256".to_owned(),
            digest: "00ff".to_owned(),
            source: "request".to_owned(),
        });
        assert_eq!(
            vm(&sample)["identity"],
            json!({"algorithm": "sha-256", "digest": "00ff", "source": "request"})
        );
    }

    #[test]
    fn a_plan_is_json_inside_json() {
        let plan_of = |text: &str| {
            plan(&v1::PlanVmResponse {
                plan_json: text.to_owned(),
                ..v1::PlanVmResponse::default()
            })
        };
        assert_eq!(plan_of(r#"{"guard":null}"#)["plan"], json!({"guard": null}));
        assert_eq!(plan_of("no json")["plan"], "no json");
    }

    #[test]
    fn a_listed_backend_has_no_findings() {
        let sample = v1::Backend::default();
        assert_eq!(backend(&sample)["findings"], json!([]));
        assert_eq!(backend_in_list(&sample).get("findings"), None);
    }
}
