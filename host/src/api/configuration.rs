//! `casemate.v1.ConfigService`.

use casemate_proto::v1;
use casemate_proto::v1::config_service_server::ConfigService;
use tonic::{Request, Response, Status};

use crate::vm::manager::VmManager;

#[derive(Debug)]
pub(super) struct Configuration {
    pub(super) manager: VmManager,
}

#[tonic::async_trait]
impl ConfigService for Configuration {
    async fn explain_config(
        &self,
        _: Request<v1::ExplainConfigRequest>,
    ) -> Result<Response<v1::ExplainConfigResponse>, Status> {
        let live = self.manager.host().live();
        let values = live.rows.iter().map(|row| v1::ConfigValue {
            key: row.key.clone(),
            value: row.value.clone(),
            source: row.source.clone(),
            notes: row.notes.clone(),
        });
        Ok(Response::new(v1::ExplainConfigResponse {
            values: values.collect(),
        }))
    }
}
