//! `casemate.v1.VmService`.

use casemate_proto::v1;
use casemate_proto::v1::vm_service_server::VmService;
use tokio_stream::Iter;
use tonic::{Request, Response, Status};

use super::refusal::Refusal;
use super::{from_proto, status, to_proto};
use crate::spec::VmId;
use crate::vm::error::CreateError;
use crate::vm::manager::VmManager;
use crate::vm::standalone;

/// Console bytes in one message, well below the default limit of 4 MiB.
const CHUNK: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Vms {
    pub(super) manager: VmManager,
}

fn parse_id(text: &str) -> Result<VmId, Status> {
    VmId::parse(text).ok_or_else(|| status::of(&Refusal::no_such_vm(text)))
}

#[tonic::async_trait]
impl VmService for Vms {
    async fn create_vm(
        &self,
        request: Request<v1::CreateVmRequest>,
    ) -> Result<Response<v1::CreateVmResponse>, Status> {
        let spec = request.into_inner().spec.unwrap_or_default();
        let spec = from_proto::vm_spec(spec).map_err(|error| status::of(&error))?;
        let vm = self
            .manager
            .create(spec)
            .await
            .map_err(|error| status::of(&error))?;
        Ok(Response::new(v1::CreateVmResponse {
            vm: Some(to_proto::vm(&vm)),
        }))
    }

    async fn get_vm(
        &self,
        request: Request<v1::GetVmRequest>,
    ) -> Result<Response<v1::GetVmResponse>, Status> {
        let id = request.into_inner().id;
        let vm = self
            .manager
            .get(parse_id(&id)?)
            .ok_or_else(|| status::of(&Refusal::no_such_vm(&id)))?;
        Ok(Response::new(v1::GetVmResponse {
            vm: Some(to_proto::vm(&vm)),
        }))
    }

    async fn list_vms(
        &self,
        _: Request<v1::ListVmsRequest>,
    ) -> Result<Response<v1::ListVmsResponse>, Status> {
        let vms = self
            .manager
            .list()
            .iter()
            .map(|vm| to_proto::vm_in_list(vm))
            .collect();
        Ok(Response::new(v1::ListVmsResponse { vms }))
    }

    async fn remove_vm(
        &self,
        request: Request<v1::RemoveVmRequest>,
    ) -> Result<Response<v1::RemoveVmResponse>, Status> {
        let id = parse_id(&request.into_inner().id)?;
        self.manager
            .remove(id)
            .await
            .map_err(|error| status::of(&error))?;
        Ok(Response::new(v1::RemoveVmResponse {}))
    }

    type GetConsoleStream = Iter<std::vec::IntoIter<Result<v1::GetConsoleResponse, Status>>>;

    async fn get_console(
        &self,
        request: Request<v1::GetConsoleRequest>,
    ) -> Result<Response<Self::GetConsoleStream>, Status> {
        let request = request.into_inner();
        let id = parse_id(&request.id)?;
        let console = self.manager.console(id, request.tail_bytes).await;
        let console = console.map_err(|error| status::of(&error))?;
        let chunks: Vec<_> = console
            .chunks(CHUNK)
            .map(|chunk| {
                Ok(v1::GetConsoleResponse {
                    data: chunk.to_vec(),
                })
            })
            .collect();
        Ok(Response::new(tokio_stream::iter(chunks)))
    }

    async fn plan_vm(
        &self,
        request: Request<v1::PlanVmRequest>,
    ) -> Result<Response<v1::PlanVmResponse>, Status> {
        let spec = request.into_inner().spec.unwrap_or_default();
        let spec = from_proto::vm_spec(spec).map_err(|error| status::of(&error))?;
        let of_error = |error: CreateError| status::of(&error);
        let planned = self.manager.plan(&spec).await.map_err(of_error)?;
        let plan = planned.checked.plan();
        let plan_json = serde_json::to_string_pretty(plan)
            .map_err(|error| status::of(&Refusal::PlanJson(error)))?;
        Ok(Response::new(v1::PlanVmResponse {
            backend: planned.backend.name().to_owned(),
            tee: planned.backend.info().tee.clone(),
            confidential: plan.is_confidential(),
            command: standalone::preview(&planned).map_err(of_error)?,
            standalone_script: standalone::script(&planned).map_err(of_error)?,
            findings: to_proto::findings(&plan.findings),
            plan_json,
        }))
    }
}
