//! Generated from `wit/`: the records of the contract, the host's functions and the export macro.
//!
//! The records compare and clone, because tests hold whole plans against each other.

#![expect(
    clippy::error_impl_error,
    reason = "the contract calls its error `error`, and the generated type follows it"
)]

// The exported symbols are named like `casemate:tee/backend@0.1.0#plan`. An ELF linker takes the
// `@` for a symbol version, so backends use the macro for WebAssembly only.
wit_bindgen::generate!({
    path: "../wit",
    world: "tee-backend",
    additional_derives: [PartialEq, Clone],
    pub_export_macro: true,
    export_macro_name: "export_backend",
    default_bindings_module: "casemate_backend::bindings",
});
