//! What the checker is told of the files of the cases.

use casemate_conformance::golden::images::bytes;
use casemate_rules::Firmware;

/// Of a firmware that a plan took. It is said here, by who made the image, and not read by the code
/// that is tested.
pub(crate) fn known(name: &str) -> Firmware {
    let whole = Firmware {
        size: bytes(name).expect("a file that is made").len() as u64,
        sev_metadata: true,
        kernel_hash_area: true,
        tdvf: true,
    };
    match name {
        "OVMF.fd" => whole,
        "no-hashes.fd" => Firmware {
            kernel_hash_area: false,
            ..whole
        },
        "no-tdx.fd" => Firmware {
            tdvf: false,
            ..whole
        },
        _ => Firmware {
            sev_metadata: false,
            kernel_hash_area: false,
            tdvf: false,
            ..whole
        },
    }
}
