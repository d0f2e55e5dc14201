//! What the config says about VMs: QEMU, the network, the disk, and the defaults of a request.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::Error as _;

use crate::config::form::{Form, range};
use crate::config::key::Key;
use crate::qemu::command::UserNetwork;
use crate::spec::Origin;
use crate::spec::files::DiskFormat;
use crate::spec::request::{Accelerator, Boot};

/// Keys of this module, in the order of the documented file.
pub const KEYS: &[Key] = &[
    Key::new(
        "qemu.binary",
        Form::Path,
        "qemu-system-x86_64",
        "QEMU: a path, or a name that is looked up in the system's program folders.",
    ),
    Key::new(
        "qemu.accelerator",
        Form::OneOf(&["kvm", "tcg"]),
        "kvm",
        "`kvm`, or `tcg` (emulation) where there is no KVM.",
    ),
    Key::new(
        "qemu.uids",
        Form::Uids,
        // Above the ranges that systemd gives to containers, below 2^31 (systemd, UIDS-GIDS.md).
        "1900000000-1900000999",
        "Users that QEMU processes run as, one for each VM, when casemated is root; the last one is \
         for a QEMU that is only asked questions.",
    )
    .at_restart(),
    Key::new(
        "qemu.start_time",
        Form::Duration,
        // Less than the default time of a call, so that its caller hears of QEMU and not of the time.
        "50s",
        "How long QEMU may take from its start to a running guest, beside a second for each GiB of \
         memory.",
    ),
    Key::new(
        "qemu.powerdown_time",
        Form::Duration,
        "20s",
        "How long a guest may take to power down before QEMU is told to quit.",
    ),
    Key::unset(
        "qemu.extra_paths",
        Form::Text,
        "nothing else",
        "/opt/firmware:/srv/modules",
        "Files and folders that QEMU's sandbox leaves open beside the system's own and its VM's, \
         separated by `:`. Their own permissions hold all the same.",
    ),
    Key::new(
        "qemu.console_size",
        Form::Size,
        "1M",
        "How much of a console is kept: of its begin and of its end this much each, for each of the \
         last three starts.",
    ),
    Key::new(
        "network.id",
        Form::Id,
        "vmnic",
        "Id of the network device.",
    ),
    Key::new(
        "network.host_address",
        Form::Host4,
        "127.0.0.1",
        "Host address on which the agents' ports are forwarded.",
    ),
    Key::new(
        "network.ports",
        Form::Ports,
        "6100-6200",
        "Host ports that may be forwarded, or `any` to let the kernel choose. The daemon's own ports \
         are never used.",
    ),
    Key::unset(
        "network.first_port",
        Form::Count(1, u16::MAX as u64),
        "`network.ports` alone counts",
        "7020",
        "Where `network.ports` is not set: all ports from this one up may be forwarded.",
    ),
    Key::new(
        "network.outbound",
        Form::OneOf(&["filtered", "none", "unfiltered"]),
        "filtered",
        "What a guest reaches through the network: `filtered`, everything but this host (takes root and \
         cgroup v2); `none`, nothing; `unfiltered`, this host's own services too. Its agent's port is \
         forwarded in any case.",
    ),
    Key::new(
        "network.agent_port",
        Form::Count(1, u16::MAX as u64),
        "7002",
        "Port on which the agent listens in the guest.",
    ),
    Key::new(
        "network.properties.disable-legacy",
        Form::OneOf(&["on", "off", "auto"]),
        "on",
        "Whether the network device is a modern virtio device only.",
    ),
    Key::new(
        "network.properties.iommu_platform",
        Form::Boolean,
        "true",
        "Whether the network device's memory access goes through the platform's IOMMU rules.",
    ),
    Key::new(
        "network.properties.addr",
        Form::Text,
        "0x2",
        "PCI address of the network device.",
    ),
    Key::new(
        "network.properties.romfile",
        Form::Text,
        "",
        "Option ROM of the network device; empty means none, so that nothing unmeasured runs before \
         the kernel.",
    )
    .empty_is_a_value(),
    Key::new(
        "disk.id",
        Form::Id,
        "disk0",
        "Id of the disk that a VM boots from.",
    ),
    Key::new(
        "disk.scsi_id",
        Form::Id,
        "scsi0",
        "Id of the SCSI controller that the disk hangs on.",
    ),
    Key::new(
        "disk.format",
        Form::OneOf(&["raw", "qcow2"]),
        "qcow2",
        "Image format of `vm.disk`. It is never guessed from the image, which a guest may have \
         written.",
    ),
    Key::new(
        "disk.extra",
        Form::Size,
        "1G",
        "How much larger a VM's disk is than its image.",
    ),
    Key::new(
        "vm.vcpus",
        Form::Count(1, u32::MAX as u64),
        "4",
        "vCPUs of a VM whose request names none.",
    ),
    Key::new(
        "vm.memory",
        Form::Size,
        "2048M",
        "Memory of a VM whose request names none; a multiple of 1 MiB.",
    ),
    Key::new(
        "vm.machine",
        Form::Text,
        "q35",
        "QEMU's machine, by name or alias. The default may be replaced by a backend; a value that is \
         set here is used or the VM is refused.",
    ),
    Key::new(
        "vm.cpu",
        Form::Text,
        "EPYC",
        "QEMU's CPU model, with the same rule.",
    ),
    Key::new(
        "vm.boot",
        Form::OneOf(&["kernel", "disk"]),
        "kernel",
        "What a VM boots from.",
    ),
    Key::new(
        "vm.kernel_cmdline",
        Form::Text,
        "quiet console=null",
        "Kernel command line, byte for byte. Not secret.",
    ),
    Key::new("vm.kernel", Form::Path, "img/bzImage", "Kernel (bzImage)."),
    Key::new(
        "vm.initrd",
        Form::Path,
        "img/rootfs.cpio.gz",
        "Initial RAM disk.",
    ),
    Key::new(
        "vm.firmware",
        Form::Path,
        "/usr/share/ovmf/OVMF.fd",
        "Firmware in one file, for `-bios`.",
    ),
    Key::new(
        "vm.firmware_descriptors",
        Form::Text,
        "/etc/qemu/firmware:/usr/share/qemu/firmware",
        "Folders of firmware descriptors (QEMU, docs/interop/firmware.json), separated by `:`; the \
         first weighs most. Where nobody set `vm.firmware`, they choose it for backends that say what \
         features it must have. Empty: none.",
    )
    .empty_is_a_value(),
    Key::new(
        "vm.firmware_code",
        Form::Path,
        "/usr/share/OVMF/OVMF_CODE.fd",
        "Firmware code, for a flash chip.",
    ),
    Key::new(
        "vm.firmware_vars",
        Form::Path,
        "/usr/share/OVMF/OVMF_VARS.fd",
        "Firmware variables, copied for each VM.",
    ),
    Key::new(
        "vm.igvm",
        Form::Path,
        "/root/coconut-qemu.igvm",
        "IGVM file, for backends that start from one.",
    ),
    Key::new(
        "vm.disk",
        Form::Path,
        "img/enc_os.qcow2",
        "Disk image; each VM writes to an overlay of its own, and keeps the image of its first start.",
    ),
    Key::unset(
        "vm.identity",
        Form::Base64(32),
        "the digest of each VM's configuration (docs/identity.md)",
        "base64 of 32 bytes",
        "What confidential VMs carry in their attestation reports (host data), unless the request names something else: base64 of 32 bytes.",
    ),
    Key::new(
        "vm.ovmf_version",
        Form::Text,
        "edk2-stable202408",
        "Firmware version that CVMInfo answers with.",
    ),
    Key::new(
        "vm.eos_version",
        Form::Text,
        "",
        "EOS version that CVMInfo answers with.",
    ),
];

