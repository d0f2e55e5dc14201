//! Rules for SEV-SNP: the guard object, its policy, firmware and CPU.
//!
//! A rule about a value says nothing where the value has the wrong type: `snp.types` does.

use super::Details;
use super::guard::{self, Property};
use crate::case::{Case, IGVM};
use crate::item::Reading;
use crate::world::{Debugging, Smt};

#[rustfmt::skip]
const PROPERTIES: &[(&str, Property)] = &[
    ("sev-device", Property::Text), ("cbitpos", Property::Number),
    ("reduced-phys-bits", Property::Number), ("kernel-hashes", Property::Switch),
    ("policy", Property::Number), ("guest-visible-workarounds", Property::Text),
    ("id-block", Property::Text), ("id-auth", Property::Text),
    ("author-key-enabled", Property::Switch), ("host-data", Property::Text),
    ("vcek-disabled", Property::Switch),
];

/// QEMU's, where none is written.
const DEFAULT_POLICY: u64 = 0x30000;
const POLICY_SMT: u64 = 1 << 16;
const POLICY_RESERVED: u64 = 1 << 17;
const POLICY_MIGRATION: u64 = 1 << 18;
const POLICY_DEBUG: u64 = 1 << 19;
const POLICY_SINGLE_SOCKET: u64 = 1 << 20;
/// Bits that some kernels publish, 21 to 25.
const POLICY_NEWER: u64 = 0x3e0_0000;
/// Bits that no kernel knows, 26 to 63.
const POLICY_HIGH: u64 = !0x3ff_ffff;

const HOST_DATA: usize = 32;
const ID_BLOCK: usize = 96;
const ID_AUTH_MOST: usize = 4096;
const WORKAROUNDS: usize = 16;
/// What the C-bit may take of the guest's addresses. The field of CPUID has six bits.
const REDUCED_BITS: std::ops::RangeInclusive<u64> = 1..=63;

/// Models without the cache property that the PSP refuses, by their first version without it.
const CPU_FAMILIES: [(&str, u64); 5] = [
    ("EPYC", 4),
    ("EPYC-Rome", 3),
    ("EPYC-Milan", 2),
    ("EPYC-Genoa", 1),
    ("EPYC-Turin", 1),
];
/// Network cards that QEMU gives an option ROM unless told otherwise.
const CARDS: [&str; 7] = [
    "virtio-net-pci",
    "e1000",
    "rtl8139",
    "ne2k_pci",
    "pcnet",
    "vmxnet3",
    "i8255",
];

pub(super) fn properties(case: &Case<'_>) -> Details {
    guard::unknown_properties(case, PROPERTIES)
}

pub(super) fn types(case: &Case<'_>) -> Details {
    guard::wrong_types(case, PROPERTIES)
}

pub(super) fn irqchip(case: &Case<'_>) -> Details {
    match case.machine("kernel-irqchip") {
        None | Some("on" | "split" | "auto") => Vec::new(),
        Some(value) => vec![format!("kernel-irqchip={value}")],
    }
}

pub(super) fn no_pflash(case: &Case<'_>) -> Details {
    case.pflash()
}

pub(super) fn one_bios(case: &Case<'_>) -> Details {
    if case.has_igvm() {
        return Vec::new();
    }
    guard::one_bios(case)
}

pub(super) fn firmware_metadata(case: &Case<'_>) -> Details {
    if case.arguments.has("bios") && !case.world.firmware.sev_metadata {
        return vec!["the firmware has no SEV metadata".to_owned()];
    }
    Vec::new()
}

pub(super) fn igvm_named(case: &Case<'_>) -> Details {
    let objects: Vec<_> = case
        .objects()
        .filter(|object| object.kind == IGVM)
        .collect();
    match (case.machine("igvm-cfg"), objects.as_slice()) {
        (None, []) => Vec::new(),
        (Some(name), [object]) if object.id.as_deref() == Some(name) => Vec::new(),
        (Some(name), _) => vec![format!(
            "igvm-cfg={name} is not the one object of that kind"
        )],
        (None, _) => vec!["the machine names no igvm-cfg".to_owned()],
    }
}

pub(super) fn igvm_no_bios(case: &Case<'_>) -> Details {
    if case.has_igvm() && case.arguments.has("bios") {
        return vec!["-bios beside igvm-cfg".to_owned()];
    }
    Vec::new()
}

pub(super) fn igvm_no_kernel_hashes(case: &Case<'_>) -> Details {
    if case.has_igvm() && has_kernel_hashes(case) {
        return vec!["kernel-hashes beside igvm-cfg".to_owned()];
    }
    Vec::new()
}

