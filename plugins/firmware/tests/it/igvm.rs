//! Headers of IGVM files. The layout is that of the crate `igvm_defs`; the checksum has an
//! implementation of its own here, which its own test holds against the known check value.

use casemate_firmware::igvm::{self, Architecture, IgvmError, PlatformKind};
use casemate_firmware::suitable::{Unsuitable, for_snp_igvm};

use casemate_firmware_images::{Igvm, platform};

#[test]
fn a_file_is_told_as_it_is_in_both_versions() {
    for version in [1, 2] {
        let file = Igvm::with(|file| file.version = version);
        let bytes = file.bytes();
        let found = igvm::inspect(&bytes).expect("it is good");
        assert_eq!(found.version, version);
        assert_eq!(found.size, bytes.len() as u64);
        assert_eq!(found.architecture, Architecture::X64);
        assert_eq!(found.page_size, 0x1000);
        assert_eq!(found.directives, 2);
        // The policy is for the second platform alone.
        let policies: Vec<_> = found.platforms.iter().map(|p| found.policy(p)).collect();
        assert_eq!(policies, [None, Some(0x3_0000)]);
        let kinds: Vec<PlatformKind> = found.platforms.iter().map(|p| p.kind).collect();
        assert_eq!(kinds, [PlatformKind::Native, PlatformKind::SevSnp]);

        let snp = for_snp_igvm(&found).expect("it has the platform");
        assert_eq!(snp.compatibility_mask, 2);
        assert_eq!(snp.highest_vtl, 2);
        assert_eq!(snp.version, 1);
        assert_eq!(snp.shared_gpa_boundary, 0x7fff);
    }
}

#[test]
fn each_broken_file_has_its_own_error() {
    type Change = fn(&mut Igvm);
    // The good file has 32 bytes of fixed header, 24 of either platform, then 24, 24 and 32.
    const SIZE: u64 = 32 + 128 + 0x1000;
    let cases: [(&str, Change, IgvmError); 19] = [
        (
            "magic",
            |f| f.magic = *b"MVGI",
            IgvmError::Magic { found: *b"MVGI" },
        ),
        (
            "version 0",
            |f| f.version = 0,
            IgvmError::Version { found: 0 },
        ),
        (
            "version 3",
            |f| f.version = 3,
            IgvmError::Version { found: 3 },
        ),
        (
            "a byte too much",
            |f| f.total = Some(SIZE as u32 - 1),
            IgvmError::TotalSize {
                stated: SIZE as u32 - 1,
                file_size: SIZE,
            },
        ),
        (
            "a byte too few",
            |f| f.total = Some(SIZE as u32 + 1),
            IgvmError::TotalSize {
                stated: SIZE as u32 + 1,
                file_size: SIZE,
            },
        ),
        (
            "headers within the fixed header",
            |f| f.offset = Some(24),
            IgvmError::HeadersMisplaced {
                offset: 24,
                size: 128,
                file_size: SIZE,
            },
        ),
        (
            "headers not at a multiple of eight",
            |f| f.offset = Some(36),
            IgvmError::HeadersMisplaced {
                offset: 36,
                size: 128,
                file_size: SIZE,
            },
        ),
        (
            "headers past the end",
            |f| f.headers_size = Some(128 + 0x1001),
            IgvmError::HeadersMisplaced {
                offset: 32,
                size: 128 + 0x1001,
                file_size: SIZE,
            },
        ),
        (
            "headers of all 32 bits",
            |f| f.headers_size = Some(u32::MAX),
            IgvmError::HeadersMisplaced {
                offset: 32,
                size: u32::MAX,
                file_size: SIZE,
            },
        ),
        (
            "more headers than are read",
            |f| f.headers.push((0x302, None, vec![0; 4 << 20])),
            IgvmError::HeadersTooLong {
                size: 128 + 8 + (4 << 20),
            },
        ),
        (
            "a header that passes the end",
            |f| f.headers[4].1 = Some(25),
            IgvmError::HeaderCut {
                offset: 128,
                length: 25,
            },
        ),
        (
            "a length that cannot be padded",
            |f| f.headers[4].1 = Some(u32::MAX),
            IgvmError::HeaderCut {
                offset: 128,
                length: u32::MAX,
            },
        ),
        (
            "half of a type and length",
            |f| f.headers_size = Some(128 - 28),
            IgvmError::HeaderCut {
                offset: 128,
                length: 8,
            },
        ),
        (
            "a platform after what is none",
            |f| f.headers.push(platform(4, 3, 1)),
            IgvmError::PlatformLate { offset: 160 },
        ),
        (
            "a short platform",
            |f| f.headers[1].1 = Some(15),
            IgvmError::PlatformLength {
                offset: 56,
                length: 15,
            },
        ),
        (
            "no mask",
            |f| f.headers[1] = platform(0, 2, 1),
            IgvmError::PlatformMask {
                kind: PlatformKind::SevSnp,
                mask: 0,
            },
        ),
        (
            "two bits",
            |f| f.headers[1] = platform(6, 2, 1),
            IgvmError::PlatformMask {
                kind: PlatformKind::SevSnp,
                mask: 6,
            },
        ),
        (
            "the bit of another",
            |f| f.headers[1] = platform(1, 2, 1),
            IgvmError::PlatformMask {
                kind: PlatformKind::SevSnp,
                mask: 1,
            },
        ),
        (
            "one platform twice",
            |f| f.headers[1] = platform(2, 0, 1),
            IgvmError::PlatformRepeated {
                kind: PlatformKind::Native,
            },
        ),
    ];
    for (name, change, expected) in cases {
        let file = Igvm::with(|file| {
            change(file);
            // Sizes that were set above may end the headers elsewhere than the checksum of the
            // builder does.
            if let Some(size) = file.headers_size.filter(|size| *size < 128) {
                let end = 32 + size as usize;
                file.checksum = Some(checksum_of(file, end));
            }
        });
        assert_eq!(igvm::inspect(&file.bytes()), Err(expected), "{name}");
    }
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("23 bytes", Igvm::good().bytes()[..23].to_vec()),
        ("31 bytes of version 2", Igvm::good().bytes()[..31].to_vec()),
    ] {
        let size = bytes.len() as u64;
        assert_eq!(
            igvm::inspect(&bytes),
            Err(IgvmError::TooSmall { size }),
            "{name}"
        );
    }
    let wrong = Igvm::with(|file| file.checksum = Some(1)).bytes();
    match igvm::inspect(&wrong) {
        Err(IgvmError::Checksum {
            stated: 1,
            computed,
        }) => {
            let right = Igvm::good().bytes();
            assert_eq!(right[20..24], computed.to_le_bytes());
        }
        other => panic!("{other:?}"),
    }
}

