//! What a request asks for is what is done, in each field, parameter and header: filters and pages,
//! keys, conditions, force, acceptance, formats, parts of a console, events.

use std::time::{Duration, Instant};

use base64::Engine as _;
use casemate_integration::daemon::{Daemon, Setup, Verb, eventually};
use casemate_integration::http::{Answer, Request};
use casemate_proto::v1;
use serde_json::{Value, json};

use super::both::{Call, over_grpc, over_http};
use super::fields::answers;

/// A guest that takes this long to shut down.
const SLOW_GUEST: Duration = Duration::from_secs(12);
/// A VM that is ended by force is down before that.
const BY_FORCE: Duration = Duration::from_secs(8);

async fn created(daemon: &Daemon, spec: Value) -> String {
    let vm = over_grpc(daemon, &Call::Create(spec), "").await;
    vm.expect("it runs")["id"]
        .as_str()
        .expect("an id")
        .to_owned()
}

async fn sent(daemon: &Daemon, request: Request) -> Answer {
    request.send(daemon.http).await.expect("an answer")
}

#[tokio::test]
async fn a_list_has_what_fits_a_page_at_a_time() {
    let daemon = super::daemon();
    let one = created(
        &daemon,
        json!({"name": "one", "labels": {"tier": "web", "zone": "1"}}),
    )
    .await;
    let two = created(&daemon, json!({"name": "two", "labels": {"tier": "web"}})).await;
    let three = created(&daemon, json!({"name": "one", "backend": "plain-kvm"})).await;
    daemon.act(Verb::ForceStop, &two).await.expect("it is down");
    for (query, wanted) in [
        ("", &[&one, &two, &three][..]),
        ("name=one", &[&one, &three]),
        ("backend=nobody", &[]),
        ("state=stopped", &[&two]),
        ("state=stopped&state=lost", &[&two]),
        ("label=tier%3Dweb", &[&one, &two]),
        ("label=tier%3Dweb&label=zone%3D1", &[&one]),
        ("page_size=2", &[&one, &two]),
    ] {
        for (way, list) in answers(&daemon, &Call::List(query), "").await {
            let ids: Vec<&Value> = list["vms"]
                .as_array()
                .expect("VMs")
                .iter()
                .map(|vm| &vm["id"])
                .collect();
            assert_eq!(ids, wanted, "{way}: {query}");
            let is_last = query != "page_size=2";
            assert_eq!(list["next_page_token"] == "", is_last, "{way}: {query}");
            if !is_last {
                let token = list["next_page_token"].as_str().expect("a token");
                let next = format!("page_size=2&page_token={token}");
                let next = Call::List(Box::leak(next.into_boxed_str()));
                for (way, list) in answers(&daemon, &next, "").await {
                    assert_eq!(list["vms"][0]["id"], *three, "{way}: the second page");
                    assert_eq!(list["next_page_token"], "", "{way}: the second page");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_create_that_is_sent_twice_with_its_key_makes_one_vm() {
    let daemon = super::daemon();
    let request = v1::CreateVmRequest {
        idempotency_key: "one".to_owned(),
        ..v1::CreateVmRequest::default()
    };
    let mut ids = Vec::new();
    for _ in 0..2 {
        let created = daemon.vms().await.create_vm(request.clone()).await;
        ids.push(created.expect("it runs").into_inner().vm.expect("a VM").id);
    }
    let over_http = Request::post("/v1/vms", &json!({})).header("Idempotency-Key", "other");
    for _ in 0..2 {
        let vm = sent(&daemon, over_http.clone()).await.json();
        ids.push(vm["id"].as_str().expect("an id").to_owned());
    }
    assert_eq!((&ids[0], &ids[2]), (&ids[1], &ids[3]));
    assert_ne!(ids[0], ids[2]);
}

/// Each answer with a VM has its generation as its tag, and a condition that holds is one.
#[tokio::test]
async fn a_vm_comes_with_its_generation_and_is_changed_on_that_condition() {
    let daemon = super::daemon();
    let answer = sent(&daemon, Request::post("/v1/vms", &json!({}))).await;
    assert_eq!(answer.status, 201);
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(answer.header("location"), Some(&*format!("/v1/vms/{id}")));
    let tag_of = |answer: &Answer, what: &str| {
        let tag = format!("\"{}\"", answer.json()["generation"]);
        assert_eq!(
            answer.header("etag"),
            Some(tag.as_str()),
            "{what}: {}",
            answer.text()
        );
        tag
    };
    let mut tag = tag_of(&answer, "create");
    let of_vm = |method: &str, rest: &str| Request::new(method, &format!("/v1/vms/{id}{rest}"));
    let ttl = |request: Request| match request.method.as_str() {
        "PUT" => request.json("{\"ttl_seconds\": 60}"),
        _ => request,
    };
    for (method, rest) in [
        ("GET", ""),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/reset"),
        ("PUT", "/ttl"),
        ("DELETE", "/ttl"),
        ("POST", "/restart?force=true"),
        ("POST", "/stop?force=true"),
        ("POST", "/start"),
    ] {
        if method != "GET" {
            let stale = ttl(of_vm(method, rest).header("If-Match", "\"1\""));
            let refused = sent(&daemon, stale).await;
            assert_eq!(refused.status, 412, "{rest}: {}", refused.text());
        }
        let request = ttl(of_vm(method, rest).header("If-Match", &tag));
        let answer = sent(&daemon, request).await;
        assert_eq!(answer.status, 200, "{rest}: {}", answer.text());
        tag = tag_of(&answer, rest);
        // The next condition is that of the VM as it is by now.
        tag = tag_of(&sent(&daemon, of_vm("GET", "")).await, &tag);
    }
    let refused = sent(&daemon, of_vm("DELETE", "").header("If-Match", "\"1\"")).await;
    assert_eq!(refused.status, 412);
    let removed = sent(&daemon, of_vm("DELETE", "").header("If-Match", &tag)).await;
    assert_eq!(removed.status, 204);
}

/// The same over gRPC.
#[tokio::test]
async fn a_call_with_an_expected_generation_is_done_to_that_vm_alone() {
    let daemon = super::daemon();
    let mut vms = daemon.vms().await;
    let id = created(&daemon, json!({})).await;
    for expected in [Some(1), None] {
        let request = v1::ExtendTtlRequest {
            id: id.clone(),
            ttl_seconds: Some(60),
            expected_generation: expected,
        };
        let extended = vms.extend_ttl(request).await;
        match expected {
            Some(_) => assert_eq!(extended.expect_err("stale").code(), tonic::Code::Aborted),
            None => {
                let vm = extended.expect("it is done").into_inner().vm.expect("a VM");
                assert_ne!(vm.expires_at, "");
            }
        }
    }
}

#[tokio::test]
async fn force_does_not_wait_for_the_guest() {
    let mut setup = Setup::new();
    let slow = u64::try_from(SLOW_GUEST.as_millis()).expect("small");
    setup.use_fake_qemu(&json!({"delay_ms": {"powerdown": slow}}));
    let daemon = setup.start();
    let id = created(&daemon, json!({})).await;
    for action in ["restart", "stop"] {
        for way in ["gRPC", "HTTP"] {
            let begun = Instant::now();
            let call = Call::Act(action, "VM", "force=true");
            let done = match way {
                "gRPC" => over_grpc(&daemon, &call, &id).await,
                _ => over_http(&daemon, &call, &id).await,
            };
            done.expect("it is done");
            let took = begun.elapsed();
            assert!(took < BY_FORCE, "{action}, {way}: {took:?}");
            daemon.act(Verb::Start, &id).await.expect("it runs again");
        }
    }
}

/// With the scripted QEMU, because what is measured is a file.
#[tokio::test]
async fn a_measurement_is_accepted_and_told_in_the_format_that_is_asked_for() {
    let mut setup = crate::measured::setup();
    setup.use_fake_qemu(&json!({}));
    let kernel = crate::measured::kernel_of(&setup);
    let daemon = setup.start();
    let id = created(&daemon, json!({})).await;
    let grow = || {
        use std::io::Write as _;
        let file = std::fs::File::options().append(true).open(&kernel);
        file.expect("a file")
            .write_all(&[0; 4096])
            .expect("it is written");
    };
    for way in ["gRPC", "HTTP"] {
        let call = async |action, query| {
            let call = Call::Act(action, "VM", query);
            match way {
                "gRPC" => over_grpc(&daemon, &call, &id).await,
                _ => over_http(&daemon, &call, &id).await,
            }
        };
        daemon.act(Verb::ForceStop, &id).await.expect("it is down");
        grow();
        let refused = call("start", "").await.expect_err("it is another one");
        assert_eq!(refused.id, "measurement-changed", "{way}");
        call("start", "accept_measurement=true")
            .await
            .expect("accepted");
        grow();
        let refused = call("restart", "force=true")
            .await
            .expect_err("it is another one");
        assert_eq!(refused.id, "measurement-changed", "{way}");
        call("restart", "force=true&accept_measurement=true")
            .await
            .expect("accepted");
    }
    let digest = crate::measured::sha384(&kernel);
    for (format, media_type, in_words) in [
        ("json", "application/json", true),
        ("text", "text/plain; charset=utf-8", true),
        ("corim", "application/rim+cbor", false),
    ] {
        for (way, measured) in answers(&daemon, &Call::Measurement("VM", format), &id).await {
            assert_eq!(measured["media_type"], media_type, "{way}, {format}");
            let bytes = measured["document"].as_array().expect("bytes").iter();
            let bytes: Vec<u8> = bytes
                .map(|byte| byte.as_u64().expect("a byte") as u8)
                .collect();
            let text = match in_words {
                true => String::from_utf8_lossy(&bytes).into_owned(),
                false => hex::encode(bytes),
            };
            assert!(text.contains(&digest), "{way}, {format}: {text}");
        }
    }
}

#[tokio::test]
async fn of_a_console_comes_the_part_that_is_asked_for() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({"console_text": "first words\n"}));
    setup.set("http.stream_time", "3s");
    let daemon = setup.start();
    let id = created(&daemon, json!({})).await;
    let said = async |words: &str| {
        eventually("its words", Duration::from_secs(30), || async {
            daemon.console(&id).await.contains(words).then_some(())
        })
        .await;
    };
    said("first words").await;
    daemon.act(Verb::ForceStop, &id).await.expect("it is down");
    let script = daemon.folder.path().join("fake/fake-qemu.script");
    std::fs::write(
        script,
        json!({"console_text": "second words\n"}).to_string(),
    )
    .expect("a file");
    daemon.act(Verb::Start, &id).await.expect("it runs");
    said("second words").await;
    for (query, begin, end) in [
        ("tail_bytes=6&previous=0", "words\n", "words\n"),
        ("tail_bytes=0&previous=1", "", "first words\n"),
    ] {
        for (way, text) in answers(&daemon, &Call::Console("VM", query), &id).await {
            let text = text.as_str().expect("a text").replace('\r', "");
            assert!(text.ends_with(end), "{way}, {query}: {text:?}");
            assert!(text.starts_with(begin), "{way}, {query}: {text:?}");
        }
    }
    // With `follow` it goes on for as long as streams do, and without it is over at once.
    for (query, goes_on) in [("follow=true", true), ("follow=false", false)] {
        let begun = Instant::now();
        let path = format!("/v1/vms/{id}/console?{query}");
        let answer = sent(&daemon, Request::get(&path)).await;
        assert_eq!(
            begun.elapsed() > Duration::from_secs(2),
            goes_on,
            "{query}: {}",
            answer.text()
        );
    }
    let request = v1::GetConsoleRequest {
        id: id.clone(),
        follow: true,
        ..v1::GetConsoleRequest::default()
    };
    let mut stream = daemon
        .vms()
        .await
        .get_console(request)
        .await
        .expect("it streams")
        .into_inner();
    let over = tokio::time::timeout(Duration::from_secs(2), async {
        while stream.message().await.expect("a piece").is_some() {}
    });
    over.await.expect_err("it goes on");
    // As events.
    let path = format!("/v1/vms/{id}/console");
    let events = sent(
        &daemon,
        Request::get(&path).header("Accept", "text/event-stream"),
    )
    .await;
    assert_eq!(
        names(&events.text()).last().map(String::as_str),
        Some("end")
    );
    let text = events.text();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let pieces = data.filter_map(|data| {
        let data: Value = serde_json::from_str(data).expect("JSON");
        let engine = base64::engine::general_purpose::STANDARD;
        engine.decode(data["data"].as_str()?).ok()
    });
    let console: Vec<u8> = pieces.flatten().collect();
    let console = String::from_utf8_lossy(&console).replace('\r', "");
    assert!(console.ends_with("second words\n"), "{text}");
}

/// What was not kept of a console is counted.
#[tokio::test]
async fn what_is_missing_of_a_console_is_told() {
    let bytes = 1 << 20;
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({"console_flood": {"bytes": bytes, "line": "spam"}}));
    setup.set("qemu.console_size", "64K");
    let daemon = setup.start();
    let id = created(&daemon, json!({})).await;
    eventually("the end of the flood", Duration::from_secs(20), || async {
        let request = v1::GetConsoleRequest {
            id: id.clone(),
            ..v1::GetConsoleRequest::default()
        };
        let stream = daemon.vms().await.get_console(request).await;
        let mut stream = stream.expect("it streams").into_inner();
        let (mut kept, mut omitted) = (0, 0);
        while let Some(piece) = stream.message().await.expect("a piece") {
            kept += piece.data.len() as u64;
            omitted += piece.omitted_bytes;
        }
        (omitted > 0 && kept + omitted >= bytes).then_some(())
    })
    .await;
}

/// Names of events, in their order.
fn names(text: &str) -> Vec<String> {
    let names = text.lines().filter_map(|line| line.strip_prefix("event: "));
    names.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_watch_over_http_tells_the_same_as_over_grpc() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup.set("http.stream_time", "5s");
    let daemon = setup.start();
    let one = created(&daemon, json!({"name": "one"})).await;
    let other = created(&daemon, json!({"name": "other"})).await;
    let all = Request::get("/v1/events");
    let only = Request::get(&format!("/v1/events?vm={one}"));
    let (all, only, ()) = tokio::join!(sent(&daemon, all), sent(&daemon, only), async {
        // After both were told what there is.
        tokio::time::sleep(Duration::from_secs(1)).await;
        daemon.remove(&other).await.expect("it goes");
        daemon.remove(&one).await.expect("it goes");
    });
    let seen = names(&all.text());
    assert_eq!(seen[..3], ["vm", "vm", "synchronized"], "{}", all.text());
    let gone = |id: &str| format!("event: removed\ndata: {{\"id\":\"{id}\"}}");
    let without_numbers = |answer: &Answer| {
        let text = answer.text();
        let lines = text.lines().filter(|line| !line.starts_with("id: "));
        lines.collect::<Vec<_>>().join("\n")
    };
    for id in [&one, &other] {
        let text = without_numbers(&all);
        assert!(text.contains(&gone(id)), "{text}");
    }
    let text = without_numbers(&only);
    assert!(
        text.contains(&gone(&one)) && !text.contains(&other),
        "{text}"
    );
    // Numbers of events grow.
    let text = all.text();
    let numbers = text.lines().filter_map(|line| line.strip_prefix("id: "));
    let numbers: Vec<u64> = numbers
        .map(|number| number.parse().expect("a number"))
        .collect();
    assert!(
        numbers.len() == seen.len() && numbers[2..].is_sorted(),
        "{numbers:?}"
    );
}

/// QEMU's last words are a part of the problem.
#[tokio::test]
async fn a_problem_has_all_that_is_known_of_it() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({"die_at": "cont", "exit_code": 3, "stderr": "one\ntwo\n"}));
    let daemon = setup.start();
    let problem = sent(&daemon, Request::post("/v1/vms", &json!({})))
        .await
        .json();
    assert_eq!(problem["type"], "urn:casemate:error:qemu-ended");
    assert_eq!(problem["subject"], "qemu");
    assert_eq!(problem["qemu_stderr"], "one\ntwo");
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|text| text.contains("exit code 3"))
    );
    let bad = json!({"spec": {"name": "a b"}});
    let problem = sent(&daemon, Request::post("/v1/vms", &bad)).await.json();
    assert_eq!(problem["field"], "spec.name", "{problem:#}");
    assert_eq!(problem["status"], 400);
    for member in ["title", "detail", "remedy"] {
        assert!(
            problem[member]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{member}"
        );
    }
}

