//! What is looked at for a technology that KVM has to know and that protects the guest.
//!
//! The order is that in which an operator mends things: the device, the VM type, the slots. What the
//! CPU and the module say explains an answer of KVM; it never replaces it, because only KVM's word
//! is what QEMU goes by (kernel, Documentation/virt/kvm/api.rst section 8, KVM_CAP_VM_TYPES).

use crate::announce::need;
use crate::answer::{invalid_request, pass, quoted, unavailable, unsupported_host, warn};
use crate::bindings::casemate::tee::facts::{self, FactError};
use crate::bindings::casemate::tee::types::{
    DeviceRules, Error, Finding, HostContext, LaunchRequest, Need, Property, Value,
};
use crate::facts::Answer;
use crate::host::{Examined, kvm_device, major_and_minor};
use crate::memory::property;
use crate::settings::text;

/// KVM_CAP_VM_TYPES (kernel, include/uapi/linux/kvm.h).
const KVM_CAP_VM_TYPES: u32 = 235;
/// The root cgroup's files: what there is, and what is taken (kernel, cgroup-v2.rst section Misc).
const CAPACITY: &str = "/sys/fs/cgroup/misc.capacity";
const CURRENT: &str = "/sys/fs/cgroup/misc.current";

/// A technology, as KVM and the kernel call it.
#[derive(Debug, Clone, Copy)]
pub struct Technology {
    pub name: &'static str,
    /// Name of the backend, for remedies.
    pub backend: &'static str,
    /// Number of the VM type, which is a bit of KVM_CAP_VM_TYPES.
    pub vm_type: u32,
    /// Its key in the `misc` cgroup controller.
    pub slots: &'static str,
    /// The vendor string of CPUID leaf 0 of the CPUs that may have it.
    pub vendor: &'static str,
    /// The parameter of the KVM module that switches it on.
    pub parameter: &'static str,
    /// What to do in the machine's firmware and on the kernel's command line.
    pub enabling: &'static str,
}

/// What KVM, the kernel and the CPU say.
#[derive(Debug, Clone, PartialEq)]
pub struct GuardFacts {
    pub kvm_device: Answer<()>,
    /// Bits by VM type.
    pub vm_types: Answer<i64>,
    /// The vendor string of CPUID leaf 0.
    pub vendor: Answer<String>,
    pub parameter: Answer<String>,
    pub capacity: Answer<String>,
    pub current: Answer<String>,
}

impl GuardFacts {
    pub fn gather(technology: &Technology) -> Self {
        Self {
            kvm_device: facts::device("/dev/kvm"),
            vm_types: facts::kvm_capability(KVM_CAP_VM_TYPES),
            vendor: facts::cpuid(0, 0).map(|leaf| vendor_string([leaf.ebx, leaf.edx, leaf.ecx])),
            parameter: facts::read_text(technology.parameter),
            capacity: facts::read_text(CAPACITY),
            current: facts::read_text(CURRENT),
        }
    }
}

/// What has to be announced for [`GuardFacts::gather`].
pub fn needs(technology: &Technology) -> Vec<Need> {
    vec![
        need("device", "/dev/kvm", "whether KVM can be used"),
        need(
            "kvm-capability",
            &KVM_CAP_VM_TYPES.to_string(),
            "whether KVM offers this type of VM",
        ),
        need(
            "cpuid",
            "0x0",
            "the CPU's vendor, which explains KVM's answer",
        ),
        need(
            "read-text",
            technology.parameter,
            "whether KVM's module was told to offer it, which explains KVM's answer",
        ),
        need(
            "read-text",
            CAPACITY,
            "how many protected guests fit on the host",
        ),
        need("read-text", CURRENT, "how many of them run"),
    ]
}

/// `EBX`, `EDX`, `ECX` of leaf 0 spell the vendor, four letters each.
fn vendor_string(registers: [u32; 3]) -> String {
    registers
        .iter()
        .flat_map(|register| register.to_le_bytes())
        .map(char::from)
        .collect()
}

