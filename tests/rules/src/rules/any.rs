//! Rules for every list, and those for guests without protection.

use super::Details;
use crate::case::{Case, GUARDS, MEMORY_BACKEND};

/// QEMU reads firmware in pieces of this size.
const BIOS_GRANULE: u64 = 64 << 10;
/// Options whose items have ids.
const WITH_IDS: [&str; 7] = [
    "object", "device", "netdev", "chardev", "fsdev", "drive", "audiodev",
];
/// Objects and machine properties of forks.
const FORK_OBJECTS: [&str; 1] = ["memory-backend-memfd-private"];
const FORK_MACHINE: [&str; 2] = ["kvm-type", "device-plane"];

pub(super) fn options(case: &Case<'_>) -> Details {
    let problems = case.arguments.problems().iter();
    problems.map(ToString::to_string).collect()
}

pub(super) fn amounts(case: &Case<'_>) -> Details {
    let mut details = Vec::new();
    if case.arguments.memory().is_none_or(|memory| memory == 0) {
        details.push("-m is no size".to_owned());
    }
    if case.vcpus.is_none_or(|count| count == 0) {
        details.push("-smp is no count".to_owned());
    }
    details
}

pub(super) fn ids(case: &Case<'_>) -> Details {
    let items = case
        .arguments
        .all_items()
        .filter(|(option, _)| WITH_IDS.contains(option));
    let ids = items.filter_map(|(option, item)| Some((option, item.id.as_deref()?)));
    ids.filter(|(_, id)| !is_identifier(id))
        .map(|(option, id)| format!("-{option} has the id `{id}`"))
        .collect()
}

fn is_identifier(id: &str) -> bool {
    id.starts_with(|first: char| first.is_ascii_alphabetic())
        && id
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "-._".contains(character))
}

pub(super) fn boot_needs_kernel(case: &Case<'_>) -> Details {
    if case.arguments.has("kernel") {
        return Vec::new();
    }
    ["initrd", "append"]
        .iter()
        .filter(|option| case.arguments.has(option))
        .map(|option| format!("-{option} without -kernel"))
        .collect()
}

pub(super) fn bios_size(case: &Case<'_>) -> Details {
    let size = case.world.firmware.size;
    if case.arguments.has("bios") && (size == 0 || !size.is_multiple_of(BIOS_GRANULE)) {
        return vec![format!("the firmware has {size} bytes")];
    }
    Vec::new()
}

pub(super) fn memory_backend(case: &Case<'_>) -> Details {
    let Some(id) = case.machine("memory-backend") else {
        return Vec::new();
    };
    match case.arguments.object(id) {
        Some(object) if object.kind.starts_with(MEMORY_BACKEND) => Vec::new(),
        Some(object) => vec![format!("memory-backend={id} is a {}", object.kind)],
        None => vec![format!("memory-backend={id} is no object of the list")],
    }
}

pub(super) fn memory_size(case: &Case<'_>) -> Details {
    let (Some(backend), Some(memory)) = (case.memory_backend(), case.arguments.memory()) else {
        return Vec::new();
    };
    match backend.size("size").value() {
        Some(size) if size == memory => Vec::new(),
        Some(size) => vec![format!("-m is {memory} bytes, the backend {size}")],
        None => vec![format!("{} has no size", backend.label())],
    }
}

pub(super) fn forks(case: &Case<'_>) -> Details {
    let objects = case
        .objects()
        .filter(|object| FORK_OBJECTS.contains(&object.kind.as_str()))
        .map(|object| format!("object {}", object.kind));
    let machine = FORK_MACHINE
        .iter()
        .filter(|name| case.machine(name).is_some())
        .map(|name| format!("machine property {name}"));
    objects.chain(machine).collect()
}

pub(super) fn guard_is_known(case: &Case<'_>) -> Details {
    let Some(name) = case.arguments.guard_name() else {
        return Vec::new();
    };
    // A list with one of these is not plain, and its own rules say whether it is named.
    let known = GUARDS.join(" or ");
    match case.arguments.object(&name) {
        Some(object) => vec![format!("`{name}` is a {}, not {known}", object.kind)],
        None => vec![format!("`{name}` is no object of the list")],
    }
}

pub(super) fn pflash_pair(case: &Case<'_>) -> Details {
    let drives = case.arguments.items("drive");
    let drives = drives.filter(|drive| drive.text("if").value() == Some("pflash"));
    // Chips without a number take the next free one, so the first of them is the first chip.
    let (mut first, mut second) = (false, false);
    for drive in drives {
        let unit = drive.number("unit").value();
        match unit.or_else(|| drive.number("index").value()) {
            Some(1) => second = true,
            _ => first = true,
        }
    }
    first |= case.arguments.has("pflash") || case.machine("pflash0").is_some();
    second |= case.machine("pflash1").is_some();
    if second && !first {
        return vec!["there is a second chip and no first one".to_owned()];
    }
    Vec::new()
}
