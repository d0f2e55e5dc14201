//! Whatever a file holds, it gets an answer, and a yes means that the rules hold.

use casemate_firmware::ovmf::{self, Ovmf, SevSectionKind};
use casemate_firmware::suitable::{for_snp, for_snp_igvm, for_tdx};
use casemate_firmware::{igvm, remedy};
use proptest::prelude::*;

use casemate_firmware_images::{Igvm, Image};

/// Everything that is asked of a file.
fn ask(bytes: &[u8]) {
    match ovmf::inspect(bytes) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(image) => judge(&image),
    }
    match igvm::inspect(bytes) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(file) => {
            if let Err(reason) = for_snp_igvm(&file) {
                assert!(!remedy::for_unsuitable(&reason).is_empty());
            }
        }
    }
}

/// The rules once more, in other words than the crate's.
fn judge(image: &Ovmf) {
    let pages_once = |areas: Vec<(u64, u64)>| {
        let mut pages: Vec<u64> = areas
            .iter()
            .flat_map(|(base, size)| {
                assert!(base.is_multiple_of(4096) && size.is_multiple_of(4096));
                (0..size / 4096).map(move |page| base / 4096 + page)
            })
            .collect();
        let all = pages.len();
        pages.sort_unstable();
        pages.dedup();
        assert_eq!(pages.len(), all, "a page is given twice");
    };
    match for_snp(image) {
        Ok(firmware) => {
            assert!(image.size.is_multiple_of(65536) && firmware.reset_address != 0);
            for section in &firmware.sections {
                assert!(section.area.size > 0);
                assert!(!matches!(section.kind, SevSectionKind::Unknown(_)));
            }
            let areas = firmware.sections.iter().map(|s| (s.area.base, s.area.size));
            pages_once(areas.collect());
            if let Ok(hashes) = firmware.kernel_hashes {
                let holding = firmware.sections.iter().find(|section| {
                    section.kind == SevSectionKind::KernelHashes
                        && section.area.base <= hashes.base
                        && hashes.base + hashes.size <= section.area.base + section.area.size
                });
                assert!(holding.is_some() && hashes.size >= 176);
            }
        }
        Err(reason) => assert!(!remedy::for_unsuitable(&reason).is_empty()),
    }
    match for_tdx(image) {
        Ok(firmware) => {
            for section in &firmware.sections {
                let end = u64::from(section.data_offset) + u64::from(section.data_size);
                assert!(end <= image.size && u64::from(section.data_size) <= section.memory.size);
            }
            let areas = firmware
                .sections
                .iter()
                .map(|s| (s.memory.base, s.memory.size));
            // Counting pages takes long where a section has terabytes.
            let small: Vec<(u64, u64)> = areas.filter(|(_, size)| *size < 1 << 32).collect();
            pages_once(small);
        }
        Err(reason) => assert!(!remedy::for_unsuitable(&reason).is_empty()),
    }
}

/// A small image, so that thousands of them can be made: its tables are in the last 4 KiB.
fn small() -> Vec<u8> {
    Image::with(|image| image.size = 0x1_0000).bytes()
}

/// Numbers that are likely to hit an edge.
fn any_word() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        0_u32..0x40,
        (0_u32..0x20).prop_map(|bit| 1 << bit),
        (0_u32..0x40).prop_map(|below| u32::MAX - below),
    ]
}

proptest! {
    #[test]
    fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..9000)) {
        ask(&bytes);
    }

    #[test]
    fn any_bytes_before_a_good_footer_get_an_answer(
        mut bytes in proptest::collection::vec(any::<u8>(), 0x1000..0x1200),
        length in any::<u16>(),
    ) {
        let end = bytes.len() - 0x20;
        let footer = casemate_firmware_images::guid(casemate_firmware_images::FOOTER);
        bytes[end - 16..end].copy_from_slice(&footer);
        bytes[end - 18..end - 16].copy_from_slice(&length.to_le_bytes());
        ask(&bytes);
    }

    #[test]
    fn an_image_with_any_words_in_its_tables_gets_an_answer(
        changes in proptest::collection::vec((0_usize..0xa80, any_word()), 1..6),
    ) {
        let mut bytes = small();
        for (from_end, word) in changes {
            let start = bytes.len() - 4 - from_end;
            bytes[start..start + 4].copy_from_slice(&word.to_le_bytes());
        }
        ask(&bytes);
    }

    #[test]
    fn an_image_that_was_cut_gets_an_answer(length in 0_usize..0x1_0000, end in any::<bool>()) {
        let bytes = small();
        ask(if end { &bytes[bytes.len() - length..] } else { &bytes[..length] });
    }

    /// Every change of one bit, or of a few that are near each other, changes a CRC-32.
    #[test]
    fn an_igvm_file_with_a_changed_header_is_refused(
        at in 0_usize..160,
        bits in 1_u8..,
    ) {
        let mut bytes = Igvm::good().bytes();
        bytes[at] ^= bits;
        prop_assert!(igvm::inspect(&bytes).is_err());
    }

    #[test]
    fn igvm_headers_of_any_kind_get_an_answer(
        headers in proptest::collection::vec(
            (
                prop_oneof![Just(1_u32), any_word()],
                proptest::option::of(any_word()),
                proptest::collection::vec(any::<u8>(), 0..24),
            ),
            0..12,
        ),
        version in 1_u32..3,
    ) {
        let file = Igvm::with(|file| {
            file.headers = headers;
            file.version = version;
        });
        ask(&file.bytes());
    }
}
