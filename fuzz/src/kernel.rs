//! A kernel with an EFI stub: three sections, not in the order of the file and one of them empty, data
//! after them, and certificates.

fn put(file: &mut [u8], at: usize, content: &[u8]) {
    file[at..at + content.len()].copy_from_slice(content);
}

const NT: usize = 0x80;
const OPTIONAL: usize = NT + 24;

/// Of one page. `version` is what the header of Linux points to.
pub fn kernel(version: &str) -> Vec<u8> {
    let mut file: Vec<u8> = (0..0x1000_u32).map(|at| (at ^ (at >> 8)) as u8).collect();
    put(&mut file, 0, b"MZ");
    put(&mut file, 0x3c, &(NT as u32).to_le_bytes());
    put(&mut file, NT, b"PE\0\0");
    // Machine, number of sections, size of the optional header.
    put(&mut file, NT + 4, &0x8664_u16.to_le_bytes());
    put(&mut file, NT + 6, &3_u16.to_le_bytes());
    put(&mut file, NT + 20, &160_u16.to_le_bytes());
    // PE32+, end of the headers, subsystem, directories and among them the one of certificates.
    put(&mut file, OPTIONAL, &0x20b_u16.to_le_bytes());
    put(&mut file, OPTIONAL + 60, &0x400_u32.to_le_bytes());
    put(&mut file, OPTIONAL + 68, &10_u16.to_le_bytes());
    put(&mut file, OPTIONAL + 108, &6_u32.to_le_bytes());
    put(&mut file, OPTIONAL + 112, &[0; 48]);
    put(&mut file, OPTIONAL + 144, &0xf80_u32.to_le_bytes());
    put(&mut file, OPTIONAL + 148, &0x80_u32.to_le_bytes());
    for (index, (size, offset)) in [(0x600_u32, 0x800_u32), (0, 0), (0x400, 0x400)]
        .into_iter()
        .enumerate()
    {
        let section = OPTIONAL + 160 + index * 40;
        put(&mut file, section + 16, &size.to_le_bytes());
        put(&mut file, section + 20, &offset.to_le_bytes());
    }
    // The header of Linux, with the pointer to the version.
    put(&mut file, 0x202, b"HdrS");
    put(&mut file, 0x20e, &0x100_u16.to_le_bytes());
    put(&mut file, 0x300, version.as_bytes());
    put(&mut file, 0x300 + version.len(), &[0]);
    file
}
