//! Rules for both technologies: the machine, memory, devices, and what QEMU adds unasked.

use super::Details;
use crate::case::{Case, GUARDS};
use crate::item::{Item, Reading};

/// SEV without SNP: a guard too, and none of this crate's.
const OLD_SEV_GUEST: &str = "sev-guest";
const MACHINE_FAMILY: &str = "pc-q35-";
const PORTS: [&str; 3] = ["pcie-root-port", "ioh3420", "xio3130-downstream"];
/// Devices that show a picture, by how their names begin.
const GRAPHICS: [&str; 10] = [
    "VGA",
    "secondary-vga",
    "virtio-vga",
    "vhost-user-vga",
    "virtio-gpu",
    "vhost-user-gpu",
    "qxl",
    "cirrus-vga",
    "bochs-display",
    "ramfb",
];

/// A rule that some option is there.
fn present(case: &Case<'_>, option: &str) -> Details {
    if case.arguments.has(option) {
        Vec::new()
    } else {
        vec![format!("-{option} is missing")]
    }
}

/// A rule that no device's name begins so.
fn absent_devices(case: &Case<'_>, prefixes: &[&str]) -> Details {
    case.devices()
        .filter(|device| {
            prefixes
                .iter()
                .any(|prefix| device.kind.starts_with(prefix))
        })
        .map(|device| format!("device {}", device.label()))
        .collect()
}

pub(super) fn one_guard(case: &Case<'_>) -> Details {
    let guards = case
        .objects()
        .filter(|object| GUARDS.contains(&object.kind.as_str()) || object.kind == OLD_SEV_GUEST);
    match guards.count() {
        1 => Vec::new(),
        count => vec![format!("there are {count} guards")],
    }
}

pub(super) fn guard_named(case: &Case<'_>) -> Details {
    let id = case.guard.and_then(|guard| guard.id.clone());
    match (case.arguments.guard_name(), id) {
        (Some(name), Some(id)) if name == id => Vec::new(),
        (Some(name), _) => vec![format!(
            "the machine names `{name}`, which is not the guard"
        )],
        (None, _) => vec!["the machine names no guard".to_owned()],
    }
}

pub(super) fn guard_property(case: &Case<'_>) -> Details {
    match case.machine("memory-encryption") {
        Some(id) => vec![format!("memory-encryption={id}")],
        None => Vec::new(),
    }
}

pub(super) fn accel_kvm(case: &Case<'_>) -> Details {
    let accelerators = case.arguments.accelerators();
    if accelerators.is_empty() {
        return vec!["no accelerator is named, so it is QEMU's choice".to_owned()];
    }
    let others = accelerators.iter().filter(|name| *name != "kvm");
    others.map(|name| format!("accelerator {name}")).collect()
}

pub(super) fn machine_versioned(case: &Case<'_>) -> Details {
    let name = case.arguments.merged_kind("machine").unwrap_or_default();
    let version = name.strip_prefix(MACHINE_FAMILY).unwrap_or_default();
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match version.split_once('.') {
        Some((major, minor)) if is_number(major) && is_number(minor) => Vec::new(),
        _ => vec![format!("the machine is `{name}`")],
    }
}

pub(super) fn smm(case: &Case<'_>) -> Details {
    match case.machine("smm") {
        None | Some("off" | "auto") => Vec::new(),
        Some(value) => vec![format!("smm={value}")],
    }
}

pub(super) fn smm_said(case: &Case<'_>) -> Details {
    said(case, "smm")
}

pub(super) fn irqchip_said(case: &Case<'_>) -> Details {
    said(case, "kernel-irqchip")
}

fn said(case: &Case<'_>, name: &str) -> Details {
    match case.machine(name) {
        None | Some("auto") => vec![format!("{name} is QEMU's choice")],
        Some(_) => Vec::new(),
    }
}

pub(super) fn memory_named(case: &Case<'_>) -> Details {
    match case.machine("memory-backend") {
        Some(_) => Vec::new(),
        None => vec!["the machine has no memory-backend".to_owned()],
    }
}

pub(super) fn memfd_shared(case: &Case<'_>) -> Details {
    case.objects()
        .filter(|object| object.kind == "memory-backend-memfd")
        .filter(|object| !object.is_on("share"))
        .map(Item::label)
        .collect()
}

pub(super) fn no_slots(case: &Case<'_>) -> Details {
    memory_option(case, "slots")
}

pub(super) fn no_maxmem(case: &Case<'_>) -> Details {
    memory_option(case, "maxmem")
}

fn memory_option(case: &Case<'_>, name: &str) -> Details {
    let options = case.arguments.merged("m");
    let found = options.get(name);
    found
        .map(|value| format!("{name}={value}"))
        .into_iter()
        .collect()
}

