//! All that is known of a measurement, and what is not, as JSON.
//!
//! Unlike a policy this may show an unknown register: its value is null beside the reason.

use serde_json::{Value, json};

use crate::pcr::PcrValues;
use crate::register::Measurement;

/// The measurement's fields in their order, then `pcr_values` where there are any.
#[must_use]
pub fn document(measurement: &Measurement, pcrs: Option<&PcrValues>) -> Value {
    // These types have no map with keys other than text, which is all that could fail.
    let mut document = json!(measurement);
    if let Some(pcrs) = pcrs {
        document["pcr_values"] = json!(pcrs);
    }
    document
}
