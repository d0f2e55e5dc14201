//! IGVM files: a writer, what `igvm-wrap` makes of an OVMF image, and random files whose digests the
//! crate `igvm` has to agree with.
//!
//! The writer lays a file out as that crate does, pages of the same content once, so that a file of
//! the golden values is the very file that it was computed from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use casemate_firmware_images::{crc32, words};
use casemate_integration::artifacts;

use super::Chance;
use super::site::{Guest, Site};

const PAGE: usize = 0x1000;
/// Random files that are compared.
const FILES: usize = 80;

/// Platforms of the format (crate `igvm_defs`, `IgvmPlatformType`).
const NATIVE: u8 = 0;
const SNP: u8 = 2;
const TDX: u8 = 3;

/// Types of headers.
const PLATFORM: u32 = 0x1;
const POLICY: u32 = 0x101;
const PARAMETER_AREA: u32 = 0x301;
const PAGE_DATA: u32 = 0x302;
const PARAMETER_INSERT: u32 = 0x303;
const REGISTERS: u32 = 0x304;
const VP_COUNT: u32 = 0x307;
const MEMORY_MAP: u32 = 0x30c;

/// Flags and types of pages.
const UNMEASURED: u32 = 1 << 1;
const SHARED: u32 = 1 << 2;
const NORMAL: u16 = 0;
const SECRETS: u16 = 1;
const CPUID: u16 = 2;
const CPUID_XF: u16 = 3;

/// Where KVM has the registers of a vCPU.
const REGISTERS_GPA: u64 = 0xffff_ffff_f000;

/// The mask of the SNP platform in files that are wrapped.
const WRAPPED: u32 = 2;

#[derive(Clone, Debug)]
pub(super) enum Directive {
    Page {
        gpa: u64,
        mask: u32,
        flags: u32,
        kind: u16,
        /// Empty where the file has none.
        content: Vec<u8>,
    },
    Registers {
        mask: u32,
        page: Vec<u8>,
        vcpu: u16,
    },
    /// Anything without a page of its own.
    Plain(u32, Vec<u8>),
}

#[derive(Clone, Debug)]
pub(super) struct File {
    /// Masks and types.
    pub(super) platforms: Vec<(u32, u8)>,
    /// Masks with a guest policy.
    pub(super) policies: Vec<u32>,
    pub(super) directives: Vec<Directive>,
}

/// Pages of the file, each content once.
struct Pages {
    start: usize,
    bytes: Vec<u8>,
    known: BTreeMap<Vec<u8>, u32>,
}

impl Pages {
    fn place(&mut self, content: &[u8]) -> u32 {
        if content.is_empty() {
            return 0;
        }
        let place = self.start + self.bytes.len();
        let place = u32::try_from(place).expect("it is no such large file");
        *self.known.entry(content.to_vec()).or_insert_with(|| {
            self.bytes.extend(content);
            place
        })
    }
}

impl File {
    pub(super) fn bytes(&self) -> Vec<u8> {
        const FIXED: usize = 32;
        // Sizes of headers do not depend on where pages lie.
        let size = self.headers(&mut |_| 0).len();
        let mut pages = Pages {
            start: FIXED + size,
            bytes: Vec::new(),
            known: BTreeMap::new(),
        };
        let headers = self.headers(&mut |content| pages.place(content));
        let mut bytes = b"IGVM".to_vec();
        let total = pages.start + pages.bytes.len();
        // Version 2: x64, pages of 4 KiB.
        bytes.extend(words(&[2, FIXED as u32, size as u32, total as u32, 0]));
        bytes.extend(words(&[0, PAGE as u32]));
        bytes.extend(headers);
        let checksum = crc32(&bytes);
        bytes[20..24].copy_from_slice(&checksum.to_le_bytes());
        bytes.extend(pages.bytes);
        bytes
    }

