//! How often a client may call, and how often somebody may guess.

use tonic_types::StatusExt as _;

use super::*;

#[tokio::test]
async fn who_calls_too_often_is_told_when_to_call_again() {
    let mut setup = setup();
    setup.set("limits.calls_per_second", 1);
    setup.set("limits.call_burst", 5);
    with_clients(
        &mut setup,
        vec![
            token_client("busy", &["viewer"]),
            token_client("calm", &["viewer"]),
        ],
    );
    let daemon = setup.start();
    let channel = daemon.channel().await;
    let (busy, calm) = (token_of("busy"), token_of("calm"));
    let mut refused = None;
    for _ in 0..20 {
        if let Err(status) = call(&channel, "list", Some(&busy)).await {
            refused = Some(status);
        }
    }
    let status = refused.expect("it calls too often");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    for part in ["client \"busy\"", "limits.calls_per_second", "call-rate"] {
        assert!(status.message().contains(part), "{part}: {status}");
    }
    let retry = status
        .get_details_retry_info()
        .and_then(|info| info.retry_delay);
    let retry = retry.expect("it says when");
    assert!(retry.as_millis() >= 1 && retry.as_secs() <= 1, "{retry:?}");
    let (code, answer) = get(&daemon, "/metrics", Some(&busy)).await;
    assert_eq!(code, 429, "{answer}");
    let answer = answer.to_ascii_lowercase();
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    assert!(answer.contains("call-rate"), "{answer}");
    // Another client is not hindered, and this one is served when it has waited.
    call(&channel, "list", Some(&calm))
        .await
        .expect("its first call");
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    call(&channel, "list", Some(&busy))
        .await
        .expect("it waited");
    // At most one line a second.
    let log = daemon.log();
    let lines = log
        .lines()
        .filter(|line| line.contains("audit") && line.contains("call-rate"));
    assert!((1..=5).contains(&lines.count()), "{log}");
    let (_, metrics) = get(&daemon, "/metrics", Some(&calm)).await;
    let name = "casemate_api_refusals_total{reason=\"call-rate\"} ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(name));
    assert!(
        count.is_some_and(|count| count.parse::<u64>().is_ok_and(|count| count >= 10)),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_burst_of_wrong_tokens_is_slowed() {
    let mut setup = setup();
    with_clients(
        &mut setup,
        vec![
            token_client("ci", &["viewer"]),
            client("root", &["viewer"], "uid", 0),
        ],
    );
    let socket = setup.folder.path().join("grpc.sock");
    setup.set("grpc.socket", socket.display().to_string());
    let daemon = setup.start();
    let channel = daemon.channel().await;
    let mut wrong = 0;
    let status = loop {
        let guess = format!("canary-token-{wrong}");
        let status = call(&channel, "list", Some(&guess))
            .await
            .expect_err("a guess");
        if status.code() != Code::Unauthenticated {
            break status;
        }
        wrong += 1;
        assert!(wrong <= 20, "nobody slows it");
    };
    assert!(wrong >= 10, "{wrong}");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("authentication-rate"), "{status}");
    assert!(status.get_details_retry_info().is_some());
    let (code, answer) = get(&daemon, "/metrics", Some("canary-token-x")).await;
    assert_eq!(code, 429, "{answer}");
    assert!(
        answer.to_ascii_lowercase().contains("retry-after: "),
        "{answer}"
    );
    // Whoever is recognised by something else is not held up, and neither are probes.
    let local = Endpoint::from_shared(format!("unix:{}", socket.display())).expect("a path");
    let local = local.connect().await.expect("it connects");
    call(&local, "list", None).await.expect("a client");
    assert_eq!(get(&daemon, "/health", None).await.0, 200);
    assert!(!daemon.log().contains("canary-token"), "{}", daemon.log());
}
