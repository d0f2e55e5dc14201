//! The whole answer, what is refused, and a property: no input makes `measure` panic, or say
//! something that is not safe to show.

use casemate_backend::arbitrary::{self, launch_to_measure};
use casemate_backend::bindings::casemate::tee::types::{
    BootInputs, Choice, ErrorCode, HostContext, Identity, Origin, PflashFirmware, RegisterValue,
    Setting, Typed, Value,
};
use casemate_backend::files::Files;
use casemate_backend::guard;
use casemate_backend::memory::property;
use casemate_backend::settings::text;
use casemate_firmware_images::{Image, Metadata, tdx_section};
use proptest::prelude::*;

use super::*;
use crate::facts::OBJECT;
use crate::plan::plan;

pub(super) const KERNEL: u32 = 1;
pub(super) const INITRD: u32 = 2;
pub(super) const FIRMWARE: u32 = 3;

/// Files by their id.
#[derive(Clone, Debug)]
pub(super) struct Contents(pub(super) Vec<(u32, Vec<u8>)>);

impl Contents {
    pub(super) fn good() -> Self {
        Self(vec![
            (KERNEL, kernel("6.12.5-test (builder@host) #1")),
            (INITRD, vec![b'I'; 512 << 10]),
            (FIRMWARE, small_image().bytes()),
        ])
    }

    pub(super) fn with(mut self, id: u32, content: Vec<u8>) -> Self {
        self.0.retain(|(other, _)| *other != id);
        self.0.push((id, content));
        self
    }

    fn of(&self, id: u32) -> Result<&[u8], String> {
        let file = self.0.iter().find(|(other, _)| *other == id);
        file.map(|(_, content)| content.as_slice())
            .ok_or_else(|| format!("there is no file {id}"))
    }
}

impl Files for Contents {
    fn read(&self, file: u32, offset: u64, length: u32) -> Result<Vec<u8>, String> {
        assert!(length <= LONGEST_READ, "{length}");
        self.of(file)?.read_at(offset, length)
    }
}

impl Digests for Contents {
    fn digest(&self, file: u32, algorithm: &str, ranges: &[(u64, u64)]) -> Result<Vec<u8>, String> {
        assert_eq!(algorithm, "sha-384");
        let content = self.of(file)?;
        if ranges.is_empty() {
            return Ok(sha384(content).to_vec());
        }
        // As the host does.
        let total: u64 = ranges.iter().map(|(_, length)| length).sum();
        assert!(total <= content.len() as u64, "{ranges:?}");
        assert!(ranges.len() <= 4096);
        let mut hash = Sha384::new();
        for (offset, length) in ranges {
            hash.update(content.read_at(*offset, *length as u32)?);
        }
        Ok(hash.finalize().to_vec())
    }

    fn digest_pages(&self, _: u32, _: &str, _: u32) -> Result<Vec<u8>, String> {
        Err("no measurement of TDX is of pages".to_owned())
    }
}

/// An image of 64 KiB whose boot volume has less content than memory.
pub(super) fn small_image() -> Image {
    Image::with(|image| {
        image.size = 0x1_0000;
        image.tdx = Some(Metadata {
            offset: 0xa60,
            signature: *b"TDVF",
            length: None,
            version: 1,
            count: None,
            sections: vec![
                tdx_section((0x4000, 0xb800), (0xffff_4000, 0xc000), 0),
                tdx_section((0, 0x4000), (0xffff_0000, 0x4000), 1),
                tdx_section((0, 0), (0x81_0000, 0x4000), 3),
                tdx_section((0, 0), (0x80_9000, 0x2000), 2),
            ],
        });
    })
}

pub(super) fn put(bytes: &mut [u8], at: usize, content: &[u8]) {
    bytes[at..at + content.len()].copy_from_slice(content);
}

