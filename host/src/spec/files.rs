//! Files that a request names: what a name may be, and who may name what. Nothing is opened here.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Longest name, in characters; QEMU's and the kernel's own limits are far above.
pub const MAX_FILE_NAME: usize = 255;
/// Most data disks of a VM: each takes a slot on the machine's first PCI bus, which has 32.
pub const MAX_DATA_DISKS: usize = 16;
/// What the ids of data disks begin with in QEMU, where no plan and no config can have the same.
/// With the longest id of a disk it is as long as the name of a block node may be (31).
const DATA_DISK_PREFIX: &str = "casemate-d-";
/// Longest id of a data disk: a virtio disk's serial number has no more
/// (`VIRTIO_BLK_ID_BYTES`, virtio 1.2).
const MAX_DATA_DISK_ID: usize = 20;

/// What the caller of a request may name. Kept with the VM, whose later starts look again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileAuthority {
    /// What lies below the image roots.
    #[default]
    BelowRoots,
    /// Any regular file of the host, by its absolute path.
    WholeHost,
}

/// The name of a file: a path below an image root, or an absolute one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileName(String);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FileNameError {
    #[error("it has more than {MAX_FILE_NAME} characters")]
    TooLong,
    #[error("it holds a control character")]
    Control,
    #[error("an absolute path is for callers with the role admin")]
    Absolute,
    #[error("it has an empty component")]
    Empty,
    #[error("it has the component `{0}`")]
    Dots(&'static str),
}

impl FileName {
    pub fn parse(text: &str, authority: FileAuthority) -> Result<Self, FileNameError> {
        if text.chars().count() > MAX_FILE_NAME {
            return Err(FileNameError::TooLong);
        }
        if text.contains(char::is_control) {
            return Err(FileNameError::Control);
        }
        let below = match (text.strip_prefix('/'), authority) {
            (Some(_), FileAuthority::BelowRoots) => return Err(FileNameError::Absolute),
            (Some(below), FileAuthority::WholeHost) => below,
            (None, _) => text,
        };
        for component in below.split('/') {
            match component {
                "" => return Err(FileNameError::Empty),
                "." => return Err(FileNameError::Dots(".")),
                ".." => return Err(FileNameError::Dots("..")),
                _ => {}
            }
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    pub fn is_absolute(&self) -> bool {
        self.0.starts_with('/')
    }
}

/// How an image is read. It is said, never guessed from bytes that a guest may have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    Raw,
    Qcow2,
}

impl DiskFormat {
    /// The name of QEMU's driver.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Raw, Self::Qcow2]
            .into_iter()
            .find(|format| format.as_str() == text)
    }
}

/// The file that a VM starts from in place of the operator's, by what it is to the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnFile {
    Kernel,
    Initrd,
    Firmware,
    Igvm,
    Disk,
}

impl OwnFile {
    pub const ALL: [Self; 5] = [
        Self::Kernel,
        Self::Initrd,
        Self::Firmware,
        Self::Igvm,
        Self::Disk,
    ];

    /// As backends know it, and as the field of a request is called.
    pub fn role(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Firmware => "firmware",
            Self::Igvm => "igvm",
            Self::Disk => "disk",
        }
    }
}

/// All files that a request names, as they were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileWishes {
    pub authority: FileAuthority,
    pub kernel: Option<FileName>,
    pub initrd: Option<FileName>,
    pub firmware: Option<FileName>,
    pub igvm: Option<FileName>,
    pub disk: Option<FileName>,
    /// Of `disk`; none: the operator's.
    pub disk_format: Option<DiskFormat>,
    pub data_disks: Vec<DataDisk>,
}

impl FileWishes {
    pub fn is_empty(&self) -> bool {
        !self.names_own_files() && self.data_disks.is_empty()
    }

    /// Whether it names anything beside data disks.
    pub fn names_own_files(&self) -> bool {
        OwnFile::ALL
            .iter()
            .any(|file| self.own_file(*file).is_some())
    }

