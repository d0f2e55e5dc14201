//! Bytes of the request's files.

use casemate_firmware::ReadAt;

use crate::bindings::casemate::tee::files;
use crate::bindings::casemate::tee::types::HostFile;

/// Where the bytes of a file come from: the host, or a test.
pub trait Files {
    /// At most 1 MiB a call, whatever `length` says; empty at the end of the file.
    fn read(&self, file: u32, offset: u64, length: u32) -> Result<Vec<u8>, String>;
}

/// Digests that the host computes over a file, so that no file is read whole by a backend.
pub trait Digests: Files {
    /// `sha-256`, `sha-384` or `sha-512` over the ranges (offset and length) in their order, or
    /// over the whole file where there are none.
    fn digest(&self, file: u32, algorithm: &str, ranges: &[(u64, u64)]) -> Result<Vec<u8>, String>;

    /// One digest for each page, concatenated; the last page is padded with zeros.
    fn digest_pages(&self, file: u32, algorithm: &str, page_size: u32) -> Result<Vec<u8>, String>;
}

/// The host's, through the contract.
#[derive(Debug, Clone, Copy)]
pub struct HostFiles;

impl Files for HostFiles {
    fn read(&self, file: u32, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        files::read(file, offset, length)
    }
}

impl Digests for HostFiles {
    fn digest(&self, file: u32, algorithm: &str, ranges: &[(u64, u64)]) -> Result<Vec<u8>, String> {
        let ranges = ranges.iter();
        let ranges = ranges.map(|&(offset, length)| files::Range { offset, length });
        files::digest(file, algorithm, &ranges.collect::<Vec<_>>())
    }

    fn digest_pages(&self, file: u32, algorithm: &str, page_size: u32) -> Result<Vec<u8>, String> {
        files::digest_pages(file, algorithm, page_size)
    }
}

/// One file of the request, with its size.
#[derive(Debug)]
pub struct Bytes<'a, F> {
    id: u32,
    size: u64,
    files: &'a F,
}

impl<'a, F: Files> Bytes<'a, F> {
    pub fn of(file: &HostFile, files: &'a F) -> Self {
        Self {
            id: file.id,
            size: file.size,
            files,
        }
    }
}

impl<F: Files> ReadAt for Bytes<'_, F> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        self.files.read(self.id, offset, length)
    }
}
