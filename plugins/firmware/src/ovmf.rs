//! The table of GUIDs at the end of an OVMF image, and the SEV metadata that it leads to.
//!
//! The table ends 32 bytes before the end of the image, where the reset vector begins, and is read
//! backwards: the footer's GUID, the length of the whole table before it, then entries of the same
//! form, each with its data before its length (edk2, `OvmfPkg/ResetVector`; QEMU,
//! `hw/i386/pc_sysfw_ovmf.c`).

use std::fmt;

use crate::bytes::{Area, Fields, Guid};
use crate::metadata::{self, Kind, Length, MetadataError};
use crate::tdvf::{self, Tdvf};
use crate::{ReadAt, ReadError, read};

/// Bytes after the table: the reset vector of x86 and what stands between.
const AFTER_TABLE: u64 = 0x20;

/// A GUID with the length before it. That length counts these bytes and the data.
const ENTRY_HEADER: u64 = 18;

/// QEMU looks for no table in an image of less than a page.
const SMALLEST_IMAGE: u64 = 0x1000;

/// Bytes of a section of SEV metadata: address, size and type.
const SEV_SECTION_SIZE: u32 = 12;

pub const TABLE_FOOTER: Guid = Guid::new(0x96b5_82de, 0x1fb2, 0x45f7, 0xbaea_a366_c55a_082d);
/// Where hashes of kernel, initrd and command line go: base and size.
pub const SEV_HASH_TABLE: Guid = Guid::new(0x7255_371f, 0x3a3b, 0x4b04, 0x927b_1da6_efa8_d454);
/// Where a launch secret of SEV goes: base and size.
pub const SEV_SECRET_BLOCK: Guid = Guid::new(0x4c2e_b361, 0x7d9b, 0x4cc3, 0x8081_127c_90d3_d294);
/// Where further vCPUs start with SEV-ES and SEV-SNP.
pub const SEV_INFO_BLOCK: Guid = Guid::new(0x00f7_71de, 0x1a7e, 0x4fcb, 0x890e_68c7_7e2f_b44e);
/// Distance of the SEV metadata from the end.
pub const SEV_METADATA: Guid = Guid::new(0xdc88_6566, 0x984a, 0x4798, 0xa75e_5585_a7bf_67cc);
/// Distance of the TDX metadata from the end.
pub const TDX_METADATA: Guid = Guid::new(0xe47a_6535, 0x984a, 0x4798, 0x865e_4685_a7bf_8ec2);

/// What an OVMF image says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ovmf {
    /// Bytes of the file.
    pub size: u64,
    /// In the order of the search, which begins at the end of the file.
    pub entries: Vec<Entry>,
    /// `None`: no entry is about SEV.
    pub sev: Option<SevFirmware>,
    /// `None`: no entry leads to TDX metadata. Broken metadata does not matter to other guests.
    pub tdx: Option<Result<Tdvf, MetadataError>>,
}

/// One entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub guid: Guid,
    pub data: Vec<u8>,
}

/// What the table says about SEV guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SevFirmware {
    /// Where further vCPUs start: `CS` base and instruction pointer in one.
    pub reset_address: Option<u32>,
    pub hash_table: Option<Area>,
    pub secret_block: Option<Area>,
    /// `None`: the firmware is older than SEV-SNP. Broken metadata does not matter to other guests.
    pub metadata: Option<Result<Vec<SevSection>, MetadataError>>,
}

/// Memory that the host prepares before the guest runs (edk2,
/// `OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SevSection {
    pub area: Area,
    pub kind: SevSectionKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SevSectionKind {
    /// Zeroed memory that the firmware uses before it can accept any.
    Memory,
    /// Keys for the guest's messages to the security processor.
    Secrets,
    /// CPUID values that the security processor checked.
    Cpuid,
    /// The calling area of an SVSM, should there be one.
    SvsmCallingArea,
    /// Hashes of kernel, initrd and command line.
    KernelHashes,
    Unknown(u32),
}