pub(super) fn no_maxcpus(case: &Case<'_>) -> Details {
    let options = case.arguments.merged("smp");
    match options.get("maxcpus") {
        Some(most) if crate::quantity::number(most) != case.vcpus => {
            vec![format!("maxcpus={most}")]
        }
        _ => Vec::new(),
    }
}

pub(super) fn smp_said(case: &Case<'_>) -> Details {
    present(case, "smp")
}

pub(super) fn no_balloon(case: &Case<'_>) -> Details {
    absent_devices(case, &["virtio-balloon"])
}

pub(super) fn no_virtio_mem(case: &Case<'_>) -> Details {
    absent_devices(case, &["virtio-mem", "virtio-pmem"])
}

pub(super) fn no_nvdimm(case: &Case<'_>) -> Details {
    let mut details = absent_devices(case, &["nvdimm"]);
    match case.machine("nvdimm") {
        None | Some("off") => {}
        Some(value) => details.push(format!("nvdimm={value}")),
    }
    details
}

pub(super) fn no_dimm(case: &Case<'_>) -> Details {
    absent_devices(case, &["pc-dimm"])
}

pub(super) fn no_host_rng(case: &Case<'_>) -> Details {
    absent_devices(case, &["virtio-rng", "vhost-user-rng"])
}

pub(super) fn no_empty_ports(case: &Case<'_>) -> Details {
    let ports = case
        .devices()
        .filter(|device| PORTS.contains(&device.kind.as_str()));
    let is_empty = |port: &&Item| {
        let id = port.id.as_deref();
        id.is_none()
            || !case
                .devices()
                .any(|device| device.text("bus").value() == id)
    };
    ports.filter(is_empty).map(Item::label).collect()
}

pub(super) fn no_reboot(case: &Case<'_>) -> Details {
    present(case, "no-reboot")
}

pub(super) fn nodefaults(case: &Case<'_>) -> Details {
    present(case, "nodefaults")
}

pub(super) fn no_user_config(case: &Case<'_>) -> Details {
    present(case, "no-user-config")
}

pub(super) fn display_none(case: &Case<'_>) -> Details {
    match case.arguments.items("display").last() {
        Some(display) if display.kind == "none" => Vec::new(),
        Some(display) => vec![format!("-display {}", display.kind)],
        None => vec!["-display none is missing".to_owned()],
    }
}

pub(super) fn no_vga(case: &Case<'_>) -> Details {
    let mut details = absent_devices(case, &GRAPHICS);
    let cards = case.arguments.texts("vga").filter(|card| *card != "none");
    details.extend(cards.map(|card| format!("-vga {card}")));
    details
}

pub(super) fn virtio_iommu(case: &Case<'_>) -> Details {
    // A device's property has an underscore; QOM takes no dash for it, but a reader might.
    virtio_off(case, &["iommu_platform", "iommu-platform"])
}

pub(super) fn virtio_legacy(case: &Case<'_>) -> Details {
    virtio_off(case, &["disable-legacy"])
}

/// Devices, and `-global` in both of its forms.
fn virtio_off(case: &Case<'_>, names: &[&str]) -> Details {
    let is_virtio = |kind: &str| kind.starts_with("virtio") || kind.starts_with("vhost");
    let devices = case
        .devices()
        .filter(|device| is_virtio(&device.kind))
        .filter(|device| names.iter().any(|name| device.is_off(name)))
        .map(Item::label);
    let globals = case
        .arguments
        .items("global")
        .filter(|global| names.iter().any(|name| turns_off(global, name)))
        .map(|_| "-global".to_owned());
    devices.chain(globals).collect()
}

/// `driver.property=value`, or `driver=D,property=P,value=V`.
fn turns_off(global: &Item, name: &str) -> bool {
    let long = global.kind.starts_with("virtio")
        && global.text("property") == Reading::Is(name)
        && global.is_off("value");
    let short = global
        .properties
        .keys()
        .filter(|key| key.starts_with("virtio"))
        .filter(|key| {
            key.split_once('.')
                .is_some_and(|(_, property)| property == name)
        })
        .any(|key| global.is_off(key));
    long || short
}

pub(super) fn vfio_iommufd(case: &Case<'_>) -> Details {
    let has_iommufd = |device: &Item| {
        let id = device.text("iommufd").value();
        let object = id.and_then(|id| case.arguments.object(id));
        object.is_some_and(|object| object.kind == "iommufd")
    };
    case.devices()
        .filter(|device| device.kind.starts_with("vfio-"))
        .filter(|device| !has_iommufd(device))
        .map(Item::label)
        .collect()
}
