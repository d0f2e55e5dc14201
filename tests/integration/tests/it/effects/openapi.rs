//! The parts that an OpenAPI document has.

use std::collections::BTreeSet;

use casemate_integration::mute::{Field, Part, Route};
use serde_json::Value;

/// Parts of a path are no parts of their own: without them there is no route.
const PATH: &str = "path";
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];
/// The only bodies whose parts have no schema.
const EVENTS: &str = "text/event-stream";

pub(super) fn parts(document: &Value) -> BTreeSet<Part> {
    let mut parts = BTreeSet::new();
    let paths = document["paths"].as_object().expect("paths");
    for (path, operations) in paths {
        for method in METHODS {
            let operation = &operations[method];
            if operation.is_null() {
                continue;
            }
            let route = Route {
                method: method.to_uppercase(),
                path: path.clone(),
            };
            parts.insert(Part::Route(route.clone()));
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().expect("a name").to_owned();
                let place = parameter["in"].as_str().expect("a place");
                match place {
                    "query" => parts.insert(Part::Query(route.clone(), name)),
                    "header" => parts.insert(Part::Header(route.clone(), name)),
                    PATH => true,
                    other => panic!("{route}: a parameter in {other}"),
                };
            }
            let schemas = contents(&operation["requestBody"]);
            for (_, schema) in schemas {
                properties(document, schema, Part::HttpRequest, &mut parts);
            }
            for response in operation["responses"]
                .as_object()
                .expect("responses")
                .values()
            {
                for name in response["headers"]
                    .as_object()
                    .into_iter()
                    .flat_map(|all| all.keys())
                {
                    parts.insert(Part::AnswerHeader(route.clone(), name.clone()));
                }
                for (media_type, schema) in contents(response) {
                    properties(document, schema, Part::HttpResponse, &mut parts);
                    if media_type == EVENTS {
                        for name in events(operation) {
                            parts.insert(Part::Event(route.clone(), name));
                        }
                    }
                }
            }
        }
    }
    parts
}

/// Media types with their schemas.
fn contents(body: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let contents = body["content"].as_object().into_iter().flatten();
    contents.map(|(media_type, content)| (media_type.as_str(), &content["schema"]))
}

fn properties(
    document: &Value,
    schema: &Value,
    part: fn(Field) -> Part,
    parts: &mut BTreeSet<Part>,
) {
    of_schema(document, schema, "", part, parts);
}

/// `place` is the name of the schema, or where a schema without a name stands: `VmSpec.identity`.
fn of_schema(
    document: &Value,
    schema: &Value,
    place: &str,
    part: fn(Field) -> Part,
    parts: &mut BTreeSet<Part>,
) {
    if let Some(name) = schema["$ref"].as_str() {
        let of = name.trim_start_matches("#/components/schemas/");
        let schema = &document["components"]["schemas"][of];
        assert!(schema.is_object(), "{name} leads nowhere");
        of_schema(document, schema, of, part, parts);
        return;
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        assert!(!place.is_empty(), "this schema has no name: {schema}");
        let field = Field {
            of: place.to_owned(),
            name: name.clone(),
        };
        let place = field.to_string();
        if parts.insert(part(field)) {
            of_schema(document, inner, &place, part, parts);
        }
    }
    for several in ["allOf", "anyOf", "oneOf"] {
        for schema in schema[several].as_array().into_iter().flatten() {
            of_schema(document, schema, place, part, parts);
        }
    }
    for inner in [&schema["items"], &schema["additionalProperties"]] {
        if inner.is_object() {
            of_schema(document, inner, place, part, parts);
        }
    }
}

/// What the description of an operation says of its events: each in backquotes after "vents", up to
/// the end of that sentence.
fn events(operation: &Value) -> Vec<String> {
    let text = operation["description"].as_str().unwrap_or_default();
    let quoted = text.split('`').skip(1).step_by(2);
    let names =
        quoted.filter(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase()));
    let mut names: Vec<String> = names.map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}
