//! The host, its backends and its config.

use axum::Json;
use axum::extract::State;
use casemate_proto::v1;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Site;
use super::body::{Name, Query};
use crate::api::access::Caller;
use crate::api::refused::Refused;

pub(super) fn routes() -> OpenApiRouter<Site> {
    OpenApiRouter::new()
        .routes(routes!(list_backends))
        .routes(routes!(get_backend))
        .routes(routes!(check_host))
        .routes(routes!(reload))
        .routes(routes!(explain_config))
}

/// Backends in the order of the configuration, without findings. Role: viewer.
#[utoipa::path(
    get, path = "/v1/backends", tag = "host", operation_id = "listBackends",
    responses((status = 200, description = "All of them.", body = v1::ListBackendsResponse)),
)]
async fn list_backends(
    State(site): State<Site>,
    caller: Caller,
) -> Result<Json<v1::ListBackendsResponse>, Refused> {
    site.calls.list_backends(&caller).map(Json)
}

/// One backend, with what its checks find on this host. Role: viewer.
#[utoipa::path(
    get, path = "/v1/backends/{name}", tag = "host", operation_id = "getBackend",
    params(("name" = String, Path)),
    responses((status = 200, description = "The backend.", body = v1::Backend)),
)]
async fn get_backend(
    State(site): State<Site>,
    caller: Caller,
    Name(name): Name,
) -> Result<Json<v1::Backend>, Refused> {
    let request = v1::GetBackendRequest { name };
    let found = site.calls.get_backend(&caller, &request).await?;
    Ok(Json(found.backend.unwrap_or_default()))
}

/// What is looked at.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CheckQuery {
    /// Only this backend; left out: all.
    backend: String,
}

/// What keeps VMs from being started: looks at the host and asks each backend for its checks.
/// Starts and changes nothing. Role: viewer.
#[utoipa::path(
    get, path = "/v1/host/check", tag = "host", operation_id = "checkHost",
    params(CheckQuery),
    responses((status = 200, description = "What was found.", body = v1::CheckHostResponse)),
)]
async fn check_host(
    State(site): State<Site>,
    caller: Caller,
    Query(CheckQuery { backend }): Query<CheckQuery>,
) -> Result<Json<v1::CheckHostResponse>, Refused> {
    let request = v1::CheckHostRequest { backend };
    site.calls.check_host(&caller, &request).await.map(Json)
}

/// Reads the config and the backends' components anew, as SIGHUP does. What is wrong changes nothing.
/// Role: admin.
#[utoipa::path(
    post, path = "/v1/host/reload", tag = "host", operation_id = "reloadBackends",
    responses((status = 200, description = "What was changed.", body = v1::ReloadBackendsResponse)),
)]
async fn reload(
    State(site): State<Site>,
    caller: Caller,
) -> Result<Json<v1::ReloadBackendsResponse>, Refused> {
    site.calls.reload_backends(&caller).await.map(Json)
}

/// Every value of the config in effect, with its source. Role: admin.
#[utoipa::path(
    get, path = "/v1/config", tag = "host", operation_id = "explainConfig",
    responses((status = 200, description = "All values.", body = v1::ExplainConfigResponse)),
)]
async fn explain_config(
    State(site): State<Site>,
    caller: Caller,
) -> Result<Json<v1::ExplainConfigResponse>, Refused> {
    site.calls.explain_config(&caller).map(Json)
}
