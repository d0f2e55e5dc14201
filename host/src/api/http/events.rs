//! Streams: changes of VMs and backends, and consoles.
//!
//! An event has `id` (the generation of a VM), `event` and `data` (JSON on one line). Who is too slow
//! gets an event `error` with a problem, and the stream ends, as it does after `http.stream_time`.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_proto::v1;
use casemate_proto::v1::watch_backends_response::Change as BackendChange;
use casemate_proto::v1::watch_vms_response::Change;
use futures_util::{Stream, StreamExt as _, stream};
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Site;
use super::body::{Name, Number, Query, Wanted};
use crate::api::access::Caller;
use crate::api::calls::Pieces;
use crate::api::refusal::Refusal;
use crate::api::refused::Refused;

/// Between two signs of life on a stream that has nothing to tell.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) fn routes() -> OpenApiRouter<Site> {
    OpenApiRouter::new()
        .routes(routes!(watch_vms))
        .routes(routes!(watch_backends))
        .routes(routes!(get_console))
}

/// An event about VMs.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it describes what of_change makes")]
struct EventOfVm {
    /// The generation.
    #[schema(required = false)]
    id: String,
    /// `vm`, `removed`, `synchronized` or `error`.
    event: String,
    /// JSON.
    data: String,
}

/// An event about backends.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it describes what of_backend_change makes")]
struct EventOfBackends {
    /// `backend`, `removed`, `synchronized`, `refused` or `error`.
    event: String,
    /// JSON.
    data: String,
}

/// An event of a console.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it describes what of_piece makes")]
struct EventOfConsole {
    /// `data`, `end` or `error`.
    event: String,
    /// JSON.
    data: String,
}

/// What of it.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WatchQuery {
    /// Only this VM; left out: all.
    #[param(required = false, value_type = Option<String>, format = "uuid")]
    vm: Option<String>,
}

/// Every change of every VM: first each VM as it is, then `synchronized`, then what changes. Role:
/// viewer.
///
/// Events are `vm` (the VM without findings), `synchronized` and `removed` (`{"id"}`). Who reads too
/// slowly gets `error` with a problem. Connect again when the stream ends, and it begins anew.
#[utoipa::path(
    get, path = "/v1/events", tag = "vms", operation_id = "watchVms",
    params(WatchQuery),
    responses((status = 200, description = "Server-sent events.", body = EventOfVm, content_type = "text/event-stream")),
)]
async fn watch_vms(
    State(site): State<Site>,
    caller: Caller,
    Query(WatchQuery { vm }): Query<WatchQuery>,
) -> Result<Response, Refused> {
    if vm.as_deref() == Some("") {
        return Err(Refusal::no_such_vm("").into());
    }
    let request = v1::WatchVmsRequest {
        id: vm.unwrap_or_default(),
    };
    let changes = site.calls.watch_vms(&caller, &request)?;
    Ok(sse(&site, changes.map(|change| change.map(of_change))))
}

fn of_change(change: v1::WatchVmsResponse) -> Event {
    let event = Event::default().id(change.generation.to_string());
    match change.change {
        Some(Change::Vm(vm)) => with_data(event.event("vm"), &vm),
        Some(Change::Removed(id)) => with_data(event.event("removed"), &json!({"id": id})),
        Some(Change::Synchronized(_)) | None => with_data(event.event("synchronized"), &json!({})),
    }
}

/// What reloads make of the backends: first each backend as it is, then `synchronized`, then each that
/// is another after a reload. Role: viewer.
///
/// Events are `backend` (without findings), `synchronized`, `removed` (`{"name"}`) and `refused`
/// (`{"subject"}`: a reload changed nothing because of that backend or key of the config). Who reads too
/// slowly gets a problem as the last event. Connect again when the stream ends, and it begins anew.
#[utoipa::path(
    get, path = "/v1/backend-events", tag = "host", operation_id = "watchBackends",
    responses((status = 200, description = "Server-sent events.", body = EventOfBackends, content_type = "text/event-stream")),
)]
async fn watch_backends(State(site): State<Site>, caller: Caller) -> Result<Response, Refused> {
    let changes = site.calls.watch_backends(&caller)?;
    let events = changes.map(|change| change.map(of_backend_change));
    Ok(sse(&site, events))
}

fn of_backend_change(change: v1::WatchBackendsResponse) -> Event {
    let event = Event::default();
    match change.change {
        Some(BackendChange::Backend(backend)) => with_data(event.event("backend"), &backend),
        Some(BackendChange::Removed(name)) => {
            with_data(event.event("removed"), &json!({"name": name}))
        }
        Some(BackendChange::ReloadRefused(subject)) => {
            with_data(event.event("refused"), &json!({"subject": subject}))
        }
        Some(BackendChange::Synchronized(_)) | None => {
            with_data(event.event("synchronized"), &json!({}))
        }
    }
}

