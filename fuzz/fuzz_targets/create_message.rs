//! The bytes of a request, as gRPC reads them: what is taken has one form in bytes, by which a request
//! that is sent again is known, and is the same as JSON where all of its enumerations are known.

#![no_main]

use casemate_proto::v1;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

fuzz_target!(|data: &[u8]| {
    let Ok(request) = v1::CreateVmRequest::decode(data) else {
        return;
    };
    let bytes = request.encode_to_vec();
    let again = v1::CreateVmRequest::decode(&*bytes).expect("what was written is read");
    assert_eq!(again, request);
    assert_eq!(again.encode_to_vec(), bytes);
    let Some(spec) = request.spec else { return };
    match serde_json::to_vec(&spec) {
        Ok(text) => {
            let read: v1::VmSpec = serde_json::from_slice(&text).expect("what was written is read");
            assert_eq!(read, spec);
        }
        Err(_) => {
            let is_known = v1::Boot::try_from(spec.boot).is_ok()
                && v1::RestartPolicy::try_from(spec.restart_policy).is_ok();
            assert!(!is_known, "{spec:?}");
        }
    }
});
