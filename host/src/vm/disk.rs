//! Disks: the one that a VM boots from is a copy-on-write overlay of an image, made by `qemu-img`,
//! that goes with the VM; data disks are images as they are.
//!
//! An image is judged as it was opened: `qemu-img` gets the descriptor that QEMU gets later, and no
//! name. One that names other files could have the guest read any file of the host.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::CreateError;
use super::files;
use super::planning::Planned;
use crate::qemu::process::{self, Credentials, Exit, ToolError, ToolOutput};
use crate::spec::files::DiskFormat;
use crate::spec::printable;
use crate::spec::request::DiskImage;
use crate::store::VmFolder;

/// Deadline of `qemu-img`, which only reads or writes a header.
const TOOL_TIME: Duration = Duration::from_secs(30);
const OVERLAY: &str = "disk.qcow2";
/// Number of the image in `qemu-img`, and where that finds it.
const IMAGE_FD: i32 = 10;
const IMAGE_PATH: &str = "/proc/self/fd/10";

/// Why an image is no disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("{image:?} has the backing file {backing:?}, which is not allowed: flatten it with `qemu-img convert`", image = .image.display())]
    Backing { image: PathBuf, backing: String },
    #[error("{image:?} has the data file {data:?}, which is not allowed: make it one file with `qemu-img convert`", image = .image.display())]
    DataFile { image: PathBuf, data: String },
    #[error("{image:?} is encrypted, and its key is not QEMU's to have: decrypt it with `qemu-img convert`", image = .image.display())]
    Encrypted { image: PathBuf },
    #[error("{image:?} is marked corrupt: try `qemu-img check -r all` on a copy", image = .image.display())]
    Corrupt { image: PathBuf },
    #[error(
        "{path:?} is not as it was at the VM's first start: it had {} bytes and was changed last at {}, now {now_path:?} has {} bytes of {}; put it back, or make another VM",
        .first.size, .first.modified, .now.size, .now.modified,
        path = .first.path.display(), now_path = .now.path.display()
    )]
    Changed {
        first: Box<DiskImage>,
        now: Box<DiskImage>,
    },
    #[error("{image:?} is no sound image of the format {}: {said}", .format.as_str(), image = .image.display())]
    Unsound {
        image: PathBuf,
        format: DiskFormat,
        said: String,
    },
    #[error("no overlay can be made: {said}")]
    Overlay { said: String },
    #[error("qemu-img tells nothing of {image:?} that could be read", image = .image.display())]
    Unread { image: PathBuf },
}

/// The image that a VM's disk lies over; none where it boots from no disk. Over other bytes than
/// those of its `first` start the disk would be garbage, and the guest would write to it.
pub(super) fn image(
    planned: &Planned,
    first: Option<&DiskImage>,
) -> Result<Option<DiskImage>, CreateError> {
    let file = planned.request.file_with_role("disk");
    let Some(file) = file.filter(|_| planned.request.has_disk()) else {
        return Ok(first.cloned());
    };
    let now = DiskImage::of(file, planned.disk_format).map_err(|source| CreateError::File {
        role: file.role.clone(),
        path: file.path.clone(),
        source,
    })?;
    match first {
        Some(first) if !first.is_still(&now) => Err(DiskError::Changed {
            first: Box::new(first.clone()),
            now: Box::new(now),
        }
        .into()),
        _ => Ok(Some(now)),
    }
}

/// Makes the overlay, or takes the one of an earlier start, and tells its virtual size. The image is
/// judged first, as a QEMU with `credentials` would read it.
pub(super) async fn overlay(
    planned: &Planned,
    folder: &VmFolder,
    credentials: Credentials,
) -> Result<(PathBuf, u64), CreateError> {
    let overlay = folder.path().join(OVERLAY);
    let disk = planned
        .request
        .file_with_role("disk")
        .ok_or(CreateError::DiskMissing)?;
    if let Some(error) = files::missing(disk) {
        return Err(error);
    }
    let path = std::path::absolute(&disk.path).unwrap_or_else(|_| disk.path.clone());
    let handle = disk.open().map_err(|source| CreateError::File {
        role: disk.role.clone(),
        path: disk.path.clone(),
        source,
    })?;
    let image = Image {
        file: handle,
        path: &path,
        format: planned.disk_format,
    };
    let size = image.judge(credentials).await?;
    let size = size.saturating_add(planned.live.disk.extra);
    if overlay.exists() {
        return Ok((overlay, size));
    }
    let size_argument = size.to_string();
    // `-u`: the image's name is written down and not opened. QEMU is told of the descriptor.
    let arguments: [&OsStr; 12] = [
        "create".as_ref(),
        "-q".as_ref(),
        "-u".as_ref(),
        "-f".as_ref(),
        "qcow2".as_ref(),
        "-F".as_ref(),
        planned.disk_format.as_str().as_ref(),
        "-b".as_ref(),
        path.as_os_str(),
        "--".as_ref(),
        overlay.as_os_str(),
        size_argument.as_ref(),
    ];
    let output = run(&arguments, Vec::new(), Credentials::Daemon).await?;
    if output.exit != Exit::Code(0) {
        let said = output.stderr;
        return Err(DiskError::Overlay { said }.into());
    }
    folder.adopt(&overlay)?;
    Ok((overlay, size))
}

