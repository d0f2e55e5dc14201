//! Generated from `wit/`: the records of the contract, the host's functions and the exports.
//!
//! The records compare and clone, because tests hold whole plans against each other.

#![cfg_attr(
    target_arch = "wasm32",
    expect(
        unsafe_code,
        reason = "the exports move values in and out of the component's memory"
    )
)]
#![expect(
    clippy::error_impl_error,
    reason = "the contract calls its error `error`, and the generated type follows it"
)]

wit_bindgen::generate!({
    path: "../../wit",
    world: "tee-backend",
    additional_derives: [PartialEq, Clone],
});

// The exported symbols are named like `casemate:tee/backend@0.1.0#plan`. An ELF linker takes the
// `@` for a symbol version, so a native build leaves them out.
#[cfg(target_arch = "wasm32")]
export!(PlainKvm with_types_in self);

#[cfg(target_arch = "wasm32")]
use super::PlainKvm;
