//! CoRIM: two other libraries read in it what went in, and nothing that should not be there.

use std::collections::BTreeSet;

use casemate_attestation::{
    Algorithm, InputSource, Measurement, PcrValues, PolicyFormat, RegisterValue, corim,
};
use coset::cbor::Value;

use crate::sample::{computed, measurement, named, one_of, pcrs, register, unknown, whole};
use crate::seen::{self, Triple};

type Values<'a> = &'a [(i64, Vec<u8>)];

fn triple(measured: &[(&str, Values<'_>)]) -> Triple {
    Triple {
        class: ("ACME".to_owned(), "UMBRA".to_owned()),
        measured: measured
            .iter()
            .map(|(key, values)| ((*key).to_owned(), values.to_vec()))
            .collect(),
    }
}

fn refusal(measurement: &Measurement, pcrs: Option<&PcrValues>) -> String {
    corim::render(measurement, pcrs).unwrap_err().to_string()
}

#[test]
fn both_libraries_read_what_went_in() {
    let bytes = corim::render(&whole(), Some(&pcrs())).unwrap();
    // One triple for each value that may hold, and each says all that is known.
    let expected = [0x21, 0x22].map(|alternative| {
        triple(&[
            ("LAUNCH", &[(7, vec![0x11; 48])]),
            ("TD", &[(7, vec![alternative; 48])]),
            ("POLICY", &[(0, vec![0x31; 8])]),
            ("TABLE", &[(1, vec![0x51; 32])]),
            ("WIDE", &[(8, vec![0x61; 64])]),
            ("pcr4", &[(1, vec![0xd6; 32]), (7, vec![0xd4; 48])]),
            ("pcr10", &[(7, vec![0xd5; 48])]),
        ])
    });
    assert_eq!(seen::by_corim(&bytes), expected);
    assert_eq!(seen::by_corim_rs(&bytes), expected);
}

#[test]
fn evidence_matches_when_all_of_it_is_right() {
    use ::corim::validate::{EvidenceClaim, match_reference_values};

    let bytes = corim::render(&whole(), None).unwrap();
    let (_, comids) = ::corim::validate::decode_and_validate_at(&bytes, 0).unwrap();
    let triples = comids[0].triples.reference_triples.clone().unwrap();
    let together = triples[0].clone();
    let mut mixed = together.measurements().to_vec();
    mixed[0] = triples[1].measurements()[1].clone();
    for (claim, matching) in [
        (triples[0].measurements().to_vec(), 1),
        (triples[1].measurements().to_vec(), 1),
        // An alternative alone, which any guest could have.
        (triples[1].measurements()[1..2].to_vec(), 0),
        (together.measurements()[..2].to_vec(), 0),
        (mixed, 0),
    ] {
        let evidence = EvidenceClaim {
            environment: together.environment().clone(),
            measurements: claim,
        };
        let found = match_reference_values(&triples, std::slice::from_ref(&evidence));
        assert_eq!(found.len(), matching, "{evidence:?}");
    }
}

#[test]
fn without_a_name_of_its_own_the_environment_is_the_backends() {
    for (vendor, model) in [(None, None), (Some("ACME"), None), (None, Some("UMBRA"))] {
        let mut whole = whole();
        whole.backend.corim_vendor = vendor.map(str::to_owned);
        whole.backend.corim_model = model.map(str::to_owned);
        for one in seen::by_corim(&corim::render(&whole, None).unwrap()) {
            assert_eq!(one.class, ("example.org".to_owned(), "umbra-2".to_owned()));
        }
    }
}

/// A vTPM in a launch that nobody measured says nothing.
#[test]
fn pcr_values_alone_are_no_document() {
    let refused = corim::render(&measurement(Vec::new()), Some(&pcrs())).unwrap_err();
    assert!(
        refused.to_string().contains("would accept every guest"),
        "{refused}"
    );
}

#[test]
fn combinations_have_a_limit() {
    let both = |index: usize| {
        let name = format!("r{index}");
        named(
            one_of(&name, &[("a", vec![1; 48]), ("b", vec![2; 48])]),
            &name,
        )
    };
    let registers = |count| measurement((0..count).map(both).collect());
    let bytes = corim::render(&registers(6), None).unwrap();
    assert_eq!(seen::by_corim(&bytes).len(), 64);
    let refused = corim::render(&registers(7), None).unwrap_err();
    assert!(
        refused.to_string().starts_with("128 combinations"),
        "{refused}"
    );
}

#[test]
fn the_same_input_has_the_same_bytes() {
    let first = corim::render(&whole(), Some(&pcrs())).unwrap();
    assert_eq!(first, corim::render(&whole(), Some(&pcrs())).unwrap());
}

#[test]
fn every_input_changes_the_bytes_and_the_ids() {
    type Change = fn(&mut Measurement);
    let changes: [(&str, Change); 9] = [
        ("a value", |one| {
            one.registers[0].value = RegisterValue::Computed(vec![0x12; 48]);
        }),
        ("an alternative", |one| {
            one.registers[1] = named(
                one_of("td", &[("a", vec![0x21; 48]), ("b", vec![0x23; 48])]),
                "TD",
            );
        }),
        ("a claim", |one| {
            one.registers[2].value = RegisterValue::Computed(vec![0x32; 8]);
        }),
        ("a name", |one| {
            one.registers[0] = named(one.registers[0].clone(), "OTHER");
        }),
        ("an input", |one| {
            one.registers[0].inputs[0].source = InputSource::Setting;
        }),
        ("the backend", |one| one.backend.name = "other".to_owned()),
        ("the technology", |one| one.backend.tee = "other".to_owned()),
        ("the vendor", |one| {
            one.backend.corim_vendor = Some("other".to_owned());
        }),
        ("the model", |one| {
            one.backend.corim_model = Some("other".to_owned());
        }),
    ];
    let first = corim::render(&whole(), None).unwrap();
    let mut seen_ids = BTreeSet::from([seen::ids(&first)]);
    let mut seen_bytes = BTreeSet::from([first]);
    for (what, change) in changes {
        let mut changed = whole();
        change(&mut changed);
        let bytes = corim::render(&changed, None).unwrap();
        assert!(seen_ids.insert(seen::ids(&bytes)), "ids with {what}");
        assert!(seen_bytes.insert(bytes), "bytes with {what}");
    }
    let with_pcrs = corim::render(&whole(), Some(&pcrs())).unwrap();
    assert!(seen_ids.insert(seen::ids(&with_pcrs)), "ids with PCRs");
}

#[test]
fn what_is_not_of_the_guest_changes_nothing() {
    let mut newer = whole();
    newer.backend.version = "0.4.0".to_owned();
    newer.backend.sha256 = "ef".repeat(32);
    assert_eq!(
        corim::render(&whole(), None).unwrap(),
        corim::render(&newer, None).unwrap()
    );
}

#[test]
fn the_encoding_is_deterministic() {
    let bytes = corim::render(&whole(), Some(&pcrs())).unwrap();
    assert_eq!(bytes[..3], [0xd9, 0x01, 0xf5], "tag 501");
    canonical(&bytes);
}

/// RFC 8949, section 4.2.1: shortest forms, definite lengths, keys in the order of their bytes.
fn canonical(bytes: &[u8]) {
    let value: Value = coset::cbor::from_reader(bytes).unwrap();
    assert_eq!(encoded(&value), bytes, "shortest forms");
    ordered(&value);
}

fn encoded(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    coset::cbor::into_writer(value, &mut bytes).unwrap();
    bytes
}

fn ordered(value: &Value) {
    match value {
        Value::Map(entries) => {
            let keys: Vec<_> = entries.iter().map(|(key, _)| encoded(key)).collect();
            assert!(keys.is_sorted(), "{keys:?}");
            entries.iter().for_each(|(_, value)| ordered(value));
        }
        Value::Array(items) => items.iter().for_each(ordered),
        // A CoMID is CBOR in a byte string.
        Value::Tag(506, inner) => canonical(inner.as_bytes().unwrap()),
        Value::Tag(_, inner) => ordered(inner),
        _ => {}
    }
}

#[test]
fn refusals() {
    let digest = |bytes: Vec<u8>| {
        named(
            register("r", Algorithm::Sha384, RegisterValue::Computed(bytes)),
            "R",
        )
    };
    let cases = [
        (
            vec![named(unknown("td"), "TD")],
            "register \"td\" is not known, so there is no corim policy: no QEMU was asked",
        ),
        (vec![digest(vec![0; 48])], "digest of zeros only"),
        (
            vec![digest(vec![1; 32])],
            "\"r\" has 32 bytes and a sha-384 digest has 48",
        ),
        (vec![digest(Vec::new())], "\"r\" has 0 bytes"),
        (
            vec![named(
                one_of("td", &[("a", vec![1; 48]), ("b", vec![0; 48])]),
                "TD",
            )],
            "\"td\" is a sha-384 digest of zeros only",
        ),
        (
            vec![named(one_of("td", &[("a", vec![1; 48])]), "TD")],
            "\"td\" has 1 alternatives",
        ),
        (
            vec![named(one_of("td", &[]), "TD")],
            "\"td\" has 0 alternatives",
        ),
        (
            vec![named(computed("sm", Algorithm::Sm3, 1), "SM")],
            "\"sm\" is made with sm3, which has no number",
        ),
        (
            vec![named(
                register("claim", Algorithm::Raw, RegisterValue::Computed(Vec::new())),
                "CLAIM",
            )],
            "\"claim\" is a claim without a byte",
        ),
        (
            vec![
                named(computed("a", Algorithm::Sha384, 1), "SAME"),
                named(computed("b", Algorithm::Sha384, 2), "SAME"),
            ],
            "\"a\" and \"b\" are both \"SAME\" in corim",
        ),
        (
            vec![named(computed("a", Algorithm::Sha384, 1), "")],
            "\"a\" has an empty name in corim",
        ),
        (Vec::new(), "backend \"umbra\" computed no register"),
        (
            vec![computed("a", Algorithm::Sha384, 1)],
            "gives none of its registers (1) a name in this format",
        ),
    ];
    for (registers, part) in cases {
        let message = refusal(&measurement(registers), None);
        assert!(message.contains(part), "{message}");
    }
    let clash = named(computed("a", Algorithm::Sha384, 1), "pcr4");
    let message = refusal(&measurement(vec![clash]), Some(&pcrs()));
    assert!(message.contains("both \"pcr4\""), "{message}");
}

#[test]
fn an_unknown_register_is_refused_beside_known_ones_and_left_out_without_a_name() {
    let mut with = whole();
    with.registers.push(named(unknown("late"), "LATE"));
    assert!(refusal(&with, Some(&pcrs())).contains("\"late\" is not known"));

    let mut without = whole();
    without.registers.push(unknown("late"));
    let triples = seen::by_corim(&corim::render(&without, None).unwrap());
    assert_eq!(triples.len(), 2);
}

#[test]
fn a_claim_of_zeros_is_a_claim() {
    let claim = named(computed("host-data", Algorithm::Raw, 0), "HOST");
    let bytes = corim::render(&measurement(vec![claim]), None).unwrap();
    assert_eq!(
        seen::by_corim(&bytes),
        [triple(&[("HOST", &[(0, vec![0; 8])])])]
    );
}

#[test]
fn one_value_under_two_conditions_is_one_value() {
    let same = named(
        one_of("td", &[("a", vec![1; 48]), ("b", vec![1; 48])]),
        "TD",
    );
    let bytes = corim::render(&measurement(vec![same]), None).unwrap();
    assert_eq!(seen::by_corim(&bytes).len(), 1);
}

#[test]
fn formats_have_names() {
    for format in PolicyFormat::ALL {
        assert_eq!(PolicyFormat::parse(format.as_str()), Some(format));
    }
    assert_eq!(PolicyFormat::parse("CORIM"), None);
}
