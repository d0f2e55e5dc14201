//! What a request brings, beside its method and path: JSON, a query, a condition, who sends it. What
//! is not of its form is refused here, with the place and the form wanted.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse as _, Response};
use casemate_catalogue::ErrorId;
use casemate_proto::json;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;

use super::problem::problem;
use crate::api::access::{Caller, Role};
use crate::api::refused::Refused;
use crate::spec::printable;
use crate::vm::catalogued::Catalogued;

const JSON: &str = "application/json";
/// As drafts of the IETF call it (draft-ietf-httpapi-idempotency-key-header).
static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("{}: {what}", .field.as_deref().unwrap_or("the body"))]
    Body { field: Option<String>, what: String },
    #[error("the query: {what}")]
    Query { what: String },
    #[error("the path: {what}")]
    Path { what: String },
    #[error("the header {name}: {what}")]
    Header {
        name: &'static str,
        what: String,
        wanted: &'static str,
    },
}

impl Catalogued for BodyError {
    fn id(&self) -> ErrorId {
        ErrorId::RequestForm
    }

    fn subject(&self) -> Option<String> {
        Some(
            match self {
                Self::Body { .. } => "body",
                Self::Query { .. } => "query",
                Self::Path { .. } => "path",
                Self::Header { name, .. } => name,
            }
            .to_owned(),
        )
    }

    fn field(&self) -> Option<String> {
        match self {
            Self::Body { field, .. } => field.clone(),
            Self::Query { .. } | Self::Path { .. } | Self::Header { .. } => None,
        }
    }

    fn remedy(&self) -> String {
        match self {
            Self::Header { wanted, .. } => format!("give {wanted}"),
            Self::Body { .. } | Self::Query { .. } | Self::Path { .. } => {
                self.id().entry().remedy.to_owned()
            }
        }
    }
}

/// A JSON body.
#[derive(Debug)]
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let media_type = request.headers().get(header::CONTENT_TYPE);
        let is_json = media_type
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .is_some_and(|value| value.trim().eq_ignore_ascii_case(JSON));
        if !is_json {
            return Err(problem(
                ErrorId::MediaType,
                "a body is application/json here",
            ));
        }
        let bytes =
            Bytes::from_request(request, state)
                .await
                .map_err(|rejection| match rejection.status() {
                    axum::http::StatusCode::PAYLOAD_TOO_LARGE => {
                        problem(ErrorId::RequestTooLarge, "the body has more than 4 MiB")
                    }
                    _ => Refused::from(BodyError::Body {
                        field: None,
                        what: "it did not come whole".to_owned(),
                    })
                    .into_response(),
                })?;
        read(&bytes)
            .map(Self)
            .map_err(|error| Refused::from(error).into_response())
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BodyError> {
    let whole = |error: serde_json::Error| BodyError::Body {
        field: None,
        what: printable(&json::without_the_value(&error.to_string())),
    };
    has_names(&serde_json::from_slice(bytes).map_err(whole)?).map_err(whole)?;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        BodyError::Body {
            // The whole body is `.`.
            field: Some(printable(&path)).filter(|path| path != "."),
            what: printable(&json::without_the_value(&error.into_inner().to_string())),
        }
    })
}

/// The one field of all bodies that is a list.
const LIST: &str = "data_disks";

/// Refuses a list where an object is wanted: serde would read it as the object's members in order.
fn has_names(value: &Value) -> serde_json::Result<()> {
    let refused = || serde_json::Error::custom("invalid type: a list, expected an object");
    match value {
        Value::Array(_) => Err(refused()),
        Value::Object(members) => members.iter().try_for_each(|(name, value)| match value {
            Value::Array(items) if name == LIST => items.iter().try_for_each(has_names),
            value => has_names(value),
        }),
        _ => Ok(()),
    }
}

/// What stands behind the `?`. A name may come several times.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let text = parts.uri.query().unwrap_or_default();
        serde_html_form::from_str(text).map(Self).map_err(|error| {
            let what = printable(&error.to_string());
            Refused::from(BodyError::Query { what }).into_response()
        })
    }
}

/// A number that is at most `MOST`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Number<const MOST: u64>(pub(super) u64);

