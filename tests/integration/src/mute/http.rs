//! HTTP: bodies are walked along the schemas of the served OpenAPI document, so that a property is
//! left out wherever its schema is referred to.

use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::grpc::as_it_is;
use super::part::{Field, Part, Route, fits};
use super::proxy::{Body, Error};
use super::taken;

/// Where the daemon describes its interface.
pub const DOCUMENT: &str = "/v1/openapi.json";
const EVENTS: &str = "text/event-stream";

/// What all connections have in common.
#[derive(Debug)]
pub(super) struct Site {
    daemon: SocketAddr,
    part: Arc<Part>,
    document: OnceCell<Value>,
}

impl Site {
    pub(super) fn new(daemon: SocketAddr, part: Arc<Part>) -> Self {
        Self {
            daemon,
            part,
            document: OnceCell::new(),
        }
    }

    async fn document(&self, headers: &HeaderMap) -> &Value {
        let ask = || async {
            let mut request = crate::http::Request::get(DOCUMENT);
            if let Some(token) = headers.get("authorization") {
                request = request.header("Authorization", token.to_str().unwrap_or_default());
            }
            let answer = request.send(self.daemon).await.expect("the daemon answers");
            assert_eq!(answer.status, 200, "the description is there for everybody");
            answer.json()
        };
        self.document.get_or_init(ask).await
    }

    fn takes(&self, wanted: impl Fn(&Part) -> bool) -> bool {
        let takes = wanted(&self.part);
        if takes {
            taken(&self.part);
        }
        takes
    }
}

pub(super) async fn connection(stream: TcpStream, site: Arc<Site>) -> Result<(), Error> {
    let service = service_fn(move |request| call(request, Arc::clone(&site)));
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

async fn call(request: Request<Incoming>, site: Arc<Site>) -> Result<Response<Body>, Error> {
    let method = request.method().as_str().to_owned();
    let path = request.uri().path().to_owned();
    let here = |route: &Route| route.serves(&method, &path);
    if site.takes(|part| matches!(part, Part::Route(route) if here(route))) {
        let mut response = Response::new(whole(Vec::new()));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    }
    let (mut head, body) = request.into_parts();
    if let Part::Query(route, name) = &*site.part
        && here(route)
    {
        let (uri, found) = without_parameter(&head.uri, name);
        if site.takes(|_| found) {
            head.uri = uri?;
        }
    }
    if let Part::Header(route, name) = &*site.part
        && here(route)
    {
        let removed = head.headers.remove(name.as_str()).is_some();
        site.takes(|_| removed);
    }
    let asked = head.headers.clone();
    let body = match &*site.part {
        Part::HttpRequest(field) => {
            let bytes = body.collect().await?.to_bytes();
            let document = site.document(&asked).await;
            let schema = request_schema(document, &method, &path);
            let bytes = match schema {
                Some(schema) => json_without(&bytes, document, schema, field),
                None => bytes.to_vec(),
            };
            head.headers.remove(CONTENT_LENGTH);
            whole(bytes)
        }
        _ => as_it_is(body),
    };
    let answer = send(&site, Request::from_parts(head, body)).await?;
    let (mut head, body) = answer.into_parts();
    if let Part::AnswerHeader(route, name) = &*site.part
        && here(route)
    {
        let name: HeaderName = name.parse()?;
        let removed = head.headers.remove(name).is_some();
        site.takes(|_| removed);
    }
    let is_stream = media_type(&head.headers) == EVENTS;
    let body = match &*site.part {
        Part::Event(route, _) if is_stream && here(route) => events(
            body,
            Arc::clone(&site),
            Arc::new(Value::Null),
            String::new(),
        ),
        Part::HttpResponse(_) if is_stream => {
            let document = Arc::new(site.document(&asked).await.clone());
            let schema = stream_schema(&document, &method, &path);
            events(body, Arc::clone(&site), document, schema)
        }
        Part::HttpResponse(field) => {
            let document = site.document(&asked).await;
            match response_schema(document, &method, &path, head.status, &head.headers) {
                Some(schema) => {
                    let bytes = body.collect().await?.to_bytes();
                    head.headers.remove(CONTENT_LENGTH);
                    whole(json_without(&bytes, document, schema, field))
                }
                None => as_it_is(body),
            }
        }
        _ => as_it_is(body),
    };
    Ok(Response::from_parts(head, body))
}

/// On a connection of its own, which ends when the answer is dropped.
async fn send(site: &Site, mut request: Request<Body>) -> Result<Response<Incoming>, Error> {
    let stream = TcpStream::connect(site.daemon).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    *request.version_mut() = Version::HTTP_11;
    if !request.headers().contains_key(HOST) {
        let host = site.daemon.to_string().parse()?;
        request.headers_mut().insert(HOST, host);
    }
    let mut response = sender.send_request(request).await?;
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}

fn whole(bytes: Vec<u8>) -> Body {
    let body = Full::new(Bytes::from(bytes));
    body.map_err(|never: std::convert::Infallible| match never {})
        .boxed_unsync()
}

fn media_type(headers: &HeaderMap) -> &str {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = value.and_then(|value| value.split(';').next());
    media_type.unwrap_or_default().trim()
}

/// The same without one parameter, and whether it had it.
fn without_parameter(uri: &Uri, name: &str) -> (Result<Uri, Error>, bool) {
    let query = uri.query().unwrap_or_default();
    let is_it = |pair: &&str| pair.split('=').next() == Some(name);
    let found = query.split('&').any(|pair| is_it(&pair));
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_it(pair)).collect();
    let text = match kept.join("&") {
        query if query.is_empty() => uri.path().to_owned(),
        query => format!("{}?{query}", uri.path()),
    };
    (text.parse().map_err(Error::from), found)
}

