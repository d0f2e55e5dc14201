//! Bytes of the request's files.

use crate::bindings::casemate::tee::files;

/// Where the bytes of a file come from: the host, or a test.
pub trait Files {
    /// At most 1 MiB a call, whatever `length` says; empty at the end of the file.
    fn read(&self, file: u32, offset: u64, length: u32) -> Result<Vec<u8>, String>;
}

/// The host's, through the contract.
#[derive(Debug, Clone, Copy)]
pub struct HostFiles;

impl Files for HostFiles {
    fn read(&self, file: u32, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        files::read(file, offset, length)
    }
}
