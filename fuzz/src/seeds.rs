//! What fuzzing starts from: good inputs, and some that are bad in a known way, all made by code.

use casemate_firmware_images::{
    HASH_TABLE, Igvm, Image, platform, sev_section, tdx_section, words,
};

use crate::guest::{HEADER, KERNEL_VERSION, patch, small_image};
use crate::igvm::repaired;
use crate::kernel::kernel;
use crate::keys;

/// An input by the target that it is for, and a name.
#[derive(Clone, Debug)]
pub struct Seed {
    pub target: &'static str,
    pub name: String,
    pub bytes: Vec<u8>,
}

pub fn all() -> Vec<Seed> {
    [
        of("firmware", firmware()),
        of("igvm", igvm()),
        of("pcr", pcr()),
        of("measure_snp", measure_snp()),
        of("measure_tdx", measure_tdx()),
        of("signing_key", signing_key()),
    ]
    .concat()
}

fn of(target: &'static str, inputs: Vec<(&str, Vec<u8>)>) -> Vec<Seed> {
    let numbered = inputs.into_iter().zip(0..);
    numbered
        .map(|((name, bytes), number)| Seed {
            target,
            name: format!("{number:02}-{name}"),
            bytes,
        })
        .collect()
}

/// Images of a page or two: their tables are in the last 0xa80 bytes.
fn firmware() -> Vec<(&'static str, Vec<u8>)> {
    let page = |change: fn(&mut Image)| {
        Image::with(|image| {
            image.size = 0x1000;
            change(image);
        })
        .bytes()
    };
    vec![
        ("both", page(|_| {})),
        ("sev", page(|image| image.tdx = None)),
        ("tdx", page(|image| image.sev = None)),
        (
            "neither",
            page(|image| (image.sev, image.tdx) = (None, None)),
        ),
        ("empty-table", page(|image| image.entries.clear())),
        (
            "empty-section",
            page(|image| image.sev().sections[4] = sev_section(0x80_f000, 0, 4)),
        ),
        (
            "hashes-of-two-pages",
            page(|image| image.sev().sections = vec![sev_section(0x81_0000, 0x2000, 0x10)]),
        ),
        ("hashes-across-pages", page(hashes_across_pages)),
        (
            "few-sections",
            page(|image| {
                image.tdx().sections = vec![
                    tdx_section((0, 0x1000), (0xffff_f000, 0x1000), 0),
                    tdx_section((0, 0), (0x80_9000, 0x2000), 2),
                ];
            }),
        ),
        (
            "one-section",
            page(|image| image.tdx().sections.truncate(1)),
        ),
        ("small", small_image().bytes()),
    ]
}

/// The table of hashes would go on in the second page of its section.
fn hashes_across_pages(image: &mut Image) {
    image.sev().sections = vec![sev_section(0x81_0000, 0x2000, 0x10)];
    *image.entry(HASH_TABLE) = words(&[0x81_0f80, 0x400]);
}

/// Every directive, for a platform of its own and for all.
fn directives() -> Vec<(u32, Option<u32>, Vec<u8>)> {
    let page = |gpa: u64, mask: u32, at: u32, flags: u32, kind: u16| {
        let mut content = gpa.to_le_bytes().to_vec();
        content.extend(words(&[mask, at, flags]));
        content.extend(kind.to_le_bytes());
        content.extend([0, 0]);
        (0x302, None, content)
    };
    let area = |size: u64, index: u32| {
        let mut content = size.to_le_bytes().to_vec();
        content.extend(words(&[index, 0]));
        (0x301, None, content)
    };
    let insert = |gpa: u64, mask: u32, index: u32| {
        let mut content = gpa.to_le_bytes().to_vec();
        content.extend(words(&[mask, index]));
        (0x303, None, content)
    };
    vec![
        area(0x2000, 0),
        page(0x1000, 2, 0, 0, 0),
        page(0x2000, 3, 0x20, 0, 0),
        page(0x3000, 2, 0, 2, 0),
        page(0x4000, 2, 0, 4, 0),
        page(0x5000, 2, 0, 0, 1),
        page(0x6000, 2, 0, 0, 2),
        page(0x7000, 2, 0, 0, 3),
        insert(0x8000, 2, 0),
        (0x305, None, vec![0; 16]),
    ]
}

