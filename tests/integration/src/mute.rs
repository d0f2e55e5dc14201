//! One part of the interfaces is taken away, to see that a test misses it: `cargo xtask effects`.
//!
//! With `CASEMATE_MUTE` set, a daemon of the tests is reached through a proxy that leaves out the one
//! thing that the variable names, and `casemate` is started without the flag, or ends with another
//! code. `mute/part.rs` says what can be named. Without the variable nothing of this is in the way.

mod client;
mod grpc;
mod http;
mod part;
mod proxy;

use std::sync::OnceLock;

use xtask::effects::{TAKEN, VARIABLE};

pub use client::{arguments, ended, exit_code, exit_codes, flags};
pub use grpc::DESCRIPTORS;
pub use http::DOCUMENT;
pub use part::{Field, Flag, Part, Route};
pub(crate) use proxy::Proxy;

/// What this process is to take away.
pub fn muted() -> Option<&'static Part> {
    static MUTED: OnceLock<Option<Part>> = OnceLock::new();
    let muted = MUTED.get_or_init(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let part = text.parse();
        Some(part.unwrap_or_else(|error| panic!("{VARIABLE}={text}: {error}")))
    });
    muted.as_ref()
}

/// Says that something was taken away: a test that fails without that fails for another reason.
fn taken(what: &dyn std::fmt::Display) {
    eprintln!("{TAKEN} {what}");
}