fn checksum_of(file: &Igvm, end: usize) -> u32 {
    let mut bytes = file.bytes();
    bytes[20..24].fill(0);
    casemate_firmware_images::crc32(&bytes[..end])
}

/// A header whose type has the high bit may be skipped by a loader that does not know it, so such a
/// one is no platform and no directive either.
#[test]
fn unknown_headers_are_skipped_by_their_length() {
    for (kind, directives) in [
        (0x8000_0777, 2),
        (0x8000_0310, 2),
        (0x8000_0001, 2),
        (0x7fff_ffff, 2),
        (0x100, 2),
        (0x200, 2),
        (0x300, 2),
        (0x301, 22),
        (0x400, 22),
        (0x401, 2),
    ] {
        let file = Igvm::with(|file| {
            for length in 0..20 {
                file.headers.insert(3, (kind, None, vec![3; length]));
            }
        });
        let found = igvm::inspect(&file.bytes()).expect("it is good");
        assert_eq!(found.platforms.len(), 2, "{kind:#x}");
        assert_eq!(found.directives, directives, "{kind:#x}");
    }
}

/// Platforms come first, and what nobody knows ends no part.
#[test]
fn a_platform_is_late_after_a_header_of_another_part() {
    for (kind, late) in [
        (0x2, false),
        (0x100, false),
        (0x8000_0101, false),
        (0x101, true),
        (0x200, true),
        (0x301, true),
        (0x400, true),
    ] {
        let file = Igvm::with(|file| file.headers.insert(1, (kind, None, vec![])));
        let found = igvm::inspect(&file.bytes());
        let is_late = found == Err(IgvmError::PlatformLate { offset: 64 });
        assert_eq!(is_late, late, "{kind:#x}: {found:?}");
        assert_eq!(found.is_ok(), !late, "{kind:#x}");
    }
}

#[test]
fn each_rule_of_snp_has_its_reason() {
    type Change = fn(&mut Igvm);
    let cases: [(&str, Change, Unsuitable); 8] = [
        (
            "aarch64",
            |f| f.architecture = 1,
            Unsuitable::IgvmArchitecture {
                found: Architecture::Aarch64,
            },
        ),
        (
            "unknown architecture",
            |f| f.architecture = 9,
            Unsuitable::IgvmArchitecture {
                found: Architecture::Unknown(9),
            },
        ),
        (
            "large pages",
            |f| f.page_size = 0x1_0000,
            Unsuitable::IgvmPageSize { found: 0x1_0000 },
        ),
        (
            "no platform",
            |f| drop(f.headers.drain(..2)),
            Unsuitable::NoSnpPlatform { found: vec![] },
        ),
        (
            "all platforms but this",
            |f| {
                let others = [(1, 0), (2, 1), (4, 3), (8, 4), (16, 5), (32, 6), (64, 7)];
                f.headers
                    .splice(..2, others.map(|(mask, kind)| platform(mask, kind, 1)));
            },
            Unsuitable::NoSnpPlatform {
                found: vec![
                    PlatformKind::Native,
                    PlatformKind::Vsm,
                    PlatformKind::Tdx,
                    PlatformKind::Sev,
                    PlatformKind::SevEs,
                    PlatformKind::Cca,
                    PlatformKind::Unknown(7),
                ],
            },
        ),
        (
            "platform of version 0",
            |f| f.headers[1] = platform(2, 2, 0),
            Unsuitable::SnpPlatformVersion { found: 0 },
        ),
        (
            "platform of version 2",
            |f| f.headers[1] = platform(2, 2, 2),
            Unsuitable::SnpPlatformVersion { found: 2 },
        ),
        (
            "\"Invalid directive header count\" of QEMU",
            |f| f.headers.truncate(3),
            Unsuitable::NoDirectives,
        ),
    ];
    for (name, change, expected) in cases {
        let file = igvm::inspect(&Igvm::with(change).bytes()).expect(name);
        assert_eq!(for_snp_igvm(&file), Err(expected), "{name}");
    }
}
