//! What whoever keeps a registry or a mirror cannot do, and what a lock file decides.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use casemate_integration::signers::Signer;
use serde_json::{Value, json};

use super::bench::Bench;
use super::hostile::{Answer, Artifact, Server, digest};

const PULL: [&str; 4] = ["backend", "pull", "--output", "out"];

/// A component that says its version, which is signed with it.
fn of_version(bench: &Bench, version: &str) -> Artifact {
    let file = bench.component("of-version.wasm", Some(version));
    Artifact::of(std::fs::read(file).expect("a component"))
}

fn lock(entries: &[(&str, &str, &str)]) -> String {
    let entries = entries.iter().map(|(name, reference, sha256)| {
        let sha256 = sha256.trim_start_matches("sha256:");
        format!("[[backend]]\nname = '{name}'\nreference = '{reference}'\nsha256 = '{sha256}'\nsize = 1\n")
    });
    format!("version = 1\n{}", entries.collect::<String>())
}

#[test]
fn a_tag_that_is_a_version_is_a_wish_for_that_version() {
    let (bench, server) = (Bench::new(), Server::start());
    let old = Artifact {
        version: Some("1.5.0"),
        ..of_version(&bench, "1.4.9")
    };
    for tag in ["1.5.0", "1.4.0", "stable"] {
        server.artifact(tag, &old);
    }
    let newer = server.reference("1.5.0");
    for verb in [&PULL[..], &["backend", "pin"]] {
        let (id, message, code) = bench.refused(&[verb, &[&newer]].concat());
        assert_eq!(
            (id.as_str(), code),
            ("older-than-pinned", Some(11)),
            "{message}"
        );
        assert!(
            message.contains("is 1.4.9, and its tag pins 1.5.0"),
            "{message}"
        );
    }
    assert_eq!(bench.pulled(), Vec::<String>::new());
    for tag in ["1.4.0", "stable"] {
        bench.done(&[&PULL[..], &[&server.reference(tag)]].concat());
    }
    bench.done(&[&PULL[..], &[&newer, "--allow-downgrade"]].concat());
    // Who knows which content it is, by its digest or by a pin, is not asked again.
    let sha256 = old.digest.trim_start_matches("sha256:");
    bench.done(&[&PULL[..], &[&newer, "--sha256", sha256]].concat());
    bench.done(&["backend", "pin", &newer, "--allow-downgrade"]);
    bench.done(&[&PULL[..], &[&newer]].concat());
}

#[test]
fn a_push_to_a_tag_that_is_too_new_is_remarked() {
    let (bench, server) = (Bench::new(), Server::start());
    server
        .answer("/v2/a/blobs/*", Answer::of(""))
        .answer("/v2/a/manifests/*", Answer::status(201));
    bench.component("old.wasm", Some("1.4.9"));
    for (tag, is_remarked) in [("1.5.0", true), ("1.4.9", false), ("stable", false)] {
        let ended = bench.done(&["backend", "push", "old.wasm", &server.reference(tag)]);
        let remark = "says that it is 1.4.9, and by the tag 1.5.0";
        assert_eq!(ended.said.contains(remark), is_remarked, "{ended:?}");
    }
}

#[test]
fn a_component_is_kept_under_the_name_that_it_is_pinned_as() {
    let (bench, server) = (Bench::new(), Server::start());
    let artifact = Artifact::component();
    server.artifact("1.0.0", &artifact);
    let reference = server.reference("1.0.0");
    let older = server.reference("0.9.0");
    let other = digest(b"another");
    for (entries, kept) in [
        (&[][..], Some("a.wasm")),
        (
            &[("next", reference.as_str(), artifact.digest.as_str())],
            Some("next.wasm"),
        ),
        // Of two under one reference, that of the content.
        (
            &[
                ("first", reference.as_str(), other.as_str()),
                ("second", reference.as_str(), artifact.digest.as_str()),
            ],
            Some("second.wasm"),
        ),
        // An older one of the same repository gives way.
        (&[("a", older.as_str(), other.as_str())], Some("a.wasm")),
        // One from elsewhere does not.
        (&[("a", "r.example/a:1.0.0", other.as_str())], None),
        (
            &[("a", "r.example/a:1.0.0", artifact.digest.as_str())],
            Some("a.wasm"),
        ),
    ] {
        bench.write("casemate-backends.lock", lock(entries));
        let pull = [&PULL[..], &[&reference]].concat();
        match kept {
            Some(_) => drop(bench.done(&pull)),
            None => {
                let (id, message, _) = bench.refused(&pull);
                assert_eq!(id, "pin-mismatch", "{message}");
                let said = "casemate-backends.lock pins from r.example/a:1.0.0";
                assert!(message.contains(said), "{message}");
            }
        }
        let kept: Vec<_> = kept.into_iter().collect();
        assert_eq!(bench.pulled(), kept, "{entries:?}");
        for name in kept {
            std::fs::remove_file(bench.path("out").join(name)).expect("it was pulled");
        }
    }
}

