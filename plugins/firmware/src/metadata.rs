//! The descriptor that SEV metadata and TDX metadata have in common: signature, length, version and
//! number of sections, then the sections. The table at the end of the image tells where it starts,
//! as a distance from the end of the file.

use std::fmt;

use crate::bytes::Fields;
use crate::{ReadAt, ReadError, read};

/// Signature, length, version and number of sections, each of 4 bytes.
const HEADER_SIZE: u64 = 16;

/// The only one that is defined, for both kinds.
const VERSION: u32 = 1;

/// Most sections that are read. edk2 writes seven at most, and each is a call of QEMU into KVM, so
/// a larger count is a broken one.
pub(crate) const MOST_SECTIONS: u32 = 64;

/// What distinguishes the kinds of metadata.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) signature: [u8; 4],
    /// Bytes of a section.
    pub(crate) section_size: u32,
    pub(crate) length: Length,
}

/// How the length that the descriptor states fits its sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// QEMU compares it (tdvf.c, `tdvf_parse_metadata`).
    Exact,
    /// QEMU copies so many bytes and reads sections from the copy, so it may be more.
    AtLeast,
}

/// What is wrong with a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataError {
    /// It does not start within the file: so many bytes before the end.
    StartOutsideFile {
        offset_from_end: u32,
        file_size: u64,
    },
    /// It starts within the file and does not end there.
    EndOutsideFile {
        start: u64,
        length: u64,
        file_size: u64,
    },
    Signature {
        found: [u8; 4],
        wanted: [u8; 4],
    },
    Version {
        found: u32,
    },
    TooManySections {
        count: u32,
    },
    /// It does not fit the number of sections. `wanted` is the length with all of them.
    Length {
        found: u32,
        wanted: u32,
        count: u32,
    },
}

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StartOutsideFile {
                offset_from_end,
                file_size,
            } => write!(
                f,
                "the descriptor is said to be {offset_from_end:#x} bytes before the end of a file \
                 of {file_size:#x} bytes"
            ),
            Self::EndOutsideFile {
                start,
                length,
                file_size,
            } => write!(
                f,
                "the descriptor at {start:#x} has {length:#x} bytes, and the file ends at \
                 {file_size:#x}"
            ),
            Self::Signature { found, wanted } => write!(
                f,
                "the signature is \"{}\" instead of \"{}\"",
                found.escape_ascii(),
                wanted.escape_ascii()
            ),
            Self::Version { found } => {
                write!(f, "the version is {found}, and only {VERSION} is known")
            }
            Self::TooManySections { count } => write!(
                f,
                "the descriptor has {count} sections, and {MOST_SECTIONS} are the most"
            ),
            Self::Length {
                found,
                wanted,
                count,
            } => write!(
                f,
                "the descriptor says {found} bytes, and its header with {count} sections has \
                 {wanted}"
            ),
        }
    }
}

impl std::error::Error for MetadataError {}

/// Bytes of all sections, `section_size` each. The outer error is the file's, the inner one is about
/// what was read: a guest of another kind may start all the same.
pub(crate) fn sections<F: ReadAt + ?Sized>(
    file: &F,
    offset_from_end: u32,
    kind: Kind,
) -> Result<Result<Vec<u8>, MetadataError>, ReadError> {
    let file_size = file.size();
    let start = match file_size.checked_sub(u64::from(offset_from_end)) {
        Some(start) if start < file_size => start,
        Some(_) | None => {
            return Ok(Err(MetadataError::StartOutsideFile {
                offset_from_end,
                file_size,
            }));
        }
    };
    let end_outside = |length| MetadataError::EndOutsideFile {
        start,
        length,
        file_size,
    };
    let room = file_size - start;
    if room < HEADER_SIZE {
        return Ok(Err(end_outside(HEADER_SIZE)));
    }
    let header = read(file, start, HEADER_SIZE)?;
    let length = match check(&header, kind) {
        Ok(length) => length,
        Err(error) => return Ok(Err(error)),
    };
    if u64::from(length.stated) > room {
        return Ok(Err(end_outside(u64::from(length.stated))));
    }
    read(file, start + HEADER_SIZE, u64::from(length.of_sections)).map(Ok)
}

/// Bytes that a good header tells of.
struct Lengths {
    /// The whole descriptor, as it says itself.
    stated: u32,
    of_sections: u32,
}

fn check(header: &[u8], kind: Kind) -> Result<Lengths, MetadataError> {
    let mut fields = Fields::of(header);
    // The header was read whole; zeros for what is not there would fail the comparisons anyway.
    let found = fields.array::<4>().unwrap_or_default();
    let stated = fields.u32().unwrap_or_default();
    let version = fields.u32().unwrap_or_default();
    let count = fields.u32().unwrap_or_default();
    if found != kind.signature {
        return Err(MetadataError::Signature {
            found,
            wanted: kind.signature,
        });
    }
    if version != VERSION {
        return Err(MetadataError::Version { found: version });
    }
    if count > MOST_SECTIONS {
        return Err(MetadataError::TooManySections { count });
    }
    // At most 64 sections of some bytes each: no overflow.
    let of_sections = count * kind.section_size;
    let wanted = of_sections + HEADER_SIZE as u32;
    let fits = match kind.length {
        Length::Exact => stated == wanted,
        Length::AtLeast => stated >= wanted,
    };
    if !fits {
        return Err(MetadataError::Length {
            found: stated,
            wanted,
            count,
        });
    }
    Ok(Lengths {
        stated,
        of_sections,
    })
}
