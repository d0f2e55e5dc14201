//! What a caller asks for, after validation, and the request that a backend sees.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use super::Origin;
use super::files::{DataDisk, DiskFormat, FileWishes};
use super::identity::{Identity, IdentityWish};
use super::plan::{Property, Value};

/// A validated wish for a VM. What is `None` takes the operator's default.
#[derive(Clone, Debug, Default)]
pub struct VmSpec {
    pub name: String,
    pub backend: BackendWish,
    pub vcpus: Option<u32>,
    pub memory_bytes: Option<u64>,
    pub machine: Option<String>,
    pub cpu: Option<String>,
    pub boot: Option<Boot>,
    pub kernel_cmdline: Option<String>,
    /// Added to whichever command line applies, after a blank.
    pub kernel_cmdline_suffix: Option<String>,
    /// Lines of the guest's `environment`, in order. Secret.
    pub environment: Vec<(String, Secret<String>)>,
    pub certificates: Certificates,
    /// Files `secrets/NAME` of the guest's share, in order of their names. Secret.
    pub secrets: SecretFiles,
    pub settings: BTreeMap<String, String>,
    pub ttl: Option<Duration>,
    pub require_confidential: bool,
    pub restart_policy: RestartPolicy,
    /// What its disk lies over, from its first start on.
    pub disk: Option<DiskImage>,
    /// Files that it starts from in place of the operator's, and its data disks.
    pub files: FileWishes,
    pub identity: IdentityWish,
    pub labels: BTreeMap<String, String>,
    /// The client who asks, by its name in the config; empty where the config names none.
    pub created_by: String,
    pub idempotency: Option<IdempotencyWish>,
    pub goal: Goal,
}

/// Which backend a VM is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BackendWish {
    /// The operator's choice.
    #[default]
    Any,
    /// This one, or the canary that takes its place for such a VM.
    Named(String),
    /// The one that the VM had at its first start, and no other.
    Kept(String),
}

impl BackendWish {
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Any => None,
            Self::Named(name) | Self::Kept(name) => Some(name),
        }
    }
}

/// By what a request that is sent again is known. The key is the client's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyWish {
    pub key: String,
    /// SHA-256 of the request.
    pub request: [u8; 32],
}

/// Name and content of each file.
pub type SecretFiles = Vec<(String, Secret<Vec<u8>>)>;

impl VmSpec {
    /// Whether its shares will hold what later starts find nowhere else.
    pub fn has_secrets(&self) -> bool {
        !self.environment.is_empty() || !self.secrets.is_empty() || self.certificates.are_given()
    }
}

/// How far a start goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Goal {
    #[default]
    Guest,
    /// Until QEMU waits before the guest's first instruction. Nothing stays of it.
    Prelaunch,
}

/// An image that a disk is a layer over: it is of use with these bytes only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskImage {
    pub path: PathBuf,
    pub size: u64,
    pub modified: Timestamp,
    /// None in records of before it was kept: the config's.
    #[serde(default)]
    pub format: Option<DiskFormat>,
}

impl DiskImage {
    pub fn of(file: &RequestFile, format: DiskFormat) -> std::io::Result<Self> {
        let metadata = file.open()?.metadata()?;
        let modified = Timestamp::try_from(metadata.modified()?);
        Ok(Self {
            path: file.path.clone(),
            size: metadata.len(),
            modified: modified.map_err(std::io::Error::other)?,
            format: Some(format),
        })
    }

    /// Whether a disk over this image can lie over `now` as well.
    pub fn is_still(&self, now: &Self) -> bool {
        self.path == now.path && self.size == now.size && self.modified == now.modified
    }
}

/// Whether a VM whose QEMU ended by itself is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    Never,
    /// Not after the guest shut down by itself.
    OnFailure,
    Always,
}