/// Judges the images of all data disks, as a QEMU with `credentials` would read them.
pub(super) async fn judge_data_disks(
    planned: &Planned,
    credentials: Credentials,
) -> Result<(), CreateError> {
    for one in &planned.request.data_disks {
        let image = Image {
            file: &one.handle,
            path: &one.path,
            format: one.disk.format,
        };
        image
            .judge(credentials)
            .await
            .map_err(|error| match error {
                CreateError::Disk(source) => CreateError::DataDisk {
                    id: one.disk.id.clone(),
                    source,
                },
                other => other,
            })?;
    }
    Ok(())
}

/// An opened image.
struct Image<'a> {
    file: &'a Arc<File>,
    /// For messages.
    path: &'a Path,
    format: DiskFormat,
}

impl Image<'_> {
    /// Virtual size of an image that names no other file.
    async fn judge(&self, credentials: Credentials) -> Result<u64, CreateError> {
        let path = || self.path.to_owned();
        let error = |source| CreateError::File {
            role: "disk".to_owned(),
            path: path(),
            source,
        };
        // An image that is closed to QEMU's user is read by root.
        let credentials = match files::is_readable(self.file, credentials).map_err(error)? {
            true => credentials,
            false => Credentials::Daemon,
        };
        // Not guessed: a guest that could write to a raw image would choose the format by its bytes.
        let arguments: [&OsStr; 6] = [
            "info".as_ref(),
            "-f".as_ref(),
            self.format.as_str().as_ref(),
            "--output=json".as_ref(),
            "--".as_ref(),
            IMAGE_PATH.as_ref(),
        ];
        let file = self.file.try_clone().map_err(error)?;
        let output = run(&arguments, vec![(file.into(), IMAGE_FD)], credentials).await?;
        if output.exit != Exit::Code(0) {
            return Err(DiskError::Unsound {
                image: path(),
                format: self.format,
                said: output
                    .stderr
                    .replace(IMAGE_PATH, &self.path.to_string_lossy()),
            }
            .into());
        }
        let info = serde_json::from_slice(&output.stdout);
        let info = info.map_err(|_| DiskError::Unread { image: path() })?;
        Ok(size_of_whole(&info, self.path)?)
    }
}

/// Virtual size of an image by what `qemu-img` says of it, where it is whole in itself.
fn size_of_whole(info: &serde_json::Value, image: &Path) -> Result<u64, DiskError> {
    let image = || image.to_owned();
    for key in ["backing-filename", "full-backing-filename"] {
        if let Some(backing) = info[key].as_str() {
            return Err(DiskError::Backing {
                image: image(),
                backing: printable(backing),
            });
        }
    }
    let data = &info["format-specific"]["data"];
    if !data["data-file"].is_null() {
        return Err(DiskError::DataFile {
            image: image(),
            data: printable(data["data-file"].as_str().unwrap_or("of another form")),
        });
    }
    if info["encrypted"] == true || !data["encrypt"].is_null() {
        return Err(DiskError::Encrypted { image: image() });
    }
    // QEMU sets the mark where it found its own tables broken, and would read such an image.
    if data["corrupt"] == true {
        return Err(DiskError::Corrupt { image: image() });
    }
    info["virtual-size"]
        .as_u64()
        .ok_or_else(|| DiskError::Unread { image: image() })
}

async fn run(
    arguments: &[&OsStr],
    descriptors: Vec<(std::os::fd::OwnedFd, i32)>,
    credentials: Credentials,
) -> Result<ToolOutput, ToolError> {
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    let tool = Path::new("qemu-img");
    process::run_tool(tool, arguments, descriptors, &credentials, TOOL_TIME).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_image_is_whole_or_no_disk() {
        type Fits = fn(&DiskError) -> bool;
        let cases: [(serde_json::Value, Option<Fits>); 8] = [
            (json!({"virtual-size": 512}), None),
            (
                json!({"virtual-size": 512, "backing-filename": "/etc/shadow"}),
                Some(|error| matches!(error, DiskError::Backing { .. })),
            ),
            (
                json!({"virtual-size": 512, "full-backing-filename": "nbd:x"}),
                Some(|error| matches!(error, DiskError::Backing { .. })),
            ),
            (
                json!({"virtual-size": 512, "format-specific": {"data": {"data-file": "/dev/sda"}}}),
                Some(|error| matches!(error, DiskError::DataFile { .. })),
            ),
            (
                json!({"virtual-size": 512, "format-specific": {"data": {"data-file": {}}}}),
                Some(|error| matches!(error, DiskError::DataFile { .. })),
            ),
            (
                json!({"virtual-size": 512, "encrypted": true}),
                Some(|error| matches!(error, DiskError::Encrypted { .. })),
            ),
            (
                json!({"virtual-size": 512, "format-specific": {"data": {"corrupt": true}}}),
                Some(|error| matches!(error, DiskError::Corrupt { .. })),
            ),
            (
                json!({}),
                Some(|error| matches!(error, DiskError::Unread { .. })),
            ),
        ];
        for (info, wanted) in cases {
            let outcome = size_of_whole(&info, Path::new("image"));
            match (wanted, outcome) {
                (None, Ok(size)) => assert_eq!(size, 512),
                (Some(fits), Err(error)) => assert!(fits(&error), "{info}: {error}"),
                (_, outcome) => panic!("{info}: {outcome:?}"),
            }
        }
    }
}
