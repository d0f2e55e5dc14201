//! `casemate.v1.BackendService`.

use casemate_proto::v1;
use casemate_proto::v1::backend_service_server::BackendService;
use tonic::{Request, Response, Status};

use super::{Messages, messages};
use crate::api::access::Caller;
use crate::api::calls::Calls;

#[derive(Debug)]
pub(super) struct Backends {
    pub(super) calls: Calls,
}

#[tonic::async_trait]
impl BackendService for Backends {
    type WatchBackendsStream = Messages<v1::WatchBackendsResponse>;

    async fn watch_backends(
        &self,
        request: Request<v1::WatchBackendsRequest>,
    ) -> Result<Response<Self::WatchBackendsStream>, Status> {
        let caller = Caller::of(request.extensions());
        let changes = self.calls.watch_backends(&caller)?;
        Ok(Response::new(messages(changes)))
    }

    async fn list_backends(
        &self,
        request: Request<v1::ListBackendsRequest>,
    ) -> Result<Response<v1::ListBackendsResponse>, Status> {
        let caller = Caller::of(request.extensions());
        Ok(Response::new(self.calls.list_backends(&caller)?))
    }

    async fn get_backend(
        &self,
        request: Request<v1::GetBackendRequest>,
    ) -> Result<Response<v1::GetBackendResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let found = self.calls.get_backend(&caller, request.get_ref());
        Ok(Response::new(found.await?))
    }

    async fn reload_backends(
        &self,
        request: Request<v1::ReloadBackendsRequest>,
    ) -> Result<Response<v1::ReloadBackendsResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let reloaded = self.calls.reload_backends(&caller);
        Ok(Response::new(reloaded.await?))
    }

    async fn check_host(
        &self,
        request: Request<v1::CheckHostRequest>,
    ) -> Result<Response<v1::CheckHostResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let checked = self.calls.check_host(&caller, request.get_ref());
        Ok(Response::new(checked.await?))
    }
}
