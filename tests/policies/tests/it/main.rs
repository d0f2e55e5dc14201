//! What is rendered, read by other programs than those that rendered it.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test fails like the test itself"
)]

mod corim;
mod documents;
mod keys;
mod pcr;
mod properties;
mod sample;
mod seen;
mod sign;
mod trustee;
