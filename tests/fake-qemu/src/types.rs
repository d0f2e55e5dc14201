//! Machines, devices, CPU models and objects with their properties, as QEMU 10.0 names them. Only
//! what the daemon or a backend may ask about.

use serde_json::{Value, json};

/// vCPUs of a q35 or i440fx machine at most.
const MAX_VCPUS: u32 = 288;

/// Versioned name, alias, whether it is the default.
const MACHINES: &[(&str, Option<&str>, Default)] = &[
    ("pc-q35-10.0", Some("q35"), Default::No),
    ("pc-q35-9.2", None, Default::No),
    ("pc-i440fx-10.0", Some("pc"), Default::Yes),
    ("pc-i440fx-9.2", None, Default::No),
    ("microvm", None, Default::No),
    ("none", None, Default::No),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Default {
    Yes,
    No,
}

const CPU_MODELS: &[&str] = &[
    "max",
    "host",
    "base",
    "qemu64",
    "kvm64",
    "EPYC",
    "EPYC-v4",
    "EPYC-Milan",
    "EPYC-Genoa",
    "Skylake-Server",
    "SapphireRapids",
];

const MACHINE_PROPERTIES: &[(&str, &str)] = &[
    ("type", "string"),
    ("kernel", "string"),
    ("initrd", "string"),
    ("append", "string"),
    ("shim", "string"),
    ("dtb", "string"),
    ("dumpdtb", "string"),
    ("phandle-start", "int"),
    ("dt-compatible", "string"),
    ("dump-guest-core", "bool"),
    ("mem-merge", "bool"),
    ("usb", "bool"),
    ("graphics", "bool"),
    ("firmware", "string"),
    ("suppress-vmdesc", "bool"),
    (
        "confidential-guest-support",
        "link<confidential-guest-support>",
    ),
    ("memory-encryption", "string"),
    ("memory-backend", "string"),
    ("memory", "MemorySizeConfiguration"),
    ("boot", "BootConfiguration"),
    ("smp", "SMPConfiguration"),
    ("smp-cache", "SmpCachePropertiesWrapper"),
];

const PC_MACHINE_PROPERTIES: &[(&str, &str)] = &[
    ("pic", "OnOffAuto"),
    ("pit", "OnOffAuto"),
    ("acpi", "OnOffAuto"),
    ("smm", "OnOffAuto"),
    ("vmport", "OnOffAuto"),
    ("pcie-mmconfig", "bool"),
    ("hpet", "bool"),
    ("sata", "bool"),
    ("smbus", "bool"),
    ("i8042", "bool"),
    ("fd-bootchk", "bool"),
    ("default-bus-bypass-iommu", "bool"),
    ("max-ram-below-4g", "size"),
    ("max-fw-size", "size"),
    ("smbios-entry-point-type", "str"),
    ("x-oem-id", "string"),
    ("x-oem-table-id", "string"),
    ("pflash0", "string"),
    ("pflash1", "string"),
];

const CPU_PROPERTIES: &[(&str, &str)] = &[
    ("type", "string"),
    ("realized", "bool"),
    ("family", "int"),
    ("model", "int"),
    ("stepping", "int"),
    ("vendor", "string"),
    ("model-id", "string"),
    ("phys-bits", "uint32"),
    ("host-phys-bits", "bool"),
    ("host-phys-bits-limit", "uint8"),
    ("pmu", "bool"),
    ("kvm", "bool"),
    ("check", "bool"),
    ("enforce", "bool"),
    ("migratable", "bool"),
    ("avx", "bool"),
    ("avx2", "bool"),
    ("sse4.1", "bool"),
    ("sse4.2", "bool"),
    ("sse4-1", "bool"),
    ("sse4-2", "bool"),
    ("svm", "bool"),
    ("vmx", "bool"),
    ("x2apic", "bool"),
    ("invtsc", "bool"),
    ("l3-cache", "bool"),
    ("topoext", "bool"),
];

const KVM_ACCELERATOR_PROPERTIES: &[(&str, &str)] = &[
    ("type", "string"),
    ("device", "string"),
    ("kvm-shadow-mem", "int"),
    ("dirty-ring-size", "uint32"),
    ("notify-vmexit", "NotifyVMexitOption"),
    ("notify-window", "uint32"),
    ("xen-version", "uint32"),
    ("rapl", "bool"),
    ("rapl-helper-socket", "string"),
];

const PCI_PROPERTIES: &[(&str, &str)] = &[
    ("acpi-index", "uint32"),
    ("addr", "str"),
    ("busnr", "busnr"),
    ("failover_pair_id", "str"),
    ("multifunction", "bool"),
    ("rombar", "int32"),
    ("romfile", "str"),
    ("romsize", "uint32"),
];

const VIRTIO_PCI_PROPERTIES: &[(&str, &str)] = &[
    ("aer", "bool"),
    ("any_layout", "bool"),
    ("ats", "bool"),
    ("disable-legacy", "OnOffAuto"),
    ("disable-modern", "bool"),
    ("event_idx", "bool"),
    ("in_order", "bool"),
    ("indirect_desc", "bool"),
    ("iommu_platform", "bool"),
    ("modern-pio-notify", "bool"),
    ("notify_on_empty", "bool"),
    ("packed", "bool"),
    ("page-per-vq", "bool"),
    ("queue_reset", "bool"),
    ("use-disabled-flag", "bool"),
    ("use-started", "bool"),
    ("vectors", "uint32"),
];

/// Devices and their own properties, without those of the bus.
const DEVICES: &[(&str, &[(&str, &str)])] = &[
    ("pvpanic-pci", &[("events", "uint8")]),
    (
        "virtio-9p-pci",
        &[
            ("fsdev", "str"),
            ("mount_tag", "str"),
            ("ioeventfd", "bool"),
        ],
    ),
    (
        "virtio-blk-pci",
        &[
            ("bootindex", "int32"),
            ("config-wce", "bool"),
            ("discard", "bool"),
            ("drive", "str"),
            ("iothread", "link<iothread>"),
            ("logical_block_size", "size"),
            ("num-queues", "uint16"),
            ("physical_block_size", "size"),
            ("queue-size", "uint16"),
            ("rerror", "BlockdevOnError"),
            ("serial", "str"),
            ("share-rw", "bool"),
            ("werror", "BlockdevOnError"),
            ("write-cache", "OnOffAuto"),
        ],
    ),
    (
        "virtio-net-pci",
        &[
            ("bootindex", "int32"),
            ("csum", "bool"),
            ("ebpf-rss-fds", "list"),
            ("host_mtu", "uint16"),
            ("mac", "str"),
            ("mq", "bool"),
            ("mrg_rxbuf", "bool"),
            ("netdev", "str"),
            ("rss", "bool"),
            ("rx_queue_size", "uint16"),
            ("tx_queue_size", "uint16"),
        ],
    ),
    (
        "virtio-rng-pci",
        &[
            ("max-bytes", "uint64"),
            ("period", "uint32"),
            ("rng", "link<rng-backend>"),
        ],
    ),
    (
        "virtio-serial-pci",
        &[("emergency-write", "bool"), ("max_ports", "uint32")],
    ),
];

const MEMORY_PROPERTIES: &[(&str, &str)] = &[
    ("type", "string"),
    ("dump", "bool"),
    ("host-nodes", "int"),
    ("merge", "bool"),
    ("policy", "HostMemPolicy"),
    ("prealloc", "bool"),
    ("prealloc-context", "link<thread-context>"),
    ("prealloc-threads", "int"),
    ("reserve", "bool"),
    ("share", "bool"),
    ("size", "int"),
    ("x-use-canonical-path-for-ramblock-id", "bool"),
];

/// Objects and their own properties, without those that all memory backends have.
const OBJECTS: &[(&str, &[(&str, &str)])] = &[
    (
        "filter-dump",
        &[
            ("file", "string"),
            ("insert", "string"),
            ("maxlen", "uint32"),
            ("netdev", "string"),
            ("position", "string"),
            ("queue", "NetFilterDirection"),
            ("status", "string"),
        ],
    ),
    (
        "iothread",
        &[
            ("aio-max-batch", "int"),
            ("poll-grow", "int"),
            ("poll-max-ns", "int"),
            ("poll-shrink", "int"),
            ("thread-pool-max", "int"),
            ("thread-pool-min", "int"),
        ],
    ),
    (
        "memory-backend-file",
        &[
            ("align", "int"),
            ("discard-data", "bool"),
            ("mem-path", "string"),
            ("offset", "int"),
            ("pmem", "bool"),
            ("readonly", "bool"),
            ("rom", "OnOffAuto"),
        ],
    ),
    (
        "memory-backend-memfd",
        &[
            ("hugetlb", "bool"),
            ("hugetlbsize", "int"),
            ("seal", "bool"),
        ],
    ),
    ("memory-backend-ram", &[]),
    ("rng-random", &[("filename", "string")]),
    (
        "secret",
        &[
            ("data", "string"),
            ("file", "string"),
            ("format", "QCryptoSecretFormat"),
            ("iv", "string"),
            ("keyid", "string"),
        ],
    ),
];

pub(crate) fn machines() -> Value {
    let describe = |&(name, alias, default): &(&str, Option<&str>, Default)| {
        let mut machine = json!({
            "name": name,
            "cpu-max": if name == "none" { 1 } else { MAX_VCPUS },
            "hotpluggable-cpus": name.starts_with("pc-"),
            "numa-mem-supported": name.starts_with("pc-"),
            "deprecated": false,
            "acpi": name != "none",
        });
        if let Some(alias) = alias {
            machine["alias"] = alias.into();
        }
        if default == Default::Yes {
            machine["is-default"] = true.into();
        }
        if name != "none" {
            machine["default-cpu-type"] = "qemu64-x86_64-cpu".into();
            machine["default-ram-id"] = "pc.ram".into();
        }
        machine
    };
    MACHINES.iter().map(describe).collect()
}

/// Names and parents, as `qom-list-types` gives them.
pub(crate) fn list(implements: Option<&str>) -> Value {
    let machines = MACHINES
        .iter()
        .map(|(name, ..)| (format!("{name}-machine"), "machine"));
    let models = CPU_MODELS
        .iter()
        .map(|name| (format!("{name}-x86_64-cpu"), "x86_64-cpu"));
    let devices = DEVICES
        .iter()
        .map(|(name, _)| ((*name).to_owned(), "device"));
    let objects = OBJECTS
        .iter()
        .map(|(name, _)| ((*name).to_owned(), "user-creatable"));
    let accelerators = ["kvm-accel", "tcg-accel"].map(|name| (name.to_owned(), "accel"));
    machines
        .chain(models)
        .chain(devices)
        .chain(objects)
        .chain(accelerators)
        .filter(|(_, parent)| implements.is_none_or(|wanted| wanted == *parent))
        .map(|(name, parent)| json!({"name": name, "parent": parent}))
        .collect()
}

/// `qom-list-properties`; `None` for a type that does not exist.
pub(crate) fn properties(type_name: &str) -> Option<Value> {
    if let Some(machine) = type_name.strip_suffix("-machine") {
        MACHINES.iter().find(|(name, ..)| *name == machine)?;
        let mut groups = vec![MACHINE_PROPERTIES];
        if machine.starts_with("pc-") {
            groups.push(PC_MACHINE_PROPERTIES);
        }
        return Some(described(&groups));
    }
    if let Some(model) = type_name.strip_suffix("-x86_64-cpu") {
        CPU_MODELS.iter().find(|name| **name == model)?;
        return Some(described(&[CPU_PROPERTIES]));
    }
    match type_name {
        "kvm-accel" => return Some(described(&[KVM_ACCELERATOR_PROPERTIES])),
        "tcg-accel" => {
            return Some(described(&[&[
                ("type", "string"),
                ("thread", "string"),
                ("tb-size", "int"),
                ("split-wx", "bool"),
                ("one-insn-per-tb", "bool"),
            ]]));
        }
        _ => {}
    }
    if let Some((_, own)) = OBJECTS.iter().find(|(name, _)| *name == type_name) {
        if type_name.starts_with("memory-backend-") {
            return Some(described(&[MEMORY_PROPERTIES, own]));
        }
        return Some(described(&[&[("type", "string")], own]));
    }
    device_properties(type_name)
}

/// `device-list-properties`; `None` for a device that does not exist.
pub(crate) fn device_properties(type_name: &str) -> Option<Value> {
    let (_, own) = DEVICES.iter().find(|(name, _)| *name == type_name)?;
    if type_name.starts_with("virtio-") {
        return Some(described(&[PCI_PROPERTIES, VIRTIO_PCI_PROPERTIES, own]));
    }
    Some(described(&[PCI_PROPERTIES, own]))
}

fn described(groups: &[&[(&str, &str)]]) -> Value {
    let properties = groups.iter().copied().flatten();
    properties
        .map(|(name, type_name)| json!({"name": name, "type": type_name}))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_those_that_backends_ask_about() {
        for (type_name, property) in [
            ("pc-q35-10.0-machine", "smm"),
            ("pc-q35-10.0-machine", "confidential-guest-support"),
            ("pc-i440fx-10.0-machine", "memory-backend"),
            ("EPYC-x86_64-cpu", "sse4.2"),
            ("kvm-accel", "device"),
            ("memory-backend-memfd", "share"),
            ("memory-backend-file", "mem-path"),
            ("virtio-net-pci", "iommu_platform"),
            ("pvpanic-pci", "addr"),
        ] {
            let found = properties(type_name).unwrap();
            let mut found = found.as_array().unwrap().iter();
            assert!(found.any(|p| p["name"] == property), "{type_name}");
        }
        for absent in [
            "nonsense",
            "q35-machine",
            "EPYC",
            "igvm-cfg",
            "i386-x86_64-cpu",
        ] {
            assert_eq!(properties(absent), None, "{absent}");
        }
        assert_eq!(device_properties("memory-backend-ram"), None);
    }

    #[test]
    fn types_are_listed_by_what_they_implement() {
        let names = |implements| {
            let listed = list(implements);
            listed.as_array().unwrap().len()
        };
        assert_eq!(names(Some("machine")), MACHINES.len());
        assert_eq!(names(Some("confidential-guest-support")), 0);
        assert!(names(None) > MACHINES.len());
    }
}