fn with_data(event: Event, data: &impl serde::Serialize) -> Event {
    // Messages are JSON in any case; what is none would be a bug, and is shown as one.
    let text = serde_json::to_string(data)
        .unwrap_or_else(|error| json!({"error": error.to_string()}).to_string());
    event.data(text)
}

/// What of it.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ConsoleQuery {
    /// How much of the end is wanted, in bytes; 0: all that is kept, the first and the last part.
    #[param(value_type = u64, maximum = 9223372036854775807_u64)]
    tail_bytes: Number<{ i64::MAX.cast_unsigned() }>,
    /// Go on with what the guest writes, until the VM is down.
    follow: bool,
    /// Which start of the VM: 0 the last one, 1 the one before, as far as they are kept.
    #[param(value_type = u32, maximum = 2147483647)]
    previous: Number<{ i32::MAX.cast_unsigned() as u64 }>,
}

/// The console: what is kept of it, and with `follow` what comes after. Role: secrets.
///
/// Without `Accept: text/event-stream` the bytes as the guest wrote them, and a line of its own where
/// some were not kept. With it, events `data`
/// (`{"data"}`, base64, with `omitted_bytes` where so many were not kept right before it) and `end`.
#[utoipa::path(
    get, path = "/v1/vms/{id}/console", tag = "vms", operation_id = "getConsole",
    params(("id" = String, Path, format = "uuid"), ConsoleQuery),
    responses((status = 200, description = "The console.", content(
        (Vec<u8> = "application/octet-stream"),
        (EventOfConsole = "text/event-stream"),
    ))),
)]
async fn get_console(
    State(site): State<Site>,
    caller: Caller,
    Name(id): Name,
    wanted: Wanted,
    Query(query): Query<ConsoleQuery>,
) -> Result<Response, Refused> {
    let request = v1::GetConsoleRequest {
        id,
        tail_bytes: query.tail_bytes.0,
        follow: query.follow,
        previous: u32::try_from(query.previous.0).unwrap_or(u32::MAX),
    };
    let pieces = site.calls.get_console(&caller, &request)?;
    Ok(match wanted {
        Wanted::Bytes => bytes(&site, pieces),
        Wanted::Events => sse(&site, with_end(pieces)),
    })
}

/// The pieces as events, and `end` when all came; what goes wrong is the last event.
fn with_end(
    pieces: Pieces<v1::GetConsoleResponse>,
) -> impl Stream<Item = Result<Event, Refused>> + Send + 'static {
    let end = || Ok(with_data(Event::default().event("end"), &json!({})));
    stream::unfold(Some(pieces), move |pieces| async move {
        let mut pieces = pieces?;
        match pieces.next().await {
            Some(Ok(piece)) => Some((Ok(of_piece(piece)), Some(pieces))),
            Some(Err(refused)) => Some((Err(refused), None)),
            None => Some((end(), None)),
        }
    })
}

fn of_piece(piece: v1::GetConsoleResponse) -> Event {
    let mut data = json!({"data": STANDARD.encode(piece.data)});
    if piece.omitted_bytes > 0 {
        data["omitted_bytes"] = piece.omitted_bytes.into();
    }
    with_data(Event::default().event("data"), &data)
}

/// The bytes alone, and a line where some were not kept. What goes wrong in the middle ends them, so
/// that the connection breaks.
fn bytes(site: &Site, pieces: Pieces<v1::GetConsoleResponse>) -> Response {
    let bytes = pieces
        .map(|piece| match piece {
            Ok(v1::GetConsoleResponse {
                data,
                omitted_bytes: 0,
            }) => Ok(data),
            Ok(piece) => {
                let gap = format!("\n[{} bytes were not kept]\n", piece.omitted_bytes);
                Ok([gap.into_bytes(), piece.data].concat())
            }
            Err(refused) => Err(std::io::Error::other(refused.what.into_string())),
        })
        .take_until(tokio::time::sleep(site.stream_time()));
    let media_type = [(header::CONTENT_TYPE, "application/octet-stream")];
    (media_type, Body::from_stream(bytes)).into_response()
}

fn sse(
    site: &Site,
    events: impl Stream<Item = Result<Event, Refused>> + Send + 'static,
) -> Response {
    let events = events
        .map(|event| {
            Ok::<_, Infallible>(event.unwrap_or_else(|refused| {
                let problem = super::problem::Problem::from(refused);
                with_data(Event::default().event("error"), &problem)
            }))
        })
        .take_until(tokio::time::sleep(site.stream_time()));
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Sse::new(events).keep_alive(keep_alive).into_response()
}
