//! The table at the end of an OVMF image and the metadata that it leads to.

use casemate_firmware::ovmf::{self, OvmfError, SevSectionKind};
use casemate_firmware::tdvf::{TDVF_GUID, TdvfSectionKind};
use casemate_firmware::{Area, MetadataError};

use casemate_firmware_images::{
    FOOTER, HASH_TABLE, INFO_BLOCK, Image, SECRET_BLOCK, SEV_METADATA, TDX_METADATA, guid,
    sev_section, words,
};

fn area(base: u64, size: u64) -> Area {
    Area { base, size }
}

/// What is expected was read from Debian's file by a script of another language; see
/// [`crate::images`].
#[test]
fn an_image_is_told_as_it_is() {
    let found = ovmf::inspect(&Image::good().bytes()).expect("it is good");
    assert_eq!(found.size, 0x40_0000);
    let guids: Vec<String> = found.entries.iter().map(|e| e.guid.to_string()).collect();
    assert_eq!(
        guids,
        [
            INFO_BLOCK,
            SECRET_BLOCK,
            HASH_TABLE,
            SEV_METADATA,
            TDX_METADATA
        ]
    );

    let sev = found.sev.expect("it has entries for SEV");
    assert_eq!(sev.reset_address, Some(0x80_b004));
    assert_eq!(sev.secret_block, Some(area(0x81_0000, 0xc00)));
    assert_eq!(sev.hash_table, Some(area(0x81_0c00, 0x400)));
    let sections = sev.metadata.expect("it is there").expect("it is good");
    let kinds: Vec<SevSectionKind> = sections.iter().map(|section| section.kind).collect();
    use SevSectionKind::{Cpuid, KernelHashes, Memory, Secrets, SvsmCallingArea};
    assert_eq!(
        kinds,
        [
            Memory,
            Memory,
            Secrets,
            Cpuid,
            SvsmCallingArea,
            Memory,
            KernelHashes
        ]
    );
    assert_eq!(sections[5].area, area(0x81_1000, 0x1_f000));

    let tdvf = found.tdx.expect("it is there").expect("it is good");
    assert_eq!(tdvf.guid, Some(TDVF_GUID));
    let boot = tdvf.sections[0];
    assert_eq!(boot.kind, TdvfSectionKind::BootVolume);
    assert_eq!((boot.data_offset, boot.data_size), (0x8_4000, 0x37_c000));
    assert_eq!(boot.memory, area(0xffc8_4000, 0x37_c000));
    assert_eq!(boot.attributes, 1);
    assert_eq!(tdvf.sections.len(), 7);
}

#[test]
fn what_is_not_there_is_not_found() {
    let found = ovmf::inspect(
        &Image::with(|image| {
            image.entries.clear();
            image.sev = None;
            image.tdx = None;
        })
        .bytes(),
    )
    .expect("an empty table is a table");
    assert!(found.entries.is_empty());
    assert_eq!(found.sev, None);
    assert_eq!(found.tdx, None);
}

/// QEMU's search (`pc_system_ovmf_table_find`) starts at the end and takes what it meets first.
#[test]
fn of_two_entries_the_one_nearer_the_end_counts() {
    let image = Image::with(|image| image.entries.insert(1, (INFO_BLOCK, words(&[7]))));
    let sev = ovmf::inspect(&image.bytes()).expect("it is good").sev;
    assert_eq!(sev.expect("there").reset_address, Some(0x80_b004));
}

/// A table may be as long as its length can say. Most of it are entries that nobody knows.
#[test]
fn a_long_table_with_unknown_entries_is_read() {
    const UNKNOWN: &str = "784fa70e-3176-4677-8a20-04b68699e374";
    let image = Image::with(|image| {
        for _ in 0..600 {
            image.entries.insert(0, (UNKNOWN, vec![0x5a; 82]));
        }
        image.sev().offset = 0x2_0000;
        image.tdx().offset = 0x2_1000;
    });
    let found = ovmf::inspect(&image.bytes()).expect("it is good");
    assert_eq!(found.entries.len(), 605);
    assert_eq!(found.entries[0].guid.bytes(), guid(UNKNOWN));
    assert_eq!(found.entries[0].data, [0x5a; 82]);
    assert!(found.sev.is_some_and(|sev| sev.reset_address.is_some()));
}

