//! The HTTP server.
//!
//! | route | answer |
//! |---|---|
//! | `/health` | 200 while the process serves: status, version, description, build time, instance id |
//! | `/ready` | 200 when a VM could be created, 503 when a check fails; the checks are those of `casemate doctor` for the host, and `backend` |
//! | `/metrics` | Prometheus text format |
//!
//! A check is `{id, status, detail, remedy}`; its status is `pass`, `note`, `warn` or `fail`, and what
//! passes has no remedy.

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
use crate::spec::plan::Finding;
use crate::vm::doctor;
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

/// Ready is who could create a VM now, with the backend of a request that names none.
async fn ready(State(site): State<Site>) -> Response {
    let live = site.manager.host().live();
    let mut findings = doctor::host_findings(&site.manager, &live).await;
    findings.push(doctor::of_choice(live.choose(None).await));
    let is_ready = doctor::first_failure(&findings).is_none();
    let checks: Vec<serde_json::Value> = findings.iter().map(check).collect();
    let status = if is_ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({"status": if is_ready { "pass" } else { "fail" }, "checks": checks});
    json_response(status, "application/json", &body)
}

fn check(finding: &Finding) -> serde_json::Value {
    let mut check = json!({
        "id": finding.id,
        "subject": finding.subject,
        "status": finding.severity.as_str(),
        "detail": finding.detail,
    });
    if !finding.remedy.is_empty() {
        check["remedy"] = finding.remedy.as_str().into();
    }
    check
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
