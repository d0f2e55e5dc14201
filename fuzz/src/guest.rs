//! A request and a launch, made from bytes: a header of choices, then the files.
//!
//! ```text
//!  0     switches: kernel, initrd, command line, another kind of firmware, patches, wrong sizes,
//!        guard, identity
//!  1..3  vCPUs
//!  3     CPU model
//!  4     settings, two bits each
//!  5     version of QEMU, and whether the kernel is a patched good one
//!  6     byte of which identity and guard's properties are made
//!  7..9  bytes of the kernel
//!  9     bytes of the initrd
//! 10     bytes of the command line
//! 11     unused
//! ```
//!
//! What is left is the firmware. With patches, firmware and kernel are good ones in which some bytes
//! are overwritten: each patch is an offset (from the end for firmware, from the start for others),
//! a length and that many bytes.

use std::collections::BTreeMap;

use casemate_backend::arbitrary::{MemoryFiles, launch_to_measure};
use casemate_backend::bindings::casemate::tee::types::{
    BootInputs, Firmware, HostContext, HostFile, Identity, Launch, LaunchRequest, Origin, Register,
    RegisterValue, Setting, Typed, Value,
};
use casemate_backend::memory::property;
use casemate_firmware_images::Image;

use crate::kernel::kernel;
use crate::reader::StrictFiles;
use crate::text::assert_harmless;

pub const HEADER: usize = 12;

pub const KERNEL: u32 = 1;
pub const INITRD: u32 = 2;
pub const FIRMWARE: u32 = 3;

/// Version of a kernel whose EFI stub measures.
pub const KERNEL_VERSION: &str = "6.12.5-fuzz";

/// The input, taken apart.
#[derive(Clone, Debug)]
pub struct Input {
    pub has_kernel: bool,
    pub has_initrd: bool,
    pub has_cmdline: bool,
    /// IGVM where OVMF would be.
    pub other_firmware: bool,
    /// Of a good firmware, of which bytes are overwritten.
    pub patched: bool,
    pub wrong_sizes: bool,
    pub has_guard: bool,
    pub has_identity: bool,
    pub vcpus: u16,
    pub model: u8,
    pub settings: u8,
    pub qemu: u8,
    pub patched_kernel: bool,
    pub byte: u8,
    pub kernel: Vec<u8>,
    pub initrd: Vec<u8>,
    pub cmdline: String,
    pub firmware: Vec<u8>,
}

impl Input {
    /// `None`: the bytes are not even a header.
    pub fn of(data: &[u8]) -> Option<Self> {
        let (header, rest) = data.split_first_chunk::<HEADER>()?;
        let [
            switches,
            vcpus_low,
            vcpus_high,
            model,
            settings,
            qemu,
            byte,
            ..,
        ] = *header;
        let on = |bit: u8| switches & (1 << bit) != 0;
        let kernel = usize::from(u16::from_le_bytes([header[7], header[8]]));
        let (kernel, rest) = split(rest, kernel);
        let (initrd, rest) = split(rest, header[9].into());
        let (cmdline, firmware) = split(rest, header[10].into());
        let patched_kernel = qemu & 0x80 != 0;
        Some(Self {
            has_kernel: on(0),
            has_initrd: on(1),
            has_cmdline: on(2),
            other_firmware: on(3),
            patched: on(4),
            wrong_sizes: on(5),
            has_guard: on(6),
            has_identity: on(7),
            vcpus: u16::from_le_bytes([vcpus_low, vcpus_high]),
            model,
            settings,
            qemu: qemu & 0x7f,
            patched_kernel,
            byte,
            kernel: if patched_kernel {
                patched(self::kernel(KERNEL_VERSION), kernel, Anchor::Start)
            } else {
                kernel.to_vec()
            },
            initrd: initrd.to_vec(),
            cmdline: String::from_utf8_lossy(cmdline).into_owned(),
            firmware: firmware.to_vec(),
        })
    }

