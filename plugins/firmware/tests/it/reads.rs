//! How a file is read: little of it, in pieces that a component may ask for, and what happens where
//! it cannot be read.

use std::cell::RefCell;

use casemate_firmware::igvm::{self, IgvmError};
use casemate_firmware::ovmf::{self, OvmfError};
use casemate_firmware::{LONGEST_READ, ReadAt, ReadError};

use casemate_firmware_images::{Igvm, Image};

/// A file that notes what was asked for, and fails or is cut short at one of the reads.
struct Watched {
    bytes: Vec<u8>,
    asked: RefCell<Vec<(u64, u32)>>,
    /// Number of the read that goes wrong, from 0.
    fails_at: Option<usize>,
    /// Number of the read that gives one byte less, from 0.
    short_at: Option<usize>,
}

impl Watched {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            asked: RefCell::default(),
            fails_at: None,
            short_at: None,
        }
    }
}

impl ReadAt for Watched {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        let number = self.asked.borrow().len();
        self.asked.borrow_mut().push((offset, length));
        assert!(
            offset + u64::from(length) <= self.size(),
            "it asks for what is not there"
        );
        if self.fails_at == Some(number) {
            return Err("input/output error".to_owned());
        }
        let mut bytes = self.bytes.read_at(offset, length)?;
        if self.short_at == Some(number) {
            bytes.pop();
        }
        Ok(bytes)
    }
}

#[test]
fn of_an_image_only_the_tables_are_read() {
    let file = Watched::new(Image::good().bytes());
    ovmf::inspect(&file).expect("it is good");
    let asked = file.asked.borrow();
    let bytes: u64 = asked.iter().map(|(_, length)| u64::from(*length)).sum();
    assert!(bytes < 1024, "{bytes} bytes in {asked:?}");
    assert!(
        asked.iter().all(|(offset, _)| *offset > 0x3f_f000),
        "{asked:?}"
    );
}

#[test]
fn long_headers_are_read_in_pieces() {
    let file = Igvm::with(|file| {
        for _ in 0..100_000 {
            file.headers.push((0x302, None, vec![1; 24]));
        }
    });
    let file = Watched::new(file.bytes());
    let found = igvm::inspect(&file).expect("it is good");
    assert_eq!(found.directives, 100_002);
    let asked = file.asked.borrow();
    assert!(asked.iter().all(|(_, length)| *length <= LONGEST_READ));
    // Fixed header twice, then 3,200,128 bytes in pieces of 1 MiB.
    assert_eq!(asked.len(), 2 + 4, "{asked:?}");
    let headers: u64 = asked[2..]
        .iter()
        .map(|(_, length)| u64::from(*length))
        .sum();
    assert_eq!(headers, 3_200_128, "and none of the pages behind them");
}

#[test]
fn a_file_that_cannot_be_read_is_not_called_unsuitable() {
    let reads_of = |bytes: &[u8], inspect: &dyn Fn(&Watched) -> Option<ReadError>| {
        let whole = Watched::new(bytes.to_vec());
        assert_eq!(inspect(&whole), None, "it is good");
        let reads = whole.asked.borrow().clone();
        for (number, (offset, length)) in reads.iter().enumerate() {
            let mut file = Watched::new(bytes.to_vec());
            file.fails_at = Some(number);
            let error = inspect(&file).expect("a read failed");
            assert_eq!(error.offset, *offset);
            assert_eq!(error.reason, "input/output error");

            let mut file = Watched::new(bytes.to_vec());
            file.short_at = Some(number);
            let error = inspect(&file).expect("a read was short");
            assert_eq!(error.offset, *offset);
            let wanted = format!("{length} bytes are wanted, and {} were read", length - 1);
            assert_eq!(error.reason, wanted);
        }
        reads.len()
    };
    let ovmf = reads_of(&Image::good().bytes(), &|file| match ovmf::inspect(file) {
        Err(OvmfError::Read(error)) => Some(error),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    });
    assert_eq!(ovmf, 7, "footer, table, two of SEV, three of TDX");
    let igvm = reads_of(&Igvm::good().bytes(), &|file| match igvm::inspect(file) {
        Err(IgvmError::Read(error)) => Some(error),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    });
    assert_eq!(igvm, 3);
}

#[test]
fn a_slice_gives_all_of_what_is_asked_or_nothing() {
    let bytes = [1_u8, 2, 3];
    for (offset, length, expected) in [
        (0, 3, Some(vec![1, 2, 3])),
        (1, 2, Some(vec![2, 3])),
        (3, 0, Some(vec![])),
        (0, 4, None),
        (3, 1, None),
        (4, 0, None),
        (u64::MAX, 1, None),
        (0, u32::MAX, None),
    ] {
        assert_eq!(
            bytes[..].read_at(offset, length).ok(),
            expected,
            "{offset} {length}"
        );
        assert_eq!(bytes.to_vec().read_at(offset, length).ok(), expected);
    }
    assert_eq!(bytes[..].size(), 3);
}
