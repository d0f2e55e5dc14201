//! Files of requests, by name. One that lies beside the golden requests is taken from there; the others
//! are made here. Firmware is made field by field; nothing of it is executed.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use casemate_firmware_images::{HASH_TABLE, INFO_BLOCK, Igvm, Image, platform, sev_section, words};

/// Folder beside the golden requests.
const FOLDER: &str = "files";

/// A name that stands for nothing.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("there is no file {name:?}: put it into {folder:?}, or name one of {known}", folder = .folder.display(), known = NAMES.join(", "))]
    File { name: String, folder: PathBuf },
    #[error("the file {path:?} cannot be read: {source}", path = .path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("there are no bytes {name:?}: name one of {known}, or write base64", known = VALUES.join(", "))]
    Value { name: String },
}

/// Names of files that are made here.
const NAMES: [&str; 16] = [
    "kernel",
    "initrd",
    "disk",
    "empty",
    "noise",
    "OVMF.fd",
    "no-hashes.fd",
    "no-sev.fd",
    "no-metadata.fd",
    "empty-section.fd",
    "unknown-section.fd",
    "odd-size.fd",
    "no-tdx.fd",
    "payload.fd",
    "coconut.igvm",
    "native.igvm",
];
/// Names of values that are too long to be written out.
const VALUES: [&str; 5] = [
    "id-block",
    "id-block-of-another-policy",
    "id-block-of-another-version",
    "id-auth",
    "id-auth-with-author",
];

/// A name, and never a path: what a file of requests names is beside it.
pub(crate) fn is_name(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|last| last == name)
}

/// The content of a file of a request whose golden requests lie in `folder`.
pub fn content(folder: Option<&Path>, name: &str) -> Result<Vec<u8>, ImageError> {
    let beside = folder.map(|folder| folder.join(FOLDER));
    let is_name = is_name(name);
    if let Some(path) = beside
        .as_ref()
        .filter(|_| is_name)
        .map(|folder| folder.join(name))
        && path.is_file()
    {
        return std::fs::read(&path).map_err(|source| ImageError::Unreadable { path, source });
    }
    bytes(name).ok_or_else(|| ImageError::File {
        name: name.to_owned(),
        folder: beside.unwrap_or_else(|| PathBuf::from(FOLDER)),
    })
}

/// The content of a file that is made here.
pub fn bytes(name: &str) -> Option<Vec<u8>> {
    Some(match name {
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
        _ => return None,
    })
}

fn without_hashes() -> Image {
    Image::with(|image| {
        *image.entry(HASH_TABLE) = words(&[0, 0]);
        image.sev().sections.pop();
    })
}

/// The value of a setting: `@NAME@` is base64 of bytes that are too long to be written out.
pub fn setting(text: &str) -> Result<String, ImageError> {
    let Some(name) = text
        .strip_prefix('@')
        .and_then(|text| text.strip_suffix('@'))
    else {
        return Ok(text.to_owned());
    };
    let bytes = match name {
        "id-block" => id_block(1, 0x3_0000),
        "id-block-of-another-policy" => id_block(1, 0x2_0000),
        "id-block-of-another-version" => id_block(2, 0x3_0000),
        "id-auth" => id_auth(0),
        "id-auth-with-author" => id_auth(0xa5),
        other => {
            return Err(ImageError::Value {
                name: other.to_owned(),
            });
        }
    };
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_stands_for_something() {
        for name in NAMES {
            assert!(bytes(name).is_some(), "{name}");
        }
        for name in VALUES {
            assert!(setting(&format!("@{name}@")).is_ok(), "{name}");
        }
        assert_eq!(setting("0x30000").unwrap(), "0x30000");
    }

    #[test]
    fn a_file_beside_the_requests_comes_first_and_no_other_is_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(FOLDER)).unwrap();
        std::fs::write(folder.path().join(FOLDER).join("kernel"), "own").unwrap();
        std::fs::write(folder.path().join("secret"), "outside").unwrap();
        let content = |name| content(Some(folder.path()), name);
        assert_eq!(content("kernel").unwrap(), b"own");
        assert_eq!(content("empty").unwrap(), b"");
        for name in ["../secret", "/etc/hostname", "nothing", ""] {
            let error = content(name).unwrap_err().to_string();
            assert!(error.contains("OVMF.fd"), "{error}");
        }
    }
}