    fn headers(&self, place: &mut dyn FnMut(&[u8]) -> u32) -> Vec<u8> {
        let mut headers = Vec::new();
        let mut add = |kind: u32, content: &[u8]| {
            headers.extend(words(&[kind, content.len() as u32]));
            headers.extend(content);
            headers.resize(headers.len().next_multiple_of(8), 0);
        };
        for (mask, kind) in &self.platforms {
            let mut content = mask.to_le_bytes().to_vec();
            // Highest VTL, type, version 1, no shared memory.
            content.extend([2, *kind, 1, 0]);
            content.extend([0; 8]);
            add(PLATFORM, &content);
        }
        for mask in &self.policies {
            add(POLICY, &words(&[0x3_0000, 0, *mask, 0]));
        }
        for directive in &self.directives {
            match directive {
                Directive::Page {
                    gpa,
                    mask,
                    flags,
                    kind,
                    content,
                } => {
                    let mut header = gpa.to_le_bytes().to_vec();
                    header.extend(words(&[*mask, place(content), *flags, u32::from(*kind)]));
                    add(PAGE_DATA, &header);
                }
                Directive::Registers { mask, page, vcpu } => {
                    let mut header = REGISTERS_GPA.to_le_bytes().to_vec();
                    header.extend(words(&[*mask, place(page), u32::from(*vcpu)]));
                    add(REGISTERS, &header);
                }
                Directive::Plain(kind, content) => add(*kind, content),
            }
        }
        headers
    }
}

/// Whether the registers stand before the pages, as `igvm-wrap` has them, or behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    First,
    Last,
}

/// What `igvm-wrap --no-native --snp --flat32` of virtfw-igvm-tools 0.2.6 makes of an image of
/// edk2's AmdSev platform; the same with its registers last is what KVM measures. `has_parameters`
/// is an image with IGVM metadata: a page for the memory map, and a page of zeros in the file.
pub(super) fn wrapped(image: &[u8], has_parameters: bool, place: Place) -> File {
    let page = |gpa, kind, content: &[u8]| Directive::Page {
        gpa,
        mask: WRAPPED,
        flags: 0,
        kind,
        content: content.to_vec(),
    };
    let mut directives = Vec::new();
    if has_parameters {
        directives.push(area(0, 1));
        directives.push(Directive::Plain(MEMORY_MAP, words(&[0, 0])));
        directives.push(Directive::Plain(VP_COUNT, words(&[0, 0xc0])));
        directives.push(insert(MEMORY_MAP_GPA, WRAPPED, 0));
    }
    for gpa in (FIRST_MEMORY..END_OF_MEMORY).step_by(PAGE) {
        match gpa {
            0x80_d000 => directives.push(page(gpa, SECRETS, &[])),
            0x80_e000 => directives.push(page(gpa, CPUID, &[])),
            // Between two sections.
            0x80_9000 => {}
            MEMORY_MAP_GPA if has_parameters => {}
            HANDOFF_GPA if has_parameters => directives.push(page(gpa, NORMAL, &[0; PAGE])),
            // An image without the metadata has less of it.
            gpa if gpa >= 0x82_0000 && !has_parameters => {}
            gpa => directives.push(page(gpa, NORMAL, &[])),
        }
    }
    let base = (1 << 32) - image.len() as u64;
    for (content, number) in image.chunks(PAGE).zip(0..) {
        directives.push(page(base + number * PAGE as u64, NORMAL, content));
    }
    let registers = Directive::Registers {
        mask: WRAPPED,
        page: flat_registers(),
        vcpu: 0,
    };
    match place {
        Place::First => directives.insert(0, registers),
        Place::Last => directives.push(registers),
    }
    File {
        platforms: vec![(WRAPPED, SNP)],
        policies: vec![WRAPPED],
        directives,
    }
}

/// Memory of edk2's AmdSev platform (OvmfPkg/AmdSev/AmdSevX64.fdf).
const FIRST_MEMORY: u64 = 0x80_0000;
const END_OF_MEMORY: u64 = 0x83_0000;
const MEMORY_MAP_GPA: u64 = 0x81_2000;
const HANDOFF_GPA: u64 = 0x81_3000;

