//! Streams: server-sent events, consoles, and readers who take a stream and read nothing of it.

use std::time::{Duration, Instant};

use casemate_integration::daemon::{Daemon, Verb};
use casemate_integration::http::Request;
use casemate_proto::v1;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// An event, with its data as JSON.
#[derive(Debug)]
pub(super) struct Event {
    id: Option<String>,
    pub(super) name: String,
    pub(super) data: Value,
}

pub(super) fn events(text: &str) -> Vec<Event> {
    let field = |block: &str, name: &str| {
        let mut lines = block.lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
    };
    text.split("\n\n")
        .filter(|block| block.contains("event: "))
        .map(|block| Event {
            id: field(block, "id"),
            name: field(block, "event").expect("a name"),
            data: serde_json::from_str(&field(block, "data").expect("data")).expect("JSON"),
        })
        .collect()
}

/// What comes until an event of that name is whole.
pub(super) async fn until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    let read = async {
        while !text
            .split_once(wanted)
            .is_some_and(|(_, rest)| rest.contains("\n\n"))
        {
            let count = stream.read(&mut buffer).await.expect("a stream");
            assert!(count > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(60), read).await;
    in_time.expect("it comes");
    text
}

#[tokio::test]
async fn events_tell_what_is_and_then_what_changes() {
    let mut setup = super::setup();
    setup.set("http.stream_time", "1h");
    let daemon = setup.start();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let mut stream = Request::get("/v1/events")
        .begin(daemon.http)
        .await
        .expect("a connection");
    let mut text = until(&mut stream, "event: synchronized").await;
    assert!(text.contains("content-type: text/event-stream"), "{text}");
    daemon.act(Verb::Pause, &vm.id).await.expect("it is paused");
    daemon.remove(&vm.id).await.expect("it is gone");
    text.push_str(&until(&mut stream, "event: removed").await);
    let (_, body) = text.split_once("\r\n\r\n").expect("a body");
    let events = events(body);
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names[..2], ["vm", "synchronized"], "{names:?}");
    assert_eq!(names.last(), Some(&"removed"));
    assert_eq!(events[0].data["id"], vm.id.as_str());
    assert_eq!(events.last().expect("one").data["id"], vm.id.as_str());
    assert!(events.iter().any(|event| event.data["state"] == "paused"));
    let numbers: Vec<u64> = events
        .iter()
        .map(|event| {
            event
                .id
                .as_deref()
                .expect("an id")
                .parse()
                .expect("a number")
        })
        .collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    for event in events.iter().filter(|event| event.name == "vm") {
        let generation = event.data["generation"].to_string();
        assert_eq!(event.id.as_deref(), Some(generation.as_str()));
    }
}

#[tokio::test]
async fn a_console_is_bytes_or_events() {
    let daemon = super::daemon();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let path = format!("/v1/vms/{}/console", vm.id);
    let bytes = Request::get(&path)
        .send(daemon.http)
        .await
        .expect("an answer");
    assert_eq!(
        bytes.header("content-type"),
        Some("application/octet-stream")
    );
    let wanted = format!("fake console of {}\n", vm.id);
    assert_eq!(bytes.text(), wanted);
    let tail = Request::get(&format!("{path}?tail_bytes=5"))
        .send(daemon.http)
        .await;
    assert_eq!(tail.expect("an answer").text(), wanted[wanted.len() - 5..]);
    let request = Request::get(&path).header("Accept", "text/event-stream");
    let answer = request.send(daemon.http).await.expect("an answer");
    let events = events(&answer.text());
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["data", "end"]);
    use base64::Engine as _;
    let data = events[0].data["data"].as_str().expect("base64");
    let data = base64::engine::general_purpose::STANDARD
        .decode(data)
        .expect("base64");
    assert_eq!(String::from_utf8_lossy(&data), wanted);
    // Followed, it goes on until the stream's time is over or the VM is down.
    let started = Instant::now();
    let request =
        Request::get(&format!("{path}?follow=true")).header("Accept", "text/event-stream");
    let (answer, stopped) = tokio::join!(request.send(daemon.http), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        daemon.act(Verb::ForceStop, &vm.id).await
    });
    stopped.expect("it is down");
    let text = answer.expect("an answer").text();
    assert!(text.contains("event: end"), "{text}");
    assert!(started.elapsed() >= Duration::from_millis(300));
}

/// Connections that take a stream and read nothing of it.
struct Stalled {
    _http: Vec<TcpStream>,
    _grpc: Vec<tonic::Streaming<v1::WatchVmsResponse>>,
    _consoles: Vec<tonic::Streaming<v1::GetConsoleResponse>>,
}

async fn stalled(daemon: &Daemon, id: &str) -> Stalled {
    let (mut http, mut grpc, mut consoles) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..30 {
        for path in [
            "/v1/events".to_owned(),
            "/v1/backend-events".to_owned(),
            format!("/v1/vms/{id}/console?follow=true"),
        ] {
            http.push(
                Request::get(&path)
                    .begin(daemon.http)
                    .await
                    .expect("a connection"),
            );
        }
    }
    for _ in 0..25 {
        let watch = daemon
            .vms()
            .await
            .watch_vms(v1::WatchVmsRequest::default())
            .await;
        grpc.push(watch.expect("a watch").into_inner());
        let request = v1::GetConsoleRequest {
            id: id.to_owned(),
            follow: true,
            ..v1::GetConsoleRequest::default()
        };
        let console = daemon.vms().await.get_console(request).await;
        consoles.push(console.expect("a console").into_inner());
    }
    Stalled {
        _http: http,
        _grpc: grpc,
        _consoles: consoles,
    }
}

/// Resident memory, in KiB.
fn memory(daemon: &Daemon) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .expect("a number")
}

#[tokio::test]
async fn a_hundred_stalled_readers_cost_nobody_else_anything() {
    let mut setup = super::setup();
    setup.set("http.stream_time", "1h");
    let daemon = setup.start();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    // One who reads, beside those who do not.
    let mut reader = daemon
        .vms()
        .await
        .watch_vms(v1::WatchVmsRequest::default())
        .await
        .expect("a watch")
        .into_inner();
    let before = memory(&daemon);
    let stalled = stalled(&daemon, &vm.id).await;
    let mut slowest = Duration::ZERO;
    let mut heard = 0_usize;
    for _ in 0..400 {
        let started = Instant::now();
        daemon.act(Verb::Pause, &vm.id).await.expect("it is paused");
        daemon.act(Verb::Resume, &vm.id).await.expect("it goes on");
        slowest = slowest.max(started.elapsed());
        while let Ok(Ok(Some(_))) =
            tokio::time::timeout(Duration::from_millis(1), reader.message()).await
        {
            heard += 1;
        }
    }
    // Each pause and each resume is a change, and who reads hears all of them.
    let all = async {
        while heard < 800 {
            match reader.message().await {
                Ok(Some(_)) => heard += 1,
                other => panic!("{other:?}"),
            }
        }
    };
    let heard_all = tokio::time::timeout(Duration::from_secs(20), all).await;
    heard_all.expect("all changes");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    // What waits for them is bounded: some messages each, and sockets' buffers are the kernel's.
    let grown = memory(&daemon).saturating_sub(before);
    assert!(grown < 40 << 10, "{grown} KiB");
    // Nor do they keep a VM, or the daemon, from going.
    let started = Instant::now();
    daemon.remove(&vm.id).await.expect("it is gone");
    assert!(started.elapsed() < Duration::from_secs(5));
    drop(stalled);
}
