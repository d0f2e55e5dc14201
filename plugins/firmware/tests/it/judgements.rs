//! With which images a guest can start. The rules are QEMU's and KVM's, and the crate names where
//! each is enforced; a case that a published file or a QEMU message stands behind says which.

use casemate_firmware::ovmf::{self, SevSectionKind};
use casemate_firmware::suitable::{self, NoKernelHashes, for_snp, for_tdx};
use casemate_firmware::tdvf::{SectionFault, TdvfSectionKind};
use casemate_firmware::{Area, Guest, MetadataError, Unsuitable};

use casemate_firmware_images::{HASH_TABLE, INFO_BLOCK, Image, sev_section, tdx_section, words};

fn area(base: u64, size: u64) -> Area {
    Area { base, size }
}

fn inspected(image: &Image) -> ovmf::Ovmf {
    ovmf::inspect(&image.bytes()).expect("its table is good")
}

#[test]
fn a_good_image_is_good_for_both() {
    let image = inspected(&Image::good());
    let snp = for_snp(&image).expect("it has all that SEV-SNP needs");
    assert_eq!(snp.reset_address, 0x80_b004);
    assert_eq!(snp.svsm_calling_area, Some(area(0x80_f000, 0x1000)));
    assert_eq!(snp.kernel_hashes, Ok(area(0x81_0c00, 0x400)));
    assert!(snp.can_hash_kernels());
    assert_eq!(snp.sections.len(), 7);
    let tdx = for_tdx(&image).expect("it has all that TDX needs");
    assert_eq!(tdx.hand_off_block, area(0x80_9000, 0x2000));
    assert_eq!(tdx.sections.len(), 7);
}

type Change = fn(&mut Image);

#[test]
fn each_rule_of_snp_has_its_reason() {
    let cases: [(&str, Change, Unsuitable); 15] = [
        (
            "OVMF_CODE_4M.fd of Debian 12 has this size, and QEMU could not load it",
            |i| i.size = 3_653_632,
            Unsuitable::BiosSize {
                guest: Guest::Snp,
                size: 3_653_632,
            },
        ),
        (
            "no entry for SEV at all",
            |i| {
                i.entries.clear();
                i.sev = None;
            },
            Unsuitable::NoResetBlock,
        ),
        (
            "entries for SEV, but none of them is the information block",
            |i| i.entries.retain(|(name, _)| *name != INFO_BLOCK),
            Unsuitable::NoResetBlock,
        ),
        (
            "reset address 0",
            |i| *i.entry(INFO_BLOCK) = words(&[0]),
            Unsuitable::ResetAddressZero,
        ),
        ("no metadata", |i| i.sev = None, Unsuitable::NoSevMetadata),
        (
            "broken metadata",
            |i| i.sev().version = 2,
            Unsuitable::SevMetadata(MetadataError::Version { found: 2 }),
        ),
        (
            "no section",
            |i| i.sev().sections.clear(),
            Unsuitable::NoSevSections,
        ),
        (
            "unknown section",
            |i| i.sev().sections[3] = sev_section(0x80_e000, 0x1000, 5),
            Unsuitable::UnknownSevSection {
                position: 4,
                number: 5,
            },
        ),
        (
            "type 0 is unknown, too",
            |i| i.sev().sections[0] = sev_section(0x80_0000, 0x9000, 0),
            Unsuitable::UnknownSevSection {
                position: 1,
                number: 0,
            },
        ),
        (
            "OVMF.inteltdx.ms.fd of ovmf-inteltdx 2026.08+ds-2 has this section",
            |i| i.sev().sections[4] = sev_section(0, 0, 4),
            Unsuitable::EmptySevSection {
                position: 5,
                kind: SevSectionKind::SvsmCallingArea,
            },
        ),
        (
            "address within a page",
            |i| i.sev().sections[1] = sev_section(0x80_a800, 0x1000, 1),
            Unsuitable::UnalignedSevSection {
                position: 2,
                kind: SevSectionKind::Memory,
                area: area(0x80_a800, 0x1000),
            },
        ),
        (
            "part of a page",
            |i| i.sev().sections[6] = sev_section(0x81_0000, 0xfff, 0x10),
            Unsuitable::UnalignedSevSection {
                position: 7,
                kind: SevSectionKind::KernelHashes,
                area: area(0x81_0000, 0xfff),
            },
        ),
        (
            "one page twice",
            |i| i.sev().sections[1] = sev_section(0x80_8000, 0x1000, 1),
            Unsuitable::Overlap {
                guest: Guest::Snp,
                first: 1,
                second: 2,
            },
        ),
        (
            "the last two share a page",
            |i| i.sev().sections[5] = sev_section(0x80_f000, 0x2000, 1),
            Unsuitable::Overlap {
                guest: Guest::Snp,
                first: 5,
                second: 6,
            },
        ),
        (
            "the first reason counts",
            |i| {
                i.size = 0x40_1000;
                i.sev = None;
            },
            Unsuitable::BiosSize {
                guest: Guest::Snp,
                size: 0x40_1000,
            },
        ),
    ];
    for (name, change, expected) in cases {
        let image = inspected(&Image::with(change));
        assert_eq!(for_snp(&image), Err(expected), "{name}");
    }
}