    /// Two bits of the settings: one of four words, of which the first is "nothing set".
    pub fn setting<'a>(&self, index: u8, words: [Option<&'a str>; 4]) -> Option<&'a str> {
        let bits = self.settings >> (2 * index) & 3;
        words.get(usize::from(bits)).copied().flatten()
    }

    /// Bytes of the firmware as they are, or those of a good one with the patches.
    pub fn firmware_from(&self, good: impl FnOnce() -> Vec<u8>, anchor: Anchor) -> Vec<u8> {
        if self.patched {
            patched(good(), &self.firmware, anchor)
        } else {
            self.firmware.clone()
        }
    }

    pub fn boot(&self) -> BootInputs {
        let mut boot = BootInputs::empty();
        boot.set(BootInputs::KERNEL, self.has_kernel);
        boot.set(BootInputs::INITRD, self.has_initrd);
        boot.set(BootInputs::CMDLINE, self.has_cmdline);
        boot
    }

    pub fn files(&self, firmware: Vec<u8>) -> StrictFiles {
        StrictFiles {
            files: MemoryFiles(BTreeMap::from([
                (KERNEL, self.kernel.clone()),
                (INITRD, self.initrd.clone()),
                (FIRMWARE, firmware),
            ])),
            sizes_are_true: !self.wrong_sizes,
        }
    }

    pub fn request(&self, files: &StrictFiles, settings: &[(&str, &str)]) -> LaunchRequest {
        let file = |(id, content): (&u32, &Vec<u8>)| {
            let size = content.len() as u64;
            HostFile {
                id: *id,
                role: match *id {
                    KERNEL => "kernel",
                    INITRD => "initrd",
                    _ if self.other_firmware => "igvm",
                    _ => "firmware",
                }
                .to_owned(),
                label: format!("file\n{id}\u{1b}"),
                size: if self.wrong_sizes {
                    wrong_size(size, self.byte)
                } else {
                    size
                },
                origin: Origin::Request,
            }
        };
        let settings = settings.iter().map(|(key, word)| Setting {
            key: (*key).to_owned(),
            value: Value::Text((*word).to_owned()),
            origin: Origin::Operator,
        });
        LaunchRequest {
            host: HostContext {
                architecture: "x86_64".to_owned(),
                accelerator: "kvm".to_owned(),
                settings: settings.collect(),
                files: files.files.0.iter().map(file).collect(),
            },
            vcpus: self.vcpus.into(),
            memory_bytes: 1 << 30,
            boot: "kernel".to_owned(),
            machine: None,
            cpu: None,
            kernel_cmdline: self.cmdline.clone(),
            devices: Vec::new(),
            identity: self.has_identity.then(|| Identity {
                algorithm: "raw".to_owned(),
                digest: vec![self.byte; usize::from(self.byte % 65)],
            }),
            extras: Vec::new(),
        }
    }

    pub fn launch(&self, firmware: Firmware, cpu: &str, guard: Typed) -> Launch {
        let objects = if self.has_guard {
            vec![guard]
        } else {
            Vec::new()
        };
        launch_to_measure(cpu, firmware, self.boot(), objects)
    }
}

/// The object that protects a guest, with bytes of the right length: its plan is the backend's own.
pub fn guard(kind: &str, number: &str, bytes: &[(&str, usize)], byte: u8) -> Typed {
    let value = u64::from_le_bytes([byte; 8]);
    let number = property(number, Value::Unsigned(value));
    let bytes = bytes.iter();
    let bytes = bytes.map(|(path, length)| property(path, Value::Bytes(vec![byte; *length])));
    Typed {
        kind: kind.to_owned(),
        id: Some("guard0".to_owned()),
        properties: bytes.chain([number]).collect(),
    }
}

/// A size that the file has not, as where it was changed after the host looked.
fn wrong_size(size: u64, byte: u8) -> u64 {
    match byte % 6 {
        0 => 0,
        1 => size.saturating_sub(u64::from(byte)),
        2 => size + 4096,
        3 => size / 2,
        4 => u64::MAX,
        _ => 1 << 32,
    }
}

fn split(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    bytes.split_at(at.min(bytes.len()))
}

/// What the offset of a patch counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    Start,
    End,
}

