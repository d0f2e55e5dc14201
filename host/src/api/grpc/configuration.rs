//! `casemate.v1.ConfigService`.

use casemate_proto::v1;
use casemate_proto::v1::config_service_server::ConfigService;
use tonic::{Request, Response, Status};

use crate::api::access::Caller;
use crate::api::calls::Calls;

#[derive(Debug)]
pub(super) struct Configuration {
    pub(super) calls: Calls,
}

#[tonic::async_trait]
impl ConfigService for Configuration {
    async fn explain_config(
        &self,
        request: Request<v1::ExplainConfigRequest>,
    ) -> Result<Response<v1::ExplainConfigResponse>, Status> {
        let caller = Caller::of(request.extensions());
        Ok(Response::new(self.calls.explain_config(&caller)?))
    }
}
