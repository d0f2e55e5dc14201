//! VMs, as resources: `/v1/vms`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use casemate_proto::v1;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Site;
use super::body::{BodyError, IdempotencyKey, IfMatch, JsonBody, Name, Operator, Query};
use crate::api::access::Caller;
use crate::api::calls::Change;
use crate::api::refused::Refused;
use crate::spec::lifecycle::Action;

pub(super) fn routes() -> OpenApiRouter<Site> {
    OpenApiRouter::new()
        .routes(routes!(create_vm, list_vms))
        .routes(routes!(get_vm, remove_vm))
        .routes(routes!(start_vm))
        .routes(routes!(stop_vm))
        .routes(routes!(restart_vm))
        .routes(routes!(pause_vm))
        .routes(routes!(resume_vm))
        .routes(routes!(reset_vm))
        .routes(routes!(extend_ttl, keep_vm))
        .routes(routes!(get_measurement))
        .routes(routes!(plan_vm))
}

/// Labels of a VM, so that more in a query fit none.
const MAX_LABELS: usize = 64;
const MAX_STATES: usize = 11;

/// A VM as an answer: with its generation as the entity tag.
#[derive(Debug)]
struct Shown(v1::Vm);

impl IntoResponse for Shown {
    fn into_response(self) -> Response {
        let tag = HeaderValue::from_str(&format!("\"{}\"", self.0.generation));
        let mut response = Json(self.0).into_response();
        if let Ok(tag) = tag {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response
    }
}

/// A VM that was asked for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
struct CreateVm {
    /// Left out: everything is the operator's default.
    spec: Option<v1::VmSpec>,
    /// Plans it and has QEMU take it, up to the guest's first instruction. Nothing is left of it.
    dry_run: bool,
}

/// Starts a VM and answers once QEMU says that it runs. Role: operator.
///
/// A caller that leaves before the answer gets no VM, unless there is an `Idempotency-Key`: a request
/// that is sent again with the same key is answered with the VM that there is.
#[utoipa::path(
    post, path = "/v1/vms", tag = "vms", operation_id = "createVm",
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 128, pattern = r"^[!-~]+$",
        description = "A request that is sent again with its key makes no second VM. The key is its client's own, and known as long as the VM is there.")),
    request_body = CreateVm,
    responses(
        (status = 201, description = "It runs.", body = v1::Vm, headers(
            ("ETag" = String, description = "Its generation, for `If-Match`."),
            ("Location" = String, description = "Where it is."))),
        (status = 200, description = "Of a dry run.", body = v1::PlanVmResponse),
    ),
)]
async fn create_vm(
    State(site): State<Site>,
    Operator(caller): Operator,
    IdempotencyKey(idempotency_key): IdempotencyKey,
    JsonBody(CreateVm { spec, dry_run }): JsonBody<CreateVm>,
) -> Result<Response, Refused> {
    let request = v1::CreateVmRequest {
        spec,
        idempotency_key,
        dry_run,
    };
    let created = site.calls.create_vm(caller, request).await?;
    Ok(match created {
        v1::CreateVmResponse {
            plan: Some(plan), ..
        } => Json(plan).into_response(),
        v1::CreateVmResponse { vm, .. } => {
            let vm = vm.unwrap_or_default();
            let place = HeaderValue::from_str(&format!("/v1/vms/{}", vm.id));
            let mut response = (StatusCode::CREATED, Shown(vm)).into_response();
            if let Ok(place) = place {
                response.headers_mut().insert(header::LOCATION, place);
            }
            response
        }
    })
}

/// Which VMs, and how many of them. What is given has to fit, all of it.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// The whole name.
    name: String,
    backend: String,
    /// One of these.
    #[param(inline, value_type = Vec<StateName>, max_items = 11)]
    state: Vec<StateName>,
    /// `KEY=VALUE`; all of these.
    #[param(value_type = Vec<String>, max_items = 64, schema_with = label_filters)]
    label: Vec<String>,
    /// Most VMs of an answer.
    #[param(minimum = 1, maximum = 1000, value_type = Option<u32>)]
    page_size: Option<u32>,
    /// `next_page_token` of the answer before, with everything else as it was. VMs that come and go
    /// between pages neither hide nor double others.
    #[param(
        pattern = r"^([0-9a-f]{1,9}\.[0-9a-f]{1,8}\.[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})?$"
    )]
    page_token: String,
}

fn label_filters() -> utoipa::openapi::schema::Schema {
    use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
    let label = ObjectBuilder::new().schema_type(Type::String).pattern(Some(
        r"^[A-Za-z0-9._/-]{1,63}=[^\x00-\x1f\x7f-\x9f]{0,255}$",
    ));
    ArrayBuilder::new().items(label).max_items(Some(64)).into()
}