/// A kernel with an EFI stub: three sections, not in the order of the file and one of them empty,
/// data after them, and certificates.
pub(super) fn kernel(version: &str) -> Vec<u8> {
    let mut file: Vec<u8> = (0..0x1000_u32).map(|at| (at ^ (at >> 8)) as u8).collect();
    put(&mut file, 0, b"MZ");
    put(&mut file, 0x3c, &0x80_u32.to_le_bytes());
    put(&mut file, 0x80, b"PE\0\0");
    put(&mut file, 0x84, &0x8664_u16.to_le_bytes());
    put(&mut file, 0x86, &3_u16.to_le_bytes());
    put(&mut file, 0x94, &160_u16.to_le_bytes());
    put(&mut file, 0x98, &0x20b_u16.to_le_bytes());
    // Sizes of image and headers, as a tool that checks them wants them.
    put(&mut file, 0x98 + 56, &0x4000_u32.to_le_bytes());
    put(&mut file, 0x98 + 60, &0x400_u32.to_le_bytes());
    put(&mut file, 0x98 + 68, &10_u16.to_le_bytes());
    put(&mut file, 0x98 + 108, &6_u32.to_le_bytes());
    put(&mut file, 0x98 + 112, &[0; 48]);
    put(&mut file, 0x98 + 144, &0xf80_u32.to_le_bytes());
    put(&mut file, 0x98 + 148, &0x80_u32.to_le_bytes());
    for (at, name, size, offset) in [
        (0x138, b".text\0\0\0", 0x600_u32, 0x800_u32),
        (0x160, b".bss\0\0\0\0", 0, 0),
        (0x188, b".setup\0\0", 0x400, 0x400),
    ] {
        put(&mut file, at, name);
        put(&mut file, at + 16, &size.to_le_bytes());
        put(&mut file, at + 20, &offset.to_le_bytes());
    }
    put(&mut file, 0x202, b"HdrS");
    put(&mut file, 0x20e, &0x100_u16.to_le_bytes());
    put(&mut file, 0x300, version.as_bytes());
    put(&mut file, 0x300 + version.len(), &[0]);
    file
}

pub(super) fn request(contents: &Contents) -> LaunchRequest {
    let file = |(id, content): &(u32, Vec<u8>)| HostFile {
        id: *id,
        role: ["", "kernel", "initrd", "firmware"]
            .get(*id as usize)
            .map_or("disk", |role| role)
            .to_owned(),
        label: format!("file-{id}"),
        size: content.len() as u64,
        origin: Origin::Operator,
    };
    LaunchRequest {
        host: HostContext {
            architecture: "x86_64".to_owned(),
            accelerator: "kvm".to_owned(),
            settings: Vec::new(),
            files: contents.0.iter().map(file).collect(),
        },
        vcpus: 1,
        memory_bytes: 1 << 30,
        boot: "kernel".to_owned(),
        machine: None,
        cpu: None,
        kernel_cmdline: "console=ttyS0".to_owned(),
        devices: Vec::new(),
        identity: None,
        extras: Vec::new(),
    }
}

pub(super) fn set(request: &mut LaunchRequest, key: &str, value: Value) {
    request.host.settings.push(Setting {
        key: key.to_owned(),
        value,
        origin: Origin::Operator,
    });
}

pub(super) fn launch(firmware: Firmware, boot: BootInputs, objects: Vec<Typed>) -> Launch {
    launch_to_measure("host", firmware, boot, objects)
}

pub(super) fn from_kernel() -> Launch {
    launch(Firmware::Bios(FIRMWARE), BootInputs::all(), Vec::new())
}

pub(super) fn qemu(version: &str) -> MeasureFacts {
    MeasureFacts {
        qemu_version: Ok(version.to_owned()),
    }
}

/// In hexadecimal, with alternatives separated by a blank; the reason of an unknown one.
pub(super) fn in_words(register: &Register) -> String {
    match &register.value {
        RegisterValue::Computed(value) => register::hex(value),
        RegisterValue::OneOf(alternatives) => alternatives
            .iter()
            .map(|alternative| register::hex(&alternative.value))
            .collect::<Vec<_>>()
            .join(" "),
        RegisterValue::Unknown(reason) => reason.clone(),
    }
}

pub(super) fn named_one<'a>(registers: &'a [Register], name: &str) -> &'a Register {
    let register = registers.iter().find(|register| register.name == name);
    register.unwrap_or_else(|| panic!("{name}: {registers:?}"))
}

