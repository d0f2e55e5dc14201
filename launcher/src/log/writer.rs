//! Writes a log. Never fails once it is made: what cannot be written is dropped and counted.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::{BEGUN_AT, HEADER_LENGTH, Header, TOTAL_AT};

/// Why a log cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("the file for a log is not empty")]
    NotEmpty,
    #[error("the file for a log cannot be written to")]
    File(#[from] io::Error),
}

#[derive(Debug)]
pub struct Writer {
    head: File,
    head_cap: u64,
    head_length: u64,
    tail: File,
    tail_cap: u64,
    /// Never goes back: a write that failed may have overwritten all that it was to.
    tail_begun: u64,
    tail_total: u64,
    dropped: u64,
}

impl Writer {
    /// A log in two empty files.
    pub fn create(
        head: File,
        head_cap: u64,
        tail: File,
        tail_cap: u64,
    ) -> Result<Self, CreateError> {
        for file in [&head, &tail] {
            if file.metadata()?.len() != 0 {
                return Err(CreateError::NotEmpty);
            }
        }
        // The ring's length is there from the beginning, so that a reader can hold the header
        // against it; its blocks are taken as they are written.
        tail.set_len(HEADER_LENGTH + tail_cap)?;
        let header = Header {
            cap: tail_cap,
            begun: 0,
            total: 0,
        };
        tail.write_all_at(&header.to_bytes(), 0)?;
        Ok(Self {
            head,
            head_cap,
            head_length: 0,
            tail,
            tail_cap,
            tail_begun: 0,
            tail_total: 0,
            dropped: 0,
        })
    }

    /// Bytes that could not be written so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    pub fn write(&mut self, bytes: &[u8]) {
        let rest = self.write_head(bytes);
        if !rest.is_empty() && self.write_tail(rest).is_err() {
            self.dropped += rest.len() as u64;
        }
    }

    /// Fills the head, and returns what is past it.
    fn write_head<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let room = self.head_cap - self.head_length;
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let (mut ours, rest) = bytes.split_at(room.min(bytes.len()));
        while !ours.is_empty() {
            match self.head.write_at(ours, self.head_length) {
                Ok(written @ 1..) => {
                    self.head_length += written as u64;
                    ours = &ours[written..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    // The tail begins after a full head only, or offsets would not add up.
                    self.dropped += (ours.len() + rest.len()) as u64;
                    return &[];
                }
            }
        }
        rest
    }

    fn write_tail(&mut self, bytes: &[u8]) -> io::Result<()> {
        let total = self.tail_total + bytes.len() as u64;
        let begun = self.tail_begun.max(total);
        self.tail.write_all_at(&begun.to_le_bytes(), BEGUN_AT)?;
        self.tail_begun = begun;
        // Of more than a ring's length, only the end would stay.
        let surplus = (bytes.len() as u64).saturating_sub(self.tail_cap);
        let mut position = self.tail_total + surplus;
        let mut bytes = &bytes[usize::try_from(surplus).unwrap_or(bytes.len())..];
        while !bytes.is_empty() {
            let at = position % self.tail_cap;
            let room = usize::try_from(self.tail_cap - at).unwrap_or(usize::MAX);
            let (piece, rest) = bytes.split_at(room.min(bytes.len()));
            self.tail.write_all_at(piece, HEADER_LENGTH + at)?;
            position += piece.len() as u64;
            bytes = rest;
        }
        self.tail.write_all_at(&total.to_le_bytes(), TOTAL_AT)?;
        self.tail_total = total;
        Ok(())
    }
}
