//! Flags whose effect no other test of distribution shows.

use casemate_integration::artifacts;
use casemate_integration::registry::Registry;
use casemate_integration::signers::Signer;

use super::bench::Bench;
use super::hostile::{Answer, Artifact, Server};

/// This machine, by an address that is none of loopback.
const ANY: &str = "0.0.0.0";

#[test]
fn another_machine_is_asked_without_tls_where_that_is_allowed() {
    let server = Server::start();
    let bench = Bench::new();
    let artifact = Artifact::component();
    server.artifact("1.0.0", &artifact);
    let config = r#"{"created": "x", "architecture": "wasm", "os": "unknown", "layerDigests": [], "component": {"exports": [], "imports": []}}"#;
    let mut manifest = artifact.manifest();
    manifest["config"]["digest"] = super::hostile::digest(config.as_bytes()).into();
    manifest["config"]["size"] = config.len().into();
    let blob = format!("/v2/a/blobs/{}", super::hostile::digest(config.as_bytes()));
    server.answer("/v2/a/manifests/1.0.0", Answer::of(manifest.to_string()));
    server.answer(&blob, Answer::of(config));
    let reference = format!("{ANY}:{}/a:1.0.0", server.address().port());
    for verb in [
        &["backend", "pull", &reference, "--output", "out"][..],
        &["backend", "pin", &reference],
        &["backend", "inspect", &reference],
    ] {
        let (id, message, _) = bench.refused(verb);
        assert_eq!(id, "registry-unreachable", "TLS is tried: {message}");
        bench.done(&[verb, &["--insecure-http", ANY]].concat());
    }
    let Some(registry) = Registry::start() else {
        return;
    };
    // It listens at loopback, and is reached as this machine.
    bench.component("plain-kvm.wasm", None);
    let reference = format!(
        "{ANY}:{}/casemate/plain-kvm:1.0.0",
        registry.address().port()
    );
    let push = ["backend", "push", "plain-kvm.wasm", &reference];
    assert_eq!(bench.refused(&push).0, "registry-unreachable");
    bench.done(&[&push[..], &["--insecure-http", ANY]].concat());
}

#[test]
fn a_redirect_is_followed_by_every_verb_that_names_its_host() {
    let (server, elsewhere) = (Server::start(), Server::start());
    let bench = Bench::new();
    let artifact = Artifact::component();
    server.artifact("1.0.0", &artifact);
    let manifest = "/v2/a/manifests/1.0.0";
    let location = format!("http://{}/manifest", elsewhere.address());
    server.answer(manifest, Answer::status(302).header("Location", &location));
    let config = r#"{"created": "x", "architecture": "wasm", "os": "unknown", "layerDigests": [], "component": {"exports": [], "imports": []}}"#;
    let mut content = artifact.manifest();
    content["config"]["digest"] = super::hostile::digest(config.as_bytes()).into();
    content["config"]["size"] = config.len().into();
    let blob = format!("/v2/a/blobs/{}", super::hostile::digest(config.as_bytes()));
    server.answer(&blob, Answer::of(config));
    elsewhere.answer("/manifest", Answer::of(content.to_string()));
    let to = elsewhere.address().to_string();
    let reference = server.reference("1.0.0");
    for verb in ["pin", "inspect"] {
        let arguments = ["backend", verb, &reference];
        assert_eq!(bench.refused(&arguments).0, "redirect-refused");
        bench.done(&[&arguments[..], &["--redirect-to", &to]].concat());
    }
}

#[test]
fn what_is_to_be_pinned_or_pushed_is_checked_first() {
    let bench = Bench::new();
    let (signer, stranger) = (Signer::cosign(), Signer::cosign());
    let file = bench.component("plain-kvm.wasm", None);
    stranger.sign(&file);
    let key = signer.public_key().display().to_string();
    let nobody = format!(
        "127.0.0.1:{}/a:1",
        casemate_integration::daemon::free_port()
    );
    let push = ["backend", "push", "plain-kvm.wasm", &nobody, "--key", &key];
    assert_eq!(
        bench.refused(&push).0,
        "signature-mismatch",
        "before anybody is asked"
    );
    let other = "00".repeat(32);
    let pin = ["backend", "pin", "plain-kvm.wasm", "--sha256", &other];
    assert_eq!(bench.refused(&pin).0, "pin-mismatch");
    let sha256 = artifacts::sha256(&file);
    let pin = [
        "backend",
        "pin",
        "plain-kvm.wasm",
        "--sha256",
        &sha256,
        "--lock",
        "own.lock",
    ];
    bench.done(&pin);
    let lock = std::fs::read_to_string(bench.path("own.lock")).expect("a lock");
    assert!(lock.contains(&sha256), "{lock}");
    assert!(!bench.path("casemate-backends.lock").exists());
    let ended = bench.run(&["backend", "pin", "plain-kvm.wasm", "--name", "a/b"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
}
