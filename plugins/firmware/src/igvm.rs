//! Headers of an IGVM file: for which platforms it describes a guest.
//!
//! A fixed header, variable headers of type, length and content, then pages (crate `igvm_defs`,
//! module documentation). The variable headers come in three parts: platforms, initialisation,
//! directives. Only the platforms and their guest policies are read here; the rest is walked over by
//! its lengths. `directives` reads the third part, for one platform.

use std::fmt;
use std::ops::RangeInclusive;

use crate::bytes::Fields;
use crate::{ReadAt, ReadError, read};

mod directives;

pub use directives::{Directive, IdBlock, PageContent, directives};

/// Bytes of the fixed header in version 1.
const FIXED_SIZE: u32 = 24;

/// In version 2, which adds architecture and page size.
const FIXED_SIZE_2: u32 = 32;

/// Where the checksum is in the fixed header, and what is before it.
const BEFORE_CHECKSUM: usize = 20;

/// Bytes of type and length before the content of a variable header.
const HEADER_SIZE: u32 = 8;

/// Each variable header starts at a multiple of this.
const ALIGNMENT: u32 = 8;

/// Most bytes of variable headers that are read. A page takes 32, so these describe 512 MiB of a
/// guest's first memory, and a component has 64 MiB for everything.
pub const LONGEST_HEADERS: u32 = 4 << 20;

/// Type of the header that names a platform.
const SUPPORTED_PLATFORM: u32 = 0x1;

/// Type of the header that sets the policy of a guest: policy, mask of platforms, padding.
const GUEST_POLICY: u32 = 0x101;

/// Types of the second part.
const INITIALISATION: RangeInclusive<u32> = 0x101..=0x200;

/// Types of the third part.
const DIRECTIVES: RangeInclusive<u32> = 0x301..=0x400;

/// Bytes of a platform header's content.
const PLATFORM_SIZE: u32 = 16;

/// Page size that version 1 implies, and the only one that loaders take.
pub const PAGE_SIZE: u32 = 0x1000;

/// The policy of a guest on some of the platforms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestPolicy {
    /// As the platform defines it.
    pub policy: u64,
    pub compatibility_mask: u32,
}

/// What the headers tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Igvm {
    /// Bytes of the file.
    pub size: u64,
    /// Of the format: 1 or 2.
    pub version: u32,
    pub architecture: Architecture,
    /// Bytes.
    pub page_size: u32,
    pub platforms: Vec<Platform>,
    pub policies: Vec<GuestPolicy>,
    /// Number of headers that put something into the guest, for any platform.
    pub directives: u32,
}

impl Igvm {
    /// The policy that the file sets on a platform.
    #[must_use]
    pub fn policy(&self, platform: &Platform) -> Option<u64> {
        let mut policies = self.policies.iter();
        policies
            .find(|policy| policy.compatibility_mask & platform.compatibility_mask != 0)
            .map(|policy| policy.policy)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    X64,
    Aarch64,
    Unknown(u32),
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::X64 => f.write_str("x86_64"),
            Self::Aarch64 => f.write_str("aarch64"),
            Self::Unknown(number) => write!(f, "architecture {number}"),
        }
    }
}

/// One kind of guest that the file describes (`IGVM_VHS_SUPPORTED_PLATFORM`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    pub kind: PlatformKind,
    /// Of the platform's part of the format.
    pub version: u16,
    /// The one bit by which later headers name this platform.
    pub compatibility_mask: u32,
    pub highest_vtl: u8,
    /// Guest physical address above which memory is shared with the host; 0 where the guest
    /// manages this itself.
    pub shared_gpa_boundary: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlatformKind {
    /// No isolation.
    Native,
    /// Virtual secure mode of Hyper-V.
    Vsm,
    SevSnp,
    Tdx,
    Sev,
    SevEs,
    /// Arm's confidential compute architecture.
    Cca,
    Unknown(u8),
}

impl PlatformKind {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Native,
            1 => Self::Vsm,
            2 => Self::SevSnp,
            3 => Self::Tdx,
            4 => Self::Sev,
            5 => Self::SevEs,
            6 => Self::Cca,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for PlatformKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => f.write_str("native"),
            Self::Vsm => f.write_str("VSM"),
            Self::SevSnp => f.write_str("SEV-SNP"),
            Self::Tdx => f.write_str("TDX"),
            Self::Sev => f.write_str("SEV"),
            Self::SevEs => f.write_str("SEV-ES"),
            Self::Cca => f.write_str("CCA"),
            Self::Unknown(number) => write!(f, "platform {number}"),
        }
    }
}

