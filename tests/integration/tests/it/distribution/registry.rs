//! The way of a backend through a real registry, to a daemon that has it in service.

use std::os::unix::fs::PermissionsExt as _;

use casemate_integration::artifacts;
use casemate_integration::daemon::Setup;
use casemate_integration::http::Request;
use casemate_integration::registry::Registry;
use casemate_integration::signers::Signer;
use casemate_proto::v1;
use serde_json::{Value, json};

use super::bench::Bench;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What the registry itself says, asked without any code of the CLI.
async fn asked(registry: &Registry, path: &str, accept: &str) -> Value {
    let request = Request::get(path).header("Accept", accept);
    let answer = request.send(registry.address()).await.expect("an answer");
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_goes_through_a_registry_into_service() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let bench = Bench::new();
    let signer = Signer::cosign();
    let minisign = Signer::minisign();
    let file = bench.component("plain-kvm.wasm", Some("1.2.3"));
    signer.sign(&file);
    if let Some(minisign) = &minisign {
        minisign.sign(&file);
    }
    let sha256 = artifacts::sha256(&file);
    let name = format!("{}/casemate/plain-kvm", registry.address());
    let reference = format!("{name}:1.2.3");
    let key = signer.public_key().display().to_string();

    let pushed = bench.json(&[
        "backend",
        "push",
        "plain-kvm.wasm",
        &reference,
        "--key",
        &key,
    ]);
    assert_eq!(pushed["sha256"], sha256);
    let signatures = match minisign {
        Some(_) => json!(["sig", "minisig"]),
        None => json!(["sig"]),
    };
    assert_eq!(pushed["signatures"], signatures);

    // As wkg lays it out.
    let path = "/v2/casemate/plain-kvm";
    let manifest = asked(&registry, &format!("{path}/manifests/1.2.3"), MANIFEST).await;
    let config = &manifest["config"];
    assert_eq!(manifest["mediaType"], MANIFEST);
    assert_eq!(config["mediaType"], "application/vnd.wasm.config.v0+json");
    let layers = manifest["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 1, "{manifest}");
    assert_eq!(layers[0]["mediaType"], "application/wasm");
    assert_eq!(layers[0]["digest"], format!("sha256:{sha256}"));
    let annotations = &manifest["annotations"];
    assert_eq!(annotations["org.opencontainers.image.version"], "1.2.3");
    assert_eq!(annotations["org.opencontainers.image.title"], "plain-kvm");
    let blob = format!(
        "{path}/blobs/{}",
        config["digest"].as_str().expect("a text")
    );
    let config = asked(&registry, &blob, "*/*").await;
    assert_eq!(config["architecture"], "wasm");
    assert_eq!(config["layerDigests"], json!([format!("sha256:{sha256}")]));
    let exports = config["component"]["exports"].as_array().expect("names");
    assert!(
        exports.contains(&json!("casemate:tee/backend@1.0.0")),
        "{config}"
    );

    let inspected = bench.json(&["backend", "inspect", &reference, "--key", &key]);
    assert_eq!(inspected["contract"], "1.0.0");
    assert_eq!(inspected["version"], "1.2.3");
    assert_eq!(inspected["manifest"], pushed["manifest"]);
    let of_file = bench.json(&["backend", "inspect", "plain-kvm.wasm", "--key", &key]);
    for same in [
        "sha256", "size", "version", "contract", "imports", "exports",
    ] {
        assert_eq!(inspected[same], of_file[same], "{same}");
    }
    let valid = |page: &Value| {
        let signatures = page["signatures"].as_array().cloned().unwrap_or_default();
        let valid = signatures.iter().filter(|one| one["valid"] == true);
        valid.filter(|one| one["form"] == "sig").count()
    };
    assert_eq!(
        (valid(&inspected), valid(&of_file)),
        (1, 1),
        "{inspected} {of_file}"
    );

    let pinned = bench.done(&[
        "backend",
        "pin",
        &reference,
        "--key",
        &key,
        "--path",
        "out/plain-kvm.wasm",
    ]);
    assert!(pinned.said.contains("pinned plain-kvm 1.2.3"), "{pinned:?}");
    let lock = std::fs::read_to_string(bench.path("casemate-backends.lock")).expect("a lock");
    let lock: toml::Table = lock.parse().expect("TOML");
    let locked = &lock["backend"][0];
    assert_eq!(locked["reference"].as_str(), Some(reference.as_str()));
    assert_eq!(locked["version"].as_str(), Some("1.2.3"));
    assert_eq!(locked["sha256"].as_str(), Some(sha256.as_str()));
    assert_eq!(locked["manifest"].as_str(), pushed["manifest"].as_str());
    assert!(
        locked["key"]
            .as_str()
            .is_some_and(|key| key.starts_with("sha256:"))
    );

    let pulled = bench.json(&[
        "backend", "pull", &reference, "--output", "out", "--key", &key,
    ]);
    assert_eq!(pulled["sha256"], sha256);
    assert_eq!(pulled["key"], locked["key"].as_str().expect("a text"));
    assert_eq!(bench.pulled(), ["plain-kvm.wasm", "plain-kvm.wasm.sig"]);
    let out = bench.path("out/plain-kvm.wasm");
    assert_eq!(
        std::fs::read(&out).expect("it"),
        std::fs::read(&file).expect("it")
    );
    let mode = std::fs::metadata(&out)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o644);
    let verified = bench.json(&[
        "backend",
        "verify",
        "out/plain-kvm.wasm",
        "--key",
        &key,
        "--sha256",
        &sha256,
    ]);
    assert_eq!(verified["pinned_as"], "plain-kvm");
    assert_eq!(verified["key"], pulled["key"]);

    // The lines are those of a daemon's config.
    let lines: toml::Table = pinned.printed.parse().expect("TOML");
    let mut setup = Setup::new();
    let backend = setup.config["backend"][0].as_table_mut().expect("a table");
    for (key, value) in lines["backend"][0].as_table().expect("a table") {
        backend.insert(key.clone(), value.clone());
    }
    assert_eq!(backend["path"].as_str(), Some(&*out.display().to_string()));
    let daemon = setup.start();
    let mut client = daemon.backends().await;
    let answer = client.list_backends(v1::ListBackendsRequest {}).await;
    let backends = answer.expect("a list").into_inner().backends;
    assert_eq!(backends[0].status, "in-service", "{}", backends[0].error);
    assert_eq!(backends[0].sha256, sha256);
}