fn operation<'a>(document: &'a Value, method: &str, path: &str) -> Option<&'a Value> {
    let paths = document["paths"].as_object()?;
    let mut operations = paths.iter().filter(|(template, _)| fits(template, path));
    // What is spelt out goes before what has a variable part.
    let (_, of_path) = operations
        .clone()
        .find(|(template, _)| !template.contains('{'))
        .or_else(|| operations.next())?;
    of_path.get(method.to_lowercase())
}

fn request_schema<'a>(document: &'a Value, method: &str, path: &str) -> Option<&'a Value> {
    let operation = operation(document, method, path)?;
    operation.pointer("/requestBody/content/application~1json/schema")
}

fn response_schema<'a>(
    document: &'a Value,
    method: &str,
    path: &str,
    status: StatusCode,
    headers: &HeaderMap,
) -> Option<&'a Value> {
    let media_type = media_type(headers);
    if !media_type.ends_with("json") {
        return None;
    }
    let schema = operation(document, method, path)
        .and_then(|operation| operation["responses"].get(status.as_str()))
        .and_then(|response| response["content"].get(media_type)?.get("schema"));
    match schema {
        Some(schema) => Some(schema),
        // Of what is no route at all.
        None if media_type == "application/problem+json" => {
            document.pointer("/components/schemas/Problem")
        }
        None => None,
    }
}

/// The name of what a stream's events are.
fn stream_schema(document: &Value, method: &str, path: &str) -> String {
    let schema = operation(document, method, path)
        .and_then(|operation| operation["responses"]["200"]["content"].get(EVENTS))
        .and_then(|content| content["schema"]["$ref"].as_str());
    let name = schema.map(|name| name.trim_start_matches("#/components/schemas/"));
    name.unwrap_or_default().to_owned()
}

fn json_without(bytes: &[u8], document: &Value, schema: &Value, field: &Field) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(bytes) else {
        return bytes.to_vec();
    };
    if !remove(&mut value, document, schema, field) {
        return bytes.to_vec();
    }
    taken(field);
    value.to_string().into_bytes()
}

/// Whether there was anything to remove.
fn remove(value: &mut Value, document: &Value, schema: &Value, field: &Field) -> bool {
    remove_at(value, document, schema, "", field)
}

/// `place` is the name of the schema, or where a schema without a name stands: `VmSpec.identity`.
fn remove_at(
    value: &mut Value,
    document: &Value,
    schema: &Value,
    place: &str,
    field: &Field,
) -> bool {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.trim_start_matches("#/components/schemas/");
        let schema = &document["components"]["schemas"][name];
        return remove_at(value, document, schema, name, field);
    }
    let mut removed = false;
    for several in ["allOf", "anyOf", "oneOf"] {
        for schema in schema[several].as_array().into_iter().flatten() {
            removed |= remove_at(value, document, schema, place, field);
        }
    }
    match value {
        Value::Object(properties) => {
            if place == field.of {
                removed |= properties.shift_remove(&field.name).is_some();
            }
            for (name, value) in properties {
                let own = schema["properties"].get(name);
                let inner = format!("{place}.{name}");
                removed |= match (own, schema.get("additionalProperties")) {
                    (Some(schema), _) => remove_at(value, document, schema, &inner, field),
                    (None, Some(schema)) => remove_at(value, document, schema, place, field),
                    (None, None) => false,
                };
            }
        }
        Value::Array(items) => {
            for item in items {
                removed |= remove_at(item, document, &schema["items"], place, field);
            }
        }
        _ => {}
    }
    removed
}

