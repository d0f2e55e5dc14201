//! Generated from `wit/`: the records of the contract, the host's functions and the export macro.
//!
//! The records compare and clone, because tests hold whole plans against each other.

#![expect(
    clippy::error_impl_error,
    reason = "the contract calls its error `error`, and the generated type follows it"
)]

// The exported symbols are named like `casemate:tee/backend@1.0.0#plan`. An ELF linker takes the
// `@` for a symbol version, so backends use the macro for WebAssembly only.
wit_bindgen::generate!({
    path: "../wit",
    world: "tee-backend",
    additional_derives: [PartialEq, Clone],
    pub_export_macro: true,
    export_macro_name: "export_backend",
    default_bindings_module: "casemate_backend::bindings",
});

/// The optional export `measurement`, beside `backend`: its trait, and the macro that exports it.
pub mod measurement {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "
            package casemate:tee-parts;
            world measurement-part {
                export casemate:tee/measurement@1.0.0;
            }
        ",
        world: "casemate:tee-parts/measurement-part",
        with: {
            "casemate:tee/types@1.0.0": crate::bindings::casemate::tee::types,
        },
        pub_export_macro: true,
        export_macro_name: "export_measurement",
        default_bindings_module: "casemate_backend::bindings::measurement",
    });
}

/// The optional export `measurement-tool`.
pub mod tool {
    wit_bindgen::generate!({
        path: "../wit",
        inline: "
            package casemate:tee-parts;
            world measurement-tool-part {
                export casemate:tee/measurement-tool@1.0.0;
            }
        ",
        world: "casemate:tee-parts/measurement-tool-part",
        with: {
            "casemate:tee/types@1.0.0": crate::bindings::casemate::tee::types,
        },
        pub_export_macro: true,
        export_macro_name: "export_measurement_tool",
        default_bindings_module: "casemate_backend::bindings::tool",
    });
}
