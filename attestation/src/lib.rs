//! Launch measurements, and the policies that verifiers read.
//!
//! A backend computes registers; the daemon and the command line keep them as a [`Measurement`] and
//! render it. Nothing here knows a technology: registers bring the names that formats have for them.
//!
//! ```text
//! register   one value that a verifier will see, or why it is not known
//! ```

pub mod register;

pub use register::{
    Algorithm, Alternative, BackendIdentity, FileDigest, Input, InputSource, Measurement, Register,
    RegisterValue,
};