/// Only KVM protects anybody.
pub fn accelerator(host: &HostContext, facts: &GuardFacts, technology: &Technology) -> Examined {
    if host.accelerator == "tcg" {
        return Examined::Missing {
            id: "host.accelerator",
            error: unsupported_host(
                "accelerator",
                &format!(
                    "{} is a promise of the hardware, and the accelerator tcg, an interpreter, \
                     cannot keep it",
                    technology.name
                ),
                "set the accelerator to kvm, or choose the backend plain-kvm for a guest without \
                 protection",
            ),
        };
    }
    match kvm_device(host, &facts.kvm_device, technology.backend, "") {
        Examined::Missing { id, mut error } => {
            error.message = format!(
                "{} guests cannot run here: {}",
                technology.name, error.message
            );
            Examined::Missing { id, error }
        }
        usable => usable,
    }
}

/// KVM's word on the type of VM, with what explains a no.
pub fn vm_type(facts: &GuardFacts, technology: &Technology) -> Examined {
    const ID: &str = "kvm.vm-type";
    const SUBJECT: &str = "kvm-capability";
    let name = technology.name;
    let bits = match &facts.vm_types {
        Ok(bits) => *bits,
        // A kernel that does not know the question knows no types but the usual one.
        Err(FactError::Absent) => 0,
        Err(FactError::Denied) => {
            return Examined::Usable(warn(
                ID,
                SUBJECT,
                &format!(
                    "the backend may not ask KVM for its types of VM, so it is not known whether \
                     {name} guests can run"
                ),
                &format!(
                    "add kvm-capability {KVM_CAP_VM_TYPES} to the grants of {}",
                    technology.backend
                ),
            ));
        }
        Err(FactError::Failed(reason)) => {
            return Examined::Missing {
                id: ID,
                error: unsupported_host(
                    SUBJECT,
                    &format!("KVM did not tell its types of VM: {reason}"),
                    "give the daemon's user access to /dev/kvm (group kvm)",
                ),
            };
        }
    };
    if bits >= 0 && (bits >> technology.vm_type) & 1 == 1 {
        return Examined::Usable(pass(
            ID,
            SUBJECT,
            &format!("KVM offers VMs of the type {name}"),
        ));
    }
    let (cause, remedy) = why_not(facts, technology);
    Examined::Missing {
        id: ID,
        error: unsupported_host(
            SUBJECT,
            &format!("{name} guests cannot run here: KVM offers no VM of that type{cause}"),
            &remedy,
        ),
    }
}

/// The first thing that explains a missing VM type, and what to do about it.
fn why_not(facts: &GuardFacts, technology: &Technology) -> (String, String) {
    let name = technology.name;
    if let Ok(vendor) = &facts.vendor
        && vendor != technology.vendor
    {
        return (
            format!(
                ", and the CPU's vendor is {}, wanted is {}",
                quoted(vendor),
                technology.vendor
            ),
            format!("use a host with a CPU that has {name}"),
        );
    }
    match &facts.parameter {
        Ok(value) if is_on(value) => (
            format!(
                ", although {} is {}: the kernel's {name} interface is another than the one that \
                 released kernels have",
                technology.parameter,
                quoted(value.trim())
            ),
            "run a released kernel that offers it, and a QEMU of its project or a distribution"
                .to_owned(),
        ),
        Ok(value) => (
            format!(", and {} is {}", technology.parameter, quoted(value.trim())),
            technology.enabling.to_owned(),
        ),
        Err(FactError::Absent) => (
            format!(
                ", and {} is not there: its module is not loaded, or the kernel is too old",
                technology.parameter
            ),
            technology.enabling.to_owned(),
        ),
        Err(FactError::Denied) => (
            String::new(),
            format!(
                "{}; with read-text {} granted to {} the cause could be told",
                technology.enabling, technology.parameter, technology.backend
            ),
        ),
        Err(FactError::Failed(reason)) => (
            format!(", and {} cannot be read: {reason}", technology.parameter),
            technology.enabling.to_owned(),
        ),
    }
}

/// A module's boolean parameter reads as `Y` or, where it is a number, `1`.
fn is_on(value: &str) -> bool {
    matches!(value.trim(), "Y" | "y" | "1")
}

