//! What people read: one sentence for each reason, with what was found, and a remedy that names
//! where the right file is.

use casemate_firmware::igvm::{Architecture, IgvmError, PlatformKind};
use casemate_firmware::ovmf::{OvmfError, SevSectionKind, TABLE_FOOTER};
use casemate_firmware::suitable::NoKernelHashes;
use casemate_firmware::tdvf::{SectionFault, TdvfSectionKind};
use casemate_firmware::{Area, Guest, MetadataError, ReadError, Unsuitable, remedy};

const AMD: &[&str] = &["ovmf-amdsev", "OVMF.amdsev.fd"];
const INTEL: &[&str] = &["ovmf-inteltdx", "OVMF.inteltdx.ms.fd"];
const SVSM: &[&str] = &["COCONUT-SVSM", "coconut-qemu.igvm"];

fn assert_sentence(text: &str) {
    assert!(!text.is_empty());
    assert!(!text.ends_with(['.', ' ', ':']), "{text}");
    assert!(!text.contains(". ") && !text.contains("  "), "{text}");
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(text.chars().count() < 300, "{text}");
}

fn assert_pair(message: &str, found: &[&str], remedy: &str, places: &[&str]) {
    for (text, parts) in [(message, found), (remedy, places)] {
        assert_sentence(text);
        for part in parts {
            assert!(text.contains(part), "{text:?} has no {part:?}");
        }
    }
}

/// Each reason with words of what was found and where its remedy leads.
#[test]
fn reasons_say_what_was_found_and_remedies_where_to_go() {
    let area = Area {
        base: 0x81_0c00,
        size: 0x400,
    };
    let cases: Vec<(Unsuitable, &[&str], &[&str])> = vec![
        (
            Unsuitable::BiosSize {
                guest: Guest::Snp,
                size: 3_653_632,
            },
            &["3653632", "SEV-SNP", "64 KiB"],
            AMD,
        ),
        (
            Unsuitable::BiosSize {
                guest: Guest::Tdx,
                size: 5,
            },
            &["5 bytes", "TDX"],
            INTEL,
        ),
        (
            Unsuitable::BiosSize {
                guest: Guest::SnpIgvm,
                size: 5,
            },
            &["5 bytes", "SEV-SNP"],
            SVSM,
        ),
        (Unsuitable::NoResetBlock, &["information block"], AMD),
        (Unsuitable::ResetAddressZero, &["reset address", "0"], AMD),
        (Unsuitable::NoSevMetadata, &["SEV metadata", "SEV-ES"], AMD),
        (
            Unsuitable::SevMetadata(MetadataError::Signature {
                found: *b"A\x1b\"V",
                wanted: *b"ASEV",
            }),
            &["SEV metadata is broken", "A\\x1b\\\"V", "ASEV"],
            AMD,
        ),
        (Unsuitable::NoSevSections, &["no section"], AMD),
        (
            Unsuitable::UnknownSevSection {
                position: 3,
                number: 0x20,
            },
            &["section 3", "0x20"],
            AMD,
        ),
        (
            Unsuitable::EmptySevSection {
                position: 5,
                kind: SevSectionKind::SvsmCallingArea,
            },
            &["section 5", "SVSM_CAA", "empty"],
            AMD,
        ),
        (
            Unsuitable::UnalignedSevSection {
                position: 1,
                kind: SevSectionKind::Memory,
                area,
            },
            &["section 1", "SEC_MEM", "0x810c00+0x400"],
            AMD,
        ),
        (
            Unsuitable::Overlap {
                guest: Guest::Snp,
                first: 1,
                second: 7,
            },
            &["1 and 7", "SEV metadata"],
            AMD,
        ),
        (
            Unsuitable::Overlap {
                guest: Guest::Tdx,
                first: 2,
                second: 3,
            },
            &["2 and 3", "TDX metadata"],
            INTEL,
        ),
        (
            Unsuitable::KernelHashes(NoKernelHashes::NoEntry),
            &["no area"],
            AMD,
        ),
        (
            Unsuitable::KernelHashes(NoKernelHashes::AreaEmpty),
            &["built without"],
            AMD,
        ),
        (
            Unsuitable::KernelHashes(NoKernelHashes::AreaTooSmall { size: 8 }),
            &["8 bytes", "176"],
            AMD,
        ),
        (
            Unsuitable::KernelHashes(NoKernelHashes::NoSection),
            &["KERNEL_HASHES", "measured"],
            AMD,
        ),
        (
            Unsuitable::KernelHashes(NoKernelHashes::OutsideSection {
                area,
                section: Area {
                    base: 0x80_0000,
                    size: 0x1000,
                },
            }),
            &["0x810c00+0x400", "0x800000+0x1000"],
            AMD,
        ),
        (Unsuitable::NoTdxMetadata, &["no TDX metadata"], INTEL),
        (
            Unsuitable::TdxMetadata(MetadataError::Version { found: 9 }),
            &["TDX metadata is broken", "9"],
            INTEL,
        ),
        (
            Unsuitable::FewTdxSections { count: 1 },
            &["1 sections"],
            INTEL,
        ),
        (
            Unsuitable::TdxSection {
                position: 7,
                kind: TdvfSectionKind::Payload,
                fault: SectionFault::Unsupported,
            },
            &["section 7", "PAYLOAD", "QEMU does not take"],
            INTEL,
        ),
        (
            Unsuitable::TdxSection {
                position: 1,
                kind: TdvfSectionKind::BootVolume,
                fault: SectionFault::DataOutsideFile,
            },
            &["section 1", "BFV", "behind the end"],
            &["ovmf-inteltdx", "combined"],
        ),
        (Unsuitable::NoResetVector, &["BFV", "0xfffffff0"], INTEL),
        (Unsuitable::NoHandOffBlock, &["TD_HOB"], INTEL),
        (
            Unsuitable::IgvmArchitecture {
                found: Architecture::Aarch64,
            },
            &["aarch64"],
            SVSM,
        ),
        (Unsuitable::IgvmPageSize { found: 65536 }, &["65536"], SVSM),
        (
            Unsuitable::NoSnpPlatform { found: vec![] },
            &["no platform", "SEV-SNP"],
            SVSM,
        ),
        (
            Unsuitable::NoSnpPlatform {
                found: vec![PlatformKind::Tdx, PlatformKind::Vsm],
            },
            &["no SEV-SNP platform but TDX, VSM"],
            SVSM,
        ),
        (
            Unsuitable::SnpPlatformVersion { found: 2 },
            &["version 2"],
            SVSM,
        ),
        (Unsuitable::NoDirectives, &["nothing"], SVSM),
    ];
    for (reason, found, places) in cases {
        let remedy = remedy::for_unsuitable(&reason);
        assert_pair(&reason.to_string(), found, remedy, places);
    }
}