/// Why a file is no IGVM file that a loader takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IgvmError {
    Read(ReadError),
    TooSmall {
        size: u64,
    },
    Magic {
        found: [u8; 4],
    },
    Version {
        found: u32,
    },
    /// The file was cut short, or something was added to it.
    TotalSize {
        stated: u32,
        file_size: u64,
    },
    /// The variable headers are not where they can be.
    HeadersMisplaced {
        offset: u32,
        size: u32,
        file_size: u64,
    },
    HeadersTooLong {
        size: u32,
    },
    Checksum {
        stated: u32,
        computed: u32,
    },
    /// The header at this offset of the file passes the end of the headers.
    HeaderCut {
        offset: u32,
        length: u32,
    },
    /// A platform after headers of another part.
    PlatformLate {
        offset: u32,
    },
    PlatformLength {
        offset: u32,
        length: u32,
    },
    /// Not exactly one bit, or one that another platform has.
    PlatformMask {
        kind: PlatformKind,
        mask: u32,
    },
    PlatformRepeated {
        kind: PlatformKind,
    },
    /// Nobody can say what it puts into the guest.
    DirectiveUnknown {
        offset: u32,
        kind: u32,
    },
    DirectiveLength {
        offset: u32,
        kind: u32,
        length: u32,
        wanted: u32,
    },
    /// A page of 2 MiB, of a type that does not exist, or with an unknown flag.
    PageUnsupported {
        offset: u32,
        gpa: u64,
        what: PageFault,
    },
    /// Parameters are to be put where no area of this index came before.
    ParameterAreaMissing {
        offset: u32,
        index: u32,
    },
    ParameterAreaRepeated {
        offset: u32,
        index: u32,
    },
    /// The content that a directive names is not all in the file.
    ContentOutsideFile {
        offset: u32,
        at: u32,
    },
}

/// What is wrong with a page of an IGVM file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFault {
    /// It is one of 2 MiB.
    Large,
    /// Its address is not that of a page.
    Unaligned,
    /// It is shared with the host, which loaders measure or not.
    Shared,
    Flags(u32),
    Type(u16),
}

impl fmt::Display for PageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Large => f.write_str("is one of 2 MiB, and only pages of 4 KiB are known"),
            Self::Unaligned => f.write_str("does not start at a page"),
            Self::Shared => f.write_str(
                "is shared with the host, which the format does not measure and QEMU does",
            ),
            Self::Flags(flags) => write!(f, "has the unknown flags {flags:#x}"),
            Self::Type(kind) => write!(f, "is of the unknown type {kind:#x}"),
        }
    }
}

impl fmt::Display for IgvmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::TooSmall { size } => write!(
                f,
                "the file has {size} bytes, and the fixed header of IGVM alone is longer"
            ),
            Self::Magic { found } => write!(
                f,
                "the file starts with \"{}\" instead of \"IGVM\"",
                found.escape_ascii()
            ),
            Self::Version { found } => {
                write!(f, "the format is version {found}, known are 1 and 2")
            }
            Self::TotalSize { stated, file_size } => write!(
                f,
                "the header says that the file has {stated} bytes, and it has {file_size}"
            ),
            Self::HeadersMisplaced {
                offset,
                size,
                file_size,
            } => write!(
                f,
                "the variable headers are said to be {size:#x} bytes at {offset:#x}, which does \
                 not fit a file of {file_size:#x} bytes"
            ),
            Self::HeadersTooLong { size } => write!(
                f,
                "the variable headers have {size} bytes, and {LONGEST_HEADERS} are the most"
            ),
            Self::Checksum { stated, computed } => write!(
                f,
                "the checksum of the headers is {computed:#010x}, and the file says {stated:#010x}"
            ),
            Self::HeaderCut { offset, length } => write!(
                f,
                "the header at {offset:#x} says {length} bytes, which passes the end of the headers"
            ),
            Self::PlatformLate { offset } => write!(
                f,
                "the header at {offset:#x} is a platform and comes after those that are none"
            ),
            Self::PlatformLength { offset, length } => write!(
                f,
                "the platform at {offset:#x} says {length} bytes instead of {PLATFORM_SIZE}"
            ),
            Self::PlatformMask { kind, mask } => write!(
                f,
                "the compatibility mask of the {kind} platform is {mask:#x}, wanted is one bit \
                 that no other platform has"
            ),
            Self::PlatformRepeated { kind } => {
                write!(f, "the file has the {kind} platform twice")
            }
            Self::DirectiveUnknown { offset, kind } => write!(
                f,
                "the header at {offset:#x} is of the unknown type {kind:#x}, so it is not known \
                 what it puts into the guest"
            ),
            Self::DirectiveLength {
                offset,
                kind,
                length,
                wanted,
            } => write!(
                f,
                "the header at {offset:#x} of type {kind:#x} has {length} bytes, wanted are {wanted}"
            ),
            Self::PageUnsupported { offset, gpa, what } => write!(
                f,
                "the page at {gpa:#x}, of the header at {offset:#x}, {what}"
            ),
            Self::ParameterAreaMissing { offset, index } => write!(
                f,
                "the header at {offset:#x} names the parameter area {index}, which is not declared \
                 before it"
            ),
            Self::ParameterAreaRepeated { offset, index } => write!(
                f,
                "the header at {offset:#x} declares the parameter area {index} a second time"
            ),
            Self::ContentOutsideFile { offset, at } => write!(
                f,
                "the header at {offset:#x} names content at {at:#x}, which is not all in the file"
            ),
        }
    }
}