    pub fn own_file(&self, file: OwnFile) -> Option<&FileName> {
        match file {
            OwnFile::Kernel => &self.kernel,
            OwnFile::Initrd => &self.initrd,
            OwnFile::Firmware => &self.firmware,
            OwnFile::Igvm => &self.igvm,
            OwnFile::Disk => &self.disk,
        }
        .as_ref()
    }

    /// Whether the operator's file of this role is not for this VM. Who brings a kernel means it
    /// without the initrd of another one.
    pub fn replaces(&self, role: &str) -> bool {
        let is_named = |file: &OwnFile| file.role() == role && self.own_file(*file).is_some();
        OwnFile::ALL.iter().any(is_named) || (role == "initrd" && self.kernel.is_some())
    }
}

/// A disk that the guest reads and cannot write to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataDisk {
    /// Its serial number in the guest.
    pub id: String,
    pub image: FileName,
    pub format: DiskFormat,
}

impl DataDisk {
    /// A letter, then letters, digits, `_` and `-`.
    pub fn is_id(text: &str) -> bool {
        text.len() <= MAX_DATA_DISK_ID
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    }

    /// Id of the disk with this id in QEMU.
    pub fn device_id(id: &str) -> String {
        format!("{DATA_DISK_PREFIX}{id}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_below_its_root_unless_its_caller_may_name_all() {
        use FileAuthority::{BelowRoots, WholeHost};
        let long = "a".repeat(MAX_FILE_NAME + 1);
        let longest = "ü".repeat(MAX_FILE_NAME);
        for (text, authority, wanted) in [
            ("vmlinuz", BelowRoots, None),
            ("debian/13/vmlinuz..old", BelowRoots, None),
            ("...", BelowRoots, None),
            (longest.as_str(), BelowRoots, None),
            (long.as_str(), BelowRoots, Some(FileNameError::TooLong)),
            ("", BelowRoots, Some(FileNameError::Empty)),
            ("a//b", BelowRoots, Some(FileNameError::Empty)),
            ("a/", BelowRoots, Some(FileNameError::Empty)),
            ("..", BelowRoots, Some(FileNameError::Dots(".."))),
            ("a/../../b", BelowRoots, Some(FileNameError::Dots(".."))),
            ("./a", BelowRoots, Some(FileNameError::Dots("."))),
            ("a\0b", BelowRoots, Some(FileNameError::Control)),
            ("a\n", BelowRoots, Some(FileNameError::Control)),
            ("a\u{85}", BelowRoots, Some(FileNameError::Control)),
            ("/boot/vmlinuz", BelowRoots, Some(FileNameError::Absolute)),
            ("/boot/vmlinuz", WholeHost, None),
            ("vmlinuz", WholeHost, None),
            ("/", WholeHost, Some(FileNameError::Empty)),
            ("//boot", WholeHost, Some(FileNameError::Empty)),
            ("/boot/../etc", WholeHost, Some(FileNameError::Dots(".."))),
        ] {
            assert_eq!(FileName::parse(text, authority).err(), wanted, "{text:?}");
        }
    }

    #[test]
    fn ids_of_disks_fit_a_serial_number_and_a_block_node() {
        for (id, fits) in [
            ("a", true),
            ("models_2-x", true),
            ("a2345678901234567890", true),
            ("a23456789012345678901", false),
            ("", false),
            ("1a", false),
            ("a.b", false),
            ("ä", false),
        ] {
            assert_eq!(DataDisk::is_id(id), fits, "{id:?}");
            assert!(!fits || DataDisk::device_id(id).len() <= 31, "{id:?}");
            assert!(!fits || crate::spec::is_qemu_id(&DataDisk::device_id(id)));
        }
    }

    #[test]
    fn a_kernel_comes_without_the_operators_initrd() {
        let name = FileName::parse("x", FileAuthority::BelowRoots).ok();
        let kernel = FileWishes {
            kernel: name.clone(),
            ..FileWishes::default()
        };
        assert!(kernel.replaces("kernel") && kernel.replaces("initrd"));
        assert!(!kernel.replaces("firmware") && !kernel.is_empty());
        let initrd = FileWishes {
            initrd: name,
            ..FileWishes::default()
        };
        assert!(initrd.replaces("initrd") && !initrd.replaces("kernel"));
        assert!(FileWishes::default().is_empty());
    }
}
