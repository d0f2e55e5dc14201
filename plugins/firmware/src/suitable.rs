//! Judgements: whether a guest of some kind can start with a file that was inspected. Pure, with a
//! typed reason for each no.
//!
//! A rule stands here because QEMU, KVM or the platform fails the launch otherwise, or because the
//! launch would be weaker than it looks. Each says which.

use std::fmt;

use crate::bytes::Area;
use crate::igvm::{self, Architecture, Igvm, Platform, PlatformKind};
use crate::metadata::MetadataError;
use crate::ovmf::{Ovmf, SevFirmware, SevSection, SevSectionKind};
use crate::tdvf::{SectionFault, TdvfSection, TdvfSectionKind};

/// QEMU takes a file for `-bios` in whole pieces of this size only, and says "could not load PC
/// BIOS" otherwise.
pub const BIOS_GRANULE: u64 = 0x1_0000;

/// SNP_LAUNCH_UPDATE of KVM takes whole pages; QEMU drops the low bits of an address.
const SNP_PAGE_SIZE: u64 = 0x1000;

/// Bytes of the table of hashes with its padding: QEMU refuses a smaller area. The table is a header
/// and three entries of GUID, length and SHA-256, 168 bytes, in units of 16.
const HASH_TABLE_SIZE: u64 = 176;

/// Where x86 starts. A vCPU of TDX cannot start anywhere else.
const RESET_VECTOR: Area = Area {
    base: 0xffff_fff0,
    size: 0x10,
};

/// QEMU takes no TDX metadata with fewer sections.
const FEWEST_TDX_SECTIONS: usize = 2;

/// Version of the SEV-SNP part of IGVM that loaders know.
const SNP_PLATFORM_VERSION: u16 = 1;

/// What kind of guest a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// SEV-SNP with an OVMF image.
    Snp,
    /// SEV-SNP with an IGVM file.
    SnpIgvm,
    Tdx,
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Snp | Self::SnpIgvm => "SEV-SNP",
            Self::Tdx => "TDX",
        })
    }
}

/// An OVMF image that an SEV-SNP guest starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnpFirmware {
    pub reset_address: u32,
    pub sections: Vec<SevSection>,
    /// The firmware can run below an SVSM.
    pub svsm_calling_area: Option<Area>,
    /// Where hashes of kernel, initrd and command line go, or why they cannot.
    pub kernel_hashes: Result<Area, NoKernelHashes>,
}

impl SnpFirmware {
    /// Whether QEMU's `kernel-hashes=on` works, so that a kernel is part of the launch measurement.
    #[must_use]
    pub fn can_hash_kernels(&self) -> bool {
        self.kernel_hashes.is_ok()
    }
}

/// A TDVF that a TDX guest starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdxFirmware {
    /// Where the host writes the list of memory. Of several QEMU takes the first.
    pub hand_off_block: Area,
    pub sections: Vec<TdvfSection>,
}

/// Why a firmware takes no hashes of a kernel. `kernel-hashes=on` ends QEMU then, and without it the
/// kernel is not measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoKernelHashes {
    NoEntry,
    /// Base or size is zero: the build has no room for hashes.
    AreaEmpty,
    AreaTooSmall {
        size: u64,
    },
    NoSection,
    /// QEMU puts the table at the same distance from the start of the section as it has from the
    /// start of its page.
    OutsideSection {
        area: Area,
        section: Area,
    },
}

/// Why a guest cannot start with a file. Sections are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsuitable {
    /// Not a multiple of [`BIOS_GRANULE`], or empty.
    BiosSize {
        guest: Guest,
        size: u64,
    },
    NoResetBlock,
    /// QEMU refuses it.
    ResetAddressZero,
    NoSevMetadata,
    SevMetadata(MetadataError),
    NoSevSections,
    /// A measuring tool cannot know what it means, so the measurement would be a guess.
    UnknownSevSection {
        position: usize,
        number: u32,
    },
    /// KVM takes no empty piece of memory.
    EmptySevSection {
        position: usize,
        kind: SevSectionKind,
    },
    UnalignedSevSection {
        position: usize,
        kind: SevSectionKind,
        area: Area,
    },
    /// No page can be given to a guest twice.
    Overlap {
        guest: Guest,
        first: usize,
        second: usize,
    },
    KernelHashes(NoKernelHashes),
    NoTdxMetadata,
    TdxMetadata(MetadataError),
    FewTdxSections {
        count: usize,
    },
    TdxSection {
        position: usize,
        kind: TdvfSectionKind,
        fault: SectionFault,
    },
    /// No boot volume is where the guest starts.
    NoResetVector,
    /// QEMU ends without it.
    NoHandOffBlock,
    IgvmArchitecture {
        found: Architecture,
    },
    /// Bytes.
    IgvmPageSize {
        found: u32,
    },
    NoSnpPlatform {
        found: Vec<PlatformKind>,
    },
    SnpPlatformVersion {
        found: u16,
    },
    /// Nothing would be put into the guest.
    NoDirectives,
}