/// What is to come of a spec.
enum Made {
    /// A VM that has this member, and started QEMU with this flag.
    Told(&'static str, Value),
    Started(&'static str, &'static str),
    /// A file of this name with this content, beneath the state directory.
    Shared(&'static str, &'static str),
    /// For one of these reasons.
    Refused(&'static [&'static str]),
}

fn specs() -> Vec<(Value, Made)> {
    use Made::{Refused, Shared, Started, Told};
    let certificates =
        json!({"client_certificate": "b25l", "client_key": "dHdv", "server_ca": "dGhyZWU="});
    let identity = json!({"algorithm": "sha-256", "digest": format!("{}=", "A".repeat(43))});
    vec![
        (json!({"name": "asked"}), Told("name", json!("asked"))),
        (json!({"backend": "nobody"}), Refused(&["backend-unknown"])),
        (json!({"vcpus": 3}), Started("-smp", "cpus=3,")),
        (json!({"memory_bytes": 384 << 20}), Started("-m", "384")),
        (
            json!({"machine": "no-such-machine"}),
            Refused(&["backend-refused-request"]),
        ),
        (
            json!({"cpu": "SapphireRapids"}),
            Started("-cpu", "SapphireRapids"),
        ),
        (
            json!({"boot": "disk"}),
            Refused(&["disk-missing", "qemu-lacks"]),
        ),
        (
            json!({"kernel_cmdline": "quiet a=b"}),
            Started("-append", "quiet a=b"),
        ),
        (
            json!({"environment": {"ASKED": "for"}}),
            Shared("environment", "ASKED=for\n"),
        ),
        (
            json!({"certificates": certificates}),
            Shared("cert.pem", "one"),
        ),
        (
            json!({"certificates": certificates}),
            Shared("key.pem", "two"),
        ),
        (
            json!({"certificates": certificates}),
            Shared("ca.pem", "three"),
        ),
        (
            json!({"settings": {"no-such": "x"}}),
            Refused(&["setting-unknown"]),
        ),
        (
            json!({"restart_policy": "on-failure"}),
            Told("restart_policy", json!("on-failure")),
        ),
        (
            json!({"labels": {"a": "b"}}),
            Told("labels", json!({"a": "b"})),
        ),
        (json!({"ttl_seconds": 0}), Refused(&["request-ttl"])),
        (
            json!({"require_confidential": true}),
            Refused(&["not-confidential"]),
        ),
        // Plain KVM has nothing that carries one; without its parts it would be none.
        (
            json!({"identity": identity}),
            Refused(&["backend-refused-request"]),
        ),
    ]
}