impl std::error::Error for IgvmError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ReadError> for IgvmError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// Reads the headers. No page of the guest is read.
///
/// # Errors
///
/// The file cannot be read, or its headers are not what a loader takes.
pub fn inspect<F: ReadAt + ?Sized>(file: &F) -> Result<Igvm, IgvmError> {
    let (fixed, headers) = load(file)?;
    let Walked {
        platforms,
        policies,
        directives,
    } = walk(&headers, fixed.headers_offset)?;
    Ok(Igvm {
        size: file.size(),
        version: fixed.version,
        architecture: fixed.architecture,
        page_size: fixed.page_size,
        platforms,
        policies,
        directives,
    })
}

/// The fixed header and the variable ones, whose checksum is right.
fn load<F: ReadAt + ?Sized>(file: &F) -> Result<(Fixed, Vec<u8>), IgvmError> {
    let size = file.size();
    let too_small = IgvmError::TooSmall { size };
    if size < u64::from(FIXED_SIZE) {
        return Err(too_small);
    }
    let start = read(file, 0, u64::from(FIXED_SIZE))?;
    let fixed_size = fixed_size(&start)?;
    if size < u64::from(fixed_size) {
        return Err(too_small);
    }
    let fixed_bytes = read(file, 0, u64::from(fixed_size))?;
    let Some(fixed) = Fixed::of(&fixed_bytes) else {
        return Err(too_small);
    };
    fixed.check(fixed_size, size)?;
    let headers = read(
        file,
        u64::from(fixed.headers_offset),
        u64::from(fixed.headers_size),
    )?;
    let computed = checksum(&fixed_bytes, &headers);
    if computed != fixed.checksum {
        return Err(IgvmError::Checksum {
            stated: fixed.checksum,
            computed,
        });
    }
    Ok((fixed, headers))
}

/// Bytes of the fixed header, which depend on the version.
fn fixed_size(start: &[u8]) -> Result<u32, IgvmError> {
    let mut fields = Fields::of(start);
    let found = fields.array().unwrap_or_default();
    if found != *b"IGVM" {
        return Err(IgvmError::Magic { found });
    }
    match fields.u32().unwrap_or_default() {
        1 => Ok(FIXED_SIZE),
        2 => Ok(FIXED_SIZE_2),
        found => Err(IgvmError::Version { found }),
    }
}

struct Fixed {
    version: u32,
    headers_offset: u32,
    headers_size: u32,
    total_size: u32,
    checksum: u32,
    architecture: Architecture,
    page_size: u32,
}

impl Fixed {
    /// `None`: too few bytes for the version.
    fn of(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::of(bytes);
        let _magic = fields.u32()?;
        let version = fields.u32()?;
        let mut fixed = Self {
            version,
            headers_offset: fields.u32()?,
            headers_size: fields.u32()?,
            total_size: fields.u32()?,
            checksum: fields.u32()?,
            architecture: Architecture::X64,
            page_size: PAGE_SIZE,
        };
        if version > 1 {
            fixed.architecture = match fields.u32()? {
                0 => Architecture::X64,
                1 => Architecture::Aarch64,
                other => Architecture::Unknown(other),
            };
            fixed.page_size = fields.u32()?;
        }
        Some(fixed)
    }

    fn check(&self, fixed_size: u32, file_size: u64) -> Result<(), IgvmError> {
        if u64::from(self.total_size) != file_size {
            return Err(IgvmError::TotalSize {
                stated: self.total_size,
                file_size,
            });
        }
        let end = u64::from(self.headers_offset) + u64::from(self.headers_size);
        if self.headers_offset < fixed_size
            || !self.headers_offset.is_multiple_of(ALIGNMENT)
            || end > file_size
        {
            return Err(IgvmError::HeadersMisplaced {
                offset: self.headers_offset,
                size: self.headers_size,
                file_size,
            });
        }
        if self.headers_size > LONGEST_HEADERS {
            return Err(IgvmError::HeadersTooLong {
                size: self.headers_size,
            });
        }
        Ok(())
    }
}

