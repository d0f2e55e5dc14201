//! `/health`, `/ready` and `/metrics`.
//!
//! A check is `{id, subject, status, detail, remedy}`; its status is `pass`, `note`, `warn` or `fail`,
//! and what passes has no remedy.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Site;
use crate::api::access::{Caller, Role};
use crate::api::refused::Refused;
use crate::spec::plan::Finding;
use crate::spec::request::BackendWish;
use crate::vm::doctor;

/// Of a health document (draft-inadarei-api-health-check).
const HEALTH: &str = "application/health+json";
/// Prometheus' text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn routes() -> OpenApiRouter<Site> {
    OpenApiRouter::new()
        .routes(routes!(health))
        .routes(routes!(ready))
        .routes(routes!(metrics))
}

/// The daemon.
#[derive(Debug, Serialize, ToSchema)]
struct Health {
    /// `pass`.
    status: &'static str,
    version: &'static str,
    description: &'static str,
    build_time: &'static str,
    instance_id: String,
}

/// Answers while the process serves. No role.
#[utoipa::path(
    get, path = "/health", tag = "daemon", operation_id = "health", security(()),
    responses((status = 200, description = "It serves.", body = Health, content_type = "application/health+json")),
)]
async fn health(State(site): State<Site>) -> Response {
    let body = Health {
        status: "pass",
        version: env!("CARGO_PKG_VERSION"),
        description: "casemate manager service",
        build_time: env!("CASEMATE_BUILD_TIME"),
        instance_id: site.instance_id.to_string(),
    };
    ([(header::CONTENT_TYPE, HEALTH)], Json(body)).into_response()
}

/// Whether a VM could be created now.
#[derive(Debug, Serialize, ToSchema)]
struct Readiness {
    /// `pass` or `fail`.
    status: &'static str,
    /// Of `casemate doctor` for the host, and `backend`. Only viewers see them.
    checks: Vec<Check>,
}

/// What was looked at.
#[derive(Debug, Serialize, ToSchema)]
struct Check {
    id: String,
    subject: String,
    /// `pass`, `note`, `warn` or `fail`.
    status: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schema(required = false)]
    remedy: String,
}

/// Whether a VM could be created now, with the backend of a request that names none. No role; who
/// is no viewer sees no checks.
#[utoipa::path(
    get, path = "/ready", tag = "daemon", operation_id = "ready", security(()),
    responses(
        (status = 200, description = "It could.", body = Readiness),
        (status = 503, description = "A check fails.", body = Readiness),
    ),
)]
async fn ready(State(site): State<Site>, caller: Caller) -> Response {
    let manager = site.calls.manager();
    let live = manager.host().live();
    let mut findings = doctor::host_findings(manager, &live).await;
    findings.push(doctor::of_choice(
        live.choose(&BackendWish::Any, &BTreeMap::new()).await,
    ));
    let (code, status) = match doctor::first_failure(&findings) {
        None => (StatusCode::OK, "pass"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "fail"),
    };
    let checks = if caller.has(Role::Viewer) {
        findings.into_iter().map(Check::from).collect()
    } else {
        Vec::new()
    };
    (code, Json(Readiness { status, checks })).into_response()
}

impl From<Finding> for Check {
    fn from(finding: Finding) -> Self {
        Self {
            id: finding.id,
            subject: finding.subject,
            status: finding.severity.as_str(),
            detail: finding.detail,
            remedy: finding.remedy,
        }
    }
}

/// Metrics in Prometheus' text format. Role: viewer.
#[utoipa::path(
    get, path = "/metrics", tag = "daemon", operation_id = "metrics",
    responses((status = 200, description = "The metrics.", body = String, content_type = "text/plain")),
)]
async fn metrics(State(site): State<Site>, caller: Caller) -> Result<Response, Refused> {
    caller.require(Role::Viewer)?;
    let manager = site.calls.manager();
    let live = manager.host().live();
    let backends = live.catalog.in_service().map(|backend| {
        let info = backend.info();
        [backend.name(), &info.tee, &info.version, backend.sha256()]
    });
    let metrics = &manager.host().metrics;
    let text = metrics.render(manager.state_names(), backends);
    Ok(([(header::CONTENT_TYPE, METRICS)], text).into_response())
}
