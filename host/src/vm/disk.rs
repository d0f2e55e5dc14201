//! The disk that a VM boots from: a copy-on-write overlay of the operator's image, made by
//! `qemu-img`, that goes with the VM.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::CreateError;
use super::files;
use super::planning::Planned;
use crate::qemu::process::{self, Credentials, ToolOutput};
use crate::spec::request::DiskImage;
use crate::store::VmFolder;

/// Deadline of `qemu-img`, which only reads or writes a header.
const TOOL_TIME: Duration = Duration::from_secs(30);
const OVERLAY: &str = "disk.qcow2";

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
    let now = DiskImage::of(file).map_err(|source| CreateError::File {
        role: file.role.clone(),
        path: file.path.clone(),
        source,
    })?;
    match first {
        Some(first) if *first != now => Err(CreateError::Disk(format!(
            "{} is not as it was at the VM's first start: it had {} bytes and was changed last at {}, now it has {} bytes of {}; put it back, or make another VM",
            first.path.display(),
            first.size,
            first.modified,
            now.size,
            now.modified
        ))),
        _ => Ok(Some(now)),
    }
}

/// Makes the overlay, or takes the one of an earlier start, and tells its virtual size. What the
/// operator's image names is judged first: an image with a backing or data file could have the
/// guest read any file of the host.
pub(super) async fn overlay(
    planned: &Planned,
    folder: &VmFolder,
) -> Result<(PathBuf, u64), CreateError> {
    let overlay = folder.path().join(OVERLAY);
    let disk = planned
        .request
        .file_with_role("disk")
        .ok_or(CreateError::DiskMissing)?;
    if let Some(error) = files::missing(disk) {
        return Err(error);
    }
    let image = std::path::absolute(&disk.path).unwrap_or_else(|_| disk.path.clone());
    let size = checked_size(planned, &image).await?;
    let format = planned.live.disk.format.as_str();
    let size = size.saturating_add(planned.live.disk.extra);
    if overlay.exists() {
        return Ok((overlay, size));
    }
    let size_argument = size.to_string();
    let arguments: [&OsStr; 11] = [
        "create".as_ref(),
        "-q".as_ref(),
        "-f".as_ref(),
        "qcow2".as_ref(),
        "-F".as_ref(),
        format.as_ref(),
        "-b".as_ref(),
        image.as_os_str(),
        "--".as_ref(),
        overlay.as_os_str(),
        size_argument.as_ref(),
    ];
    run(&arguments).await?;
    folder.adopt(&overlay)?;
    Ok((overlay, size))
}

/// Virtual size of an image that names no other file.
async fn checked_size(planned: &Planned, image: &Path) -> Result<u64, CreateError> {
    let format = planned.live.disk.format.as_str();
    // Not guessed: a guest that could write to a raw image would choose the format by its bytes.
    let arguments: [&OsStr; 6] = [
        "info".as_ref(),
        "-f".as_ref(),
        format.as_ref(),
        "--output=json".as_ref(),
        "--".as_ref(),
        image.as_os_str(),
    ];
    let output = run(&arguments).await?;
    let info: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| CreateError::Disk(format!("qemu-img answered no JSON: {error}")))?;
    for key in ["backing-filename", "full-backing-filename"] {
        if let Some(backing) = info[key].as_str() {
            return Err(CreateError::Disk(format!(
                "{} has the backing file {:?}, which is not allowed: flatten it with `qemu-img convert`",
                image.display(),
                crate::spec::printable(backing)
            )));
        }
    }
    if let Some(data) = info["format-specific"]["data"]["data-file"].as_str() {
        return Err(CreateError::Disk(format!(
            "{} has the data file {:?}, which is not allowed: make it one file with `qemu-img convert`",
            image.display(),
            crate::spec::printable(data)
        )));
    }
    // QEMU sets the mark where it found its own tables broken, and would read such an image.
    if info["format-specific"]["data"]["corrupt"] == true {
        return Err(CreateError::Disk(format!(
            "{} is marked corrupt: try `qemu-img check -r all` on a copy",
            image.display()
        )));
    }
    info["virtual-size"]
        .as_u64()
        .ok_or_else(|| CreateError::Disk("qemu-img tells no size of the image".to_owned()))
}

async fn run(arguments: &[&OsStr]) -> Result<ToolOutput, CreateError> {
    let tool = Path::new("qemu-img");
    let output = process::run_tool(tool, arguments, &Credentials::Daemon, TOOL_TIME).await?;
    if output.exit == process::Exit::Code(0) {
        Ok(output)
    } else {
        Err(CreateError::Disk(output.stderr))
    }
}