fn igvm() -> Vec<(&'static str, Vec<u8>)> {
    let with_directives = |version: u32| {
        Igvm::with(|file| {
            file.version = version;
            file.headers.truncate(3);
            file.headers.extend(directives());
        })
        .bytes()
    };
    vec![
        ("good", Igvm::good().bytes()),
        ("version-1", with_directives(1)),
        ("version-2", with_directives(2)),
        ("of-kvm", igvm_for_kvm()),
        ("nothing", Igvm::with(|file| file.headers.clear()).bytes()),
        (
            "other-platforms",
            Igvm::with(|file| {
                file.headers = (0..8).map(|kind| platform(1 << kind, kind, 1)).collect();
            })
            .bytes(),
        ),
    ]
}

/// A file that KVM measures as it stands: pages, then registers of one vCPU.
pub fn igvm_for_kvm() -> Vec<u8> {
    const VMSA: u64 = 0xffff_ffff_f000;
    let with = |registers: u32| {
        Igvm::with(|file| {
            file.headers.truncate(3);
            file.headers.extend(directives());
            let mut context = VMSA.to_le_bytes().to_vec();
            context.extend(words(&[2, registers, 0]));
            file.headers.push((0x304, None, context));
        })
        .bytes()
    };
    // The page is at the end; where that is does not depend on what is in a header.
    let start = with(0).len() - 0x1000;
    let mut file = with(u32::try_from(start).unwrap_or(u32::MAX));
    file[start..].fill(0);
    file[start + 0x158] = 0x31;
    file[start + 0x3b0] = 1;
    repaired(&file)
}

