//! The variables of the predecessor, Cocos `manager`, and what each means here.
//!
//! This is the one place of the host that knows technologies by name: the predecessor's variables
//! name them, and operators have these variables in their files.

use super::super::form::Form;

/// One variable, under all its spellings.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    pub names: &'static [&'static str],
    pub form: Form,
    pub meaning: Meaning,
    /// The predecessor's default, as documented.
    pub default: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A key of the config.
    Key(&'static str),
    /// A key, whose value a backend may replace: the predecessor's operators have it in their files
    /// without having chosen it.
    Wish(&'static str),
    /// A setting for every backend that announces it.
    Setting(&'static str),
    /// A switch that is a word here.
    Words {
        key: &'static str,
        on: &'static str,
        off: &'static str,
    },
    /// `host:port` in one.
    Listener {
        host: &'static str,
        port: &'static str,
    },
    /// Names the default backend.
    Chooses {
        on: &'static str,
        off: Option<&'static str>,
    },
    /// It can have one value only.
    Fixed,
    /// The digest that confidential VMs carry, if the switch is on.
    Identity,
    IdentitySwitch,
    /// Accepted, without effect, with a warning.
    Ignored {
        when: When,
        why: &'static str,
    },
    /// Checked, and without effect in this version, with a warning.
    Later {
        feature: &'static str,
    },
    /// A feature that this version lacks and that a VM must not silently be without.
    Refused {
        feature: &'static str,
        remedy: &'static str,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Given,
    True,
    False,
}

/// A backend that a switch names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendChoice {
    pub backend: String,
    /// `MANAGER_QEMU_ENABLE_TDX=true`.
    pub source: String,
    /// Because something else was switched off.
    pub is_default_of_off: bool,
}

pub const IDENTITY: &str = "MANAGER_QEMU_HOST_DATA";
pub const IDENTITY_SWITCH: &str = "MANAGER_QEMU_ENABLE_HOST_DATA";
pub const IDENTITY_IS_OFF: &str = "it takes MANAGER_QEMU_ENABLE_HOST_DATA=true to use it";
pub const NO_IDENTITY: &str = "there is no MANAGER_QEMU_HOST_DATA to use";

const TRACES: &str = "the export of traces";
const GPU: &str = "GPU passthrough";
const FOLDERS: &str = "the daemon makes a folder for each VM by itself";

const BOOLEAN: Form = Form::Boolean;

const fn plain(
    names: &'static [&'static str],
    form: Form,
    default: &'static str,
    meaning: Meaning,
) -> Variable {
    Variable {
        names,
        form,
        meaning,
        default,
    }
}

const fn key(
    names: &'static [&'static str],
    form: Form,
    default: &'static str,
    key: &'static str,
) -> Variable {
    plain(names, form, default, Meaning::Key(key))
}

const fn setting(
    names: &'static [&'static str],
    form: Form,
    default: &'static str,
    key: &'static str,
) -> Variable {
    plain(names, form, default, Meaning::Setting(key))
}

const fn later(
    names: &'static [&'static str],
    form: Form,
    default: &'static str,
    feature: &'static str,
) -> Variable {
    plain(names, form, default, Meaning::Later { feature })
}

const fn ignored(
    names: &'static [&'static str],
    form: Form,
    default: &'static str,
    when: When,
    why: &'static str,
) -> Variable {
    plain(names, form, default, Meaning::Ignored { when, why })
}

/// An image format that the host hands to QEMU.
const FORMATS: Form = Form::OneOf(&["raw", "qcow2"]);

