//! Random requests, measured by the backends and by a Python that shares no code with them.
//!
//! Firmware is the distribution's and made here, with SEV metadata of every kind of section. Where
//! `sev-snp-measure` is known to differ from QEMU and KVM, nothing is made: it measures one page of a
//! secrets or CPUID section whatever its size, so these have one page.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Instant;

use casemate_firmware_images::{
    HASH_TABLE, INFO_BLOCK, Image, Metadata, sev_section, tdx_section, words,
};
use casemate_integration::artifacts;
use serde_json::{Value, json};

use super::Chance;
use super::igvm::write;
use super::site::{Guest, Site};

/// Random requests that are compared, and how many of them have a kernel at least.
const REQUESTS: usize = 240;
const FEWEST: usize = 200;
const FEWEST_WITH_KERNEL: usize = 100;
/// Images that are made for them.
const IMAGES: usize = 40;
const TDX_IMAGES: usize = 20;

const PAGE: usize = 0x1000;
const MOST_VCPUS: usize = 64;

/// SEV_FEATURES with SNP active: alone, with restricted injection, debug swap, secure TSC.
const FEATURES: [u64; 8] = [0x1, 0x5, 0x9, 0x21, 0x201, 0x221, 0x4_0001, u64::MAX];

/// Sections of SEV metadata (edk2, OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm).
const MEMORY: u32 = 1;
const SECRETS: u32 = 2;
const CPUID: u32 = 3;
const CALLING_AREA: u32 = 4;
const KERNEL_HASHES: u32 = 0x10;
/// Bytes of a table of hashes, with padding.
const TABLE: usize = 176;

/// A Python that answers line by line.
struct Python {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Python {
    /// None, and why on standard output, where set-up found no Python.
    fn start() -> Option<Self> {
        let program = artifacts::sev_snp_measure()?;
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../oracles/sev-snp-measure/answer.py");
        #[expect(
            clippy::disallowed_methods,
            reason = "a program of the tests, and none of the daemon's"
        )]
        let mut command = std::process::Command::new(program);
        let mut child = command
            .arg("-B")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python can be started");
        Some(Self {
            requests: child.stdin.take().expect("it is a pipe"),
            answers: BufReader::new(child.stdout.take().expect("it is a pipe")),
            child,
        })
    }

    fn ask(&mut self, request: &Value) -> Value {
        writeln!(self.requests, "{request}").expect("Python reads");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("Python answers");
        serde_json::from_str(&line).expect("an answer in JSON")
    }

    fn digest(&mut self, request: &Value) -> Result<String, String> {
        let answer = self.ask(request);
        match answer["digest"].as_str() {
            Some(digest) => Ok(digest.to_owned()),
            None => Err(answer["error"].as_str().expect("a reason").to_owned()),
        }
    }

    fn models(&mut self) -> Vec<String> {
        let answer = self.ask(&json!({"ask": "models"}));
        let models = answer["models"].as_array().expect("names").iter();
        let models = models.map(|model| model.as_str().expect("a name").to_owned());
        models.collect()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Debug)]
struct Firmware {
    path: PathBuf,
    has_hashes: bool,
}

/// An image with sections of each kind, in any order, at addresses of their own.
fn image(chance: &mut Chance, has_hashes: bool) -> Vec<u8> {
    let mut kinds = vec![MEMORY, SECRETS, CPUID, CALLING_AREA];
    if has_hashes {
        kinds.push(KERNEL_HASHES);
    }
    for _ in 0..chance.below(12) {
        let kind = *chance.one_of(&kinds);
        kinds.push(kind);
    }
    chance.shuffle(&mut kinds);
    // From both ends of memory, and not in the order of the sections.
    let mut places: Vec<u32> = (0..kinds.len() as u32).collect();
    chance.shuffle(&mut places);
    let distance = 0x2_0000;
    let start = 0x1000 * u32::try_from(chance.below(0x6_0000)).expect("below 2 GiB");
    let sections: Vec<(u32, u32, u32)> = kinds
        .iter()
        .zip(places)
        .map(|(kind, place)| {
            let pages = match *kind {
                MEMORY | CALLING_AREA => chance.below(0x1f),
                _ => 1,
            };
            let size = u32::try_from(pages * PAGE).expect("a few pages");
            let gap = 0x1000 * u32::try_from(chance.below(2)).expect("a page");
            (start + place * distance + gap, size, *kind)
        })
        .collect();
    let hashes = sections.iter().find(|(_, _, kind)| *kind == KERNEL_HASHES);
    let table = match hashes {
        Some((base, _, _)) => {
            let at = chance.within(0..=PAGE - TABLE);
            let size = chance.within(TABLE..=PAGE - at);
            words(&[base + at as u32, size as u32])
        }
        None => words(&[0, 0]),
    };
    let mut reset = chance.number() as u32;
    if chance.is(50) {
        reset &= 0x00ff_ffff;
    }
    let size = 0x1_0000 * chance.within(1..=6);
    let image = Image::with(|image| {
        image.size = size;
        *image.entry(HASH_TABLE) = table;
        *image.entry(INFO_BLOCK) = words(&[reset.max(1)]);
        let sections = sections.iter();
        image.sev().sections = sections
            .map(|(base, size, kind)| sev_section(*base, *size, *kind))
            .collect();
        // Its sections are of another size of image.
        image.tdx = None;
        image.entries.truncate(3);
    });
    let mut bytes = image.bytes();
    // The tables are in the last page.
    let content = chance.bytes(size - PAGE);
    bytes[..content.len()].copy_from_slice(&content);
    bytes
}

