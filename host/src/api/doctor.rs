//! `casemate.v1.DoctorService`.

use casemate_proto::v1;
use casemate_proto::v1::doctor_service_server::DoctorService;
use tonic::{Request, Response, Status};

use super::refusal::Refusal;
use super::{status, to_proto};
use crate::vm::doctor;
use crate::vm::manager::VmManager;

#[derive(Debug)]
pub(super) struct Doctor {
    pub(super) manager: VmManager,
}

#[tonic::async_trait]
impl DoctorService for Doctor {
    async fn diagnose(
        &self,
        request: Request<v1::DiagnoseRequest>,
    ) -> Result<Response<v1::DiagnoseResponse>, Status> {
        let name = request.into_inner().backend;
        let only = (!name.is_empty()).then_some(name.as_str());
        let diagnosis = doctor::diagnose(&self.manager, only).await;
        let diagnosis = diagnosis.ok_or_else(|| status::of(&Refusal::no_such_backend(&name)))?;
        Ok(Response::new(to_proto::diagnosis(&diagnosis)))
    }
}
