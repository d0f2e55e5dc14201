//! Files of PCR values.

use std::error::Error;
use std::fmt::Write as _;

use casemate_attestation::pcr::LARGEST_FILE;
use casemate_attestation::{Bank, PcrError, PcrValues};
use proptest::prelude::*;

fn in_sha256(members: &str) -> String {
    format!(r#"{{"pcr_values": {{"sha256": {{{members}}}}}}}"#)
}

fn message(error: &PcrError) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(message, ": {error}");
        cause = error.source();
    }
    message
}

#[test]
fn values_are_taken() {
    let text = format!(
        r#"{{"pcr_values": {{"sha256": {{"0": "{}", "23": "{}"}}, "sha384": {{"9": "{}"}}}}}}"#,
        "0a".repeat(32),
        "FE".repeat(32),
        "Bc".repeat(48)
    );
    let values = PcrValues::parse(text.as_bytes()).unwrap();
    let taken: Vec<_> = values
        .iter()
        .map(|(bank, index, value)| (bank, index, value.to_vec()))
        .collect();
    assert_eq!(
        taken,
        [
            (Bank::Sha256, 0, vec![0x0a; 32]),
            (Bank::Sha256, 23, vec![0xfe; 32]),
            (Bank::Sha384, 9, vec![0xbc; 48]),
        ]
    );
    assert_eq!(values.indices().collect::<Vec<_>>(), [0, 9, 23]);
    assert_eq!(values.value(Bank::Sha384, 0), None);
}

#[test]
fn one_bank_or_one_register_is_enough_and_white_space_is_nothing() {
    for text in [
        in_sha256(&format!("\"7\": \"{}\"", "01".repeat(32))),
        format!(
            " \r\n\t{{\"pcr_values\":{{\"sha384\":{{\"7\":\"{}\"}}}}}}\n",
            "01".repeat(48)
        ),
    ] {
        assert!(PcrValues::parse(text.as_bytes()).is_ok(), "{text}");
    }
}

