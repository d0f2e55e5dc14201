//! Where a config names keys, a component without a valid signature stays out of service, and says
//! which of all that could be wrong is wrong. What signs is not our own: openssl and minisign.

use std::path::{Path, PathBuf};

use casemate_integration::artifacts;
use casemate_integration::daemon::{Daemon, Setup};
use casemate_integration::signers::Signer;
use casemate_proto::v1;

/// One `[[backend]]`, and what is to be said of it; nothing: it is in service.
struct Case {
    name: &'static str,
    path: PathBuf,
    keys: Vec<String>,
    said: Vec<String>,
}

struct Cases {
    setup: Setup,
    cases: Vec<Case>,
}

impl Cases {
    /// A component of its own, made by `change` after it was signed.
    fn add(
        &mut self,
        name: &'static str,
        signers: &[&Signer],
        keys: Vec<String>,
        change: impl FnOnce(&Path),
        said: &[&str],
    ) {
        let path = self.setup.folder.path().join(format!("{name}.wasm"));
        std::fs::copy(artifacts::component("plain-kvm"), &path).expect("a copy");
        for signer in signers {
            signer.sign(&path);
        }
        change(&path);
        let mut backend = toml::Table::new();
        backend.insert("name".to_owned(), name.into());
        backend.insert("path".to_owned(), path.display().to_string().into());
        backend.insert("allow_unpinned".to_owned(), true.into());
        backend.insert("signature_keys".to_owned(), keys.clone().into());
        let backends = self.setup.config["backend"].as_array_mut();
        backends.expect("an array").push(backend.into());
        self.cases.push(Case {
            name,
            path,
            keys,
            said: said.iter().map(|part| (*part).to_owned()).collect(),
        });
    }
}

fn key_of(signer: &Signer) -> String {
    signer.public_key().display().to_string()
}

fn text_of(signer: &Signer) -> String {
    std::fs::read_to_string(signer.public_key()).expect("a key")
}

/// The component is still one, and another one: a custom section comes at its end.
fn append_section(path: &Path) {
    let mut bytes = std::fs::read(path).expect("a component");
    bytes.extend([0, 3, 1, b'x', b'y']);
    std::fs::write(path, bytes).expect("a file");
}

async fn errors(daemon: &Daemon) -> Vec<(String, String)> {
    let mut client = daemon.backends().await;
    let answer = client.list_backends(v1::ListBackendsRequest {}).await;
    let backends = answer.expect("a list").into_inner().backends;
    let told = backends
        .into_iter()
        .map(|backend| (backend.name, backend.error));
    told.collect()
}

fn add_cosign(cases: &mut Cases, signer: &Signer, stranger: &Signer) {
    let key = || vec![key_of(signer)];
    cases.add("cosign", &[signer], key(), |_| {}, &[]);
    cases.add("cosign-pem", &[signer], vec![text_of(signer)], |_| {}, &[]);
    let either = vec![key_of(stranger), key_of(signer)];
    cases.add("one-of-two", &[signer], either, |_| {}, &[]);
    let not = "is not one of";
    cases.add(
        "wrong-key",
        &[stranger],
        key(),
        |_| {},
        &[not, "sha256:", "somebody else signed it"],
    );
    cases.add(
        "changed",
        &[signer],
        key(),
        append_section,
        &[not, "the component was changed"],
    );
    cases.add(
        "missing",
        &[],
        key(),
        |_| {},
        &["has no signature", "missing.wasm.sig"],
    );
    for (name, content) in [
        ("empty-signature", ""),
        ("no-base64", "%%%%"),
        ("no-der", "AAAA"),
        ("binary", "\u{fffd}\0"),
    ] {
        let write = |path: &Path| std::fs::write(signer.beside(path), content).expect("a file");
        let said = ["is malformed", "cosign sign-blob"];
        cases.add(name, &[], key(), write, &said);
    }
    // What cosign 3 writes: the same signature, among what it knows of key and digest.
    let bundle = |path: &Path| {
        let signature = std::fs::read_to_string(signer.beside(path)).expect("a signature");
        let bundle = serde_json::json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": []},
            "messageSignature": {
                "messageDigest": {"algorithm": "SHA2_256", "digest": "AAAA"},
                "signature": signature,
            },
        });
        std::fs::write(signer.beside(path), bundle.to_string()).expect("a file");
    };
    cases.add("bundle", &[signer], key(), bundle, &[]);
    let of_stranger = |path: &Path| {
        stranger.sign(path);
        bundle(path);
    };
    cases.add("bundle-wrong-key", &[], key(), of_stranger, &[not]);
    let attestation = |path: &Path| {
        let text = r#"{"dsseEnvelope": {"payload": "AAAA", "signatures": []}}"#;
        std::fs::write(signer.beside(path), text).expect("a file");
    };
    cases.add(
        "bundle-of-another-kind",
        &[],
        key(),
        attestation,
        &["is malformed"],
    );
    let large = |path: &Path| {
        std::fs::write(signer.beside(path), vec![b'A'; 65 << 10]).expect("a file");
    };
    cases.add(
        "large-signature",
        &[],
        key(),
        large,
        &["cannot be read", "larger than allowed"],
    );
    let folder = |path: &Path| std::fs::create_dir(signer.beside(path)).expect("a folder");
    cases.add(
        "folder",
        &[],
        key(),
        folder,
        &["cannot be read", "not a regular file"],
    );
}

