//! `igvm::inspect`, `igvm::directives` and the judgement, on the bytes as they are and with size and
//! checksum repaired.

#![no_main]

use casemate_fuzz::igvm::{ask, repaired};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    ask(data);
    ask(&repaired(data));
});
