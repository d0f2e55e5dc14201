//! The description of the HTTP interface (OpenAPI 3.1), and the page that shows it.
//!
//! Handlers describe what they take and what they answer when all goes well. What every route has in
//! common is added here: its problems, its authentication, and links from a VM to what can be done
//! with it.

use axum::Router;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;
use utoipa_swagger_ui::SwaggerUi;

use super::Site;
use super::problem::{MEDIA_TYPE, Problem};

/// Where the description is, and the page that shows it.
const DOCUMENT: &str = "/v1/openapi.json";
const PAGE: &str = "/docs";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Casemate",
        description = "Runs confidential VMs. Sizes are bytes; times are RFC 3339 in UTC. `docs/errors.md` lists every error by the `type` of its problem.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(Problem)),
    tags(
        (name = "vms", description = "Virtual machines."),
        (name = "host", description = "The host, its backends and its config."),
        (name = "daemon", description = "The daemon itself."),
    ),
)]
struct Description;

/// The part that no handler has.
pub(super) fn begin() -> utoipa::openapi::OpenApi {
    Description::openapi()
}

/// The whole document. One that could not be made whole would be a bug, and is as the handlers have it.
pub(super) fn complete(description: utoipa::openapi::OpenApi) -> Value {
    let mut document = serde_json::to_value(description).unwrap_or_default();
    document["components"]["securitySchemes"] = json!({
        "token": {
            "type": "http",
            "scheme": "bearer",
            "description": "The token of a `[[client]]` of the config. Where the config has none, nobody needs one.",
        },
    });
    document["security"] = json!([{"token": []}]);
    let Some(paths) = document["paths"].as_object_mut() else {
        return document;
    };
    for (path, operations) in paths {
        for (_, operation) in operations.as_object_mut().into_iter().flatten() {
            forbid_null(operation);
            add_problems(path, operation);
        }
    }
    if let Some(created) = document.pointer_mut("/paths/~1v1~1vms/post/responses/201") {
        created["links"] = links();
    }
    document
}

/// Problems that an operation may answer with, and why.
fn problems(path: &str, operation: &Value) -> Vec<(&'static str, &'static str)> {
    let has_parameter = |name: &str| {
        let parameters = operation["parameters"].as_array();
        parameters.is_some_and(|all| all.iter().any(|parameter| parameter["name"] == name))
    };
    let is_open = operation["security"] == json!([{}]);
    let changes = operation["requestBody"].is_object() || has_parameter("If-Match");
    let rows = [
        ("400", "The request is not of the form wanted.", !is_open),
        ("401", "Nobody that the config knows.", !is_open),
        ("403", "The caller lacks the role.", !is_open),
        (
            "404",
            "There is no such thing.",
            path.contains('{') || has_parameter("vm") || has_parameter("backend") || changes,
        ),
        (
            "409",
            "Not as things are: on this host, or in the VM's state.",
            changes || path.ends_with("/measurement"),
        ),
        (
            "412",
            "The VM is not what `If-Match` says.",
            has_parameter("If-Match"),
        ),
        (
            "413",
            "The body is too large.",
            operation["requestBody"].is_object(),
        ),
        (
            "415",
            "The body is no JSON.",
            operation["requestBody"].is_object(),
        ),
        (
            "422",
            "The form is right, and the meaning is not: a backend or the config refuses it.",
            operation["requestBody"].is_object(),
        ),
        (
            "429",
            "Too many calls, or something is used up: VMs, memory, ports.",
            true,
        ),
        ("500", "The daemon or a backend is at fault.", !is_open),
        (
            "503",
            "Not now: the daemon ends, or QEMU does not answer.",
            !is_open,
        ),
        ("504", "Not done in time.", true),
    ];
    rows.into_iter()
        .filter(|(_, _, applies)| *applies)
        .map(|(status, why, _)| (status, why))
        .collect()
}

/// A header or a part of a query is there or not; it is never null.
fn forbid_null(operation: &mut Value) {
    let parameters = operation.get_mut("parameters");
    let parameters = parameters.and_then(Value::as_array_mut);
    for parameter in parameters.into_iter().flatten() {
        let kinds = parameter["schema"]["type"].as_array().cloned();
        let mut kinds = kinds.into_iter().flatten().filter(|kind| kind != "null");
        if let Some(kind) = kinds.next() {
            parameter["schema"]["type"] = kind;
        }
    }
}

fn add_problems(path: &str, operation: &mut Value) {
    for (status, why) in problems(path, operation) {
        let response = json!({
            "description": why,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        });
        operation["responses"][status] = response;
    }
}

/// From a VM that was created to what can be done with it.
fn links() -> Value {
    let operations = [
        "getVm",
        "removeVm",
        "startVm",
        "stopVm",
        "restartVm",
        "pauseVm",
        "resumeVm",
        "resetVm",
        "extendTtl",
        "keepVm",
        "getMeasurement",
        "getConsole",
    ];
    let links: Map<String, Value> = operations
        .into_iter()
        .map(|operation| {
            let link = json!({
                "operationId": operation,
                "parameters": {"id": "$response.body#/id"},
            });
            (operation.to_owned(), link)
        })
        .collect();
    links.into()
}

/// The document, and the page, whose files are all in the program.
pub(super) fn pages(document: &Value) -> Router<Site> {
    SwaggerUi::new(PAGE)
        .external_url_unchecked(DOCUMENT, document.clone())
        .into()
}
