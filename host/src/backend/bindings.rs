//! Generated from `wit/`, and nothing else.
#![allow(
    missing_debug_implementations,
    unreachable_pub,
    clippy::error_impl_error,
    reason = "generated code; the contract calls its error `error`"
)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "tee-backend",
    imports: {
        "casemate:tee/files": async,
        "casemate:tee/facts": async | trappable,
        "casemate:tee/log": trappable,
    },
    exports: { default: async },
});

/// The optional export `measurement`.
pub(super) mod measurement {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "
            package casemate:tee-parts;
            world measurement-part {
                export casemate:tee/measurement@1.0.0;
            }
        ",
        world: "casemate:tee-parts/measurement-part",
        with: { "casemate:tee/types": super::casemate::tee::types },
        exports: { default: async },
    });
}

/// The optional export `measurement-tool`.
pub(super) mod tool {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "
            package casemate:tee-parts;
            world measurement-tool-part {
                export casemate:tee/measurement-tool@1.0.0;
            }
        ",
        world: "casemate:tee-parts/measurement-tool-part",
        with: { "casemate:tee/types": super::casemate::tee::types },
        exports: { default: async },
    });
}
