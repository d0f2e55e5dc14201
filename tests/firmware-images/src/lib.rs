//! Makes OVMF images and IGVM files field by field, so that a test can break any of them.
//!
//! Addresses and sizes of the good OVMF image are those of `OVMF.amdsev.fd` of Debian's ovmf-amdsev
//! 2026.08+ds-2, whose tables have all that is inspected here.

/// A GUID's text as bytes of a file (UEFI specification, appendix A).
pub fn guid(text: &str) -> [u8; 16] {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).expect("32 hexadecimal digits");
    let mut bytes = number.to_be_bytes();
    bytes[0..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

pub const FOOTER: &str = "96b582de-1fb2-45f7-baea-a366c55a082d";
pub const HASH_TABLE: &str = "7255371f-3a3b-4b04-927b-1da6efa8d454";
pub const SECRET_BLOCK: &str = "4c2eb361-7d9b-4cc3-8081-127c90d3d294";
pub const INFO_BLOCK: &str = "00f771de-1a7e-4fcb-890e-68c77e2fb44e";
pub const SEV_METADATA: &str = "dc886566-984a-4798-a75e-5585a7bf67cc";
pub const TDX_METADATA: &str = "e47a6535-984a-4798-865e-4685a7bf8ec2";
const TDVF: &str = "e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae";

pub fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// A descriptor with its sections.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// From the end of the file; written into the table.
    pub offset: u32,
    pub signature: [u8; 4],
    /// Taken from the sections unless it is set.
    pub length: Option<u32>,
    pub version: u32,
    /// Taken from the sections unless it is set.
    pub count: Option<u32>,
    pub sections: Vec<Vec<u8>>,
}

impl Metadata {
    fn bytes(&self) -> Vec<u8> {
        let sections = self.sections.concat();
        let mut bytes = self.signature.to_vec();
        bytes.extend(words(&[
            self.length.unwrap_or(16 + sections.len() as u32),
            self.version,
            self.count.unwrap_or(self.sections.len() as u32),
        ]));
        bytes.extend(sections);
        bytes
    }
}

pub fn sev_section(base: u32, size: u32, kind: u32) -> Vec<u8> {
    words(&[base, size, kind])
}

pub fn tdx_section(data: (u32, u32), memory: (u64, u64), kind: u32) -> Vec<u8> {
    let mut bytes = words(&[data.0, data.1]);
    bytes.extend(memory.0.to_le_bytes());
    bytes.extend(memory.1.to_le_bytes());
    bytes.extend(words(&[kind, u32::from(kind == 0)]));
    bytes
}

/// An OVMF image.
#[derive(Clone, Debug)]
pub struct Image {
    pub size: usize,
    pub footer: &'static str,
    /// Taken from the entries unless it is set.
    pub table_length: Option<u16>,
    /// From the end of the file towards its start. The two metadata entries come last.
    pub entries: Vec<(&'static str, Vec<u8>)>,
    pub sev: Option<Metadata>,
    pub tdx: Option<Metadata>,
}

impl Image {
    pub fn good() -> Self {
        Self {
            size: 0x40_0000,
            footer: FOOTER,
            table_length: None,
            entries: vec![
                (INFO_BLOCK, words(&[0x80_b004])),
                (SECRET_BLOCK, words(&[0x81_0000, 0xc00])),
                (HASH_TABLE, words(&[0x81_0c00, 0x400])),
            ],
            sev: Some(Metadata {
                offset: 0x5c4,
                signature: *b"ASEV",
                length: None,
                version: 1,
                count: None,
                sections: vec![
                    sev_section(0x80_0000, 0x9000, 1),
                    sev_section(0x80_a000, 0x3000, 1),
                    sev_section(0x80_d000, 0x1000, 2),
                    sev_section(0x80_e000, 0x1000, 3),
                    sev_section(0x80_f000, 0x1000, 4),
                    sev_section(0x81_1000, 0x1_f000, 1),
                    sev_section(0x81_0000, 0x1000, 0x10),
                ],
            }),
            tdx: Some(Metadata {
                offset: 0xa60,
                signature: *b"TDVF",
                length: None,
                version: 1,
                count: None,
                sections: vec![
                    tdx_section((0x8_4000, 0x37_c000), (0xffc8_4000, 0x37_c000), 0),
                    tdx_section((0, 0x8_4000), (0xffc0_0000, 0x8_4000), 1),
                    tdx_section((0, 0), (0x81_4000, 0xc000), 3),
                    tdx_section((0, 0), (0x80_b000, 0x2000), 3),
                    tdx_section((0, 0), (0x80_9000, 0x2000), 2),
                    tdx_section((0, 0), (0x80_0000, 0x6000), 3),
                    tdx_section((0, 0), (0x82_0000, 0x1_0000), 3),
                ],
            }),
        }
    }

    /// The good image with one thing changed.
    pub fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut image = Self::good();
        change(&mut image);
        image
    }

    pub fn sev(&mut self) -> &mut Metadata {
        self.sev.as_mut().expect("the good image has it")
    }

    pub fn tdx(&mut self) -> &mut Metadata {
        self.tdx.as_mut().expect("the good image has it")
    }

