//! The one place that starts processes: QEMU itself, idle QEMUs for probing, and tools beside them.
//!
//! Every process gets a cleared environment, its own process group, no descriptor but those passed,
//! and the credentials of its VM. Signals go through a pidfd, so that a pid that was reused is
//! never hit.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

/// Where programs are looked up; the daemon's own PATH is not consulted, so that a start by hand
/// and one by systemd find the same QEMU.
const SEARCH_PATH: &str =
    "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin:/usr/libexec";
/// What is kept of a process's stderr: QEMU's own errors have a few lines.
const STDERR_TAIL: usize = 8 << 10;
/// How long a dying process is given to say its last words.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Most output that a tool may produce.
const MAX_TOOL_OUTPUT: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("{program:?} does not start", program = .program.display())]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the process has no pipe")]
    NoPipe,
    #[error("descriptors cannot be passed: {0}")]
    Descriptors(String),
    #[error("the process ended before it could be held")]
    Gone(#[source] io::Error),
}

/// Whom a process runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// The daemon's own user: it has no right to change to another.
    Daemon,
    /// A user of its own, without supplementary groups.
    User { uid: u32, gid: u32 },
}

pub fn search_path() -> &'static str {
    SEARCH_PATH
}

/// Absolute path of `program`, which is a path or a name on the search path.
pub fn locate(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 || program.is_absolute() {
        return std::path::absolute(program)
            .ok()
            .filter(|path| path.is_file());
    }
    SEARCH_PATH
        .split(':')
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
}

/// Evidence that a process is the one that was started, for a daemon that comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    pub pid: u32,
    /// Clock ticks after boot (proc(5), `stat` field 22).
    pub start_time: u64,
    pub boot_id: String,
}

impl ProcessIdentity {
    fn of(pid: u32) -> io::Result<Self> {
        let start_time = start_time(pid)?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
            .trim()
            .to_owned();
        Ok(Self {
            pid,
            start_time,
            boot_id,
        })
    }

    /// Whether such a process is there now. Says nothing about whose it is beyond that.
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == *self)
    }
}

/// Whether any process was started as a QEMU with this `-uuid`, for a VM whose process was not
/// recorded. A client that merely names the VM is none.
pub fn is_uuid_of_a_process(uuid: &str) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return true;
    };
    let needle = format!("-uuid\0{uuid}\0");
    processes.flatten().any(|entry| {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        command
            .windows(needle.len())
            .any(|window| window == needle.as_bytes())
    })
}

fn start_time(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command name, in parentheses, may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next();
    if matches!(state, Some("Z" | "X")) {
        return Err(io::Error::other("the process is dead"));
    }
    fields
        .nth(18)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::other("/proc/PID/stat has another form"))
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl From<std::process::ExitStatus> for Exit {
    fn from(status: std::process::ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, signal) => Self::Signal(signal.unwrap_or(0)),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that starts processes"
)]
fn command(program: &Path, credentials: &Credentials) -> std::process::Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = std::process::Command::new(program);
    command.env_clear().current_dir("/").process_group(0);
    if let Credentials::User { uid, gid } = credentials {
        // With a uid and root's rights, std drops supplementary groups too.
        command.uid(*uid).gid(*gid);
    }
    command
}

fn spawn(program: &Path, mut command: Command) -> Result<Child, SpawnError> {
    command
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| SpawnError::Start {
            program: program.to_owned(),
            source,
        })
}

/// A process that is spoken to over its standard input and output.
pub(super) fn spawn_piped(
    program: &Path,
    arguments: &[&str],
    credentials: &Credentials,
) -> Result<Child, SpawnError> {
    let mut command = command(program, credentials);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    spawn(program, command.into())
}

/// What a process that is going down said on stderr, as a suffix for a message.
pub(super) async fn last_words(child: &mut Child) -> String {
    let mut text = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let mut stderr = stderr.take(STDERR_TAIL as u64);
        let read = stderr.read_to_end(&mut text);
        if tokio::time::timeout(LAST_WORDS, read).await.is_err() {
            tracing::debug!("a probing QEMU did not close its stderr");
        }
    }
    let text = crate::spec::printable(String::from_utf8_lossy(&text).trim());
    if text.is_empty() {
        String::new()
    } else {
        format!("; it said: {text}")
    }
}