fn inputs(register: &Register) -> String {
    let inputs = register.inputs.iter();
    let inputs = inputs.map(|input| format!("{}={} ({})", input.name, input.value, input.source));
    inputs.collect::<Vec<_>>().join("; ")
}

fn aliases(register: &Register) -> String {
    let aliases = register.aliases.iter();
    let aliases = aliases.map(|alias| format!("{}={}", alias.key, alias.value));
    aliases.collect::<Vec<_>>().join(" ")
}

#[test]
fn all_registers_are_there_with_their_names() {
    let contents = Contents::good();
    let request = request(&contents);
    let disk = launch(Firmware::Bios(FIRMWARE), BootInputs::empty(), Vec::new());
    for (launch, rtmr1, rtmr2) in [
        (
            from_kernel(),
            "corim=rtmr1 trustee=rtmr_1",
            "corim=rtmr2 trustee=rtmr_2",
        ),
        (disk, "", ""),
    ] {
        let registers = measure(&request, &launch, &qemu("11.1.3"), &contents).expect("it is good");
        let found: Vec<(&str, &str, String)> = registers
            .iter()
            .map(|one| (one.name.as_str(), one.algorithm.as_str(), aliases(one)))
            .collect();
        let expected = [
            ("mrtd", "sha-384", "corim=mrtd trustee=mr_td"),
            ("rtmr0", "sha-384", ""),
            ("rtmr1", "sha-384", rtmr1),
            ("rtmr2", "sha-384", rtmr2),
            ("rtmr3", "sha-384", ""),
            ("attributes", "raw", "corim=attributes"),
            // Nobody named an identity.
            ("mrconfigid", "raw", ""),
            ("mrowner", "raw", "corim=mrowner"),
            ("mrownerconfig", "raw", "corim=mrownerconfig"),
        ];
        assert_eq!(
            found,
            expected.map(|(name, form, alias)| (name, form, alias.to_owned()))
        );
    }
}

#[test]
fn the_page_order_is_that_of_the_setting_or_of_the_host_or_both() {
    let contents = Contents::good();
    let firmware = register::hex(&sha384(&small_image().bytes()));
    // Of an independent program (Python, hashlib), which gives the values of other tools for the
    // firmware of Debian: see `mrtd/tests.rs`.
    let one = "cb28c100acec8a33da9c7849b6a3223f3934de4758ecf91744d6bd625567a433827e5c4fd6a2549c6a84981dfb701058";
    let two = "b94df82024666c8c58d45151677a2a56a0bb7973a793bef4fbe5cf5d96545ff50cc7e22863b0bc68bbfa9c8144f83870";
    let both = format!("{one} {two}");
    let from_fact = "page-order=one-pass (fact); qemu-version=10.1.0 (fact)";
    let denied = MeasureFacts {
        qemu_version: Err(FactError::Denied),
    };
    for (setting, facts, expected, order) in [
        ("auto", qemu("10.1.0"), one, from_fact),
        (
            "auto",
            qemu("10.0.9"),
            &both,
            "page-order=not known: QEMU is `10.0.9` (assumed)",
        ),
        (
            "auto",
            qemu("8.2.2"),
            &both,
            "page-order=not known: QEMU is `8.2.2` (assumed)",
        ),
        (
            "auto",
            qemu("x"),
            &both,
            "page-order=not known: QEMU is `x` (assumed)",
        ),
        (
            "auto",
            denied.clone(),
            &both,
            "page-order=not known: the backend may not ask for QEMU's version (assumed)",
        ),
        (
            "one-pass",
            qemu("8.2.2"),
            one,
            "page-order=one-pass (setting)",
        ),
        (
            "two-pass",
            qemu("11.0.0"),
            two,
            "page-order=two-pass (setting)",
        ),
        ("two-pass", denied, two, "page-order=two-pass (setting)"),
    ] {
        let mut request = request(&contents);
        set(&mut request, "mrtd-page-order", text(setting));
        let registers = measure(&request, &from_kernel(), &facts, &contents).expect("it is good");
        let mrtd = named_one(&registers, "mrtd");
        assert_eq!(in_words(mrtd), expected, "{setting} {facts:?}");
        assert_eq!(inputs(mrtd), format!("firmware={firmware} (file); {order}"));
    }
}

