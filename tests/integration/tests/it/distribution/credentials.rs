//! Who a user is to a registry, by what Docker's config says.

use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_integration::registry::Registry;
use serde_json::json;

use super::bench::Bench;
use super::hostile::{Answer, Artifact, Server};

/// `secret`, as `htpasswd -B` writes it.
const USER: &str = "tester:$2b$04$T7lxQgDvwk.h3qnShxJ8f.KFJphp8y2ppYkKuZQ1IzITvoLMLvjD.\n";

fn config(bench: &Bench, config: &serde_json::Value) {
    bench.write(".docker/config.json", config.to_string());
}

#[test]
fn a_registry_is_told_who_asks() {
    let Some(registry) = Registry::with_user(USER) else {
        return;
    };
    let bench = Bench::new();
    bench.component("plain-kvm.wasm", None);
    let address = registry.address().to_string();
    let reference = format!("{address}/casemate/plain-kvm:1.0.0");
    let push = ["backend", "push", "plain-kvm.wasm", &reference];

    let (id, message, code) = bench.refused(&push);
    assert_eq!(
        (id.as_str(), code),
        ("registry-denied", Some(9)),
        "{message}"
    );
    assert!(message.contains("anybody who does not log in"), "{message}");

    let auth = |password: &str| STANDARD.encode(format!("tester:{password}"));
    config(
        &bench,
        &json!({"auths": {&address: {"auth": auth("wrong")}}}),
    );
    let (id, message, _) = bench.refused(&push);
    assert_eq!(id, "registry-denied");
    assert!(message.contains("this user"), "{message}");

    config(
        &bench,
        &json!({"auths": {&address: {"auth": auth("secret")}}}),
    );
    bench.done(&push);
    bench.done(&["backend", "pull", &reference, "--output", "out"]);

    // A helper comes before what the file has.
    let helper = bench.write(
        "bin/docker-credential-tests",
        "#!/bin/sh\nread registry\necho \"$1 $registry\" >> \"$HOME/asked\"\n\
         echo '{\"ServerURL\": \"\", \"Username\": \"tester\", \"Secret\": \"secret\"}'\n",
    );
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(helper, executable).expect("a mode");
    let mut bench = bench;
    bench.programs = Some(bench.path("bin"));
    let wrong = json!({&address: {"auth": auth("wrong")}});
    config(
        &bench,
        &json!({"auths": wrong, "credHelpers": {&address: "tests"}}),
    );
    bench.done(&["backend", "pull", &reference, "--output", "out"]);
    config(&bench, &json!({"auths": wrong, "credsStore": "tests"}));
    bench.done(&["backend", "pull", &reference, "--output", "out"]);
    let asked = std::fs::read_to_string(bench.path("asked")).expect("it was asked");
    assert_eq!(asked, format!("get {address}\nget {address}\n"));

    config(&bench, &json!({"credsStore": "nowhere"}));
    let (id, message, code) = bench.refused(&["backend", "pull", &reference]);
    assert_eq!(
        (id.as_str(), code),
        ("credentials-unusable", Some(9)),
        "{message}"
    );
    assert!(message.contains("docker-credential-nowhere"), "{message}");
}

/// Registries of the cloud give out tokens at another address; who asks there is shown the password,
/// and the registry the token alone. The token is for what is done, whatever the registry asks for.
#[test]
fn a_token_is_fetched_where_the_registry_says() {
    let (server, tokens) = (Server::start(), Server::start());
    let artifact = Artifact::component();
    server.artifact("1.0.0", &artifact);
    let path = "/v2/a/manifests/1.0.0";
    let challenge = format!(
        "Bearer realm=\"http://{}/token\",service=\"registry\",scope=\"repository:a:pull,push\"",
        tokens.address()
    );
    server
        .answer(
            path,
            Answer::status(401).header("WWW-Authenticate", &challenge),
        )
        .answer(
            &format!("{path} Bearer t0ken"),
            Answer::of(artifact.manifest().to_string()),
        );
    let asked = "/token?service=registry&scope=repository%3Aa%3Apull";
    tokens.answer(asked, Answer::of(r#"{"token": "t0ken"}"#));
    let address = server.address().to_string();
    let reference = server.reference("1.0.0");
    let bench = Bench::new();
    let pull = ["backend", "pull", &reference, "--output", "out"];

    bench.done(&pull);
    assert_eq!(
        tokens.asked()[0].authorization,
        None,
        "nobody has to log in"
    );

    let auth = STANDARD.encode("u:p");
    config(&bench, &json!({"auths": {&address: {"auth": auth}}}));
    bench.done(&pull);
    let basic = format!("Basic {auth}");
    assert_eq!(tokens.asked()[1].authorization, Some(basic.clone()));
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| asked.authorization.as_ref() != Some(&basic)),
        "{:?}",
        server.asked()
    );

    // An identity token is exchanged.
    tokens.answer("/token", Answer::of(r#"{"access_token": "t0ken"}"#));
    config(
        &bench,
        &json!({"auths": {&address: {"identitytoken": "refresh"}}}),
    );
    bench.done(&pull);
    let last = tokens.asked().pop().expect("it was asked");
    assert_eq!(
        (last.method.as_str(), last.path.as_str()),
        ("POST", "/token")
    );

    tokens.answer("/token", Answer::status(401));
    let (id, ..) = bench.refused(&pull);
    assert_eq!(id, "registry-denied");
    // Nobody is told a password in the clear.
    let elsewhere = "Bearer realm=\"http://tokens.invalid/token\"";
    server.answer(
        path,
        Answer::status(401).header("WWW-Authenticate", elsewhere),
    );
    let (id, ..) = bench.refused(&pull);
    assert_eq!(id, "plain-http");
}

/// What one host is shown is not shown to the host to which it redirects.
#[test]
fn a_redirect_is_shown_no_credentials() {
    let (server, elsewhere) = (Server::start(), Server::start());
    let artifact = Artifact::component();
    server.artifact("1.0.0", &artifact);
    let auth = STANDARD.encode("u:p");
    let path = "/v2/a/manifests/1.0.0";
    server
        .answer(
            path,
            Answer::status(401).header("WWW-Authenticate", "Basic realm=\"r\""),
        )
        .answer(
            &format!("{path} Basic {auth}"),
            Answer::of(artifact.manifest().to_string()),
        );
    let location = format!("http://{}/blob", elsewhere.address());
    server.answer(
        &format!("/v2/a/blobs/{}", artifact.digest),
        Answer::status(307).header("Location", &location),
    );
    elsewhere.answer("/blob", Answer::of(artifact.content.clone()));
    let bench = Bench::new();
    let address = server.address().to_string();
    config(&bench, &json!({"auths": {&address: {"auth": auth}}}));
    let to = elsewhere.address().to_string();
    let reference = server.reference("1.0.0");
    bench.done(&[
        "backend",
        "pull",
        &reference,
        "--output",
        "out",
        "--redirect-to",
        &to,
    ]);
    let asked = elsewhere.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].authorization, None);
}
