//! Rules for TDX: the guard object, its socket for quotes, firmware, CPU and memory.
//!
//! A rule about a value says nothing where the value has the wrong type: `tdx.types` does.

use serde_json::{Map, Value};

use super::Details;
use super::guard::{self, Property};
use crate::case::Case;
use crate::item::{Form, Reading};
use crate::quantity::{self, GIBIBYTE, MEBIBYTE};

const QGS: &str = "quote-generation-socket";
#[rustfmt::skip]
const PROPERTIES: &[(&str, Property)] = &[
    ("attributes", Property::Number), ("sept-ve-disable", Property::Switch),
    ("mrconfigid", Property::Text), ("mrowner", Property::Text),
    ("mrownerconfig", Property::Text), (QGS, Property::Structure),
];

const ATTRIBUTE_DEBUG: u64 = 1;
const ATTRIBUTE_SEPT_VE_DISABLE: u64 = 1 << 28;
/// SEPT_VE_DISABLE, PKS and PERFMON: what QEMU takes.
const ATTRIBUTES_KNOWN: u64 = ATTRIBUTE_SEPT_VE_DISABLE | 1 << 30 | 1 << 63;
/// A SHA-384 digest.
const REGISTER: usize = 48;

/// Guests of this size and more have to be a whole number of GiB.
const LARGE_MEMORY: u64 = 61 * GIBIBYTE;
/// Steps of the TD's time stamp counter, in Hz, and what it may be.
const TSC_STEP: u64 = 25_000_000;
const TSC_RANGE: std::ops::RangeInclusive<u64> = 100_000_000..=10_000_000_000;

/// Types of a socket's address: what a member list has to have and may have.
const ADDRESSES: [(&str, &[&str], &[&str]); 4] = [
    ("unix", &["path"], &["abstract", "tight"]),
    ("vsock", &["cid", "port"], &[]),
    ("fd", &["str"], &[]),
    (
        "inet",
        &["host", "port"],
        &[
            "numeric",
            "to",
            "ipv4",
            "ipv6",
            "keep-alive",
            "keep-alive-count",
            "keep-alive-idle",
            "keep-alive-interval",
            "mptcp",
        ],
    ),
];

pub(super) fn properties(case: &Case<'_>) -> Details {
    guard::unknown_properties(case, PROPERTIES)
}

pub(super) fn types(case: &Case<'_>) -> Details {
    guard::wrong_types(case, PROPERTIES)
}

pub(super) fn guard_json(case: &Case<'_>) -> Details {
    match case.guard {
        Some(guard) if guard.form == Form::Keyval => vec![guard.label()],
        _ => Vec::new(),
    }
}

pub(super) fn irqchip(case: &Case<'_>) -> Details {
    match case.machine("kernel-irqchip") {
        None | Some("split" | "auto") => Vec::new(),
        Some(value) => vec![format!("kernel-irqchip={value}")],
    }
}

pub(super) fn pic(case: &Case<'_>) -> Details {
    match case.machine("pic") {
        None | Some("off" | "auto") => Vec::new(),
        Some(value) => vec![format!("pic={value}")],
    }
}

pub(super) fn hpet(case: &Case<'_>) -> Details {
    match case.machine("hpet").map(quantity::switch) {
        Some(Some(false)) => Vec::new(),
        _ => vec!["hpet is not off".to_owned()],
    }
}

pub(super) fn cpu_host(case: &Case<'_>) -> Details {
    match case.cpu.as_ref().map(|cpu| cpu.model.as_str()) {
        Some("host" | "max") => Vec::new(),
        Some(model) => vec![format!("the CPU is `{model}`")],
        None => vec!["the CPU is QEMU's choice".to_owned()],
    }
}

pub(super) fn cpu_phys_bits(case: &Case<'_>) -> Details {
    let Some(cpu) = &case.cpu else {
        return Vec::new();
    };
    let mut details: Details = ["phys-bits", "host-phys-bits-limit"]
        .iter()
        .filter(|name| cpu.features.contains_key(**name))
        .map(|name| format!("-cpu has {name}"))
        .collect();
    if cpu.switch("host-phys-bits") == Some(false) {
        details.push("-cpu has host-phys-bits=off".to_owned());
    }
    details
}

pub(super) fn cpu_pmu(case: &Case<'_>) -> Details {
    cpu_switch(case, "pmu", "on")
}

pub(super) fn cpu_invtsc(case: &Case<'_>) -> Details {
    cpu_switch(case, "invtsc", "off")
}

pub(super) fn cpu_nested(case: &Case<'_>) -> Details {
    cpu_switch(case, "vmx", "on")
}

/// A rule that a feature does not have this value.
fn cpu_switch(case: &Case<'_>, name: &str, refused: &str) -> Details {
    let value = case.cpu.as_ref().and_then(|cpu| cpu.switch(name));
    if value.is_some() && value == quantity::switch(refused) {
        return vec![format!("-cpu has {name}={refused}")];
    }
    Vec::new()
}

pub(super) fn cpu_tsc(case: &Case<'_>) -> Details {
    let features = case.cpu.as_ref().map(|cpu| &cpu.features);
    let Some(text) = features.and_then(|features| features.get("tsc-frequency")) else {
        return Vec::new();
    };
    match quantity::number(text) {
        Some(hertz) if TSC_RANGE.contains(&hertz) && hertz.is_multiple_of(TSC_STEP) => Vec::new(),
        _ => vec![format!("tsc-frequency={text}")],
    }
}

