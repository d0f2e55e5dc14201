//! What has to hold of an OVMF image, in other words than the crate's.

use casemate_firmware::ovmf::{self, Ovmf, OvmfError, SevSectionKind};
use casemate_firmware::suitable::{
    self, SnpFirmware, TdxFirmware, for_snp, for_tdx, snp_layout, tdx_layout,
};
use casemate_firmware::tdvf::TdvfSectionKind;
use casemate_firmware::{Area, Guest, Unsuitable, remedy};

use crate::reader::{Failing, Strict};
use crate::text::assert_sentence;

const PAGE: u64 = 4096;
/// Bytes of an entry of the table without its data.
const ENTRY_HEADER: usize = 18;
/// Bytes of the table of hashes with its padding (QEMU, `PaddedSevHashTable`).
const HASHES: u64 = 176;

/// Everything that is asked of an image.
pub fn ask(bytes: &[u8]) {
    match ovmf::inspect(&Strict(bytes)) {
        Err(error) => refused(&error),
        Ok(image) => judge(&image, bytes),
    }
    assert_failures_are_told(bytes);
}

fn refused(error: &OvmfError) {
    // A file that is there to be read is never at fault for that.
    assert!(!matches!(error, OvmfError::Read(_)), "{error}");
    assert_sentence(&error.to_string());
    for guest in [Guest::Snp, Guest::SnpIgvm, Guest::Tdx] {
        assert_sentence(remedy::for_ovmf_error(error, guest));
    }
}

/// A file that cannot be read is not called broken.
fn assert_failures_are_told(bytes: &[u8]) {
    for (reads, short) in [(0, false), (1, true), (2, false), (3, true), (4, false)] {
        let file = Failing::after(reads, short, bytes);
        let answer = ovmf::inspect(&file);
        if file.failed() {
            let error = answer.expect_err("a read failed");
            assert!(matches!(error, OvmfError::Read(_)), "{error}");
            assert_sentence(&error.to_string());
        }
    }
}

fn judge(image: &Ovmf, bytes: &[u8]) {
    assert_eq!(image.size, bytes.len() as u64);
    let entries = image.entries.iter();
    let table: usize = entries.map(|entry| entry.data.len() + ENTRY_HEADER).sum();
    assert!(table <= bytes.len(), "entries have more than the file");
    judge_snp(image);
    judge_tdx(image);
}

fn judge_snp(image: &Ovmf) {
    let whole = image.size > 0 && image.size.is_multiple_of(0x1_0000);
    let layout = snp_layout(image);
    match &layout {
        Ok(firmware) => assert_snp(firmware),
        Err(reason) => unsuitable(reason),
    }
    match (for_snp(image), layout) {
        (Ok(firmware), layout) => {
            assert!(whole);
            assert!(firmware.sections.iter().all(|one| one.area.size > 0));
            assert_eq!(Ok(firmware), layout);
        }
        (Err(reason), Ok(_)) => {
            unsuitable(&reason);
            assert!(
                matches!(
                    reason,
                    Unsuitable::BiosSize { .. } | Unsuitable::EmptySevSection { .. }
                ),
                "{reason}"
            );
            assert_eq!(matches!(reason, Unsuitable::BiosSize { .. }), !whole);
        }
        (Err(reason), Err(_)) => unsuitable(&reason),
    }
}

fn assert_snp(firmware: &SnpFirmware) {
    assert_ne!(firmware.reset_address, 0);
    assert!(!firmware.sections.is_empty());
    let areas: Vec<Area> = firmware.sections.iter().map(|one| one.area).collect();
    assert_pages_once(&areas);
    for section in &firmware.sections {
        assert!(!matches!(section.kind, SevSectionKind::Unknown(_)));
    }
    let first_of = |kind| {
        let found = firmware.sections.iter().find(|one| one.kind == kind);
        found.map(|one| one.area)
    };
    let calling = first_of(SevSectionKind::SvsmCallingArea);
    assert_eq!(firmware.svsm_calling_area, calling);
    match &firmware.kernel_hashes {
        Ok(area) => {
            let section = first_of(SevSectionKind::KernelHashes).expect("hashes have a section");
            assert!(area.size >= HASHES && area.base >= section.base);
            assert!(area.end() <= section.end());
            // What is measured is a page, so a table that goes on in the next one is not.
            let offset = area.base - section.base;
            assert!(
                offset + HASHES <= PAGE,
                "the table at {area} is not within the first page of {section}"
            );
        }
        Err(reason) => {
            assert_sentence(&reason.to_string());
            assert_sentence(remedy::for_kernel_hashes(reason));
            unsuitable(&Unsuitable::KernelHashes(*reason));
        }
    }
    assert_eq!(firmware.can_hash_kernels(), firmware.kernel_hashes.is_ok());
}

fn judge_tdx(image: &Ovmf) {
    let whole = image.size > 0 && image.size.is_multiple_of(0x1_0000);
    let layout = tdx_layout(image);
    match &layout {
        Ok(firmware) => assert_tdx(firmware, image.size),
        Err(reason) => unsuitable(reason),
    }
    match for_tdx(image) {
        Ok(firmware) => {
            assert!(whole);
            assert_eq!(Ok(firmware), layout);
        }
        Err(reason) => {
            unsuitable(&reason);
            assert_eq!(matches!(reason, Unsuitable::BiosSize { .. }), !whole);
            assert!(layout.is_err() || !whole, "{reason}");
        }
    }
}

fn assert_tdx(firmware: &TdxFirmware, size: u64) {
    assert!(firmware.sections.len() >= 2);
    let areas: Vec<Area> = firmware.sections.iter().map(|one| one.memory).collect();
    assert_pages_once(&areas);
    let mut starts = false;
    for section in &firmware.sections {
        assert_eq!(section.check(size), Ok(()));
        let end = u64::from(section.data_offset) + u64::from(section.data_size);
        assert!(end <= size && u64::from(section.data_size) <= section.memory.size);
        assert!(section.memory.end() <= 1 << 52);
        starts |= section.kind == TdvfSectionKind::BootVolume
            && section.memory.base <= 0xffff_fff0
            && section.memory.end() >= 1 << 32;
    }
    assert!(starts, "nothing is at the reset vector");
    let mut blocks = firmware.sections.iter();
    let block = blocks.find(|one| one.kind == TdvfSectionKind::HandOffBlock);
    assert_eq!(block.map(|one| one.memory), Some(firmware.hand_off_block));
}

/// Whole pages, none of them twice.
fn assert_pages_once(areas: &[Area]) {
    let mut sorted: Vec<&Area> = areas.iter().filter(|area| area.size > 0).collect();
    for area in areas {
        assert!(area.base.is_multiple_of(PAGE) && area.size.is_multiple_of(PAGE));
    }
    sorted.sort_unstable_by_key(|area| area.base);
    let mut end = 0;
    for area in sorted {
        assert!(u128::from(area.base) >= end, "a page is given twice");
        end = u128::from(area.base) + u128::from(area.size);
    }
    assert_eq!(suitable::overlaps(areas), []);
}

pub(crate) fn unsuitable(reason: &Unsuitable) {
    assert_sentence(&reason.to_string());
    assert_sentence(remedy::for_unsuitable(reason));
}

/// The bytes at the end of an image of whole pieces of 64 KiB, as QEMU wants one: all tables count
/// from the end.
pub fn grown(bytes: &[u8]) -> Vec<u8> {
    let size = bytes.len().next_multiple_of(0x1_0000).max(0x1_0000);
    let mut image = vec![0xff; size - bytes.len()];
    image.extend_from_slice(bytes);
    image
}
