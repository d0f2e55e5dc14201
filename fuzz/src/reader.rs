//! Files that hold their reader to the contract of `ReadAt`, `Files` and `Digests`: a host answers a
//! call against it with an error, so a component that makes one refuses a good file.

use std::cell::Cell;

use casemate_backend::arbitrary::MemoryFiles;
use casemate_backend::files::{Digests, Files};
use casemate_firmware::{LONGEST_READ, ReadAt};

/// Most ranges that the host takes (`MAX_RANGES`, host/src/backend/imports.rs).
const MOST_RANGES: usize = 4096;

/// Reads within the file and of no more than is allowed, or panics.
#[derive(Debug)]
pub struct Strict<'a>(pub &'a [u8]);

impl ReadAt for Strict<'_> {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        assert!(length <= LONGEST_READ, "{length} bytes at once");
        let end = offset.checked_add(u64::from(length));
        assert!(
            end.is_some_and(|end| end <= self.size()),
            "{length} bytes at {offset:#x} of {:#x}",
            self.size()
        );
        self.0.read_at(offset, length)
    }
}

/// Fails at one of its reads, or gives too little there.
#[derive(Debug)]
pub struct Failing<'a> {
    bytes: &'a [u8],
    /// Reads that go well before.
    left: Cell<u32>,
    short: bool,
    failed: Cell<bool>,
}

impl<'a> Failing<'a> {
    pub fn after(reads: u32, short: bool, bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            left: Cell::new(reads),
            short,
            failed: Cell::new(false),
        }
    }

    pub fn failed(&self) -> bool {
        self.failed.get()
    }
}

impl ReadAt for Failing<'_> {
    fn size(&self) -> u64 {
        self.bytes.size()
    }

    fn read_at(&self, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        if let Some(left) = self.left.get().checked_sub(1) {
            self.left.set(left);
            return self.bytes.read_at(offset, length);
        }
        self.failed.set(true);
        if self.short {
            self.bytes.read_at(offset, length.saturating_sub(1))
        } else {
            Err("input/output error".to_owned())
        }
    }
}

/// Files of a request. What a host would refuse panics, unless the request lies about sizes: then
/// calls past the end are to be expected, and are answered with an error.
#[derive(Debug)]
pub struct StrictFiles {
    pub files: MemoryFiles,
    pub sizes_are_true: bool,
}

impl StrictFiles {
    fn size(&self, file: u32) -> u64 {
        self.files
            .0
            .get(&file)
            .map_or(0, |bytes| bytes.len() as u64)
    }

    fn assert_within(&self, file: u32, offset: u64, length: u64) {
        let end = offset.checked_add(length);
        assert!(
            !self.sizes_are_true || end.is_some_and(|end| end <= self.size(file)),
            "{length} bytes at {offset:#x} of {:#x}, file {file}",
            self.size(file)
        );
    }
}

impl Files for StrictFiles {
    fn read(&self, file: u32, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        assert!(length <= LONGEST_READ, "{length} bytes at once");
        self.assert_within(file, offset, length.into());
        self.files.read(file, offset, length)
    }
}

impl Digests for StrictFiles {
    fn digest(&self, file: u32, algorithm: &str, ranges: &[(u64, u64)]) -> Result<Vec<u8>, String> {
        assert!(ranges.len() <= MOST_RANGES, "{} ranges", ranges.len());
        let mut total: u64 = 0;
        for &(offset, length) in ranges {
            self.assert_within(file, offset, length);
            total = total.saturating_add(length);
        }
        assert!(
            !self.sizes_are_true || total <= self.size(file),
            "{total} bytes of ranges, file {file}"
        );
        self.files.digest(file, algorithm, ranges)
    }

    fn digest_pages(&self, file: u32, algorithm: &str, page_size: u32) -> Result<Vec<u8>, String> {
        assert_eq!(page_size, 4096);
        self.files.digest_pages(file, algorithm, page_size)
    }
}