/// Outcome of a tool that ran to its end.
#[derive(Debug)]
pub struct ToolOutput {
    pub exit: Exit,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("there is no {program:?} on {SEARCH_PATH}", program = .program.display())]
    NotFound { program: PathBuf },
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error("{program:?} did not end within {} s", .limit.as_secs(), program = .program.display())]
    Timeout { program: PathBuf, limit: Duration },
    #[error("{program:?} cannot be read from", program = .program.display())]
    Output {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Runs a tool such as `qemu-img` to its end, under the same rules as QEMU.
pub async fn run_tool(
    program: &Path,
    arguments: &[&OsStr],
    credentials: &Credentials,
    limit: Duration,
) -> Result<ToolOutput, ToolError> {
    let found = locate(program).ok_or_else(|| ToolError::NotFound {
        program: program.to_owned(),
    })?;
    let mut command = command(&found, credentials);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn(&found, command.into())?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(SpawnError::NoPipe.into());
    };
    let run = async {
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let mut stdout = stdout.take(MAX_TOOL_OUTPUT);
        let mut stderr = stderr.take(STDERR_TAIL as u64);
        tokio::try_join!(
            stdout.read_to_end(&mut output),
            stderr.read_to_end(&mut errors)
        )?;
        let exit = Exit::from(child.wait().await?);
        let stderr = crate::spec::printable(String::from_utf8_lossy(&errors).trim());
        Ok(ToolOutput {
            exit,
            stdout: output,
            stderr,
        })
    };
    match tokio::time::timeout(limit, run).await {
        Ok(result) => result.map_err(|source| ToolError::Output {
            program: found,
            source,
        }),
        Err(_) => Err(ToolError::Timeout {
            program: found,
            limit,
        }),
    }
}

/// A running QEMU. Dropping it kills the process, so that no path after a spawn leaks one.
#[derive(Debug)]
pub struct QemuProcess {
    child: Child,
    pidfd: OwnedFd,
    identity: ProcessIdentity,
    stderr: StderrTail,
    exit: Option<Exit>,
}

impl QemuProcess {
    /// Starts QEMU; `descriptors` are given to it under the numbers that they are listed with.
    pub fn spawn(
        program: &Path,
        arguments: &[String],
        credentials: &Credentials,
        descriptors: Vec<(OwnedFd, i32)>,
    ) -> Result<Self, SpawnError> {
        let mut command = command(program, credentials);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mappings = descriptors
            .into_iter()
            .map(|(parent_fd, child_fd)| FdMapping {
                parent_fd,
                child_fd,
            })
            .collect();
        command
            .fd_mappings(mappings)
            .map_err(|error| SpawnError::Descriptors(error.to_string()))?;
        let mut child = spawn(program, command.into())?;
        let gone = |message: &str| SpawnError::Gone(io::Error::other(message.to_owned()));
        let pid = child.id().ok_or_else(|| gone("no pid"))?;
        // The child is not reaped yet, so this pid cannot be another process's.
        let raw = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| gone("bad pid"))?;
        let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty())
            .map_err(|error| SpawnError::Gone(error.into()))?;
        // A QEMU that ended already is noticed by whoever waits for it; what it was started as is
        // still worth having.
        let identity = ProcessIdentity::of(pid).unwrap_or(ProcessIdentity {
            pid,
            start_time: 0,
            boot_id: String::new(),
        });
        let stderr = StderrTail::follow(child.stderr.take().ok_or(SpawnError::NoPipe)?);
        Ok(Self {
            child,
            pidfd,
            identity,
            stderr,
            exit: None,
        })
    }

    pub fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    /// Waits until the process has ended and is reaped. Cancel-safe, and repeatable.
    pub async fn wait(&mut self) -> Exit {
        if let Some(exit) = self.exit {
            return exit;
        }
        let exit = match self.child.wait().await {
            Ok(status) => Exit::from(status),
            Err(error) => {
                tracing::error!(pid = self.identity.pid, %error, "QEMU cannot be waited for");
                Exit::Signal(0)
            }
        };
        self.exit = Some(exit);
        exit
    }

    /// Sends a signal, if the process is still there.
    pub fn signal(&self, signal: Signal) {
        if self.exit.is_none()
            && let Err(error) = rustix::process::pidfd_send_signal(self.pidfd.as_fd(), signal)
        {
            tracing::debug!(pid = self.identity.pid, %error, "signal not sent");
        }
    }

    /// Ends the process without asking it, and reaps it.
    pub async fn kill(&mut self) -> Exit {
        self.signal(Signal::KILL);
        self.wait().await
    }

    /// The last lines of stderr. To be asked after the end, when all has been read.
    pub async fn last_words(&mut self) -> String {
        self.stderr.finish().await
    }
}

/// Keeps the last part of a stream, whatever its length.
#[derive(Debug)]
struct StderrTail {
    text: Arc<Mutex<Vec<u8>>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl StderrTail {
    fn follow(mut stderr: tokio::process::ChildStderr) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&text);
        let task = tokio::spawn(async move {
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
                let mut text = shared.lock().unwrap_or_else(PoisonError::into_inner);
                text.extend_from_slice(&buffer[..count]);
                let surplus = text.len().saturating_sub(STDERR_TAIL);
                text.drain(..surplus);
            }
        });
        Self {
            text,
            task: Some(task),
        }
    }

    async fn finish(&mut self) -> String {
        if let Some(task) = self.task.take() {
            // Another process may hold the pipe open; the tail read so far is what there is.
            let _ = tokio::time::timeout(LAST_WORDS, task).await;
        }
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text)
            .lines()
            .map(crate::spec::printable)
            .filter(|line| !line.trim().is_empty())
            .collect::<Vec<_>>()
            .join("\n")
    }
}