/// Two files of one role, and the plan names the second.
#[test]
fn the_firmware_is_the_one_of_the_plan() {
    let other = Image::with(|image| {
        *image = Image {
            size: 0x2_0000,
            ..small_image()
        }
    });
    let contents = Contents(vec![(9, vec![0; 0x1_0000])]).with(FIRMWARE, other.bytes());
    let mut request = request(&contents);
    request.host.files[0].role = "firmware".to_owned();
    request.host.files[1].role = "setting:x".to_owned();
    let plan = launch(Firmware::Bios(FIRMWARE), BootInputs::empty(), Vec::new());
    let registers = measure(&request, &plan, &qemu("10.1.0"), &contents).expect("it is good");
    let firmware = format!("firmware={} (file)", register::hex(&sha384(&other.bytes())));
    assert!(inputs(named_one(&registers, "mrtd")).starts_with(&firmware));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let pflash = Firmware::Pflash(PflashFirmware {
        code: FIRMWARE,
        vars_template: None,
        options: Vec::new(),
    });
    let section = |position: usize, change: fn(&mut Vec<u8>)| {
        let mut image = small_image();
        change(&mut image.tdx().sections[position]);
        Contents::good().with(FIRMWARE, image.bytes())
    };
    let good = Contents::good();
    let bios = Firmware::Bios(FIRMWARE);
    for (firmware, contents, code, expected) in [
        (
            Firmware::None,
            good.clone(),
            ErrorCode::InvalidRequest,
            "the plan has no firmware",
        ),
        (
            pflash,
            good.clone(),
            ErrorCode::InvalidRequest,
            "the plan has flash chips",
        ),
        (
            Firmware::Igvm(FIRMWARE),
            good.clone(),
            ErrorCode::InvalidRequest,
            "has an IGVM file",
        ),
        (
            Firmware::Bios(77),
            good.clone(),
            ErrorCode::InvalidRequest,
            "the plan has file 77, which is none of the request",
        ),
        (
            bios.clone(),
            good.clone().with(FIRMWARE, Vec::new()),
            ErrorCode::UnsuitableFile,
            "firmware `file-3` is empty",
        ),
        (
            bios.clone(),
            good.clone().with(FIRMWARE, vec![0; 0x1_0000]),
            ErrorCode::UnsuitableFile,
            "`file-3`: ",
        ),
        (
            bios.clone(),
            good.clone()
                .with(FIRMWARE, Image::with(|image| image.tdx = None).bytes()),
            ErrorCode::UnsuitableFile,
            "the firmware has no TDX metadata",
        ),
        (
            bios.clone(),
            section(1, |bytes| put(bytes, 24, &9_u32.to_le_bytes())),
            ErrorCode::UnsuitableFile,
            "section 2 (type 0x9)",
        ),
        (
            bios.clone(),
            section(1, |bytes| put(bytes, 28, &4_u32.to_le_bytes())),
            ErrorCode::UnsuitableFile,
            "section 2 (CFV) of the TDX metadata has unknown attributes 0x4",
        ),
    ] {
        let launch = launch(firmware, BootInputs::empty(), Vec::new());
        let error =
            measure(&request(&contents), &launch, &qemu("10.1.0"), &contents).expect_err(expected);
        assert_eq!(error.code, code, "{error:?}");
        assert_eq!(error.subject, "firmware", "{error:?}");
        assert!(error.message.contains(expected), "{error:?}");
        assert!(arbitrary::refusal_is_complete(&error), "{error:?}");
    }
}

