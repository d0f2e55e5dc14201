//! How a QEMU ended, as the launcher writes it down for whoever asks later.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use rustix::fs::FallocateFlags;
use serde::{Deserialize, Serialize};

/// Most bytes of the file; it holds a handful of numbers.
const MAX_EXIT: u64 = 512;

/// The last thing that a launcher writes. An empty file is a QEMU that runs, or a launcher that
/// was killed: a daemon tells these apart by the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// Exit code, when QEMU ended by itself.
    pub code: Option<i32>,
    /// Signal that ended it, when it did not.
    pub signal: Option<i32>,
    /// The daemon was gone before it had said `keep`, so QEMU was killed.
    pub abandoned: bool,
    /// Seconds since 1970-01-01 UTC.
    pub ended_at: u64,
    /// Bytes of the console that could not be written, on a full disk for one.
    pub console_dropped: u64,
    /// The same, of stderr.
    pub stderr_dropped: u64,
}

impl Exit {
    /// Takes the room for a later [`Exit::write`], so that it is there when the disk is full.
    pub fn reserve(file: &File) {
        // Not every file system can; there the write itself shows whether there is room.
        let _ = rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, MAX_EXIT);
    }

    /// Writes this and waits until it is on the disk.
    pub fn write(&self, file: &File) -> io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        file.write_all_at(&line, 0)?;
        file.sync_all()
    }

    /// What is in the file; nothing is `None`.
    pub fn read(file: &File) -> io::Result<Option<Self>> {
        let length = file.metadata()?.len();
        if length == 0 {
            return Ok(None);
        }
        if length > MAX_EXIT {
            return Err(invalid(format!("an exit file of {length} bytes")));
        }
        let mut line = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(&mut line, 0)?;
        serde_json::from_slice(&line)
            .map(Some)
            .map_err(|error| invalid(error.to_string()))
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_survives_its_file_and_no_other_text_does() {
        let file = tempfile::tempfile().unwrap();
        Exit::reserve(&file);
        assert_eq!(Exit::read(&file).unwrap(), None);
        let exit = Exit {
            code: Some(i32::MIN),
            signal: Some(i32::MIN),
            abandoned: false,
            ended_at: u64::MAX,
            console_dropped: u64::MAX,
            stderr_dropped: u64::MAX,
        };
        exit.write(&file).unwrap();
        assert_eq!(Exit::read(&file).unwrap(), Some(exit));
        for text in [&b"{}"[..], b"\0\0", &[b'x'; 5000]] {
            file.set_len(0).unwrap();
            file.write_all_at(text, 0).unwrap();
            let error = Exit::read(&file).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
