//! The digest that binds a guest to its workload, as a property of fixed length carries it.

use crate::answer::{invalid_request, note, quoted};
use crate::bindings::casemate::tee::types::{Error, Finding, Identity};

/// The bytes of a property of `length` bytes: the digest at the left, zeros to the end. It is never
/// cut: a verifier would then compare with a part of it, or with something else.
pub fn carried(identity: &Identity, length: usize, property: &str) -> Result<Vec<u8>, Error> {
    let digest = &identity.digest;
    if digest.is_empty() || digest.len() > length {
        return Err(invalid_request(
            "identity",
            &format!(
                "the identity ({}) has {} bytes, and {property} carries 1 to {length}",
                quoted(&identity.algorithm),
                digest.len()
            ),
            &format!("give a digest of at most {length} bytes, such as SHA-256"),
        ));
    }
    let mut bytes = digest.clone();
    bytes.resize(length, 0);
    Ok(bytes)
}

/// Said where there is none: whoever verifies the guest cannot tell what it was configured with.
pub fn none(property: &str) -> Finding {
    note(
        "identity.none",
        "identity",
        &format!("no identity is given, so {property} is zero and binds the guest to nothing"),
        "give an identity with the request, or set one for all VMs",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_left_aligned_padded_and_never_cut() {
        for (length, fits) in [(0, false), (1, true), (32, true), (48, true), (49, false)] {
            let identity = Identity {
                algorithm: "sha-384".to_owned(),
                digest: vec![0xab; length],
            };
            let carried = carried(&identity, 48, "mrconfigid").ok();
            assert_eq!(carried.is_some(), fits, "{length}");
            if let Some(bytes) = carried {
                assert_eq!(bytes.len(), 48);
                assert!(bytes.iter().take(length).all(|byte| *byte == 0xab));
                assert!(bytes.iter().skip(length).all(|byte| *byte == 0));
            }
        }
    }
}