#[test]
fn files_that_are_good_for_nothing_have_words_and_a_remedy_too() {
    let read = || ReadError {
        offset: 0x10,
        reason: "input/output error".to_owned(),
    };
    let guid = TABLE_FOOTER;
    const READ: &[&str] = &["cannot be read", "permissions"];
    const AGAIN: &[&str] = &["copy the file again", "COCONUT-SVSM"];
    let of_ovmf: [(OvmfError, &str); 6] = [
        (OvmfError::TooSmall { size: 3 }, "3 bytes"),
        (OvmfError::NoTable { found: guid }, "96b582de"),
        (
            OvmfError::TableLength {
                length: 5,
                most: 0xfe0,
            },
            "5 bytes",
        ),
        (OvmfError::EntryBroken { guid, length: 3 }, "3 bytes"),
        (OvmfError::TableRest { bytes: 3 }, "3 bytes"),
        (
            OvmfError::EntryShort {
                guid,
                bytes: 1,
                wanted: 4,
            },
            "1 bytes",
        ),
    ];
    for (guest, places) in [
        (Guest::Snp, AMD),
        (Guest::Tdx, INTEL),
        (Guest::SnpIgvm, SVSM),
    ] {
        for (error, found) in &of_ovmf {
            assert_pair(
                &error.to_string(),
                &[found],
                remedy::for_ovmf_error(error, guest),
                places,
            );
        }
        let error = OvmfError::Read(read());
        let remedy = remedy::for_ovmf_error(&error, guest);
        assert_pair(&error.to_string(), &["0x10", "input/output"], remedy, READ);
    }
    let of_igvm: [(IgvmError, &str, &[&str]); 13] = [
        (IgvmError::Read(read()), "input/output", READ),
        (IgvmError::TooSmall { size: 3 }, "3 bytes", SVSM),
        (IgvmError::Magic { found: *b"\x7fELF" }, "\\x7fELF", SVSM),
        (IgvmError::Version { found: 3 }, "version 3", SVSM),
        (
            IgvmError::TotalSize {
                stated: 1,
                file_size: 2,
            },
            "1 bytes",
            AGAIN,
        ),
        (
            IgvmError::HeadersMisplaced {
                offset: 1,
                size: 2,
                file_size: 3,
            },
            "0x2 bytes at 0x1",
            SVSM,
        ),
        (IgvmError::HeadersTooLong { size: 9 }, "9 bytes", SVSM),
        (
            IgvmError::Checksum {
                stated: 1,
                computed: 2,
            },
            "0x00000002",
            AGAIN,
        ),
        (
            IgvmError::HeaderCut {
                offset: 1,
                length: 2,
            },
            "2 bytes",
            SVSM,
        ),
        (IgvmError::PlatformLate { offset: 1 }, "0x1", SVSM),
        (
            IgvmError::PlatformLength {
                offset: 1,
                length: 2,
            },
            "2 bytes instead of 16",
            SVSM,
        ),
        (
            IgvmError::PlatformMask {
                kind: PlatformKind::SevSnp,
                mask: 3,
            },
            "SEV-SNP platform is 0x3",
            SVSM,
        ),
        (
            IgvmError::PlatformRepeated {
                kind: PlatformKind::SevSnp,
            },
            "SEV-SNP platform twice",
            SVSM,
        ),
    ];
    for (error, found, places) in of_igvm {
        assert_pair(
            &error.to_string(),
            &[found],
            remedy::for_igvm_error(&error),
            places,
        );
    }
    for error in [
        MetadataError::StartOutsideFile {
            offset_from_end: 1,
            file_size: 0,
        },
        MetadataError::EndOutsideFile {
            start: 1,
            length: 2,
            file_size: 2,
        },
        MetadataError::TooManySections { count: 65 },
        MetadataError::Length {
            found: 1,
            wanted: 2,
            count: 3,
        },
    ] {
        assert_sentence(&error.to_string());
    }
}