fn images(chance: &mut Chance, folder: &Path) -> Vec<Firmware> {
    let made = (0..IMAGES).map(|number| {
        let has_hashes = number % 5 != 0;
        Firmware {
            path: write(folder, &format!("{number}.fd"), &image(chance, has_hashes)),
            has_hashes,
        }
    });
    made.collect()
}

/// Bytes of any length: none, a few, several pages.
fn blob(chance: &mut Chance, folder: &Path, name: &str) -> PathBuf {
    let longest = *chance.one_of(&[0, 1, 100, PAGE, 20 * PAGE]);
    let length = chance.within(0..=longest);
    write(folder, name, &chance.bytes(length))
}

/// With blanks at either end, and letters that are several bytes.
fn cmdline(chance: &mut Chance) -> String {
    const WORDS: [&str; 12] = [
        "console=ttyS0",
        "quiet",
        " ",
        "  ",
        "\t",
        "root=/dev/sda1",
        "name=\"a b\"",
        "größe=ß",
        "鍵=値",
        "🔑",
        "a,b;c",
        "\\",
    ];
    let count = *chance.one_of(&[0, 1, 2, 5, 40]);
    let words = (0..count).map(|_| *chance.one_of(&WORDS));
    let words: Vec<&str> = words.collect();
    let line = words.join(*chance.one_of(&["", " "]));
    let ends = ["", "", " ", "\t  "];
    format!("{}{line}{}", chance.one_of(&ends), chance.one_of(&ends))
}

fn guest(
    chance: &mut Chance,
    firmware: &Firmware,
    models: &[String],
    folder: &Path,
    number: usize,
) -> Guest {
    let mut guest = Guest::of(&firmware.path);
    guest.cpu = chance.one_of(models).clone();
    // Small numbers are what people have.
    let most = *chance.one_of(&[2, 8, MOST_VCPUS]);
    guest.vcpus = u32::try_from(chance.within(1..=most)).expect("a few");
    // A kernel without a place for its hashes is refused by both: some of these.
    let percent = if firmware.has_hashes { 75 } else { 30 };
    if chance.is(percent) {
        guest.kernel = Some(blob(chance, folder, &format!("{number}.kernel")));
        if chance.is(70) {
            guest.initrd = Some(blob(chance, folder, &format!("{number}.initrd")));
        }
        if chance.is(80) {
            guest.cmdline = Some(cmdline(chance));
        }
    }
    guest
}

#[derive(Debug, Default)]
struct Tally {
    digests: usize,
    with_kernel: usize,
    refused: usize,
    different: Vec<String>,
}

