//! Files, disks and secrets of a request, and who created a VM: through gRPC and through HTTP. With
//! the scripted QEMU where the subject is what is refused, and with a real one where a VM has to have
//! what it asked for; no guest boots.

use std::path::PathBuf;
use std::time::Duration;

use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup, eventually};
use casemate_integration::http::Request;
use casemate_proto::v1;
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::both::{Call, Outcome, over_grpc, over_http};
use super::fields::answers;
use super::requests::has_file;

fn root_of(setup: &mut Setup) -> PathBuf {
    let root = setup.folder.path().join("images");
    std::fs::create_dir(&root).expect("a folder");
    setup.set("images.roots", root.display().to_string());
    root
}

async fn create(daemon: &Daemon, way: &str, spec: &Value) -> Outcome {
    let call = Call::Create(spec.clone());
    match way {
        "gRPC" => over_grpc(daemon, &call, "").await,
        _ => over_http(daemon, &call, "").await,
    }
}

/// A field that came to nothing would let the VM run, or be refused as another one.
#[tokio::test]
async fn each_file_of_a_request_is_looked_for() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let root = root_of(&mut setup);
    std::fs::write(root.join("file"), vec![0; 1 << 20]).expect("a file");
    let daemon = setup.start();
    let disk = |id: &str, image: &str, format: &str| json!({"data_disks": [{"id": id, "image": image, "format": format}]});
    for (spec, reason, subject) in [
        (
            json!({"files": {"kernel": "missing"}}),
            "image-unusable",
            "files.kernel",
        ),
        (
            json!({"files": {"initrd": "missing"}}),
            "image-unusable",
            "files.initrd",
        ),
        (
            json!({"files": {"firmware": "missing"}}),
            "image-unusable",
            "files.firmware",
        ),
        (
            json!({"files": {"igvm": "missing"}}),
            "image-unusable",
            "files.igvm",
        ),
        (
            json!({"files": {"disk": "missing"}}),
            "image-unusable",
            "files.disk",
        ),
        (
            json!({"files": {"disk": "file", "disk_format": "vmdk"}}),
            "request-field",
            "files.disk_format",
        ),
        (
            disk("data", "missing", "raw"),
            "image-unusable",
            "data_disks",
        ),
        (disk("data", "file", "vmdk"), "request-field", "data_disks"),
        (disk("1", "file", "raw"), "request-field", "data_disks"),
    ] {
        for way in ["gRPC", "HTTP"] {
            let told = create(&daemon, way, &spec)
                .await
                .expect_err("it is refused");
            assert_eq!(told.id, reason, "{way}: {spec}: {told:?}");
            let about = format!("{told:?}");
            assert!(about.contains(subject), "{way}: {spec}: {about}");
        }
    }
    let spec = json!({"secrets": {"tls.key": "b2YgdGhlIGtleQ=="}});
    for way in ["gRPC", "HTTP"] {
        let vm = create(&daemon, way, &spec).await.expect("it runs");
        assert!(
            has_file(&daemon.state_dir, "tls.key", "of the key"),
            "{way}"
        );
        daemon
            .remove(vm["id"].as_str().expect("an id"))
            .await
            .expect("it goes");
    }
}

#[tokio::test]
async fn files_are_told_as_they_were_asked_for() {
    let mut setup = Setup::new();
    // No guest is there to hear of the power button.
    setup.set("qemu.powerdown_time", "1s");
    let root = root_of(&mut setup);
    for (name, from) in [
        ("vmlinuz", artifacts::kernel()),
        ("initrd", artifacts::initrd()),
        ("OVMF.fd", artifacts::ovmf()),
    ] {
        std::fs::copy(from, root.join(name)).expect("a copy");
    }
    for name in ["disk", "data"] {
        std::fs::write(root.join(name), vec![0; 1 << 20]).expect("a file");
    }
    let daemon = setup.start();
    let files = |changes: Value| {
        let mut files = json!({
            "kernel": "", "initrd": "", "firmware": "", "igvm": "", "disk": "", "disk_format": "",
        });
        for (name, value) in changes.as_object().expect("an object") {
            files[name] = value.clone();
        }
        files
    };
    let data = json!([{"id": "data", "image": "data", "format": "raw"}]);
    for spec in [
        json!({"files": files(json!({"kernel": "vmlinuz", "initrd": "initrd"})), "data_disks": data}),
        json!({
            "files": files(json!({"disk": "disk", "disk_format": "raw", "firmware": "OVMF.fd"})),
            "settings": {"firmware": "bios"},
        }),
    ] {
        let vm = create(&daemon, "gRPC", &spec).await.expect("it runs");
        let id = vm["id"].as_str().expect("an id");
        for (way, vm) in answers(&daemon, &Call::Get("VM"), id).await {
            assert_eq!(vm["files"], spec["files"], "{way}: {vm:#}");
            let disks = spec.get("data_disks").cloned().unwrap_or_else(|| json!([]));
            assert_eq!(vm["data_disks"], disks, "{way}: {vm:#}");
        }
        daemon.remove(id).await.expect("it goes");
    }
}

