//! Mirrors have files by their digest, and are not trusted.

use casemate_integration::artifacts;
use casemate_integration::signers::Signer;

use super::bench::Bench;
use super::hostile::{Answer, Artifact, Server};

/// The reference's host is never asked: it is none.
const REFERENCE: &str = "registry.invalid/casemate/plain-kvm:1.0.0";

#[test]
fn a_folder_is_a_mirror() {
    let bench = Bench::new();
    let file = bench.component("plain-kvm.wasm", None);
    let sha256 = artifacts::sha256(&file);
    let bytes = std::fs::read(&file).expect("a component");
    let pull = [
        "backend", "pull", REFERENCE, "--output", "out", "--sha256", &sha256,
    ];
    let with = |further: &[&'static str]| -> Vec<String> {
        let all = pull.iter().chain(further);
        all.map(|word| (*word).to_owned()).collect()
    };
    let run = |further: &[&'static str]| {
        let arguments = with(further);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        bench.refused(&arguments).0
    };
    // It has nothing yet, and the registry is asked.
    std::fs::create_dir(bench.path("mirror")).expect("a folder");
    assert_eq!(run(&["--mirror", "mirror"]), "registry-unreachable");

    let mut tampered = bytes.clone();
    *tampered.last_mut().expect("it is not empty") ^= 1;
    let name = format!("mirror/{sha256}.wasm");
    bench.write(&name, &tampered);
    assert_eq!(run(&["--mirror", "mirror"]), "digest-mismatch");
    bench.write(&name, vec![0; (32 << 20) + 1]);
    assert_eq!(run(&["--mirror", "mirror"]), "component-too-large");
    assert_eq!(bench.pulled(), Vec::<String>::new());

    bench.write(&name, &bytes);
    let arguments = with(&["--mirror", "mirror"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let value = bench.json(&arguments);
    assert_eq!(value["from"], "mirror");
    assert_eq!(value["sha256"], sha256);
    assert_eq!(bench.pulled(), ["plain-kvm.wasm"]);
}

#[test]
fn an_address_is_a_mirror() {
    let (server, bench) = (Server::start(), Bench::new());
    let signer = Signer::cosign();
    let file = bench.component("plain-kvm.wasm", None);
    let signature = std::fs::read(signer.sign(&file)).expect("a signature");
    let sha256 = artifacts::sha256(&file);
    let artifact = Artifact::component();
    let key = signer.public_key().display().to_string();
    let url = format!("http://{}/mirror", server.address());
    let nobody = format!(
        "http://127.0.0.1:{}",
        casemate_integration::daemon::free_port()
    );
    let pull = [
        "backend", "pull", REFERENCE, "--output", "out", "--sha256", &sha256, "--key", &key,
        "--mirror", &nobody, "--mirror", &url,
    ];
    let path = format!("/mirror/{sha256}.wasm");
    server.answer(&path, Answer::of(artifact.content.clone()));
    assert_eq!(bench.refused(&pull).0, "signature-missing");
    server.answer(&format!("{path}.sig"), Answer::of(signature));
    let ended = bench.done(&pull);
    assert!(ended.said.contains("cannot reach 127.0.0.1:"), "{ended:?}");
    assert_eq!(bench.pulled(), ["plain-kvm.wasm", "plain-kvm.wasm.sig"]);

    // The same component without a key leaves the signature that it has.
    let again = [
        "backend", "pull", REFERENCE, "--output", "out", "--sha256", &sha256, "--mirror", &url,
    ];
    server.answer(&format!("{path}.sig"), Answer::status(404));
    bench.done(&again);
    assert_eq!(bench.pulled(), ["plain-kvm.wasm", "plain-kvm.wasm.sig"]);

    // A mirror has no tags: which manifest is meant is known of what was pinned by it alone.
    let digest = format!(
        "registry.invalid/casemate/plain-kvm@sha256:{}",
        "11".repeat(32)
    );
    let lock = format!(
        "version = 1\n[[backend]]\nname = 'plain-kvm'\nreference = '{REFERENCE}'\nmanifest = 'sha256:{}'\nsha256 = '{sha256}'\nsize = 1\n",
        "22".repeat(32)
    );
    bench.write("mirror.lock", lock);
    let by_lock = |reference: &str| {
        let pull = ["backend", "pull", reference, "--output", "out"];
        bench.run(&[&pull[..], &["--lock", "mirror.lock", "--mirror", &url]].concat())
    };
    let ended = by_lock(REFERENCE);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let tagged = format!("{REFERENCE}@sha256:{}", "11".repeat(32));
    for reference in [&digest, &tagged] {
        let ended = by_lock(reference);
        assert!(ended.said.contains("mirror-needs-digest"), "{ended:?}");
    }

    let elsewhere = Answer::status(302).header("Location", "http://127.0.0.2:1/");
    server.answer(&path, elsewhere);
    assert_eq!(bench.refused(&pull).0, "redirect-refused");
    let url = format!("http://u:p@{}/mirror", server.address());
    let (id, message, code) = bench.refused(&["backend", "pull", REFERENCE, "--mirror", &url]);
    assert_eq!(
        (id.as_str(), code),
        ("mirror-address", Some(2)),
        "{message}"
    );
}
