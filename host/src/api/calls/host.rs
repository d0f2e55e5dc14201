//! Calls about the host, its backends and its config.

use casemate_proto::v1;

use super::Calls;
use crate::api::access::{Caller, Role};
use crate::api::audit::Deed;
use crate::api::refusal::Refusal;
use crate::api::refused::Refused;
use crate::api::to_proto;
use crate::vm::doctor;

impl Calls {
    pub(in crate::api) fn list_backends(
        &self,
        caller: &Caller,
    ) -> Result<v1::ListBackendsResponse, Refused> {
        caller.require(Role::Viewer)?;
        let backends = to_proto::backends(&self.manager.host().live().catalog);
        Ok(v1::ListBackendsResponse { backends })
    }

    pub(in crate::api) async fn get_backend(
        &self,
        caller: &Caller,
        request: &v1::GetBackendRequest,
    ) -> Result<v1::GetBackendResponse, Refused> {
        caller.require(Role::Viewer)?;
        let name = &request.name;
        let live = self.manager.host().live();
        let mut entries = live.catalog.entries().iter();
        let entry = entries
            .find(|entry| entry.config.name == *name)
            .ok_or_else(|| Refusal::no_such_backend(name))?;
        let mut backend = to_proto::backend(entry, live.catalog.default_name());
        if let Ok(loaded) = &entry.state {
            backend.findings = to_proto::findings(&live.check(loaded).await?);
        }
        Ok(v1::GetBackendResponse {
            backend: Some(backend),
        })
    }

    pub(in crate::api) async fn check_host(
        &self,
        caller: &Caller,
        request: &v1::CheckHostRequest,
    ) -> Result<v1::CheckHostResponse, Refused> {
        caller.require(Role::Viewer)?;
        let name = request.backend.as_str();
        let only = (!name.is_empty()).then_some(name);
        let diagnosis = doctor::diagnose(&self.manager, only).await;
        let diagnosis = diagnosis.ok_or_else(|| Refusal::no_such_backend(name))?;
        Ok(to_proto::diagnosis(&diagnosis))
    }

    pub(in crate::api) async fn reload_backends(
        &self,
        caller: &Caller,
    ) -> Result<v1::ReloadBackendsResponse, Refused> {
        caller.require(Role::Admin)?;
        let deed = Deed::begins(caller.clone(), "reload-backends", None);
        let outcome = self.manager.host().reloads.reload().await;
        deed.ended(&outcome);
        Ok(to_proto::reload(outcome?))
    }

    pub(in crate::api) fn explain_config(
        &self,
        caller: &Caller,
    ) -> Result<v1::ExplainConfigResponse, Refused> {
        caller.require(Role::Admin)?;
        let live = self.manager.host().live();
        let values = live.rows.iter().map(|row| v1::ConfigValue {
            key: row.key.clone(),
            value: row.value.clone(),
            source: row.source.clone(),
            notes: row.notes.clone(),
        });
        Ok(v1::ExplainConfigResponse {
            values: values.collect(),
        })
    }
}