/// The first byte of the file is the first of the table.
#[test]
fn a_table_may_fill_its_file() {
    let image = Image::with(|image| {
        image.size = 0x1000;
        image.sev = None;
        image.tdx = None;
        let others = 18 + 22 + 26 + 26;
        let data = vec![0x5a; 0xfe0 - others - 18];
        image
            .entries
            .push(("784fa70e-3176-4677-8a20-04b68699e374", data));
    });
    let found = ovmf::inspect(&image.bytes()).expect("it is good");
    assert_eq!(found.entries.len(), 4);
}

#[test]
fn each_broken_table_has_its_own_error() {
    let guid_of = |text: &str| {
        let image = Image::with(|image| image.entries = vec![(INFO_BLOCK, words(&[1]))]);
        let found = ovmf::inspect(&image.bytes()).expect("it is good");
        let entry = found.entries.iter().find(|e| e.guid.to_string() == text);
        entry.expect("it is known").guid
    };
    let table_of = |length: u16| {
        Image::with(|image| {
            image.size = 0x1000;
            image.sev = None;
            image.tdx = None;
            image.table_length = Some(length);
        })
    };
    // The table has 18 (footer) + 22 + 26 + 26 bytes. Its last entry is the hash table's.
    let cases: Vec<(&str, Vec<u8>, OvmfError)> = vec![
        ("empty", vec![], OvmfError::TooSmall { size: 0 }),
        (
            "a page less one byte",
            vec![0; 0xfff],
            OvmfError::TooSmall { size: 0xfff },
        ),
        (
            "shorter than its footer",
            table_of(17).bytes(),
            OvmfError::TableLength {
                length: 17,
                most: 0xfe0,
            },
        ),
        (
            "longer than the file",
            table_of(0xfe1).bytes(),
            OvmfError::TableLength {
                length: 0xfe1,
                most: 0xfe0,
            },
        ),
        (
            "one byte too long for its entries",
            table_of(93).bytes(),
            OvmfError::TableRest { bytes: 1 },
        ),
        (
            "17 bytes too long for its entries",
            table_of(109).bytes(),
            OvmfError::TableRest { bytes: 17 },
        ),
        (
            "an entry's worth too short",
            table_of(70).bytes(),
            OvmfError::TableRest { bytes: 4 },
        ),
        (
            "less data than the reset address has",
            Image::with(|image| *image.entry(INFO_BLOCK) = vec![1, 2, 3]).bytes(),
            OvmfError::EntryShort {
                guid: guid_of(INFO_BLOCK),
                bytes: 3,
                wanted: 4,
            },
        ),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(ovmf::inspect(&bytes), Err(expected), "{name}");
    }

    // An entry that says more than there is, and one that says less than its own header.
    for length in [27_u16, 17, 0, 0xffff] {
        let mut bytes = table_of(92).bytes();
        let end = bytes.len() - 0x20;
        // Footer, then the entries of 22 and 26 bytes: the third entry's length is before its GUID.
        let at = end - 18 - 22 - 26 - 18;
        bytes[at..at + 2].copy_from_slice(&length.to_le_bytes());
        match ovmf::inspect(&bytes) {
            Err(OvmfError::EntryBroken { guid, length: said }) => {
                assert_eq!((guid.to_string(), said), (HASH_TABLE.to_owned(), length));
            }
            other => panic!("{length}: {other:?}"),
        }
    }

    match ovmf::inspect(&Image::with(|image| image.footer = INFO_BLOCK).bytes()) {
        Err(OvmfError::NoTable { found }) => {
            assert_eq!(found.to_string(), INFO_BLOCK);
            let message = OvmfError::NoTable { found }.to_string();
            assert!(message.contains(INFO_BLOCK) && message.contains(FOOTER));
        }
        other => panic!("{other:?}"),
    }
}