fn area(index: u32, pages: usize) -> Directive {
    let mut content = ((pages * PAGE) as u64).to_le_bytes().to_vec();
    content.extend(words(&[index, 0]));
    Directive::Plain(PARAMETER_AREA, content)
}

fn insert(gpa: u64, mask: u32, index: u32) -> Directive {
    let mut content = gpa.to_le_bytes().to_vec();
    content.extend(words(&[mask, index]));
    Directive::Plain(PARAMETER_INSERT, content)
}

/// Registers of a vCPU that starts in flat 32-bit mode, as `igvm-wrap` writes them.
fn flat_registers() -> Vec<u8> {
    let mut page = vec![0; PAGE];
    for (offset, value) in [
        (0x00, 0xffff_ffff_0c93_0010), // ES
        (0x10, 0xffff_ffff_0c9b_0008), // CS
        (0x20, 0xffff_ffff_0c93_0010), // SS
        (0x30, 0xffff_ffff_0c93_0010), // DS
        (0x40, 0xffff_ffff_0c93_0010), // FS
        (0x50, 0xffff_ffff_0c93_0010), // GS
        (0x60, 0x0000_ffff_0000_0000), // GDTR
        (0x80, 0x0000_ffff_0000_0000), // IDTR
        (0x90, 0x0000_ffff_008b_0000), // TR
        (0xd0, 0x1000),                // EFER
        (CR0, 0x31),
        (0x160, 0x400),                 // DR7
        (0x168, 0xffff_0ff0),           // DR6
        (0x178, 0xffff_fff0),           // RIP
        (0x268, 0x0007_0406_0007_0406), // PAT
        (FEATURES, 0x1),
        (0x3e8, 0x1),    // XCR0
        (0x408, 0x1f80), // MXCSR
        (0x410, 0x37f),  // x87 control word
    ] {
        put(&mut page, offset, value);
    }
    page
}

const CR0: usize = 0x158;
const FEATURES: usize = 0x3b0;

