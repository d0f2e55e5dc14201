//! The guest's serial console: a file, or a descriptor of a set.

use std::fs::File;
use std::io::Write;
use std::sync::Mutex;
use std::thread;

use crate::descriptors::Sets;
use crate::options::{ConsoleFile, Opening};
use crate::script::Output;

/// How much is written at once. A pipe holds 64 KiB.
const CHUNK: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Console {
    /// Taken when the guest begins to run.
    file: Mutex<Option<File>>,
}

impl Console {
    pub(crate) fn none() -> Self {
        Self {
            file: Mutex::new(None),
        }
    }

    pub(crate) fn open(console: &ConsoleFile, sets: &Sets, name: &str) -> Result<Self, String> {
        let path = &console.path;
        let refused = |reason: &dyn std::fmt::Display| {
            format!(
                "-chardev file: Could not open '{}': {reason}",
                path.display()
            )
        };
        let mut file = match Sets::number_in(path) {
            Some(number) => sets
                .open_for_writing(number)
                .map_err(|reason| refused(&reason))?,
            None => File::options()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|error| refused(&error))?,
        };
        if console.opening == Opening::Truncate {
            // A pipe cannot be truncated, and QEMU refuses one that it was not told to append to.
            file.set_len(0).map_err(|error| refused(&error))?;
        }
        // A console that nobody reads or that is full is no end of a VM.
        let _ = writeln!(file, "fake console of {name}");
        Ok(Self {
            file: Mutex::new(Some(file)),
        })
    }

    /// The guest begins to write, beside everything else. Only the first call has an effect.
    pub(crate) fn begin(&self, output: &Output) {
        let file = match self.file.lock() {
            Ok(mut file) => file.take(),
            Err(_) => None,
        };
        let Some(mut file) = file else { return };
        let output = output.clone();
        thread::spawn(move || {
            let _ = file.write_all(output.text.as_bytes());
            let _ = flood(&mut file, &output.flood_line, output.flood_bytes);
            // The guest keeps its console to its end, though it has nothing more to say.
            loop {
                thread::park();
            }
        });
    }
}

/// Writes the line again and again, `bytes` in all; the last one may be cut.
fn flood(output: &mut impl Write, line: &str, bytes: u64) -> std::io::Result<()> {
    if line.is_empty() {
        return Ok(());
    }
    let line = format!("{line}\n");
    let chunk = line.repeat(CHUNK.div_ceil(line.len()));
    let mut left = bytes;
    while left > 0 {
        let length = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
        output.write_all(&chunk.as_bytes()[..length])?;
        left -= length as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_has_the_length_that_was_asked_for() {
        for (line, bytes) in [("abc", 0), ("abc", 3), ("abc", 200_001), ("", 5)] {
            let mut written = Vec::new();
            flood(&mut written, line, bytes).unwrap();
            let expected = if line.is_empty() { 0 } else { bytes };
            assert_eq!(written.len() as u64, expected, "{line} {bytes}");
            let text = String::from_utf8(written).unwrap();
            assert!(text.lines().all(|found| line.starts_with(found)), "{line}");
        }
    }
}
