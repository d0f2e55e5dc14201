//! Reads a log while it is written, or after. A file that is no log is an error.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use super::{HEADER_LENGTH, Header, MAX_CAP, TOTAL_AT};

/// How often a reader that was overtaken by the writer tries again before it takes what it got. A
/// stream that overtakes it this often is a flood, of which nobody misses a part.
const ATTEMPTS: usize = 4;

/// All that is left of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transcript {
    /// The first bytes.
    pub head: Vec<u8>,
    /// Bytes after those that are gone.
    pub omitted: u64,
    /// The last bytes.
    pub tail: Vec<u8>,
    /// Bytes ever written.
    pub total: u64,
}

/// A piece for one who follows a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub bytes: Vec<u8>,
    /// Where to go on.
    pub next_offset: u64,
    /// Bytes before these that were gone already.
    pub skipped: u64,
}

impl Transcript {
    pub fn read(head: &File, tail: &File) -> io::Result<Self> {
        let ring = Piece::read(tail, 0, usize::MAX)?;
        // The tail was read first: when there is one, the head is complete now.
        let length = head_length(head)?;
        Ok(Self {
            head: read_range(head, 0..length)?,
            omitted: ring.at,
            total: length + ring.at + ring.bytes.len() as u64,
            tail: ring.bytes,
        })
    }
}

/// At most `max` bytes from `offset` on, which counts all bytes ever written. At the end of what is
/// there, and past it, the piece is empty and `next_offset` is the end.
pub fn read_from(head: &File, tail: &File, offset: u64, max: usize) -> io::Result<Chunk> {
    // In this order, as above: an end that was seen once is never further away later.
    let ring = RingFile::open(tail)?;
    let length = head_length(head)?;
    if offset < length {
        let end = offset.saturating_add(max as u64).min(length);
        return Ok(Chunk {
            bytes: read_range(head, offset..end)?,
            next_offset: end,
            skipped: 0,
        });
    }
    if ring.header.total == 0 {
        // Nothing was past the head yet, so the head may still grow, and where the tail begins is
        // not known.
        return Ok(Chunk {
            bytes: Vec::new(),
            next_offset: length,
            skipped: 0,
        });
    }
    let from = (offset - length).min(ring.header.total);
    let ring = Piece::read(tail, from, max)?;
    Ok(Chunk {
        skipped: ring.at - from,
        next_offset: length + ring.at + ring.bytes.len() as u64,
        bytes: ring.bytes,
    })
}

fn head_length(head: &File) -> io::Result<u64> {
    let length = head.metadata()?.len();
    if length > MAX_CAP {
        return Err(invalid(format!("the head has {length} bytes")));
    }
    Ok(length)
}

/// Bytes of the tail that are proven to be what was written.
struct Piece {
    /// Where they begin, in bytes past the head.
    at: u64,
    bytes: Vec<u8>,
}

impl Piece {
    /// At most `max` bytes from `from` on, or from the oldest that is left.
    fn read(tail: &File, from: u64, max: usize) -> io::Result<Self> {
        let mut piece = Self::read_once(tail, from, max)?;
        for _ in 1..ATTEMPTS {
            if !piece.bytes.is_empty() || piece.at == from || max == 0 {
                break;
            }
            piece = Self::read_once(tail, from, max)?;
        }
        Ok(piece)
    }

    fn read_once(tail: &File, from: u64, max: usize) -> io::Result<Self> {
        let ring = RingFile::open(tail)?;
        let start = from.max(ring.header.oldest()).min(ring.header.total);
        let end = start.saturating_add(max as u64).min(ring.header.total);
        let mut bytes = ring.read(start..end)?;
        // What the writer overwrote while this was reading is not what it was taken for.
        let overwritten = RingFile::open(tail)?.header.oldest();
        let at = overwritten.clamp(start, end);
        bytes.drain(..usize::try_from(at - start).unwrap_or(usize::MAX));
        Ok(Self { at, bytes })
    }
}

struct RingFile<'a> {
    file: &'a File,
    header: Header,
}

impl<'a> RingFile<'a> {
    fn open(file: &'a File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        if length == 0 {
            // The writer has not begun.
            let header = Header {
                cap: 0,
                begun: 0,
                total: 0,
            };
            return Ok(Self { file, header });
        }
        let no_header = |error| invalid(format!("the tail has no header: {error}"));
        // The total on its own and first: the writer may come between any two bytes of a read, and
        // what was begun later than a total is never less.
        let mut total = [0; size_of::<u64>()];
        file.read_exact_at(&mut total, TOTAL_AT)
            .map_err(no_header)?;
        let mut bytes = [0; HEADER_LENGTH as usize];
        file.read_exact_at(&mut bytes, 0).map_err(no_header)?;
        bytes[TOTAL_AT as usize..].copy_from_slice(&total);
        let header = Header::from_bytes(&bytes).map_err(invalid)?;
        // So that what is allocated below has the file's size at most.
        if length != HEADER_LENGTH + header.cap {
            return Err(invalid(format!(
                "the tail has {length} bytes and a ring of {}",
                header.cap
            )));
        }
        Ok(Self { file, header })
    }

    /// Bytes past the head, of which the ring holds no more than its cap.
    fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let cap = self.header.cap;
        let start = range.start % cap;
        let length = range.end - range.start;
        let first = length.min(cap - start);
        let mut bytes = read_range(
            self.file,
            HEADER_LENGTH + start..HEADER_LENGTH + start + first,
        )?;
        let rest = HEADER_LENGTH..HEADER_LENGTH + (length - first);
        bytes.extend(read_range(self.file, rest)?);
        Ok(bytes)
    }
}

fn read_range(file: &File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes)
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
