//! UNIX sockets: served beside the addresses, to users that the kernel names.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::*;

/// Users that no test and no host has.
const CLIENT: u32 = 1_700_000_001;
const STRANGER: u32 = 1_700_000_002;

struct Sockets {
    grpc: std::path::PathBuf,
    http: std::path::PathBuf,
}

/// Sockets that every user of the group `CLIENT` can connect to.
fn sockets(setup: &mut Setup, group: Option<u32>) -> Sockets {
    let folder = setup.folder.path();
    let sockets = Sockets {
        grpc: folder.join("grpc.sock"),
        http: folder.join("http.sock"),
    };
    setup.set("grpc.socket", sockets.grpc.display().to_string());
    setup.set("http.socket", sockets.http.display().to_string());
    if let Some(group) = group {
        setup.set("grpc.socket_group", group.to_string());
        setup.set("http.socket_group", group.to_string());
    }
    sockets
}

/// A connection of another user. Only one thread is that user, and it ends.
async fn connect_as(path: &Path, uid: u32) -> std::io::Result<UnixStream> {
    let path = path.to_owned();
    let connected = std::thread::spawn(move || {
        let (user, group) = (
            rustix::thread::Uid::from_raw(uid),
            rustix::thread::Gid::from_raw(CLIENT),
        );
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)?;
        std::os::unix::net::UnixStream::connect(path)
    });
    let stream = connected.join().expect("the thread ends")?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

async fn get_by(mut stream: UnixStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

/// The gRPC code that a ListVms is answered with.
async fn list_by(stream: UnixStream) -> String {
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let request = tonic::codegen::http::Request::builder()
        .method("POST")
        .uri("http://localhost/casemate.v1.VmService/ListVms")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("a request");
    let (answer, mut body) = sender.send_request(request, false).expect("it is sent");
    body.send_data(vec![0; 5].into(), true)
        .expect("an empty message");
    let answer = answer.await.expect("an answer");
    if let Some(code) = answer.headers().get("grpc-status") {
        return code.to_str().expect("digits").to_owned();
    }
    let mut body = answer.into_body();
    while let Some(data) = body.data().await {
        data.expect("a message");
    }
    let trailers = body.trailers().await.expect("an end").expect("trailers");
    trailers["grpc-status"].to_str().expect("digits").to_owned()
}

#[tokio::test]
async fn users_of_a_socket_are_clients_by_their_number() {
    assert!(rustix::process::geteuid().is_root(), "it is other users");
    let mut setup = setup();
    let sockets = sockets(&mut setup, Some(CLIENT));
    with_clients(
        &mut setup,
        vec![client("local", &["viewer"], "uid", i64::from(CLIENT))],
    );
    let mut daemon = setup.start();
    for path in [&sockets.grpc, &sockets.http] {
        let metadata = std::fs::metadata(path).expect("it is there");
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o660);
        assert_eq!(metadata.gid(), CLIENT);
    }
    // Not even root is somebody, once there are clients.
    for (uid, code, status) in [
        (CLIENT, "0", "200"),
        (STRANGER, "16", "401"),
        (0, "16", "401"),
    ] {
        let connect = |path| connect_as(path, uid);
        let listed = list_by(connect(&sockets.grpc).await.expect("its group may")).await;
        assert_eq!(listed, code, "{uid}");
        let http = connect(&sockets.http).await.expect("its group may");
        let answer = get_by(http, "/metrics").await;
        assert!(
            answer.starts_with(&format!("HTTP/1.0 {status}")),
            "{uid}: {answer}"
        );
        let http = connect(&sockets.http).await.expect("its group may");
        let answer = get_by(http, "/health").await;
        assert!(answer.starts_with("HTTP/1.0 200"), "{uid}: {answer}");
    }
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("audit") && line.contains(&format!("uid={STRANGER}")));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    assert!(
        line.contains("peer=unix") && line.contains("unauthenticated"),
        "{line}"
    );
    // The addresses are served as before, and the sockets go with the daemon.
    assert_eq!(get(&daemon, "/health", None).await.0, 200);
    assert_eq!(daemon.stop(), Some(0));
    assert!(!sockets.grpc.exists() && !sockets.http.exists());
}