impl SevSectionKind {
    fn of(number: u32) -> Self {
        match number {
            1 => Self::Memory,
            2 => Self::Secrets,
            3 => Self::Cpuid,
            4 => Self::SvsmCallingArea,
            0x10 => Self::KernelHashes,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for SevSectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("SEC_MEM"),
            Self::Secrets => f.write_str("SECRETS"),
            Self::Cpuid => f.write_str("CPUID"),
            Self::SvsmCallingArea => f.write_str("SVSM_CAA"),
            Self::KernelHashes => f.write_str("KERNEL_HASHES"),
            Self::Unknown(number) => write!(f, "type {number:#x}"),
        }
    }
}

/// Why a file is no OVMF image that can be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OvmfError {
    Read(ReadError),
    TooSmall {
        size: u64,
    },
    /// There is another GUID where the table ends. `found` is what is there.
    NoTable {
        found: Guid,
    },
    /// The table says that it is longer than what is before it, or shorter than its own footer.
    TableLength {
        length: u16,
        most: u64,
    },
    /// The entry says more than what is left of the table, or less than its own header.
    EntryBroken {
        guid: Guid,
        length: u16,
    },
    /// So many bytes at the start of the table are no entry.
    TableRest {
        bytes: usize,
    },
    /// A known entry has less data than it is known for.
    EntryShort {
        guid: Guid,
        bytes: usize,
        wanted: usize,
    },
}

impl fmt::Display for OvmfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::TooSmall { size } => write!(
                f,
                "the file has {size} bytes, and the smallest firmware has {SMALLEST_IMAGE}"
            ),
            Self::NoTable { found } => write!(
                f,
                "there is no table of OVMF at the end of the file: its GUID is {found} instead of \
                 {TABLE_FOOTER}"
            ),
            Self::TableLength { length, most } => write!(
                f,
                "the table at the end of the file says {length} bytes, and it has {ENTRY_HEADER} \
                 to {most}"
            ),
            Self::EntryBroken { guid, length } => write!(
                f,
                "the entry {guid} of the table at the end of the file says {length} bytes, which \
                 does not fit the table"
            ),
            Self::TableRest { bytes } => write!(
                f,
                "the table at the end of the file starts with {bytes} bytes that are no entry"
            ),
            Self::EntryShort {
                guid,
                bytes,
                wanted,
            } => write!(
                f,
                "the entry {guid} of the table at the end of the file has {bytes} bytes of data, \
                 wanted are {wanted}"
            ),
        }
    }
}

impl std::error::Error for OvmfError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ReadError> for OvmfError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// Reads the table and the metadata that it leads to: three or four reads of some KiB at the end.
///
/// # Errors
///
/// The file cannot be read, or its table is not there or broken. Broken metadata is part of the
/// answer.
pub fn inspect<F: ReadAt + ?Sized>(file: &F) -> Result<Ovmf, OvmfError> {
    let size = file.size();
    if size < SMALLEST_IMAGE {
        return Err(OvmfError::TooSmall { size });
    }
    let entries = entries(&read_table(file, size - AFTER_TABLE)?)?;
    let sev = sev(file, &entries)?;
    let tdx = match data::<4>(&entries, TDX_METADATA)? {
        None => None,
        Some(offset) => Some(tdvf::read_at(file, u32::from_le_bytes(offset))?),
    };
    Ok(Ovmf {
        size,
        entries,
        sev,
        tdx,
    })
}

/// The entries of the table that ends at `end`, without its footer.
fn read_table<F: ReadAt + ?Sized>(file: &F, end: u64) -> Result<Vec<u8>, OvmfError> {
    let footer_start = end - ENTRY_HEADER;
    let footer = read(file, footer_start, ENTRY_HEADER)?;
    let mut fields = Fields::of(&footer);
    let (Some(length), Some(found)) = (fields.u16(), fields.guid()) else {
        return Err(OvmfError::TooSmall { size: file.size() });
    };
    if found != TABLE_FOOTER {
        return Err(OvmfError::NoTable { found });
    }
    match u64::from(length).checked_sub(ENTRY_HEADER) {
        Some(before) if before <= footer_start => Ok(read(file, footer_start - before, before)?),
        Some(_) | None => Err(OvmfError::TableLength { length, most: end }),
    }
}

