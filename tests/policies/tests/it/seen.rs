//! What two libraries that know nothing of each other read in a CoRIM.

use casemate_attestation::Algorithm;
use corim_rs::{
    ConciseTagTypeChoice, Corim, HashAlgorithm, MeasuredElementTypeChoice, RawValueTypeChoice,
};

/// A triple: vendor, model, and what has to hold together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Triple {
    pub(crate) class: (String, String),
    pub(crate) measured: Vec<Measured>,
}

/// A key, and its values each with its algorithm's number. A claim has the number 0.
pub(crate) type Measured = (String, Vec<(i64, Vec<u8>)>);

pub(crate) fn number(algorithm: Algorithm) -> i64 {
    match algorithm {
        Algorithm::Sha256 => 1,
        Algorithm::Sha384 => 7,
        Algorithm::Sha512 => 8,
        Algorithm::Raw => 0,
        Algorithm::Sm3 => panic!("SM3 has no number"),
    }
}

/// Ids of the document and its tag.
pub(crate) fn ids(bytes: &[u8]) -> (String, String) {
    let (map, comids) = corim::validate::decode_and_validate_at(bytes, 0).unwrap();
    let corim::types::common::TagIdChoice::Text(tag) = &comids[0].tag_identity.tag_id else {
        panic!("the tag's id is text");
    };
    (map.id.to_string(), tag.clone())
}

pub(crate) fn by_corim(bytes: &[u8]) -> Vec<Triple> {
    use corim::types::common::MeasuredElement;
    use corim::types::measurement::{DigestAlg, RawValueChoice};

    let (_, comids) = corim::validate::decode_and_validate_at(bytes, 0).unwrap();
    assert_eq!(comids.len(), 1, "one CoMID");
    let triples = comids[0].triples.reference_triples.as_ref().unwrap();
    triples
        .iter()
        .map(|triple| {
            let class = triple.environment().class.as_ref().unwrap();
            let measured = triple.measurements().iter().map(|one| {
                let Some(MeasuredElement::Text(key)) = &one.mkey else {
                    panic!("{:?} is text", one.mkey);
                };
                let digests = one.mval.digests.iter().flatten().map(|digest| {
                    let DigestAlg::Int(number) = digest.alg() else {
                        panic!("{:?} is a number", digest.alg());
                    };
                    (*number, digest.value().to_vec())
                });
                let claim = one.mval.raw_value.iter().map(|value| match value {
                    RawValueChoice::Bytes(bytes) => (0, bytes.clone()),
                    other => panic!("{other:?} is bytes"),
                });
                (key.clone(), digests.chain(claim).collect())
            });
            Triple {
                class: (class.vendor.clone().unwrap(), class.model.clone().unwrap()),
                measured: measured.collect(),
            }
        })
        .collect()
}

/// Reads a signed one too.
pub(crate) fn by_corim_rs(bytes: &[u8]) -> Vec<Triple> {
    let document = Corim::from_cbor(bytes).unwrap();
    let [ConciseTagTypeChoice::Mid(comid)] = document.as_map_ref().tags.as_slice() else {
        panic!("one CoMID");
    };
    let triples = comid.as_ref().triples.reference_triples.as_ref().unwrap();
    triples
        .iter()
        .map(|triple| {
            let class = triple.ref_env.class.as_ref().unwrap();
            let text = |part: &Option<corim_rs::Tstr<'_>>| part.as_ref().unwrap().to_string();
            let measured = triple.ref_claims.iter().map(|one| {
                let Some(MeasuredElementTypeChoice::Tstr(key)) = &one.mkey else {
                    panic!("{:?} is text", one.mkey);
                };
                let digests = one.mval.digests.iter().flatten().map(|digest| {
                    let number = match &digest.alg {
                        HashAlgorithm::Sha256 => 1,
                        HashAlgorithm::Sha384 => 7,
                        HashAlgorithm::Sha512 => 8,
                        other => panic!("{other:?}"),
                    };
                    (number, digest.val.as_ref().to_vec())
                });
                let claim = one.mval.raw.iter().map(|value| match &value.raw_value {
                    RawValueTypeChoice::TaggedBytes(bytes) => (0, bytes.as_slice().to_vec()),
                    other => panic!("{other:?} is bytes"),
                });
                (key.to_string(), digests.chain(claim).collect())
            });
            Triple {
                class: (text(&class.vendor), text(&class.model)),
                measured: measured.collect(),
            }
        })
        .collect()
}
