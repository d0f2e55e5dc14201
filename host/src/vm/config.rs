//! What the config file says about VMs: QEMU, the network, and the defaults of a request.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::config::{deserialize_seconds, deserialize_size, parse_range};
use crate::spec::request::{Accelerator, Boot};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QemuConfig {
    /// A path, or a name that is looked up.
    pub binary: PathBuf,
    pub accelerator: Accelerator,
    /// Users that QEMU processes run as, one for each VM. Used when the daemon is root; else QEMU
    /// runs as the daemon's own user.
    #[serde(deserialize_with = "deserialize_uids")]
    pub uids: RangeInclusive<u32>,
    /// How long QEMU may take from its start to `running`, beside a second for each GiB of memory:
    /// a confidential guest's memory is prepared before it runs.
    #[serde(deserialize_with = "deserialize_seconds")]
    pub start_time: Duration,
    /// How long a guest may take to power down before QEMU is told to quit.
    #[serde(deserialize_with = "deserialize_seconds")]
    pub powerdown_time: Duration,
}

impl Default for QemuConfig {
    fn default() -> Self {
        Self {
            binary: PathBuf::from("qemu-system-x86_64"),
            accelerator: Accelerator::Kvm,
            // Above the ranges that systemd gives to containers, below 2^31 (systemd,
            // UIDS-GIDS.md).
            uids: 1_900_000_000..=1_900_000_999,
            start_time: Duration::from_secs(60),
            powerdown_time: Duration::from_secs(20),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Id of the network device.
    pub id: String,
    /// Host address on which agents' ports are forwarded.
    pub host_address: Ipv4Addr,
    /// Host ports that may be forwarded, or `any` to let the kernel choose.
    #[serde(deserialize_with = "deserialize_ports")]
    pub ports: Option<RangeInclusive<u16>>,
    /// Port on which the agent listens in the guest.
    pub agent_port: u16,
    /// Properties of the virtio network device, by QEMU's names.
    pub properties: BTreeMap<String, toml::Value>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            id: "vmnic".to_owned(),
            host_address: Ipv4Addr::LOCALHOST,
            ports: Some(6100..=6200),
            agent_port: 7002,
            properties: [
                ("disable-legacy", toml::Value::from("on")),
                ("iommu_platform", toml::Value::from(true)),
                ("addr", toml::Value::from("0x2")),
                // No option ROM: nothing unmeasured runs before the kernel.
                ("romfile", toml::Value::from("")),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        }
    }
}

/// System users lie below 1000, and user ids end at 2^31 for many tools. The last of the range is
/// for the QEMU that is only asked questions.
fn deserialize_uids<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<RangeInclusive<u32>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_range::<u32>(&text)
        .filter(|range| *range.start() >= 1000 && *range.end() < 1 << 31 && range.start() < range.end())
        .ok_or_else(|| {
            serde::de::Error::custom(format!(
                "{text:?} is not a range of two users at least, from 1000 up, such as \"1900000000-1900000999\""
            ))
        })
}

fn deserialize_ports<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<RangeInclusive<u16>>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "any" {
        return Ok(None);
    }
    parse_range(&text).map(Some).ok_or_else(|| {
        serde::de::Error::custom(format!(
            "{text:?} is not a range such as \"6100-6200\", and not \"any\""
        ))
    })
}

/// Defaults of a request. A path that is not set has a built-in one, which may be missing; one that
/// is set has to be there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VmDefaults {
    pub vcpus: u32,
    #[serde(deserialize_with = "deserialize_size")]
    pub memory: u64,
    pub machine: Option<String>,
    pub cpu: Option<String>,
    pub boot: Boot,
    pub kernel_cmdline: String,
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    pub firmware: Option<PathBuf>,
    pub firmware_code: Option<PathBuf>,
    pub firmware_vars: Option<PathBuf>,
    pub igvm: Option<PathBuf>,
    pub disk: Option<PathBuf>,
    /// Returned by the predecessor's CVMInfo.
    pub ovmf_version: String,
    pub eos_version: String,
}

impl Default for VmDefaults {
    fn default() -> Self {
        Self {
            vcpus: 4,
            memory: 2048 << 20,
            machine: None,
            cpu: None,
            boot: Boot::Kernel,
            kernel_cmdline: "quiet console=null".to_owned(),
            kernel: None,
            initrd: None,
            firmware: None,
            firmware_code: None,
            firmware_vars: None,
            igvm: None,
            disk: None,
            ovmf_version: "edk2-stable202408".to_owned(),
            eos_version: String::new(),
        }
    }
}

/// Machine and CPU that a backend may replace, because nobody named them.
pub const BUILT_IN_MACHINE: &str = "q35";
pub const BUILT_IN_CPU: &str = "EPYC";

/// Files by role, where they lie unless config says otherwise.
pub const BUILT_IN_FILES: [(&str, &str); 7] = [
    ("kernel", "img/bzImage"),
    ("initrd", "img/rootfs.cpio.gz"),
    ("firmware", "/usr/share/ovmf/OVMF.fd"),
    ("firmware-code", "/usr/share/OVMF/OVMF_CODE.fd"),
    ("firmware-vars", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("igvm", "/root/coconut-qemu.igvm"),
    ("disk", "img/enc_os.qcow2"),
];

impl VmDefaults {
    /// The path that config sets for a role.
    pub fn file(&self, role: &str) -> Option<&PathBuf> {
        match role {
            "kernel" => self.kernel.as_ref(),
            "initrd" => self.initrd.as_ref(),
            "firmware" => self.firmware.as_ref(),
            "firmware-code" => self.firmware_code.as_ref(),
            "firmware-vars" => self.firmware_vars.as_ref(),
            "igvm" => self.igvm.as_ref(),
            "disk" => self.disk.as_ref(),
            _ => None,
        }
    }
}
