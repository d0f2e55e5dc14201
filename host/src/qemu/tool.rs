//! Programs that measure beside a backend: an operator allowed the file, maybe by its digest. What was
//! opened and hashed is what runs, with no rights, no environment and nothing open but its files.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use sha2::{Digest as _, Sha256};

use super::process::{Credentials, Exit, ToolError, command, finish};
use crate::regular_file;

/// Number under which the program itself is opened in its process, above those of its files.
const PROGRAM_FD: i32 = 9;

#[derive(Debug)]
pub struct Tool {
    pub program: PathBuf,
    /// That it has to have, in hexadecimal.
    pub sha256: Option<String>,
    pub arguments: Vec<OsString>,
    pub descriptors: Vec<(OwnedFd, i32)>,
    pub credentials: Credentials,
    pub limit: Duration,
}

/// Runs it to its end, and returns what it printed.
pub async fn run(tool: Tool) -> Result<Vec<u8>, ToolError> {
    let Tool {
        program,
        sha256,
        arguments,
        descriptors,
        credentials,
        limit,
    } = tool;
    let opened = regular_file::open(&program).map_err(|source| ToolError::Output {
        program: program.clone(),
        source,
    })?;
    if let Some(pinned) = sha256 {
        let actual = digest(&program, &opened)?;
        if !actual.eq_ignore_ascii_case(&pinned) {
            return Err(ToolError::OtherDigest {
                program,
                pinned,
                actual,
            });
        }
    }
    let path = format!("/proc/self/fd/{PROGRAM_FD}");
    let mut command = command(Path::new(&path), &credentials);
    command.args(arguments);
    let program_fd = [(OwnedFd::from(opened), PROGRAM_FD)];
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

fn digest(program: &Path, file: &File) -> Result<String, ToolError> {
    let failed = |source| ToolError::Output {
        program: program.to_owned(),
        source,
    };
    let mut file = file.try_clone().map_err(failed)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    let digest = hasher.finalize();
    Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}