/// A state, by its name.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum StateName {
    Creating,
    Starting,
    Running,
    Paused,
    Stopping,
    Stopped,
    Exited,
    Failed,
    Unresponsive,
    Lost,
    Removing,
}

impl From<StateName> for v1::VmState {
    fn from(name: StateName) -> Self {
        match name {
            StateName::Creating => Self::Creating,
            StateName::Starting => Self::Starting,
            StateName::Running => Self::Running,
            StateName::Paused => Self::Paused,
            StateName::Stopping => Self::Stopping,
            StateName::Stopped => Self::Stopped,
            StateName::Exited => Self::Exited,
            StateName::Failed => Self::Failed,
            StateName::Unresponsive => Self::Unresponsive,
            StateName::Lost => Self::Lost,
            StateName::Removing => Self::Removing,
        }
    }
}

/// VMs in order of creation, a page at a time. Role: viewer.
#[utoipa::path(
    get, path = "/v1/vms", tag = "vms", operation_id = "listVms",
    params(ListQuery),
    responses((status = 200, description = "Without findings, which one VM has.", body = v1::ListVmsResponse)),
)]
async fn list_vms(
    State(site): State<Site>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<Json<v1::ListVmsResponse>, Refused> {
    if query.state.len() > MAX_STATES {
        return Err(
            query_error("state comes more than 11 times, and there are no more states").into(),
        );
    }
    let labels = labels(query.label)?;
    let is_impossible = labels.is_none();
    let states = query.state.into_iter().map(v1::VmState::from);
    let request = v1::ListVmsRequest {
        name: query.name,
        backend: query.backend,
        states: states.map(i32::from).collect(),
        labels: labels.unwrap_or_default(),
        page_size: query.page_size.unwrap_or_default(),
        page_token: query.page_token,
    };
    if query.page_size == Some(0) {
        return Err(query_error("page_size is 0, and 1 to 1000 are wanted").into());
    }
    let listed = site.calls.list_vms(&caller, request)?;
    Ok(Json(if is_impossible {
        v1::ListVmsResponse::default()
    } else {
        listed
    }))
}

fn query_error(what: &str) -> BodyError {
    BodyError::Query {
        what: what.to_owned(),
    }
}

/// None where no VM can have all of them, because one is wanted with two values.
fn labels(texts: Vec<String>) -> Result<Option<BTreeMap<String, String>>, BodyError> {
    if texts.len() > MAX_LABELS {
        return Err(query_error("there are more than 64 labels"));
    }
    let mut labels = BTreeMap::new();
    for text in texts {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| query_error("a label is KEY=VALUE"))?;
        let earlier = labels.insert(key.to_owned(), value.to_owned());
        if earlier.is_some_and(|earlier| earlier != value) {
            return Ok(None);
        }
    }
    Ok(Some(labels))
}

/// One VM, with the findings of its plan. Role: viewer.
#[utoipa::path(
    get, path = "/v1/vms/{id}", tag = "vms", operation_id = "getVm",
    params(("id" = String, Path, format = "uuid")),
    responses((status = 200, description = "The VM.", body = v1::Vm, headers(("ETag" = String, description = "Its generation, for `If-Match`.")))),
)]
async fn get_vm(
    State(site): State<Site>,
    caller: Caller,
    Name(id): Name,
) -> Result<Shown, Refused> {
    let found = site.calls.get_vm(&caller, &v1::GetVmRequest { id })?;
    Ok(Shown(found.vm.unwrap_or_default()))
}

/// Stops the VM and deletes all that belongs to it. Role: operator.
///
/// A removal goes on when the caller leaves or the daemon is restarted.
#[utoipa::path(
    delete, path = "/v1/vms/{id}", tag = "vms", operation_id = "removeVm",
    params(("id" = String, Path, format = "uuid"), IfMatchHeader),
    responses((status = 204, description = "It is gone.")),
)]
async fn remove_vm(
    State(site): State<Site>,
    caller: Caller,
    Name(id): Name,
    IfMatch(generation): IfMatch,
) -> Result<StatusCode, Refused> {
    let change = Change::new(Action::Remove, id, generation);
    site.calls.change_vm(caller, change).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The condition of a change.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
struct IfMatchHeader {
    /// The change is made only if the VM's `ETag`, which is its generation, is this one.
    #[param(
        rename = "If-Match",
        pattern = r#"^("[0-9]{1,19}"|[0-9]{1,19}|\*)$"#,
        required = false
    )]
    #[expect(dead_code, reason = "read by IfMatch; this is its description")]
    if_match: Option<String>,
}

/// Nothing may stand behind the `?`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoQuery {}

