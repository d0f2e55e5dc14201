//! The HTTP server.
//!
//! | route | answer |
//! |---|---|
//! | `/health` | 200 while the process serves: status, version, description, build time, instance id |
//! | `/ready` | 200 when a VM could be created, 503 with the failing checks when not |
//! | `/metrics` | Prometheus text format |

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use casemate_catalogue::ErrorId;
use serde_json::json;

use super::listener::Listener;
use crate::backend::catalog::chain;
use crate::vm::catalogued::Catalogued as _;
use crate::vm::error::CreateError;
use crate::vm::manager::VmManager;

#[derive(Clone, Debug)]
struct Site {
    manager: VmManager,
    instance_id: Arc<str>,
}

pub async fn serve(
    listener: Listener,
    manager: VmManager,
    instance_id: Arc<str>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .fallback(route_unknown)
        .method_not_allowed_fallback(method_unknown)
        .with_state(Site {
            manager,
            instance_id,
        });
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await
}

fn json_response(
    status: StatusCode,
    media_type: &'static str,
    body: &serde_json::Value,
) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, media_type)],
        body.to_string(),
    )
        .into_response()
}

async fn health(State(site): State<Site>) -> Response {
    let body = json!({
        "status": "pass",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "casemate manager service",
        "build_time": env!("CASEMATE_BUILD_TIME"),
        "instance_id": &*site.instance_id,
    });
    json_response(StatusCode::OK, "application/health+json", &body)
}

async fn ready(State(site): State<Site>) -> Response {
    let live = site.manager.host().live();
    let qemu = live.qemu.info().await.map_err(CreateError::from);
    let backend = live.choose(None).await.map_err(CreateError::from);
    let checks = json!([
        check(
            "qemu",
            qemu.map(|info| format!("{} {}", info.path.display(), info.version))
        ),
        check("backend", backend.map(|backend| backend.name().to_owned())),
    ]);
    let is_ready = checks
        .as_array()
        .is_some_and(|checks| checks.iter().all(|c| c["status"] == "pass"));
    let status = if is_ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({"status": if is_ready { "pass" } else { "fail" }, "checks": checks});
    json_response(status, "application/json", &body)
}

/// As a create would say it, with what to do.
fn check(id: &str, result: Result<String, CreateError>) -> serde_json::Value {
    match result {
        Ok(detail) => json!({"id": id, "status": "pass", "detail": detail}),
        Err(error) => json!({
            "id": id,
            "status": "fail",
            "detail": chain(&error),
            "remedy": error.remedy(),
        }),
    }
}

async fn metrics(State(site): State<Site>) -> Response {
    let text = site
        .manager
        .host()
        .metrics
        .render(site.manager.state_names());
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
        .into_response()
}

async fn route_unknown() -> Response {
    problem(
        ErrorId::RouteUnknown,
        "routes are /health, /ready and /metrics",
    )
}

/// The router adds the header `Allow`.
async fn method_unknown(method: Method) -> Response {
    problem(
        ErrorId::HttpMethod,
        &format!("this route does not have the method {method}"),
    )
}

/// RFC 9457.
fn problem(id: ErrorId, detail: &str) -> Response {
    let entry = id.entry();
    let status = entry
        .http_status()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = json!({
        "type": id.urn(),
        "title": entry.cause,
        "status": status.as_u16(),
        "detail": detail,
        "remedy": entry.remedy,
    });
    json_response(status, "application/problem+json", &body)
}
