//! Firmware files of confidential guests: what is in them, and whether a guest can start with them.
//!
//! QEMU, KVM and the firmware itself impose rules on the file, and most of what breaks one ends in
//! an error code or in no message at all. Here a file is read before anything is started, and each
//! unsuitable one has a reason and a remedy in words.
//!
//! ```text
//! lib.rs       how the bytes of a file are reached
//! bytes.rs     little-endian fields and GUIDs
//! metadata.rs  the descriptor that SEV and TDX metadata have in common
//! ovmf.rs      the table at the end of an OVMF image, and its SEV metadata
//! tdvf.rs      its TDX metadata
//! igvm.rs      headers of an IGVM file
//! suitable.rs  pure judgements over these: can a guest of this kind start with it
//! remedy.rs    where the right file is to be had
//! ```
//!
//! The crate has no dependency and does no I/O, so that a component uses it over `files.read` and
//! the host over a descriptor. Only headers and tables are read, never the firmware's code: some
//! KiB of an image of several MiB. What is measured of the rest is the backends' to read.

#![forbid(unsafe_code)]

use std::fmt;

mod bytes;
mod metadata;

pub mod igvm;
pub mod ovmf;
pub mod remedy;
pub mod suitable;
pub mod tdvf;

pub use bytes::{Area, Guid};
pub use metadata::MetadataError;
pub use suitable::{Guest, Unsuitable};

/// Most bytes that are asked for at once. `files.read` of the contract gives no more a call.
pub const LONGEST_READ: u32 = 1 << 20;

/// Bytes of a file, wherever they are.
pub trait ReadAt {
    /// Bytes of the whole file.
    fn size(&self) -> u64;

    /// All of `length` bytes at `offset`, or why not. It is called with at most [`LONGEST_READ`]
    /// bytes, and only for what lies within the file.
    ///
    /// # Errors
    ///
    /// A sentence without a final period, shown to the operator.
    fn read_at(&self, offset: u64, length: u32) -> Result<Vec<u8>, String>;
}

impl ReadAt for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..)?.get(..usize::try_from(length).ok()?))
            .map(<[u8]>::to_vec)
            .ok_or_else(|| {
                format!(
                    "{length} bytes are wanted, and the file ends at {:#x}",
                    self.len()
                )
            })
    }
}

impl ReadAt for Vec<u8> {
    fn size(&self) -> u64 {
        self.as_slice().size()
    }

    fn read_at(&self, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        self.as_slice().read_at(offset, length)
    }
}

impl<F: ReadAt + ?Sized> ReadAt for &F {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_at(&self, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        (**self).read_at(offset, length)
    }
}

/// The file could not be read. This says nothing about what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError {
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What [`ReadAt::read_at`] said.
    pub reason: String,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the file cannot be read at offset {:#x}: {}",
            self.offset, self.reason
        )
    }
}

impl std::error::Error for ReadError {}

/// All of `length` bytes at `offset`, in pieces that a [`ReadAt`] takes. The caller has held both
/// against the size of the file and against a limit of its own.
fn read<F: ReadAt + ?Sized>(file: &F, offset: u64, length: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    let mut at = offset;
    let mut left = length;
    while left > 0 {
        let piece = u32::try_from(left).map_or(LONGEST_READ, |left| left.min(LONGEST_READ));
        let got = file
            .read_at(at, piece)
            .map_err(|reason| ReadError { offset: at, reason })?;
        if got.len() as u64 != u64::from(piece) {
            return Err(ReadError {
                offset: at,
                reason: format!("{piece} bytes are wanted, and {} were read", got.len()),
            });
        }
        bytes.extend_from_slice(&got);
        at = at.saturating_add(u64::from(piece));
        left -= u64::from(piece);
    }
    Ok(bytes)
}
