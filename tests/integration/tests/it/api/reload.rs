//! Backends are replaced while the daemon serves: what a reload says it did is what it did.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup, Verb};
use casemate_integration::http::Request;
use casemate_proto::v1;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use xtask::endurance::RELOADS;

use super::both::{Call, over_grpc, over_http};
use super::events::{events, until};
use super::setup;

/// Reloads where nobody asks for more.
const FEW_RELOADS: usize = 40;
/// Callers who plan all the time.
const PLANNERS: usize = 4;
/// What the allocator may keep more, after the first tenth. One component's code has a MiB, so that
/// code that is kept shows with forty of them, and with a thousand by far.
const MAX_GROWTH_KIB: u64 = 24 << 10;

/// The component with a custom section more: the same code, and other bytes.
fn edition(component: &str, number: u8) -> Vec<u8> {
    let mut bytes = std::fs::read(artifacts::component(component)).expect("it was built");
    // Section 0, 9 bytes: a name of 7, and a byte of content.
    bytes.extend([0, 9, 7]);
    bytes.extend(b"edition");
    bytes.push(number);
    bytes
}

fn backends(config: &mut toml::Table) -> &mut Vec<toml::Value> {
    config["backend"].as_array_mut().expect("an array")
}

fn backend<'a>(config: &'a mut toml::Table, name: &str) -> &'a mut toml::Table {
    let mut found = backends(config)
        .iter_mut()
        .filter_map(toml::Value::as_table_mut);
    found
        .find(|backend| backend["name"].as_str() == Some(name))
        .expect("a backend of that name")
}

fn change(daemon: &Daemon, change: impl FnOnce(&mut toml::Table)) {
    let path = daemon.folder.path().join("casemate.toml");
    let text = std::fs::read_to_string(&path).expect("the config is there");
    let mut config: toml::Table = text.parse().expect("it parses");
    change(&mut config);
    std::fs::write(path, config.to_string()).expect("a file");
}

/// A backend `name` at a path of its own.
fn add(setup: &mut Setup, component: &str, name: &str) -> PathBuf {
    setup.add_iothreads(component, name);
    let path = setup.folder.path().join(format!("{name}.wasm"));
    std::fs::write(&path, edition(component, 0)).expect("a file");
    let added = backend(&mut setup.config, name);
    added.insert("path".to_owned(), path.display().to_string().into());
    added.remove("sha256");
    added.insert("allow_unpinned".to_owned(), true.into());
    path
}

fn told(answer: &Value, name: &str) -> Value {
    let found = answer["backends"].as_array().into_iter().flatten();
    let mut found = found.filter(|backend| backend["name"] == name);
    found.next().cloned().unwrap_or(Value::Null)
}

