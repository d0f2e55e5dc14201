//! Connections to registries: TLS, and servers that are in no hurry.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use casemate_integration::certificates::Authority;
use casemate_integration::registry::Registry;
use casemate_integration::signers::Signer;

use super::bench::Bench;
use super::hostile::{Answer, Server};

/// This machine by an address that is none of loopback, so that it is asked over TLS.
const ANY: &str = "0.0.0.0";

#[test]
fn another_machine_is_asked_over_tls() {
    let (authority, stranger) = (Authority::root("one"), Authority::root("other"));
    let Some(registry) = Registry::over_tls(&authority.server_at(ANY)) else {
        return;
    };
    let reference = format!(
        "{ANY}:{}/casemate/plain-kvm:1.0.0",
        registry.address().port()
    );
    let mut bench = Bench::new();
    bench.component("plain-kvm.wasm", None);
    let push = ["backend", "push", "plain-kvm.wasm", &reference];
    for untrusted in [None, Some(&stranger)] {
        if let Some(authority) = untrusted {
            let path = bench.write("ca.pem", authority.certificate());
            bench.variables = vec![("SSL_CERT_FILE", path)];
        }
        let (id, message, code) = bench.refused(&push);
        assert_eq!(
            (id.as_str(), code),
            ("registry-unreachable", Some(7)),
            "{message}"
        );
        assert!(message.contains("certificate"), "{message}");
    }
    let path = bench.write("ca.pem", authority.certificate());
    bench.variables = vec![("SSL_CERT_FILE", path)];
    bench.done(&push);
    bench.done(&["backend", "pull", &reference, "--output", "out"]);
    assert_eq!(bench.pulled(), ["plain-kvm.wasm"]);
}

/// Of another name than the one that was asked for, by an authority that is trusted.
#[test]
fn a_certificate_is_of_the_host_that_was_named() {
    let authority = Authority::root("one");
    let Some(registry) = Registry::over_tls(&authority.server_at("registry.example")) else {
        return;
    };
    let mut bench = Bench::new();
    let path = bench.write("ca.pem", authority.certificate());
    bench.variables = vec![("SSL_CERT_FILE", path)];
    let reference = format!("{ANY}:{}/a:1.0.0", registry.address().port());
    let (id, message, _) = bench.refused(&["backend", "pull", &reference]);
    assert_eq!(id, "registry-unreachable");
    assert!(message.contains("certificate"), "{message}");
}

/// What takes longer than a second is shown on a terminal, and on nothing else.
#[test]
fn a_slow_download_is_shown_on_a_terminal() {
    let bench = Bench::new();
    let slow = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = slow.local_addr().expect("an address");
    let file = bench.component("plain-kvm.wasm", None);
    let content = std::fs::read(&file).expect("a component");
    let sha256 = casemate_integration::artifacts::sha256(&file);
    std::thread::spawn(move || {
        for mut stream in slow.incoming().flatten() {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                content.len()
            );
            let _ = stream.write_all(head.as_bytes());
            for piece in content.chunks(content.len() / 4 + 1) {
                let _ = stream.write_all(piece);
                std::thread::sleep(Duration::from_millis(500));
            }
        }
    });
    let mirror = format!("http://{address}");
    let pull = [
        "backend",
        "pull",
        "registry.invalid/a:1.0.0",
        "--sha256",
        &sha256,
        "--mirror",
        &mirror,
        "--output",
        "out",
    ];
    assert!(!bench.done(&pull).said.contains("fetching"));
    let shown = bench.on_a_terminal(&pull);
    assert!(shown.contains("fetching the component"), "{shown:?}");
    assert!(shown.contains(" KiB"), "{shown:?}");
    assert!(shown.contains(&sha256), "{shown:?}");
}

#[test]
fn a_server_that_stops_talking_is_not_waited_for() {
    // The kernel takes connections that nobody takes from it.
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let halting = TcpListener::bind("127.0.0.1:0").expect("a port");
    let halting_at = halting.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in halting.incoming().flatten() {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{");
            std::thread::sleep(Duration::from_secs(60));
        }
    });
    let bench = Bench::new();
    for address in [mute.local_addr().expect("an address"), halting_at] {
        let begun = Instant::now();
        let reference = format!("{address}/a:1.0.0");
        let (id, message, _) = bench.refused(&["backend", "pull", &reference, "--timeout", "1s"]);
        assert_eq!(id, "registry-unreachable");
        assert!(message.contains("silent for 1s"), "{message}");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}

/// Each piece comes in time, and there is always one more.
#[test]
fn a_server_that_drips_is_not_waited_for() {
    let dripping = TcpListener::bind("127.0.0.1:0").expect("a port");
    let reference = format!("{}/a:1.0.0", dripping.local_addr().expect("an address"));
    std::thread::spawn(move || {
        let (mut stream, _) = dripping.accept().expect("a reader");
        let _ = stream.read(&mut [0; 1024]);
        let mut said = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
        while said.is_ok() {
            std::thread::sleep(Duration::from_millis(100));
            said = stream.write_all(b" ");
        }
    });
    let bench = Bench::new();
    let begun = Instant::now();
    let (id, message, _) = bench.refused(&["backend", "pull", &reference, "--timeout", "2s"]);
    assert_eq!(id, "registry-unreachable");
    assert!(message.contains("more than 30s"), "{message}");
    assert!(begun.elapsed() < Duration::from_secs(120));
}

#[test]
fn a_timeout_may_be_longer_than_any_clock_goes() {
    let bench = Bench::new();
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port");
    let reference = format!("{}/a:1.0.0", nobody.local_addr().expect("an address"));
    drop(nobody);
    for timeout in ["1000000y", "500000000000y"] {
        let (id, message, _) =
            bench.refused(&["backend", "pull", &reference, "--timeout", timeout]);
        assert_eq!(id, "registry-unreachable", "{message}");
    }
}

/// Whoever finds a component by its tag finds its signatures. A blob that the registry keeps with
/// another service is there, and neither followed nor uploaded.
#[test]
fn a_push_uploads_what_is_missing_and_names_it_last() {
    let (server, elsewhere) = (Server::start(), Server::start());
    let stored = format!("http://{}/stored", elsewhere.address());
    server
        .answer(
            "/v2/a/blobs/*",
            Answer::status(307).header("Location", &stored),
        )
        .answer(
            "/v2/a/manifests/*",
            Answer::status(201).header("OCI-Subject", "sha256:00"),
        );
    let bench = Bench::new();
    let file = bench.component("plain-kvm.wasm", None);
    Signer::cosign().sign(&file);
    bench.done(&[
        "backend",
        "push",
        "plain-kvm.wasm",
        &server.reference("1.0.0"),
    ]);
    assert_eq!(elsewhere.asked(), []);
    let asked = server.asked();
    let of_method = |method: &str| -> Vec<String> {
        let asked = asked.iter().filter(|one| one.method == method);
        asked.map(|one| one.path.clone()).collect()
    };
    assert_eq!(of_method("POST"), Vec::<String>::new(), "uploads");
    let [component, signature, tag] = &of_method("PUT")[..] else {
        panic!("three manifests: {asked:?}");
    };
    for digest in [component, signature] {
        assert!(digest.starts_with("/v2/a/manifests/sha256:"), "{asked:?}");
    }
    assert_ne!(component, signature);
    assert_eq!(tag, "/v2/a/manifests/1.0.0");
}
