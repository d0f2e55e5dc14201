//! Expected values are those of a program of its own (Python, hashlib), which gives the values of
//! td-shim's `tee_info_hash` (one pass) and of dstack's `tdvf.rs` (both) for OVMF.inteltdx.ms.fd and
//! OVMF.amdsev.fd of Debian 2026.08 and for OVMF.fd of 2022.11.

use casemate_backend::register::hex;
use casemate_firmware::Area;
use casemate_firmware_images::Image;

use super::super::tests::{put, small_image};
use super::*;

fn sections_of(file: &Vec<u8>) -> Vec<TdvfSection> {
    let image = casemate_firmware::ovmf::inspect(file).expect("it is an image");
    let tdx = image.tdx.expect("it has metadata");
    tdx.expect("they are good").sections
}

fn both(file: &Vec<u8>) -> [String; 2] {
    let sections = sections_of(file);
    [PageOrder::OnePass, PageOrder::TwoPass]
        .map(|order| hex(&of(&sections, file, order).expect("it can be measured")))
}

#[test]
fn values_are_those_of_other_tools() {
    let plain = |section: &mut Vec<u8>| put(section, 28, &0_u32.to_le_bytes());
    let small = small_image().bytes();
    // The content in the boot volume is not the same everywhere.
    let mut varied = small.clone();
    for (at, byte) in varied.iter_mut().enumerate().take(0xf000) {
        *byte = (at ^ (at >> 8)) as u8;
    }
    // Nothing is measured, so both orders are one.
    let mut unmeasured = small_image();
    plain(&mut unmeasured.tdx().sections[0]);
    // Memory without content is measured as zeros, be it more than the file.
    let mut zeros = small_image();
    put(&mut zeros.tdx().sections[2], 28, &1_u32.to_le_bytes());
    let mut many_zeros = zeros.clone();
    put(
        &mut many_zeros.tdx().sections[2],
        16,
        &0x21_0000_u64.to_le_bytes(),
    );
    for (name, file, one, two) in [
        (
            "small",
            small,
            "cb28c100acec8a33da9c7849b6a3223f3934de4758ecf91744d6bd625567a433827e5c4fd6a2549c6a84981dfb701058",
            "b94df82024666c8c58d45151677a2a56a0bb7973a793bef4fbe5cf5d96545ff50cc7e22863b0bc68bbfa9c8144f83870",
        ),
        (
            "varied",
            varied,
            "1baa3d54c14a92383317b5787b011c47a6dbef13df10174e12da92ed71d2b1e5b91b419036528b45c0527451e80dc482",
            "a0766a70b47185bb32ee39efb1d7a14148836c7d4d93c71b3b096dff9ff24085e3fc68314651cce688389bb5cec8bfa2",
        ),
        (
            "unmeasured",
            unmeasured.bytes(),
            "ff61ebbb70d5ecd26baea4316903e30931d972737e0d0b0e003d062d9a2ff2a239c330ddde5175d0c2f367f1f5c2ca05",
            "ff61ebbb70d5ecd26baea4316903e30931d972737e0d0b0e003d062d9a2ff2a239c330ddde5175d0c2f367f1f5c2ca05",
        ),
        (
            "zeros",
            zeros.bytes(),
            "224752d8b7929abed6281f83b96b92fe3780b63e2e619b38a57a976711444c6cd63e2e0365b6afc2e33864c65e602b23",
            "01487cead4f3c7b0b6bcaea6ede836e67a39c6e37bd95f7827fc7405e7616f305d242b84328afbad5e43f62a978c367c",
        ),
        (
            "many zeros",
            many_zeros.bytes(),
            "6b8bf31c1d778b9a4c1186bd73f0d658ee6daddbee69b64b57df346a94e3e2aaff8d11095f7c9a21e1d91a9a4fefd073",
            "18f83bab93dd9938a45f085b305095d6ec238b72c480fad0a3a81b07937d5fa27160bf2dd65acee72b074b3841296a23",
        ),
        // More than one piece is read.
        (
            "large",
            Image::good().bytes(),
            "c27aa1dd1a15cb2af94330042bcf41fac82e88dad632924ec584b171b36ac634ef8a9064b894ec0fec6c632b53c71fd8",
            "99c64441bf9445ea5eaece330d2cc4318dc255a3c04d19943afa16cb7a8ba88f636adc80c6d06c3e64e1d4fafa5bb063",
        ),
    ] {
        assert_eq!(both(&file), [one, two], "{name}");
    }
}

