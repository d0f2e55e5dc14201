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