#[derive(Clone, Debug, Deserialize)]
pub struct QemuConfig {
    pub binary: PathBuf,
    pub accelerator: Accelerator,
    /// Users that QEMU processes run as, one for each VM. Used when the daemon is root; else QEMU
    /// runs as the daemon's own user.
    #[serde(deserialize_with = "uids")]
    pub uids: RangeInclusive<u32>,
    /// A confidential guest's memory is prepared before it runs, so more is added for each GiB.
    #[serde(deserialize_with = "duration")]
    pub start_time: Duration,
    #[serde(deserialize_with = "duration")]
    pub powerdown_time: Duration,
    #[serde(deserialize_with = "size")]
    pub console_size: u64,
    #[serde(default)]
    extra_paths: String,
}

impl QemuConfig {
    /// What QEMU reaches beside the system's own and its VM's.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        paths(&self.extra_paths)
    }
}

/// Paths with `:` between them.
pub(super) fn paths(text: &str) -> impl Iterator<Item = PathBuf> {
    text.split(':')
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

#[derive(Clone, Debug, Deserialize)]
pub struct NetworkConfig {
    pub id: String,
    pub host_address: Ipv4Addr,
    /// `None`: the kernel chooses.
    #[serde(deserialize_with = "ports")]
    pub ports: Option<RangeInclusive<u16>>,
    pub agent_port: u16,
    pub outbound: Outbound,
    /// Properties of the virtio network device, by QEMU's names.
    pub properties: BTreeMap<String, toml::Value>,
}

/// What a guest reaches through the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outbound {
    /// Everything but this host.
    Filtered,
    None,
    /// This host's own services too, the daemon's interfaces among them.
    Unfiltered,
}

