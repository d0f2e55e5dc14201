//! Trustee: read as its Reference Value Provider Service reads it.

use std::collections::BTreeMap;

use base64::Engine as _;
use casemate_attestation::{Algorithm, Measurement, trustee};
use serde::Deserialize;

use crate::sample::{computed, measurement, named, one_of, unknown, whole};

/// As `rvps/src/lib.rs` has it.
#[derive(Deserialize)]
struct Message {
    version: String,
    payload: String,
    r#type: String,
}

pub(crate) fn read(message: &[u8]) -> BTreeMap<String, Vec<String>> {
    let message: Message = serde_json::from_slice(message).unwrap();
    assert_eq!(
        (message.version.as_str(), message.r#type.as_str()),
        ("0.1.0", "sample")
    );
    let payload = base64::engine::general_purpose::STANDARD
        .decode(message.payload)
        .unwrap();
    serde_json::from_slice(&payload).unwrap()
}

#[test]
fn the_service_reads_names_and_lower_case_values() {
    let mut whole = whole();
    whole.registers[0] = named(computed("launch", Algorithm::Sha384, 0xab), "LAUNCH");
    let expected = BTreeMap::from([
        ("LAUNCH".to_owned(), vec!["ab".repeat(48)]),
        ("POLICY".to_owned(), vec!["31".repeat(8)]),
        ("TABLE".to_owned(), vec!["51".repeat(32)]),
        ("TD".to_owned(), vec!["21".repeat(48), "22".repeat(48)]),
        ("WIDE".to_owned(), vec!["61".repeat(64)]),
    ]);
    assert_eq!(read(&trustee::render(&whole).unwrap()), expected);
}

#[test]
fn the_same_input_has_the_same_bytes_and_another_has_others() {
    let first = trustee::render(&whole()).unwrap();
    assert_eq!(first, trustee::render(&whole()).unwrap());
    assert!(first.ends_with(b"\n"));
    let mut other = whole();
    other.registers[0] = named(computed("launch-digest", Algorithm::Sha384, 0x12), "LAUNCH");
    assert_ne!(first, trustee::render(&other).unwrap());
}

#[test]
fn the_alias_of_another_format_is_none_here() {
    let mut whole = whole();
    for register in &mut whole.registers {
        register.aliases.remove("trustee");
    }
    let message = refusal(&whole);
    assert!(
        message.contains("no reference value for a trustee policy"),
        "{message}"
    );
    assert!(message.contains("none of its registers (6)"), "{message}");
}

#[test]
fn a_digest_without_a_number_in_corim_has_a_value_here() {
    let sm3 = named(computed("sm", Algorithm::Sm3, 1), "SM");
    let values = read(&trustee::render(&measurement(vec![sm3])).unwrap());
    assert_eq!(values["SM"], ["01".repeat(32)]);
}

#[test]
fn refusals() {
    let cases = [
        (
            named(unknown("late"), "LATE"),
            "no trustee policy: no QEMU was asked",
        ),
        (
            named(computed("a", Algorithm::Sha384, 0), "A"),
            "digest of zeros only",
        ),
        (
            named(
                one_of("td", &[("a", vec![1; 48]), ("b", vec![1; 47])]),
                "OTHER",
            ),
            "has 47 bytes and a sha-384 digest has 48",
        ),
        (
            named(computed("b", Algorithm::Sha384, 1), "LAUNCH"),
            "\"launch-digest\" and \"b\" are both \"LAUNCH\" in trustee",
        ),
    ];
    for (register, part) in cases {
        let mut whole = whole();
        whole.registers.push(register);
        let message = refusal(&whole);
        assert!(message.contains(part), "{message}");
    }
}

fn refusal(measurement: &Measurement) -> String {
    trustee::render(measurement).unwrap_err().to_string()
}