#[tokio::test]
async fn random_requests_have_the_digests_of_sev_snp_measure() {
    let started = Instant::now();
    let Some(mut python) = Python::start() else {
        return;
    };
    let mut chance = Chance::of_this_run();
    let folder = tempfile::tempdir().expect("a folder");
    let models = python.models();
    let made = images(&mut chance, folder.path());
    let packaged = artifacts::confidential_firmware("OVMF.amdsev.fd").map(|path| Firmware {
        path,
        has_hashes: true,
    });
    let mut site = Site::open("sev-snp");
    let mut tally = Tally::default();
    for number in 0..REQUESTS {
        let firmware = match &packaged {
            Some(packaged) if chance.is(25) => packaged.clone(),
            _ => chance.one_of(&made).clone(),
        };
        let guest = guest(&mut chance, &firmware, &models, folder.path(), number);
        let features = *chance.one_of(&FEATURES);
        let theirs = python.digest(&json!({
            "ask": "snp",
            "vcpus": guest.vcpus,
            "cpu": guest.cpu,
            "firmware": guest.firmware,
            "kernel": guest.kernel,
            "initrd": guest.initrd,
            "cmdline": guest.cmdline,
            "features": features,
        }));
        let settings = [("guest-features", &*format!("{features:#x}"))];
        let ours = site.value(&guest, &settings, "launch-digest").await;
        match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) if ours == theirs => {
                tally.digests += 1;
                tally.with_kernel += usize::from(guest.kernel.is_some());
            }
            (Err(_), Err(_)) if !firmware.has_hashes && guest.kernel.is_some() => {
                tally.refused += 1;
            }
            _ => tally.different.push(format!(
                "{guest:?}, features {features:#x}: {ours:?}, and sev-snp-measure says {theirs:?}"
            )),
        }
    }
    println!(
        "{} requests, {} with a kernel, {} differ; {} more refused by both, {:.1} s",
        tally.digests,
        tally.with_kernel,
        tally.different.len(),
        tally.refused,
        started.elapsed().as_secs_f64()
    );
    assert!(tally.different.is_empty(), "{}", tally.different.join("\n"));
    assert!(tally.digests >= FEWEST, "{}", tally.digests);
    assert!(
        tally.with_kernel >= FEWEST_WITH_KERNEL,
        "{}",
        tally.with_kernel
    );
}

/// An image with sections of each kind that QEMU takes, volumes in any order.
fn tdx_image(chance: &mut Chance) -> Vec<u8> {
    let variables = chance.within(1..=8) * PAGE;
    let size = 0x1_0000 * chance.within(1..=4);
    let code = size - variables;
    let page = |pages: usize| (pages * PAGE) as u64;
    let base = (1_u64 << 32) - size as u64;
    let (variables_size, code_size) = (variables as u32, code as u32);
    let mut sections = vec![
        tdx_section(
            (variables_size, code_size),
            (base + variables as u64, code as u64),
            0,
        ),
        tdx_section((0, variables_size), (base, variables as u64), 1),
        tdx_section((0, 0), (0x80_9000, page(chance.within(1..=2))), 2),
    ];
    for number in 0..chance.within(1..=4) {
        let memory = (
            0x90_0000 + page(0x20 * number),
            page(chance.within(1..=0x20)),
        );
        sections.push(tdx_section((0, 0), memory, 3));
    }
    chance.shuffle(&mut sections);
    let image = Image::with(|image| {
        image.size = size;
        image.sev = None;
        image.tdx = Some(Metadata {
            sections,
            ..image.tdx().clone()
        });
    });
    let mut bytes = image.bytes();
    let content = chance.bytes(size - PAGE);
    bytes[..content.len()].copy_from_slice(&content);
    bytes
}

#[tokio::test]
async fn random_images_have_the_mrtds_of_a_calculation_in_python() {
    let started = Instant::now();
    let Some(mut python) = Python::start() else {
        return;
    };
    let mut chance = Chance::of_this_run();
    let folder = tempfile::tempdir().expect("a folder");
    let made = (0..TDX_IMAGES).map(|number| {
        let bytes = tdx_image(&mut chance);
        write(folder.path(), &format!("{number}.fd"), &bytes)
    });
    let packaged = ["OVMF.amdsev.fd", "OVMF.inteltdx.ms.fd"];
    let packaged = packaged
        .into_iter()
        .filter_map(artifacts::confidential_firmware);
    let images: Vec<PathBuf> = made.chain(packaged).collect();
    let mut site = Site::open("tdx");
    let mut different = Vec::new();
    for path in &images {
        for order in ["one-pass", "two-pass"] {
            let request = json!({"ask": "mrtd", "firmware": path, "order": order});
            let theirs = python.digest(&request);
            let settings = [("mrtd-page-order", order)];
            let ours = site.value(&Guest::of(path), &settings, "mrtd").await;
            if ours.is_err() || ours != theirs {
                let path = path.display();
                different.push(format!("{path}, {order}: {ours:?}, and Python {theirs:?}"));
            }
        }
    }
    println!(
        "{} images in two orders, {} differ, {:.1} s",
        images.len(),
        different.len(),
        started.elapsed().as_secs_f64()
    );
    assert!(different.is_empty(), "{}", different.join("\n"));
}