/// A signature that is pushed later goes to those that are there.
#[test]
fn signatures_gather_beside_a_component() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let bench = Bench::new();
    let (one, other) = (Signer::cosign(), Signer::cosign());
    let file = bench.component("plain-kvm.wasm", None);
    let reference = format!("{}/casemate/plain-kvm:1.0.0", registry.address());
    let manifest = |value: Value| value["manifest"].as_str().map(str::to_owned);
    let first = manifest(bench.json(&["backend", "push", "plain-kvm.wasm", &reference]));
    let by_digest = format!(
        "{}/casemate/plain-kvm@{}",
        registry.address(),
        first.as_deref().expect("a digest")
    );
    let elsewhere = bench.path("elsewhere.sig");
    for signer in [&one, &other] {
        let signature = signer.sign(&file);
        std::fs::rename(signature, &elsewhere).expect("another place");
        let push = ["backend", "push", "plain-kvm.wasm", &reference];
        let ended = bench.json(&[&push[..], &["--signature", "elsewhere.sig"]].concat());
        assert_eq!(ended["signatures"], json!(["sig"]));
        // The same component under the same tag is the same artifact, with one signature more.
        assert_eq!(manifest(ended), first);
    }
    let page = bench.json(&["backend", "inspect", &reference]);
    let signatures = page["signatures"].as_array().expect("signatures");
    assert_eq!(signatures.len(), 2, "{page}");
    assert!(
        signatures.iter().all(|one| one["valid"].is_null()),
        "{page}"
    );
    let pull = ["backend", "pull", &reference, "--output", "out", "--key"];
    for signer in [&one, &other] {
        let key = signer.public_key().display().to_string();
        bench.done(&[&pull[..], &[&key]].concat());
    }
    bench.done(&["backend", "pull", &by_digest, "--output", "out"]);
    assert_eq!(bench.pulled(), ["plain-kvm.wasm", "plain-kvm.wasm.sig"]);
    // Beside a file there is room for one, and without a key nobody says which.
    let ended = bench.done(&["backend", "pull", &by_digest, "--output", "a/new/folder"]);
    assert!(ended.said.contains("several signatures"), "{ended:?}");
    let there = |name: &str| bench.path("a/new/folder").join(name).exists();
    assert!(there("plain-kvm.wasm") && !there("plain-kvm.wasm.sig"));
}

