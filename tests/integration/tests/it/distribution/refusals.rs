//! What is not what it should be is refused, each with an error of its own, and nothing of it is
//! written.

use casemate_integration::artifacts;
use casemate_integration::registry::Registry;
use casemate_integration::signers::Signer;

use super::bench::Bench;
use super::hostile::{Answer, Artifact, Server, digest};

/// Exit code of a component that is not taken.
const NOT_TAKEN: Option<i32> = Some(11);

/// A component that was signed and pushed to a real registry, whose storage lies in a folder.
fn pushed(bench: &Bench, registry: &Registry, signer: Option<&Signer>) -> String {
    let file = bench.component("plain-kvm.wasm", None);
    if let Some(signer) = signer {
        signer.sign(&file);
    }
    let reference = format!("{}/casemate/plain-kvm:1.0.0", registry.address());
    bench.done(&["backend", "push", "plain-kvm.wasm", &reference]);
    reference
}

fn check(bench: &Bench, arguments: &[&str], id: &str, parts: &[&str]) {
    let arguments = [&["backend", "pull", "--output", "out"], arguments].concat();
    let (found, message, code) = bench.refused(&arguments);
    assert_eq!(found, id, "{message}");
    assert_eq!(code, NOT_TAKEN, "{id}: {message}");
    for part in parts {
        assert!(
            message.contains(part),
            "{id}: wanted is {part:?}: {message}"
        );
    }
    assert_eq!(bench.pulled(), Vec::<String>::new(), "{id}");
}

#[test]
fn a_tampered_byte_is_refused() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let bench = Bench::new();
    let reference = pushed(&bench, &registry, None);
    let sha256 = artifacts::sha256(&bench.path("plain-kvm.wasm"));
    let stored = registry.folder.path().join(format!(
        "storage/docker/registry/v2/blobs/sha256/{}/{sha256}/data",
        &sha256[..2]
    ));
    let mut bytes = std::fs::read(&stored).expect("where the registry keeps it");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&stored, bytes).expect("the registry's file");
    check(
        &bench,
        &[&reference],
        "digest-mismatch",
        &[&sha256, "was changed"],
    );
}

#[test]
fn signatures_that_are_wrong_or_missing_are_refused() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let (signer, stranger) = (Signer::cosign(), Signer::cosign());
    let bench = Bench::new();
    let reference = pushed(&bench, &registry, Some(&stranger));
    let key = signer.public_key().display().to_string();
    let with_key = [reference.as_str(), "--key", &key];
    check(
        &bench,
        &with_key,
        "signature-mismatch",
        &["is not one of", "sha256:"],
    );

    let unsigned = Bench::new();
    let other = format!("{}/casemate/unsigned:1.0.0", registry.address());
    unsigned.component("plain-kvm.wasm", None);
    unsigned.done(&["backend", "push", "plain-kvm.wasm", &other]);
    let with_key = [other.as_str(), "--key", &key];
    check(
        &unsigned,
        &with_key,
        "signature-missing",
        &["has no signature"],
    );

    let minisign = (Signer::minisign(), Signer::minisign());
    if let (Some(signer), Some(stranger)) = minisign {
        let bench = Bench::new();
        let file = bench.component("other.wasm", Some("1.0.1"));
        stranger.sign(&file);
        let reference = format!("{}/casemate/other:1.0.1", registry.address());
        bench.done(&["backend", "push", "other.wasm", &reference]);
        let key = signer.public_key().display().to_string();
        let with_key = [reference.as_str(), "--key", &key];
        check(&bench, &with_key, "signature-other-key", &["minisign:"]);
    }
}