#[test]
fn a_firmware_that_the_host_cannot_hash_is_refused() {
    #[derive(Debug)]
    struct NoDigest(Contents);
    impl Files for NoDigest {
        fn read(&self, file: u32, offset: u64, length: u32) -> Result<Vec<u8>, String> {
            self.0.read(file, offset, length)
        }
    }
    impl Digests for NoDigest {
        fn digest(&self, file: u32, _: &str, _: &[(u64, u64)]) -> Result<Vec<u8>, String> {
            match file {
                FIRMWARE => Err("the call's time is over".to_owned()),
                _ => Ok(vec![1; 20]),
            }
        }
        fn digest_pages(&self, _: u32, _: &str, _: u32) -> Result<Vec<u8>, String> {
            Err(String::new())
        }
    }
    let files = NoDigest(Contents::good());
    let request = request(&files.0);
    let error = measure(&request, &from_kernel(), &qemu("10.1.0"), &files).expect_err("no digest");
    assert_eq!(error.message, "`file-3`: the call's time is over");
    let file = HostFile {
        id: KERNEL,
        ..request.host.files[0].clone()
    };
    let short = digest_of(&files, &file, &[]);
    assert_eq!(short, Err("the host's digest has 20 bytes".to_owned()));
}

#[test]
fn claims_are_those_of_the_guard_or_of_the_settings() {
    let contents = Contents::good();
    let zeros = "00".repeat(48);
    let of = |byte: u8| register::hex(&[byte; 48]);
    let guard = |properties| {
        vec![Typed {
            kind: OBJECT.to_owned(),
            id: Some("tdx0".to_owned()),
            properties,
        }]
    };
    let full = guard(vec![
        property("attributes", Value::Unsigned(1 << 28 | 1 << 30)),
        property("sept-ve-disable", Value::Boolean(true)),
        property("mrconfigid", Value::Bytes(vec![0xa1; 48])),
        property("mrowner", Value::Bytes(vec![0xa2; 48])),
        property("mrownerconfig", Value::Bytes(vec![0xa3; 48])),
    ]);
    let off = guard(vec![
        property("attributes", Value::Unsigned(1 << 63)),
        property("sept-ve-disable", Value::Boolean(false)),
    ]);
    let unset = "0000005000000000 0000001000000000";
    let perfmon = "0000004000000080 0000000000000080";
    for (objects, expected) in [
        // Settings and the request's identity, without a guard.
        (
            Vec::new(),
            [
                "0000001000000080".replace("00001", "00005") + " 0000001000000080",
                "ab".repeat(32) + &"00".repeat(16),
                of(0xb2),
                of(0xb3),
            ],
        ),
        (
            full,
            ["0000005000000000".to_owned(), of(0xa1), of(0xa2), of(0xa3)],
        ),
        (
            off,
            [
                perfmon.to_owned(),
                zeros.clone(),
                zeros.clone(),
                zeros.clone(),
            ],
        ),
        // QEMU's default.
        (
            guard(Vec::new()),
            [
                unset.to_owned(),
                zeros.clone(),
                zeros.clone(),
                zeros.clone(),
            ],
        ),
    ] {
        let mut request = request(&contents);
        request.identity = Some(Identity {
            algorithm: "sha-256".to_owned(),
            digest: vec![0xab; 32],
        });
        set(&mut request, "tdx-attributes", text("0x8000000010000000"));
        set(&mut request, "tdx-mrowner", Value::Bytes(vec![0xb2; 48]));
        set(
            &mut request,
            "tdx-mrownerconfig",
            Value::Bytes(vec![0xb3; 48]),
        );
        let launch = launch(Firmware::Bios(FIRMWARE), BootInputs::empty(), objects);
        let registers = measure(&request, &launch, &qemu("10.1.0"), &contents).expect("it is good");
        let names = ["attributes", "mrconfigid", "mrowner", "mrownerconfig"];
        let found = names.map(|name| in_words(named_one(&registers, name)));
        assert_eq!(found, expected);
    }
    let plain = launch(Firmware::Bios(FIRMWARE), BootInputs::empty(), Vec::new());
    let registers = measure(&request(&contents), &plain, &qemu("10.1.0"), &contents);
    let registers = registers.expect("it is good");
    let nobody = "each VM carries its own identity, and none is named".to_owned();
    for (name, expected) in [
        ("mrconfigid", nobody),
        ("mrowner", zeros.clone()),
        ("mrownerconfig", zeros.clone()),
    ] {
        let claim = named_one(&registers, name);
        assert_eq!((in_words(claim), inputs(claim)), (expected, String::new()));
    }
}

