//! Reference values as a message for the Reference Value Provider Service of Trustee.
//!
//! `rvps-tool register --path FILE` sends the file's text as it is, and RVPS reads it as
//!
//! ```json
//! {"version": "0.1.0", "type": "sample", "payload": "<base64>"}
//! ```
//!
//! whose payload is, in base64 with padding, a map from names to values:
//!
//! ```json
//! {"snp_launch_measurement": ["<lower-case hexadecimal>", …]}
//! ```
//!
//! (`rvps/src/lib.rs`, `Message`, and `rvps/src/extractors/sample`. A part of Trustee's documents
//! calls the field `provenance`; the program has `payload`, and refuses a message without it.)
//! `kbs-client config set-sample-reference-value NAME VALUE` makes the same of one name, and puts
//! its value into a list too. Policies test for a member of the list, so alternatives are simply
//! more of them.
//!
//! A message replaces the values of the names that it has, and no others. Which names a policy
//! reads is the backends' to know: the alias `trustee` of their registers.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::policy::{PolicyError, PolicyFormat, nothing, references};
use crate::register::{Measurement, hexadecimal};

#[derive(Serialize)]
struct Message {
    version: &'static str,
    r#type: &'static str,
    payload: String,
}

/// The message, with a line break at its end.
///
/// # Errors
///
/// For every register with the alias `trustee` that has no value a verifier could be given, and
/// where there would be no reference value at all.
pub fn render(measurement: &Measurement) -> Result<Vec<u8>, PolicyError> {
    let references = references(measurement, PolicyFormat::Trustee)?;
    if references.is_empty() {
        return Err(nothing(measurement, PolicyFormat::Trustee));
    }
    let values: BTreeMap<&str, Vec<String>> = references
        .iter()
        .map(|reference| {
            let values = reference.values.iter().copied();
            (reference.alias, values.map(hexadecimal::text).collect())
        })
        .collect();
    let mut message = serde_json::to_vec_pretty(&Message {
        version: "0.1.0",
        r#type: "sample",
        payload: STANDARD.encode(serde_json::to_vec(&values)?),
    })?;
    message.push(b'\n');
    Ok(message)
}
