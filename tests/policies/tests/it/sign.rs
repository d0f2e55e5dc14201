//! Signed CoRIMs: the signature holds for other libraries, and keys that cannot sign are refused.

use casemate_attestation::{SigningKey, corim};
use coset::iana::Algorithm;
use coset::{CoseSign1, RegisteredLabel, RegisteredLabelWithPrivate, TaggedCborSerializable as _};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, UnparsedPublicKey,
    VerificationAlgorithm,
};

use crate::sample::{pcrs, whole};
use crate::{keys, seen};

struct Case {
    pem: &'static str,
    /// SubjectPublicKeyInfo, of which the key itself is the end.
    public: &'static str,
    name: &'static str,
    number: Algorithm,
    verification: &'static dyn VerificationAlgorithm,
    key_length: usize,
}

fn cases() -> [Case; 5] {
    let es256 = |pem, public| Case {
        pem,
        public,
        name: "ES256",
        number: Algorithm::ES256,
        verification: &ECDSA_P256_SHA256_FIXED,
        key_length: 65,
    };
    let es384 = |pem, public| Case {
        pem,
        public,
        name: "ES384",
        number: Algorithm::ES384,
        verification: &ECDSA_P384_SHA384_FIXED,
        key_length: 97,
    };
    [
        es256(keys::P256_PKCS8, keys::P256_PKCS8_PUBLIC),
        es256(keys::P256_SEC1, keys::P256_SEC1_PUBLIC),
        es384(keys::P384_PKCS8, keys::P384_PKCS8_PUBLIC),
        es384(keys::P384_SEC1, keys::P384_SEC1_PUBLIC),
        Case {
            pem: keys::ED25519,
            public: keys::ED25519_PUBLIC,
            name: "EdDSA",
            number: Algorithm::EdDSA,
            verification: &ED25519,
            key_length: 32,
        },
    ]
}

fn bytes(digits: &str) -> Vec<u8> {
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

impl Case {
    fn holds(&self, document: &CoseSign1) -> bool {
        let public = bytes(self.public);
        let key = &public[public.len() - self.key_length..];
        document
            .verify_signature(&[], |signature, signed| {
                UnparsedPublicKey::new(self.verification, key).verify(signed, signature)
            })
            .is_ok()
    }
}

fn unsigned() -> Vec<u8> {
    corim::render(&whole(), Some(&pcrs())).unwrap()
}

#[test]
fn another_library_finds_the_document_and_a_signature_that_holds() {
    for case in cases() {
        let key = SigningKey::from_pem(case.pem).unwrap();
        assert_eq!(key.algorithm(), case.name);
        let signed = key.sign_corim(&unsigned()).unwrap();
        assert_eq!(signed[0], 0xd2, "tag 18");

        let document = CoseSign1::from_tagged_slice(&signed).unwrap();
        assert!(case.holds(&document), "{}", case.name);
        assert_eq!(document.payload.as_deref(), Some(unsigned().as_slice()));
        let header = &document.protected.header;
        assert_eq!(
            header.alg,
            Some(RegisteredLabelWithPrivate::Assigned(case.number))
        );
        assert_eq!(
            header.content_type,
            Some(RegisteredLabel::Text("application/rim+cbor".to_owned()))
        );
        let id = ring::digest::digest(&ring::digest::SHA256, &bytes(case.public));
        assert_eq!(header.key_id, id.as_ref());
        assert_eq!(key.id(), id.as_ref());
        assert!(document.unprotected.is_empty());
    }
}

#[test]
fn the_signature_covers_the_payload_and_the_header() {
    for case in cases() {
        let key = SigningKey::from_pem(case.pem).unwrap();
        let document = CoseSign1::from_tagged_slice(&key.sign_corim(&unsigned()).unwrap()).unwrap();

        let mut payload = document.clone();
        payload.payload.as_mut().unwrap()[20] ^= 1;
        assert!(!case.holds(&payload), "{}", case.name);

        let mut header = document.clone();
        let protected = header.protected.original_data.as_mut().unwrap();
        *protected.last_mut().unwrap() ^= 1;
        assert!(!case.holds(&header), "{}", case.name);
    }
}

#[test]
fn libraries_of_corim_read_the_signed_document() {
    for case in cases() {
        let signed = SigningKey::from_pem(case.pem)
            .unwrap()
            .sign_corim(&unsigned())
            .unwrap();
        let limits = ::corim::cbor::DecodeLimits::default();
        let (envelope, _) =
            ::corim::types::signed::decode_and_validate_signed_corim_structure_with_limits(
                &signed, None, &limits,
            )
            .unwrap();
        let meta = envelope.protected().corim_meta.as_ref().unwrap();
        assert_eq!(meta.signer.signer_name, "casemate");

        assert_eq!(seen::by_corim_rs(&signed), seen::by_corim(&unsigned()));
        let read = corim_rs::Corim::from_cbor(signed.as_slice()).unwrap();
        let signer = &read.as_signed_ref().unwrap().meta.signer;
        let corim_rs::EntityNameTypeChoice::Text(name) = &signer.signer_name else {
            panic!("{signer:?}");
        };
        assert_eq!(name.to_string(), "casemate");
    }
}

#[test]
fn signing_again_gives_the_same_bytes_and_another_key_gives_others() {
    let mut all = std::collections::BTreeSet::new();
    for case in cases() {
        let sign = || {
            let key = SigningKey::from_pem(case.pem).unwrap();
            key.sign_corim(&unsigned()).unwrap()
        };
        assert_eq!(sign(), sign(), "{}", case.name);
        assert!(all.insert(sign()), "{}", case.name);
    }
}

#[test]
fn only_an_unsigned_corim_is_signed() {
    let key = SigningKey::from_pem(keys::P256_PKCS8).unwrap();
    let signed = key.sign_corim(&unsigned()).unwrap();
    let mut longer = unsigned();
    longer.push(0);
    let cut = &unsigned()[..100];
    for other in [signed.as_slice(), &longer, cut, b"", b"a letter"] {
        let error = key.sign_corim(other).unwrap_err();
        assert!(
            error.to_string().contains("only an unsigned CoRIM"),
            "{error}"
        );
    }
}

#[test]
fn a_key_may_have_text_around_it_and_other_line_ends() {
    let around = format!("a remark\n{}\n\n", keys::P256_SEC1);
    let windows = keys::P384_PKCS8.replace('\n', "\r\n");
    for pem in [
        around.as_str(),
        windows.as_str(),
        keys::P256_PKCS8.trim_end(),
    ] {
        assert!(SigningKey::from_pem(pem).is_ok(), "{pem}");
    }
}

#[test]
fn refused_keys() {
    let without_end = keys::P256_PKCS8
        .split("-----END")
        .next()
        .unwrap()
        .to_owned();
    let damaged = keys::P256_PKCS8.replacen("MIG", "MI*", 1);
    let other_der = keys::P256_PKCS8.replacen("MIGH", "MIGG", 1);
    let sec1_as_pkcs8 = keys::P384_SEC1.replace("EC PRIVATE", "PRIVATE");
    let pkcs8_as_sec1 = keys::P384_PKCS8.replace("PRIVATE", "EC PRIVATE");
    let both = keys::P256_PKCS8.to_owned() + keys::CERTIFICATE;
    let openssh = keys::P256_PKCS8.replace("PRIVATE", "OPENSSH PRIVATE");
    let cases: [(&str, &str); 21] = [
        (
            keys::MIXED,
            "damaged: its number is not one of the curve P-256",
        ),
        ("", "has no line \"-----BEGIN PRIVATE KEY-----\""),
        ("garbage", "wanted is a private key as PEM"),
        ("-----BEGIN ", "has no line"),
        (keys::ENC_PKCS8, "is encrypted"),
        (keys::ENC_SEC1, "is encrypted"),
        (keys::RSA, "is an RSA key; wanted is one for ES256"),
        (keys::RSA_TRAD, "is an RSA key"),
        (keys::PUBLIC_KEY, "is a public key, which cannot sign"),
        (keys::CERTIFICATE, "is a certificate, which cannot sign"),
        (
            &both,
            "\"PRIVATE KEY\" and \"CERTIFICATE\", and one private key is wanted",
        ),
        (&openssh, "is a \"OPENSSH PRIVATE KEY\""),
        (
            keys::K1_PKCS8,
            "on the curve secp256k1; wanted is P-256 or P-384",
        ),
        (keys::K1_SEC1, "on the curve secp256k1"),
        (keys::P521, "on the curve P-521"),
        (keys::X25519, "for the algorithm 1.3.101.110"),
        (
            keys::EXPLICIT,
            "with its curve's numbers instead of its name",
        ),
        (&without_end, "damaged PEM"),
        (&damaged, "damaged PEM"),
        (&sec1_as_pkcs8, "damaged PKCS#8"),
        (&pkcs8_as_sec1, "damaged SEC1"),
    ];
    for (pem, part) in cases {
        let message = SigningKey::from_pem(pem).unwrap_err().to_string();
        assert!(message.contains(part), "{pem}\n{message}");
    }
    assert!(SigningKey::from_pem(&other_der).is_err());
}

#[test]
fn the_secret_is_not_shown() {
    for case in cases() {
        let shown = format!("{:?}", SigningKey::from_pem(case.pem).unwrap());
        let id = ring::digest::digest(&ring::digest::SHA256, &bytes(case.public));
        let id: String = id
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            shown,
            format!(
                "SigningKey {{ algorithm: {:?}, id: {id:?}, .. }}",
                case.name
            )
        );
    }
}