#[test]
fn an_older_version_than_pinned_is_refused() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let bench = Bench::new();
    let name = format!("{}/casemate/plain-kvm", registry.address());
    for version in ["1.0.0", "1.1.0", "1.2.0"] {
        bench.component("plain-kvm.wasm", Some(version));
        let reference = format!("{name}:{version}");
        bench.done(&["backend", "push", "plain-kvm.wasm", &reference]);
    }
    bench.done(&["backend", "pin", &format!("{name}:1.1.0")]);
    let older = format!("{name}:1.0.0");
    check(
        &bench,
        &[&older],
        "older-than-pinned",
        &["is 1.0.0", "pins 1.1.0"],
    );
    let (id, ..) = bench.refused(&["backend", "pin", &older]);
    assert_eq!(id, "older-than-pinned");

    // A registry that calls the old component new: what the component itself says counts, too.
    bench.component("plain-kvm.wasm", Some("1.0.0"));
    let server = Server::start();
    let old = std::fs::read(bench.path("plain-kvm.wasm")).expect("a component");
    let artifact = Artifact {
        version: Some("1.5.0"),
        ..Artifact::of(old)
    };
    server.artifact("1.5.0", &artifact);
    let lock = std::fs::read_to_string(bench.path("casemate-backends.lock")).expect("a lock");
    let lock = lock.replace(&format!("{name}:"), &format!("{}/a:", server.address()));
    bench.write("other.lock", lock);
    let renamed = server.reference("1.5.0");
    let arguments = [renamed.as_str(), "--lock", "other.lock"];
    check(
        &bench,
        &arguments,
        "older-than-pinned",
        &["is 1.0.0", "pins 1.1.0"],
    );

    // Nor does one gain by calling a new one old, for what is pinned is the component's own word.
    bench.component("plain-kvm.wasm", Some("2.0.0"));
    let new = std::fs::read(bench.path("plain-kvm.wasm")).expect("a component");
    let artifact = Artifact {
        version: Some("0.0.1"),
        ..Artifact::of(new)
    };
    server.artifact("stable", &artifact);
    let stable = server.reference("stable");
    let pinned = bench.json(&["backend", "pin", &stable, "--lock", "stable.lock"]);
    assert_eq!(pinned["version"], "2.0.0");

    // A backend of the same name from elsewhere is held against the one that is pinned.
    let elsewhere = format!("{}/other/plain-kvm:1.0.0", registry.address());
    bench.component("plain-kvm.wasm", Some("1.0.0"));
    bench.done(&["backend", "push", "plain-kvm.wasm", &elsewhere]);
    let (id, ..) = bench.refused(&["backend", "pin", &elsewhere]);
    assert_eq!(id, "older-than-pinned");

    for newer in ["1.1.0", "1.2.0"] {
        let reference = format!("{name}:{newer}");
        bench.done(&["backend", "pull", "--output", "out", &reference]);
    }
    bench.done(&[
        "backend",
        "pull",
        "--output",
        "out",
        "--allow-downgrade",
        &older,
    ]);
    bench.done(&["backend", "pin", "--allow-downgrade", &older]);
    bench.done(&["backend", "pull", "--output", "out", &older]);
}

#[test]
fn another_content_than_pinned_is_refused() {
    let Some(registry) = Registry::start() else {
        return;
    };
    let bench = Bench::new();
    let reference = pushed(&bench, &registry, None);
    bench.done(&["backend", "pin", &reference]);
    bench.component("plain-kvm.wasm", Some("1.0.0"));
    bench.done(&["backend", "push", "plain-kvm.wasm", &reference]);
    let lock = "casemate-backends.lock";
    check(
        &bench,
        &[&reference],
        "pin-mismatch",
        &[lock, "another component"],
    );
    let other = "00".repeat(32);
    let without_lock = bench.path("none.lock");
    std::fs::write(&without_lock, "version = 1\n").expect("a file");
    let arguments = [&reference, "--lock", "none.lock", "--sha256", &other];
    check(&bench, &arguments, "pin-mismatch", &["--sha256", &other]);
}