#[tokio::test]
async fn a_call_reloads_and_says_what_became_of_each_backend() {
    for way in ["gRPC", "HTTP"] {
        let mut setup = setup();
        let replaced = add(&mut setup, "mirror", "replaced");
        for name in ["reconfigured", "removed", "bad"] {
            add(&mut setup, "mirror", name);
        }
        let bad = setup.folder.path().join("bad.wasm");
        std::fs::write(&bad, "no component").expect("a file");
        let added = setup.folder.path().join("added.wasm");
        std::fs::write(&added, edition("mirror", 1)).expect("a file");
        let digest = |path: &Path| artifacts::sha256(path);
        let first = digest(&replaced);
        let daemon = setup.start();
        let spec = v1::VmSpec {
            backend: "replaced".to_owned(),
            ..v1::VmSpec::default()
        };
        let vm = daemon.create(spec.clone()).await.expect("it runs");
        assert_eq!(vm.backend_sha256, first);

        std::fs::write(&replaced, edition("mirror", 2)).expect("a file");
        let second = digest(&replaced);
        assert_ne!(first, second);
        change(&daemon, |config| {
            config.insert("max_vms".to_owned(), 7.into());
            config["grpc"]
                .as_table_mut()
                .expect("a table")
                .insert("port".to_owned(), 1.into());
            backend(config, "reconfigured").remove("grants");
            backends(config).retain(|backend| backend["name"].as_str() != Some("removed"));
            let mut new = backend(config, "replaced").clone();
            new.insert("name".to_owned(), "added".into());
            new.insert("path".to_owned(), added.display().to_string().into());
            backends(config).push(new.into());
        });
        let answer = match way {
            "gRPC" => over_grpc(&daemon, &Call::Reload, "").await,
            _ => over_http(&daemon, &Call::Reload, "").await,
        };
        let answer = answer.unwrap_or_else(|error| panic!("{way}: {error:?}"));
        let version = env!("CARGO_PKG_VERSION");
        for (name, change, before, now, version) in [
            ("replaced", "replaced", &*first, &*second, version),
            ("reconfigured", "reconfigured", &first, &first, version),
            ("removed", "removed", &first, "", ""),
            ("added", "added", "", &digest(&added), version),
        ] {
            let wanted = json!({
                "name": name, "change": change, "previous_sha256": before, "sha256": now,
                "version": version, "error": "",
            });
            assert_eq!(told(&answer, name), wanted, "{way}: {answer:#}");
        }
        assert_eq!(told(&answer, "plain-kvm")["change"], "unchanged", "{way}");
        let failed = told(&answer, "bad");
        assert_eq!(failed["change"], "failed", "{way}");
        let error = failed["error"].as_str().unwrap_or_default();
        assert!(
            error.contains("not a WebAssembly component"),
            "{way}: {error}"
        );
        assert_eq!(answer["changed_keys"], json!(["max_vms"]), "{way}");
        assert_eq!(answer["waiting_keys"], json!(["grpc.port"]), "{way}");

        // Who runs keeps what it was started with; who comes gets the new one.
        let running = daemon.get(&vm.id).await.expect("it runs");
        assert_eq!(running.backend_sha256, first, "{way}");
        let new = daemon.create(spec).await.expect("it runs");
        assert_eq!(new.backend_sha256, second, "{way}");
        let (_, metrics) = daemon.get_http("/metrics").await;
        for line in [
            "casemate_backend_reloads_total{backend=\"replaced\",change=\"replaced\"} 1".to_owned(),
            format!(
                "casemate_backend_info{{backend=\"replaced\",sha256=\"{second}\",tee=\"mirror\",version=\"{version}\"}} 1"
            ),
        ] {
            assert!(metrics.contains(&line), "{way}: {line}\n{metrics}");
        }
        assert!(
            !metrics.contains("casemate_backend_info{backend=\"removed\""),
            "{way}"
        );
        let audit = "action=\"reload-backends\"";
        assert!(daemon.log().contains(audit), "{way}: {}", daemon.log());

        // A setting of all backends is one of each that announces it.
        change(&daemon, |config| {
            let settings = toml::toml! { memory-slots = 6 };
            config.insert("settings".to_owned(), settings.into());
        });
        let answer = over_grpc(&daemon, &Call::Reload, "").await;
        let answer = answer.unwrap_or_else(|error| panic!("{way}: {error:?}"));
        for (name, change) in [("plain-kvm", "reconfigured"), ("added", "unchanged")] {
            assert_eq!(told(&answer, name)["change"], change, "{way}: {answer:#}");
        }
    }
}