fn add_minisign(cases: &mut Cases, signer: &Signer, stranger: &Signer) {
    let key = || vec![key_of(signer)];
    cases.add("minisign", &[signer], key(), |_| {}, &[]);
    let line = text_of(signer).lines().nth(1).expect("the key").to_owned();
    cases.add("minisign-line", &[signer], vec![line], |_| {}, &[]);
    let id = text_of(signer)
        .lines()
        .next()
        .map(|line| line.rsplit(' ').next().map(str::to_owned));
    let id = id.flatten().expect("its id");
    let trusted = format!("trusted are minisign:{id}");
    let said = ["was made with the key minisign:", &trusted];
    cases.add("minisign-wrong-key", &[stranger], key(), |_| {}, &said);
    cases.add(
        "minisign-changed",
        &[signer],
        key(),
        append_section,
        &["is not one of", &id],
    );
    cases.add(
        "minisign-missing",
        &[],
        key(),
        |_| {},
        &["minisign-missing.wasm.minisig"],
    );
    let comment = |path: &Path| {
        let text = std::fs::read_to_string(signer.beside(path)).expect("a signature");
        let text = text.replace("trusted comment: t", "trusted comment: T");
        std::fs::write(signer.beside(path), text).expect("a file");
    };
    cases.add(
        "minisign-comment",
        &[signer],
        key(),
        comment,
        &["is not one of"],
    );
    let cut = |path: &Path| {
        std::fs::write(signer.beside(path), "untrusted comment: x\n").expect("a file");
    };
    cases.add(
        "minisign-cut",
        &[],
        key(),
        cut,
        &["is malformed", "minisign -S"],
    );
}

fn add_keys(cases: &mut Cases, signer: &Signer) {
    let folder = cases.setup.folder.path().to_owned();
    let file = |name: &str, content: &str| {
        let path = folder.join(name);
        std::fs::write(&path, content).expect("a file");
        vec![path.display().to_string()]
    };
    let nowhere = vec![folder.join("nowhere.pub").display().to_string()];
    let private = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let damaged = text_of(signer).replace('M', "A");
    let large = "A".repeat(65 << 10);
    for (name, keys, said) in [
        (
            "key-missing",
            nowhere,
            &["nowhere.pub", "cannot be read", "No such file"][..],
        ),
        (
            "key-private",
            file("private.pub", private),
            &["a PEM of \"PRIVATE KEY\"", "wanted is a public key"],
        ),
        (
            "key-damaged",
            file("damaged.pub", &damaged),
            &["no PEM of a P-256 key"],
        ),
        (
            "key-garbage",
            file("garbage.pub", "hello"),
            &["neither PEM nor a key of minisign"],
        ),
        (
            "key-large",
            file("large.pub", &large),
            &["large.pub", "larger than allowed"],
        ),
        ("key-none", Vec::new(), &["`signature_keys` is empty"]),
    ] {
        cases.add(name, &[signer], keys, |_| {}, said);
    }
}

