//! `casemate.v1.BackendService`.

use casemate_proto::v1;
use casemate_proto::v1::backend_service_server::BackendService;
use tonic::{Request, Response, Status};

use super::refusal::Refusal;
use super::{status, to_proto};
use crate::vm::manager::VmManager;

#[derive(Debug)]
pub(super) struct Backends {
    pub(super) manager: VmManager,
}

#[tonic::async_trait]
impl BackendService for Backends {
    async fn list_backends(
        &self,
        _: Request<v1::ListBackendsRequest>,
    ) -> Result<Response<v1::ListBackendsResponse>, Status> {
        let live = self.manager.host().live();
        let catalog = &live.catalog;
        let default = catalog.default_name();
        let backends = catalog
            .entries()
            .iter()
            .map(|entry| to_proto::backend(entry, default))
            .collect();
        Ok(Response::new(v1::ListBackendsResponse { backends }))
    }

    async fn get_backend(
        &self,
        request: Request<v1::GetBackendRequest>,
    ) -> Result<Response<v1::GetBackendResponse>, Status> {
        let name = request.into_inner().name;
        let live = self.manager.host().live();
        let entry = live
            .catalog
            .entries()
            .iter()
            .find(|entry| entry.config.name == name);
        let entry = entry.ok_or_else(|| status::of(&Refusal::no_such_backend(&name)))?;
        let mut backend = to_proto::backend(entry, live.catalog.default_name());
        if let Ok(loaded) = &entry.state {
            let findings = live.check(loaded).await;
            let findings = findings.map_err(|error| status::of(&error))?;
            backend.findings = to_proto::findings(&findings);
        }
        Ok(Response::new(v1::GetBackendResponse {
            backend: Some(backend),
        }))
    }
}
