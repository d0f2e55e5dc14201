//! Errors as problems (RFC 9457).
//!
//! Beside the members of the standard a problem has `remedy`, and where there is one `subject`,
//! `field` (of the request, that is at fault) and `qemu_stderr` (QEMU's last lines).

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use casemate_catalogue::ErrorId;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::refused::Refused;

pub(in crate::api) const MEDIA_TYPE: &str = "application/problem+json";

/// An error (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// `urn:casemate:error:ID`; docs/errors.md has the ids.
    #[serde(rename = "type")]
    id: String,
    /// What such errors have in common.
    title: &'static str,
    /// As the answer's own.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What happened this time.
    detail: String,
    /// What to do about it.
    remedy: String,
    /// What it is about: an id, a key of the config, the role of a file, `qemu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    subject: Option<String>,
    /// The field of the request that is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<String>,
    /// The last lines that QEMU said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    qemu_stderr: Option<String>,
}

fn status_of(id: ErrorId) -> StatusCode {
    id.entry()
        .http_status()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(self)).into_response();
        let media_type = HeaderValue::from_static(MEDIA_TYPE);
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, media_type);
        response
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        Self {
            id: refused.id.urn(),
            title: refused.id.entry().cause,
            status: status_of(refused.id).as_u16(),
            detail: refused.what.into(),
            remedy: refused.remedy.into(),
            subject: refused.subject.map(Into::into),
            field: refused.field.map(Into::into),
            qemu_stderr: refused.qemu_stderr.map(Into::into),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}

/// The problem of an error that is nothing but its entry and what happened.
pub(in crate::api) fn problem(id: ErrorId, detail: &str) -> Response {
    let entry = id.entry();
    Problem {
        id: id.urn(),
        title: entry.cause,
        status: status_of(id).as_u16(),
        detail: detail.to_owned(),
        remedy: entry.remedy.to_owned(),
        subject: None,
        field: None,
        qemu_stderr: None,
    }
    .into_response()
}