fn pcr() -> Vec<(&'static str, Vec<u8>)> {
    let digits = |length: usize| "0123456789abcdefABCDEF".repeat(5)[..length].to_owned();
    let (short, long) = (digits(64), digits(96));
    let zeros = "0".repeat(64);
    [
        ("one", format!(r#"{{"pcr_values":{{"sha256":{{"0":"{short}"}}}}}}"#)),
        (
            "both",
            format!(
                r#"{{"pcr_values": {{"sha256": {{"0": "{short}", "23": "{short}"}}, "sha384": {{"7": "{long}"}}}}}}"#
            ),
        ),
        (
            "twice",
            format!(r#"{{"pcr_values":{{"sha256":{{"1":"{short}","1":"{short}"}}}}}}"#),
        ),
        ("zeros", format!(r#"{{"pcr_values":{{"sha256":{{"0":"{zeros}"}}}}}}"#)),
        ("sha1", r#"{"pcr_values":{"sha1":{"0":"00"}}}"#.to_owned()),
        ("deep", r#"{"pcr_values":{"sha256":{"0":[{"a":{"b":null}}]}}}"#.to_owned()),
        ("words", r#"{"pcr_values":{"sha256":{"24":true,"01":1.5e3,"\u202e\n":-1}}}"#.to_owned()),
        ("empty", r#"{"pcr_values":{"sha384":{}}}"#.to_owned()),
    ]
    .map(|(name, text)| (name, text.into_bytes()))
    .to_vec()
}

/// An input of the targets that measure.
fn guest(header: [u8; 7], kernel: &[u8], cmdline: &str, firmware: &[u8]) -> Vec<u8> {
    const INITRD: &[u8] = b"initrd";
    let mut bytes = header.to_vec();
    bytes.extend((kernel.len() as u16).to_le_bytes());
    bytes.extend([INITRD.len() as u8, cmdline.len() as u8, 0]);
    assert_eq!(bytes.len(), HEADER);
    bytes.extend_from_slice(kernel);
    bytes.extend_from_slice(INITRD);
    bytes.extend_from_slice(cmdline.as_bytes());
    bytes.extend_from_slice(firmware);
    bytes
}

/// Switches of a header.
const BOOT: u8 = 0b111;
const IGVM: u8 = 1 << 3;
const PATCHED: u8 = 1 << 4;
const WRONG_SIZES: u8 = 1 << 5;
const GUARD: u8 = 1 << 6;
const IDENTITY: u8 = 1 << 7;
/// Of the byte with QEMU's version.
const PATCHED_KERNEL: u8 = 1 << 7;

fn measure_snp() -> Vec<(&'static str, Vec<u8>)> {
    let image = small_image().bytes();
    let file = igvm_for_kvm();
    let mut across = small_image();
    hashes_across_pages(&mut across);
    // Registers that do not decide anything.
    let registers = patch((file.len() - 0x400) as u16, &[7; 8]);
    let section = [
        patch(0x5c4 - 16, &words(&[0x80_0000, 0x3000])),
        patch(4, &[1]),
    ]
    .concat();
    let make = |switches: u8, settings: u8, firmware: &[u8]| {
        let header = [switches, 2, 0, 0, settings, 0, 32];
        guest(header, b"kernel", "console=ttyS0", firmware)
    };
    vec![
        ("kernel", make(BOOT, 0, &image)),
        ("disk", make(GUARD, 0b1010, &image)),
        ("identity", make(BOOT | IDENTITY, 2, &image)),
        ("patched", make(BOOT | PATCHED, 0, &section)),
        ("wrong-sizes", make(BOOT | PATCHED | WRONG_SIZES, 0, &[])),
        ("hashes-across-pages", make(BOOT, 0, &across.bytes())),
        ("igvm", make(IGVM | GUARD, 2, &file)),
        ("igvm-patched", make(IGVM | PATCHED, 2, &registers)),
    ]
}

fn measure_tdx() -> Vec<(&'static str, Vec<u8>)> {
    let image = small_image().bytes();
    let file = kernel(KERNEL_VERSION);
    let patches = patch(0x300, b"6.8");
    let make = |switches: u8, settings: u8, qemu: u8, kernel: &[u8], firmware: &[u8]| {
        let header = [switches, 2, 0, 0, settings, qemu, 48];
        guest(header, kernel, "console=ttyS0", firmware)
    };
    let section = patch(0xa60 - 16, &words(&[0x1000, 0xff0]));
    vec![
        ("kernel", make(BOOT, 0, 0, &file, &image)),
        ("disk", make(GUARD, 0b01_1010, 3, &[], &image)),
        ("no-initrd", make(0b101, 0, PATCHED_KERNEL, &[], &image)),
        (
            "old-kernel",
            make(BOOT | PATCHED, 0, PATCHED_KERNEL, &patches, &section),
        ),
        (
            "old-qemu",
            make(
                BOOT | PATCHED | IDENTITY,
                0b11,
                PATCHED_KERNEL | 2,
                &[],
                &[],
            ),
        ),
        (
            "wrong-sizes",
            make(BOOT | PATCHED | WRONG_SIZES, 0, PATCHED_KERNEL, &[], &[]),
        ),
    ]
}

fn signing_key() -> Vec<(&'static str, Vec<u8>)> {
    let pems = keys::pems();
    let texts = pems.iter().map(|pem| ("pem", pem.clone().into_bytes()));
    let documents = pems.iter().map(|pem| ("der", keys::der(pem)));
    let others = [
        ("two", pems.concat()),
        (
            "with-curve",
            format!("{}{}", keys::pem("EC PARAMETERS", &[6, 1, 1]), pems[3]),
        ),
        ("public", keys::pem("PUBLIC KEY", &[0; 8])),
        ("encrypted", keys::pem("ENCRYPTED PRIVATE KEY", &[0; 8])),
        // What stands before the next dashes is the key.
        (
            "first-line-without-end",
            pems[0].replacen("KEY-----", "KEY----", 1),
        ),
        ("many", keys::pem("CERTIFICATE", &[]).repeat(120)),
        ("with-crlf", pems[0].replace('\n', "\r\n")),
    ];
    let others = others
        .into_iter()
        .map(|(name, text)| (name, text.into_bytes()));
    texts.chain(documents).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use casemate_attestation::{PcrValues, SigningKey};
    use casemate_backend::bindings::casemate::tee::types::{Firmware, Register};
    use casemate_firmware::{ovmf, suitable};

    use super::*;
    use crate::guest::{self, Anchor, FIRMWARE, Input, values, whole_pages};
    use crate::ovmf::grown;

    fn bytes(target: &str, end: &str) -> Vec<u8> {
        let all = all();
        let mut seeds = all.iter();
        let seed = seeds.find(|one| one.target == target && one.name.ends_with(end));
        seed.expect("it is there").bytes.clone()
    }

    /// A seed that is refused at the first rule shows a fuzzer nothing of what is behind it.
    #[test]
    fn good_seeds_are_good() {
        let image = ovmf::inspect(&grown(&bytes("firmware", "both"))).expect("it is an image");
        suitable::for_snp(&image).expect("it is good");
        let image = ovmf::inspect(&grown(&bytes("firmware", "few-sections"))).expect("an image");
        suitable::for_tdx(&image).expect("it is good");
        let small = ovmf::inspect(&small_image().bytes()).expect("it is an image");
        let layout = suitable::snp_layout(&small).expect("it is good");
        assert!(layout.can_hash_kernels());
        suitable::tdx_layout(&small).expect("it is good");
        PcrValues::parse(&bytes("pcr", "both")).expect("they are good");
        for pem in keys::pems() {
            SigningKey::from_pem(&pem).expect("it is good");
        }
        let file = casemate_firmware::igvm::inspect(&igvm_for_kvm()).expect("it is good");
        suitable::for_snp_igvm(&file).expect("it is good");
    }

    #[test]
    fn inputs_of_guests_are_read_as_they_were_made() {
        let input = Input::of(&bytes("measure_snp", "kernel")).expect("it has a header");
        assert_eq!(input.kernel, b"kernel");
        assert_eq!(input.initrd, b"initrd");
        assert_eq!(input.cmdline, "console=ttyS0");
        assert_eq!(whole_pages(&input.firmware), small_image().bytes());
    }

    /// Names of the registers that have a value, of a seed that is measured.
    fn known(registers: &[Register]) -> Vec<&str> {
        let known = registers.iter().filter(|one| !values(one).is_empty());
        known.map(|one| one.name.as_str()).collect()
    }

    #[test]
    fn good_guests_are_measured() {
        let guard = || guest::guard("none", "none", &[], 1);
        let facts = casemate_sev_snp::measure::MeasureFacts {
            vmsa_features: Ok(0),
        };
        for (name, firmware) in [
            ("kernel", Firmware::Bios(FIRMWARE)),
            ("-igvm-patched", Firmware::Igvm(FIRMWARE)),
            ("-igvm", Firmware::Igvm(FIRMWARE)),
        ] {
            let input = Input::of(&bytes("measure_snp", name)).expect("it has a header");
            let content = input.firmware_from(igvm_for_kvm, Anchor::Start);
            let content = if input.other_firmware {
                repaired(&content)
            } else {
                content
            };
            let files = input.files(content);
            let request = input.request(&files, &[("measured-vmsas", "boot")]);
            let launch = input.launch(firmware, "EPYC-Milan", guard());
            let registers =
                casemate_sev_snp::measure::measure(&request, &launch, &facts, &files).expect(name);
            assert_eq!(known(&registers).len(), 3, "{name}");
        }
        let facts = casemate_tdx::measure::MeasureFacts {
            qemu_version: Ok("10.2.0".to_owned()),
        };
        let input = Input::of(&bytes("measure_tdx", "00-kernel")).expect("it has a header");
        let files = input.files(input.firmware.clone());
        let request = input.request(&files, &[]);
        let launch = input.launch(Firmware::Bios(FIRMWARE), "host", guard());
        let registers =
            casemate_tdx::measure::measure(&request, &launch, &facts, &files).expect("it is good");
        let known = known(&registers);
        assert_eq!(known[..3], ["mrtd", "rtmr1", "rtmr2"], "{registers:?}");
    }
}
