//! Archives in cpio's "newc" form: what the Linux kernel unpacks as its first root.
//!
//! Written here rather than by `cpio`, because then no package is needed, every file belongs to
//! root whoever builds, and the same input gives the same bytes.

use std::io::{self, Write};

const MODE_DIRECTORY: u32 = 0o040_000;
const MODE_FILE: u32 = 0o100_000;
const MODE_CHARACTER_DEVICE: u32 = 0o020_000;

#[derive(Debug)]
pub struct Archive<W> {
    output: W,
    next_inode: u32,
}

/// What an archive member is.
#[derive(Clone, Copy, Debug)]
enum Member<'content> {
    Directory,
    File { mode: u32, content: &'content [u8] },
    CharacterDevice { major: u32, minor: u32 },
}

impl<W: Write> Archive<W> {
    pub fn new(output: W) -> Self {
        Self {
            output,
            next_inode: 1,
        }
    }

    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        self.member(path, Member::Directory)
    }

    pub fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        let mode = 0o644;
        self.member(path, Member::File { mode, content })
    }

    pub fn executable(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        let mode = 0o755;
        self.member(path, Member::File { mode, content })
    }

    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.member(path, Member::CharacterDevice { major, minor })
    }

    /// Writes the end mark and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", [0; 4], &[])?;
        Ok(self.output)
    }

    fn member(&mut self, path: &str, member: Member<'_>) -> io::Result<()> {
        match member {
            Member::Directory => self.entry(path, [MODE_DIRECTORY | 0o755, 2, 0, 0], &[]),
            Member::File { mode, content } => {
                self.entry(path, [MODE_FILE | mode, 1, 0, 0], content)
            }
            Member::CharacterDevice { major, minor } => {
                self.entry(path, [MODE_CHARACTER_DEVICE | 0o600, 1, major, minor], &[])
            }
        }
    }

    /// Thirteen fields of eight hexadecimal digits, the name and the content, each padded to four
    /// bytes. Owner, times and checksum are zero.
    fn entry(
        &mut self,
        path: &str,
        [mode, links, major, minor]: [u32; 4],
        content: &[u8],
    ) -> io::Result<()> {
        let length = |bytes: usize| {
            u32::try_from(bytes).map_err(|_| io::Error::other("larger than cpio can hold"))
        };
        let fields = [
            self.next_inode,
            mode,
            0,
            0,
            links,
            0,
            length(content.len())?,
            0,
            0,
            major,
            minor,
            length(path.len() + 1)?,
            0,
        ];
        self.next_inode += 1;
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        header.push_str(path);
        header.push('\0');
        self.padded(header.as_bytes())?;
        self.padded(content)
    }

    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)?;
        let rest = bytes.len().next_multiple_of(4) - bytes.len();
        self.output.write_all(&[0; 3][..rest])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_aligned_and_end_with_the_trailer() {
        let mut archive = Archive::new(Vec::new());
        archive.directory("bin").expect("writing to memory works");
        archive
            .executable("init", b"#!/bin/sh\n")
            .expect("as above");
        let bytes = archive.finish().expect("as above");
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"070701"));
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("000081ED") && text.contains("#!/bin/sh"));
        assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!"));
    }
}