/// Whether a file of that name and content lies in the folder.
pub(super) fn has_file(folder: &std::path::Path, name: &str, content: &str) -> bool {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    entries.map(|entry| entry.path()).any(|path| {
        if path.is_dir() && !path.is_symlink() {
            return has_file(&path, name, content);
        }
        path.file_name().is_some_and(|own| own == name)
            && std::fs::read_to_string(&path).is_ok_and(|text| text.contains(content))
    })
}

#[tokio::test]
async fn a_vm_is_made_as_it_is_asked_for() {
    let daemon = super::daemon();
    for (spec, wanted) in specs() {
        for way in ["gRPC", "HTTP"] {
            let call = Call::Create(spec.clone());
            let made = match way {
                "gRPC" => over_grpc(&daemon, &call, "").await,
                _ => over_http(&daemon, &call, "").await,
            };
            if let Made::Refused(reasons) = wanted {
                let told = made.expect_err("it is refused");
                assert!(reasons.contains(&&*told.id), "{way}: {spec}: {told:?}");
                continue;
            }
            let vm = made.unwrap_or_else(|told| panic!("{way}: {spec}: {told:?}"));
            match &wanted {
                Made::Told(member, value) => assert_eq!(vm[member], *value, "{way}: {spec}"),
                Made::Started(flag, part) => {
                    let starts = Setup::fake_starts(daemon.folder.path());
                    let last = starts.last().expect("a start");
                    let found = super::fields::argument(last, flag);
                    assert!(found.contains(part), "{way}: {spec}: {found}");
                }
                Made::Shared(name, content) => {
                    assert!(has_file(&daemon.state_dir, name, content), "{way}: {spec}");
                }
                Made::Refused(_) => {}
            }
            let id = vm["id"].as_str().expect("an id");
            daemon.remove(id).await.expect("it goes");
        }
    }
    // A time to live, and its change.
    for way in ["gRPC", "HTTP"] {
        let call = async |call: Call, id: &str| match way {
            "gRPC" => over_grpc(&daemon, &call, id).await.expect("it is done"),
            _ => over_http(&daemon, &call, id).await.expect("it is done"),
        };
        let vm = call(Call::Create(json!({"ttl_seconds": 3600})), "").await;
        assert_ne!(vm["expires_at"], "", "{way}");
        let id = vm["id"].as_str().expect("an id");
        let forever = call(Call::Ttl("VM", None), id).await;
        assert_eq!(forever["expires_at"], "", "{way}");
        let again = call(Call::Ttl("VM", Some(60)), id).await;
        assert_ne!(again["expires_at"], "", "{way}");
        assert_eq!(call(Call::Remove("VM"), id).await, Value::Null);
    }
}

