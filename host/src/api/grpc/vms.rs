//! `casemate.v1.VmService`.

use casemate_proto::v1;
use casemate_proto::v1::vm_service_server::VmService;
use tonic::{Request, Response, Status};

use super::{Messages, messages};
use crate::api::access::Caller;
use crate::api::calls::{Calls, Change};
use crate::spec::lifecycle::Action;

#[derive(Debug)]
pub(super) struct Vms {
    pub(super) calls: Calls,
}

impl Vms {
    async fn change(&self, caller: Caller, change: Change) -> Result<Option<v1::Vm>, Status> {
        Ok(self.calls.change_vm(caller, change).await?)
    }
}

#[tonic::async_trait]
impl VmService for Vms {
    async fn create_vm(
        &self,
        request: Request<v1::CreateVmRequest>,
    ) -> Result<Response<v1::CreateVmResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let created = self.calls.create_vm(caller, request.into_inner());
        Ok(Response::new(created.await?))
    }

    async fn get_vm(
        &self,
        request: Request<v1::GetVmRequest>,
    ) -> Result<Response<v1::GetVmResponse>, Status> {
        let caller = Caller::of(request.extensions());
        Ok(Response::new(
            self.calls.get_vm(&caller, request.get_ref())?,
        ))
    }

    async fn list_vms(
        &self,
        request: Request<v1::ListVmsRequest>,
    ) -> Result<Response<v1::ListVmsResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let listed = self.calls.list_vms(&caller, request.into_inner())?;
        Ok(Response::new(listed))
    }

    async fn remove_vm(
        &self,
        request: Request<v1::RemoveVmRequest>,
    ) -> Result<Response<v1::RemoveVmResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let request = request.into_inner();
        let change = Change::new(Action::Remove, request.id, request.expected_generation);
        self.change(caller, change).await?;
        Ok(Response::new(v1::RemoveVmResponse {}))
    }

    async fn start_vm(
        &self,
        request: Request<v1::StartVmRequest>,
    ) -> Result<Response<v1::StartVmResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let request = request.into_inner();
        let change = Change::new(Action::Start, request.id, request.expected_generation)
            .with_acceptance(request.accept_measurement);
        let vm = self.change(caller, change).await?;
        Ok(Response::new(v1::StartVmResponse { vm }))
    }

    async fn stop_vm(
        &self,
        request: Request<v1::StopVmRequest>,
    ) -> Result<Response<v1::StopVmResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let request = request.into_inner();
        let change = Change::new(Action::Stop, request.id, request.expected_generation)
            .with_force(request.force);
        let vm = self.change(caller, change).await?;
        Ok(Response::new(v1::StopVmResponse { vm }))
    }

    async fn restart_vm(
        &self,
        request: Request<v1::RestartVmRequest>,
    ) -> Result<Response<v1::RestartVmResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let request = request.into_inner();
        let change = Change::new(Action::Restart, request.id, request.expected_generation)
            .with_force(request.force)
            .with_acceptance(request.accept_measurement);
        let vm = self.change(caller, change).await?;
        Ok(Response::new(v1::RestartVmResponse { vm }))
    }

    async fn pause_vm(
        &self,
        request: Request<v1::PauseVmRequest>,
    ) -> Result<Response<v1::PauseVmResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let request = request.into_inner();
        let change = Change::new(Action::Pause, request.id, request.expected_generation);
        let vm = self.change(caller, change).await?;
        Ok(Response::new(v1::PauseVmResponse { vm }))
    }

    async fn resume_vm(
        &self,
        request: Request<v1::ResumeVmRequest>,
    ) -> Result<Response<v1::ResumeVmResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let request = request.into_inner();
        let change = Change::new(Action::Resume, request.id, request.expected_generation);
        let vm = self.change(caller, change).await?;
        Ok(Response::new(v1::ResumeVmResponse { vm }))
    }

    async fn reset_vm(
        &self,
        request: Request<v1::ResetVmRequest>,
    ) -> Result<Response<v1::ResetVmResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let request = request.into_inner();
        let change = Change::new(Action::Reset, request.id, request.expected_generation);
        let vm = self.change(caller, change).await?;
        Ok(Response::new(v1::ResetVmResponse { vm }))
    }

    async fn extend_ttl(
        &self,
        request: Request<v1::ExtendTtlRequest>,
    ) -> Result<Response<v1::ExtendTtlResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let extended = self.calls.extend_ttl(caller, request.into_inner());
        Ok(Response::new(extended.await?))
    }

    type WatchVmsStream = Messages<v1::WatchVmsResponse>;

    async fn watch_vms(
        &self,
        request: Request<v1::WatchVmsRequest>,
    ) -> Result<Response<Self::WatchVmsStream>, Status> {
        let caller = Caller::of(request.extensions());
        let changes = self.calls.watch_vms(&caller, request.get_ref())?;
        Ok(Response::new(messages(changes)))
    }

    type GetConsoleStream = Messages<v1::GetConsoleResponse>;

    async fn get_console(
        &self,
        request: Request<v1::GetConsoleRequest>,
    ) -> Result<Response<Self::GetConsoleStream>, Status> {
        let caller = Caller::of(request.extensions());
        let console = self.calls.get_console(&caller, request.get_ref())?;
        Ok(Response::new(messages(console)))
    }

    async fn get_measurement(
        &self,
        request: Request<v1::GetMeasurementRequest>,
    ) -> Result<Response<v1::GetMeasurementResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let measured = self.calls.get_measurement(&caller, request.get_ref())?;
        Ok(Response::new(measured))
    }

    async fn plan_vm(
        &self,
        request: Request<v1::PlanVmRequest>,
    ) -> Result<Response<v1::PlanVmResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let planned = self.calls.plan_vm(caller, request.into_inner());
        Ok(Response::new(planned.await?))
    }
}
