//! Which bytes of a kernel Authenticode hashes.

use casemate_backend::register::hex;
use sha2::{Digest, Sha384};

use super::super::tests::{kernel, put};
use super::*;

fn digest(file: &[u8]) -> String {
    let ranges = hashed(&file).expect("it is an application");
    let mut hash = Sha384::new();
    for (offset, length) in ranges {
        hash.update(&file[offset as usize..(offset + length) as usize]);
    }
    hex(&hash.finalize())
}

/// Start of the optional header.
const OPTIONAL: usize = 0x98;

/// The values are those of Python's `signify` 0.9.3 (`SignedPEFile.get_fingerprint`).
#[test]
fn digests_are_those_of_other_tools() {
    let good = kernel("6.12.5");
    let mut unsigned = good.clone();
    put(&mut unsigned, OPTIONAL + 144, &[0; 8]);
    let mut no_entry = good.clone();
    put(&mut no_entry, 0x94, &144_u16.to_le_bytes());
    put(&mut no_entry, OPTIONAL + 108, &4_u32.to_le_bytes());
    let table = good[0x138..0x1b0].to_vec();
    put(&mut no_entry, 0x128, &table);
    for (name, file, expected) in [
        (
            "signed",
            good,
            "7234a43a50aef32a0538fda8c0cf785dcafe8c6e8c4b7d531c42854063aa0f99c93f4793db283a1525915f62bd3d4583",
        ),
        (
            "unsigned",
            unsigned,
            "7a3c7a96030efc78b4bce67712df5746d8d2aa6f57611cdcef1e4e0bf0e45acaa618bb65254c13e686ddeccad6b6425b",
        ),
        (
            "without an entry",
            no_entry,
            "d2eb280b9fb2416ea68bff023f49adb84b3ec233224b3deff4e61344b11b73d30ffeed9dce1a344a5b0bcd53d88d7d60",
        ),
    ] {
        assert_eq!(digest(&file), expected, "{name}");
    }
}

#[test]
fn what_a_signature_changes_is_not_hashed_and_all_else_is() {
    let good = kernel("6.12.5");
    let expected = digest(&good);
    for at in 0..good.len() {
        let mut other = good.clone();
        other[at] ^= 0x10;
        let left_out = matches!(at, 0xd8..0xdc | 0x128..0x130 | 0xf80..0x1000);
        match hashed(&other.as_slice()) {
            Ok(_) if left_out && !(0x12c..0x130).contains(&at) => {
                assert_eq!(digest(&other), expected, "{at:#x}");
            }
            Ok(_) => assert_ne!(digest(&other), expected, "{at:#x}"),
            Err(_) => assert!(!(0x1b0..0x1000).contains(&at), "{at:#x}"),
        }
    }
}

#[test]
fn what_the_firmware_would_not_start_is_refused() {
    let good = kernel("6.12.5");
    let with = |at: usize, content: &[u8]| {
        let mut file = good.clone();
        put(&mut file, at, content);
        file
    };
    let text_section = 0x138;
    for (file, expected) in [
        (
            Vec::new(),
            "64 bytes are wanted at 0x0, and the file ends at 0x0",
        ),
        (
            with(0, b"ZM"),
            "it does not begin with MZ, so it has no EFI stub",
        ),
        (with(0x3c, &[0xff; 4]), "24 bytes are wanted at 0xffffffff"),
        (with(0x80, b"NE"), "it has no PE header"),
        (with(0x84, &[0x4c, 1]), "it is for machine 0x14c"),
        (with(0x86, &[97, 0]), "it has 97 sections"),
        (with(0x94, &[111, 0]), "its header is too short"),
        (with(0x94, &[0xff; 2]), "65535 bytes are wanted"),
        (with(OPTIONAL, &[0x0b, 1]), "it is not of the form PE32+"),
        (with(OPTIONAL + 68, &[11]), "its subsystem is 11"),
        (
            with(OPTIONAL + 108, &[5]),
            "its header does not fit its number of directories",
        ),
        (
            with(OPTIONAL + 108, &[0xff; 4]),
            "its header does not fit its number of directories",
        ),
        (
            with(OPTIONAL + 60, &[0xaf, 1]),
            "its headers end at a place that cannot be",
        ),
        (
            with(OPTIONAL + 60, &[1, 0x10]),
            "its headers end at a place that cannot be",
        ),
        (with(text_section + 20, &[0xff, 7]), "its sections overlap"),
        (with(text_section + 20, &[0, 3]), "its sections overlap"),
        (
            with(text_section + 16, &[1, 8]),
            "its sections end after the file",
        ),
        (
            with(OPTIONAL + 148, &[1, 2]),
            "its certificates are longer than what is left for them",
        ),
    ] {
        let reason = hashed(&file).expect_err(expected);
        let start = "the kernel is no EFI application that firmware for x86_64 starts: ";
        let detail = reason.strip_prefix(start).expect(start);
        assert!(detail.starts_with(expected), "{reason}");
    }
}

/// A table of many sections would have the host hash for a long time.
#[test]
fn no_more_than_the_file_is_hashed() {
    let mut gap = kernel("6.12.5");
    // A gap before the last section: the firmware takes what is after the sum of all.
    put(&mut gap, 0x138 + 20, &0x900_u32.to_le_bytes());
    let ranges = hashed(&gap).expect("it is an application");
    let total: u64 = ranges.iter().map(|(_, length)| length).sum();
    assert!(total <= gap.len() as u64);
    assert_eq!(ranges.last(), Some(&(0xe00, 0x180)));
    assert!(ranges.contains(&(0x900, 0x600)));
}
