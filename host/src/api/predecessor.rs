//! `manager.ManagerService`, as clients of the predecessor know it.

use casemate_attestation::PolicyFormat;
use casemate_proto::manager;
use casemate_proto::manager::manager_service_server::ManagerService;
use tonic::{Request, Response, Status};

use super::audit::Caller;
use super::refusal::Refusal;
use super::{from_proto, policy, status};
use crate::spec::VmId;
use crate::vm::manager::VmManager;
use crate::vm::status::VmStatus;

#[derive(Debug)]
pub(super) struct Predecessor {
    pub(super) manager: VmManager,
}

impl Predecessor {
    fn find(&self, id: &str) -> Result<std::sync::Arc<VmStatus>, Status> {
        let vm = VmId::parse(id).and_then(|id| self.manager.get(id));
        vm.ok_or_else(|| status::of(&Refusal::no_such_vm(id)))
    }
}

#[tonic::async_trait]
impl ManagerService for Predecessor {
    async fn create_vm(
        &self,
        request: Request<manager::CreateReq>,
    ) -> Result<Response<manager::CreateRes>, Status> {
        let caller = Caller::of(&request);
        let spec = from_proto::predecessor_spec(request.into_inner())
            .map_err(|error| status::of(&error))?;
        let deed = caller.begins("create", None);
        let created = self.manager.create(spec).await;
        deed.created(&created);
        let vm = created.map_err(|error| status::of(&error))?;
        let port = vm.agent_address.map(|address| address.port().to_string());
        Ok(Response::new(manager::CreateRes {
            forwarded_port: port.unwrap_or_default(),
            cvm_id: vm.id.to_string(),
        }))
    }

    async fn remove_vm(
        &self,
        request: Request<manager::RemoveReq>,
    ) -> Result<Response<()>, Status> {
        let caller = Caller::of(&request);
        let text = request.into_inner().cvm_id;
        let id = VmId::parse(&text).ok_or_else(|| status::of(&Refusal::no_such_vm(&text)))?;
        let deed = caller.begins("remove", Some(id));
        let removed = self.manager.remove(id).await;
        deed.ended(&removed);
        removed.map_err(|error| status::of(&error))?;
        Ok(Response::new(()))
    }

    async fn cvm_info(
        &self,
        request: Request<manager::CvmInfoReq>,
    ) -> Result<Response<manager::CvmInfoRes>, Status> {
        let vm = self.find(&request.into_inner().id)?;
        let live = self.manager.host().live();
        let defaults = &live.defaults;
        let planned = vm.planned.as_ref();
        Ok(Response::new(manager::CvmInfoRes {
            id: vm.id.to_string(),
            ovmf_version: defaults.ovmf_version.clone(),
            cpu_num: planned.map_or(0, |planned| {
                i32::try_from(planned.vcpus).unwrap_or(i32::MAX)
            }),
            cpu_type: planned
                .map(|planned| planned.cpu.clone())
                .unwrap_or_default(),
            kernel_cmd: planned
                .map(|planned| planned.kernel_cmdline.clone())
                .unwrap_or_default(),
            eos_version: defaults.eos_version.clone(),
        }))
    }

    async fn attestation_policy(
        &self,
        request: Request<manager::AttestationPolicyReq>,
    ) -> Result<Response<manager::AttestationPolicyRes>, Status> {
        let vm = self.find(&request.into_inner().id)?;
        let policy = policy::of(&self.manager, &vm, PolicyFormat::Corim)?;
        Ok(Response::new(manager::AttestationPolicyRes {
            info: policy.document,
            id: vm.id.to_string(),
        }))
    }
}
