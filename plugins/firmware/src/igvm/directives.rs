//! Directives of an IGVM file: what it puts into a guest of one platform, in its order.
//!
//! Layouts are those of crate `igvm_defs` (`IGVM_VHS_PAGE_DATA` and its neighbours).

use std::collections::BTreeMap;

use super::{DIRECTIVES, IgvmError, PAGE_SIZE, PageFault, load, split_header};
use crate::ReadAt;
use crate::bytes::Fields;

const PARAMETER_AREA: u32 = 0x301;
const PAGE_DATA: u32 = 0x302;
const PARAMETER_INSERT: u32 = 0x303;
const VP_CONTEXT: u32 = 0x304;
const SNP_ID_BLOCK: u32 = 0x30b;
/// Directives that put nothing into the guest by themselves: required memory, parameters, error
/// ranges, and what Hyper-V measures. 0x306 was taken back by the format.
const WITHOUT_CONTENT: [u32; 13] = [
    0x305, 0x307, 0x308, 0x309, 0x30a, 0x30c, 0x30d, 0x30e, 0x30f, 0x310, 0x311, 0x312, 0x313,
];

/// Bytes of the contents of directives.
const AREA_SIZE: u32 = 16;
const PAGE_DATA_SIZE: u32 = 24;
const INSERT_SIZE: u32 = 16;
const VP_CONTEXT_SIZE: u32 = 20;
/// Of an ID block, up to the launch digest in it and with it.
const ID_BLOCK_START: u32 = 56;

/// Bits of a page's flags: 2 MiB, unmeasured, shared with the host.
const LARGE: u32 = 1;
const UNMEASURED: u32 = 1 << 1;
const SHARED: u32 = 1 << 2;

/// What a page of the guest holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageContent {
    /// Content of the file, at this offset; `None` is a page of zeros.
    Measured(Option<u32>),
    Unmeasured,
    Secrets,
    Cpuid,
}

/// One thing that is put into the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directive {
    Page {
        gpa: u64,
        content: PageContent,
        /// Its place among all directives of the file: those of other platforms count too.
        index: u32,
    },
    /// Pages that the loader fills. `size` is in bytes.
    Parameters {
        gpa: u64,
        size: u64,
    },
    /// Registers of a vCPU: a page of the file at this offset.
    VpContext {
        gpa: u64,
        offset: u32,
        index: u16,
    },
    IdBlock(IdBlock),
}

/// The launch digest that the platform is told to insist on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdBlock {
    pub digest: [u8; 48],
}

/// The directives for the platform whose mask this is.
///
/// # Errors
///
/// The file cannot be read, or a directive is not one that a loader takes: what cannot be understood
/// is never left out.
pub fn directives<F: ReadAt + ?Sized>(file: &F, mask: u32) -> Result<Vec<Directive>, IgvmError> {
    let (fixed, headers) = load(file)?;
    let mut walk = Walk {
        mask,
        file_size: file.size(),
        index: 0,
        areas: BTreeMap::new(),
        found: Vec::new(),
    };
    let mut rest = headers.as_slice();
    while !rest.is_empty() {
        let passed = u32::try_from(headers.len() - rest.len()).unwrap_or(0);
        let offset = fixed.headers_offset.saturating_add(passed);
        let mut fields = Fields::of(rest);
        let (Some(kind), Some(length)) = (fields.u32(), fields.u32()) else {
            return Err(IgvmError::HeaderCut {
                offset,
                length: super::HEADER_SIZE,
            });
        };
        let Some((content, after)) = split_header(rest, length) else {
            return Err(IgvmError::HeaderCut { offset, length });
        };
        if DIRECTIVES.contains(&kind) {
            walk.directive(&Header {
                offset,
                kind,
                length,
                content,
            })?;
            walk.index = walk.index.saturating_add(1);
        }
        rest = after;
    }
    Ok(walk.found)
}

struct Header<'a> {
    offset: u32,
    kind: u32,
    length: u32,
    content: &'a [u8],
}

impl Header<'_> {
    fn fields(&self, wanted: u32) -> Result<Fields<'_>, IgvmError> {
        if self.length != wanted {
            return Err(self.wrong_length(wanted));
        }
        Ok(Fields::of(self.content))
    }

    fn wrong_length(&self, wanted: u32) -> IgvmError {
        IgvmError::DirectiveLength {
            offset: self.offset,
            kind: self.kind,
            length: self.length,
            wanted,
        }
    }
}

struct Walk {
    mask: u32,
    file_size: u64,
    /// Directives so far.
    index: u32,
    /// Sizes of the parameter areas so far, by index. A file may have some hundred thousand.
    areas: BTreeMap<u32, u64>,
    found: Vec<Directive>,
}

