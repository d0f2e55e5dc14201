//! Values that other programs gave, by `golden.toml`. Files are made here or come from packages; a
//! package that has moved on has other bytes, and values of the former ones are left out, which is
//! said. Then the comparisons in `oracle` are about the new ones.
//!
//! IGVM files are built again byte for byte, but for that of a TDX guest, which `igvm-wrap` made of
//! `OVMF.inteltdx.ms.fd`: its MRTD is that of the image, which is here. That a file for TDX is none
//! for SEV-SNP is a test of `igvm`. Digests with zero pages of the firmware's own kind
//! (`igvmmeasure --native-zero`) are not carried, because QEMU does not launch guests that way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_attestation::RegisterValue;
use casemate_firmware_images::{Image, Metadata, tdx_section};
use casemate_integration::artifacts;
use serde::Deserialize;
use tempfile::TempDir;

use super::igvm::{self, Place};
use super::site::{Guest, Site, one};

const NO_HASHES: &str = "so the kernel would not be part of the launch measurement";
const REGISTERS_FIRST: &str = "has pages after its registers (VMSA)";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    sha256: BTreeMap<String, String>,
    tools: BTreeMap<String, Vec<String>>,
    snp: Vec<Snp>,
    refused: Vec<Snp>,
    igvm: Vec<IgvmFile>,
    mrtd: Vec<Mrtd>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Snp {
    firmware: String,
    cpu: String,
    vcpus: u32,
    features: String,
    kernel: Option<String>,
    initrd: Option<String>,
    cmdline: Option<String>,
    /// None where it is refused.
    digest: Option<String>,
    by: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IgvmFile {
    file: String,
    digest: String,
    refused: bool,
    by: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Mrtd {
    firmware: String,
    one_pass: String,
    two_pass: String,
    by: String,
}

/// The values and the files at hand.
struct Table {
    golden: Golden,
    folder: TempDir,
    /// Inputs that are other ones than they were, or are not there.
    left_out: BTreeSet<String>,
}

impl Table {
    fn open() -> Self {
        let golden: Golden = toml::from_str(include_str!("golden.toml")).expect("it parses");
        let by = golden.snp.iter().map(|value| &value.by);
        let by = by.chain(golden.refused.iter().map(|value| &value.by));
        let by = by.chain(golden.igvm.iter().map(|value| &value.by));
        for name in by.chain(golden.mrtd.iter().map(|value| &value.by)) {
            assert!(golden.tools.contains_key(name), "{name} is no tool");
        }
        Self {
            golden,
            folder: tempfile::tempdir().expect("a folder"),
            left_out: BTreeSet::new(),
        }
    }

    /// A file with the bytes that the values are of.
    fn input(&mut self, name: &str) -> Option<PathBuf> {
        let known = &self.golden.sha256[name];
        let path = found(name, self.folder.path())?;
        let sha256 = artifacts::sha256(&path);
        if sha256 == *known {
            return Some(path);
        }
        // What is made here is always the same.
        let is_packaged = !path.starts_with(self.folder.path());
        assert!(is_packaged, "{name} has the SHA-256 {sha256}");
        if self.left_out.insert(name.to_owned()) {
            println!("{name} is another release, and its values are left out: {sha256}");
        }
        None
    }

    fn guest(&mut self, value: &Snp) -> Option<Guest> {
        let mut file = |name: &Option<String>| {
            let path = name.as_ref().map(|name| self.input(name));
            path.map(|path| path.expect("it is made here"))
        };
        let (kernel, initrd) = (file(&value.kernel), file(&value.initrd));
        Some(Guest {
            kernel,
            initrd,
            cmdline: value.cmdline.clone(),
            cpu: value.cpu.clone(),
            vcpus: value.vcpus,
            ..Guest::of(&self.input(&value.firmware)?)
        })
    }
}

/// An input by its name, made where it is not there.
fn found(name: &str, folder: &Path) -> Option<PathBuf> {
    let made = |bytes: Vec<u8>| Some(igvm::write(folder, name, &bytes));
    match name {
        "kernel.bin" => made(vec![b'K'; 1 << 20]),
        "initrd.bin" => made(vec![b'I'; 1 << 19]),
        "empty" => made(Vec::new()),
        "made-tdvf.fd" => made(small_tdvf()),
        "OVMF.fd" => Some(artifacts::ovmf()),
        "OVMF.amdsev.fd" | "OVMF.inteltdx.ms.fd" => artifacts::confidential_firmware(name),
        name if name.ends_with("_suffix.bin") => Some(artifacts::published(name)),
        other => panic!("no input {other}"),
    }
}

/// 16 KiB with all kinds of sections that a TDX guest has, and content of which no two pages agree.
fn small_tdvf() -> Vec<u8> {
    const SIZE: usize = 0x4000;
    const TABLES: usize = 0x1000;
    let sections = vec![
        tdx_section((0x1000, 0x3000), (0xffff_d000, 0x3000), 0),
        tdx_section((0, 0x1000), (0xffff_c000, 0x1000), 1),
        tdx_section((0, 0), (0x81_0000, 0x3000), 3),
        tdx_section((0, 0), (0x80_9000, 0x2000), 2),
    ];
    let image = Image::with(|image| {
        image.size = SIZE;
        image.sev = None;
        image.tdx = Some(Metadata {
            sections,
            ..image.tdx().clone()
        });
    });
    let mut bytes = image.bytes();
    let content = bytes.iter_mut().zip(0_usize..).take(SIZE - TABLES);
    for (byte, at) in content {
        *byte = (at * 7 + at / 256 * 13) as u8;
    }
    bytes
}

#[tokio::test]
async fn launch_digests_are_those_of_sev_snp_measure() {
    let mut table = Table::open();
    let mut site = Site::open("sev-snp");
    let (mut values, mut refusals, mut left_out) = (0, 0, 0);
    let mut wrong = Vec::new();
    let snp = std::mem::take(&mut table.golden.snp);
    let refused = std::mem::take(&mut table.golden.refused);
    for value in snp.iter().chain(&refused) {
        let Some(guest) = table.guest(value) else {
            left_out += 1;
            continue;
        };
        let settings = [("guest-features", value.features.as_str())];
        let ours = site.value(&guest, &settings, "launch-digest").await;
        let is_right = match (&ours, &value.digest) {
            (Ok(ours), Some(digest)) => {
                values += 1;
                ours == digest
            }
            (Err(reason), None) => {
                refusals += 1;
                reason.contains(NO_HASHES)
            }
            _ => false,
        };
        if !is_right {
            wrong.push(format!("{value:?}: {ours:?}"));
        }
    }
    println!("{values} digests, {refusals} refusals, {left_out} left out");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Those of the published files are always there.
    assert!(values >= 13, "{values}");
}

/// The firmware ends the launch of another guest than the one that its ID block is for.
#[tokio::test]
async fn an_id_block_has_the_digest_of_its_guest() {
    /// Bytes of the block (SEV-SNP firmware ABI, section 8.18), which begins with the digest, and of
    /// what authenticates it.
    const BLOCK: usize = 96;
    const AUTHENTICATION: usize = 4096;
    let mut table = Table::open();
    let mut site = Site::open("sev-snp");
    let values = std::mem::take(&mut table.golden.snp);
    let mut found = values.iter().filter_map(|value| {
        let guest = table.guest(value)?;
        Some((guest, value.features.as_str(), value.digest.as_deref()?))
    });
    let (guest, features, digest) = found.next().expect("a published file is always there");
    let right = hex::decode(digest).expect("a digest");
    let mut wrong = right.clone();
    wrong[0] ^= 1;
    let authentication = STANDARD.encode([1; AUTHENTICATION]);
    for (of_block, is_right) in [(&right, true), (&wrong, false)] {
        let mut block = of_block.clone();
        block.resize(BLOCK, 0);
        let block = STANDARD.encode(block);
        let settings = [
            ("guest-features", features),
            ("sev-snp-id-block", &block),
            ("sev-snp-id-auth", &authentication),
        ];
        let ours = site.value(&guest, &settings, "launch-digest").await;
        match (&ours, is_right) {
            (Ok(ours), true) => assert_eq!(ours, digest),
            (Err(reason), false) => {
                let said = format!(
                    "the ID block is for a guest with the launch digest {}, and this one has {digest}",
                    hex::encode(&wrong)
                );
                assert!(reason.contains(&said), "{reason}");
            }
            _ => panic!("{ours:?}"),
        }
    }
}

#[tokio::test]
async fn igvm_files_have_the_digests_of_igvmmeasure() {
    let mut table = Table::open();
    let mut site = Site::open("sev-snp");
    let values = std::mem::take(&mut table.golden.igvm);
    let mut compared = 0;
    for value in &values {
        let (image, has_parameters) = if value.file.starts_with("AmdSev-suffix") {
            ("ovmf_AmdSev_suffix.bin", false)
        } else {
            ("OVMF.amdsev.fd", true)
        };
        let Some(image) = table.input(image) else {
            continue;
        };
        let image = std::fs::read(image).expect("it is readable");
        let place = if value.refused {
            Place::First
        } else {
            Place::Last
        };
        let file = igvm::wrapped(&image, has_parameters, place);
        let path = igvm::write(table.folder.path(), &value.file, &file.bytes());
        assert_eq!(
            artifacts::sha256(&path),
            table.golden.sha256[&value.file],
            "{}",
            value.file
        );
        // What the random files are compared with is right itself.
        let theirs = igvm::digests(std::slice::from_ref(&path));
        assert_eq!(theirs, [Ok(value.digest.clone())], "{}", value.file);
        let ours = site
            .value(&Guest::of_igvm(&path), &[], "launch-digest")
            .await;
        match (ours, value.refused) {
            (Ok(ours), false) => assert_eq!(ours, value.digest, "{}", value.file),
            (Err(reason), true) if reason.contains(REGISTERS_FIRST) => {}
            (ours, _) => panic!("{}: {ours:?}", value.file),
        }
        compared += 1;
    }
    println!("{compared} of {} IGVM files", values.len());
    // Those of the published image are always there.
    assert!(compared >= 2);
}

/// By each way to know in which order QEMU adds pages: the operator says it, QEMU's version says it,
/// or nobody, and both are told.
#[tokio::test]
async fn mrtds_are_those_of_td_shim_and_dstack() {
    let mut table = Table::open();
    let mut site = Site::open("tdx");
    let values = std::mem::take(&mut table.golden.mrtd);
    let mut compared = 0;
    for value in &values {
        let name = &value.firmware;
        let Some(path) = table.input(name) else {
            continue;
        };
        let mut guest = Guest::of(&path);
        for (order, expected) in [("one-pass", &value.one_pass), ("two-pass", &value.two_pass)] {
            let settings = [("mrtd-page-order", order)];
            let ours = site.value(&guest, &settings, "mrtd").await;
            assert_eq!(ours.as_ref(), Ok(expected), "{name}, {order}");
        }
        let registers = site.measure(&guest, &[]).await.expect(name);
        let RegisterValue::OneOf(both) = &one(&registers, "mrtd").value else {
            panic!("{name}: {:?}", one(&registers, "mrtd"));
        };
        let both: Vec<String> = both.iter().map(|one| hex::encode(&one.value)).collect();
        assert_eq!(both, [&*value.one_pass, &*value.two_pass], "{name}");
        guest.qemu_version = Some("10.1.0".to_owned());
        let ours = site.value(&guest, &[], "mrtd").await;
        assert_eq!(ours.as_ref(), Ok(&value.one_pass), "{name}");
        compared += 1;
    }
    println!("{compared} of {} MRTDs, each in four ways", values.len());
    assert!(compared >= 1);
}
