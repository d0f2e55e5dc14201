//! How a real daemon is reached: over TLS, with a client's certificate, by a context. With the
//! scripted QEMU, because no VM is the subject.

use casemate_integration::certificates::{self, Authority};
use casemate_integration::daemon::{Daemon, Setup};
use serde_json::json;

use super::{command_to, text};

/// A daemon that serves over TLS only clients that it knows.
fn tls_daemon(root: &Authority) -> Daemon {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    let server = root.server();
    for (key, content) in [
        ("grpc.server_cert", &server.certificate),
        ("grpc.server_key", &server.key),
        ("grpc.client_ca_certs", &root.certificate()),
    ] {
        let path = certificates::write(setup.folder.path(), &format!("{key}.pem"), content);
        setup.set(key, path.display().to_string());
    }
    setup.start()
}

#[test]
fn a_daemon_is_reached_over_tls_by_flags_and_by_a_context() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let daemon = tls_daemon(&root);
    let folder = daemon.folder.path();
    let write = |name: &str, content: &str| {
        let path = certificates::write(folder, name, content);
        path.display().to_string()
    };
    let client = root.client();
    let ca = write("ca.pem", &root.certificate());
    let stranger = write("other.pem", &other.certificate());
    let cert = write("client.pem", &client.certificate);
    let key = write("client.key", &client.key);
    let endpoint = format!("https://{}", daemon.grpc);
    let home = folder.join("home").display().to_string();
    let run = |endpoint: &str, arguments: &[&str]| {
        let mut command = command_to(endpoint, arguments);
        let output = command.env("XDG_CONFIG_HOME", &home).output();
        output.expect("casemate runs")
    };
    let identity = ["--client-cert", &cert, "--client-key", &key];
    for (trusted, identity, code, ids) in [
        (&["--ca-cert", &ca][..], &identity[..], 0, &[][..]),
        (&["--ca-cert", &stranger], &identity, 7, &["tls-failed"]),
        // The system's authorities do not know this one.
        (&[], &identity, 7, &["tls-failed"]),
        // The daemon says why, and hangs up; the end may be seen first.
        (
            &["--ca-cert", &ca],
            &[],
            7,
            &["tls-failed", "connection-broken"],
        ),
    ] {
        let output = run(&endpoint, &[&["vm", "list"], trusted, identity].concat());
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{trusted:?}: {error}");
        let is_named = ids.iter().any(|id| error.contains(id));
        assert!(is_named || ids.is_empty(), "{error}");
    }

    let files = [
        "--ca-cert",
        &ca,
        "--client-cert",
        &cert,
        "--client-key",
        &key,
    ];
    let set = [
        &["context", "set", "here", "--endpoint", &endpoint],
        &files[..],
    ]
    .concat();
    for arguments in [&set[..], &["context", "use", "here"], &["vm", "list"]] {
        let output = run("", arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
    }
    let plain = format!("http://{}", daemon.grpc);
    assert!(!run(&plain, &["vm", "list"]).status.success());
}
