//! `PcrValues::parse`: what is taken is what a TPM can have, and reads the same when written anew.

#![no_main]

use std::error::Error as _;

use casemate_attestation::pcr::{HIGHEST_INDEX, LARGEST_FILE};
use casemate_attestation::{Bank, PcrValues};
use casemate_fuzz::text::assert_harmless;
use libfuzzer_sys::fuzz_target;

/// A key of 100 characters, each written as `\u{10ffff}`, and the sentence around it.
const LONGEST_MESSAGE: usize = 1400;

fuzz_target!(|data: &[u8]| {
    match PcrValues::parse(data) {
        Ok(values) => check(data, &values),
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && text.len() < LONGEST_MESSAGE, "{text}");
            assert_harmless(&text);
            if let Some(source) = error.source() {
                assert_harmless(&source.to_string());
                assert!(source.to_string().len() < LONGEST_MESSAGE);
            }
        }
    }
});

fn check(data: &[u8], values: &PcrValues) {
    assert!(data.len() <= LARGEST_FILE);
    let mut count = 0;
    let mut last = None;
    for (bank, index, value) in values.iter() {
        let length = match bank {
            Bank::Sha256 => 32,
            Bank::Sha384 => 48,
        };
        assert_eq!(value.len(), length);
        assert!(index <= HIGHEST_INDEX && HIGHEST_INDEX == 23);
        assert!(value.iter().any(|byte| *byte != 0));
        assert_eq!(values.value(bank, index), Some(value));
        assert!(last < Some((bank, index)), "twice or out of order");
        last = Some((bank, index));
        assert!(values.indices().any(|one| one == index));
        count += 1;
    }
    assert!(count > 0 && values.indices().count() <= count);
    let written = serde_json::to_vec(&serde_json::json!({ "pcr_values": values }))
        .expect("it is written as JSON");
    let again = PcrValues::parse(&written).expect("what was written is read");
    assert_eq!(&again, values);
}