pub const VARIABLES: &[Variable] = &[
    later(
        &["COCOS_JAEGER_URL"],
        Form::Url,
        "http://localhost:4318",
        TRACES,
    ),
    later(&["COCOS_JAEGER_TRACE_RATIO"], Form::Ratio, "1.0", TRACES),
    key(&["MANAGER_LOG_LEVEL"], Form::LogFilter, "info", "log"),
    key(&["MANAGER_INSTANCE_ID"], Form::Text, "", "instance_id"),
    ignored(
        &[
            "MANAGER_ATTESTATION_POLICY_BINARY",
            "MANAGER_ATTESTATION_POLICY_BINARY_PATH",
        ],
        Form::Path,
        "../../build/attestation_policy",
        When::Given,
        "casemated makes attestation policies itself",
    ),
    key(
        &["MANAGER_IGVMMEASURE_BINARY"],
        Form::Path,
        "../../build/igvmmeasure",
        "attestation.tool",
    ),
    key(
        &["MANAGER_PCR_VALUES"],
        Form::Path,
        "",
        "attestation.pcr_values",
    ),
    key(
        &["MANAGER_CORIM_SIGNING_KEY"],
        Form::Path,
        "",
        "attestation.signing_key",
    ),
    key(&["MANAGER_HTTP_HOST"], Form::Host, "", "http.host"),
    key(&["MANAGER_HTTP_PORT"], Form::Port, "7003", "http.port"),
    key(
        &["MANAGER_HTTP_SERVER_CERT"],
        Form::Path,
        "",
        "http.server_cert",
    ),
    key(
        &["MANAGER_HTTP_SERVER_KEY"],
        Form::Path,
        "",
        "http.server_key",
    ),
    key(
        &["MANAGER_HTTP_SERVER_CA_CERTS"],
        Form::Path,
        "",
        "http.server_ca_certs",
    ),
    key(
        &["MANAGER_HTTP_CLIENT_CA_CERTS"],
        Form::Path,
        "",
        "http.client_ca_certs",
    ),
    key(&["MANAGER_GRPC_HOST"], Form::Host, "", "grpc.host"),
    key(&["MANAGER_GRPC_PORT"], Form::Port, "7001", "grpc.port"),
    plain(
        &["MANAGER_GRPC_URL"],
        Form::Address,
        "",
        Meaning::Listener {
            host: "grpc.host",
            port: "grpc.port",
        },
    ),
    key(
        &["MANAGER_GRPC_SERVER_CERT"],
        Form::Path,
        "",
        "grpc.server_cert",
    ),
    key(
        &["MANAGER_GRPC_SERVER_KEY"],
        Form::Path,
        "",
        "grpc.server_key",
    ),
    key(
        &["MANAGER_GRPC_SERVER_CA_CERTS"],
        Form::Path,
        "",
        "grpc.server_ca_certs",
    ),
    key(
        &["MANAGER_GRPC_CLIENT_CA_CERTS"],
        Form::Path,
        "",
        "grpc.client_ca_certs",
    ),
    key(
        &["MANAGER_GRPC_TIMEOUT"],
        Form::Duration,
        "60s",
        "grpc.timeout",
    ),
    key(&["MANAGER_EOS_VERSION"], Form::Text, "", "vm.eos_version"),
    key(
        &["MANAGER_MAX_VMS"],
        Form::Count(0, u32::MAX as u64),
        "10",
        "max_vms",
    ),
    key(
        &["MANAGER_QEMU_BIN_PATH"],
        Form::Path,
        "qemu-system-x86_64",
        "qemu.binary",
    ),
    ignored(
        &["MANAGER_QEMU_USE_SUDO"],
        BOOLEAN,
        "false",
        When::True,
        "sudo is never used: QEMU's users come from `qemu.uids`",
    ),
    plain(
        &["MANAGER_QEMU_ENABLE_SEV_SNP"],
        BOOLEAN,
        "",
        Meaning::Chooses {
            on: "sev-snp",
            off: Some("plain-kvm"),
        },
    ),
    plain(
        &["MANAGER_QEMU_ENABLE_TDX"],
        BOOLEAN,
        "false",
        Meaning::Chooses {
            on: "tdx",
            off: None,
        },
    ),
    plain(
        &["MANAGER_QEMU_ENABLE_KVM"],
        BOOLEAN,
        "true",
        Meaning::Words {
            key: "qemu.accelerator",
            on: "kvm",
            off: "tcg",
        },
    ),
    key(&["MANAGER_QEMU_MACHINE"], Form::Text, "q35", "vm.machine"),
    plain(
        &["MANAGER_QEMU_CPU"],
        Form::Text,
        "EPYC",
        Meaning::Wish("vm.cpu"),
    ),
    key(
        &["MANAGER_QEMU_SMP_COUNT"],
        Form::Count(1, u32::MAX as u64),
        "4",
        "vm.vcpus",
    ),
    setting(
        &["MANAGER_QEMU_SMP_MAXCPUS"],
        Form::Count(1, u32::MAX as u64),
        "64",
        "maxcpus",
    ),
    key(
        &["MANAGER_QEMU_MEMORY_SIZE"],
        Form::Size,
        "2048M",
        "vm.memory",
    ),
    setting(
        &["MANAGER_QEMU_MEMORY_SLOTS"],
        Form::Count(0, u32::MAX as u64),
        "5",
        "memory-slots",
    ),
    setting(
        &["MANAGER_QEMU_MAX_MEMORY"],
        Form::Size,
        "30G",
        "max-memory",
    ),
    setting(&["MANAGER_QEMU_MEM_ID"], Form::Id, "ram1", "memory-id"),
    plain(
        &["MANAGER_QEMU_OVMF_CODE_IF"],
        Form::OneOf(&["pflash"]),
        "pflash",
        Meaning::Fixed,
    ),
    setting(
        &["MANAGER_QEMU_OVMF_CODE_FORMAT"],
        FORMATS,
        "raw",
        "pflash-code-format",
    ),
    setting(
        &["MANAGER_QEMU_OVMF_CODE_UNIT"],
        Form::Count(0, 1),
        "0",
        "pflash-code-unit",
    ),
    key(
        &["MANAGER_QEMU_OVMF_CODE_FILE"],
        Form::Path,
        "/usr/share/OVMF/OVMF_CODE.fd",
        "vm.firmware_code",
    ),
    setting(
        &["MANAGER_QEMU_OVMF_CODE_READONLY"],
        BOOLEAN,
        "on",
        "pflash-code-readonly",
    ),
    plain(
        &["MANAGER_QEMU_OVMF_VARS_IF"],
        Form::OneOf(&["pflash"]),
        "pflash",
        Meaning::Fixed,
    ),
    setting(
        &["MANAGER_QEMU_OVMF_VARS_FORMAT"],
        FORMATS,
        "raw",
        "pflash-vars-format",
    ),
    setting(
        &["MANAGER_QEMU_OVMF_VARS_UNIT"],
        Form::Count(0, 1),
        "1",
        "pflash-vars-unit",
    ),
    key(
        &["MANAGER_QEMU_OVMF_VARS_FILE"],
        Form::Path,
        "/usr/share/OVMF/OVMF_VARS.fd",
        "vm.firmware_vars",
    ),
    key(
        &["MANAGER_QEMU_OVMF_VERSION"],
        Form::Text,
        "edk2-stable202408",
        "vm.ovmf_version",
    ),
    key(
        &["MANAGER_QEMU_OVMF_FILE"],
        Form::Path,
        "/usr/share/ovmf/OVMF.fd",
        "vm.firmware",
    ),
    setting(&["MANAGER_QEMU_IGVM_ID"], Form::Id, "igvm0", "igvm-id"),
    key(
        &["MANAGER_QEMU_IGVM_FILE"],
        Form::Path,
        "/root/coconut-qemu.igvm",
        "vm.igvm",
    ),
    key(
        &["MANAGER_QEMU_DISK_IMG_KERNEL_FILE"],
        Form::Path,
        "img/bzImage",
        "vm.kernel",
    ),
    key(
        &["MANAGER_QEMU_DISK_IMG_ROOTFS_FILE"],
        Form::Path,
        "img/rootfs.cpio.gz",
        "vm.initrd",
    ),
    key(
        &["MANAGER_QEMU_KERNEL_CMDLINE"],
        Form::Text,
        "quiet console=null",
        "vm.kernel_cmdline",
    ),
    plain(
        &["MANAGER_QEMU_ENABLE_DISK"],
        BOOLEAN,
        "false",
        Meaning::Words {
            key: "vm.boot",
            on: "disk",
            off: "kernel",
        },
    ),
    key(
        &["MANAGER_QEMU_SRC_DISK_FILE"],
        Form::Path,
        "img/enc_os.qcow2",
        "vm.disk",
    ),
    ignored(
        &["MANAGER_QEMU_DST_DISK_FILE"],
        Form::Path,
        "",
        When::Given,
        "each VM has a copy-on-write overlay of its own in its folder",
    ),
    key(&["MANAGER_QEMU_DISK_ID"], Form::Id, "disk0", "disk.id"),
    key(
        &["MANAGER_QEMU_DISK_FORMAT"],
        FORMATS,
        "qcow2",
        "disk.format",
    ),
    key(
        &["MANAGER_QEMU_DISK_SCSI_ID"],
        Form::Id,
        "scsi0",
        "disk.scsi_id",
    ),
    key(&["MANAGER_QEMU_NETDEV_ID"], Form::Id, "vmnic", "network.id"),
    key(
        &["MANAGER_QEMU_HOST_FWD_AGENT"],
        Form::Count(1, u16::MAX as u64),
        "7020",
        "network.first_port",
    ),
    key(
        &["MANAGER_QEMU_GUEST_FWD_AGENT"],
        Form::Count(1, u16::MAX as u64),
        "7002",
        "network.agent_port",
    ),
    key(
        &["MANAGER_QEMU_HOST_FWD_RANGE"],
        Form::Ports,
        "6100-6200",
        "network.ports",
    ),
    key(
        &["MANAGER_QEMU_VIRTIO_NET_PCI_DISABLE_LEGACY"],
        Form::OneOf(&["on", "off", "auto"]),
        "on",
        "network.properties.disable-legacy",
    ),
    key(
        &["MANAGER_QEMU_VIRTIO_NET_PCI_IOMMU_PLATFORM"],
        BOOLEAN,
        "true",
        "network.properties.iommu_platform",
    ),
    key(
        &["MANAGER_QEMU_VIRTIO_NET_PCI_ADDR"],
        Form::Text,
        "0x2",
        "network.properties.addr",
    ),
    key(
        &["MANAGER_QEMU_VIRTIO_NET_PCI_ROMFILE"],
        Form::Text,
        "",
        "network.properties.romfile",
    ),
    setting(&["MANAGER_QEMU_SEV_SNP_ID"], Form::Id, "sev0", "sev-snp-id"),
    setting(
        &[
            "MANAGER_QEMU_SEV_SNP_CBITPOS",
            "MANAGER_QEMU_SEV_SNP_CBIT_POS",
        ],
        Form::Count(0, 63),
        "51",
        "sev-snp-cbitpos",
    ),
    setting(
        &["MANAGER_QEMU_SEV_SNP_REDUCED_PHYS_BITS"],
        Form::Count(0, 63),
        "1",
        "sev-snp-reduced-phys-bits",
    ),
    plain(
        &[IDENTITY_SWITCH],
        BOOLEAN,
        "false",
        Meaning::IdentitySwitch,
    ),
    plain(&[IDENTITY], Form::Base64(32), "", Meaning::Identity),
    setting(&["MANAGER_QEMU_TDX_ID"], Form::Id, "tdx0", "tdx-id"),
    setting(
        &["MANAGER_QEMU_QUOTE_GENERATION_PORT"],
        Form::Count(1, u32::MAX as u64),
        "4050",
        "quote-generation-port",
    ),
    plain(
        &["MANAGER_QEMU_GPU_BDF"],
        Form::PciFunction,
        "",
        Meaning::Refused {
            feature: GPU,
            remedy: "leave it empty: a VM would silently be without its GPU",
        },
    ),
    later(&["MANAGER_QEMU_GPU_PCIE_ROOT_PORT"], Form::Id, "pci.1", GPU),
    later(&["MANAGER_QEMU_GPU_PCIE_BUS"], Form::Id, "pcie.0", GPU),
    later(
        &["MANAGER_QEMU_GPU_FW_CFG_MMIO_MB"],
        Form::Count(0, u32::MAX as u64),
        "262144",
        GPU,
    ),
    ignored(
        &["MANAGER_QEMU_NO_GRAPHIC"],
        BOOLEAN,
        "true",
        When::False,
        "VMs never have a display",
    ),
    ignored(
        &["MANAGER_QEMU_MONITOR"],
        Form::Text,
        "pty",
        When::Given,
        "the monitor is QMP on a socket that only the daemon has",
    ),
    ignored(
        &["MANAGER_QEMU_CERTS_MOUNT"],
        Form::Path,
        "",
        When::Given,
        FOLDERS,
    ),
    ignored(
        &["MANAGER_QEMU_ENV_MOUNT"],
        Form::Path,
        "",
        When::Given,
        FOLDERS,
    ),
];

pub fn find(name: &str) -> Option<&'static Variable> {
    VARIABLES
        .iter()
        .find(|variable| variable.names.contains(&name))
}

/// Whether a variable gives its key a value that may be replaced.
pub fn is_wish(name: &str) -> bool {
    find(name).is_some_and(|variable| matches!(variable.meaning, Meaning::Wish(_)))
}

/// All spellings of all variables.
pub fn names() -> impl Iterator<Item = &'static str> {
    VARIABLES
        .iter()
        .flat_map(|variable| variable.names.iter().copied())
}