/// TDX metadata is nothing to SEV-SNP, and the other way round.
#[test]
fn what_is_broken_for_one_is_good_for_the_other() {
    let image = inspected(&Image::with(|i| i.tdx().signature = *b"VDFT"));
    assert!(for_snp(&image).is_ok() && for_tdx(&image).is_err());
    let image = inspected(&Image::with(|i| i.sev().signature = *b"VESA"));
    assert!(for_snp(&image).is_err() && for_tdx(&image).is_ok());
}

#[test]
fn a_firmware_without_room_for_hashes_is_good_for_a_guest_without_kernel() {
    let cases: [(&str, Change, NoKernelHashes); 11] = [
        (
            "no entry",
            |i| i.entries.retain(|(name, _)| *name != HASH_TABLE),
            NoKernelHashes::NoEntry,
        ),
        (
            "OVMF.fd of Debian 12 has these zeros, and QEMU says base=0x0 size=0x0",
            |i| *i.entry(HASH_TABLE) = words(&[0, 0]),
            NoKernelHashes::AreaEmpty,
        ),
        (
            "no base",
            |i| *i.entry(HASH_TABLE) = words(&[0, 0x400]),
            NoKernelHashes::AreaEmpty,
        ),
        (
            "no size",
            |i| *i.entry(HASH_TABLE) = words(&[0x81_0c00, 0]),
            NoKernelHashes::AreaEmpty,
        ),
        (
            "a byte too small for the table of hashes",
            |i| *i.entry(HASH_TABLE) = words(&[0x81_0c00, 175]),
            NoKernelHashes::AreaTooSmall { size: 175 },
        ),
        (
            "a build of OvmfPkgX64 has no such section",
            |i| drop(i.sev().sections.pop()),
            NoKernelHashes::NoSection,
        ),
        (
            "section before the area",
            |i| i.sev().sections[6] = sev_section(0x80_9000, 0x1000, 0x10),
            NoKernelHashes::OutsideSection {
                area: area(0x81_0c00, 0x400),
                section: area(0x80_9000, 0x1000),
            },
        ),
        (
            "area in the section's second page, where QEMU would not put it",
            |i| {
                i.sev().sections[5] = sev_section(0x82_0000, 0x1000, 1);
                i.sev().sections[6] = sev_section(0x81_0000, 0x2000, 0x10);
                *i.entry(HASH_TABLE) = words(&[0x81_1c00, 0x400]);
            },
            NoKernelHashes::OutsideSection {
                area: area(0x81_1c00, 0x400),
                section: area(0x81_0000, 0x2000),
            },
        ),
        (
            "area that passes the section by a byte",
            |i| *i.entry(HASH_TABLE) = words(&[0x81_0c00, 0x401]),
            NoKernelHashes::OutsideSection {
                area: area(0x81_0c00, 0x401),
                section: area(0x81_0000, 0x1000),
            },
        ),
        (
            "table that goes on in the section's second page, of which no measurement is known",
            |i| {
                i.sev().sections[5] = sev_section(0x82_0000, 0x1000, 1);
                i.sev().sections[6] = sev_section(0x81_0000, 0x2000, 0x10);
                *i.entry(HASH_TABLE) = words(&[0x81_0f51, 0x400]);
            },
            NoKernelHashes::OutsideSection {
                area: area(0x81_0f51, 0x400),
                section: area(0x81_0000, 0x2000),
            },
        ),
        (
            "area that passes the end of 32 bits",
            |i| *i.entry(HASH_TABLE) = words(&[0xffff_ff00, 0xffff_ffff]),
            NoKernelHashes::OutsideSection {
                area: area(0xffff_ff00, 0xffff_ffff),
                section: area(0x81_0000, 0x1000),
            },
        ),
    ];
    for (name, change, expected) in cases {
        let firmware = for_snp(&inspected(&Image::with(change))).expect(name);
        assert_eq!(firmware.kernel_hashes, Err(expected), "{name}");
        assert!(!firmware.can_hash_kernels(), "{name}");
    }
    let smallest = Image::with(|i| *i.entry(HASH_TABLE) = words(&[0x81_0f50, 176]));
    let firmware = for_snp(&inspected(&smallest)).expect("it is good");
    assert!(firmware.can_hash_kernels());
}