impl Outbound {
    pub fn user_network(self) -> UserNetwork {
        match self {
            Self::None => UserNetwork::Restricted,
            Self::Filtered | Self::Unfiltered => UserNetwork::Open,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct DiskConfig {
    pub id: String,
    pub scsi_id: String,
    pub format: DiskFormat,
    #[serde(deserialize_with = "size")]
    pub extra: u64,
}

/// Defaults of a request.
#[derive(Clone, Debug, Deserialize)]
pub struct VmDefaults {
    pub vcpus: u32,
    #[serde(deserialize_with = "size")]
    pub memory: u64,
    pub machine: String,
    pub cpu: String,
    pub boot: Boot,
    pub kernel_cmdline: String,
    kernel: PathBuf,
    initrd: PathBuf,
    firmware: PathBuf,
    firmware_descriptors: String,
    firmware_code: PathBuf,
    firmware_vars: PathBuf,
    igvm: PathBuf,
    disk: PathBuf,
    #[serde(default, deserialize_with = "identity")]
    pub identity: Option<Vec<u8>>,
    /// Returned by the predecessor's CVMInfo.
    pub ovmf_version: String,
    pub eos_version: String,
    /// Who said each value, by key: a built-in one may be replaced or left out.
    #[serde(skip)]
    pub origins: BTreeMap<String, Origin>,
}

type ReadFile = fn(&VmDefaults) -> &PathBuf;

/// Files by role, with the field that holds each.
pub const FILES: [(&str, ReadFile); 7] = [
    ("kernel", |defaults| &defaults.kernel),
    ("initrd", |defaults| &defaults.initrd),
    ("firmware", |defaults| &defaults.firmware),
    ("firmware-code", |defaults| &defaults.firmware_code),
    ("firmware-vars", |defaults| &defaults.firmware_vars),
    ("igvm", |defaults| &defaults.igvm),
    ("disk", |defaults| &defaults.disk),
];

impl VmDefaults {
    /// The key that sets the file of a role.
    pub fn file_key(role: &str) -> String {
        format!("vm.{}", role.replace('-', "_"))
    }

    /// Every file, by role.
    pub fn files(&self) -> impl Iterator<Item = (&'static str, &Path, Origin)> {
        FILES.iter().map(|(role, path)| {
            (
                *role,
                path(self).as_path(),
                self.origin(&Self::file_key(role)),
            )
        })
    }

    /// Folders of firmware descriptors, the one that weighs most first.
    pub fn firmware_descriptors(&self) -> impl Iterator<Item = PathBuf> {
        paths(&self.firmware_descriptors)
    }

    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).copied().unwrap_or(Origin::BuiltIn)
    }
}

// The forms of the keys have been checked before; these only read them.

fn uids<'de, D: serde::Deserializer<'de>>(from: D) -> Result<RangeInclusive<u32>, D::Error> {
    let text = String::deserialize(from)?;
    let (first, last) = range(&text).ok_or_else(|| D::Error::custom("no range"))?;
    Ok(first..=last)
}

fn ports<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<RangeInclusive<u16>>, D::Error> {
    let text = String::deserialize(from)?;
    if text == "any" {
        return Ok(None);
    }
    let (first, last) = range(&text).ok_or_else(|| D::Error::custom("no range"))?;
    Ok(Some(first..=last))
}

fn size<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    crate::spec::byte_size::parse(&text).map_err(D::Error::custom)
}

/// A size that need not be there.
pub(crate) fn optional_size<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<Option<u64>, D::Error> {
    size(from).map(Some)
}

/// A time, for the structs of other modules too.
pub(crate) fn duration<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    crate::spec::go_duration::parse(&text).map_err(D::Error::custom)
}

fn identity<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Vec<u8>>, D::Error> {
    use base64::Engine as _;
    let text = String::deserialize(from)?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(&text);
    bytes.map(Some).map_err(D::Error::custom)
}
