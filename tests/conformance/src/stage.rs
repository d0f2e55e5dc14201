//! A draft becomes a request of the host's, with its files on disk and opened.

use std::collections::hash_map::DefaultHasher;
use std::fs::{File, OpenOptions};
use std::hash::{Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use casemate_host::backend::BackendInfo;
use casemate_host::regular_file;
use casemate_host::spec::Origin;
use casemate_host::spec::files::{DataDisk, DiskFormat, FileAuthority, FileName, FileNameError};
use casemate_host::spec::request::{
    DataDiskFile, HostContext, LaunchRequest, RequestFile, Setting,
};
use tempfile::TempDir;

use crate::draft::{Content, Draft, FileDraft};
use crate::golden::images::{self, ImageError};

/// A request that this machine cannot put together.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("a file of the request cannot be made: {0}")]
    Io(#[from] std::io::Error),
    #[error("a data disk's image has no name: {0}")]
    Disk(#[from] FileNameError),
}

/// Where files of requests are made. Each content is made once.
#[derive(Debug)]
pub struct Stage {
    folder: TempDir,
    /// Beside the golden requests.
    own: Option<PathBuf>,
}

impl Stage {
    pub fn new(own: Option<&Path>) -> Result<Self, StageError> {
        Ok(Self {
            folder: tempfile::tempdir()?,
            own: own.map(Path::to_owned),
        })
    }

    /// The request of `draft`, with every announced default that it does not replace.
    pub fn request(&self, draft: &Draft, info: &BackendInfo) -> Result<LaunchRequest, StageError> {
        let files = draft.files.iter().map(|file| self.file(file));
        let data_disks = draft.data_disks.iter().map(|id| self.data_disk(id));
        Ok(LaunchRequest {
            host: HostContext {
                architecture: draft.architecture.clone(),
                accelerator: draft.accelerator,
                settings: settings(draft, info),
                files: files.collect::<Result<_, _>>()?,
            },
            vcpus: draft.vcpus,
            memory_bytes: draft.memory_bytes,
            boot: draft.boot,
            machine: draft.machine.clone(),
            cpu: draft.cpu.clone(),
            kernel_cmdline: draft.kernel_cmdline.clone(),
            devices: draft.devices.clone(),
            data_disks: data_disks.collect::<Result<_, _>>()?,
            identity: draft.identity.clone(),
        })
    }

    fn file(&self, file: &FileDraft) -> Result<RequestFile, StageError> {
        let path = self.path(&file.content)?;
        let (handle, size) = match &file.content {
            Content::Missing => (Err(std::io::Error::from(std::io::ErrorKind::NotFound)), 0),
            Content::Unreadable(_) => {
                let file = OpenOptions::new().append(true).open(&path)?;
                let size = file.metadata()?.len();
                (Ok(file), size)
            }
            Content::Shortened(_) => {
                let file = regular_file::open(&path)?;
                let size = file.metadata()?.len() * 2;
                (Ok(file), size)
            }
            _ => {
                let file = regular_file::open(&path)?;
                let size = file.metadata()?.len();
                (Ok(file), size)
            }
        };
        Ok(RequestFile {
            id: file.id,
            role: file.role.clone(),
            path,
            size,
            origin: file.origin,
            handle: handle.map(Arc::new).map_err(Arc::new),
        })
    }

    fn path(&self, content: &Content) -> Result<PathBuf, StageError> {
        let name = match content {
            Content::Named(name) => name.clone(),
            Content::Missing => return Ok(self.folder.path().join("missing")),
            other => {
                let mut hasher = DefaultHasher::new();
                other.hash(&mut hasher);
                format!("made-{:016x}", hasher.finish())
            }
        };
        let named = |name: &str| images::content(self.own.as_deref(), name);
        if !images::is_name(&name) {
            // The folder joined with a path would be that path.
            named(&name)?;
        }
        let path = self.folder.path().join(&name);
        if path.exists() {
            return Ok(path);
        }
        let bytes = match content {
            Content::Named(name) | Content::Unreadable(name) => named(name)?,
            Content::Empty | Content::Missing | Content::Zeros(_) => Vec::new(),
            Content::Beginning { of, bytes } => {
                let mut whole = named(of)?;
                whole.truncate(usize::try_from(*bytes).unwrap_or(usize::MAX));
                whole
            }
            Content::Flipped { of, at } => {
                let mut whole = named(of)?;
                let length = whole.len().max(1) as u64;
                let at = usize::try_from(at % length).unwrap_or_default();
                if let Some(byte) = whole.get_mut(at) {
                    *byte = !*byte;
                }
                whole
            }
            Content::Noise { bytes, seed } => noise(*bytes, *seed),
            Content::Shortened(name) => {
                let mut whole = named(name)?;
                whole.truncate(whole.len() / 2);
                whole
            }
        };
        let mut file = File::create(&path)?;
        file.write_all(&bytes)?;
        if let Content::Zeros(size) = content {
            file.set_len(*size)?;
        }
        Ok(path)
    }

    /// Its image is not looked at.
    fn data_disk(&self, id: &str) -> Result<DataDiskFile, StageError> {
        let image = FileName::parse("image", FileAuthority::BelowRoots)?;
        Ok(DataDiskFile {
            path: image.as_path().to_owned(),
            disk: DataDisk {
                id: id.to_owned(),
                image,
                format: DiskFormat::Qcow2,
            },
            handle: Arc::new(tempfile::tempfile()?),
        })
    }
}

fn settings(draft: &Draft, info: &BackendInfo) -> Vec<Setting> {
    let mut settings = Vec::new();
    for spec in &info.settings {
        let own = draft
            .settings
            .iter()
            .find(|setting| setting.key == spec.key);
        let built_in = spec.default.as_ref().map(|value| Setting {
            key: spec.key.clone(),
            value: value.clone(),
            origin: Origin::BuiltIn,
        });
        settings.extend(own.cloned().or(built_in));
    }
    let is_announced = |key: &str| info.settings.iter().any(|spec| spec.key == key);
    let others = draft.settings.iter();
    settings.extend(
        others
            .filter(|setting| !is_announced(&setting.key))
            .cloned(),
    );
    settings
}

/// Bytes that a seed repeats (SplitMix64).
fn noise(bytes: u64, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    });
    let count = usize::try_from(bytes).unwrap_or(usize::MAX);
    words.flat_map(u64::to_le_bytes).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_no_name_of_a_file() {
        let own = tempfile::tempdir().unwrap();
        let stage = Stage::new(Some(own.path())).unwrap();
        let file = |name: &str| FileDraft {
            id: 1,
            role: "kernel".to_owned(),
            content: Content::Named(name.to_owned()),
            origin: Origin::Operator,
        };
        assert!(stage.file(&file("kernel")).is_ok());
        for name in ["/etc/hostname", "../kernel", ".", ""] {
            let error = stage.file(&file(name)).unwrap_err().to_string();
            assert!(error.contains("there is no file"), "{error}");
        }
    }
}