fn put(page: &mut [u8], offset: usize, value: u64) {
    page[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

/// A file of everything that the format has for SNP and that both take, in any order.
fn random(chance: &mut Chance) -> File {
    let mut masks = [1, 2, 4, 0x8000_0000];
    chance.shuffle(&mut masks);
    let [snp, first, second, _] = masks;
    let mut platforms = vec![(snp, SNP)];
    for platform in [(first, NATIVE), (second, TDX)] {
        if chance.is(40) {
            platforms.push(platform);
        }
    }
    chance.shuffle(&mut platforms);
    let all = platforms.iter().fold(0, |all, (mask, _)| all | mask);
    let contents = [
        Vec::new(),
        vec![0; PAGE],
        vec![0xff; PAGE],
        chance.bytes(PAGE),
        chance.bytes(PAGE),
    ];
    let mut gpa = chance.below(0x1000) as u64 * PAGE as u64;
    let mut free = |chance: &mut Chance, pages: usize| {
        gpa += (chance.below(3) * PAGE) as u64;
        let here = gpa;
        gpa += (pages * PAGE) as u64;
        here
    };
    let mut directives = Vec::new();
    let mut page = |chance: &mut Chance, kinds: &[(u16, u32)]| {
        let &(kind, flags) = chance.one_of(kinds);
        Directive::Page {
            gpa: free(chance, 1),
            mask: *chance.one_of(&[snp, snp, all]),
            flags,
            kind,
            content: if kind == NORMAL {
                chance.one_of(&contents).clone()
            } else {
                Vec::new()
            },
        }
    };
    const KINDS: [(u16, u32); 7] = [
        (NORMAL, 0),
        (NORMAL, 0),
        (NORMAL, 0),
        (NORMAL, UNMEASURED),
        (SECRETS, 0),
        (CPUID, 0),
        (CPUID_XF, 0),
    ];
    for _ in 0..chance.within(3..=40) {
        directives.push(page(chance, &KINDS));
    }
    // Pages of other platforms alone.
    if let Some((other, _)) = platforms.iter().find(|(mask, _)| *mask != snp) {
        for _ in 0..chance.below(4) {
            let mut of_other = page(chance, &KINDS);
            if let Directive::Page { mask, .. } = &mut of_other {
                *mask = *other;
            }
            let at = chance.below(directives.len());
            directives.insert(at, of_other);
        }
    }
    for index in 0..chance.below(4) {
        let index = u32::try_from(index).expect("a few");
        let pages = chance.within(1..=5);
        let at = chance.below(directives.len());
        directives.insert(at, area(index, pages));
        let kind = *chance.one_of(&[MEMORY_MAP, VP_COUNT]);
        let parameter = Directive::Plain(kind, words(&[index, 0]));
        let mask = *chance.one_of(&[snp, all]);
        let inserted = insert(free(chance, pages), mask, index);
        directives.insert(at + 1, parameter);
        let behind = chance.within(at + 2..=directives.len());
        directives.insert(behind, inserted);
    }
    let mut registers = chance.bytes(PAGE);
    put(&mut registers, CR0, *chance.one_of(&[0x30, 0x31]));
    let features = chance.number() | 1;
    put(&mut registers, FEATURES, features);
    directives.push(Directive::Registers {
        mask: snp,
        page: registers,
        vcpu: 0,
    });
    File {
        platforms,
        policies: vec![snp],
        directives,
    }
}

/// What the program with the crate says of each file.
pub(super) fn digests(files: &[PathBuf]) -> Vec<Result<String, String>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a program of the tests, and none of the daemon's"
    )]
    let output = std::process::Command::new(artifacts::igvm_oracle())
        .args(files)
        .output()
        .expect("it can be started");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let lines = text.lines().map(|line| match line.strip_prefix("error: ") {
        Some(reason) => Err(reason.to_owned()),
        None => Ok(line.to_owned()),
    });
    let digests: Vec<_> = lines.collect();
    assert_eq!(digests.len(), files.len(), "{text}");
    digests
}

pub(super) fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a file can be written");
    path
}

#[tokio::test]
async fn random_igvm_files_have_the_digests_of_the_crate_igvm() {
    let started = Instant::now();
    let mut chance = Chance::of_this_run();
    let folder = tempfile::tempdir().expect("a folder");
    let files = (0..FILES).map(|number| {
        let bytes = random(&mut chance).bytes();
        write(folder.path(), &format!("{number}.igvm"), &bytes)
    });
    let files: Vec<PathBuf> = files.collect();
    let mut site = Site::open("sev-snp");
    let mut different = Vec::new();
    for (path, theirs) in files.iter().zip(digests(&files)) {
        // The first is that in the order of the file, which the crate has.
        let ours = site
            .values(&Guest::of_igvm(path), &[], "launch-digest")
            .await
            .map(|values| values[0].clone());
        if ours.is_err() || ours != theirs {
            different.push(format!(
                "{}: {ours:?}, and igvm says {theirs:?}",
                path.display()
            ));
        }
    }
    println!(
        "{FILES} IGVM files, {} differ, {:.1} s",
        different.len(),
        started.elapsed().as_secs_f64()
    );
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Files that the crate measures, and that the backend must not give a digest of: KVM would measure
/// another one.
#[tokio::test]
async fn what_kvm_would_measure_otherwise_has_no_digest() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = vec![7; 2 * PAGE];
    let mut wrong_start = wrapped(&image, true, Place::Last);
    let mut two = wrong_start.clone();
    for directive in &mut wrong_start.directives {
        if let Directive::Registers { page, .. } = directive {
            put(page, CR0, 0x11);
        }
    }
    two.directives.push(Directive::Registers {
        mask: WRAPPED,
        page: flat_registers(),
        vcpu: 0,
    });
    let (mut of_another, mut of_no_snp, mut shared) = (
        two.clone(),
        two.clone(),
        wrapped(&image, false, Place::Last),
    );
    of_another.directives.pop();
    of_no_snp.directives.pop();
    for directive in &mut of_another.directives {
        if let Directive::Registers { vcpu, .. } = directive {
            *vcpu = 1;
        }
    }
    for directive in &mut of_no_snp.directives {
        if let Directive::Registers { page, .. } = directive {
            put(page, FEATURES, 0x20);
        }
    }
    if let Some(Directive::Page { flags, .. }) = shared.directives.first_mut() {
        *flags = SHARED;
    }
    let mut of_tdx = wrapped(&image, false, Place::Last);
    of_tdx.platforms = vec![(WRAPPED, TDX)];
    let mut site = Site::open("sev-snp");
    for (name, file, said) in [
        (
            "first",
            wrapped(&image, true, Place::First),
            "has pages after its registers (VMSA), and KVM measures registers last",
        ),
        ("start", wrong_start, "starts its vCPU with CR0 0x11"),
        ("two", two, "has registers (VMSA) of 2 vCPUs"),
        ("another", of_another, "has registers (VMSA) of vCPU 1"),
        (
            "no-snp",
            of_no_snp,
            "SEV_FEATURES 0x20, in which SNP is not active",
        ),
        ("shared", shared, "is shared with the host"),
        ("tdx", of_tdx, "the IGVM file has no SEV-SNP platform"),
    ] {
        let path = write(folder.path(), name, &file.bytes());
        let ours = site
            .value(&Guest::of_igvm(&path), &[], "launch-digest")
            .await;
        let reason = ours.expect_err(name);
        assert!(reason.contains(said), "{name}: {reason}");
    }
}