pub(super) fn igvm_no_id_block(case: &Case<'_>) -> Details {
    if !case.has_igvm() {
        return Vec::new();
    }
    ["id-block", "id-auth"]
        .into_iter()
        .filter(|name| guard::has(case, name))
        .map(|name| format!("{name} beside igvm-cfg"))
        .collect()
}

fn has_kernel_hashes(case: &Case<'_>) -> bool {
    let switch = case.guard.map(|guard| guard.switch("kernel-hashes"));
    switch == Some(Reading::Is(true))
}

pub(super) fn kernel_hashes_kernel(case: &Case<'_>) -> Details {
    if has_kernel_hashes(case) && !case.arguments.has("kernel") && !case.has_igvm() {
        return vec!["kernel-hashes without -kernel".to_owned()];
    }
    Vec::new()
}

pub(super) fn kernel_hashes_area(case: &Case<'_>) -> Details {
    let firmware = case.world.firmware;
    if has_kernel_hashes(case) && !case.has_igvm() && !firmware.kernel_hash_area {
        return vec!["the firmware has no area for them".to_owned()];
    }
    Vec::new()
}

pub(super) fn kernel_hashed(case: &Case<'_>) -> Details {
    let could_be = !case.has_igvm() && case.world.firmware.kernel_hash_area;
    if case.arguments.has("kernel") && could_be && !has_kernel_hashes(case) {
        return vec!["-kernel without kernel-hashes".to_owned()];
    }
    Vec::new()
}

pub(super) fn cbitpos(case: &Case<'_>) -> Details {
    let Some(guard) = case.guard else {
        return Vec::new();
    };
    let written = match guard.number("cbitpos") {
        Reading::Wrong(_) => return Vec::new(),
        Reading::Absent => 0,
        Reading::Is(written) => written,
    };
    match case.world.cbit {
        Some(cbit) if written == u64::from(cbit) => Vec::new(),
        Some(cbit) => vec![format!("cbitpos is {written}, the host's C-bit is {cbit}")],
        None => vec![format!("cbitpos is {written}, and the host has no C-bit")],
    }
}

pub(super) fn reduced_phys_bits_given(case: &Case<'_>) -> Details {
    match case.guard.map(|guard| guard.number("reduced-phys-bits")) {
        None | Some(Reading::Absent) => vec!["reduced-phys-bits is missing".to_owned()],
        Some(Reading::Is(bits)) if !REDUCED_BITS.contains(&bits) => {
            vec![format!("reduced-phys-bits is {bits}")]
        }
        Some(_) => Vec::new(),
    }
}

pub(super) fn reduced_phys_bits(case: &Case<'_>) -> Details {
    match guard::number(case, "reduced-phys-bits") {
        Some(bits) if bits != 1 && REDUCED_BITS.contains(&bits) => {
            vec![format!("reduced-phys-bits is {bits}")]
        }
        _ => Vec::new(),
    }
}

pub(super) fn policy_said(case: &Case<'_>) -> Details {
    if guard::has(case, "policy") {
        Vec::new()
    } else {
        vec!["policy is QEMU's choice".to_owned()]
    }
}

/// What the guest is launched with; `None` where what is written is no number.
fn policy(case: &Case<'_>) -> Option<u64> {
    match case.guard?.number("policy") {
        Reading::Absent => Some(DEFAULT_POLICY),
        Reading::Is(policy) => Some(policy),
        Reading::Wrong(_) => None,
    }
}

fn policy_unless(case: &Case<'_>, good: impl FnOnce(u64) -> bool) -> Details {
    match policy(case) {
        Some(policy) if !good(policy) => vec![format!("policy is {policy:#x}")],
        _ => Vec::new(),
    }
}

pub(super) fn policy_reserved(case: &Case<'_>) -> Details {
    policy_unless(case, |policy| policy & POLICY_RESERVED != 0)
}

pub(super) fn policy_migration(case: &Case<'_>) -> Details {
    policy_unless(case, |policy| policy & POLICY_MIGRATION == 0)
}

pub(super) fn policy_debug(case: &Case<'_>) -> Details {
    policy_unless(case, |policy| {
        policy & POLICY_DEBUG == 0 || case.world.debugging == Debugging::Asked
    })
}