#[test]
fn a_claim_of_another_form_or_against_the_rules_is_refused() {
    let contents = Contents::good();
    let bytes = |length| Value::Bytes(vec![1; length]);
    for (path, value) in [
        ("attributes", text("0x10000000")),
        ("sept-ve-disable", text("on")),
        ("mrconfigid", bytes(47)),
        ("mrowner", bytes(49)),
        ("mrownerconfig", text("AAAA")),
    ] {
        let guard = Typed {
            kind: OBJECT.to_owned(),
            id: None,
            properties: vec![property(path, value)],
        };
        let launch = launch(Firmware::Bios(FIRMWARE), BootInputs::empty(), vec![guard]);
        let error =
            measure(&request(&contents), &launch, &qemu("10.1.0"), &contents).expect_err(path);
        assert_eq!(error.subject, path);
        assert!(arbitrary::refusal_is_complete(&error), "{error:?}");
    }
    let plain = launch(Firmware::Bios(FIRMWARE), BootInputs::empty(), Vec::new());
    let mut debug = request(&contents);
    set(&mut debug, "tdx-attributes", text("0x1"));
    let error = measure(&debug, &plain, &qemu("10.1.0"), &contents).expect_err("DEBUG");
    assert_eq!(error.subject, "tdx-attributes");
    let mut long = request(&contents);
    long.identity = Some(Identity {
        algorithm: "sha-512".to_owned(),
        digest: vec![1; 64],
    });
    let error = measure(&long, &plain, &qemu("10.1.0"), &contents).expect_err("64 bytes");
    assert_eq!(error.subject, "identity");
}

#[test]
fn policies_can_name_the_environment() {
    let info = crate::describe::describe();
    for (key, value) in [("corim.vendor", "Intel"), ("corim.model", "TDX")] {
        let extra = info.extras.iter().find(|extra| extra.key == key);
        assert_eq!(
            extra.map(|extra| extra.value.as_str()),
            Some(value),
            "{key}"
        );
    }
    assert!(info.needs.iter().any(|need| need.fact == "qemu-version"));
}

/// What is planned can be measured.
#[test]
fn a_plan_of_this_backend_has_all_but_what_the_guest_decides() {
    let contents = Contents::good();
    let mut request = request(&contents);
    request.machine = Some(Choice {
        value: "pc-q35-10.1".to_owned(),
        origin: Origin::Operator,
    });
    request.identity = Some(Identity {
        algorithm: "sha-384".to_owned(),
        digest: vec![7; 48],
    });
    let facts = crate::facts::Facts {
        guard: guard::GuardFacts {
            kvm_device: Ok(()),
            vm_types: Ok(33),
            vendor: Ok("GenuineIntel".to_owned()),
            parameter: Ok("Y\n".to_owned()),
            capacity: Ok("tdx 31\n".to_owned()),
            current: Ok(String::new()),
        },
        quote_socket: Ok(()),
        cpus_present: Ok("0-7\n".to_owned()),
        qemu: casemate_backend::facts::QemuFacts {
            version: Ok("11.1.3".to_owned()),
            machine: Ok("pc-q35-10.1".to_owned()),
            machine_type: Ok(()),
            cpu_model: Ok(()),
        },
        object: Ok(()),
    };
    let plan = plan(&request, &facts, &contents).expect("it is good");
    let launch = Launch {
        plan,
        arguments: Vec::new(),
    };
    let registers = measure(&request, &launch, &qemu("11.1.3"), &contents).expect("it is good");
    let unknown: Vec<&str> = registers
        .iter()
        .filter(|register| matches!(register.value, RegisterValue::Unknown(_)))
        .map(|register| register.name.as_str())
        .collect();
    assert_eq!(unknown, ["rtmr0", "rtmr3"]);
    assert_eq!(
        in_words(named_one(&registers, "mrconfigid")),
        "07".repeat(48)
    );
}