/// A wish as it is kept: all that a later start needs, without the secrets, which lie in the VM's
/// shares and nowhere else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpecRecord {
    pub name: String,
    pub backend: Option<String>,
    pub vcpus: Option<u32>,
    pub memory_bytes: Option<u64>,
    pub machine: Option<String>,
    pub cpu: Option<String>,
    pub boot: Option<Boot>,
    pub kernel_cmdline: Option<String>,
    pub kernel_cmdline_suffix: Option<String>,
    pub settings: BTreeMap<String, String>,
    pub require_confidential: bool,
    pub restart_policy: RestartPolicy,
    /// Whether its shares hold more than its id.
    pub has_secrets: bool,
    pub disk: Option<DiskImage>,
    #[serde(skip_serializing_if = "FileWishes::is_empty")]
    pub files: FileWishes,
    /// From its first start on; none where it had none.
    pub identity: Option<Identity>,
    pub labels: BTreeMap<String, String>,
    pub created_by: String,
}

impl From<&VmSpec> for SpecRecord {
    fn from(spec: &VmSpec) -> Self {
        Self {
            name: spec.name.clone(),
            backend: spec.backend.name().map(str::to_owned),
            vcpus: spec.vcpus,
            memory_bytes: spec.memory_bytes,
            machine: spec.machine.clone(),
            cpu: spec.cpu.clone(),
            boot: spec.boot,
            kernel_cmdline: spec.kernel_cmdline.clone(),
            kernel_cmdline_suffix: spec.kernel_cmdline_suffix.clone(),
            settings: spec.settings.clone(),
            require_confidential: spec.require_confidential,
            restart_policy: spec.restart_policy,
            has_secrets: spec.has_secrets(),
            disk: spec.disk.clone(),
            files: spec.files.clone(),
            identity: spec.identity.known().cloned(),
            labels: spec.labels.clone(),
            created_by: spec.created_by.clone(),
        }
    }
}

impl From<&SpecRecord> for VmSpec {
    fn from(record: &SpecRecord) -> Self {
        Self {
            name: record.name.clone(),
            backend: record
                .backend
                .clone()
                .map_or(BackendWish::Any, BackendWish::Kept),
            vcpus: record.vcpus,
            memory_bytes: record.memory_bytes,
            machine: record.machine.clone(),
            cpu: record.cpu.clone(),
            boot: record.boot,
            kernel_cmdline: record.kernel_cmdline.clone(),
            kernel_cmdline_suffix: record.kernel_cmdline_suffix.clone(),
            environment: Vec::new(),
            certificates: Certificates::default(),
            secrets: Vec::new(),
            settings: record.settings.clone(),
            ttl: None,
            require_confidential: record.require_confidential,
            restart_policy: record.restart_policy,
            disk: record.disk.clone(),
            files: record.files.clone(),
            identity: IdentityWish::Kept(record.identity.clone()),
            labels: record.labels.clone(),
            created_by: record.created_by.clone(),
            idempotency: None,
            goal: Goal::Guest,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    Kernel,
    Disk,
}

impl Boot {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Disk => "disk",
        }
    }
}

/// PEM files of the certificate share.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    pub client_certificate: Option<Secret<Vec<u8>>>,
    pub client_key: Option<Secret<Vec<u8>>>,
    pub server_ca: Option<Secret<Vec<u8>>>,
}

impl Certificates {
    pub fn are_given(&self) -> bool {
        self.client_certificate.is_some() || self.client_key.is_some() || self.server_ca.is_some()
    }
}

/// A value that never shows itself in `Debug` output, and so not in a log, and that is wiped from
/// memory when it goes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> Secret<T> {
    pub fn new(value: T) -> Self {
        Self(value)
    }

    pub fn reveal(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> std::fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<secret>")
    }
}

/// A file of a request: opened once, and that descriptor is what a backend reads and QEMU gets.
#[derive(Clone, Debug)]
pub struct RequestFile {
    pub id: u32,
    pub role: String,
    pub path: PathBuf,
    pub size: u64,
    pub origin: Origin,
    /// A file that was named and cannot be opened is an error only where a plan needs it.
    pub handle: Result<Arc<File>, Arc<std::io::Error>>,
}

impl RequestFile {
    /// The descriptor, or why there is none.
    pub fn open(&self) -> std::io::Result<&Arc<File>> {
        self.handle
            .as_ref()
            .map_err(|error| std::io::Error::new(error.kind(), error.to_string()))
    }