impl<'de, const MOST: u64> serde::Deserialize<'de> for Number<MOST> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(from)?;
        if number > MOST {
            let error = format_args!("{number} is more than {MOST}");
            return Err(serde::de::Error::custom(error));
        }
        Ok(Self(number))
    }
}

/// The one variable part of a path.
#[derive(Debug)]
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let path = <Path<String> as FromRequestParts<S>>::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name)).map_err(|rejection| {
            let what = printable(&rejection.body_text());
            Refused::from(BodyError::Path { what }).into_response()
        })
    }
}

/// The generation that `If-Match` names; none where the header is missing or is `*`.
#[derive(Debug)]
pub(super) struct IfMatch(pub(super) Option<u64>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        condition(&parts.headers)
            .map(Self)
            .map_err(|error| Refused::from(error).into_response())
    }
}

fn condition(headers: &HeaderMap) -> Result<Option<u64>, BodyError> {
    let error = |what: &str| BodyError::Header {
        name: "If-Match",
        what: what.to_owned(),
        wanted: "the `ETag` of one answer, such as \"17\", or `*`",
    };
    let mut values = headers.get_all(header::IF_MATCH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(error("it comes more than once"));
    }
    let value = value.to_str().map(str::trim).unwrap_or_default();
    if value == "*" {
        return Ok(None);
    }
    // People leave the quotes out.
    let quoted = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    Some(quoted.unwrap_or(value))
        .filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .map(Some)
        .ok_or_else(|| error("it is no generation"))
}

/// The key of a create that may be sent again; empty where there is none.
#[derive(Debug)]
pub(super) struct IdempotencyKey(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Response> {
        let mut values = parts.headers.get_all(&IDEMPOTENCY_KEY).iter();
        let refused = |what: &str| {
            Refused::from(BodyError::Header {
                name: "Idempotency-Key",
                what: what.to_owned(),
                wanted: "1 to 128 visible ASCII characters, such as a UUID",
            })
            .into_response()
        };
        let Some(value) = values.next() else {
            return Ok(Self(String::new()));
        };
        if values.next().is_some() {
            return Err(refused("it comes more than once"));
        }
        match value.to_str() {
            Ok("") | Err(_) => Err(refused("it is no key")),
            Ok(key) => Ok(Self(key.to_owned())),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.extensions))
    }
}

/// A caller with the role operator. Asked before a body is read.
#[derive(Debug)]
pub(super) struct Operator(pub(super) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Operator {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let caller = Caller::of(&parts.extensions);
        caller.require(Role::Operator)?;
        Ok(Self(caller))
    }
}

/// Whether the client wants events rather than the bytes as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Events,
    Bytes,
}

impl<S: Send + Sync> FromRequestParts<S> for Wanted {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let accept = parts.headers.get_all(header::ACCEPT).iter();
        let mut types = accept
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|item| item.split(';').next());
        let wants_events = types.any(|name| name.trim().eq_ignore_ascii_case("text/event-stream"));
        Ok(if wants_events {
            Self::Events
        } else {
            Self::Bytes
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_no_object() {
        for (text, is_read) in [
            (r#"{"spec": {"data_disks": []}}"#, true),
            (r#"{"spec": {"data_disks": [{"id": "a"}]}}"#, true),
            ("[]", false),
            (r#"{"spec": []}"#, false),
            (r#"{"spec": {"files": ["k"]}}"#, false),
            (r#"{"spec": {"data_disks": [["a"]]}}"#, false),
        ] {
            let value = serde_json::from_str(text).unwrap();
            assert_eq!(has_names(&value).is_ok(), is_read, "{text}");
        }
    }

    #[test]
    fn a_condition_is_one_generation_or_any() {
        for (values, wanted) in [
            (&[][..], Some(None)),
            (&["*"], Some(None)),
            (&["\"17\""], Some(Some(17))),
            (&[" \"0\" "], Some(Some(0))),
            (&["17"], Some(Some(17))),
            (&["\"17"], None),
            (&["\"\""], None),
            (&["\"-1\""], None),
            (&["W/\"17\""], None),
            (&["\"1\", \"2\""], None),
            (&["\"1\"", "\"2\""], None),
            (&["\"99999999999999999999\""], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::IF_MATCH, value.parse().unwrap());
            }
            assert_eq!(condition(&headers).ok(), wanted, "{values:?}");
        }
    }
}
