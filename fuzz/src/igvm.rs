//! What has to hold of an IGVM file, and the repair of its header: a CRC-32 guards the headers, and a
//! fuzzer does not find one that fits.

use casemate_firmware::igvm::{self, Directive, Igvm, IgvmError, PageContent, PlatformKind};
use casemate_firmware::remedy;
use casemate_firmware::suitable::for_snp_igvm;
use casemate_firmware_images::crc32;

use crate::ovmf::unsuitable;
use crate::reader::{Failing, Strict};
use crate::text::assert_sentence;

const PAGE: u64 = 4096;
const TOTAL_SIZE: std::ops::Range<usize> = 16..20;
const CHECKSUM: std::ops::Range<usize> = 20..24;

/// The same file with the size that it has and the checksum of its headers, where they are in it.
pub fn repaired(bytes: &[u8]) -> Vec<u8> {
    let mut file = bytes.to_vec();
    let word = |file: &[u8], at: usize| {
        let bytes = file.get(at..).and_then(<[u8]>::first_chunk::<4>);
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
    };
    let fixed = if word(&file, 4) == 2 { 32 } else { 24 };
    if file.len() < fixed {
        return file;
    }
    let size = u32::try_from(file.len()).unwrap_or(u32::MAX);
    file[TOTAL_SIZE].copy_from_slice(&size.to_le_bytes());
    file[CHECKSUM].fill(0);
    let (offset, length) = (word(&file, 8), word(&file, 12));
    let headers = offset
        .checked_add(length)
        .and_then(|end| file.get(offset..end))
        .unwrap_or_default();
    let checksum = crc32(&[&file[..fixed], headers].concat());
    file[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    file
}

/// Everything that is asked of an IGVM file.
pub fn ask(bytes: &[u8]) {
    let file = Strict(bytes);
    match igvm::inspect(&file) {
        Err(error) => refused(&error),
        Ok(headers) => judge(&headers, bytes),
    }
    judge_directives(bytes);
    for (reads, short) in [(0, false), (1, true), (2, false)] {
        let file = Failing::after(reads, short, bytes);
        let answer = igvm::inspect(&file);
        if file.failed() {
            let error = answer.expect_err("a read failed");
            assert!(matches!(error, IgvmError::Read(_)), "{error}");
            assert_sentence(&error.to_string());
        }
    }
}

fn refused(error: &IgvmError) {
    assert!(!matches!(error, IgvmError::Read(_)), "{error}");
    assert_sentence(&error.to_string());
    assert_sentence(remedy::for_igvm_error(error));
}

fn judge(headers: &Igvm, bytes: &[u8]) {
    assert_eq!(headers.size, bytes.len() as u64);
    assert!(matches!(headers.version, 1 | 2));
    let mut masks = 0;
    for (index, platform) in headers.platforms.iter().enumerate() {
        assert!(platform.compatibility_mask.is_power_of_two());
        assert_eq!(masks & platform.compatibility_mask, 0);
        masks |= platform.compatibility_mask;
        let mut earlier = headers.platforms.iter().take(index);
        assert!(!earlier.any(|other| other.kind == platform.kind));
        let policy = headers.policy(platform);
        assert!(
            policy.is_none()
                || headers
                    .policies
                    .iter()
                    .any(|one| one.compatibility_mask & platform.compatibility_mask != 0)
        );
    }
    match for_snp_igvm(headers) {
        Ok(platform) => {
            assert_eq!(platform.kind, PlatformKind::SevSnp);
            assert_eq!(platform.version, 1);
            assert!(headers.platforms.contains(&platform));
            assert!(headers.directives > 0 && headers.page_size == 4096);
        }
        Err(reason) => unsuitable(&reason),
    }
}

fn judge_directives(bytes: &[u8]) {
    let of = |mask| igvm::directives(&Strict(bytes), mask);
    let headers = igvm::inspect(&Strict(bytes)).ok();
    let all = of(u32::MAX);
    match &all {
        Ok(found) => {
            for directive in found {
                assert_directive(directive, bytes.len() as u64);
            }
            if let Some(headers) = &headers {
                assert!(found.len() <= headers.directives as usize);
            }
        }
        Err(error) => refused(error),
    }
    let masks = headers.iter().flat_map(|headers| {
        let platforms = headers.platforms.iter();
        platforms.map(|platform| platform.compatibility_mask)
    });
    for mask in masks.chain([0, 1, 2, 3, 1 << 31]) {
        match (of(mask), &all) {
            (Ok(found), Ok(all)) => assert!(is_part_of(&found, all), "{found:?} {all:?}"),
            (Ok(found), Err(_)) => {
                for directive in &found {
                    assert_directive(directive, bytes.len() as u64);
                }
                assert!(mask != 0 || found.is_empty());
            }
            (Err(error), Err(_)) => refused(&error),
            (Err(error), Ok(_)) => {
                panic!("{error}, for {mask:#x} and not for all platforms")
            }
        }
    }
}

/// Some of the others, in their order.
fn is_part_of(some: &[Directive], all: &[Directive]) -> bool {
    let mut all = all.iter();
    some.iter().all(|one| all.any(|other| other == one))
}

fn assert_directive(directive: &Directive, file_size: u64) {
    let is_page_of_file = |offset: u32| u64::from(offset) + PAGE <= file_size;
    match directive {
        Directive::Page { gpa, content, .. } => {
            assert!(gpa.is_multiple_of(PAGE));
            if let PageContent::Measured(Some(offset)) = content {
                assert!(*offset != 0 && is_page_of_file(*offset));
            }
        }
        Directive::VpContext { offset, .. } => assert!(is_page_of_file(*offset)),
        Directive::Parameters { .. } | Directive::IdBlock(_) => {}
    }
}