#[tokio::test]
async fn only_what_a_trusted_key_signed_is_in_service() {
    let mut cases = Cases {
        setup: Setup::new(),
        cases: Vec::new(),
    };
    let (signer, stranger) = (Signer::cosign(), Signer::cosign());
    add_cosign(&mut cases, &signer, &stranger);
    add_keys(&mut cases, &signer);
    let minisign = (Signer::minisign(), Signer::minisign());
    if let (Some(signer), Some(stranger)) = &minisign {
        add_minisign(&mut cases, signer, stranger);
    }
    let Cases { setup, cases } = cases;
    let daemon = setup.start();
    let told = errors(&daemon).await;
    let mut wrong = Vec::new();
    for Case {
        name,
        path,
        keys,
        said,
    } in &cases
    {
        let error = told
            .iter()
            .find(|(told, _)| told == name)
            .map(|(_, error)| error);
        let error = error.expect("it is configured");
        if said.is_empty() != error.is_empty() {
            wrong.push(format!("{name} ({}, {keys:?}): {error:?}", path.display()));
        }
        let missing = said.iter().filter(|part| !error.contains(part.as_str()));
        wrong.extend(missing.map(|part| format!("{name}: wanted is {part:?}: {error}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A signature is looked at before the file is found to be no component, and after its digest.
#[tokio::test]
async fn a_signature_comes_after_the_digest_and_before_all_else() {
    let mut cases = Cases {
        setup: Setup::new(),
        cases: Vec::new(),
    };
    let signer = Signer::cosign();
    let elf = |path: &Path| std::fs::write(path, b"\x7fELF\x02\x01\x01\0rest").expect("a file");
    cases.add("unsigned-elf", &[], vec![key_of(&signer)], elf, &[]);
    cases.add("pinned", &[], vec![key_of(&signer)], |_| {}, &[]);
    let backends = cases.setup.config["backend"]
        .as_array_mut()
        .expect("an array");
    let pinned = backends.last_mut().and_then(toml::Value::as_table_mut);
    let pinned = pinned.expect("a table");
    pinned.insert("sha256".to_owned(), "00".repeat(32).into());
    let daemon = cases.setup.start();
    let told = errors(&daemon).await;
    let of = |name: &str| {
        let found = told.iter().find(|(told, _)| told == name);
        &found.expect("it is configured").1
    };
    assert!(of("unsigned-elf").contains("has no signature"), "{told:?}");
    assert!(of("pinned").contains("config pins 0000"), "{told:?}");
}

/// The key for all backends counts where one has none of its own.
#[tokio::test]
async fn one_key_can_be_for_all_backends() {
    let (signer, other) = (Signer::cosign(), Signer::cosign());
    let mut cases = Cases {
        setup: Setup::new(),
        cases: Vec::new(),
    };
    cases.add("own", &[&other], vec![key_of(&other)], |_| {}, &[]);
    cases.add("signed", &[&signer], Vec::new(), |_| {}, &[]);
    cases.add("unsigned", &[], Vec::new(), |_| {}, &[]);
    let backends = cases.setup.config["backend"]
        .as_array_mut()
        .expect("an array");
    for backend in backends.iter_mut().skip(2) {
        let backend = backend.as_table_mut().expect("a table");
        backend.remove("signature_keys");
    }
    let keys = format!("{}:{}", key_of(&signer), key_of(&Signer::cosign()));
    // The second is gone by now, and a key that cannot be read is no key to pass over.
    cases.setup.set("backend_signature_keys", keys);
    let lost = cases.setup;
    let daemon = lost.start();
    let told = errors(&daemon).await;
    let out_of_service: Vec<_> = told.iter().filter(|(_, error)| !error.is_empty()).collect();
    let names: Vec<_> = out_of_service
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["plain-kvm", "signed", "unsigned"], "{told:?}");
    drop(daemon);

    let mut setup = Setup::new();
    for (name, signed) in [("signed", true), ("unsigned", false)] {
        let path = setup.folder.path().join(format!("{name}.wasm"));
        std::fs::copy(artifacts::component("plain-kvm"), &path).expect("a copy");
        if signed {
            signer.sign(&path);
        }
        let mut backend = toml::Table::new();
        backend.insert("name".to_owned(), name.into());
        artifacts::pin(&mut backend, &path);
        let backends = setup.config["backend"].as_array_mut();
        backends.expect("an array").push(backend.into());
    }
    setup.set("backend_signature_keys", key_of(&signer));
    let daemon = setup.start();
    let told = errors(&daemon).await;
    let in_service: Vec<_> = told.iter().filter(|(_, error)| error.is_empty()).collect();
    assert_eq!(in_service.len(), 1, "{told:?}");
    assert_eq!(in_service[0].0, "signed");
}