#[test]
fn a_redirect_to_another_host_is_refused() {
    let (server, elsewhere) = (Server::start(), Server::start());
    let artifact = Artifact::component();
    let blob = format!("/v2/a/blobs/{}", artifact.digest);
    server.artifact("1.0.0", &artifact);
    let location = format!("http://{}/blob?token=secret", elsewhere.address());
    server.answer(&blob, Answer::status(307).header("Location", &location));
    elsewhere.answer("/blob?token=secret", Answer::of(artifact.content.clone()));
    let reference = server.reference("1.0.0");
    let bench = Bench::new();
    let to = elsewhere.address().to_string();
    check(
        &bench,
        &[&reference],
        "redirect-refused",
        &[&to, "another host"],
    );
    assert_eq!(elsewhere.asked(), [], "it was not talked to");
    let (_, message, _) = bench.refused(&["backend", "pull", &reference, "--output", "out"]);
    assert!(!message.contains("secret"), "{message}");

    bench.done(&[
        "backend",
        "pull",
        &reference,
        "--output",
        "out",
        "--redirect-to",
        &to,
    ]);
    assert_eq!(elsewhere.asked().len(), 1);
    assert_eq!(bench.pulled(), ["a.wasm"]);

    // The same host may send on; without an end it is no help.
    let bench = Bench::new();
    server.answer(&blob, Answer::status(302).header("Location", &blob));
    check(
        &bench,
        &[&reference],
        "redirect-refused",
        &["more than 5 times"],
    );
    server.answer("/stored", Answer::of(artifact.content.clone()));
    server.answer(&blob, Answer::status(302).header("Location", "/stored"));
    bench.done(&["backend", "pull", &reference, "--output", "out"]);
}

#[test]
fn what_is_too_large_is_refused_before_and_while_it_comes() {
    let server = Server::start();
    let bench = Bench::new();
    let component = Artifact::component();
    let blob = format!("/v2/a/blobs/{}", component.digest);
    // Announced by the manifest: nothing of it is asked for.
    let large = Artifact {
        size: (32 << 20) + 1,
        ..component.clone()
    };
    server.artifact("1.0.0", &large);
    let reference = server.reference("1.0.0");
    check(
        &bench,
        &[&reference],
        "component-too-large",
        &["33554433 bytes", "33554432"],
    );
    assert!(
        server.asked().iter().all(|asked| asked.path != blob),
        "it was asked for"
    );

    // Announced by the answer, or by nobody.
    server.artifact("1.0.0", &component);
    let mut body = component.content.clone();
    body.extend([0; 4096]);
    server.answer(&blob, Answer::of(body.clone()));
    check(
        &bench,
        &[&reference],
        "component-too-large",
        &["are the most"],
    );
    let endless = Answer {
        length: None,
        ..Answer::of(body)
    };
    server.answer(&blob, endless);
    check(
        &bench,
        &[&reference],
        "component-too-large",
        &["goes on after"],
    );
    let short = Answer {
        length: None,
        ..Answer::of(&component.content[..100])
    };
    server.answer(&blob, short);
    check(
        &bench,
        &[&reference],
        "component-short",
        &["ended after 100 of"],
    );
    server.answer(
        "/v2/a/manifests/1.0.0",
        Answer::of(vec![b' '; (4 << 20) + 1]),
    );
    check(&bench, &[&reference], "component-too-large", &["4194304"]);
}

#[test]
fn what_is_no_component_is_refused() {
    let server = Server::start();
    let bench = Bench::new();
    for (content, found) in [
        (
            &b"\x7fELF\x02\x01\x01\0precompiled"[..],
            "precompiled code is never accepted",
        ),
        (b"\0asm\x01\0\0\0", "a core module"),
        (b"(component)", "text"),
        (b"", "empty"),
    ] {
        server.artifact("1.0.0", &Artifact::of(content.to_vec()));
        let reference = server.reference("1.0.0");
        check(&bench, &[&reference], "not-a-component", &[found]);
    }
    // A long one is not read to its end.
    let mut long = b"\x7fELF\x02\x01\x01\0".to_vec();
    long.resize(8 << 20, 0);
    let artifact = Artifact {
        digest: digest(b"another"),
        ..Artifact::of(long)
    };
    server.artifact("1.0.0", &artifact);
    let reference = server.reference("1.0.0");
    check(&bench, &[&reference], "not-a-component", &["machine code"]);

    for (tag, text, part) in [
        (
            "image",
            r#"{"schemaVersion": 2, "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "DIGEST", "size": 2}, "layers": []}"#,
            "its config is",
        ),
        ("json", "[]", "its manifest is none"),
        ("text", "hello", "its manifest is none"),
    ] {
        let text = text.replace("DIGEST", &digest(b"{}"));
        server.answer(&format!("/v2/a/manifests/{tag}"), Answer::of(text));
        check(&bench, &[&server.reference(tag)], "artifact-form", &[part]);
    }
}