fn descriptor(media_type: &str, content: &str) -> Value {
    json!({"mediaType": media_type, "digest": digest(content.as_bytes()), "size": content.len()})
}

/// Whoever may push may add a signature that is none.
#[test]
fn what_refers_to_a_component_and_cannot_be_read_hides_no_signature() {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const SIGNATURE: &str = "application/vnd.casemate.signature.v1";
    let (bench, server, signer) = (Bench::new(), Server::start(), Signer::cosign());
    let artifact = Artifact::component();
    server.artifact("1.0.0", &artifact);
    let file = bench.component("signed.wasm", None);
    let signature = std::fs::read_to_string(signer.sign(&file)).expect("a signature");
    let subject = artifact.manifest().to_string();
    let of_content = |content: &str| {
        let layer = descriptor("application/vnd.casemate.signature.cosign-blob.v1", content);
        json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": SIGNATURE,
            "config": descriptor("application/vnd.oci.empty.v1+json", "{}"),
            "layers": [layer], "subject": descriptor(MANIFEST, &subject),
        })
        .to_string()
    };
    let (good, large, gone) = (
        of_content(&signature),
        of_content("large"),
        of_content("gone"),
    );
    let listed = |manifests: &[&str]| {
        let all = manifests.iter().map(|content| {
            let mut one = descriptor(MANIFEST, content);
            one["artifactType"] = SIGNATURE.into();
            one
        });
        json!({"schemaVersion": 2, "manifests": all.collect::<Vec<_>>()}).to_string()
    };
    for content in [&signature, &good, &large] {
        for kind in ["blobs", "manifests"] {
            let path = format!("/v2/a/{kind}/{}", digest(content.as_bytes()));
            server.answer(&path, Answer::of(content.as_bytes()));
        }
    }
    let referrers = format!("/v2/a/referrers/{}", digest(subject.as_bytes()));
    let key = signer.public_key().display().to_string();
    let reference = server.reference("1.0.0");
    let pull = [&PULL[..], &[&reference, "--key", &key]].concat();
    server.answer(&referrers, Answer::of(listed(&[&gone, &large, &good])));
    bench.done(&pull);
    assert_eq!(bench.pulled(), ["a.wasm", "a.wasm.sig"]);
    // Where there is no other, it is told.
    server.answer(&referrers, Answer::of(listed(&[&gone])));
    assert_eq!(bench.refused(&pull).0, "artifact-unknown");
}

/// It answers at once and never ends.
fn dripping() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let mut said = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
            // As a component begins.
            said = said.and_then(|()| stream.write_all(b"\0asm\x0d\0\x01\0"));
            while said.is_ok() {
                std::thread::sleep(Duration::from_millis(50));
                said = stream.write_all(b" ");
            }
        }
    });
    address
}