#[test]
fn refusals_say_where_and_what_is_wanted() {
    let good = "01".repeat(32);
    let with = |key: &str| in_sha256(&format!("\"{key}\": \"{good}\""));
    let of = |value: &str| in_sha256(&format!("\"5\": {value}"));
    let index = |key: &str| {
        format!("pcr_values.sha256 has the index {key:?}; wanted is 0 to 23, in decimal without")
    };
    let bank = |name: &str| format!(r#"{{"pcr_values": {{"{name}": {{"0": "{good}"}}}}}}"#);
    let cases: Vec<(String, String)> = vec![
        (String::new(), "not the JSON that is wanted".into()),
        ("{".into(), "EOF while parsing an object at line 1".into()),
        (
            "{} x".into(),
            "trailing characters at line 1 column 4".into(),
        ),
        ("\u{feff}{}".into(), "expected value at line 1".into()),
        (
            "[]".into(),
            "the document has to be an object, {\"pcr_values\": {…}}".into(),
        ),
        ("\"x\"".into(), "the document has to be an object".into()),
        ("null".into(), "the document has to be an object".into()),
        ("{}".into(), "the document has no \"pcr_values\"".into()),
        (
            format!(r#"{{"pcr_values": {{"sha256": {{"0": "{good}"}}}}, "pcrs": 1}}"#),
            "the document has the key \"pcrs\"".into(),
        ),
        (
            r#"{"pcr_values": {}, "pcr_values": {}}"#.into(),
            "the document has the key \"pcr_values\" twice".into(),
        ),
        (
            r#"{"pcr_values": []}"#.into(),
            "pcr_values has to be an object, {\"sha256\"".into(),
        ),
        (
            r#"{"pcr_values": {}}"#.into(),
            "pcr_values is empty; give at least one value".into(),
        ),
        (
            r#"{"pcr_values": {"sha384": {}}}"#.into(),
            "pcr_values.sha384 is empty".into(),
        ),
        (
            r#"{"pcr_values": {"sha384": "x"}}"#.into(),
            "pcr_values.sha384 has to be an object, {\"0\": \"…\"}".into(),
        ),
        (
            format!(r#"{{"pcr_values": {{"sha256": {{"0": "{good}"}}, "sha256": {{}}}}}}"#),
            "pcr_values has the key \"sha256\" twice".into(),
        ),
        (
            bank("sha1"),
            "the bank \"sha1\", whose digests can be forged".into(),
        ),
        (
            bank("sha512"),
            "the bank \"sha512\"; wanted are \"sha256\" and \"sha384\"".into(),
        ),
        (bank("SHA256"), "the bank \"SHA256\"".into()),
        (
            in_sha256(&format!(r#""5": "{good}", "5": "{good}""#)),
            "pcr_values.sha256 has the key \"5\" twice".into(),
        ),
        (with(""), index("")),
        (with("24"), index("24")),
        (with("05"), index("05")),
        (with("00"), index("00")),
        (with("+5"), index("+5")),
        (with("-0"), index("-0")),
        (with(" 5"), index(" 5")),
        (with("0x5"), index("0x5")),
        (with("256"), index("256")),
        (with("५"), index("५")),
        (
            of("5"),
            "pcr_values.sha256.5 is not text; wanted are 64 hexadecimal".into(),
        ),
        (of("null"), "pcr_values.sha256.5 is not text".into()),
        (of("true"), "pcr_values.sha256.5 is not text".into()),
        (of("[\"x\"]"), "pcr_values.sha256.5 is not text".into()),
        (
            of("{\"x\": {\"y\": 1}}"),
            "pcr_values.sha256.5 is not text".into(),
        ),
        (
            of(&format!("\"{}\"", "01".repeat(48))),
            "pcr_values.sha256.5 has 96 characters; wanted are 64".into(),
        ),
        (
            of(&format!("\"{}\"", &good[1..])),
            "has 63 characters".into(),
        ),
        (of("\"\""), "pcr_values.sha256.5 has 0 characters".into()),
        (
            of(&format!("\"0x{}\"", &good[2..])),
            "pcr_values.sha256.5 has 'x', which is no hexadecimal digit; wanted are 64".into(),
        ),
        (of(&format!("\"{good} \"")), "has ' ', which is no".into()),
        (
            of(&format!("\"é{}\"", &good[2..])),
            "has 'é', which is no".into(),
        ),
        (
            of(&format!("\"{}\"", "00".repeat(32))),
            "pcr_values.sha256.5 is zeros only".into(),
        ),
        (
            format!(r#"{{"pcr_values": {{"sha384": {{"1": "{good}"}}}}}}"#),
            "pcr_values.sha384.1 has 64 characters; wanted are 96".into(),
        ),
    ];
    for (text, part) in cases {
        let message = message(&PcrValues::parse(text.as_bytes()).unwrap_err());
        assert!(message.contains(&part), "{text}\n{message}\n{part}");
    }
}

#[test]
fn the_size_has_a_bound() {
    let text = in_sha256(&format!("\"5\": \"{}\"", "01".repeat(32)));
    let padded = |size: usize| text.clone() + &" ".repeat(size - text.len());
    assert!(PcrValues::parse(padded(LARGEST_FILE).as_bytes()).is_ok());
    let error = PcrValues::parse(padded(LARGEST_FILE + 1).as_bytes()).unwrap_err();
    assert!(
        error.to_string().contains("65537 bytes, and at most 65536"),
        "{error}"
    );
}

#[test]
fn nesting_is_not_followed() {
    let deep = LARGEST_FILE / 2 - 100;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let count = deep / open.len();
        let bomb = open.repeat(count) + "1" + &close.repeat(count);
        let text = in_sha256(&format!("\"5\": {bomb}"));
        assert!(PcrValues::parse(text.as_bytes()).is_err());
        assert!(PcrValues::parse(bomb.as_bytes()).is_err());
    }
}

#[test]
fn a_message_stays_short() {
    let text = format!(r#"{{"{}": 1}}"#, "k".repeat(LARGEST_FILE - 100));
    let error = PcrValues::parse(text.as_bytes()).unwrap_err();
    assert!(error.to_string().len() < 300);
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let mut bytes = in_sha256("\"5\": \"??\"").into_bytes();
    let at = bytes.iter().position(|byte| *byte == b'?').unwrap();
    bytes[at] = 0xff;
    let error = PcrValues::parse(&bytes).unwrap_err();
    assert!(message(&error).contains("invalid unicode"), "{error}");
}

fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("1e999".to_owned()),
        "\"[0-9a-fA-F]{0,100}\"",
        "\"\\PC{0,8}\"",
        proptest::collection::vec(0u8..16, 64)
            .prop_map(|digits| digits
                .iter()
                .map(|one| format!("{one:x}"))
                .collect::<String>())
            .prop_map(|digits| format!("\"{digits}\"")),
    ];
    let key = prop_oneof![
        Just("pcr_values".to_owned()),
        Just("sha256".to_owned()),
        Just("sha384".to_owned()),
        (0..30u8).prop_map(|index| index.to_string()),
        "\\PC{0,4}",
    ];
    leaf.prop_recursive(5, 40, 4, move |inner| {
        let member = (key.clone(), inner.clone());
        prop_oneof![
            proptest::collection::vec(inner, 0..4)
                .prop_map(|items| format!("[{}]", items.join(","))),
            proptest::collection::vec(member, 0..4).prop_map(|members| {
                let members: Vec<_> = members
                    .iter()
                    .map(|(key, value)| format!("{key:?}:{value}"))
                    .collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = PcrValues::parse(&bytes);
    }

    #[test]
    fn json_never_panics(text in any_json()) {
        let _ = PcrValues::parse(text.as_bytes());
        let _ = PcrValues::parse(format!(r#"{{"pcr_values":{text}}}"#).as_bytes());
        let _ = PcrValues::parse(in_sha256(&format!(r#""3":{text}"#)).as_bytes());
    }

    #[test]
    fn what_is_taken_is_what_was_given(
        values in proptest::collection::btree_map(0u8..24, proptest::collection::vec(1u8.., 48), 1..24)
    ) {
        let members: Vec<_> = values
            .iter()
            .map(|(index, value)| {
                let digits: String = value.iter().map(|byte| format!("{byte:02X}")).collect();
                format!("\"{index}\":\"{digits}\"")
            })
            .collect();
        let text = format!(r#"{{"pcr_values":{{"sha384":{{{}}}}}}}"#, members.join(","));
        let taken = PcrValues::parse(text.as_bytes()).unwrap();
        let taken: std::collections::BTreeMap<_, _> =
            taken.iter().map(|(_, index, value)| (index, value.to_vec())).collect();
        prop_assert_eq!(taken, values);
    }
}