/// Overwrites parts of a good file. What goes past its end is left out.
pub fn patched(mut file: Vec<u8>, mut patches: &[u8], anchor: Anchor) -> Vec<u8> {
    while let Some(([low, high, length], rest)) = patches.split_first_chunk::<3>() {
        let (content, rest) = split(rest, usize::from(length % 32));
        let offset = usize::from(u16::from_le_bytes([*low, *high]));
        let start = match anchor {
            Anchor::Start => offset,
            Anchor::End => file.len().saturating_sub(offset),
        };
        for (place, byte) in file.iter_mut().skip(start).zip(content) {
            *place = *byte;
        }
        patches = rest;
    }
    file
}

/// A patch, as [`patched`] reads it.
pub fn patch(offset: u16, content: &[u8]) -> Vec<u8> {
    let mut bytes = offset.to_le_bytes().to_vec();
    bytes.push(u8::try_from(content.len() % 32).unwrap_or(0));
    bytes.extend_from_slice(content);
    bytes
}

/// A good image of two pages for SEV-SNP and TDX, so that hashing it is fast.
pub fn small_image() -> Image {
    use casemate_firmware_images::{sev_section, tdx_section};
    Image::with(|image| {
        image.size = 0x2000;
        image.sev().sections = vec![
            sev_section(0x80_0000, 0x2000, 1),
            sev_section(0x80_d000, 0x1000, 2),
            sev_section(0x80_e000, 0x1000, 3),
            sev_section(0x80_f000, 0x1000, 4),
            sev_section(0x81_0000, 0x1000, 0x10),
        ];
        image.tdx().sections = vec![
            tdx_section((0x1000, 0x1000), (0xffff_f000, 0x1000), 0),
            tdx_section((0, 0x1000), (0xffff_e000, 0x1000), 1),
            tdx_section((0, 0), (0x81_0000, 0x2000), 3),
            tdx_section((0, 0), (0x80_9000, 0x2000), 2),
        ];
    })
}

/// The bytes with zeros before them up to whole pages.
pub fn whole_pages(bytes: &[u8]) -> Vec<u8> {
    let mut image = vec![0; bytes.len().next_multiple_of(4096) - bytes.len()];
    image.extend_from_slice(bytes);
    image
}

/// Every value of a register, in the form of bytes.
pub fn values(register: &Register) -> Vec<&[u8]> {
    match &register.value {
        RegisterValue::Computed(value) => vec![value],
        RegisterValue::OneOf(alternatives) => alternatives
            .iter()
            .map(|one| one.value.as_slice())
            .collect(),
        RegisterValue::Unknown(_) => Vec::new(),
    }
}

/// Safe to show, of the right length, and no digest of zeros: a policy would take that for a value
/// that nobody computed.
pub fn assert_register(register: &Register, raw_length: usize) {
    let inputs = register.inputs.iter();
    let inputs = inputs.flat_map(|input| [&input.name, &input.value, &input.source]);
    let aliases = register.aliases.iter();
    let aliases = aliases.flat_map(|alias| [&alias.key, &alias.value]);
    for text in inputs
        .chain(aliases)
        .chain([&register.name, &register.algorithm])
    {
        assert_harmless(text);
    }
    match &register.value {
        RegisterValue::Computed(_) => {}
        RegisterValue::OneOf(alternatives) => {
            assert!(alternatives.len() > 1, "{register:?}");
            for alternative in alternatives {
                assert!(!alternative.condition.is_empty());
                assert_harmless(&alternative.condition);
            }
        }
        RegisterValue::Unknown(reason) => {
            assert!(!reason.is_empty());
            assert_harmless(reason);
        }
    }
    let length = match register.algorithm.as_str() {
        "sha-384" => 48,
        "raw" => raw_length,
        other => panic!("{other} is no algorithm of these backends"),
    };
    for value in values(register) {
        assert_eq!(value.len(), length, "{register:?}");
        assert!(
            register.algorithm == "raw" || value.iter().any(|byte| *byte != 0),
            "{register:?}"
        );
    }
}