/// A manifest that is asked for by its digest has to be that manifest.
#[test]
fn a_manifest_is_the_one_whose_digest_was_asked_for() {
    let server = Server::start();
    let bench = Bench::new();
    let artifact = Artifact::component();
    let asked = digest(b"another manifest");
    server.artifact(&asked, &artifact);
    let reference = format!("{}/a@{asked}", server.address());
    check(&bench, &[&reference], "digest-mismatch", &[&asked]);
    let true_one = digest(artifact.manifest().to_string().as_bytes());
    server.artifact(&true_one, &artifact);
    let reference = format!("{}/a@{true_one}", server.address());
    bench.done(&["backend", "pull", &reference, "--output", "out"]);
}

/// Errors that say nothing of a component: the command, the registry, the network.
#[test]
fn what_cannot_be_fetched_says_why() {
    let server = Server::start();
    let bench = Bench::new();
    let nobody = casemate_integration::daemon::free_port();
    let nobody = format!("127.0.0.1:{nobody}/a:1");
    let unknown = server.reference("9.9.9");
    server.answer(
        "/v2/a/manifests/broken",
        Answer {
            status: 500,
            ..Answer::of(r#"{"errors": [{"code": "OOPS", "message": "out\u001b of disk"}]}"#)
        },
    );
    let broken = server.reference("broken");
    server.answer("/v2/a/manifests/closed", Answer::status(403));
    let closed = server.reference("closed");
    // No name of a host is looked up for it.
    let plain = [
        "backend",
        "pull",
        "registry.invalid/a:1",
        "--mirror",
        "http://mirror.invalid/",
    ];
    let pinned = ["--sha256", &"00".repeat(32)];
    let plain = [&plain[..], &pinned[..]].concat();
    for (arguments, id, code, part) in [
        (
            &["backend", "pull", "plain-kvm"][..],
            "",
            2,
            "HOST[:PORT]/REPOSITORY",
        ),
        (
            &["backend", "pull", &nobody],
            "registry-unreachable",
            7,
            "cannot reach 127.0.0.1:",
        ),
        (
            &["backend", "pull", &unknown],
            "artifact-unknown",
            3,
            "is not there",
        ),
        (
            &["backend", "pull", &broken],
            "registry-answer",
            8,
            "answered 500",
        ),
        (
            &["backend", "pull", &broken],
            "registry-answer",
            8,
            "OOPS out of disk",
        ),
        (
            &["backend", "pull", &closed],
            "registry-denied",
            9,
            "anybody who does not log in",
        ),
        (&plain, "plain-http", 2, "mirror.invalid"),
        (
            &["backend", "pull", &unknown, "--mirror", "out"],
            "mirror-needs-digest",
            2,
            "none is known",
        ),
        (
            &["backend", "pull", &unknown, "--key", "no.pub"],
            "signature-key",
            2,
            "no.pub",
        ),
        (
            &["backend", "pull", &unknown, "--lock", "no.lock"],
            "lock-file",
            1,
            "no.lock",
        ),
        (
            &["backend", "inspect", "no.wasm"],
            "reference-form",
            2,
            "neither a file",
        ),
        (
            &["backend", "push", "no.wasm", &unknown],
            "input-unreadable",
            1,
            "no.wasm",
        ),
    ] {
        let ended = bench.run(arguments);
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        assert!(
            ended.said.contains(part),
            "{arguments:?}: wanted is {part:?}: {}",
            ended.said
        );
        assert!(ended.said.contains(id), "{arguments:?}: {}", ended.said);
        assert!(!ended.said.contains('\u{1b}'), "{:?}", ended.said);
    }
}
