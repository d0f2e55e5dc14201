//! The table of hashes that QEMU leaves in the guest, so that OVMF can check what it is given: kernel,
//! initrd and command line (QEMU, target/i386/sev.c, `PaddedSevHashTable`).

use sha2::{Digest as _, Sha256};

use super::chain::{self, Digest, PAGE_SIZE};

pub(crate) type Sha256Digest = [u8; 32];

/// GUIDs as a file has them: of the table, and of its entries in their order.
const TABLE: [u8; 16] = [
    0x06, 0xd6, 0x38, 0x94, 0x22, 0x4f, 0xc9, 0x4c, 0xb4, 0x79, 0xa7, 0x93, 0xd4, 0x11, 0xfd, 0x21,
];
const CMDLINE: [u8; 16] = [
    0xd8, 0x2d, 0xd0, 0x97, 0x20, 0xbd, 0x94, 0x4c, 0xaa, 0x78, 0xe7, 0x71, 0x4d, 0x36, 0xab, 0x2a,
];
const INITRD: [u8; 16] = [
    0x31, 0xf7, 0xba, 0x44, 0x2f, 0x3a, 0xd7, 0x4b, 0x9a, 0xf1, 0x41, 0xe2, 0x91, 0x69, 0x78, 0x1d,
];
const KERNEL: [u8; 16] = [
    0x37, 0x94, 0xe7, 0x4d, 0xd2, 0xab, 0x7f, 0x42, 0xb8, 0x35, 0xd5, 0xb1, 0x72, 0xd2, 0x04, 0x5b,
];

/// Bytes of an entry: GUID, length, SHA-256.
const ENTRY_SIZE: u16 = 50;
/// Bytes of the table: GUID, length, three entries. Padding is not counted.
const TABLE_SIZE: u16 = 168;

/// What is hashed of a direct boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelHashes {
    pub(crate) kernel: Sha256Digest,
    /// Of nothing, where there is none.
    pub(crate) initrd: Sha256Digest,
    pub(crate) cmdline: Sha256Digest,
}

impl KernelHashes {
    /// The command line is hashed byte for byte, with the NUL that ends it.
    pub(crate) fn new(kernel: Sha256Digest, initrd: Option<Sha256Digest>, cmdline: &str) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(cmdline);
        hasher.update([0]);
        Self {
            kernel,
            initrd: initrd.unwrap_or_else(|| Sha256::digest([]).into()),
            cmdline: hasher.finalize().into(),
        }
    }

    /// SHA-384 of the page that holds the table at `offset`; none where the page ends before it does,
    /// which no firmware has that takes hashes.
    pub(crate) fn page(&self, offset: usize) -> Option<Digest> {
        let mut page = vec![0; PAGE_SIZE as usize];
        let mut table = Vec::from(TABLE);
        table.extend(TABLE_SIZE.to_le_bytes());
        for (guid, hash) in [
            (CMDLINE, self.cmdline),
            (INITRD, self.initrd),
            (KERNEL, self.kernel),
        ] {
            table.extend(guid);
            table.extend(ENTRY_SIZE.to_le_bytes());
            table.extend(hash);
        }
        let end = offset.checked_add(table.len())?;
        page.get_mut(offset..end)?.copy_from_slice(&table);
        Some(chain::contents(&page))
    }
}
