//! The header of a Linux kernel (kernel, Documentation/arch/x86/boot.rst).

use casemate_backend::answer::quoted;
use casemate_firmware::ReadAt;

use super::{exactly, u16_at};

/// Where the header is, and what of it is read: the magic number to the pointer to the version.
const HEADER: u64 = 0x202;
const HEADER_SIZE: u32 = 14;
const MAGIC: &[u8] = b"HdrS";
/// In the header.
const VERSION_POINTER: usize = 12;
/// What the pointer to the version counts from.
const VERSION_BASE: u64 = 0x200;
/// What is read of the version; the numbers are at its start.
const VERSION_SIZE: u64 = 32;

/// The header of a kernel image.
#[derive(Debug)]
pub(crate) struct Header {
    version_pointer: u16,
}

impl Header {
    /// Or why the file is no kernel image. What another EFI application starts next, such as the
    /// kernel within a unified kernel image, is measured too, and only it knows what that is.
    pub(crate) fn of(file: &impl ReadAt) -> Result<Self, String> {
        match exactly(file, HEADER, HEADER_SIZE) {
            Ok(header) if header.starts_with(MAGIC) => Ok(Self {
                version_pointer: u16_at(&header, VERSION_POINTER),
            }),
            Ok(_) => Err("the kernel is no Linux kernel image (bzImage)".to_owned()),
            Err(reason) => Err(format!(
                "the kernel is no Linux kernel image (bzImage): {reason}"
            )),
        }
    }

    /// Major and minor number of the version in the image, as in `6.12.5-amd64 (…)`.
    pub(crate) fn version(&self, file: &impl ReadAt) -> Result<(u32, u32), String> {
        if self.version_pointer == 0 {
            return Err("the kernel does not tell its version".to_owned());
        }
        let start = VERSION_BASE + u64::from(self.version_pointer);
        let length = file.size().saturating_sub(start).min(VERSION_SIZE);
        // At most `VERSION_SIZE`.
        let bytes = exactly(file, start, length as u32)
            .map_err(|reason| format!("the kernel's version cannot be read: {reason}"))?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.split(['\0', ' ']).next().unwrap_or_default();
        parse(text)
            .ok_or_else(|| format!("the kernel's version {} has no two numbers", quoted(text)))
    }
}

fn parse(version: &str) -> Option<(u32, u32)> {
    let (major, rest) = version.split_once('.')?;
    let end = rest.find(|character: char| !character.is_ascii_digit());
    let minor = rest.get(..end.unwrap_or(rest.len()))?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_two_numbers_at_their_start() {
        for (version, expected) in [
            ("6.9.0", Some((6, 9))),
            ("6.9-rc1", Some((6, 9))),
            ("6.12.94+deb13-amd64", Some((6, 12))),
            ("10.0", Some((10, 0))),
            ("6", None),
            ("6.", None),
            (".9", None),
            ("v6.9", None),
            ("6.x", None),
            ("99999999999.1", None),
            ("", None),
        ] {
            assert_eq!(parse(version), expected, "{version}");
        }
    }
}
