//! Calls about VMs that are answered once.

use std::sync::Arc;

use casemate_attestation::{PolicyFormat, json};
use casemate_proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::list::{self, Filter, Page};
use super::{Calls, parse_id};
use crate::api::access::{Caller, Role};
use crate::api::refusal::Refusal;
use crate::api::refused::Refused;
use crate::api::{from_proto, policy, to_proto};
use crate::spec::lifecycle::Action;
use crate::spec::request::{IdempotencyWish, VmSpec};
use crate::vm::attestation::Policy;
use crate::vm::error::CreateError;
use crate::vm::manager::Manner;
use crate::vm::standalone;
use crate::vm::status::VmStatus;
use crate::vm::task::{Courtesy, Expected};

/// What is to be done to a VM that is there.
#[derive(Clone, Debug)]
pub(in crate::api) struct Change {
    pub(in crate::api) id: String,
    pub(in crate::api) action: Action,
    pub(in crate::api) courtesy: Courtesy,
    pub(in crate::api) expected: Expected,
    pub(in crate::api) expected_generation: Option<u64>,
}

impl Change {
    pub(in crate::api) fn new(action: Action, id: String, generation: Option<u64>) -> Self {
        Self {
            id,
            action,
            courtesy: Courtesy::Ask,
            expected: Expected::Recorded,
            expected_generation: generation,
        }
    }

    /// Without asking the guest, if `force` says so.
    pub(in crate::api) fn with_force(self, force: bool) -> Self {
        let courtesy = if force {
            Courtesy::Force
        } else {
            Courtesy::Ask
        };
        Self { courtesy, ..self }
    }

    /// Whatever the VM is measured as, if `accept` says so.
    pub(in crate::api) fn with_acceptance(self, accept: bool) -> Self {
        let expected = if accept {
            Expected::Any
        } else {
            Expected::Recorded
        };
        Self { expected, ..self }
    }
}

impl Calls {
    pub(in crate::api) async fn create_vm(
        &self,
        caller: Caller,
        request: v1::CreateVmRequest,
    ) -> Result<v1::CreateVmResponse, Refused> {
        caller.require(Role::Operator)?;
        let wish = idempotency(&request)?;
        let v1::CreateVmRequest { spec, dry_run, .. } = request;
        let spec = spec.unwrap_or_default();
        if dry_run {
            let request = v1::PlanVmRequest {
                spec: Some(spec),
                dry_run,
            };
            let plan = self.plan_vm(caller, request).await?;
            return Ok(v1::CreateVmResponse {
                vm: None,
                plan: Some(plan),
            });
        }
        let spec = VmSpec {
            created_by: caller.name().to_owned(),
            idempotency: wish,
            ..spec_of(&caller, spec)?
        };
        let vm = self.create(caller, spec).await?;
        Ok(v1::CreateVmResponse {
            vm: Some(to_proto::vm(&vm)),
            plan: None,
        })
    }

    /// For both services.
    pub(in crate::api) async fn create(
        &self,
        caller: Caller,
        spec: VmSpec,
    ) -> Result<Arc<VmStatus>, Refused> {
        caller.require(Role::Operator)?;
        let deed = caller.begins("create", None);
        let created = self.manager.create(spec).await;
        deed.created(&created);
        Ok(created?)
    }

