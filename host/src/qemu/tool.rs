//! Programs that measure beside a backend: an operator allowed the file, maybe by its digest.
//!
//! The file is copied into memory that nobody can write to, the copy is hashed, and the copy runs:
//! as the user that QEMU is probed as where the daemon is root, without an environment, unable to
//! gain rights, and with nothing of the daemon open but what it is to measure.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use sha2::{Digest as _, Sha256};

use super::process::{Credentials, Exit, ToolError, command, finish};

/// Number under which the program itself is opened in its process, above those of its files.
const PROGRAM_FD: i32 = 9;

#[derive(Debug)]
pub struct Tool {
    pub program: PathBuf,
    /// That it has to have, in hexadecimal and small letters.
    pub sha256: Option<String>,
    pub arguments: Vec<OsString>,
    pub descriptors: Vec<(OwnedFd, i32)>,
    pub credentials: Credentials,
    pub limit: Duration,
}

/// Runs it to its end, and returns what it printed. `copy` seals a copy of a file.
pub async fn run(tool: Tool, copy: CopyFile) -> Result<Vec<u8>, ToolError> {
    let Tool {
        program,
        sha256,
        arguments,
        descriptors,
        credentials,
        limit,
    } = tool;
    let opening = program.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let file = copy(&opening)?;
        let digest = digest(&file)?;
        Ok::<_, std::io::Error>((file, digest))
    });
    let opened = opened.await.map_err(std::io::Error::other);
    let (file, actual) = opened
        .and_then(|opened| opened)
        .map_err(|source| ToolError::Output {
            program: program.clone(),
            source,
        })?;
    if let Some(pinned) = sha256.filter(|pinned| actual != *pinned) {
        return Err(ToolError::OtherDigest {
            program,
            pinned,
            actual,
        });
    }
    let path = format!("/proc/self/fd/{PROGRAM_FD}");
    let mut command = command(Path::new(&path), &credentials);
    command.args(arguments);
    let program_fd = [(OwnedFd::from(file), PROGRAM_FD)];
    let mappings = program_fd.into_iter().chain(descriptors);
    let mappings = mappings.map(|(parent_fd, child_fd)| FdMapping {
        parent_fd,
        child_fd,
    });
    command
        .fd_mappings(mappings.collect())
        .map_err(|_| ToolError::Descriptors {
            program: program.clone(),
        })?;
    let output = finish(&program, command, limit).await?;
    match output.exit {
        Exit::Code(0) => Ok(output.stdout),
        exit => Err(ToolError::Failed {
            program,
            exit,
            stderr: output.stderr,
        }),
    }
}

/// Opens a regular file and seals a copy of it.
pub type CopyFile = fn(&Path) -> std::io::Result<std::fs::File>;

fn digest(file: &std::fs::File) -> std::io::Result<String> {
    use std::os::unix::fs::FileExt as _;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset)? {
            0 => break,
            count => {
                hasher.update(&buffer[..count]);
                offset += count as u64;
            }
        }
    }
    Ok(hex::encode(hasher.finalize()))
}