fn is_harmless(register: &Register) -> bool {
    let inputs = register.inputs.iter();
    let mut texts: Vec<&str> = inputs
        .flat_map(|input| [input.name.as_str(), &input.value, &input.source])
        .collect();
    texts.extend([register.name.as_str(), &register.algorithm]);
    match &register.value {
        RegisterValue::Computed(_) => {}
        RegisterValue::OneOf(alternatives) => {
            texts.extend(alternatives.iter().map(|one| one.condition.as_str()));
        }
        RegisterValue::Unknown(reason) => {
            assert!(!reason.is_empty());
            texts.push(reason);
        }
    }
    texts.iter().all(|text| !text.chars().any(char::is_control))
}

fn lengths(register: &Register) -> Vec<usize> {
    match &register.value {
        RegisterValue::Computed(value) => vec![value.len()],
        RegisterValue::OneOf(alternatives) => {
            assert!(alternatives.len() > 1);
            alternatives.iter().map(|one| one.value.len()).collect()
        }
        RegisterValue::Unknown(_) => Vec::new(),
    }
}

/// A content with some bytes replaced, mostly where headers are.
fn damaged(content: Vec<u8>, headers: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    let at = prop_oneof![3 => headers, 1 => 0..content.len()];
    let byte = prop_oneof![Just(0), Just(1), Just(0xff), any::<u8>()];
    let changes = proptest::collection::vec((at, byte), 0..4);
    (changes, 0..content.len()).prop_map(move |(changes, cut)| {
        let mut content = content.clone();
        for (at, byte) in changes {
            content[at] = byte;
        }
        if cut % 8 == 1 {
            content.truncate(cut);
        }
        content
    })
}

fn any_firmware() -> impl Strategy<Value = Firmware> {
    prop_oneof![
        12 => Just(Firmware::Bios(FIRMWARE)),
        1 => any::<u32>().prop_map(Firmware::Bios),
        1 => Just(Firmware::None),
    ]
}

fn any_objects() -> impl Strategy<Value = Vec<Typed>> {
    let path = "(attributes|sept-ve-disable|mrconfigid|mrowner|mrownerconfig)";
    let value = prop_oneof![
        any::<u64>().prop_map(Value::Unsigned),
        any::<bool>().prop_map(Value::Boolean),
        arbitrary::text().prop_map(Value::Text),
        any::<u8>().prop_map(|byte| Value::Bytes(vec![byte; 48])),
    ];
    let properties = proptest::collection::vec((path, value), 0..3).prop_map(|properties| {
        let properties = properties.into_iter();
        properties
            .map(|(path, value)| property(&path, value))
            .collect()
    });
    let kind = arbitrary::mostly(OBJECT);
    let object = (kind, properties).prop_map(|(kind, properties)| Typed {
        kind,
        id: None,
        properties,
    });
    proptest::collection::vec(object, 0..2)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn any_input_gets_an_answer_that_is_safe_to_show(
        mut request in arbitrary::request(crate::settings::announced(), 0x1_0000),
        version in arbitrary::answer(arbitrary::mostly("10.2.0")),
        kernel in damaged(kernel("6.12.5 x"), 0..0x320),
        firmware in damaged(small_image().bytes(), 0xf590..0xf630),
        chosen in any_firmware(),
        boot in any::<u8>(),
        objects in any_objects(),
    ) {
        let contents = Contents(vec![
            (KERNEL, kernel),
            (INITRD, vec![b'I'; 4096]),
            (FIRMWARE, firmware),
        ]);
        // Sizes are those that the host found, now and then not.
        for file in &mut request.host.files {
            if file.size % 2 == 0 && let Ok(content) = contents.of(file.id) {
                file.size = content.len() as u64;
            }
        }
        let launch = launch(chosen, BootInputs::from_bits_truncate(boot), objects);
        let facts = MeasureFacts { qemu_version: version };
        match measure(&request, &launch, &facts, &contents) {
            Ok(registers) => {
                assert_eq!(registers.len(), 9);
                for register in &registers {
                    assert!(is_harmless(register), "{register:?}");
                    let length = if register.name == "attributes" { 8 } else { 48 };
                    let lengths = lengths(register);
                    assert!(lengths.iter().all(|other| *other == length), "{register:?}");
                }
            }
            Err(error) => assert!(arbitrary::refusal_is_complete(&error), "{error:?}"),
        }
    }
}