    pub(in crate::api) fn find_vm(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<Arc<VmStatus>, Refused> {
        caller.require(Role::Viewer)?;
        let found = self.manager.get(parse_id(id)?);
        Ok(found.ok_or_else(|| Refusal::no_such_vm(id))?)
    }

    pub(in crate::api) fn get_vm(
        &self,
        caller: &Caller,
        request: &v1::GetVmRequest,
    ) -> Result<v1::GetVmResponse, Refused> {
        let vm = self.find_vm(caller, &request.id)?;
        Ok(v1::GetVmResponse {
            vm: Some(to_proto::vm(&vm)),
        })
    }

    pub(in crate::api) fn list_vms(
        &self,
        caller: &Caller,
        request: v1::ListVmsRequest,
    ) -> Result<v1::ListVmsResponse, Refused> {
        caller.require(Role::Viewer)?;
        let page = Page::of_request(&request)?;
        let filter = Filter::of_request(request)?;
        let all = self.manager.list();
        let (vms, next) = list::page(&all, &filter, &page);
        Ok(v1::ListVmsResponse {
            vms: vms.into_iter().map(to_proto::vm_in_list).collect(),
            next_page_token: next.map(|next| next.to_string()).unwrap_or_default(),
        })
    }

    pub(in crate::api) async fn change_vm(
        &self,
        caller: Caller,
        change: Change,
    ) -> Result<Option<v1::Vm>, Refused> {
        caller.require(Role::Operator)?;
        let id = parse_id(&change.id)?;
        let deed = caller.begins(change.action.name(), Some(id));
        if change.action == Action::Remove {
            let removed = self.manager.remove(id, change.expected_generation).await;
            deed.ended(&removed);
            removed?;
            return Ok(None);
        }
        let manner = Manner {
            courtesy: change.courtesy,
            expected: change.expected,
            generation: change.expected_generation,
        };
        let done = self.manager.act(id, change.action, manner).await;
        deed.ended(&done);
        Ok(Some(to_proto::vm(&*done?)))
    }

    pub(in crate::api) async fn extend_ttl(
        &self,
        caller: Caller,
        request: v1::ExtendTtlRequest,
    ) -> Result<v1::ExtendTtlResponse, Refused> {
        caller.require(Role::Operator)?;
        let id = parse_id(&request.id)?;
        let ttl = from_proto::ttl(request.ttl_seconds)?;
        let deed = caller.begins(Action::ExtendTtl.name(), Some(id));
        let done = self
            .manager
            .set_ttl(id, ttl, request.expected_generation)
            .await;
        deed.ended(&done);
        Ok(v1::ExtendTtlResponse {
            vm: Some(to_proto::vm(&*done?)),
        })
    }

    pub(in crate::api) fn get_measurement(
        &self,
        caller: &Caller,
        request: &v1::GetMeasurementRequest,
    ) -> Result<v1::GetMeasurementResponse, Refused> {
        caller.require(Role::Viewer)?;
        let format =
            from_proto::measurement_format(request.format).ok_or(Refusal::MeasurementFormat {
                number: request.format,
            })?;
        let vm = self.find_vm(caller, &request.id)?;
        let policy = self.policy(&vm, format)?;
        Ok(v1::GetMeasurementResponse {
            document: policy.document,
            media_type: policy.media_type.to_owned(),
        })
    }

    /// For both services.
    pub(in crate::api) fn policy(
        &self,
        vm: &VmStatus,
        format: PolicyFormat,
    ) -> Result<Policy, Refused> {
        policy::of(&self.manager, vm, format)
    }

    pub(in crate::api) async fn plan_vm(
        &self,
        caller: Caller,
        request: v1::PlanVmRequest,
    ) -> Result<v1::PlanVmResponse, Refused> {
        caller.require(Role::Operator)?;
        let v1::PlanVmRequest { spec, dry_run } = request;
        let spec = spec_of(&caller, spec.unwrap_or_default())?;
        let planned = self.manager.plan(&spec).await?;
        let plan = planned.checked.plan();
        let as_json = |json: serde_json::Result<String>| json.map_err(Refusal::PlanJson);
        Ok(v1::PlanVmResponse {
            backend: planned.backend.name().to_owned(),
            tee: planned.backend.info().tee.clone(),
            confidential: plan.is_confidential(),
            command: standalone::preview(&planned)?,
            standalone_script: standalone::script(&planned)?,
            findings: to_proto::findings(&plan.findings),
            plan_json: as_json(serde_json::to_string_pretty(plan))?,
            identity: planned.request.identity.as_ref().map(to_proto::identity),
            measurement_json: match &planned.measurement {
                Some(measurement) => json::document(measurement, None).to_string(),
                None => String::new(),
            },
            facts_json: as_json(serde_json::to_string(&planned.facts))?,
            dry_run: if dry_run {
                self.rehearse(caller, &spec).await?;
                "prelaunch".to_owned()
            } else {
                String::new()
            },
        })
    }

    async fn rehearse(&self, caller: Caller, spec: &VmSpec) -> Result<(), CreateError> {
        let deed = caller.begins("dry-run", None);
        let rehearsed = self.manager.rehearse(spec).await;
        deed.ended(&rehearsed);
        rehearsed
    }
}

/// The wish of a request, by what its caller may name. Fields that are at fault are told by their path
/// in the request.
fn spec_of(caller: &Caller, spec: v1::VmSpec) -> Result<VmSpec, Refused> {
    from_proto::vm_spec(spec, caller.file_authority()).map_err(|error| {
        let refused = Refused::of(&error);
        Refused {
            field: refused.field.map(|field| format!("spec.{field}").into()),
            ..refused
        }
    })
}

/// The request's key, and what the request is known by when it comes again.
fn idempotency(request: &v1::CreateVmRequest) -> Result<Option<IdempotencyWish>, Refused> {
    let Some(key) = from_proto::idempotency_key(&request.idempotency_key)? else {
        return Ok(None);
    };
    // Maps have an order of their own, so that the same request has the same bytes.
    let bytes = zeroize::Zeroizing::new(request.encode_to_vec());
    Ok(Some(IdempotencyWish {
        key,
        request: Sha256::digest(&*bytes).into(),
    }))
}