    /// The data of an entry.
    pub fn entry(&mut self, guid: &str) -> &mut Vec<u8> {
        let found = self.entries.iter_mut().find(|(name, _)| *name == guid);
        &mut found.expect("the good image has it").1
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut entries = self.entries.clone();
        for (name, metadata) in [(SEV_METADATA, &self.sev), (TDX_METADATA, &self.tdx)] {
            if let Some(metadata) = metadata {
                entries.push((name, words(&[metadata.offset])));
            }
        }
        // Built backwards, as it is read.
        let mut table = Vec::new();
        for (name, data) in entries.iter().rev() {
            table.extend(data);
            table.extend((data.len() as u16 + 18).to_le_bytes());
            table.extend(guid(name));
        }
        let length = self.table_length.unwrap_or(table.len() as u16 + 18);
        table.extend(length.to_le_bytes());
        table.extend(guid(self.footer));

        let mut bytes = vec![0xff; self.size];
        let end = bytes.len() - 0x20;
        bytes[end - table.len()..end].copy_from_slice(&table);
        for metadata in [&self.sev, &self.tdx].into_iter().flatten() {
            let Some(start) = bytes.len().checked_sub(metadata.offset as usize) else {
                continue;
            };
            let descriptor = metadata.bytes();
            if let Some(place) = bytes.get_mut(start..start + descriptor.len()) {
                place.copy_from_slice(&descriptor);
            }
            if metadata.signature == *b"TDVF"
                && let Some(before) = start.checked_sub(16)
            {
                bytes[before..start].copy_from_slice(&guid(TDVF));
            }
        }
        bytes
    }
}

/// An IGVM file: fixed header, variable headers, one page.
#[derive(Clone, Debug)]
pub struct Igvm {
    pub magic: [u8; 4],
    pub version: u32,
    pub architecture: u32,
    pub page_size: u32,
    /// Taken from the fixed header unless it is set.
    pub offset: Option<u32>,
    /// Taken from the headers unless it is set.
    pub headers_size: Option<u32>,
    /// Taken from the file unless it is set.
    pub total: Option<u32>,
    /// Computed unless it is set.
    pub checksum: Option<u32>,
    /// Type, length (taken from the content unless it is set) and content.
    pub headers: Vec<(u32, Option<u32>, Vec<u8>)>,
}

/// The content of a platform header.
pub fn platform(mask: u32, kind: u8, version: u16) -> (u32, Option<u32>, Vec<u8>) {
    let mut bytes = mask.to_le_bytes().to_vec();
    bytes.extend([2, kind]);
    bytes.extend(version.to_le_bytes());
    bytes.extend(0x7fff_u64.to_le_bytes());
    (1, None, bytes)
}

impl Igvm {
    pub fn good() -> Self {
        Self {
            magic: *b"IGVM",
            version: 2,
            architecture: 0,
            page_size: 0x1000,
            offset: None,
            headers_size: None,
            total: None,
            checksum: None,
            headers: vec![
                platform(1, 0, 1),
                platform(2, 2, 1),
                (0x101, None, words(&[0x3_0000, 0, 2, 0])),
                // A length that is no multiple of eight.
                (0x301, None, vec![7; 13]),
                (0x302, None, vec![1; 24]),
            ],
        }
    }

    pub fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut file = Self::good();
        change(&mut file);
        file
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut headers = Vec::new();
        for (kind, length, content) in &self.headers {
            headers.extend(words(&[*kind, length.unwrap_or(content.len() as u32)]));
            headers.extend(content);
            headers.resize(headers.len().next_multiple_of(8), 0);
        }
        let fixed = if self.version == 2 { 32 } else { 24 };
        let size = fixed + headers.len() + 0x1000;
        let mut bytes = self.magic.to_vec();
        bytes.extend(words(&[
            self.version,
            self.offset.unwrap_or(fixed as u32),
            self.headers_size.unwrap_or(headers.len() as u32),
            self.total.unwrap_or(size as u32),
            0,
        ]));
        if self.version == 2 {
            bytes.extend(words(&[self.architecture, self.page_size]));
        }
        bytes.extend(headers);
        let checksum = self.checksum.unwrap_or_else(|| crc32(&bytes));
        bytes[20..24].copy_from_slice(&checksum.to_le_bytes());
        bytes.resize(size, 0xaa);
        bytes
    }
}

/// CRC-32 by a table, with the register the other way round than the crate has it.
pub fn crc32(bytes: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256_u32)
        .map(|byte| {
            (0..8).fold(byte << 24, |register, _| {
                let next = register << 1;
                if register & (1 << 31) == 0 {
                    next
                } else {
                    next ^ 0x04c1_1db7
                }
            })
        })
        .collect();
    let register = bytes.iter().fold(u32::MAX, |register, byte| {
        let index = (register >> 24) as u8 ^ byte.reverse_bits();
        (register << 8) ^ table[usize::from(index)]
    });
    !register.reverse_bits()
}

/// The check value that catalogues of CRC algorithms give for CRC-32.
#[test]
fn the_checksum_of_these_tests_is_the_known_one() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
}

/// The expected bytes are those of Python's `uuid.UUID(text).bytes_le`.
#[test]
fn guids_of_these_tests_are_stored_as_uefi_stores_them() {
    let expected = 0xde82_b596_b21f_f745_baea_a366_c55a_082d_u128;
    assert_eq!(guid(FOOTER), expected.to_be_bytes());
}