#[test]
fn a_refusal_has_no_part_of_the_key() {
    for pem in [
        keys::K1_PKCS8,
        keys::K1_SEC1,
        keys::P521,
        keys::RSA,
        keys::EXPLICIT,
    ] {
        let error = SigningKey::from_pem(pem).unwrap_err();
        let shown = format!("{error} {error:?}");
        for line in pem.lines().filter(|line| !line.starts_with("-----")) {
            assert!(!shown.contains(line), "{shown}");
        }
    }
}

/// Where dashes are missing from the first line, what follows it up to the next ones is the key.
#[test]
fn a_refusal_has_no_part_of_a_key_whose_first_line_is_broken() {
    let pem = keys::P256_PKCS8;
    let broken = [
        pem.replacen("KEY-----", "KEY----", 1),
        pem.replacen("KEY-----", "KEY", 1),
        pem.replacen("-----\n", "\n", 1),
        pem.replacen("PRIVATE KEY-----\n", "", 1),
        format!("{}{pem}", pem.replacen("KEY-----", "KEY----", 1)),
        // A line of the key where its name should be.
        pem.replacen("PRIVATE KEY", pem.lines().nth(1).unwrap(), 1),
    ];
    for pem in broken {
        let error = SigningKey::from_pem(&pem).unwrap_err();
        let shown = format!("{error} {error:?}");
        for line in keys::P256_PKCS8
            .lines()
            .filter(|line| !line.starts_with("-----"))
        {
            assert!(!shown.contains(line), "{shown}");
        }
        assert!(shown.chars().count() < 600, "{shown}");
    }
}

#[test]
fn a_file_with_many_keys_is_refused_in_one_sentence() {
    let many = keys::CERTIFICATE.repeat(500);
    let message = SigningKey::from_pem(&many).unwrap_err().to_string();
    assert!(message.contains("and 496 more"), "{message}");
}
