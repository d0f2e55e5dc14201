//! Files of the cases, by name. Firmware is made field by field; nothing of it is executed.

use base64::Engine as _;
use casemate_firmware_images::{HASH_TABLE, INFO_BLOCK, Igvm, Image, platform, sev_section, words};
use casemate_rules::Firmware;

/// The content of a file.
pub(crate) fn bytes(name: &str) -> Vec<u8> {
    match name {
        "kernel" | "initrd" | "disk" => name.repeat(1024).into_bytes(),
        "empty" => Vec::new(),
        "noise" => vec![0xff; 1 << 16],
        // All that SEV-SNP and TDX want.
        "OVMF.fd" => Image::good().bytes(),
        // Room for hashes was left out of the build, as in Debian 12's OVMF.
        "no-hashes.fd" => without_hashes().bytes(),
        "no-sev.fd" => Image::with(|image| {
            image.sev = None;
            image.entries.retain(|(guid, _)| *guid != INFO_BLOCK);
        })
        .bytes(),
        "no-metadata.fd" => Image::with(|image| image.sev = None).bytes(),
        "empty-section.fd" => Image::with(|image| {
            image.sev().sections[4] = sev_section(0, 0, 4);
        })
        .bytes(),
        "unknown-section.fd" => Image::with(|image| {
            image.sev().sections[4] = sev_section(0x80_f000, 0x1000, 9);
        })
        .bytes(),
        "odd-size.fd" => Image::with(|image| image.size += 0x1000).bytes(),
        "no-tdx.fd" => Image::with(|image| image.tdx = None).bytes(),
        "payload.fd" => Image::with(|image| {
            let section = &mut image.tdx().sections[6];
            section[24] = 5;
        })
        .bytes(),
        "coconut.igvm" => Igvm::good().bytes(),
        "native.igvm" => Igvm::with(|file| {
            file.headers
                .retain(|(kind, _, content)| *kind != 1 || content == &platform(1, 0, 1).2);
        })
        .bytes(),
        other => panic!("no file {other:?}"),
    }
}

fn without_hashes() -> Image {
    Image::with(|image| {
        *image.entry(HASH_TABLE) = words(&[0, 0]);
        image.sev().sections.pop();
    })
}

/// The value of a setting: `@NAME@` is base64 of bytes that are too long to be written out.
pub(crate) fn setting(text: &str) -> String {
    let Some(name) = text
        .strip_prefix('@')
        .and_then(|text| text.strip_suffix('@'))
    else {
        return text.to_owned();
    };
    let bytes = match name {
        "id-block" => id_block(1, 0x3_0000),
        "id-block-of-another-policy" => id_block(1, 0x2_0000),
        "id-block-of-another-version" => id_block(2, 0x3_0000),
        "id-auth" => id_auth(0),
        "id-auth-with-author" => id_auth(0xa5),
        other => panic!("no bytes {other:?}"),
    };
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// AMD 56860, "Structure of the ID Block": digest, family, image, version, SVN, policy.
fn id_block(version: u32, policy: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..0x50).collect();
    bytes.extend(version.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend(policy.to_le_bytes());
    bytes
}

/// AMD 56860, "ID Authentication Information Structure": algorithms, signature and ID key, then
/// signature of the ID key and the author's key.
fn id_auth(author: u8) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[0] = 1;
    bytes[0x40..0x240].fill(0x51);
    bytes[0x240..0x644].fill(0x1d);
    bytes[0x680..0x880].fill(author);
    bytes[0x880..0xc84].fill(author);
    bytes
}

/// What the checker is told of a firmware that a plan took. It is said here, by who made the image,
/// and not read by the code that is tested.
pub(crate) fn known(name: &str) -> Firmware {
    let whole = Firmware {
        size: bytes(name).len() as u64,
        sev_metadata: true,
        kernel_hash_area: true,
        tdvf: true,
    };
    match name {
        "OVMF.fd" => whole,
        "no-hashes.fd" => Firmware {
            kernel_hash_area: false,
            ..whole
        },
        "no-tdx.fd" => Firmware {
            tdvf: false,
            ..whole
        },
        _ => Firmware {
            sev_metadata: false,
            kernel_hash_area: false,
            tdvf: false,
            ..whole
        },
    }
}
