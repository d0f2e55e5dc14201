//! What the fuzz targets have in common: inputs that get past checksums and sizes, and what has to
//! hold whatever the input is.
//!
//! ```text
//! text.rs     what is safe to show
//! reader.rs   files that insist on the contract of those who read them, and files that fail
//! ovmf.rs     what has to hold of an OVMF image that was taken
//! igvm.rs     the same of an IGVM file, and the repair of its header
//! guest.rs    a request and a launch, made from bytes
//! kernel.rs   a kernel with an EFI stub, made field by field
//! keys.rs     signing keys whose secrets are known, so that a message with a part of one is noticed
//! seeds.rs    what fuzzing starts from
//! ```
//!
//! A target panics where something does not hold, so `expect` and `assert` are what this is made of.

#![forbid(unsafe_code)]

pub mod guest;
pub mod igvm;
pub mod kernel;
pub mod keys;
pub mod ovmf;
pub mod reader;
pub mod seeds;
pub mod text;
