//! What is no request, over HTTP: refused with a problem that says what and where, and nothing else
//! happens.

use casemate_integration::http::Request;
use serde_json::json;

#[tokio::test]
async fn what_is_not_of_its_form_is_a_problem() {
    let daemon = super::daemon();
    let vm = daemon.create(Default::default()).await.expect("it runs");
    let of_vm = |rest: &str| format!("/v1/vms/{}{rest}", vm.id);
    let create = |body: &str| Request::new("POST", "/v1/vms").json(body);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: Vec<(&str, Request, u16, &str, &str)> = vec![
        ("no JSON", create("{"), 400, "request-form", "the body: EOF"),
        ("nothing", create(""), 400, "request-form", "the body: EOF"),
        (
            "another kind of value",
            create("[]"),
            400,
            "request-form",
            "the body: wanted is",
        ),
        (
            "a text for a number",
            create(r#"{"spec": {"vcpus": "2"}}"#),
            400,
            "request-form",
            "vcpus",
        ),
        (
            "a number that is too large",
            create(r#"{"spec": {"vcpus": 4294967296}}"#),
            400,
            "request-form",
            "vcpus: wanted is a number of its range",
        ),
        (
            "a number below zero",
            create(r#"{"spec": {"memory_bytes": -1}}"#),
            400,
            "request-form",
            "memory_bytes",
        ),
        (
            "a field that is none",
            create(r#"{"spec": {"vcpu": 2}}"#),
            400,
            "request-form",
            "spec.vcpu: unknown field `vcpu`",
        ),
        (
            "a field that is none, outside",
            create(r#"{"vm": {}}"#),
            400,
            "request-form",
            "unknown field `vm`",
        ),
        (
            "a field twice",
            create(r#"{"spec": {"name": "a", "name": "b"}}"#),
            400,
            "request-form",
            "duplicate field `name`",
        ),
        (
            "a name that is none",
            create(r#"{"spec": {"boot": "floppy"}}"#),
            400,
            "request-form",
            "spec.boot: wanted is one of",
        ),
        (
            "no base64",
            create(r#"{"spec": {"certificates": {"client_key": "c2VjcmV0!"}}}"#),
            400,
            "request-form",
            "no base64",
        ),
        (
            "something behind",
            create("{} {}"),
            400,
            "request-form",
            "trailing",
        ),
        (
            "a deep nest",
            create(&deep),
            400,
            "request-form",
            "the body",
        ),
        (
            "no kind",
            Request {
                body: Some("{}".to_owned()),
                ..Request::new("POST", "/v1/vms")
            },
            415,
            "media-type",
            "application/json",
        ),
        (
            "another kind",
            Request {
                body: Some("{}".to_owned()),
                ..Request::new("POST", "/v1/vms").header("Content-Type", "text/plain")
            },
            415,
            "media-type",
            "application/json",
        ),
        (
            "a body that is too large",
            create(&" ".repeat((4 << 20) + 1)),
            413,
            "request-too-large",
            "4 MiB",
        ),
        (
            "a query that is none",
            Request::get("/v1/vms?colour=red"),
            400,
            "request-form",
            "the query: unknown field `colour`",
        ),
        (
            "a state that is none",
            Request::get("/v1/vms?state=asleep"),
            400,
            "request-form",
            "the query: unknown variant `asleep`",
        ),
        (
            "a number that is none",
            Request::get("/v1/vms?page_size=many"),
            400,
            "request-form",
            "the query",
        ),
        (
            "no VMs on a page",
            Request::get("/v1/vms?page_size=0"),
            400,
            "request-form",
            "page_size is 0",
        ),
        (
            "a label without a value",
            Request::get("/v1/vms?label=a"),
            400,
            "request-form",
            "KEY=VALUE",
        ),
        (
            "a switch that is none",
            Request::new("POST", &of_vm("/stop?force=maybe")),
            400,
            "request-form",
            "the query",
        ),
        (
            "a query where none is",
            Request::new("POST", &of_vm("/pause?force=true")),
            400,
            "request-form",
            "unknown field `force`",
        ),
        (
            "a format that is none",
            Request::get(&of_vm("/measurement?format=pdf")),
            400,
            "request-form",
            "unknown variant `pdf`",
        ),
        (
            "a tail that is too long",
            Request::get(&of_vm("/console?tail_bytes=9223372036854775808")),
            400,
            "request-form",
            "is more than",
        ),
        (
            "a time that is none",
            Request::new("PUT", &of_vm("/ttl")).json(r#"{"ttl_seconds": 0}"#),
            400,
            "request-ttl",
            "ttl",
        ),
        (
            "a time that is missing",
            Request::new("PUT", &of_vm("/ttl")).json("{}"),
            400,
            "request-form",
            "missing field `ttl_seconds`",
        ),
        (
            "bytes that are no text",
            Request::get("/v1/vms/%ff"),
            400,
            "request-form",
            "the path",
        ),
        (
            "a method that is none",
            Request::new("PATCH", &of_vm("")),
            405,
            "http-method",
            "PATCH",
        ),
        (
            "a route that is none",
            Request::get("/v2/vms"),
            404,
            "route-unknown",
            "/docs",
        ),
    ];
    for (name, request, status, id, part) in cases {
        let answer = request.send(daemon.http).await.expect("an answer");
        let problem = answer.json();
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{name}"
        );
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (status, id),
            "{name}: {problem}"
        );
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(part), "{name}: {detail}");
        assert!(
            problem["remedy"]
                .as_str()
                .is_some_and(|remedy| !remedy.is_empty()),
            "{name}"
        );
        assert!(!detail.contains("c2VjcmV0"), "{name}: {detail}");
    }
    // None of it did anything.
    let listed = Request::get("/v1/vms")
        .send(daemon.http)
        .await
        .expect("an answer")
        .json();
    assert_eq!(listed["vms"].as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(listed["vms"][0]["state"], json!("running"));
}

/// Whoever does not answer in time is not waited for.
#[tokio::test]
async fn a_request_has_its_time() {
    let mut setup = super::setup();
    setup.set("grpc.timeout", "1s");
    let slow = json!({"delay_ms": {"cont": 5000}});
    std::fs::write(
        setup.folder.path().join("fake/fake-qemu.script"),
        slow.to_string(),
    )
    .expect("a script");
    let daemon = setup.start();
    let answer = Request::post("/v1/vms", &json!({})).send(daemon.http).await;
    let answer = answer.expect("an answer");
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (504, "deadline-exceeded")
    );
    casemate_integration::daemon::eventually(
        "nothing is left",
        std::time::Duration::from_secs(30),
        async || daemon.list().await.is_empty().then_some(()),
    )
    .await;
}

/// A page of another site reaches a daemon on loopback, by a name that its owner lets resolve to it.
#[tokio::test]
async fn a_page_of_another_site_is_not_served_where_nobody_is_asked_who_he_is() {
    let daemon = super::daemon();
    let create = || Request::post("/v1/vms", &json!({}));
    for (name, value) in [
        ("X-Forwarded-Host", "evil.example"),
        ("Origin", "http://localhost:7003"),
        ("Origin", "http://127.0.0.1:7003"),
    ] {
        let request = Request::get("/v1/vms").header(name, value);
        let answer = request.send(daemon.http).await.expect("an answer");
        assert_eq!(answer.status, 200, "{name}: {value}");
    }
    for (name, value) in [("Host", "evil.example"), ("Origin", "https://evil.example")] {
        let answer = create().header(name, value).send(daemon.http).await;
        let answer = answer.expect("an answer");
        let found = (answer.status, answer.problem());
        assert_eq!(found, (421, "foreign-host".to_owned()), "{name}: {value}");
    }
    assert!(daemon.list().await.is_empty());
}

/// Whoever says nothing, or half of something, holds no place for long.
#[tokio::test]
async fn a_silent_client_is_let_go() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let daemon = super::daemon();
    let mut streams = Vec::new();
    let half = "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ";
    for (address, said) in [(daemon.http, ""), (daemon.http, half), (daemon.grpc, "")] {
        let mut stream = tokio::net::TcpStream::connect(address)
            .await
            .expect("a connection");
        stream.write_all(said.as_bytes()).await.expect("it is sent");
        streams.push(stream);
    }
    for mut stream in streams {
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest);
        let end = tokio::time::timeout(std::time::Duration::from_secs(90), end).await;
        let _ = end.expect("the connection ends");
    }
}
