//! The description of the HTTP interface is what the daemon serves, and its page needs nothing from
//! elsewhere.

use std::collections::BTreeSet;

use casemate_integration::http::Request;
use serde_json::Value;

async fn document(daemon: &casemate_integration::daemon::Daemon) -> Value {
    let answer = Request::get("/v1/openapi.json").send(daemon.http).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200);
    answer.json()
}

/// Every operation: method, path, description.
fn operations(document: &Value) -> impl Iterator<Item = (String, String, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    paths.iter().flat_map(|(path, operations)| {
        let operations = operations.as_object().expect("operations");
        operations
            .iter()
            .map(|(method, operation)| (method.to_uppercase(), path.clone(), operation))
    })
}

#[tokio::test]
async fn every_described_route_is_there_and_every_call_is_described() {
    let daemon = super::daemon();
    let document = document(&daemon).await;
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let id = operation["operationId"].as_str().expect("an id");
        assert!(ids.insert(id.to_owned()), "{id} twice");
        assert!(
            operation["description"].is_string() || operation["summary"].is_string(),
            "{id}"
        );
        let here = path
            .replace("{id}", "00000000-0000-4000-8000-000000000000")
            .replace("{name}", "nobody");
        let answer = Request::new(&method, &here)
            .send(daemon.http)
            .await
            .expect("an answer");
        let is_route =
            answer.status != 405 && !(answer.status == 404 && answer.problem() == "route-unknown");
        assert!(is_route, "{method} {path}: {}", answer.status);
        // Each answer's status is one that the description tells of.
        let status = answer.status.to_string();
        assert!(
            operation["responses"][&status].is_object(),
            "{method} {path}: {status}"
        );
    }
    // The calls of casemate.v1, by name.
    for call in [
        "createVm",
        "getVm",
        "listVms",
        "watchVms",
        "startVm",
        "stopVm",
        "restartVm",
        "pauseVm",
        "resumeVm",
        "resetVm",
        "removeVm",
        "extendTtl",
        "getConsole",
        "getMeasurement",
        "planVm",
        "listBackends",
        "getBackend",
        "checkHost",
        "reloadBackends",
        "watchBackends",
        "explainConfig",
    ] {
        assert!(ids.contains(call), "{call}");
    }
}

/// What a reference names is there.
#[tokio::test]
async fn every_reference_leads_somewhere() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    found.insert(reference.clone());
                }
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document(&super::daemon()).await;
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.contains("#/components/schemas/Problem"));
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("it is of this document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let daemon = super::daemon();
    let page = Request::get("/docs/")
        .send(daemon.http)
        .await
        .expect("an answer");
    assert_eq!(page.status, 200);
    let text = page.text();
    assert!(
        !text.contains("http://") && !text.contains("https://"),
        "{text}"
    );
    let names = text
        .split('"')
        .filter(|part| part.ends_with(".js") || part.ends_with(".css"));
    let names: Vec<&str> = names.collect();
    assert!(names.len() >= 3, "{names:?}");
    for name in names {
        let path = format!("/docs/{}", name.trim_start_matches("./"));
        let file = Request::get(&path)
            .send(daemon.http)
            .await
            .expect("an answer");
        assert!(
            file.status == 200 && !file.body.is_empty(),
            "{path}: {}",
            file.status
        );
    }
    let page = Request::get("/docs/swagger-initializer.js")
        .send(daemon.http)
        .await;
    let page = page.expect("an answer").text();
    assert!(page.contains("/v1/openapi.json"), "{page}");
}