#[tokio::test]
async fn what_cannot_serve_changes_nothing_and_the_caller_hears_why() {
    let mut setup = setup();
    let path = add(&mut setup, "mirror", "mirror");
    let first = artifacts::sha256(&path);
    let daemon = setup.start();
    std::fs::write(&path, "no component").expect("a file");
    change(&daemon, |config| {
        config.insert("max_vms".to_owned(), 7.into());
    });
    let grpc = over_grpc(&daemon, &Call::Reload, "").await;
    let http = over_http(&daemon, &Call::Reload, "").await;
    let error = grpc.clone().expect_err("it is no component");
    assert_eq!(error.id, "reload-refused");
    assert_eq!(grpc, http);
    let text = format!("{error:?}");
    for part in [
        "nothing was changed",
        "mirror",
        "not a WebAssembly component",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (_, metrics) = daemon.get_http("/metrics").await;
    for line in [
        "casemate_backend_reloads_total{backend=\"mirror\",change=\"refused\"} 2",
        "casemate_vm_limit 400",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    let listed = over_grpc(&daemon, &Call::Backends, "")
        .await
        .expect("a list");
    assert_eq!(told(&listed, "mirror")["sha256"], *first);
    // Mended, the same call takes it over.
    std::fs::write(&path, edition("mirror", 3)).expect("a file");
    let answer = over_grpc(&daemon, &Call::Reload, "")
        .await
        .expect("it is right");
    assert_eq!(told(&answer, "mirror")["change"], "replaced");
}

/// Two who watch, and a daemon whose backend is replaced, spoiled, mended and taken out.
#[tokio::test]
async fn who_watches_hears_what_reloads_make_of_the_backends() {
    use v1::watch_backends_response::Change;
    let mut setup = setup();
    setup.set("http.stream_time", "1h");
    let path = add(&mut setup, "mirror", "mirror");
    let digests = [0, 1].map(|number| hex::encode(Sha256::digest(edition("mirror", number))));
    let daemon = setup.start();
    let request = v1::WatchBackendsRequest {};
    let stream = daemon.backends().await.watch_backends(request).await;
    let mut grpc = stream.expect("it streams").into_inner();
    let http = Request::get("/v1/backend-events").begin(daemon.http).await;
    let mut http = http.expect("a connection");
    let mut text = until(&mut http, "event: synchronized").await;

    std::fs::write(&path, edition("mirror", 1)).expect("a file");
    let reload = async || over_grpc(&daemon, &Call::Reload, "").await;
    reload().await.expect("it is right");
    // Nothing is another now, and nothing is told.
    reload().await.expect("it is right");
    std::fs::write(&path, "no component").expect("a file");
    reload().await.expect_err("it is no component");
    change(&daemon, |config| {
        backends(config).retain(|backend| backend["name"].as_str() != Some("mirror"));
    });
    reload().await.expect("it is right");
    text.push_str(&until(&mut http, "event: removed").await);

    let (_, body) = text.split_once("\r\n\r\n").expect("a body");
    let over_http: Vec<String> = events(body)
        .iter()
        .map(|event| {
            let member = |name: &str| event.data[name].as_str().unwrap_or_default().to_owned();
            match &*event.name {
                "backend" => format!("{} {}", member("name"), member("sha256")),
                "removed" => format!("removed {}", member("name")),
                "refused" => format!("refused {}", member("subject")),
                other => other.to_owned(),
            }
        })
        .collect();
    let mut over_grpc = Vec::new();
    while over_grpc
        .last()
        .is_none_or(|last: &String| !last.starts_with("removed"))
    {
        let next = tokio::time::timeout(Duration::from_secs(60), grpc.message()).await;
        let message = next.expect("in time").expect("no error").expect("no end");
        over_grpc.push(match message.change.expect("a change") {
            Change::Backend(backend) => format!("{} {}", backend.name, backend.sha256),
            Change::Removed(name) => format!("removed {name}"),
            Change::ReloadRefused(subject) => format!("refused {subject}"),
            Change::Synchronized(is_so) => {
                assert!(is_so);
                "synchronized".to_owned()
            }
        });
    }
    let plain = artifacts::sha256(&artifacts::component("plain-kvm"));
    let [first, second] = digests.map(|digest| format!("mirror {digest}"));
    let wanted = [
        &*format!("plain-kvm {plain}"),
        &first,
        "synchronized",
        &second,
        "refused mirror",
        "removed mirror",
    ];
    assert_eq!(over_grpc, wanted);
    assert_eq!(over_http, wanted);
}

#[tokio::test]
async fn a_canary_gets_new_vms_by_their_labels_and_leaves_those_that_are_there() {
    let mut setup = setup();
    add(&mut setup, "mirror", "stable");
    setup.set("default_backend", "stable");
    let daemon = setup.start();
    let create = async |backend: &str, labels: &[(&str, &str)]| {
        let spec = v1::VmSpec {
            backend: backend.to_owned(),
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            ..v1::VmSpec::default()
        };
        daemon.create(spec).await.expect("it runs")
    };
    let canary = [("channel", "canary"), ("team", "blue")];
    let before = create("stable", &canary).await;
    assert_eq!(before.backend, "stable");

    let next = daemon.folder.path().join("next.wasm");
    std::fs::write(&next, edition("mirror", 1)).expect("a file");
    change(&daemon, |config| {
        let mut backend = backend(config, "stable").clone();
        backend.insert("name".to_owned(), "next".into());
        backend.insert("path".to_owned(), next.display().to_string().into());
        let labels = toml::toml! { channel = "canary" };
        let canary = toml::toml! { of = "stable" };
        backend.insert("canary".to_owned(), canary.into());
        backend["canary"]
            .as_table_mut()
            .expect("a table")
            .insert("labels".to_owned(), labels.into());
        backends(config).push(backend.into());
    });
    over_grpc(&daemon, &Call::Reload, "")
        .await
        .expect("it is right");
    for (named, labels, expected) in [
        ("stable", &canary[..], "next"),
        ("", &canary[..1], "next"),
        ("stable", &[], "stable"),
        ("", &[("channel", "stable")], "stable"),
        ("next", &[], "next"),
    ] {
        let vm = create(named, labels).await;
        assert_eq!(vm.backend, expected, "{named} {labels:?}");
    }
    for backends in [
        over_grpc(&daemon, &Call::Backends, "").await,
        over_http(&daemon, &Call::Backends, "").await,
    ] {
        let next = told(&backends.expect("a list"), "next");
        assert_eq!(next["canary_of"], "stable");
        assert_eq!(next["canary_labels"], json!({"channel": "canary"}));
    }
    // It starts again as what it was.
    daemon.act(Verb::Stop, &before.id).await.expect("it stops");
    let again = daemon
        .act(Verb::Start, &before.id)
        .await
        .expect("it starts");
    assert_eq!(again.backend, "stable");
    // One of another technology would protect otherwise, or not at all.
    change(&daemon, |config| {
        let mut other = backend(config, "next").clone();
        other.insert("name".to_owned(), "other".into());
        let umbra = artifacts::component("umbra").display().to_string();
        other.insert("path".to_owned(), umbra.into());
        backends(config).push(other.into());
    });
    let refused = over_grpc(&daemon, &Call::Reload, "").await;
    let error = refused.expect_err("it is another technology");
    let text = format!("{error:?}");
    for part in [
        "\\\"other\\\" would not be in service: it takes the place of \\\"stable\\\" (tee mirror",
        "another technology (tee umbra",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    change(&daemon, |config| {
        backends(config).retain(|backend| backend["name"].as_str() != Some("other"));
    });
    over_grpc(&daemon, &Call::Reload, "")
        .await
        .expect("it is right");
    // A canary that cannot serve is not passed over in silence.
    std::fs::write(&next, "no component").expect("a file");
    over_grpc(&daemon, &Call::Reload, "")
        .await
        .expect_err("the old one serves on");
    assert_eq!(create("stable", &canary).await.backend, "next");
}

/// Nobody knows whether it would protect as the other one does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_takes_no_place_of_a_backend_that_is_out_of_service() {
    let mut setup = setup();
    add(&mut setup, "mirror", "stable");
    add(&mut setup, "mirror", "next");
    backend(&mut setup.config, "stable").insert("path".to_owned(), "/nowhere/a.wasm".into());
    let canary = toml::toml! {
        of = "stable"
        labels = { channel = "canary" }
    };
    backend(&mut setup.config, "next").insert("canary".to_owned(), canary.into());
    let daemon = setup.start();
    let create = async |backend: &str| {
        let spec = v1::VmSpec {
            backend: backend.to_owned(),
            labels: [("channel".to_owned(), "canary".to_owned())].into(),
            ..v1::VmSpec::default()
        };
        daemon.create(spec).await
    };
    let refused = create("stable").await.expect_err("it is not in service");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("not in service"), "{refused}");
    assert_eq!(create("next").await.expect("it runs").backend, "next");
}

/// Two components in turn, each compiled anew, while others plan all the time. `cargo xtask
/// endurance` makes a thousand reloads of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_fail_no_call_and_keep_no_code() {
    let asked = std::env::var(RELOADS).ok();
    let reloads = asked.map_or(FEW_RELOADS, |text| text.parse().expect("a number"));
    let mut setup = setup();
    let path = add(&mut setup, "mirror", "mirror");
    setup.allow_any_call_rate();
    // What the allocator keeps for each thread would hide what the daemon keeps.
    setup.variable("MALLOC_ARENA_MAX", "1");
    let daemon = Arc::new(setup.start());
    let (stop, plans) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let planners: Vec<_> = (0..PLANNERS)
        .map(|_| {
            let (daemon, stop, plans) = (daemon.clone(), stop.clone(), plans.clone());
            tokio::spawn(async move {
                let mut vms = daemon.vms().await;
                while !stop.load(Ordering::Relaxed) {
                    let request = v1::PlanVmRequest {
                        spec: Some(v1::VmSpec {
                            backend: "mirror".to_owned(),
                            ..v1::VmSpec::default()
                        }),
                        ..v1::PlanVmRequest::default()
                    };
                    vms.plan_vm(request).await.expect("every plan is made");
                    plans.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut backends = daemon.backends().await;
    let mut warm = 0;
    for number in 1..=reloads {
        let staged = path.with_extension("new");
        std::fs::write(&staged, edition("mirror", u8::from(number % 2 == 1))).expect("a file");
        std::fs::rename(&staged, &path).expect("it is replaced as a whole");
        let answer = backends.reload_backends(v1::ReloadBackendsRequest {}).await;
        let answer = answer.expect("it reloads").into_inner();
        let mirror = answer.backends.iter().find(|one| one.name == "mirror");
        assert_eq!(mirror.expect("it is told").change, "replaced", "{number}");
        if number % (reloads / 10) == 0 {
            let resident = daemon.resident_kib();
            println!("after {number}: {resident} KiB");
            warm = if warm == 0 { resident } else { warm };
        }
    }
    stop.store(true, Ordering::Relaxed);
    for planner in planners {
        planner.await.expect("no plan failed");
    }
    // What ends after its last call has ended.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (plans, end) = (plans.load(Ordering::Relaxed), daemon.resident_kib());
    println!("{reloads} reloads under {plans} plans; {warm} KiB, then {end} KiB");
    assert!(plans > reloads as u64 / 10, "{plans} plans are no load");
    assert!(end < warm + MAX_GROWTH_KIB, "{warm} KiB became {end} KiB");
}
