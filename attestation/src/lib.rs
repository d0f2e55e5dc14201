//! Launch measurements, and the policies that verifiers read.
//!
//! A backend computes registers; the daemon and the command line keep them as a [`Measurement`] and
//! render it. Nothing here knows a technology: registers bring the names that formats have for them.
//! Nothing here has a clock, a random number or a file: the same input gives the same bytes.
//!
//! ```text
//! register   one value that a verifier will see, or why it is not known
//! policy     which formats there are, and what none of them may be made of
//! corim      reference values as an unsigned CoRIM
//! sign       the same, signed (COSE_Sign1)
//! trustee    reference values as a message for Trustee's RVPS
//! json       all that is known, and what is not
//! text       the same, for people
//! pcr        values of a vTPM's registers, from a file
//! ```

pub mod corim;
pub mod json;
pub mod pcr;
pub mod policy;
pub mod register;
pub mod sign;
pub mod text;
pub mod trustee;

pub use pcr::{Bank, PcrError, PcrValues};
pub use policy::{PolicyError, PolicyFormat, render_policy};
pub use register::{
    Algorithm, Alternative, BackendIdentity, FileDigest, Input, InputSource, Measurement, Register,
    RegisterValue,
};
pub use sign::{KeyError, SignError, SigningKey};
