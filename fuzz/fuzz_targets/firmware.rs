//! `ovmf::inspect` and all judgements, on the bytes as they are and at the end of an image of 64 KiB,
//! which is what QEMU takes.

#![no_main]

use casemate_fuzz::ovmf::{ask, grown};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    ask(data);
    ask(&grown(data));
});
