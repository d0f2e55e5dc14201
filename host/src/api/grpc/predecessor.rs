//! `manager.ManagerService`, as clients of the predecessor know it.

use casemate_attestation::PolicyFormat;
use casemate_proto::manager;
use casemate_proto::manager::manager_service_server::ManagerService;
use tonic::{Request, Response, Status};

use crate::api::access::{Caller, Role};
use crate::api::calls::{Calls, Change};
use crate::api::from_proto;
use crate::api::refused::Refused;
use crate::spec::lifecycle::Action;
use crate::spec::request::VmSpec;

#[derive(Debug)]
pub(super) struct Predecessor {
    pub(super) calls: Calls,
}

#[tonic::async_trait]
impl ManagerService for Predecessor {
    async fn create_vm(
        &self,
        request: Request<manager::CreateReq>,
    ) -> Result<Response<manager::CreateRes>, Status> {
        let caller = Caller::of(request.extensions());
        caller.require(Role::Operator)?;
        let spec = from_proto::predecessor_spec(request.into_inner());
        let spec = VmSpec {
            created_by: caller.name().to_owned(),
            ..spec.map_err(Refused::from)?
        };
        let vm = self.calls.create(caller, spec).await?;
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
        let caller = Caller::of(request.extensions());
        let change = Change::new(Action::Remove, request.into_inner().cvm_id, None);
        self.calls.change_vm(caller, change).await?;
        Ok(Response::new(()))
    }

    async fn cvm_info(
        &self,
        request: Request<manager::CvmInfoReq>,
    ) -> Result<Response<manager::CvmInfoRes>, Status> {
        let caller = Caller::of(request.extensions());
        let vm = self.calls.find_vm(&caller, &request.get_ref().id)?;
        let live = self.calls.manager().host().live();
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
        let caller = Caller::of(request.extensions());
        let vm = self.calls.find_vm(&caller, &request.get_ref().id)?;
        let policy = self.calls.policy(&vm, PolicyFormat::Corim)?;
        Ok(Response::new(manager::AttestationPolicyRes {
            info: policy.document,
            id: vm.id.to_string(),
        }))
    }
}
