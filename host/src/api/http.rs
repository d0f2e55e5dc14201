//! The HTTP server. Below `/v1` it has the calls of `casemate.v1` as JSON, described by
//! `/v1/openapi.json` (OpenAPI 3.1), which is made from the handlers and the messages themselves.
//! Beside it stand `/health`, `/ready` and `/metrics`, and `/docs`, which shows the description.
//!
//! Errors are problems (RFC 9457). Streams are server-sent events, and end after `http.stream_time`:
//! whoever wants more connects again, as browsers do by themselves.

mod body;
mod description;
mod events;
mod host;
mod problem;
mod server;
mod site;
mod site_name;
mod vms;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use casemate_catalogue::ErrorId;
use utoipa_axum::router::OpenApiRouter;

use super::access::gate::Gate;
use super::access::layer::guarded;
use super::calls::Calls;
use super::deadline::{DefaultDeadline, HttpLimit};
use super::grpc::MAX_REQUEST;
use super::listener::Listener;
use super::refused::Refused;
use crate::vm::manager::VmManager;
pub(super) use problem::problem;

/// What the handlers have.
#[derive(Clone, Debug)]
struct Site {
    calls: Calls,
    instance_id: Arc<str>,
}

impl Site {
    fn stream_time(&self) -> Duration {
        self.calls.manager().host().live().stream_time
    }
}

pub async fn serve(
    listener: Listener,
    manager: VmManager,
    instance_id: Arc<str>,
    deadline: DefaultDeadline,
    gate: Arc<Gate>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let site = Site {
        calls: Calls::new(manager),
        instance_id,
    };
    server::serve(listener, guarded(router(site, deadline), gate), stop).await
}

fn router(site: Site, deadline: DefaultDeadline) -> Router {
    let (router, description) = described().split_for_parts();
    let description = description::complete(description);
    router
        .merge(description::pages(&description))
        .fallback(route_unknown)
        .method_not_allowed_fallback(method_unknown)
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .layer(middleware::from_fn(site_name::own_names_only))
        .layer(middleware::from_fn_with_state(deadline, in_time))
        .with_state(site)
}

/// Every route that the description has.
fn described() -> OpenApiRouter<Site> {
    OpenApiRouter::with_openapi(description::begin())
        .merge(vms::routes())
        .merge(events::routes())
        .merge(host::routes())
        .merge(site::routes())
}

/// Ends a request that is not answered in time. To the rest of the daemon it is as if its caller had
/// left: a VM that was being made is unmade.
async fn in_time(
    State(deadline): State<DefaultDeadline>,
    request: Request,
    next: Next,
) -> Response {
    let time = deadline.get();
    match tokio::time::timeout(time, next.run(request)).await {
        Ok(answer) => answer,
        Err(_) => Refused::from(HttpLimit { time }).into_response(),
    }
}

async fn route_unknown() -> Response {
    problem(
        ErrorId::RouteUnknown,
        "there is no such route; /docs shows those that there are",
    )
}

/// The router adds the header `Allow`.
async fn method_unknown(method: Method) -> Response {
    problem(
        ErrorId::HttpMethod,
        &format!("this route does not have the method {method}"),
    )
}