/// How it is started.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct StartQuery {
    /// A VM that would be measured otherwise than at its last start is refused unless this is set;
    /// verifiers then need its new policy.
    accept_measurement: bool,
}

/// How it is stopped.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct StopQuery {
    /// Without asking the guest: `quit`, then signals.
    force: bool,
}

/// How it is restarted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RestartQuery {
    /// Without asking the guest: `quit`, then signals.
    force: bool,
    /// A VM that would be measured otherwise than at its last start is refused unless this is set,
    /// and goes on running.
    accept_measurement: bool,
}

async fn changed(site: &Site, caller: Caller, change: Change) -> Result<Shown, Refused> {
    let vm = site.calls.change_vm(caller, change).await?;
    Ok(Shown(vm.unwrap_or_default()))
}

/// Starts a VM that is stopped, exited or failed, on its own disk, and answers once it runs. Role:
/// operator.
///
/// On a VM that runs already it does nothing.
#[utoipa::path(
    post, path = "/v1/vms/{id}/start", tag = "vms", operation_id = "startVm",
    params(("id" = String, Path, format = "uuid"), StartQuery, IfMatchHeader),
    responses((status = 200, description = "It runs.", body = v1::Vm, headers(("ETag" = String)))),
)]
async fn start_vm(
    State(site): State<Site>,
    caller: Caller,
    Name(id): Name,
    IfMatch(generation): IfMatch,
    Query(query): Query<StartQuery>,
) -> Result<Shown, Refused> {
    let change = Change::new(Action::Start, id, generation);
    changed(
        &site,
        caller,
        change.with_acceptance(query.accept_measurement),
    )
    .await
}

/// Ends QEMU and keeps the VM: power button, then `quit`, then signals. Answers when the process is
/// gone. Role: operator.
///
/// On a VM that is down it does nothing, but one that was to be restarted stays down.
#[utoipa::path(
    post, path = "/v1/vms/{id}/stop", tag = "vms", operation_id = "stopVm",
    params(("id" = String, Path, format = "uuid"), StopQuery, IfMatchHeader),
    responses((status = 200, description = "It is down.", body = v1::Vm, headers(("ETag" = String)))),
)]
async fn stop_vm(
    State(site): State<Site>,
    caller: Caller,
    Name(id): Name,
    IfMatch(generation): IfMatch,
    Query(query): Query<StopQuery>,
) -> Result<Shown, Refused> {
    let change = Change::new(Action::Stop, id, generation);
    changed(&site, caller, change.with_force(query.force)).await
}

/// Stops the VM and starts it again. Role: operator.
#[utoipa::path(
    post, path = "/v1/vms/{id}/restart", tag = "vms", operation_id = "restartVm",
    params(("id" = String, Path, format = "uuid"), RestartQuery, IfMatchHeader),
    responses((status = 200, description = "It runs again.", body = v1::Vm, headers(("ETag" = String)))),
)]
async fn restart_vm(
    State(site): State<Site>,
    caller: Caller,
    Name(id): Name,
    IfMatch(generation): IfMatch,
    Query(query): Query<RestartQuery>,
) -> Result<Shown, Refused> {
    let change = Change::new(Action::Restart, id, generation)
        .with_force(query.force)
        .with_acceptance(query.accept_measurement);
    changed(&site, caller, change).await
}

/// Stops the vCPUs; memory and devices stay. Role: operator.
#[utoipa::path(
    post, path = "/v1/vms/{id}/pause", tag = "vms", operation_id = "pauseVm",
    params(("id" = String, Path, format = "uuid"), IfMatchHeader),
    responses((status = 200, description = "It is paused.", body = v1::Vm, headers(("ETag" = String)))),
)]
async fn pause_vm(
    State(site): State<Site>,
    caller: Caller,
    Name(id): Name,
    IfMatch(generation): IfMatch,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Shown, Refused> {
    changed(&site, caller, Change::new(Action::Pause, id, generation)).await
}

/// Lets the vCPUs of a paused VM go on. Role: operator.
#[utoipa::path(
    post, path = "/v1/vms/{id}/resume", tag = "vms", operation_id = "resumeVm",
    params(("id" = String, Path, format = "uuid"), IfMatchHeader),
    responses((status = 200, description = "It runs.", body = v1::Vm, headers(("ETag" = String)))),
)]
async fn resume_vm(
    State(site): State<Site>,
    caller: Caller,
    Name(id): Name,
    IfMatch(generation): IfMatch,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Shown, Refused> {
    changed(&site, caller, Change::new(Action::Resume, id, generation)).await
}

/// Like the reset button: the guest boots again in the same QEMU. Role: operator.
#[utoipa::path(
    post, path = "/v1/vms/{id}/reset", tag = "vms", operation_id = "resetVm",
    params(("id" = String, Path, format = "uuid"), IfMatchHeader),
    responses((status = 200, description = "It was reset.", body = v1::Vm, headers(("ETag" = String)))),
)]
async fn reset_vm(
    State(site): State<Site>,
    caller: Caller,
    Name(id): Name,
    IfMatch(generation): IfMatch,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Shown, Refused> {
    changed(&site, caller, Change::new(Action::Reset, id, generation)).await
}

/// How long it stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Ttl {
    /// Counted from now.
    #[schema(minimum = 1, maximum = 316_224_000)]
    #[serde(deserialize_with = "casemate_proto::json::whole")]
    ttl_seconds: u32,
}