/// A rehearsal starts QEMU, and a plan does not.
#[tokio::test]
async fn a_plan_is_rehearsed_where_that_is_asked_for() {
    let daemon = super::daemon();
    let starts = || Setup::fake_starts(daemon.folder.path()).len();
    let mut so_far = starts();
    let spec = json!({"kernel_cmdline": "quiet from=plan"});
    for dry_run in [false, true] {
        let request = v1::PlanVmRequest {
            spec: serde_json::from_value(spec.clone()).ok(),
            dry_run,
        };
        let over_grpc = daemon
            .vms()
            .await
            .plan_vm(request)
            .await
            .expect("a plan")
            .into_inner();
        let body = json!({"spec": spec, "dry_run": dry_run});
        let over_http = sent(&daemon, Request::post("/v1/plan", &body)).await.json();
        for (way, told) in [("gRPC", json!(over_grpc)), ("HTTP", over_http)] {
            let wanted = if dry_run { "prelaunch" } else { "" };
            assert_eq!(told["dry_run"], wanted, "{way}: {told:#}");
            let command = told["command"].to_string();
            assert!(command.contains("quiet from=plan"), "{way}: {command}");
        }
        let started = starts() - so_far;
        assert_eq!(started, if dry_run { 2 } else { 0 });
        so_far += started;
    }
    // The same through a create, of which nothing is left.
    for (way, plan) in answers(&daemon, &Call::DryCreate(spec), "").await {
        assert_eq!(plan["dry_run"], "prelaunch", "{way}");
        assert!(
            plan["command"].to_string().contains("quiet from=plan"),
            "{way}"
        );
    }
    assert_eq!(daemon.list().await, []);
}