/// QEMU holds a run of pages back, and feeds parameters at once. What the crate says of a file with
/// its directives in that order is the second value.
#[tokio::test]
async fn where_qemu_feeds_in_another_order_both_digests_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = |gpa, byte| Directive::Page {
        gpa,
        mask: WRAPPED,
        flags: 0,
        kind: NORMAL,
        content: vec![byte; PAGE],
    };
    let (one, next, far) = (page(0x1000, 1), page(0x2000, 2), page(0x9000, 3));
    let parameters = insert(0x5000, WRAPPED, 0);
    let registers = Directive::Registers {
        mask: WRAPPED,
        page: flat_registers(),
        vcpu: 0,
    };
    let file = |middle: &[&Directive]| {
        let mut directives = vec![area(0, 2)];
        directives.extend(middle.iter().copied().cloned());
        directives.push(registers.clone());
        File {
            platforms: vec![(WRAPPED, SNP)],
            policies: vec![WRAPPED],
            directives,
        }
    };
    let mut site = Site::open("sev-snp");
    for (index, (in_file, as_fed)) in [
        // A run that is not over.
        (
            [&one, &next, &parameters, &far],
            [&parameters, &one, &next, &far],
        ),
        // The next page is no part of it after something else.
        (
            [&one, &parameters, &next, &far],
            [&parameters, &one, &next, &far],
        ),
        // The file ends, and the run with it.
        (
            [&far, &one, &next, &parameters],
            [&far, &parameters, &one, &next],
        ),
        // No run waits.
        (
            [&parameters, &one, &next, &far],
            [&parameters, &one, &next, &far],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let paths = [("file", &in_file), ("fed", &as_fed)].map(|(name, order)| {
            let name = format!("{name}-{index}.igvm");
            write(folder.path(), &name, &file(&order[..]).bytes())
        });
        let mut expected: Vec<String> = digests(&paths)
            .into_iter()
            .map(|digest| digest.expect("the crate measures it"))
            .collect();
        expected.dedup();
        let guest = Guest::of_igvm(&paths[0]);
        let ours = site.values(&guest, &[], "launch-digest").await;
        assert_eq!(ours.expect("it is measured"), expected, "{index}");
    }
}
