//! Reference values as an unsigned CoRIM: draft-ietf-rats-corim-11, tag 501, with one CoMID.
//!
//! ```text
//! CoRIM 501 { id: "casemate-corim-<hex>", tags: [ CoMID 506 {
//!   tag-id: "casemate-comid-<hex>",
//!   reference triples: [
//!     [class, [every register, every PCR]],   one triple for each combination of alternatives
//!   ]
//! } ] }
//! ```
//!
//! A verifier takes a triple when the evidence has *all* of its measurements (section 8.2.4.4.3),
//! and any one triple is enough. So each triple has to say all that is known: a triple with one
//! alternative alone would take a guest of which nothing else is right. Where several registers have
//! alternatives there is a triple for each combination. Alternatives could not share a `digests`
//! list either: a list is one thing digested by several algorithms, and all that are common to
//! reference and evidence have to agree.
//!
//! Two things are unlike what Cocos's generator made, and meant to be: the algorithm's number is
//! the digest's own (7 for SHA-384, where Cocos wrote 1), and the ids are made from the content, so
//! that the same guest has the same document.

use ::corim::builder::{ComidBuilder, CorimBuilder};
use ::corim::types::common::{MeasuredElement, TagIdChoice};
use ::corim::types::corim::CorimId;
use ::corim::types::environment::{ClassMap, EnvironmentMap};
use ::corim::types::measurement::{Digest, MeasurementMap, MeasurementValuesMap, RawValueChoice};
use ::corim::types::triples::ReferenceTriple;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::pcr::{Bank, PcrValues};
use crate::policy::{PolicyError, PolicyFormat, Reference, nothing, references};
use crate::register::{Algorithm, Measurement, Register, hexadecimal};

/// Most triples of a document: six registers of two values each.
const MOST_COMBINATIONS: usize = 64;

/// # Errors
///
/// For every register with the alias `corim` that has no value a verifier could be given, and where
/// there would be no reference value at all.
pub fn render(measurement: &Measurement, pcrs: Option<&PcrValues>) -> Result<Vec<u8>, PolicyError> {
    let references = references(measurement, PolicyFormat::Corim)?;
    let pcrs_measured = pcrs.map(pcr_measurements).unwrap_or_default();
    // PCR values alone would take any launch: nothing vouches for the vTPM then.
    if references.is_empty() {
        return Err(nothing(measurement, PolicyFormat::Corim));
    }
    distinct_from_pcrs(&references, &pcrs_measured)?;

    let pcrs_measured: Vec<MeasurementMap> =
        pcrs_measured.into_iter().map(|(_, one)| one).collect();
    let mut combinations: Vec<Vec<MeasurementMap>> = vec![Vec::new()];
    for reference in &references {
        let count = combinations.len().saturating_mul(reference.values.len());
        if count > MOST_COMBINATIONS {
            return Err(PolicyError::TooManyCombinations { count });
        }
        let mut longer = Vec::with_capacity(count);
        for value in &reference.values {
            for combination in &combinations {
                let mut combination = combination.clone();
                combination.push(measured(reference, value)?);
                longer.push(combination);
            }
        }
        combinations = longer;
    }

    let class = class(measurement);
    let id = identity(measurement, pcrs, &class)?;
    let mut comid = ComidBuilder::new(TagIdChoice::Text(format!("casemate-comid-{id}")));
    for mut measurements in combinations {
        measurements.extend(pcrs_measured.iter().cloned());
        let environment = EnvironmentMap {
            class: Some(class.clone()),
            instance: None,
            group: None,
        };
        comid = comid.add_reference_triple(ReferenceTriple::new(environment, measurements));
    }
    let corim = CorimBuilder::new(CorimId::Text(format!("casemate-corim-{id}")))
        .add_comid_tag(comid.build()?)?
        .build_bytes()?;
    Ok(corim)
}

/// The environment as verifiers call it, or, where the backend does not say, as it calls itself.
/// Half of a pair is not used: a vendor with the model of somebody else names nothing.
fn class(measurement: &Measurement) -> ClassMap {
    let backend = &measurement.backend;
    match (&backend.corim_vendor, &backend.corim_model) {
        (Some(vendor), Some(model)) => ClassMap::new(vendor, model),
        _ => ClassMap::new(&backend.vendor, &backend.tee),
    }
}

fn measured(reference: &Reference<'_>, value: &[u8]) -> Result<MeasurementMap, PolicyError> {
    let register = reference.register;
    let mut values = MeasurementValuesMap::default();
    if register.algorithm == Algorithm::Raw {
        values.raw_value = Some(RawValueChoice::Bytes(value.to_vec()));
    } else {
        let number = number(register.algorithm).ok_or_else(|| PolicyError::NoAlgorithmNumber {
            register: register.name.clone(),
            algorithm: register.algorithm,
        })?;
        values.digests = Some(vec![Digest::new(number, value.to_vec())]);
    }
    Ok(keyed(reference.alias.to_owned(), values))
}

/// In IANA's "Named Information Hash Algorithm Registry", which has no SM3.
fn number(algorithm: Algorithm) -> Option<i64> {
    match algorithm {
        Algorithm::Sha256 => Some(1),
        Algorithm::Sha384 => Some(7),
        Algorithm::Sha512 => Some(8),
        Algorithm::Sm3 | Algorithm::Raw => None,
    }
}

fn keyed(key: String, mval: MeasurementValuesMap) -> MeasurementMap {
    MeasurementMap {
        mkey: Some(MeasuredElement::Text(key)),
        mval,
        authorized_by: None,
    }
}

/// Each PCR with its key. The banks are digests of one thing, so they share a list.
fn pcr_measurements(pcrs: &PcrValues) -> Vec<(String, MeasurementMap)> {
    pcrs.indices()
        .map(|index| {
            let digests = Bank::ALL.into_iter().filter_map(|bank| {
                let value = pcrs.value(bank, index)?;
                Some(Digest::new(number(bank.algorithm())?, value.to_vec()))
            });
            let mut values = MeasurementValuesMap::default();
            values.digests = Some(digests.collect());
            let key = format!("pcr{index}");
            (key.clone(), keyed(key, values))
        })
        .collect()
}

fn distinct_from_pcrs(
    references: &[Reference<'_>],
    pcrs: &[(String, MeasurementMap)],
) -> Result<(), PolicyError> {
    for reference in references {
        if pcrs.iter().any(|(key, _)| key == reference.alias) {
            return Err(PolicyError::DuplicateAlias {
                alias: reference.alias.to_owned(),
                first: reference.register.name.clone(),
                second: format!("PCR value {}", reference.alias),
                format: PolicyFormat::Corim,
            });
        }
    }
    Ok(())
}

/// What makes two documents different documents. The backend's version is left out: a newer one
/// that computes the same has made the same document.
#[derive(Serialize)]
struct Identity<'a> {
    backend: &'a str,
    tee: &'a str,
    class: [Option<&'a str>; 2],
    registers: &'a [Register],
    pcrs: Option<&'a PcrValues>,
}

fn identity(
    measurement: &Measurement,
    pcrs: Option<&PcrValues>,
    class: &ClassMap,
) -> Result<String, PolicyError> {
    let identity = serde_json::to_vec(&Identity {
        backend: &measurement.backend.name,
        tee: &measurement.backend.tee,
        class: [class.vendor.as_deref(), class.model.as_deref()],
        registers: &measurement.registers,
        pcrs,
    })?;
    Ok(hexadecimal::text(&Sha256::digest(identity)))
}
