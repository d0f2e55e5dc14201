//! `SigningKey::from_pem`: on the text as it is, and with the bytes as the document within a PEM. No
//! message has a part of a key.

#![no_main]

use std::error::Error;
use std::sync::LazyLock;

use casemate_attestation::{KeyError, SigningKey};
use casemate_fuzz::keys::{Secrets, pem};
use casemate_fuzz::text::assert_harmless;
use libfuzzer_sys::fuzz_target;

static SECRETS: LazyLock<Secrets> = LazyLock::new(Secrets::all);

/// A sentence, and what a file calls itself.
const LONGEST_MESSAGE: usize = 1000;

fuzz_target!(|data: &[u8]| {
    read(&String::from_utf8_lossy(data));
    for label in ["PRIVATE KEY", "EC PRIVATE KEY"] {
        read(&pem(label, data));
    }
});

fn read(text: &str) {
    match SigningKey::from_pem(text) {
        Ok(key) => {
            assert!(matches!(key.algorithm(), "ES256" | "ES384" | "EdDSA"));
            assert_eq!(key.id().len(), 32);
            let shown = format!("{key:?} {key:#?}");
            assert!(!SECRETS.are_in(&shown), "{shown}");
            let again = SigningKey::from_pem(text).expect("it was taken before");
            assert_eq!(again.id(), key.id());
            assert!(
                key.sign_corim(text.as_bytes()).is_err(),
                "a PEM is no CoRIM"
            );
        }
        Err(error) => refused(&error),
    }
}

fn refused(error: &KeyError) {
    let mut next: Option<&dyn Error> = Some(error);
    while let Some(one) = next {
        let shown = one.to_string();
        assert!(!SECRETS.are_in(&shown), "a part of a key: {shown}");
        assert!(
            !SECRETS.are_in(&format!("{one:?}")),
            "a part of a key: {one:?}"
        );
        assert!(!shown.is_empty());
        assert_harmless(&shown);
        assert!(shown.chars().count() <= LONGEST_MESSAGE, "{shown}");
        next = one.source();
    }
}