/// Each verb, over both.
#[tokio::test]
async fn verbs_do_what_they_say_to_the_vm_that_is_named() {
    let daemon = super::daemon();
    let bystander = created(&daemon, json!({})).await;
    for way in ["gRPC", "HTTP"] {
        let id = created(&daemon, json!({})).await;
        for (action, state) in [
            ("pause", "paused"),
            ("resume", "running"),
            ("reset", "running"),
            ("stop", "stopped"),
            ("start", "running"),
            ("restart", "running"),
        ] {
            let call = Call::Act(action, "VM", "");
            let vm = match way {
                "gRPC" => over_grpc(&daemon, &call, &id).await,
                _ => over_http(&daemon, &call, &id).await,
            };
            let vm = vm.unwrap_or_else(|told| panic!("{way}: {action}: {told:?}"));
            assert_eq!(
                (&vm["state"], &vm["id"]),
                (&json!(state), &json!(id)),
                "{way}: {action}"
            );
        }
        let call = Call::Remove("VM");
        let removed = match way {
            "gRPC" => over_grpc(&daemon, &call, &id).await,
            _ => over_http(&daemon, &call, &id).await,
        };
        removed.expect("it goes");
        let left: Vec<String> = daemon.list().await.into_iter().map(|vm| vm.id).collect();
        assert_eq!(left, [bystander.as_str()], "{way}");
    }
}

/// Conditions over gRPC: a stale one is refused by each call that takes one.
#[tokio::test]
async fn a_stale_generation_is_refused_by_every_call_that_takes_one() {
    let daemon = super::daemon();
    let id = created(&daemon, json!({})).await;
    for action in [
        "pause", "resume", "reset", "stop", "start", "restart", "remove",
    ] {
        if action == "resume" {
            daemon.act(Verb::Pause, &id).await.expect("it is paused");
        }
        if action == "start" {
            daemon.act(Verb::ForceStop, &id).await.expect("it is down");
        }
        let refused = over_grpc(&daemon, &Call::ActIf(action, 1), &id).await;
        let told = refused.expect_err(action);
        assert_eq!(told.id, "generation-changed", "{action}");
    }
}