#[tokio::test]
async fn without_clients_a_socket_is_for_root_and_the_daemons_user() {
    let mut setup = setup();
    let sockets = sockets(&mut setup, None);
    // Its mode is opened below, to see what the daemon itself says.
    let daemon = setup.start();
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").mode() & 0o7777;
    for path in [&sockets.grpc, &sockets.http] {
        assert_eq!(mode(path), 0o600);
    }
    connect_as(&sockets.grpc, STRANGER)
        .await
        .expect_err("the mode keeps it out");
    // As everybody else who knows how: by the name of the socket.
    let channel = Endpoint::from_shared(format!("unix:{}", sockets.grpc.display()));
    let channel = channel
        .expect("a path")
        .connect()
        .await
        .expect("it connects");
    for name in CALLS {
        call(&channel, name, None).await.expect("root may do all");
    }
    let reflected = reflection_of(channel).await;
    reflected.expect("it is no other machine");
    let log = daemon.log();
    let deed = log
        .lines()
        .find(|line| line.contains("action=\"create\"") && line.contains("uid=0"));
    deed.unwrap_or_else(|| panic!("{log}"));
    for path in [&sockets.grpc, &sockets.http] {
        let open = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(path, open).expect("the mode can be set");
    }
    let stream = connect_as(&sockets.grpc, STRANGER).await;
    assert_eq!(list_by(stream.expect("it connects")).await, "16");
    let stream = connect_as(&sockets.http, STRANGER).await;
    let answer = get_by(stream.expect("it connects"), "/metrics").await;
    assert!(answer.starts_with("HTTP/1.0 401"), "{answer}");
    assert!(
        answer.contains(&format!("uid = {STRANGER}"))
            || answer.contains(&format!("user {STRANGER}")),
        "{answer}"
    );
}

/// What no start could serve is told before one; a socket that a daemon serves now is no fault.
#[tokio::test]
async fn a_check_of_the_config_finds_what_no_start_could_serve() {
    let check = |setup: &Setup| {
        let output = setup.command().arg("--check-config").output();
        let output = output.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let mut first = setup();
    let served = sockets(&mut first, None);
    let _first = first.start();
    let mut second = setup();
    second.set("grpc.socket", served.grpc.display().to_string());
    let (code, said) = check(&second);
    assert_eq!(code, Some(0), "{said}");

    let mut wrong = setup();
    let taken = wrong.folder.path().join("taken");
    std::fs::write(&taken, "data").expect("a file");
    wrong.set("http.socket", taken.display().to_string());
    let (code, said) = check(&wrong);
    assert_ne!(code, Some(0), "{said}");
    assert!(
        said.contains("`http.socket`") && said.contains("socket-unusable"),
        "{said}"
    );

    let mut wrong = setup();
    sockets(&mut wrong, None);
    wrong.set("grpc.socket_group", "no such group");
    let (code, said) = check(&wrong);
    assert_ne!(code, Some(0), "{said}");
    assert!(
        said.contains("`grpc.socket_group`") && said.contains("\"no such group\""),
        "{said}"
    );
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_a_live_one_is_named() {
    let mut first = setup();
    let sockets = sockets(&mut first, None);
    let mut first = first.start();
    let refused = |path: &Path, parts: &[&str]| {
        let mut second = setup();
        second.set("grpc.socket", path.display().to_string());
        let log = second.try_start().expect_err("the path is taken");
        for part in parts {
            assert!(log.contains(part), "{part}: {log}");
        }
        assert!(log.contains(&path.display().to_string()), "{log}");
    };
    refused(
        &sockets.grpc,
        &["`grpc.socket`", "served already", "socket-unusable"],
    );
    assert!(sockets.grpc.exists());
    let file = first.folder.path().join("data");
    std::fs::write(&file, "data").expect("a file");
    refused(
        &file,
        &[
            "`grpc.socket`",
            "something else than a socket",
            "not deleted",
        ],
    );
    assert_eq!(std::fs::read(&file).expect("it is there"), b"data");
    // A daemon that was killed leaves its sockets to the next one.
    first.kill();
    assert!(sockets.grpc.exists() && sockets.http.exists());
    first.restart();
    let stream = UnixStream::connect(&sockets.grpc)
        .await
        .expect("it is served");
    assert_eq!(list_by(stream).await, "0");
}