impl fmt::Display for NoKernelHashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEntry => f.write_str("the firmware has no area for hashes of a kernel"),
            Self::AreaEmpty => {
                f.write_str("the firmware was built without an area for hashes of a kernel")
            }
            Self::AreaTooSmall { size } => write!(
                f,
                "the firmware's area for hashes of a kernel has {size} bytes, and \
                 {HASH_TABLE_SIZE} are needed"
            ),
            Self::NoSection => f.write_str(
                "the firmware's SEV metadata has no KERNEL_HASHES section, so hashes of a kernel \
                 would not be measured",
            ),
            Self::OutsideSection { area, section } => write!(
                f,
                "the firmware's area for hashes of a kernel is {area}, which is not within the \
                 first page of its KERNEL_HASHES section {section}"
            ),
        }
    }
}

impl std::error::Error for NoKernelHashes {}

impl fmt::Display for SectionFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "is of a kind that QEMU does not take",
            Self::MemorySmallerThanData => "has less memory than content",
            Self::AddressNotOfPage => "does not start at a page",
            Self::SizeNotOfPages => "is not of whole pages",
            Self::NoData => "has no content",
            Self::Data => "has content, which is for volumes only",
            Self::AddressTooHigh => "is where x86 has no addresses",
            Self::DataOutsideFile => "has its content behind the end of the file",
        })
    }
}

impl fmt::Display for Unsuitable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BiosSize { guest, size } => write!(
                f,
                "the file has {size} bytes, and firmware of {guest} guests is a multiple of 64 KiB"
            ),
            Self::NoResetBlock => {
                f.write_str("the firmware has no SEV information block, so it starts no SEV guest")
            }
            Self::ResetAddressZero => {
                f.write_str("the reset address in the firmware's SEV information block is 0")
            }
            Self::NoSevMetadata => f.write_str(
                "the firmware has no SEV metadata, so it starts SEV and SEV-ES guests at most",
            ),
            Self::SevMetadata(error) => {
                write!(f, "the firmware's SEV metadata is broken: {error}")
            }
            Self::NoSevSections => f.write_str("the firmware's SEV metadata has no section"),
            Self::UnknownSevSection { position, number } => write!(
                f,
                "section {position} of the firmware's SEV metadata is of the unknown type \
                 {number:#x}"
            ),
            Self::EmptySevSection { position, kind } => write!(
                f,
                "section {position} ({kind}) of the firmware's SEV metadata is empty, which KVM \
                 refuses"
            ),
            Self::UnalignedSevSection {
                position,
                kind,
                area,
            } => write!(
                f,
                "section {position} ({kind}) of the firmware's SEV metadata is {area}, which is \
                 not of whole pages"
            ),
            Self::Overlap {
                guest,
                first,
                second,
            } => write!(
                f,
                "sections {first} and {second} of the firmware's {} metadata overlap",
                match guest {
                    Guest::Snp | Guest::SnpIgvm => "SEV",
                    Guest::Tdx => "TDX",
                }
            ),
            Self::KernelHashes(reason) => reason.fmt(f),
            Self::NoTdxMetadata => {
                f.write_str("the firmware has no TDX metadata, so it starts no TDX guest")
            }
            Self::TdxMetadata(error) => {
                write!(f, "the firmware's TDX metadata is broken: {error}")
            }
            Self::FewTdxSections { count } => write!(
                f,
                "the firmware's TDX metadata has {count} sections, and {FEWEST_TDX_SECTIONS} are \
                 the fewest"
            ),
            Self::TdxSection {
                position,
                kind,
                fault,
            } => write!(
                f,
                "section {position} ({kind}) of the firmware's TDX metadata {fault}"
            ),
            Self::NoResetVector => write!(
                f,
                "no BFV section of the firmware's TDX metadata holds the reset vector at {:#x}",
                RESET_VECTOR.base
            ),
            Self::NoHandOffBlock => {
                f.write_str("the firmware's TDX metadata has no TD_HOB section")
            }
            Self::IgvmArchitecture { found } => {
                write!(f, "the IGVM file is for {found} and not for x86_64")
            }
            Self::IgvmPageSize { found } => {
                write!(
                    f,
                    "the IGVM file is for pages of {found} bytes and not of 4096"
                )
            }
            Self::NoSnpPlatform { found } => match found.as_slice() {
                [] => f.write_str("the IGVM file names no platform at all, so none for SEV-SNP"),
                [first, others @ ..] => {
                    write!(f, "the IGVM file has no SEV-SNP platform but {first}")?;
                    others.iter().try_for_each(|kind| write!(f, ", {kind}"))
                }
            },
            Self::SnpPlatformVersion { found } => write!(
                f,
                "the SEV-SNP platform of the IGVM file has version {found}, and only \
                 {SNP_PLATFORM_VERSION} is known"
            ),
            Self::NoDirectives => f.write_str("the IGVM file puts nothing into a guest"),
        }
    }
}