fn section(kind: TdvfSectionKind, data_size: u32, size: u64, attributes: u32) -> TdvfSection {
    TdvfSection {
        data_offset: 0,
        data_size,
        memory: Area { base: 0x1000, size },
        kind,
        attributes,
    }
}

#[test]
fn what_has_no_value_is_refused_by_name() {
    use TdvfSectionKind::{
        BootVolume, ConfigurationVolume, HandOffBlock, PermanentMemory, TemporaryMemory, Unknown,
    };
    let file = vec![0; 0x2000];
    let good = section(BootVolume, 0x1000, 0x1000, 1);
    for (bad, expected) in [
        (
            section(Unknown(0x1234), 0, 0x1000, 0),
            "section 2 (type 0x1234) of the TDX metadata is of a kind that QEMU does not take",
        ),
        (
            section(PermanentMemory, 0, 0x1000, 2),
            "section 2 (PERM_MEM) of the TDX metadata is of a kind that QEMU does not take",
        ),
        (
            section(ConfigurationVolume, 0x3000, 0x3000, 0),
            "section 2 (CFV) of the TDX metadata has its content behind the end of the file",
        ),
        (
            section(TemporaryMemory, 0, 0x1000, 0x8000_0001),
            "section 2 (TEMP_MEM) of the TDX metadata has unknown attributes 0x80000000, so its \
             measurement is not known",
        ),
        (
            section(TemporaryMemory, 0, 0x1000, 2),
            "section 2 (TEMP_MEM) of the TDX metadata has attribute 0x2 (PAGE.AUG), which not \
             every host follows, so its measurement is not known",
        ),
        (
            section(HandOffBlock, 0, 0x1000, 1),
            "section 2 (TD_HOB) of the TDX metadata is measured, and its content depends on the \
             guest's memory",
        ),
        (
            section(TemporaryMemory, 0, 64 << 20, 1),
            "the TDX metadata has more than 64 MiB measured",
        ),
        (
            section(TemporaryMemory, 0, 1 << 30, 0),
            "the TDX metadata has more than 1024 MiB of memory",
        ),
        // Sums do not wrap.
        (
            section(TemporaryMemory, 0, 1 << 51, 0),
            "the TDX metadata has more than 1024 MiB of memory",
        ),
    ] {
        let fault = of(&[good, bad], &file, PageOrder::OnePass).expect_err(expected);
        assert_eq!(fault.to_string(), expected);
        assert!(fault.remedy().contains("OVMF.inteltdx.ms.fd"));
    }
}

/// The limits are no smaller than they say: the largest memory that is taken.
#[test]
fn a_section_up_to_the_limit_is_taken() {
    let file = vec![0; 0x1000];
    let measured = section(TdvfSectionKind::TemporaryMemory, 0, 64 << 20, 1);
    assert_eq!(check(&[measured], 0x1000), Ok(()));
    let added = section(TdvfSectionKind::TemporaryMemory, 0, 1 << 30, 0);
    assert_eq!(check(&[added], file.len() as u64), Ok(()));
}

#[test]
fn a_file_that_ends_early_is_refused() {
    /// Says that it is longer than it is.
    #[derive(Debug)]
    struct Short(Vec<u8>);
    impl ReadAt for Short {
        fn size(&self) -> u64 {
            0x2000
        }
        fn read_at(&self, _: u64, _: u32) -> Result<Vec<u8>, String> {
            Ok(self.0.clone())
        }
    }
    let file = Short(vec![0; 0x1000]);
    let boot = section(TdvfSectionKind::BootVolume, 0x2000, 0x2000, 1);
    let fault = of(&[boot], &file, PageOrder::OnePass).expect_err("it is short");
    assert_eq!(
        fault.to_string(),
        "the file cannot be read: 8192 bytes are wanted at 0x0, and 4096 were read"
    );
}