/// Server-sent events: without those of one name, or without one property in their data.
fn events(mut body: Incoming, site: Arc<Site>, document: Arc<Value>, schema: String) -> Body {
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, Error>>(1);
    tokio::spawn(async move {
        let mut pending = String::new();
        loop {
            let frame = tokio::select! {
                frame = body.frame() => frame,
                // Who reads this left.
                () = sender.closed() => return,
            };
            let data = match frame {
                None => return,
                Some(Err(error)) => {
                    // Nobody is left where this is not taken.
                    let _ = sender.send(Err(error.into())).await;
                    return;
                }
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            pending.push_str(&String::from_utf8_lossy(&data));
            let mut kept = String::new();
            while let Some((event, rest)) = pending.split_once("\n\n") {
                kept.push_str(&muted_event(event, &site, &document, &schema));
                pending = rest.to_owned();
            }
            if !kept.is_empty() && sender.send(Ok(Frame::data(kept.into()))).await.is_err() {
                return;
            }
        }
    });
    StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync()
}

/// The event, with the empty line behind it; nothing where it is left out.
fn muted_event(event: &str, site: &Site, document: &Value, schema: &str) -> String {
    let value_of = |wanted: &str| {
        let mut lines = event.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(name, _)| *name == wanted)
            .map(|(_, value)| value)
    };
    let name = value_of("event").unwrap_or_default();
    match &*site.part {
        Part::Event(_, muted) if site.takes(|_| muted == name) => String::new(),
        // A property of the event itself is a line of it.
        Part::HttpResponse(field) if field.of == schema => {
            let is_it = |line: &&str| line.split(':').next() == Some(field.name.as_str());
            site.takes(|_| event.lines().any(|line| is_it(&line)));
            let kept: Vec<&str> = event.lines().filter(|line| !is_it(line)).collect();
            format!("{}\n\n", kept.join("\n"))
        }
        Part::HttpResponse(field) => {
            let schema = match name {
                "vm" => document.pointer("/components/schemas/Vm"),
                "error" => document.pointer("/components/schemas/Problem"),
                _ => None,
            };
            let (Some(_), Some(data)) = (schema, value_of("data")) else {
                return format!("{event}\n\n");
            };
            let of = if name == "vm" { "Vm" } else { "Problem" };
            let schema = serde_json::json!({"$ref": format!("#/components/schemas/{of}")});
            let without = json_without(data.as_bytes(), document, &schema, field);
            let without = String::from_utf8_lossy(&without);
            format!("{}\n\n", event.replace(data, &without))
        }
        _ => format!("{event}\n\n"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_property_goes_wherever_its_schema_is_referred_to() {
        let document = json!({"components": {"schemas": {
            "List": {"properties": {"vms": {"items": {"$ref": "#/components/schemas/Vm"}}}},
            "Vm": {"properties": {
                "name": {"type": "string"},
                "exit": {"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/Exit"}]},
            }},
            "Exit": {"properties": {
                "name": {"type": "string"},
                "inline": {"oneOf": [{"properties": {"name": {"type": "string"}}}]},
            }},
        }}});
        let field = |of: &str| Field {
            of: of.to_owned(),
            name: "name".to_owned(),
        };
        let list = json!({"vms": [{"name": "a", "exit": {"name": "b"}}, {"name": "c"}], "name": 1});
        let schema = json!({"$ref": "#/components/schemas/List"});
        let without = |of: &str| -> Value {
            let bytes = json_without(list.to_string().as_bytes(), &document, &schema, &field(of));
            serde_json::from_slice(&bytes).unwrap()
        };
        assert_eq!(
            without("Vm"),
            json!({"vms": [{"exit": {"name": "b"}}, {}], "name": 1})
        );
        assert_eq!(
            without("Exit"),
            json!({"vms": [{"name": "a", "exit": {}}, {"name": "c"}], "name": 1})
        );
        assert_eq!(without("Nobody"), list);
        let mut inline = json!({"inline": {"name": "a"}, "name": "b"});
        let schema = json!({"$ref": "#/components/schemas/Exit"});
        assert!(remove(
            &mut inline,
            &document,
            &schema,
            &field("Exit.inline")
        ));
        assert_eq!(inline, json!({"inline": {}, "name": "b"}));
    }

    #[test]
    fn a_parameter_goes_and_the_others_stay() {
        for (uri, wanted, found) in [
            ("/v1/vms?a=1&b=2&a=3", "/v1/vms?b=2", true),
            ("/v1/vms?a=1", "/v1/vms", true),
            ("/v1/vms?aa=1", "/v1/vms?aa=1", false),
            ("/v1/vms", "/v1/vms", false),
        ] {
            let (without, had) = without_parameter(&uri.parse().unwrap(), "a");
            assert_eq!(
                (without.unwrap().to_string().as_str(), had),
                (wanted, found),
                "{uri}"
            );
        }
    }
}
