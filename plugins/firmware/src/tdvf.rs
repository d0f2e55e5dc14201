//! TDX metadata: what of the image goes where in the guest (Intel TDX Virtual Firmware Design Guide,
//! section 11; QEMU, `hw/i386/tdvf.c`).

use std::fmt;

use crate::bytes::{Area, Fields, Guid};
use crate::metadata::{self, Kind, Length, MetadataError};
use crate::{ReadAt, ReadError, read};

/// Bytes of a section.
const SECTION_SIZE: u32 = 32;

/// Bytes of the GUID before the descriptor.
const GUID_SIZE: u64 = 16;

/// The GUID that the design guide puts before the descriptor.
pub const TDVF_GUID: Guid = Guid::new(0xe9ea_f9f3, 0x168e, 0x44d5, 0xa8eb_7f4d_8738_f6ae);

/// Memory of TDX is handed out in pages of this size; QEMU checks addresses and sizes against it.
pub const PAGE_SIZE: u64 = 0x1000;

/// x86 has 52 bits of physical addresses at most (Intel SDM, volume 3, section 4.1.4).
const ADDRESS_SPACE: u128 = 1 << 52;

/// The TDX metadata of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tdvf {
    /// What is before the descriptor. QEMU does not look at it, so another one than [`TDVF_GUID`]
    /// is no fault. `None`: the file starts with the descriptor.
    pub guid: Option<Guid>,
    pub sections: Vec<TdvfSection>,
}

/// One piece of the guest's first memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TdvfSection {
    /// Bytes from the start of the file.
    pub data_offset: u32,
    /// Bytes of the file that are copied.
    pub data_size: u32,
    /// Where in the guest they go, and what room there is.
    pub memory: Area,
    pub kind: TdvfSectionKind,
    /// Bit 0: the content is measured (extended into MRTD); others belong to newer kinds.
    pub attributes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TdvfSectionKind {
    /// Boot firmware volume: the code, with the reset vector.
    BootVolume,
    /// Configuration firmware volume: the variables.
    ConfigurationVolume,
    /// Where the host writes the list of the guest's memory.
    HandOffBlock,
    /// Stack and heap of the firmware's beginning.
    TemporaryMemory,
    PermanentMemory,
    Payload,
    PayloadParameter,
    Unknown(u32),
}

impl TdvfSectionKind {
    fn of(number: u32) -> Self {
        match number {
            0 => Self::BootVolume,
            1 => Self::ConfigurationVolume,
            2 => Self::HandOffBlock,
            3 => Self::TemporaryMemory,
            4 => Self::PermanentMemory,
            5 => Self::Payload,
            6 => Self::PayloadParameter,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for TdvfSectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BootVolume => f.write_str("BFV"),
            Self::ConfigurationVolume => f.write_str("CFV"),
            Self::HandOffBlock => f.write_str("TD_HOB"),
            Self::TemporaryMemory => f.write_str("TEMP_MEM"),
            Self::PermanentMemory => f.write_str("PERM_MEM"),
            Self::Payload => f.write_str("PAYLOAD"),
            Self::PayloadParameter => f.write_str("PAYLOAD_PARAM"),
            Self::Unknown(number) => write!(f, "type {number:#x}"),
        }
    }
}

/// What is wrong with a section. All but the last two QEMU refuses by itself, without a word about
/// which section it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionFault {
    /// QEMU takes BFV, CFV, TD_HOB and TEMP_MEM only.
    Unsupported,
    MemorySmallerThanData,
    AddressNotOfPage,
    SizeNotOfPages,
    /// A volume without content.
    NoData,
    /// Content for memory that the host does not copy anything to.
    Data,
    /// It ends where x86 has no addresses any more.
    AddressTooHigh,
    /// QEMU would copy what is behind the end of the image.
    DataOutsideFile,
}

impl TdvfSection {
    /// The first fault, in the order in which QEMU looks for them. `file_size` is in bytes.
    ///
    /// # Errors
    ///
    /// No guest starts with such a section.
    pub fn check(&self, file_size: u64) -> Result<(), SectionFault> {
        if self.memory.size < u64::from(self.data_size) {
            return Err(SectionFault::MemorySmallerThanData);
        }
        if !self.memory.base.is_multiple_of(PAGE_SIZE) {
            return Err(SectionFault::AddressNotOfPage);
        }
        if !self.memory.size.is_multiple_of(PAGE_SIZE) {
            return Err(SectionFault::SizeNotOfPages);
        }
        match self.kind {
            TdvfSectionKind::BootVolume | TdvfSectionKind::ConfigurationVolume => {
                if self.data_size == 0 {
                    return Err(SectionFault::NoData);
                }
            }
            TdvfSectionKind::HandOffBlock | TdvfSectionKind::TemporaryMemory => {
                if self.data_size != 0 {
                    return Err(SectionFault::Data);
                }
            }
            TdvfSectionKind::PermanentMemory
            | TdvfSectionKind::Payload
            | TdvfSectionKind::PayloadParameter
            | TdvfSectionKind::Unknown(_) => return Err(SectionFault::Unsupported),
        }
        if self.memory.end() > ADDRESS_SPACE {
            return Err(SectionFault::AddressTooHigh);
        }
        if u64::from(self.data_offset) + u64::from(self.data_size) > file_size {
            return Err(SectionFault::DataOutsideFile);
        }
        Ok(())
    }
}

/// The metadata so many bytes before the end of the file.
pub(crate) fn read_at<F: ReadAt + ?Sized>(
    file: &F,
    offset_from_end: u32,
) -> Result<Result<Tdvf, MetadataError>, ReadError> {
    let kind = Kind {
        signature: *b"TDVF",
        section_size: SECTION_SIZE,
        length: Length::Exact,
    };
    let bytes = match metadata::sections(file, offset_from_end, kind)? {
        Ok(bytes) => bytes,
        Err(error) => return Ok(Err(error)),
    };
    let guid = match file
        .size()
        .checked_sub(u64::from(offset_from_end) + GUID_SIZE)
    {
        None => None,
        Some(start) => Fields::of(&read(file, start, GUID_SIZE)?).guid(),
    };
    Ok(Ok(Tdvf {
        guid,
        sections: bytes
            .chunks_exact(SECTION_SIZE as usize)
            .filter_map(section)
            .collect(),
    }))
}

fn section(bytes: &[u8]) -> Option<TdvfSection> {
    let mut fields = Fields::of(bytes);
    Some(TdvfSection {
        data_offset: fields.u32()?,
        data_size: fields.u32()?,
        memory: Area {
            base: fields.u64()?,
            size: fields.u64()?,
        },
        kind: TdvfSectionKind::of(fields.u32()?),
        attributes: fields.u32()?,
    })
}
