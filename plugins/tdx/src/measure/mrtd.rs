//! MRTD: SHA-384 over records of the guest's first memory, in the order in which the host builds it
//! ("Intel TDX Module ABI", TDH.MEM.PAGE.ADD and TDH.MR.EXTEND).
//!
//! QEMU goes through the sections of the TDVF metadata in their order and adds all pages of each,
//! those after the content as zeros (`target/i386/kvm/tdx.c`). Of a section with the attribute
//! MR.EXTEND all pages are measured, the zeros too. (The `igvm` crate does the same; td-shim's tool
//! leaves out empty measured pages, which no host does.)

use std::fmt;

use casemate_firmware::tdvf::{PAGE_SIZE, SectionFault, TdvfSection, TdvfSectionKind};
use casemate_firmware::{LONGEST_READ, ReadAt};
use sha2::{Digest, Sha384};

use super::{DIGEST, exactly};
use crate::settings::PageOrder;

/// A record: a name of 16 bytes, an address of 8, zeros.
const RECORD: usize = 128;
const ADD: &[u8] = b"MEM.PAGE.ADD";
const EXTEND: &[u8] = b"MR.EXTEND";
/// Bytes that one TDH.MR.EXTEND measures.
const CHUNK: usize = 256;

/// Bits of a section's attributes.
const MR_EXTEND: u32 = 1;
const PAGE_AUG: u32 = 1 << 1;

/// Sizes of sections are the file's word, and work grows with them. Images have some MiB of code and
/// some hundred KiB of memory besides; what is beyond these limits would only keep the host busy.
const MOST_MEASURED: u64 = 64 << 20;
const MOST_ADDED: u64 = 1 << 30;

const OTHER_IMAGE: &str = "use OVMF.inteltdx.ms.fd of Debian's package ovmf-inteltdx, or build \
                           OvmfPkg/IntelTdx/IntelTdxX64.dsc of edk2";

/// Why there is no MRTD for an image. Sections are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Section {
        position: usize,
        kind: TdvfSectionKind,
        fault: SectionFault,
    },
    /// Bits that nobody told the meaning of.
    Attributes {
        position: usize,
        kind: TdvfSectionKind,
        unknown: u32,
    },
    /// By the design guide the host adds no page of such a section, but the guest does. QEMU does
    /// not look at the bit and adds them, and other tools do not, so any value would be a guess.
    Augmented {
        position: usize,
        kind: TdvfSectionKind,
    },
    /// The host writes the list of the guest's memory there, which is not in the file.
    MeasuredByHost {
        position: usize,
    },
    TooMuchMeasured,
    TooMuchAdded,
    Read(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Section {
                position,
                kind,
                fault,
            } => write!(f, "section {position} ({kind}) of the TDX metadata {fault}"),
            Self::Attributes {
                position,
                kind,
                unknown,
            } => write!(
                f,
                "section {position} ({kind}) of the TDX metadata has unknown attributes \
                 {unknown:#x}, so its measurement is not known"
            ),
            Self::Augmented { position, kind } => write!(
                f,
                "section {position} ({kind}) of the TDX metadata has attribute {PAGE_AUG:#x} \
                 (PAGE.AUG), which not every host follows, so its measurement is not known"
            ),
            Self::MeasuredByHost { position } => write!(
                f,
                "section {position} (TD_HOB) of the TDX metadata is measured, and its content \
                 depends on the guest's memory"
            ),
            Self::TooMuchMeasured => write!(
                f,
                "the TDX metadata has more than {} MiB measured",
                MOST_MEASURED >> 20
            ),
            Self::TooMuchAdded => write!(
                f,
                "the TDX metadata has more than {} MiB of memory",
                MOST_ADDED >> 20
            ),
            Self::Read(reason) => write!(f, "the file cannot be read: {reason}"),
        }
    }
}

impl std::error::Error for Fault {}

impl Fault {
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::Read(_) => "see why the file cannot be read",
            _ => OTHER_IMAGE,
        }
    }
}

pub(crate) fn of(
    sections: &[TdvfSection],
    file: &impl ReadAt,
    order: PageOrder,
) -> Result<[u8; DIGEST], Fault> {
    check(sections, file.size())?;
    let mut hash = Sha384::new();
    for section in sections {
        if order == PageOrder::TwoPass || !is_measured(section) {
            for page in pages(section.memory.base, section.memory.size) {
                hash.update(record(ADD, page));
            }
        }
        if is_measured(section) {
            extend(&mut hash, section, file, order)?;
        }
    }
    Ok(hash.finalize().into())
}

fn is_measured(section: &TdvfSection) -> bool {
    section.attributes & MR_EXTEND != 0
}

fn check(sections: &[TdvfSection], file_size: u64) -> Result<(), Fault> {
    let mut added: u64 = 0;
    let mut measured: u64 = 0;
    for (section, position) in sections.iter().zip(1..) {
        let kind = section.kind;
        section.check(file_size).map_err(|fault| Fault::Section {
            position,
            kind,
            fault,
        })?;
        let unknown = section.attributes & !(MR_EXTEND | PAGE_AUG);
        if unknown != 0 {
            return Err(Fault::Attributes {
                position,
                kind,
                unknown,
            });
        }
        if section.attributes & PAGE_AUG != 0 {
            return Err(Fault::Augmented { position, kind });
        }
        added = added.saturating_add(section.memory.size);
        if is_measured(section) {
            if kind == TdvfSectionKind::HandOffBlock {
                return Err(Fault::MeasuredByHost { position });
            }
            measured = measured.saturating_add(section.memory.size);
        }
    }
    if measured > MOST_MEASURED {
        return Err(Fault::TooMuchMeasured);
    }
    if added > MOST_ADDED {
        return Err(Fault::TooMuchAdded);
    }
    Ok(())
}

/// Addresses of pages. Where they end was checked.
fn pages(base: u64, size: u64) -> impl Iterator<Item = u64> {
    (base..base.saturating_add(size)).step_by(PAGE_SIZE as usize)
}

/// The pages of a measured section, a piece of the file at a time.
fn extend(
    hash: &mut Sha384,
    section: &TdvfSection,
    file: &impl ReadAt,
    order: PageOrder,
) -> Result<(), Fault> {
    let memory = section.memory;
    let mut done: u64 = 0;
    while done < memory.size {
        let room = (memory.size - done).min(u64::from(LONGEST_READ));
        let wanted = u64::from(section.data_size).saturating_sub(done).min(room);
        // Nothing is read where the content is over: the place may be after the file. Casts are of
        // what is at most `LONGEST_READ`.
        let mut bytes = match wanted as u32 {
            0 => Vec::new(),
            wanted => {
                exactly(file, u64::from(section.data_offset) + done, wanted).map_err(Fault::Read)?
            }
        };
        bytes.resize(room as usize, 0);
        let contents = bytes.chunks_exact(PAGE_SIZE as usize);
        for (address, content) in pages(memory.base + done, room).zip(contents) {
            if order == PageOrder::OnePass {
                hash.update(record(ADD, address));
            }
            for (chunk, at) in content.chunks_exact(CHUNK).zip((address..).step_by(CHUNK)) {
                hash.update(record(EXTEND, at));
                hash.update(chunk);
            }
        }
        done += room;
    }
    Ok(())
}

fn record(name: &[u8], address: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    for (field, byte) in record.iter_mut().zip(name) {
        *field = *byte;
    }
    for (field, byte) in record.iter_mut().skip(16).zip(address.to_le_bytes()) {
        *field = byte;
    }
    record
}

#[cfg(test)]
mod tests;
