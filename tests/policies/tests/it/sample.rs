//! Measurements as backends make them.

use std::collections::BTreeMap;

use casemate_attestation::{
    Algorithm, Alternative, BackendIdentity, FileDigest, Input, InputSource, Measurement,
    PcrValues, Register, RegisterValue,
};

pub(crate) fn register(name: &str, algorithm: Algorithm, value: RegisterValue) -> Register {
    Register {
        name: name.to_owned(),
        algorithm,
        value,
        inputs: Vec::new(),
        aliases: BTreeMap::new(),
    }
}

pub(crate) fn computed(name: &str, algorithm: Algorithm, byte: u8) -> Register {
    let length = algorithm.length().unwrap_or(8);
    register(name, algorithm, RegisterValue::Computed(vec![byte; length]))
}

/// With the same alias in each of the formats.
pub(crate) fn named(mut register: Register, alias: &str) -> Register {
    for format in ["corim", "trustee"] {
        register.aliases.insert(format.to_owned(), alias.to_owned());
    }
    register
}

pub(crate) fn one_of(name: &str, values: &[(&str, Vec<u8>)]) -> Register {
    let alternatives = values
        .iter()
        .map(|(condition, value)| Alternative {
            condition: (*condition).to_owned(),
            value: value.clone(),
        })
        .collect();
    register(name, Algorithm::Sha384, RegisterValue::OneOf(alternatives))
}

pub(crate) fn unknown(name: &str) -> Register {
    let reason = RegisterValue::Unknown("no QEMU was asked".to_owned());
    register(name, Algorithm::Sha384, reason)
}

pub(crate) fn measurement(registers: Vec<Register>) -> Measurement {
    Measurement {
        registers,
        files: vec![FileDigest {
            role: "firmware".to_owned(),
            sha384: "ab".repeat(48),
        }],
        backend: BackendIdentity {
            name: "umbra".to_owned(),
            tee: "umbra-2".to_owned(),
            vendor: "example.org".to_owned(),
            version: "0.3.0".to_owned(),
            sha256: "cd".repeat(32),
            corim_vendor: Some("ACME".to_owned()),
            corim_model: Some("UMBRA".to_owned()),
        },
        qemu_version: Some("10.1.0".to_owned()),
    }
}

/// One of everything that a policy may hold, and a register that none of them names.
pub(crate) fn whole() -> Measurement {
    let mut launch = named(computed("launch-digest", Algorithm::Sha384, 0x11), "LAUNCH");
    launch.inputs = vec![
        Input {
            name: "guest-features".to_owned(),
            value: "0x1".to_owned(),
            source: InputSource::Assumed,
        },
        Input {
            name: "vcpus".to_owned(),
            value: "2".to_owned(),
            source: InputSource::Request,
        },
    ];
    measurement(vec![
        launch,
        named(
            one_of(
                "td",
                &[("one pass", vec![0x21; 48]), ("two passes", vec![0x22; 48])],
            ),
            "TD",
        ),
        named(computed("policy", Algorithm::Raw, 0x31), "POLICY"),
        computed("scratch", Algorithm::Sha384, 0x41),
        named(computed("table", Algorithm::Sha256, 0x51), "TABLE"),
        named(computed("wide", Algorithm::Sha512, 0x61), "WIDE"),
    ])
}

pub(crate) fn pcrs() -> PcrValues {
    let text = format!(
        r#"{{"pcr_values": {{"sha384": {{"4": "{}", "10": "{}"}}, "sha256": {{"4": "{}"}}}}}}"#,
        "d4".repeat(48),
        "D5".repeat(48),
        "d6".repeat(32)
    );
    PcrValues::parse(text.as_bytes()).unwrap()
}