    /// Last path component, for messages.
    pub fn label(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        super::printable(&name.to_string_lossy())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    pub value: String,
    pub origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    pub key: String,
    pub value: Value,
    pub origin: Origin,
}

/// A device that the host attaches to every VM of the request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostDevice {
    pub kind: String,
    pub id: String,
    pub properties: Vec<Property>,
}

/// What a backend knows of the host when it checks or plans.
#[derive(Clone, Debug)]
pub struct HostContext {
    pub architecture: String,
    pub accelerator: Accelerator,
    pub settings: Vec<Setting>,
    pub files: Vec<RequestFile>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A request with every default filled in: the input of `plan`.
#[derive(Clone, Debug)]
pub struct LaunchRequest {
    pub host: HostContext,
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub boot: Boot,
    pub machine: Option<Choice>,
    pub cpu: Option<Choice>,
    pub kernel_cmdline: String,
    pub devices: Vec<HostDevice>,
    /// What lies behind the devices that are data disks.
    pub data_disks: Vec<DataDiskFile>,
    pub identity: Option<Identity>,
}

/// A data disk with its image, opened once: that descriptor is judged, and QEMU gets it. A backend
/// sees the device only.
#[derive(Clone, Debug)]
pub struct DataDiskFile {
    pub disk: DataDisk,
    pub path: PathBuf,
    pub handle: Arc<File>,
}

impl DataDiskFile {
    /// Of its device and its block node in QEMU.
    pub fn device_id(&self) -> String {
        DataDisk::device_id(&self.disk.id)
    }
}

/// A request as it is kept with a VM: with the recorded facts and the files it gives the plan
/// again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RequestRecord {
    pub architecture: String,
    pub accelerator: Accelerator,
    pub settings: Vec<Setting>,
    pub files: Vec<FileRecord>,
    pub vcpus: u32,
    pub memory_bytes: u64,
    pub boot: Boot,
    pub machine: Option<Choice>,
    pub cpu: Option<Choice>,
    pub kernel_cmdline: String,
    pub devices: Vec<HostDevice>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data_disks: Vec<DataDisk>,
    #[serde(default)]
    pub identity: Option<Identity>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    pub id: u32,
    pub role: String,
    pub path: PathBuf,
    pub size: u64,
    pub origin: Origin,
}

impl LaunchRequest {
    pub fn record(&self) -> RequestRecord {
        RequestRecord {
            architecture: self.host.architecture.clone(),
            accelerator: self.host.accelerator,
            settings: self.host.settings.clone(),
            files: self
                .host
                .files
                .iter()
                .map(|file| FileRecord {
                    id: file.id,
                    role: file.role.clone(),
                    path: file.path.clone(),
                    size: file.size,
                    origin: file.origin,
                })
                .collect(),
            vcpus: self.vcpus,
            memory_bytes: self.memory_bytes,
            boot: self.boot,
            machine: self.machine.clone(),
            cpu: self.cpu.clone(),
            kernel_cmdline: self.kernel_cmdline.clone(),
            devices: self.devices.clone(),
            data_disks: self.data_disks.iter().map(|one| one.disk.clone()).collect(),
            identity: self.identity.clone(),
        }
    }

    /// Whether it boots from a disk, which is its own. Data disks are not counted.
    pub fn has_disk(&self) -> bool {
        self.boot == Boot::Disk
    }

    /// The data disk with this id of a device, and which of them it is.
    pub fn data_disk(&self, device_id: &str) -> Option<(usize, &DataDiskFile)> {
        let mut disks = self.data_disks.iter().enumerate();
        disks.find(|(_, one)| one.device_id() == device_id)
    }

    pub fn file(&self, id: u32) -> Option<&RequestFile> {
        self.host.files.iter().find(|file| file.id == id)
    }

    pub fn file_with_role(&self, role: &str) -> Option<&RequestFile> {
        self.host.files.iter().find(|file| file.role == role)
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn a_secret_does_not_show_itself() {
        let text = format!("{:?}", Secret::new("canary".to_owned()));
        assert!(!text.contains("canary"), "{text}");
    }
}