/// Sets when the VM is removed, counted from now. Role: operator.
#[utoipa::path(
    put, path = "/v1/vms/{id}/ttl", tag = "vms", operation_id = "extendTtl",
    params(("id" = String, Path, format = "uuid"), IfMatchHeader),
    request_body = Ttl,
    responses((status = 200, description = "The VM.", body = v1::Vm, headers(("ETag" = String)))),
)]
async fn extend_ttl(
    State(site): State<Site>,
    Operator(caller): Operator,
    Name(id): Name,
    IfMatch(expected_generation): IfMatch,
    JsonBody(Ttl { ttl_seconds }): JsonBody<Ttl>,
) -> Result<Shown, Refused> {
    let request = v1::ExtendTtlRequest {
        id,
        ttl_seconds: Some(ttl_seconds),
        expected_generation,
    };
    let extended = site.calls.extend_ttl(caller, request).await?;
    Ok(Shown(extended.vm.unwrap_or_default()))
}

/// Lets the VM stay until somebody removes it. Role: operator.
#[utoipa::path(
    delete, path = "/v1/vms/{id}/ttl", tag = "vms", operation_id = "keepVm",
    params(("id" = String, Path, format = "uuid"), IfMatchHeader),
    responses((status = 200, description = "The VM.", body = v1::Vm, headers(("ETag" = String)))),
)]
async fn keep_vm(
    State(site): State<Site>,
    caller: Caller,
    Name(id): Name,
    IfMatch(expected_generation): IfMatch,
) -> Result<Shown, Refused> {
    let request = v1::ExtendTtlRequest {
        id,
        ttl_seconds: None,
        expected_generation,
    };
    let extended = site.calls.extend_ttl(caller, request).await?;
    Ok(Shown(extended.vm.unwrap_or_default()))
}

/// Which form.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct MeasurementQuery {
    /// `json` tells of unknown registers too, and why they are; `corim` is CBOR, in a COSE_Sign1
    /// where a signing key is configured; `trustee` is for its RVPS; `text` is for people.
    #[param(inline)]
    format: FormatName,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum FormatName {
    #[default]
    Json,
    Corim,
    Trustee,
    Text,
}

impl From<FormatName> for v1::MeasurementFormat {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Json => Self::Json,
            FormatName::Corim => Self::Corim,
            FormatName::Trustee => Self::Trustee,
            FormatName::Text => Self::Text,
        }
    }
}

/// What a verifier will see of the VM, in the format that it reads. Role: viewer.
#[utoipa::path(
    get, path = "/v1/vms/{id}/measurement", tag = "vms", operation_id = "getMeasurement",
    params(("id" = String, Path, format = "uuid"), MeasurementQuery),
    responses((status = 200, description = "The document.", content(
        (serde_json::Value = "application/json"),
        (Vec<u8> = "application/rim+cbor"),
        (Vec<u8> = "application/rim+cose"),
        (String = "text/plain"),
    ))),
)]
async fn get_measurement(
    State(site): State<Site>,
    caller: Caller,
    Name(id): Name,
    Query(query): Query<MeasurementQuery>,
) -> Result<Response, Refused> {
    let request = v1::GetMeasurementRequest {
        id,
        format: v1::MeasurementFormat::from(query.format).into(),
    };
    let measured = site.calls.get_measurement(&caller, &request)?;
    let media_type = [(header::CONTENT_TYPE, measured.media_type)];
    Ok((media_type, measured.document).into_response())
}

/// What a create would start, without starting it and without reserving anything. Role: operator.
#[utoipa::path(
    post, path = "/v1/plan", tag = "vms", operation_id = "planVm",
    request_body = v1::PlanVmRequest,
    responses((status = 200, description = "The plan.", body = v1::PlanVmResponse)),
)]
async fn plan_vm(
    State(site): State<Site>,
    Operator(caller): Operator,
    JsonBody(request): JsonBody<v1::PlanVmRequest>,
) -> Result<Json<v1::PlanVmResponse>, Refused> {
    site.calls.plan_vm(caller, request).await.map(Json)
}
