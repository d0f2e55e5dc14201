//! Input that nobody sends by mistake: files, texts, sizes.

use casemate_host::spec::Origin;
use casemate_host::spec::identity::{Identity, IdentitySource};
use casemate_host::spec::plan::{Property, Value};
use casemate_host::spec::request::Choice;

use crate::catalogue as checks;
use crate::draft::{Content, Draft, FileDraft};
use crate::ledger::Ledger;
use crate::subject::{Subject, Trial};
use crate::world::device;

/// A file that a backend has no memory for, in zeros that take no disk. What is hashed of it within
/// the time of a call is the host's to do.
const HUGE: u64 = 96 << 20;
/// Bytes that are turned over in a file, one at a time; tables of firmware lie at its end.
const FLIPS: u64 = 24;
const LAST_PAGE: u64 = 4096;

pub(super) fn run(subject: &Subject, ledger: &mut Ledger, draft: &Draft) {
    files(subject, ledger, draft);
    texts(subject, ledger, draft);
    sizes(subject, ledger, draft);
}

fn files(subject: &Subject, ledger: &mut Ledger, draft: &Draft) {
    let mut drafts = vec![draft.clone()];
    // In place of what the usual request has for firmware.
    for (role, name) in [("igvm", "coconut.igvm"), ("firmware-code", "OVMF.fd")] {
        let mut other = draft.clone();
        other.files.retain(|file| file.role != "firmware");
        other.files.push(FileDraft {
            id: 900,
            role: role.to_owned(),
            content: Content::Named(name.to_owned()),
            origin: Origin::Operator,
        });
        drafts.push(other);
    }
    let mut seen = std::collections::BTreeSet::new();
    for draft in drafts {
        for file in &draft.files {
            if !seen.insert(file.role.clone()) {
                continue;
            }
            for content in contents(file) {
                let what = format!("the {} is {content:?}", file.role);
                let trial = Trial::new(&checks::HOSTILE_FILES, what);
                let changed = draft.with_content(&file.role, &content);
                subject.check(ledger, &changed, &trial);
                subject.plan(ledger, &changed, &trial);
            }
        }
    }
}

fn contents(file: &FileDraft) -> Vec<Content> {
    let mut contents = vec![
        Content::Empty,
        Content::Noise { bytes: 1, seed: 1 },
        Content::Noise {
            bytes: 4096,
            seed: 2,
        },
        Content::Noise {
            bytes: 1 << 20,
            seed: 3,
        },
        Content::Zeros(1 << 20),
        Content::Zeros(HUGE),
    ];
    if let Content::Named(name) = &file.content {
        for bytes in [1, 47, 48, 4095, 4096, 5000, 1 << 16] {
            let of = name.clone();
            contents.push(Content::Beginning { of, bytes });
        }
        if file.role.starts_with("firmware") || file.role == "igvm" {
            let size =
                crate::golden::images::bytes(name).map_or(LAST_PAGE, |bytes| bytes.len() as u64);
            for step in 0..FLIPS {
                let at = if file.role == "igvm" {
                    step * 7
                } else {
                    size.saturating_sub(0x20 + step * 11)
                };
                let of = name.clone();
                contents.push(Content::Flipped { of, at });
            }
        }
    }
    contents
}

fn texts(subject: &Subject, ledger: &mut Ledger, draft: &Draft) {
    let long = "x".repeat(60_000);
    for cmdline in [
        "",
        " ",
        ",,,=,",
        "a=\"b,,c\" 'd' \\ `e` $(f)",
        "größe=☃ 漢字 \u{202e}abc",
        "%s%n%x {} {{}}",
        "-kernel /etc/passwd @file:1@ @kernel@",
        &long,
    ] {
        let mut draft = draft.clone();
        cmdline.clone_into(&mut draft.kernel_cmdline);
        let trial = Trial::new(
            &checks::HOSTILE_TEXTS,
            format!("command line {}", brief(cmdline)),
        );
        subject.plan(ledger, &draft, &trial);
    }
    let long = "x".repeat(5_000);
    for name in [
        "",
        " ",
        "q35,kernel=/etc/shadow",
        "EPYC,+avx",
        "größe",
        "-h",
        "../x",
        "a b",
        &long,
    ] {
        for origin in [Origin::BuiltIn, Origin::Operator, Origin::Request] {
            let choice = Some(Choice {
                value: name.to_owned(),
                origin,
            });
            let mut machine = draft.clone();
            machine.machine.clone_from(&choice);
            let mut cpu = draft.clone();
            cpu.cpu = choice;
            for (field, draft) in [("machine", machine), ("CPU model", cpu)] {
                let what = format!("{field} {} ({origin:?})", brief(name));
                subject.plan(ledger, &draft, &Trial::new(&checks::HOSTILE_TEXTS, what));
            }
        }
    }
    for (path, value) in [
        ("addr", Value::Text("0x2,id=x".to_owned())),
        ("iommu_platform", Value::Text("größe".to_owned())),
        ("romfile", Value::Text("/etc/shadow".to_owned())),
        ("disable-legacy", Value::Integer(i64::MIN)),
    ] {
        let mut draft = draft.clone();
        let property = Property {
            path: path.to_owned(),
            value,
        };
        draft.devices = vec![device("net", "vmnic", vec![property])];
        let what = format!("a network device with an odd {path}");
        subject.plan(ledger, &draft, &Trial::new(&checks::HOSTILE_TEXTS, what));
    }
}

fn sizes(subject: &Subject, ledger: &mut Ledger, draft: &Draft) {
    let tried = |what: String, draft: Draft, ledger: &mut Ledger| {
        subject.plan(ledger, &draft, &Trial::new(&checks::EXTREME_SIZES, what));
    };
    for vcpus in [
        0,
        1,
        2,
        7,
        255,
        256,
        288,
        1024,
        4096,
        4097,
        65_536,
        u32::MAX - 1,
        u32::MAX,
    ] {
        let mut draft = draft.clone();
        draft.vcpus = vcpus;
        tried(format!("{vcpus} vCPUs"), draft, ledger);
    }
    for memory in [
        0,
        1,
        1 << 20,
        (1 << 30) + 1,
        30 << 30,
        (30 << 30) + (1 << 20),
        1 << 40,
        1 << 52,
        u64::MAX - 0xf_ffff,
        u64::MAX,
    ] {
        let mut draft = draft.clone();
        draft.memory_bytes = memory;
        tried(format!("{memory} bytes of memory"), draft, ledger);
    }
    for (algorithm, length) in [
        ("raw", 0),
        ("raw", 65),
        ("raw", 5_000),
        ("sha-256", 31),
        ("md5", 16),
        ("", 0),
    ] {
        let mut draft = draft.clone();
        draft.identity = Some(Identity {
            algorithm: algorithm.to_owned(),
            digest: vec![0xa5; length],
            source: IdentitySource::Request,
        });
        tried(
            format!("an identity of {length} bytes ({algorithm:?})"),
            draft,
            ledger,
        );
    }
    let mut many = draft.clone();
    many.devices = (0..200)
        .map(|index| device("share-9p", &format!("share{index}"), Vec::new()))
        .collect();
    tried("200 devices".to_owned(), many, ledger);
}

fn brief(text: &str) -> String {
    const LONGEST: usize = 40;
    if text.chars().count() <= LONGEST {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(LONGEST).collect();
    format!("{start:?}… ({} bytes)", text.len())
}