/// Each is about one kind of guest, and the other kind's metadata is read all the same.
#[test]
fn each_broken_descriptor_has_its_own_error() {
    let size = 0x40_0000_u64;
    type Change = fn(&mut casemate_firmware_images::Metadata);
    let cases: [(&str, Change, MetadataError); 10] = [
        (
            "distance 0",
            |m| m.offset = 0,
            MetadataError::StartOutsideFile {
                offset_from_end: 0,
                file_size: size,
            },
        ),
        (
            "a byte before the file",
            |m| m.offset = 0x40_0001,
            MetadataError::StartOutsideFile {
                offset_from_end: 0x40_0001,
                file_size: size,
            },
        ),
        (
            "as far as can be said",
            |m| m.offset = u32::MAX,
            MetadataError::StartOutsideFile {
                offset_from_end: u32::MAX,
                file_size: size,
            },
        ),
        (
            "no room for the header",
            |m| m.offset = 15,
            MetadataError::EndOutsideFile {
                start: size - 15,
                length: 16,
                file_size: size,
            },
        ),
        (
            "signature",
            |m| m.signature = *b"A\n\"V",
            MetadataError::Signature {
                found: *b"A\n\"V",
                wanted: *b"????",
            },
        ),
        (
            "version 0",
            |m| m.version = 0,
            MetadataError::Version { found: 0 },
        ),
        (
            "version 2",
            |m| m.version = 2,
            MetadataError::Version { found: 2 },
        ),
        (
            "65 sections",
            |m| m.count = Some(65),
            MetadataError::TooManySections { count: 65 },
        ),
        (
            "more sections than can be counted",
            |m| m.count = Some(u32::MAX),
            MetadataError::TooManySections { count: u32::MAX },
        ),
        (
            "no byte for the sections",
            |m| m.length = Some(16),
            MetadataError::Length {
                found: 16,
                wanted: 0,
                count: 7,
            },
        ),
    ];
    for (name, change, expected) in cases {
        let image = Image::with(|image| change(image.sev()));
        let found = ovmf::inspect(&image.bytes()).expect("the table is good");
        assert!(matches!(found.tdx, Some(Ok(_))), "{name}");
        let sev = found.sev.expect("the table has it").metadata;
        let wanted = adapted(&expected, *b"ASEV", 16 + 7 * 12);
        assert_eq!(sev, Some(Err(wanted)), "SEV: {name}");

        let image = Image::with(|image| change(image.tdx()));
        let found = ovmf::inspect(&image.bytes()).expect("the table is good");
        assert!(
            found
                .sev
                .is_some_and(|sev| matches!(sev.metadata, Some(Ok(_)))),
            "{name}"
        );
        let wanted = adapted(&expected, *b"TDVF", 16 + 7 * 32);
        assert_eq!(found.tdx, Some(Err(wanted)), "TDX: {name}");
    }
}

/// The table above has the error of either kind, without what differs between them.
fn adapted(error: &MetadataError, signature: [u8; 4], length: u32) -> MetadataError {
    match error {
        MetadataError::Signature { found, .. } => MetadataError::Signature {
            found: *found,
            wanted: signature,
        },
        MetadataError::Length { found, count, .. } => MetadataError::Length {
            found: *found,
            wanted: length,
            count: *count,
        },
        other => other.clone(),
    }
}

/// QEMU compares the length of TDX metadata and copies that of SEV metadata.
#[test]
fn a_descriptor_may_be_longer_only_where_qemu_lets_it() {
    let image = Image::with(|image| {
        image.sev().length = Some(16 + 7 * 12 + 1);
        image.tdx().length = Some(16 + 7 * 32 + 1);
    });
    let found = ovmf::inspect(&image.bytes()).expect("the table is good");
    assert!(
        found
            .sev
            .is_some_and(|sev| matches!(sev.metadata, Some(Ok(_))))
    );
    assert!(matches!(
        found.tdx,
        Some(Err(MetadataError::Length {
            found: 241,
            wanted: 240,
            count: 7
        }))
    ));

    let image = Image::with(|image| image.sev().length = Some(0x5c5));
    let found = ovmf::inspect(&image.bytes()).expect("the table is good");
    assert_eq!(
        found.sev.expect("the table has it").metadata,
        Some(Err(MetadataError::EndOutsideFile {
            start: 0x40_0000 - 0x5c4,
            length: 0x5c5,
            file_size: 0x40_0000
        })),
        "a byte behind the end"
    );
}

#[test]
fn unknown_sections_are_kept_with_their_number() {
    let image = Image::with(|image| {
        image.sev().sections.push(sev_section(0x90_0000, 0, 0x77));
    });
    let found = ovmf::inspect(&image.bytes()).expect("the table is good");
    let metadata = found.sev.and_then(|sev| sev.metadata);
    let sections = metadata.expect("there").expect("good");
    let last = sections.last().expect("eight of them");
    assert_eq!(last.kind, SevSectionKind::Unknown(0x77));
    assert_eq!(last.area, area(0x90_0000, 0));
}
