//! The answers as data, for programs: `--format json`, and the same as `--format yaml`.
//!
//! A message of the API is as HTTP serves it: names of its fields as in `casemate.v1`, and they
//! stay; enumerations by name, sizes in bytes, times in RFC 3339, bytes in base64. Texts that do not
//! apply are empty, messages and numbers that are not set are null, and nothing is ever left out.
//!
//! | command | value |
//! |---|---|
//! | `vm create`, `vm show` | a VM |
//! | `vm create --dry-run` | as `plan` |
//! | `vm list` | an array of VMs, in order of creation; without findings |
//! | `vm start` | an array of `{wanted, id, started, vm, error}`, in the order asked; `vm` as it is then |
//! | `vm stop`, `restart`, `pause`, `resume`, `reset`, `extend` | the same with `stopped`, `restarted`, `paused`, `resumed`, `reset`, `extended` |
//! | `vm remove` | an array of `{wanted, id, removed, error}`, in the order asked |
//! | `backend watch` | an object on each line (a document each in YAML): `{time}` and one of `backend`, `removed` (a name), `synchronized`, `reload_refused` (a name or a key) |
//! | `vm watch`, `--watch` | an object on each line (a document each in YAML): `{time, generation}` and one of `vm`, `removed` (an ID), `synchronized` (true: what follows are changes) |
//! | `backend list` | an array of backends, without findings |
//! | `backend show` | a backend |
//! | `backend push` | `{reference, manifest, sha256, size, version, annotations, signatures}` |
//! | `backend pull` | `{path, from, version, manifest, sha256, size, key}` |
//! | `backend pin` | `{backend, reference, version, manifest, size, key}`; `backend` has the keys of a `[[backend]]` |
//! | `backend verify` | `{path, sha256, size, sha256_given, pinned_as, key}` |
//! | `backend inspect` | `{path, reference, manifest, sha256, size, version, contract, imports, exports, annotations, signatures}` |
//! | `backend check`, `doctor` | a CheckHostResponse: `{host_findings, backends, usable}` |
//! | `config explain` | an array of `{key, value, source, notes}`, all texts |
//! | `context list` | an array of `{name, current, endpoint, ca_cert, client_cert, client_key, token_file}`, null where a context has none |
//! | `context show` | `{context, endpoint, ca_cert, client_cert, client_key, token}`, each null or `{value, source}`; a token from a variable is not shown |
//! | `plan` | a PlanVmResponse, whose `plan`, `measurement` and `facts` are objects, not texts |
//! | `measure`, `vm measurement` | registers with what they were made from |
//!
//! An error goes to standard error as `{"error": {id, message, code, stage, subject, remedy}}`, with
//! `qemu_stderr` where QEMU said anything; `docs/errors.md` has the ids. `error` in an array is
//! null, or such an object; the error after such an array has the id and exit code of the worst.
//!
//! `vm logs`, `plan --standalone`, `completions` and `man` write what they have as it is, whatever
//! `--format` says. Where bytes of a console were not kept, `vm logs` writes `{"omitted_bytes": N}`
//! on a line of standard error.

use serde::Serialize;
use serde_json::Value;

use crate::error::CliError;

/// Fails where the daemon's answer is not what its interface promises.
pub(crate) fn value(message: &impl Serialize) -> Result<Value, CliError> {
    serde_json::to_value(message).map_err(|error| CliError::Unshowable {
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use casemate_proto::v1;
    use serde_json::json;

    use super::*;

    /// The fields that programs know; what HTTP serves is the same.
    #[test]
    fn a_vm_has_all_its_fields_in_the_order_of_the_api() {
        let mut sample = v1::Vm {
            id: "aa11".to_owned(),
            memory_bytes: 512 << 20,
            findings: vec![v1::Finding::default()],
            labels: [("a".to_owned(), "1".to_owned())].into(),
            last_exit: Some(v1::Exit {
                reason: "guest-shutdown".to_owned(),
                code: Some(0),
                ..v1::Exit::default()
            }),
            ..v1::Vm::default()
        };
        sample.set_state(v1::VmState::Running);
        let value = value(&sample).unwrap();
        assert_eq!(value["state"], "running");
        assert_eq!(value["memory_bytes"], 536_870_912_u64);
        assert_eq!(value["expires_at"], "");
        assert_eq!(value["findings"][0]["severity"], "");
        assert_eq!(value["identity"], Value::Null);
        assert_eq!(value["labels"], json!({"a": "1"}));
        assert_eq!(
            value["last_exit"],
            json!({"reason": "guest-shutdown", "code": 0, "signal": null, "at": ""})
        );
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 29);
        assert_eq!(
            (keys[0], keys[28]),
            (&"id".to_owned(), &"data_disks".to_owned())
        );
    }

    #[test]
    fn a_plan_is_json_inside_json() {
        let plan_of = |text: &str| {
            value(&v1::PlanVmResponse {
                plan_json: text.to_owned(),
                ..v1::PlanVmResponse::default()
            })
        };
        assert_eq!(
            plan_of(r#"{"guard":null}"#).unwrap()["plan"],
            json!({"guard": null})
        );
        let error = plan_of("no json").unwrap_err();
        assert_eq!(error.id().as_str(), "answer-incomplete");
    }
}