fn verify<'a>(further: &[&'a str]) -> Vec<&'a str> {
    [&["backend", "verify", "plain-kvm.wasm"], further].concat()
}

#[test]
fn a_file_is_verified_without_a_network() {
    let bench = Bench::new();
    let signer = Signer::cosign();
    let file = bench.component("plain-kvm.wasm", None);
    signer.sign(&file);
    let key = signer.public_key().display().to_string();
    let sha256 = artifacts::sha256(&file);
    // Held against nothing, every file would hold.
    assert_eq!(bench.refused(&verify(&[])).0, "not-pinned");
    let ended = bench.done(&verify(&["--key", &key]));
    for part in ["no --sha256", "no lock file"] {
        assert!(ended.printed.contains(part), "{ended:?}");
    }
    let ended = bench.done(&verify(&["--sha256", &sha256]));
    assert!(ended.printed.contains("no --key"), "{ended:?}");
    let pinned = bench.done(&[
        "backend",
        "pin",
        "plain-kvm.wasm",
        "--name",
        "own",
        "--key",
        &key,
    ]);
    assert!(pinned.printed.contains("signature_keys = ["), "{pinned:?}");
    assert!(pinned.printed.contains("name = \"own\""), "{pinned:?}");
    let value = bench.json(&verify(&["--key", &key, "--sha256", &sha256]));
    assert_eq!(value["pinned_as"], "own");
    assert_eq!(value["sha256_given"], true);
    bench.write("empty.lock", "version = 1\n");
    let other = "00".repeat(32);
    let stranger = Signer::cosign().public_key();
    for (further, id) in [
        (&["--sha256", other.as_str()][..], "pin-mismatch"),
        (&["--lock", "empty.lock"], "not-pinned"),
        (&["--key", &stranger.display().to_string()], "signature-key"),
    ] {
        assert_eq!(bench.refused(&verify(further)).0, id, "{further:?}");
    }
    let mut bytes = std::fs::read(&file).expect("a component");
    bytes.extend([0, 3, 1, b'x', b'y']);
    std::fs::write(&file, bytes).expect("a file");
    assert_eq!(bench.refused(&verify(&["--key", &key])).0, "not-pinned");
    // What is pinned under one name does not pass for another that is pinned as well.
    bench.component("other.wasm", Some("9.9.9"));
    bench.done(&["backend", "pin", "other.wasm"]);
    std::fs::copy(bench.path("other.wasm"), bench.path("own.wasm")).expect("a file");
    assert_eq!(
        bench.refused(&["backend", "verify", "own.wasm"]).0,
        "pin-mismatch"
    );
    bench.done(&["backend", "verify", "other.wasm"]);
    bench.write("own.wasm", b"\x7fELF\x02\x01\x01\0");
    assert_eq!(
        bench.refused(&["backend", "verify", "own.wasm"]).0,
        "not-a-component"
    );
    std::fs::remove_file(bench.path("casemate-backends.lock")).expect("it is there");
    assert_eq!(
        bench.refused(&verify(&["--key", &key])).0,
        "signature-mismatch"
    );
}
