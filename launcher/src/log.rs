//! A stream of any length in two files of bounded size: its first bytes and its last ones.
//!
//! The **head** holds the first bytes, up to its cap, and nothing else. The **tail** is a header
//! and a ring of a fixed size with what came after the head. All numbers are little-endian:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `CASELOG\n` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | 0 |
//! | 16 | 8 | cap: size of the ring |
//! | 24 | 8 | begun: bytes past the head that are written or are being written |
//! | 32 | 8 | total: bytes past the head that are written |
//! | 40 | cap | the ring; byte `n` past the head is at `n % cap` |
//!
//! One process writes, and others read at the same time. The writer puts `begun` before the bytes
//! and `total` after them. So a reader, and one that comes after a crash, knows by `total` what is
//! there, and by `begun` what of it may have been overwritten meanwhile.
//! Bytes that cannot be written, on a full disk for one, are dropped and counted, and are no part
//! of the stream.

mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use reader::{Chunk, Transcript, read_from};
pub use writer::{CreateError, Writer};

/// Most bytes of a head or a ring, so that no cap is an attempt on the disk or on a reader's
/// memory.
pub const MAX_CAP: u64 = 256 << 20;

const MAGIC: [u8; 8] = *b"CASELOG\n";
const VERSION: u32 = 1;
const HEADER_LENGTH: u64 = 40;
const BEGUN_AT: u64 = 24;
const TOTAL_AT: u64 = 32;

/// The header of a tail file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    cap: u64,
    begun: u64,
    total: u64,
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER_LENGTH as usize] {
        let mut bytes = [0; HEADER_LENGTH as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.cap.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.begun.to_le_bytes());
        bytes[32..].copy_from_slice(&self.total.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; HEADER_LENGTH as usize]) -> Result<Self, String> {
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        if bytes[..8] != MAGIC {
            return Err("it begins as no tail of a log does".to_owned());
        }
        let version = number(8);
        if version != u64::from(VERSION) {
            return Err(format!("version {version} is not known"));
        }
        let header = Self {
            cap: number(16),
            begun: number(24),
            total: number(32),
        };
        if header.cap > MAX_CAP {
            return Err(format!("a ring of {} bytes", header.cap));
        }
        // Offsets are sums of such numbers, which must not overflow.
        if header.total > header.begun || header.begun > i64::MAX as u64 {
            return Err(format!(
                "{} bytes written of {} begun",
                header.total, header.begun
            ));
        }
        Ok(header)
    }

    /// First byte that is in the ring and was not overwritten, whatever is being written now.
    fn oldest(&self) -> u64 {
        self.begun.saturating_sub(self.cap)
    }
}