#[test]
fn a_mirror_that_does_not_serve_is_passed_over() {
    let (bench, server) = (Bench::new(), Server::start());
    let artifact = Artifact::component();
    let sha256 = artifact.digest.trim_start_matches("sha256:");
    let path = |mirror: &str| format!("/{mirror}/{sha256}.wasm");
    server
        .answer(&path("denied"), Answer::status(403))
        .answer(&path("down"), Answer::status(503))
        .answer(&path("half"), Answer::of(artifact.content.clone()))
        .answer(&format!("{}.sig", path("half")), Answer::status(502))
        .answer(&path("good"), Answer::of(artifact.content.clone()));
    let signer = Signer::cosign();
    let file = bench.component("signed.wasm", None);
    let signature = std::fs::read(signer.sign(&file)).expect("a signature");
    server.answer(&format!("{}.sig", path("good")), Answer::of(signature));
    let key = signer.public_key().display().to_string();
    let at = |name: &str| format!("http://{}/{name}", server.address());
    let (denied, down, half, good) = (at("denied"), at("down"), at("half"), at("good"));
    // It takes all the time that it may, and none of the others'.
    let drips = format!("http://{}/", dripping());
    let mut pull = [&PULL[..], &["registry.invalid/a:1.0.0", "--sha256", sha256]].concat();
    pull.extend(["--key", &key, "--timeout", "2s"]);
    for mirror in [&drips, &denied, &down, &half, &good] {
        pull.extend(["--mirror", mirror]);
    }
    let ended = bench.done(&pull);
    for part in ["more than 30s", "403", "503", "502"] {
        assert!(ended.said.contains(part), "{part}: {ended:?}");
    }
    assert_eq!(bench.pulled(), ["a.wasm", "a.wasm.sig"]);
}

#[test]
fn what_is_pinned_without_a_key_is_remarked() {
    let (bench, server, signer) = (Bench::new(), Server::start(), Signer::cosign());
    server.artifact("1.0.0", &Artifact::component());
    let nobody = "nobody but the registry says";
    let reference = server.reference("1.0.0");
    let ended = bench.done(&["backend", "pin", &reference]);
    assert!(ended.said.contains(nobody), "{ended:?}");
    let ended = bench.done(&[&PULL[..], &[&reference]].concat());
    assert!(!ended.said.contains(nobody), "it is pinned: {ended:?}");

    signer.sign(&bench.component("b.wasm", None));
    let key = signer.public_key().display().to_string();
    bench.done(&["backend", "pin", "b.wasm", "--key", &key]);
    let before = "b was pinned with a signature by";
    let is_locked = || {
        let lock = std::fs::read_to_string(bench.path("casemate-backends.lock"));
        lock.expect("a lock").contains("key = ")
    };
    // The same has the signature that was asked for; another has none.
    for (version, keeps_key) in [(None, true), (Some("2.0.0"), false)] {
        bench.component("b.wasm", version);
        let ended = bench.done(&["backend", "pin", "b.wasm"]);
        assert!(ended.said.contains(before), "{ended:?}");
        assert_eq!(is_locked(), keeps_key, "{version:?}");
    }
}

/// What the registry announces is its word; what was signed is the component.
#[test]
fn a_component_that_is_judged_by_a_key_is_shown_as_it_is() {
    let (bench, server, signer) = (Bench::new(), Server::start(), Signer::cosign());
    let artifact = Artifact::component();
    server.artifact("1.0.0", &artifact);
    let config = r#"{"created": "x", "architecture": "wasm", "os": "unknown", "layerDigests": [], "component": {"exports": [], "imports": ["a:lie/told"]}}"#;
    let mut manifest = artifact.manifest();
    manifest["config"] = descriptor("application/vnd.wasm.config.v0+json", config);
    let blob = format!("/v2/a/blobs/{}", digest(config.as_bytes()));
    server
        .answer("/v2/a/manifests/1.0.0", Answer::of(manifest.to_string()))
        .answer(&blob, Answer::of(config));
    let reference = server.reference("1.0.0");
    let inspect = ["backend", "inspect", &reference];
    assert_eq!(bench.json(&inspect)["imports"], json!(["a:lie/told"]));
    let key = signer.public_key().display().to_string();
    let page = bench.json(&[&inspect[..], &["--key", &key]].concat());
    assert_eq!(page["contract"], "1.0.0", "{page}");
    let imports = page["imports"].as_array().expect("a list");
    assert!(
        imports.len() > 1 && !imports.contains(&"a:lie/told".into()),
        "{page}"
    );
}