pub(super) fn policy_published(case: &Case<'_>) -> Details {
    let Some(published) = case.world.snp_policy_bits else {
        // Kernels of before refuse one socket, and a guest without SMT.
        return policy_unless(case, |policy| {
            policy & (POLICY_NEWER | POLICY_SINGLE_SOCKET) == 0 && policy & POLICY_SMT != 0
        });
    };
    policy_unless(case, |policy| policy & POLICY_NEWER & !published == 0)
}

pub(super) fn policy_high(case: &Case<'_>) -> Details {
    policy_unless(case, |policy| policy & POLICY_HIGH == 0)
}

pub(super) fn policy_smt(case: &Case<'_>) -> Details {
    policy_unless(case, |policy| {
        policy & POLICY_SMT != 0 || case.world.smt != Smt::On
    })
}

pub(super) fn policy_abi(case: &Case<'_>) -> Details {
    let Some((major, minor)) = case.world.snp_abi else {
        return Vec::new();
    };
    let offered = u64::from(u16::from_be_bytes([major, minor]));
    policy_unless(case, |policy| policy & 0xffff <= offered)
}

pub(super) fn host_data(case: &Case<'_>) -> Details {
    guard::bytes_of(case, "host-data", HOST_DATA..=HOST_DATA)
}

pub(super) fn identity(case: &Case<'_>) -> Details {
    guard::identity(case, "host-data", HOST_DATA)
}

pub(super) fn id_block(case: &Case<'_>) -> Details {
    guard::bytes_of(case, "id-block", ID_BLOCK..=ID_BLOCK)
}

pub(super) fn id_auth(case: &Case<'_>) -> Details {
    guard::bytes_of(case, "id-auth", 1..=ID_AUTH_MOST)
}

pub(super) fn id_pair(case: &Case<'_>) -> Details {
    match (guard::has(case, "id-block"), guard::has(case, "id-auth")) {
        (true, false) => vec!["id-block without id-auth".to_owned()],
        (false, true) => vec!["id-auth without id-block".to_owned()],
        _ => Vec::new(),
    }
}

pub(super) fn author_key(case: &Case<'_>) -> Details {
    let enabled = case.guard.map(|guard| guard.switch("author-key-enabled"));
    if enabled == Some(Reading::Is(true)) && !guard::has(case, "id-auth") {
        return vec!["author-key-enabled without id-auth".to_owned()];
    }
    Vec::new()
}

pub(super) fn workarounds(case: &Case<'_>) -> Details {
    guard::bytes_of(case, "guest-visible-workarounds", WORKAROUNDS..=WORKAROUNDS)
}

/// Family and version of a model. Without one it is an alias of the first version, as a versioned
/// machine type resolves it.
fn cpu_version(model: &str) -> (&str, Option<u64>) {
    let versioned = model.rsplit_once("-v");
    let versioned = versioned.and_then(|(family, version)| Some((family, version.parse().ok()?)));
    match versioned {
        Some((family, version)) => (family, Some(version)),
        None => (model, None),
    }
}

fn model<'a>(case: &'a Case<'_>) -> &'a str {
    case.cpu.as_ref().map_or("", |cpu| cpu.model.as_str())
}

pub(super) fn cpu_model(case: &Case<'_>) -> Details {
    let model = model(case);
    let (family, version) = cpu_version(model);
    let known = CPU_FAMILIES.iter().find(|(name, _)| *name == family);
    match known {
        Some((_, first)) if version.unwrap_or(1) >= *first => Vec::new(),
        _ => vec![format!("the CPU is `{model}`")],
    }
}

pub(super) fn cpu_versioned(case: &Case<'_>) -> Details {
    let model = model(case);
    let (family, version) = cpu_version(model);
    let known = CPU_FAMILIES.iter().any(|(name, _)| *name == family);
    if known && version.is_none() {
        return vec![format!("the CPU is `{model}`")];
    }
    Vec::new()
}

pub(super) fn no_migration(case: &Case<'_>) -> Details {
    ["incoming", "loadvm"]
        .iter()
        .filter(|option| case.arguments.has(option))
        .map(|option| format!("-{option}"))
        .collect()
}

pub(super) fn option_roms(case: &Case<'_>) -> Details {
    let is_card = |kind: &str| CARDS.iter().any(|card| kind.starts_with(card));
    let cards = case
        .devices()
        .filter(|device| is_card(&device.kind))
        .filter(|device| device.text("romfile") != Reading::Is(""))
        .map(|device| format!("device {}", device.label()));
    let roms = case.arguments.items("option-rom");
    cards
        .chain(roms.map(|_| "-option-rom".to_owned()))
        .collect()
}