pub(super) fn no_pflash(case: &Case<'_>) -> Details {
    case.pflash()
}

pub(super) fn one_bios(case: &Case<'_>) -> Details {
    guard::one_bios(case)
}

pub(super) fn firmware(case: &Case<'_>) -> Details {
    if case.arguments.has("bios") && !case.world.firmware.tdvf {
        return vec!["the firmware is no TDVF".to_owned()];
    }
    Vec::new()
}

pub(super) fn no_igvm(case: &Case<'_>) -> Details {
    if case.has_igvm() {
        return vec!["there is an igvm-cfg".to_owned()];
    }
    Vec::new()
}

fn attributes_unless(case: &Case<'_>, good: impl FnOnce(u64) -> bool) -> Details {
    match guard::number(case, "attributes") {
        Some(attributes) if !good(attributes) => vec![format!("attributes is {attributes:#x}")],
        _ => Vec::new(),
    }
}

pub(super) fn attributes(case: &Case<'_>) -> Details {
    // The debugging bit has a rule of its own.
    attributes_unless(case, |bits| {
        bits & !(ATTRIBUTES_KNOWN | ATTRIBUTE_DEBUG) == 0
    })
}

pub(super) fn attributes_debug(case: &Case<'_>) -> Details {
    attributes_unless(case, |bits| bits & ATTRIBUTE_DEBUG == 0)
}

pub(super) fn attributes_sept_ve(case: &Case<'_>) -> Details {
    attributes_unless(case, |bits| bits & ATTRIBUTE_SEPT_VE_DISABLE != 0)
}

pub(super) fn sept_ve_disable(case: &Case<'_>) -> Details {
    let switch = case.guard.map(|guard| guard.switch("sept-ve-disable"));
    if switch == Some(Reading::Is(false)) {
        return vec!["sept-ve-disable is off".to_owned()];
    }
    Vec::new()
}

pub(super) fn mrconfigid(case: &Case<'_>) -> Details {
    guard::bytes_of(case, "mrconfigid", REGISTER..=REGISTER)
}

pub(super) fn mrowner(case: &Case<'_>) -> Details {
    guard::bytes_of(case, "mrowner", REGISTER..=REGISTER)
}

pub(super) fn mrownerconfig(case: &Case<'_>) -> Details {
    guard::bytes_of(case, "mrownerconfig", REGISTER..=REGISTER)
}

pub(super) fn identity(case: &Case<'_>) -> Details {
    guard::identity(case, "mrconfigid", REGISTER)
}

/// The socket's address, if there is one that is an object.
fn address<'a>(case: &Case<'a>) -> Option<&'a Map<String, Value>> {
    case.guard?.properties.get(QGS)?.as_object()
}

fn address_type(address: &Map<String, Value>) -> Option<&str> {
    address.get("type")?.as_str()
}

pub(super) fn qgs_shape(case: &Case<'_>) -> Details {
    let Some(address) = address(case) else {
        return Vec::new();
    };
    let kind = address_type(address).unwrap_or_default();
    let Some((_, needed, allowed)) = ADDRESSES.iter().find(|(name, ..)| *name == kind) else {
        return vec![format!("its type is `{kind}`")];
    };
    let missing = needed
        .iter()
        .filter(|name| !address.contains_key(**name))
        .map(|name| format!("it has no {name}"));
    let others = address
        .keys()
        .filter(|name| *name != "type")
        .filter(|name| !needed.contains(&name.as_str()) && !allowed.contains(&name.as_str()))
        .map(|name| format!("an address of type {kind} has no {name}"));
    missing.chain(others).collect()
}

pub(super) fn qgs_strings(case: &Case<'_>) -> Details {
    let members = address(case).into_iter().flatten();
    let is_good = |name: &str, value: &Value| match (name, value.as_str()) {
        ("path" | "cid" | "port" | "host" | "str", None) => false,
        ("cid" | "port", Some(text)) => {
            text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u32>().is_ok()
        }
        ("path", Some(text)) => !text.is_empty(),
        _ => true,
    };
    members
        .filter(|(name, value)| !is_good(name, value))
        .map(|(name, value)| format!("{name} is {value}"))
        .collect()
}

pub(super) fn qgs_kind(case: &Case<'_>) -> Details {
    match address(case).and_then(address_type) {
        Some(kind @ ("inet" | "fd")) => vec![format!("its type is {kind}")],
        _ => Vec::new(),
    }
}

pub(super) fn memory_aligned(case: &Case<'_>) -> Details {
    let Some(memory) = case.arguments.memory() else {
        return Vec::new();
    };
    let step = if memory >= LARGE_MEMORY {
        GIBIBYTE
    } else {
        MEBIBYTE
    };
    if memory.is_multiple_of(step) {
        return Vec::new();
    }
    vec![format!("{memory} bytes are no multiple of {step}")]
}

pub(super) fn vcpus(case: &Case<'_>) -> Details {
    let most = case.world.cpus;
    match case.vcpus {
        Some(count) if count > u64::from(most) => {
            vec![format!("{count} vCPUs on {most} CPUs")]
        }
        _ => Vec::new(),
    }
}

pub(super) fn topology(case: &Case<'_>) -> Details {
    let options = case.arguments.merged("smp");
    ["sockets", "dies"]
        .iter()
        .filter_map(|name| Some((name, options.get(*name)?)))
        .filter(|(_, count)| quantity::number(count) != Some(1))
        .map(|(name, count)| format!("{name}={count}"))
        .collect()
}