#[test]
fn each_rule_of_tdx_has_its_reason() {
    const BOOT: ((u32, u32), (u64, u64)) = ((0x8_4000, 0x37_c000), (0xffc8_4000, 0x37_c000));
    let section = |position, kind, fault| Unsuitable::TdxSection {
        position,
        kind,
        fault,
    };
    let boot = TdvfSectionKind::BootVolume;
    let cases: [(&str, Change, Unsuitable); 25] = [
        (
            "size",
            |i| i.size = 0x40_0200,
            Unsuitable::BiosSize {
                guest: Guest::Tdx,
                size: 0x40_0200,
            },
        ),
        ("no metadata", |i| i.tdx = None, Unsuitable::NoTdxMetadata),
        (
            "broken metadata",
            |i| i.tdx().length = Some(0),
            Unsuitable::TdxMetadata(MetadataError::Length {
                found: 0,
                wanted: 240,
                count: 7,
            }),
        ),
        (
            "no section",
            |i| i.tdx().sections.clear(),
            Unsuitable::FewTdxSections { count: 0 },
        ),
        (
            "QEMU wants two",
            |i| i.tdx().sections.truncate(1),
            Unsuitable::FewTdxSections { count: 1 },
        ),
        (
            "less memory than data",
            |i| {
                i.tdx().sections[0] =
                    tdx_section((0x8_4000, 0x37_c000), (0xffc8_4000, 0x37_b000), 0);
            },
            section(1, boot, SectionFault::MemorySmallerThanData),
        ),
        (
            "address within a page",
            |i| i.tdx().sections[0] = tdx_section(BOOT.0, (0xffc8_4200, 0x37_c000), 0),
            section(1, boot, SectionFault::AddressNotOfPage),
        ),
        (
            "part of a page",
            |i| i.tdx().sections[0] = tdx_section(BOOT.0, (0xffc8_4000, 0x37_c200), 0),
            section(1, boot, SectionFault::SizeNotOfPages),
        ),
        (
            "a volume without content",
            |i| i.tdx().sections[1] = tdx_section((0, 0), (0xffc0_0000, 0x8_4000), 1),
            section(
                2,
                TdvfSectionKind::ConfigurationVolume,
                SectionFault::NoData,
            ),
        ),
        (
            "boot volume without content",
            |i| i.tdx().sections[0] = tdx_section((0, 0), BOOT.1, 0),
            section(1, boot, SectionFault::NoData),
        ),
        (
            "content for temporary memory",
            |i| i.tdx().sections[2] = tdx_section((0, 1), (0x81_4000, 0xc000), 3),
            section(3, TdvfSectionKind::TemporaryMemory, SectionFault::Data),
        ),
        (
            "content for the hand-off block",
            |i| i.tdx().sections[4] = tdx_section((0, 0x1000), (0x80_9000, 0x2000), 2),
            section(5, TdvfSectionKind::HandOffBlock, SectionFault::Data),
        ),
        (
            "content a byte behind the end",
            |i| i.tdx().sections[0] = tdx_section((0x8_4001, 0x37_c000), BOOT.1, 0),
            section(1, boot, SectionFault::DataOutsideFile),
        ),
        (
            "content where no sum of 32 bits goes",
            |i| i.tdx().sections[0] = tdx_section((u32::MAX, 0x37_c000), BOOT.1, 0),
            section(1, boot, SectionFault::DataOutsideFile),
        ),
        (
            "permanent memory",
            |i| i.tdx().sections[6] = tdx_section((0, 0), (0x82_0000, 0x1000), 4),
            section(
                7,
                TdvfSectionKind::PermanentMemory,
                SectionFault::Unsupported,
            ),
        ),
        (
            "\"unsupported section type 5\", as MigTD has it",
            |i| i.tdx().sections[6] = tdx_section((0, 0x1000), (0x82_0000, 0x1000), 5),
            section(7, TdvfSectionKind::Payload, SectionFault::Unsupported),
        ),
        (
            "payload parameter",
            |i| i.tdx().sections[6] = tdx_section((0, 0), (0x82_0000, 0x1000), 6),
            section(
                7,
                TdvfSectionKind::PayloadParameter,
                SectionFault::Unsupported,
            ),
        ),
        (
            "unknown",
            |i| i.tdx().sections[6] = tdx_section((0, 0), (0x82_0000, 0x1000), 7),
            section(7, TdvfSectionKind::Unknown(7), SectionFault::Unsupported),
        ),
        (
            "one page twice",
            |i| i.tdx().sections[3] = tdx_section((0, 0), (0x80_5000, 0x1000), 3),
            Unsuitable::Overlap {
                guest: Guest::Tdx,
                first: 4,
                second: 6,
            },
        ),
        (
            "memory that ends a page past 52 bits",
            |i| i.tdx().sections[2] = tdx_section((0, 0), ((1 << 52) - 0x1000, 0x2000), 3),
            section(
                3,
                TdvfSectionKind::TemporaryMemory,
                SectionFault::AddressTooHigh,
            ),
        ),
        (
            "memory that passes the end of 64 bits",
            |i| i.tdx().sections[2] = tdx_section((0, 0), (u64::MAX - 0xfff, 0xf000), 3),
            section(
                3,
                TdvfSectionKind::TemporaryMemory,
                SectionFault::AddressTooHigh,
            ),
        ),
        (
            "no hand-off block",
            |i| drop(i.tdx().sections.remove(4)),
            Unsuitable::NoHandOffBlock,
        ),
        (
            "no boot volume",
            |i| drop(i.tdx().sections.remove(0)),
            Unsuitable::NoResetVector,
        ),
        (
            "the reset vector is in the volume of the variables",
            |i| i.tdx().sections[0] = tdx_section(BOOT.0, BOOT.1, 1),
            Unsuitable::NoResetVector,
        ),
        (
            "boot volume that ends a page before 4 GiB",
            |i| {
                i.tdx().sections[0] =
                    tdx_section((0x8_4000, 0x37_b000), (0xffc8_4000, 0x37_b000), 0);
            },
            Unsuitable::NoResetVector,
        ),
    ];
    for (name, change, expected) in cases {
        let image = inspected(&Image::with(change));
        assert_eq!(for_tdx(&image), Err(expected), "{name}");
    }
}

/// The design guide puts one there, and QEMU looks at the descriptor alone.
#[test]
fn tdx_metadata_needs_no_guid_before_it() {
    let mut bytes = Image::good().bytes();
    let start = bytes.len() - 0xa60;
    bytes[start - 16..start].fill(0x5a);
    let image = ovmf::inspect(&bytes).expect("its table is good");
    assert!(for_tdx(&image).is_ok());
}

#[test]
fn all_overlaps_are_told() {
    let areas = [
        area(0, 0x3000),
        area(0x1000, 0x1000),
        area(0x2000, 0),
        area(0x2000, 0x2000),
        area(0x3000, 0x1000),
    ];
    assert_eq!(suitable::overlaps(&areas), [(1, 2), (1, 4), (4, 5)]);
    assert!(suitable::overlaps(&[]).is_empty());
}