/// Whether one more guest fits: ASIDs and key ids are few.
pub fn slots(facts: &GuardFacts, technology: &Technology) -> Examined {
    const ID: &str = "slots.free";
    let key = technology.slots;
    let count = |answer: &Answer<String>, file: &str| match answer {
        Ok(text) => number_of(text, key).ok_or_else(|| Box::new(no_line(file, technology))),
        Err(reason) => Err(Box::new(unread(reason, file, technology))),
    };
    let capacity = count(&facts.capacity, CAPACITY);
    let (capacity, taken) = match (capacity, count(&facts.current, CURRENT)) {
        (Ok(capacity), Ok(taken)) => (capacity, taken),
        (Err(unknown), _) | (_, Err(unknown)) => return Examined::Usable(*unknown),
    };
    if taken >= capacity {
        return Examined::Missing {
            id: ID,
            error: unavailable(
                key,
                &format!(
                    "all {capacity} slots for {} guests are taken ({CURRENT} says {taken})",
                    technology.name
                ),
                "end a protected guest, or give the technology more slots in the machine's firmware",
            ),
        };
    }
    Examined::Usable(pass(
        ID,
        key,
        &format!("{} of {capacity} slots are free", capacity - taken),
    ))
}

fn no_line(file: &str, technology: &Technology) -> Finding {
    let key = technology.slots;
    unknown_slots(
        technology,
        &format!("{file} has no line for {key}"),
        &format!(
            "see the kernel's log for why it registered none, or set leases.{key} in the config"
        ),
    )
}

fn unread(reason: &FactError, file: &str, technology: &Technology) -> Finding {
    let key = technology.slots;
    match reason {
        FactError::Denied => unknown_slots(
            technology,
            &format!("the backend may not read {file}"),
            &format!(
                "add read-text {file} to the grants of {}",
                technology.backend
            ),
        ),
        FactError::Absent => unknown_slots(
            technology,
            &format!("{file} is not there"),
            &format!(
                "run a kernel with CONFIG_CGROUP_MISC, or set leases.{key} in the config: a VM is \
                 refused where neither says how many there are"
            ),
        ),
        FactError::Failed(reason) => unknown_slots(
            technology,
            reason,
            &format!("let the daemon read {file}, or set leases.{key} in the config"),
        ),
    }
}

fn unknown_slots(technology: &Technology, detail: &str, remedy: &str) -> Finding {
    warn(
        "slots.unknown",
        technology.slots,
        &format!(
            "it is not known how many {} guests fit: {detail}",
            technology.name
        ),
        remedy,
    )
}

/// Whether QEMU has the object that protects the guest. Its version alone says nothing: some builds
/// leave it out, and some distributions have it earlier.
pub fn object_type(
    answer: &Answer<()>,
    version: &Answer<String>,
    kind: &str,
    since: &str,
    technology: &Technology,
) -> Examined {
    const ID: &str = "qemu.object";
    const SUBJECT: &str = "qemu-type";
    let qemu = match version {
        Ok(version) => format!("QEMU {}", quoted(version)),
        Err(_) => "this QEMU".to_owned(),
    };
    match answer {
        Ok(()) => Examined::Usable(pass(ID, SUBJECT, &format!("{qemu} has {kind}"))),
        Err(FactError::Absent) => Examined::Missing {
            id: ID,
            error: unsupported_host(
                SUBJECT,
                &if is_new_enough(version, since) {
                    format!(
                        "{qemu} is built without the object type {kind}, which {} needs",
                        technology.name
                    )
                } else {
                    format!(
                        "{qemu} has no object type {kind}, which {} needs and QEMU {since} is the \
                         first to have",
                        technology.name
                    )
                },
                &format!(
                    "install QEMU {since} or newer, built with it, or set the path of such a QEMU"
                ),
            ),
        },
        Err(FactError::Denied) => Examined::Usable(warn(
            ID,
            SUBJECT,
            &format!("the backend may not ask whether QEMU has {kind}"),
            &format!("add qemu-type * to the grants of {}", technology.backend),
        )),
        Err(FactError::Failed(reason)) => Examined::Missing {
            id: ID,
            error: unsupported_host(
                SUBJECT,
                &format!("QEMU did not tell its types: {reason}"),
                "run the QEMU binary with --version to see why",
            ),
        },
    }
}

