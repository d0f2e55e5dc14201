//! Signing keys whose numbers are known. A message that has a piece of one is noticed, however the
//! fuzzer got it in there.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use p256::pkcs8::LineEnding;

/// Characters of Base64 or hexadecimal of a key that no message may have in a row: 12 to 9 bytes of
/// the number, which is more than chance makes and less than any line of a PEM.
const PIECE: usize = 16;

/// The numbers: no byte like another, so that each piece tells of its place.
fn number(first: u8, length: u8) -> Vec<u8> {
    (0..length)
        .map(|at| first.wrapping_add(at.wrapping_mul(0x53)) | 1)
        .collect()
}

/// A key as PKCS#8 and, on a curve, as SEC1.
pub fn pems() -> Vec<String> {
    let p256 = p256::SecretKey::from_slice(&number(0x11, 32)).expect("a number of the curve");
    let p384 = p384::SecretKey::from_slice(&number(0x17, 48)).expect("a number of the curve");
    let seed = <[u8; 32]>::try_from(number(0x1d, 32)).expect("32 bytes");
    let ed25519 = ed25519_dalek::SigningKey::from_bytes(&seed);
    let pkcs8 = [
        p256.to_pkcs8_pem(LineEnding::LF),
        p384.to_pkcs8_pem(LineEnding::LF),
        ed25519.to_pkcs8_pem(LineEnding::LF),
    ];
    let pkcs8 = pkcs8.map(|pem| pem.expect("it is written").to_string());
    let sec1 = [
        sec1(&number(0x11, 32), &P256),
        sec1(&number(0x17, 48), &P384),
    ];
    let sec1 = sec1.map(|der| pem("EC PRIVATE KEY", &der));
    pkcs8.into_iter().chain(sec1).collect()
}

/// Object identifiers of curves, in DER.
const P256: [u8; 10] = [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: [u8; 7] = [6, 5, 0x2b, 0x81, 4, 0, 0x22];

/// With its curve, as OpenSSL writes it and the crates of the curves do not (RFC 5915).
fn sec1(number: &[u8], curve: &[u8]) -> Vec<u8> {
    let part = |tag: u8, content: &[u8]| {
        let length = u8::try_from(content.len()).expect("it is short");
        [&[tag, length], content].concat()
    };
    let parts = [part(2, &[1]), part(4, number), part(0xa0, curve)];
    part(0x30, &parts.concat())
}

/// What is between the first line and the last one.
pub fn body(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with('-')).collect()
}

/// The document within a PEM.
pub fn der(pem: &str) -> Vec<u8> {
    STANDARD.decode(body(pem)).expect("it was encoded")
}

/// A document as PEM, so that a fuzzer that knows nothing of Base64 gets at what is behind it.
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

/// Pieces of the keys, in each form that a text could have them in.
#[derive(Debug)]
pub struct Secrets(HashSet<Vec<u8>>);

impl Secrets {
    pub fn all() -> Self {
        let hexadecimal =
            |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        let decimal = |bytes: &[u8]| format!("{bytes:?}");
        let numbers = [number(0x11, 32), number(0x17, 48), number(0x1d, 32)];
        let texts = numbers
            .iter()
            .flat_map(|number| {
                let upper = hexadecimal(number).to_uppercase();
                [hexadecimal(number), decimal(number), upper]
            })
            .chain(pems().into_iter().map(|pem| body(&pem)));
        let pieces = texts.flat_map(|text| {
            let pieces = text.as_bytes().windows(PIECE);
            pieces.map(<[u8]>::to_vec).collect::<Vec<_>>()
        });
        Self(pieces.collect())
    }

    /// Line breaks are written as `\n` where a text is quoted, and hide a piece that they are within
    /// only in part: every line has more than one.
    pub fn are_in(&self, text: &str) -> bool {
        let mut pieces = text.as_bytes().windows(PIECE);
        pieces.any(|piece| self.0.contains(piece))
    }
}
