//! For any measurement: an unknown register is never in a policy, and a policy has no value that
//! no register has.

use std::collections::BTreeSet;

use casemate_attestation::{
    Algorithm, Alternative, Measurement, PolicyFormat, Register, RegisterValue, render_policy,
};
use coset::cbor::Value;
use proptest::prelude::*;

use crate::sample::{measurement, register};
use crate::{seen, trustee};

fn any_value(algorithm: Algorithm) -> impl Strategy<Value = RegisterValue> {
    let bytes = move || proptest::collection::vec(1u8.., algorithm.length().unwrap_or(5));
    let alternatives = proptest::collection::vec(("[a-z]{1,5}", bytes()), 2..4);
    prop_oneof![
        4 => bytes().prop_map(RegisterValue::Computed),
        2 => alternatives.prop_map(|several| {
            let alternative = |(condition, value)| Alternative { condition, value };
            RegisterValue::OneOf(several.into_iter().map(alternative).collect())
        }),
        1 => "[a-z]{1,5}".prop_map(RegisterValue::Unknown),
    ]
}

fn any_register() -> impl Strategy<Value = Register> {
    let algorithms = [
        Algorithm::Sha256,
        Algorithm::Sha384,
        Algorithm::Sha512,
        Algorithm::Raw,
    ];
    let value = proptest::sample::select(algorithms.to_vec())
        .prop_flat_map(|algorithm| (Just(algorithm), any_value(algorithm)));
    (value, any::<bool>(), any::<bool>()).prop_map(|((algorithm, value), corim, trustee)| {
        let mut register = register("", algorithm, value);
        for (format, named) in [("corim", corim), ("trustee", trustee)] {
            if named {
                register.aliases.insert(format.to_owned(), String::new());
            }
        }
        register
    })
}

fn any_measurement() -> impl Strategy<Value = Measurement> {
    proptest::collection::vec(any_register(), 0..6).prop_map(|mut registers| {
        for (number, register) in registers.iter_mut().enumerate() {
            register.name = format!("register {number}");
            for alias in register.aliases.values_mut() {
                *alias = format!("alias {number}");
            }
        }
        measurement(registers)
    })
}

fn named(measurement: &Measurement, format: PolicyFormat) -> Vec<&Register> {
    let registers = measurement.registers.iter();
    registers
        .filter(|register| register.alias(format.as_str()).is_some())
        .collect()
}

/// Whether there has to be a policy: something is named, and all that is named is known.
fn wanted(registers: &[&Register]) -> bool {
    let unknown = |register: &&Register| matches!(register.value, RegisterValue::Unknown(_));
    !registers.is_empty() && !registers.iter().any(unknown)
}

/// Every byte string of a document, of which the values are some, with CoMIDs opened.
fn byte_strings(value: &Value, found: &mut BTreeSet<Vec<u8>>) {
    match value {
        Value::Bytes(bytes) => {
            found.insert(bytes.clone());
        }
        Value::Tag(506, inner) => {
            let comid: Value =
                coset::cbor::from_reader(inner.as_bytes().unwrap().as_slice()).unwrap();
            byte_strings(&comid, found);
        }
        Value::Tag(_, inner) => byte_strings(inner, found),
        Value::Array(items) => items.iter().for_each(|item| byte_strings(item, found)),
        Value::Map(entries) => entries.iter().for_each(|(key, value)| {
            byte_strings(key, found);
            byte_strings(value, found);
        }),
        _ => {}
    }
}

proptest! {
    #[test]
    fn a_corim_has_the_values_of_its_registers_and_no_other(measurement in any_measurement()) {
        let named = named(&measurement, PolicyFormat::Corim);
        let rendered = render_policy(PolicyFormat::Corim, &measurement, None);
        prop_assert_eq!(rendered.is_ok(), wanted(&named));
        let Ok(bytes) = rendered else { return Ok(()) };

        let mut found = BTreeSet::new();
        byte_strings(&coset::cbor::from_reader(bytes.as_slice()).unwrap(), &mut found);
        let values: BTreeSet<Vec<u8>> = named
            .iter()
            .flat_map(|register| register.value.candidates().map(<[u8]>::to_vec))
            .collect();
        prop_assert_eq!(found, values);

        let keyed: BTreeSet<_> = seen::by_corim(&bytes)
            .into_iter()
            .flat_map(|triple| triple.measured)
            .flat_map(|(key, values)| values.into_iter().map(move |value| (key.clone(), value)))
            .collect();
        let expected: BTreeSet<_> = named
            .iter()
            .flat_map(|register| {
                let key = register.alias("corim").unwrap().to_owned();
                let number = seen::number(register.algorithm);
                let values = register.value.candidates();
                values.map(move |value| (key.clone(), (number, value.to_vec())))
            })
            .collect();
        prop_assert_eq!(keyed, expected);
        prop_assert_eq!(seen::by_corim(&bytes), seen::by_corim_rs(&bytes));
    }

    #[test]
    fn a_message_for_trustee_has_the_values_of_its_registers_and_no_other(
        measurement in any_measurement()
    ) {
        let named = named(&measurement, PolicyFormat::Trustee);
        let rendered = render_policy(PolicyFormat::Trustee, &measurement, None);
        prop_assert_eq!(rendered.is_ok(), wanted(&named));
        let Ok(bytes) = rendered else { return Ok(()) };

        let found: BTreeSet<_> = trustee::read(&bytes)
            .into_iter()
            .flat_map(|(name, values)| values.into_iter().map(move |value| (name.clone(), value)))
            .collect();
        let expected: BTreeSet<_> = named
            .iter()
            .flat_map(|register| {
                let name = register.alias("trustee").unwrap().to_owned();
                register.value.candidates().map(move |value| {
                    let digits = value.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                    (name.clone(), digits)
                })
            })
            .collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn documents_show_every_measurement(measurement in any_measurement()) {
        let bytes = render_policy(PolicyFormat::Json, &measurement, None).unwrap();
        prop_assert_eq!(&serde_json::from_slice::<Measurement>(&bytes).unwrap(), &measurement);
        prop_assert!(render_policy(PolicyFormat::Text, &measurement, None).is_ok());
    }
}