fn entries(mut table: &[u8]) -> Result<Vec<Entry>, OvmfError> {
    let mut found = Vec::new();
    while !table.is_empty() {
        let rest = OvmfError::TableRest { bytes: table.len() };
        let Some((before, header)) = table.split_last_chunk::<{ ENTRY_HEADER as usize }>() else {
            return Err(rest);
        };
        let mut fields = Fields::of(header);
        let (Some(length), Some(guid)) = (fields.u16(), fields.guid()) else {
            return Err(rest);
        };
        let broken = OvmfError::EntryBroken { guid, length };
        let Some((before, data)) = usize::from(length)
            .checked_sub(header.len())
            .and_then(|data| before.split_at_checked(before.len().checked_sub(data)?))
        else {
            return Err(broken);
        };
        found.push(Entry {
            guid,
            data: data.to_vec(),
        });
        table = before;
    }
    Ok(found)
}

/// The first bytes of an entry's data. Of two entries with one GUID the last in the file counts, as
/// it does for QEMU.
fn data<const N: usize>(entries: &[Entry], guid: Guid) -> Result<Option<[u8; N]>, OvmfError> {
    let Some(entry) = entries.iter().find(|entry| entry.guid == guid) else {
        return Ok(None);
    };
    match entry.data.first_chunk::<N>() {
        Some(data) => Ok(Some(*data)),
        None => Err(OvmfError::EntryShort {
            guid,
            bytes: entry.data.len(),
            wanted: N,
        }),
    }
}

fn sev<F: ReadAt + ?Sized>(file: &F, entries: &[Entry]) -> Result<Option<SevFirmware>, OvmfError> {
    let area = |guid| {
        Ok::<_, OvmfError>(data::<8>(entries, guid)?.and_then(|bytes| {
            let mut fields = Fields::of(&bytes);
            Some(Area {
                base: u64::from(fields.u32()?),
                size: u64::from(fields.u32()?),
            })
        }))
    };
    let firmware = SevFirmware {
        reset_address: data(entries, SEV_INFO_BLOCK)?.map(u32::from_le_bytes),
        hash_table: area(SEV_HASH_TABLE)?,
        secret_block: area(SEV_SECRET_BLOCK)?,
        metadata: match data(entries, SEV_METADATA)? {
            None => None,
            Some(offset) => Some(sev_metadata(file, u32::from_le_bytes(offset))?),
        },
    };
    let nothing = firmware.reset_address.is_none()
        && firmware.hash_table.is_none()
        && firmware.secret_block.is_none()
        && firmware.metadata.is_none();
    Ok((!nothing).then_some(firmware))
}

fn sev_metadata<F: ReadAt + ?Sized>(
    file: &F,
    offset_from_end: u32,
) -> Result<Result<Vec<SevSection>, MetadataError>, ReadError> {
    let kind = Kind {
        signature: *b"ASEV",
        section_size: SEV_SECTION_SIZE,
        length: Length::AtLeast,
    };
    let sections = metadata::sections(file, offset_from_end, kind)?;
    Ok(sections.map(|bytes| {
        bytes
            .chunks_exact(SEV_SECTION_SIZE as usize)
            .filter_map(sev_section)
            .collect()
    }))
}

fn sev_section(bytes: &[u8]) -> Option<SevSection> {
    let mut fields = Fields::of(bytes);
    Some(SevSection {
        area: Area {
            base: u64::from(fields.u32()?),
            size: u64::from(fields.u32()?),
        },
        kind: SevSectionKind::of(fields.u32()?),
    })
}
