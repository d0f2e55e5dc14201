//! The JSON of a request, as the HTTP interface reads it: what is taken reads the same when written anew,
//! and as a message.

#![no_main]

use casemate_proto::v1;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

/// serde's words and what they repeat of an enumeration's or a field's name.
const LONGEST_MESSAGE: usize = 4_000;

fuzz_target!(|data: &[u8]| {
    match serde_json::from_slice::<v1::PlanVmRequest>(data) {
        Ok(request) => {
            let text = serde_json::to_vec(&request).expect("it is written as JSON");
            let again: v1::PlanVmRequest =
                serde_json::from_slice(&text).expect("what was written is read");
            assert_eq!(again, request);
            let bytes = request.encode_to_vec();
            assert_eq!(v1::PlanVmRequest::decode(&*bytes), Ok(request));
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < LONGEST_MESSAGE + data.len(), "{text}");
        }
    }
});