impl Walk {
    fn directive(&mut self, header: &Header<'_>) -> Result<(), IgvmError> {
        match header.kind {
            PARAMETER_AREA => self.parameter_area(header),
            PAGE_DATA => self.page_data(header),
            PARAMETER_INSERT => self.parameter_insert(header),
            VP_CONTEXT => self.vp_context(header),
            SNP_ID_BLOCK => self.id_block(header),
            kind if WITHOUT_CONTENT.contains(&kind) => Ok(()),
            kind => Err(IgvmError::DirectiveUnknown {
                offset: header.offset,
                kind,
            }),
        }
    }

    fn is_for_us(&self, mask: u32) -> bool {
        mask & self.mask != 0
    }

    fn parameter_area(&mut self, header: &Header<'_>) -> Result<(), IgvmError> {
        let mut fields = header.fields(AREA_SIZE)?;
        let (Some(size), Some(index)) = (fields.u64(), fields.u32()) else {
            return Err(header.wrong_length(AREA_SIZE));
        };
        if self.areas.insert(index, size).is_some() {
            return Err(IgvmError::ParameterAreaRepeated {
                offset: header.offset,
                index,
            });
        }
        Ok(())
    }

    fn page_data(&mut self, header: &Header<'_>) -> Result<(), IgvmError> {
        let mut fields = header.fields(PAGE_DATA_SIZE)?;
        let (Some(gpa), Some(mask), Some(at), Some(flags), Some(kind)) = (
            fields.u64(),
            fields.u32(),
            fields.u32(),
            fields.u32(),
            fields.u16(),
        ) else {
            return Err(header.wrong_length(PAGE_DATA_SIZE));
        };
        if !self.is_for_us(mask) {
            return Ok(());
        }
        let fault = |what| IgvmError::PageUnsupported {
            offset: header.offset,
            gpa,
            what,
        };
        if flags & LARGE != 0 {
            return Err(fault(PageFault::Large));
        }
        // QEMU does not look at it and measures the page; the format says that it is not measured.
        if flags & SHARED != 0 {
            return Err(fault(PageFault::Shared));
        }
        let unknown = flags & !UNMEASURED;
        if unknown != 0 {
            return Err(fault(PageFault::Flags(unknown)));
        }
        if !gpa.is_multiple_of(u64::from(PAGE_SIZE)) {
            return Err(fault(PageFault::Unaligned));
        }
        if at != 0 {
            self.check_content(header, at)?;
        }
        let content = match kind {
            0 if flags & UNMEASURED != 0 => PageContent::Unmeasured,
            0 => PageContent::Measured((at != 0).then_some(at)),
            1 => PageContent::Secrets,
            2 | 3 => PageContent::Cpuid,
            other => return Err(fault(PageFault::Type(other))),
        };
        let index = self.index;
        self.found.push(Directive::Page {
            gpa,
            content,
            index,
        });
        Ok(())
    }

    fn check_content(&self, header: &Header<'_>, at: u32) -> Result<(), IgvmError> {
        if u64::from(at) + u64::from(PAGE_SIZE) > self.file_size {
            return Err(IgvmError::ContentOutsideFile {
                offset: header.offset,
                at,
            });
        }
        Ok(())
    }

    fn parameter_insert(&mut self, header: &Header<'_>) -> Result<(), IgvmError> {
        let mut fields = header.fields(INSERT_SIZE)?;
        let (Some(gpa), Some(mask), Some(index)) = (fields.u64(), fields.u32(), fields.u32())
        else {
            return Err(header.wrong_length(INSERT_SIZE));
        };
        if !self.is_for_us(mask) {
            return Ok(());
        }
        let Some(&size) = self.areas.get(&index) else {
            return Err(IgvmError::ParameterAreaMissing {
                offset: header.offset,
                index,
            });
        };
        self.found.push(Directive::Parameters { gpa, size });
        Ok(())
    }

    fn vp_context(&mut self, header: &Header<'_>) -> Result<(), IgvmError> {
        let mut fields = header.fields(VP_CONTEXT_SIZE)?;
        let (Some(gpa), Some(mask), Some(offset), Some(index)) =
            (fields.u64(), fields.u32(), fields.u32(), fields.u16())
        else {
            return Err(header.wrong_length(VP_CONTEXT_SIZE));
        };
        if !self.is_for_us(mask) {
            return Ok(());
        }
        self.check_content(header, offset)?;
        self.found.push(Directive::VpContext { gpa, offset, index });
        Ok(())
    }

    fn id_block(&mut self, header: &Header<'_>) -> Result<(), IgvmError> {
        let mut fields = Fields::of(header.content);
        let (Some(mask), Some(_author_key), Some(digest)) =
            (fields.u32(), fields.u32(), fields.array())
        else {
            return Err(header.wrong_length(ID_BLOCK_START));
        };
        if self.is_for_us(mask) {
            self.found.push(Directive::IdBlock(IdBlock { digest }));
        }
        Ok(())
    }
}