fn client(name: &str, role: &str) -> toml::Value {
    let mut client = toml::Table::new();
    client.insert("name".to_owned(), name.into());
    client.insert("roles".to_owned(), vec![role].into());
    let digest = hex::encode(Sha256::digest(token_of(name)));
    client.insert("token_sha256".to_owned(), digest.into());
    client.into()
}

fn token_of(name: &str) -> String {
    format!("token-of-{name}")
}

fn bearer(name: &str) -> String {
    format!("Bearer {}", token_of(name))
}

#[tokio::test]
async fn a_vm_is_told_with_who_created_it() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup.set("client", vec![client("creator", "operator")]);
    let daemon = setup.start();
    let mut request = tonic::Request::new(v1::CreateVmRequest::default());
    let value = bearer("creator").parse().expect("a header");
    request.metadata_mut().insert("authorization", value);
    let over_grpc = daemon.vms().await.create_vm(request).await;
    let over_grpc = over_grpc.expect("it runs").into_inner().vm.expect("a VM");
    assert_eq!(over_grpc.created_by, "creator");
    let request = Request::post("/v1/vms", &json!({}));
    let request = request.header("Authorization", &bearer("creator"));
    let over_http = request.send(daemon.http).await.expect("an answer");
    assert_eq!(
        over_http.json()["created_by"],
        "creator",
        "{}",
        over_http.text()
    );
}

/// Whoever is no client any more gets no further event.
#[tokio::test]
async fn a_stream_ends_with_its_client() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup.set("http.stream_time", "20s");
    let stays = client("stays", "operator");
    setup.set("client", vec![stays.clone(), client("goes", "viewer")]);
    let mut daemon = setup.start();
    let watch = Request::get("/v1/events").header("Authorization", &bearer("goes"));
    let address = daemon.http;
    let watch = tokio::spawn(async move { watch.send(address).await });
    // It is let in by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    daemon.setup.set("client", vec![stays]);
    daemon.setup.write_config();
    daemon.signal(Signal::HUP);
    eventually("the reload", Duration::from_secs(30), || async {
        daemon.log().contains("clients changed").then_some(())
    })
    .await;
    let create = Request::post("/v1/vms", &json!({}));
    let create = create.header("Authorization", &bearer("stays"));
    let created = create.send(daemon.http).await.expect("an answer");
    assert_eq!(created.status, 201, "{}", created.text());
    let told = watch.await.expect("it ends").expect("an answer").text();
    assert!(told.contains("event: synchronized"), "{told}");
    assert!(!told.contains("event: vm"), "{told}");
}

/// No backend here has a use for it, and a watch tells of the VM before that is known.
#[tokio::test]
async fn an_igvm_file_is_told_while_its_vm_is_made() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup.set("http.stream_time", "4s");
    let root = root_of(&mut setup);
    std::fs::write(root.join("file"), vec![0; 1 << 20]).expect("a file");
    let daemon = setup.start();
    let mut vms = daemon.vms().await;
    let over_grpc = vms.watch_vms(v1::WatchVmsRequest::default()).await;
    let mut over_grpc = over_grpc.expect("it streams").into_inner();
    let watch = Request::get("/v1/events");
    let address = daemon.http;
    let over_http = tokio::spawn(async move { watch.send(address).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let spec = json!({"files": {"igvm": "file"}});
    create(&daemon, "gRPC", &spec)
        .await
        .expect_err("it is refused");
    let told = loop {
        let change = over_grpc
            .message()
            .await
            .expect("a change")
            .expect("no end");
        if let Some(v1::watch_vms_response::Change::Vm(vm)) = change.change {
            break vm;
        }
    };
    assert_eq!(told.files.expect("files").igvm, "file");
    let told = over_http.await.expect("it ends").expect("an answer").text();
    assert!(told.contains("\"igvm\":\"file\""), "{told}");
}