impl std::error::Error for Unsuitable {}

/// Whether an SEV-SNP guest starts with `-bios` and this image.
///
/// # Errors
///
/// The first reason why not, in the order in which QEMU would meet them.
pub fn for_snp(ovmf: &Ovmf) -> Result<SnpFirmware, Unsuitable> {
    check_bios_size(Guest::Snp, ovmf.size)?;
    snp_firmware(ovmf, EmptySections::Refused)
}

/// What an image tells of an SEV-SNP guest's first memory, whether or not QEMU would start with it:
/// a launch measurement has a value for an image of any size, and an empty section adds nothing.
///
/// # Errors
///
/// The measurement would be a guess.
pub fn snp_layout(ovmf: &Ovmf) -> Result<SnpFirmware, Unsuitable> {
    snp_firmware(ovmf, EmptySections::Allowed)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EmptySections {
    Refused,
    Allowed,
}

fn snp_firmware(ovmf: &Ovmf, empty: EmptySections) -> Result<SnpFirmware, Unsuitable> {
    let sev = ovmf.sev.as_ref().ok_or(Unsuitable::NoResetBlock)?;
    let reset_address = match sev.reset_address {
        None => return Err(Unsuitable::NoResetBlock),
        Some(0) => return Err(Unsuitable::ResetAddressZero),
        Some(address) => address,
    };
    let sections = match &sev.metadata {
        None => return Err(Unsuitable::NoSevMetadata),
        Some(Err(error)) => return Err(Unsuitable::SevMetadata(error.clone())),
        Some(Ok(sections)) => sections,
    };
    check_sev_sections(sections, empty)?;
    Ok(SnpFirmware {
        reset_address,
        sections: sections.clone(),
        svsm_calling_area: area_of(sections, SevSectionKind::SvsmCallingArea),
        kernel_hashes: kernel_hashes(sev, sections),
    })
}

/// Whether a TDX guest starts with `-bios` and this image.
///
/// # Errors
///
/// The first reason why not, in the order in which QEMU would meet them.
pub fn for_tdx(ovmf: &Ovmf) -> Result<TdxFirmware, Unsuitable> {
    check_bios_size(Guest::Tdx, ovmf.size)?;
    tdx_layout(ovmf)
}

/// What an image tells of a TDX guest's first memory, whatever the size of the image: that is
/// QEMU's rule, and a launch measurement has a value without it.
///
/// # Errors
///
/// The first reason why no guest starts with it.
pub fn tdx_layout(ovmf: &Ovmf) -> Result<TdxFirmware, Unsuitable> {
    let sections = match &ovmf.tdx {
        None => return Err(Unsuitable::NoTdxMetadata),
        Some(Err(error)) => return Err(Unsuitable::TdxMetadata(error.clone())),
        Some(Ok(tdvf)) => &tdvf.sections,
    };
    if sections.len() < FEWEST_TDX_SECTIONS {
        return Err(Unsuitable::FewTdxSections {
            count: sections.len(),
        });
    }
    for (section, position) in sections.iter().zip(1..) {
        section
            .check(ovmf.size)
            .map_err(|fault| Unsuitable::TdxSection {
                position,
                kind: section.kind,
                fault,
            })?;
    }
    let areas: Vec<Area> = sections.iter().map(|section| section.memory).collect();
    check_overlaps(Guest::Tdx, &areas)?;
    let hand_off_block = sections
        .iter()
        .find(|section| section.kind == TdvfSectionKind::HandOffBlock)
        .ok_or(Unsuitable::NoHandOffBlock)?
        .memory;
    let starts = sections.iter().any(|section| {
        section.kind == TdvfSectionKind::BootVolume && section.memory.contains(&RESET_VECTOR)
    });
    if !starts {
        return Err(Unsuitable::NoResetVector);
    }
    Ok(TdxFirmware {
        hand_off_block,
        sections: sections.clone(),
    })
}

/// Whether an SEV-SNP guest starts with this IGVM file.
///
/// # Errors
///
/// The first reason why not.
pub fn for_snp_igvm(file: &Igvm) -> Result<Platform, Unsuitable> {
    if file.architecture != Architecture::X64 {
        return Err(Unsuitable::IgvmArchitecture {
            found: file.architecture,
        });
    }
    if file.page_size != igvm::PAGE_SIZE {
        return Err(Unsuitable::IgvmPageSize {
            found: file.page_size,
        });
    }
    let platform = file
        .platforms
        .iter()
        .find(|platform| platform.kind == PlatformKind::SevSnp)
        .ok_or_else(|| Unsuitable::NoSnpPlatform {
            found: file.platforms.iter().map(|one| one.kind).collect(),
        })?;
    if platform.version != SNP_PLATFORM_VERSION {
        return Err(Unsuitable::SnpPlatformVersion {
            found: platform.version,
        });
    }
    if file.directives == 0 {
        return Err(Unsuitable::NoDirectives);
    }
    Ok(*platform)
}

fn check_bios_size(guest: Guest, size: u64) -> Result<(), Unsuitable> {
    if size == 0 || !size.is_multiple_of(BIOS_GRANULE) {
        return Err(Unsuitable::BiosSize { guest, size });
    }
    Ok(())
}

fn check_sev_sections(sections: &[SevSection], empty: EmptySections) -> Result<(), Unsuitable> {
    if sections.is_empty() {
        return Err(Unsuitable::NoSevSections);
    }
    for (section, position) in sections.iter().zip(1..) {
        let SevSection { area, kind } = *section;
        if let SevSectionKind::Unknown(number) = kind {
            return Err(Unsuitable::UnknownSevSection { position, number });
        }
        if area.size == 0 && empty == EmptySections::Refused {
            return Err(Unsuitable::EmptySevSection { position, kind });
        }
        if !area.base.is_multiple_of(SNP_PAGE_SIZE) || !area.size.is_multiple_of(SNP_PAGE_SIZE) {
            return Err(Unsuitable::UnalignedSevSection {
                position,
                kind,
                area,
            });
        }
    }
    let areas: Vec<Area> = sections.iter().map(|section| section.area).collect();
    check_overlaps(Guest::Snp, &areas)
}

/// All pairs of sections that share memory, counted from 1.
#[must_use]
pub fn overlaps(areas: &[Area]) -> Vec<(usize, usize)> {
    let numbered = || areas.iter().zip(1..);
    numbered()
        .flat_map(|(one, first)| {
            numbered()
                .skip(first)
                .filter(|(other, _)| one.overlaps(other))
                .map(move |(_, second)| (first, second))
        })
        .collect()
}

fn check_overlaps(guest: Guest, areas: &[Area]) -> Result<(), Unsuitable> {
    match overlaps(areas).first() {
        None => Ok(()),
        Some((first, second)) => Err(Unsuitable::Overlap {
            guest,
            first: *first,
            second: *second,
        }),
    }
}

fn area_of(sections: &[SevSection], kind: SevSectionKind) -> Option<Area> {
    sections
        .iter()
        .find(|section| section.kind == kind)
        .map(|section| section.area)
}

/// Where the hashes go, or why QEMU could not put them there.
fn kernel_hashes(sev: &SevFirmware, sections: &[SevSection]) -> Result<Area, NoKernelHashes> {
    let area = sev.hash_table.ok_or(NoKernelHashes::NoEntry)?;
    if area.base == 0 || area.size == 0 {
        return Err(NoKernelHashes::AreaEmpty);
    }
    if area.size < HASH_TABLE_SIZE {
        return Err(NoKernelHashes::AreaTooSmall { size: area.size });
    }
    let section =
        area_of(sections, SevSectionKind::KernelHashes).ok_or(NoKernelHashes::NoSection)?;
    // A measurement has the table as one page, so it may not go on in the next one.
    let offset = area.base % SNP_PAGE_SIZE;
    let in_one_page = offset + HASH_TABLE_SIZE <= SNP_PAGE_SIZE;
    if section.base != area.base - offset || !in_one_page || !section.contains(&area) {
        return Err(NoKernelHashes::OutsideSection { area, section });
    }
    Ok(area)
}