fn is_new_enough(version: &Answer<String>, since: &str) -> bool {
    match (
        version.as_deref().ok().and_then(major_and_minor),
        major_and_minor(since),
    ) {
        (Some(version), Some(since)) => version >= since,
        _ => false,
    }
}

/// Properties of `-machine` that protected guests have in common. Each is QEMU's own choice for
/// them or leaves out what they cannot have; said here, a plan means the same in every version.
pub fn machine_properties() -> Vec<Property> {
    vec![
        property("kernel-irqchip", text("split")),
        property("smm", text("off")),
        property("hpet", text("off")),
        property("vmport", text("off")),
    ]
}

/// Devices reach shared memory only, through the bounce buffers that the virtual IOMMU flag asks
/// the guest for. QEMU sets both itself with a guard; said, they are seen.
pub fn device_rules() -> DeviceRules {
    DeviceRules {
        transport: "pci".to_owned(),
        virtio_properties: vec![
            property("disable-legacy", text("on")),
            property("iommu_platform", Value::Boolean(true)),
        ],
        // Nothing assigns a host device to a protected guest yet.
        refused: vec!["vfio".to_owned()],
    }
}

/// What the operator sets for a device wins over [`device_rules`], so it is held against them.
pub fn check_devices(request: &LaunchRequest) -> Result<(), Error> {
    for device in &request.devices {
        for set in &device.properties {
            let is_on = match &set.value {
                Value::Boolean(flag) => *flag,
                // QEMU's words for it (util/qemu-option.c and visitors).
                Value::Text(word) => matches!(word.as_str(), "on" | "yes" | "true" | "y"),
                _ => false,
            };
            if !is_on && matches!(set.path.as_str(), "iommu_platform" | "disable-legacy") {
                return Err(invalid_request(
                    &set.path,
                    &format!(
                        "{} of device {} is not on, and a protected guest shares no memory with a \
                         device that way",
                        set.path,
                        quoted(&device.id)
                    ),
                    &format!("set {} to on, or leave it out", set.path),
                ));
            }
        }
    }
    Ok(())
}

/// An option ROM runs in the guest, lies in the host's memory and is part of no measurement: a
/// network device says that it has none (`romfile=`).
pub fn check_option_roms(request: &LaunchRequest) -> Result<(), Error> {
    for device in request.devices.iter().filter(|device| device.kind == "net") {
        let rom = device.properties.iter().find(|set| set.path == "romfile");
        if rom.is_none_or(|rom| rom.value != text("")) {
            return Err(invalid_request(
                "romfile",
                &format!(
                    "device {} has an option ROM, which the guest would run and no measurement \
                     covers",
                    quoted(&device.id)
                ),
                "set romfile of the network device to nothing",
            ));
        }
    }
    Ok(())
}

/// What a protected guest allows while it runs. Its state cannot be reset: a reboot is a new launch.
pub fn abilities() -> Vec<String> {
    ["pause", "powerdown"].map(str::to_owned).to_vec()
}

/// The value of a line `key value`.
fn number_of(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendor_is_spelled_by_three_registers() {
        // CPUID of an AMD and of an Intel CPU, as `cpuid -1 -l 0` prints the registers.
        for (registers, expected) in [
            ([0x6874_7541, 0x6974_6e65, 0x444d_4163], "AuthenticAMD"),
            ([0x756e_6547, 0x4965_6e69, 0x6c65_746e], "GenuineIntel"),
        ] {
            assert_eq!(vendor_string(registers), expected);
        }
    }

    #[test]
    fn slots_are_found_by_their_whole_key() {
        let text = "sev 10\nsev_es 99\ntdx 31\nbroken\nempty \n";
        for (key, expected) in [
            ("sev", Some(10)),
            ("sev_es", Some(99)),
            ("tdx", Some(31)),
            ("es", None),
            ("broken", None),
            ("empty", None),
        ] {
            assert_eq!(number_of(text, key), expected, "{key}");
        }
    }
}