/// CRC-32 over the fixed header, with zeros for the checksum itself, and the variable headers.
fn checksum(fixed: &[u8], headers: &[u8]) -> u32 {
    let (before, rest) = fixed.split_at_checked(BEFORE_CHECKSUM).unwrap_or_default();
    let (_, after) = rest.split_at_checked(4).unwrap_or_default();
    let register = [before, &[0; 4], after, headers]
        .into_iter()
        .flatten()
        .fold(u32::MAX, |register, byte| crc32_step(register, *byte));
    !register
}

/// One byte of CRC-32 as IEEE 802.3 has it, bit by bit: headers are short, and a table would be
/// the larger part of this file.
fn crc32_step(register: u32, byte: u8) -> u32 {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    (0..8).fold(register ^ u32::from(byte), |register, _| {
        let carry = register & 1;
        (register >> 1) ^ (POLYNOMIAL & carry.wrapping_neg())
    })
}

#[derive(Default)]
struct Walked {
    platforms: Vec<Platform>,
    policies: Vec<GuestPolicy>,
    directives: u32,
}

/// What the variable headers tell. `start` is where they are in the file.
fn walk(headers: &[u8], start: u32) -> Result<Walked, IgvmError> {
    let mut walked = Walked::default();
    let mut initialisation = 0;
    let mut rest = headers;
    while !rest.is_empty() {
        // The headers are shorter than 4 GiB, and so is what is left of them.
        let offset = start.saturating_add(u32::try_from(headers.len() - rest.len()).unwrap_or(0));
        let mut fields = Fields::of(rest);
        let (Some(kind), Some(length)) = (fields.u32(), fields.u32()) else {
            return Err(IgvmError::HeaderCut {
                offset,
                length: HEADER_SIZE,
            });
        };
        let Some((content, after)) = split_header(rest, length) else {
            return Err(IgvmError::HeaderCut { offset, length });
        };
        if kind == SUPPORTED_PLATFORM {
            if initialisation + walked.directives > 0 {
                return Err(IgvmError::PlatformLate { offset });
            }
            let platform = match (length, platform(content)) {
                (PLATFORM_SIZE, Some(platform)) => platform,
                _ => return Err(IgvmError::PlatformLength { offset, length }),
            };
            check_platform(&platform, &walked.platforms)?;
            walked.platforms.push(platform);
        } else if INITIALISATION.contains(&kind) {
            initialisation += 1;
            if kind == GUEST_POLICY {
                walked.policies.extend(guest_policy(content));
            }
        } else if DIRECTIVES.contains(&kind) {
            walked.directives += 1;
        }
        rest = after;
    }
    Ok(walked)
}

/// The content of the header at the front, and what comes after its padding. `None`: it is not all
/// there.
fn split_header(headers: &[u8], length: u32) -> Option<(&[u8], &[u8])> {
    let padded = length.checked_next_multiple_of(ALIGNMENT)?;
    let (_, content) = headers.split_at_checked(usize::try_from(HEADER_SIZE).ok()?)?;
    content.split_at_checked(usize::try_from(padded).ok()?)
}

fn platform(content: &[u8]) -> Option<Platform> {
    let mut fields = Fields::of(content);
    let compatibility_mask = fields.u32()?;
    let highest_vtl = fields.u8()?;
    let kind = PlatformKind::of(fields.u8()?);
    Some(Platform {
        kind,
        version: fields.u16()?,
        compatibility_mask,
        highest_vtl,
        shared_gpa_boundary: fields.u64()?,
    })
}

fn guest_policy(content: &[u8]) -> Option<GuestPolicy> {
    let mut fields = Fields::of(content);
    Some(GuestPolicy {
        policy: fields.u64()?,
        compatibility_mask: fields.u32()?,
    })
}

fn check_platform(platform: &Platform, earlier: &[Platform]) -> Result<(), IgvmError> {
    let mask = platform.compatibility_mask;
    if !mask.is_power_of_two() || earlier.iter().any(|other| other.compatibility_mask == mask) {
        return Err(IgvmError::PlatformMask {
            kind: platform.kind,
            mask,
        });
    }
    if earlier.iter().any(|other| other.kind == platform.kind) {
        return Err(IgvmError::PlatformRepeated {
            kind: platform.kind,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value that catalogues of CRC algorithms give for CRC-32 of these nine digits.
    #[test]
    fn the_checksum_is_that_of_ieee_802_3() {
        let register = b"123456789"
            .iter()
            .fold(u32::MAX, |register, byte| crc32_step(register, *byte));
        assert_eq!(!register, 0xcbf4_3926);
    }
}
