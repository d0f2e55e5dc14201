//! What the integration tests share: a real `casemated` in a temporary folder, clients, and the
//! artifacts that `cargo xtask setup` made.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a test skips, and the log of a daemon whose test failed"
)]

pub mod artifacts;
pub mod certificates;
pub mod daemon;
pub mod http;
pub mod leftovers;
pub mod mute;
pub mod processes;
pub mod registry;
pub mod signers;
pub mod tls_client;
pub mod tmpfs;

/// A client of the predecessor, generated from its field list alone.
pub mod predecessor {
    #![allow(
        missing_debug_implementations,
        unreachable_pub,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    tonic::include_proto!("manager");
}
