//! What of an EFI application the firmware hashes when it loads it: all but the checksum, the entry
//! of the certificate table and that table ("Windows Authenticode Portable Executable Signature
//! Format"; edk2, `OvmfPkg/IntelTdx/TdTcg2Dxe/MeasureBootPeCoff.c`, which is followed to the byte).
//!
//! Tools that sign files hash zeros up to a multiple of 8 bytes after a file of another size. The
//! firmware does not, so nor is it done here.

use casemate_firmware::ReadAt;

use super::{exactly, u16_at, u32_at};

const DOS_HEADER: u32 = 64;
/// Signature and file header.
const NT_HEADER: u32 = 24;
const MACHINE_X86_64: u16 = 0x8664;
/// Optional header of a PE32+ file without its directories.
const OPTIONAL_HEADER: u32 = 112;
const PE32_PLUS: u16 = 0x20b;
const EFI_APPLICATION: u16 = 10;
const CHECKSUM: u64 = 64;
const CHECKSUM_SIZE: u64 = 4;
const DIRECTORY: u32 = 8;
const MOST_DIRECTORIES: u32 = 16;
/// Index of the directory of certificates.
const CERTIFICATES: u32 = 4;
const SECTION: u32 = 40;
/// What Windows takes. Kernels have fewer than ten; more would only keep the host busy.
const MOST_SECTIONS: u16 = 96;

/// Offset and length of what is hashed, in order, or why the firmware would not start the file.
pub(crate) fn hashed(file: &impl ReadAt) -> Result<Vec<(u64, u64)>, String> {
    parse(file).map_err(|reason| {
        format!("the kernel is no EFI application that firmware for x86_64 starts: {reason}")
    })
}

fn parse(file: &impl ReadAt) -> Result<Vec<(u64, u64)>, String> {
    let refused = |reason: &str| Err(reason.to_owned());
    let dos = exactly(file, 0, DOS_HEADER)?;
    if !dos.starts_with(b"MZ") {
        return refused("it does not begin with MZ, so it has no EFI stub");
    }
    let nt_offset = u64::from(u32_at(&dos, 0x3c));
    let nt = exactly(file, nt_offset, NT_HEADER)?;
    if !nt.starts_with(b"PE\0\0") {
        return refused("it has no PE header");
    }
    let machine = u16_at(&nt, 4);
    if machine != MACHINE_X86_64 {
        return refused(&format!("it is for machine {machine:#x}"));
    }
    let sections = u16_at(&nt, 6);
    if sections > MOST_SECTIONS {
        return refused(&format!("it has {sections} sections"));
    }
    let optional_offset = nt_offset + u64::from(NT_HEADER);
    let optional_size = u32::from(u16_at(&nt, 20));
    if optional_size < OPTIONAL_HEADER {
        return refused("its header is too short");
    }
    let optional = exactly(file, optional_offset, optional_size)?;
    if u16_at(&optional, 0) != PE32_PLUS {
        return refused("it is not of the form PE32+");
    }
    let subsystem = u16_at(&optional, 68);
    if subsystem != EFI_APPLICATION {
        return refused(&format!("its subsystem is {subsystem}"));
    }
    let directories = u32_at(&optional, 108);
    if directories > MOST_DIRECTORIES || optional_size != OPTIONAL_HEADER + directories * DIRECTORY
    {
        return refused("its header does not fit its number of directories");
    }
    let table = optional_offset + u64::from(optional_size);
    let table_end = table + u64::from(sections) * u64::from(SECTION);
    let headers = u64::from(u32_at(&optional, 60));
    if headers < table_end || headers > file.size() {
        return refused("its headers end at a place that cannot be");
    }
    let certificate_entry = OPTIONAL_HEADER + CERTIFICATES * DIRECTORY;
    let has_entry = directories > CERTIFICATES;
    let mut ranges = vec![(0, optional_offset + CHECKSUM)];
    let after_checksum = optional_offset + CHECKSUM + CHECKSUM_SIZE;
    if has_entry {
        let entry = optional_offset + u64::from(certificate_entry);
        ranges.push(between(after_checksum, entry));
        ranges.push(between(entry + u64::from(DIRECTORY), headers));
    } else {
        ranges.push(between(after_checksum, headers));
    }
    let mut hashed = headers;
    for (offset, length) in section_data(file, table, sections, headers)? {
        ranges.push((offset, length));
        hashed += length;
    }
    // Zero where the header ends before that entry.
    let certificates = u64::from(u32_at(&optional, certificate_entry as usize + 4));
    match (file.size() - hashed).checked_sub(certificates) {
        // What follows the sections, at the place where they end if there is no gap between them.
        Some(rest) => ranges.push((hashed, rest)),
        None if file.size() == hashed => {}
        None => return refused("its certificates are longer than what is left for them"),
    }
    ranges.retain(|(_, length)| *length > 0);
    Ok(ranges)
}

fn between(start: u64, end: u64) -> (u64, u64) {
    (start, end.saturating_sub(start))
}

/// Content of the sections in the order of the file. None overlaps another, so that all together are
/// no more than the file.
fn section_data(
    file: &impl ReadAt,
    table: u64,
    sections: u16,
    headers: u64,
) -> Result<Vec<(u64, u64)>, String> {
    let table = exactly(file, table, u32::from(sections) * SECTION)?;
    let mut data: Vec<(u64, u64)> = table
        .chunks_exact(SECTION as usize)
        .map(|section| (u32_at(section, 20).into(), u32_at(section, 16).into()))
        .filter(|(_, length)| *length > 0)
        .collect();
    data.sort_unstable();
    let mut end = headers;
    for (offset, length) in &data {
        if *offset < end {
            return Err("its sections overlap".to_owned());
        }
        end = offset + length;
    }
    if end > file.size() {
        return Err("its sections end after the file".to_owned());
    }
    Ok(data)
}

#[cfg(test)]
mod tests;
