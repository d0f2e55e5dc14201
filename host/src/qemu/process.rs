//! The one place that starts processes: the launchers of VMs, idle QEMUs for probing, and tools.
//!
//! Every process gets a cleared environment, its own process group, no descriptor but those passed,
//! and the credentials of its VM. Signals go through a pidfd, so that a pid that was reused is
//! never hit.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::{Pid, PidfdFlags};
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
    #[error(
        "there is no {} beside casemated or in {SEARCH_PATH}",
        casemate_launcher::PROGRAM
    )]
    NoLauncher,
    #[error("descriptors cannot be passed: {0}")]
    Descriptors(String),
    #[error("the launcher cannot be spoken to")]
    Control(#[source] io::Error),
    #[error("the launcher failed at {step}: {error}")]
    Launcher {
        step: casemate_launcher::reply::Step,
        error: String,
        errno: Option<i32>,
    },
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
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        Ok(Self {
            pid,
            start_time: start_time(pid)?,
            boot_id: boot_id(),
        })
    }

    /// Holds this very process, if it is alive. A pid that was reused is not it.
    pub fn hold(&self) -> Option<OwnedFd> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Checked after it was opened: what is held now is what is looked at.
        (Self::of(self.pid).ok()? == *self).then_some(pidfd)
    }

    /// Whether it has given up its memory, its command line with it, and is not gone yet.
    pub fn is_ending(&self) -> bool {
        let command = std::fs::read(format!("/proc/{}/cmdline", self.pid));
        command.is_ok_and(|command| command.is_empty())
    }
}

/// Identity of this boot of the machine (random(4)); empty where the kernel tells none.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// A process and its user: a command line is what anybody can have.
#[derive(Clone, Debug)]
pub struct OwnedProcess {
    pub uid: u32,
    pub identity: ProcessIdentity,
}

/// proc(5), `status`: the owner of the folder is root's for what may not be dumped.
fn real_uid(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    uids.split_ascii_whitespace().next()?.parse().ok()
}

/// Processes that were started with a `-uuid`, by that, as every QEMU of a VM is. A client that
/// merely names a VM is none.
pub fn by_uuid() -> HashMap<String, Vec<OwnedProcess>> {
    let mut found: HashMap<String, Vec<OwnedProcess>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = command.split(|byte| *byte == 0);
        if words.any(|word| word == b"-uuid")
            && let Some(uuid) = words.next().and_then(|word| std::str::from_utf8(word).ok())
            && let Ok(identity) = ProcessIdentity::of(pid)
            && let Some(uid) = real_uid(pid)
        {
            let process = OwnedProcess { uid, identity };
            found.entry(uuid.to_owned()).or_default().push(process);
        }
    }
    found
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
    /// Nobody was there to see it.
    Unknown,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "signal {signal}, {name}"),
                None => write!(f, "signal {signal}"),
            },
            Self::Unknown => f.write_str("exit unknown"),
        }
    }
}

/// Names of signal(7) that a process dies of.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
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
pub(super) fn command(program: &Path, credentials: &Credentials) -> std::process::Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = std::process::Command::new(program);
    command.env_clear().current_dir("/").process_group(0);
    if let Credentials::User { uid, gid } = credentials {
        // With a uid and root's rights, std drops supplementary groups too.
        command.uid(*uid).gid(*gid);
    }
    command
}

/// Starts a process that ends with the daemon, however that ends: QEMU without a machine waits for
/// ever, also when nobody is left who could ask it something.
fn spawn(program: &Path, mut command: std::process::Command) -> Result<Child, SpawnError> {
    use std::os::unix::process::CommandExt as _;
    let daemon = rustix::process::getpid();
    let end_with_daemon = move || {
        // Of the thread that starts it, which is one of the runtime's and outlives a probe. After
        // the change of user, which would undo it.
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        rustix::thread::set_no_new_privs(true)?;
        if rustix::process::getppid() == Some(daemon) {
            Ok(())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    };
    // SAFETY: between fork and exec it makes two system calls, and takes no lock and no memory.
    unsafe { command.pre_exec(end_with_daemon) };
    Command::from(command)
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
    spawn(program, command)
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
    #[error("{program:?} has SHA-256 {actual}, and config pins {pinned}", program = .program.display())]
    OtherDigest {
        program: PathBuf,
        pinned: String,
        actual: String,
    },
    #[error("{program:?} cannot be given its files", program = .program.display())]
    Descriptors { program: PathBuf },
    #[error("{program:?} ended with {exit}: {stderr}", program = .program.display())]
    Failed {
        program: PathBuf,
        exit: Exit,
        stderr: String,
    },
    #[error("{program:?} prints more than {} KiB", MAX_TOOL_OUTPUT >> 10, program = .program.display())]
    TooMuchOutput { program: PathBuf },
    #[error("{program:?} did not end within {} s", .limit.as_secs(), program = .program.display())]
    Timeout { program: PathBuf, limit: Duration },
    #[error("{program:?} cannot be read from", program = .program.display())]
    Output {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Ends all that a tool started. Its number is its own for as long as nobody has waited for the tool.
fn end_group(leader: Option<Pid>) {
    if let Some(group) = leader {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
}

/// Runs a tool such as `qemu-img` to its end, under the same rules as QEMU, with `descriptors` under
/// their numbers and nothing else of the daemon open.
pub async fn run_tool(
    program: &Path,
    arguments: Vec<OsString>,
    descriptors: Vec<(OwnedFd, i32)>,
    credentials: &Credentials,
    limit: Duration,
) -> Result<ToolOutput, ToolError> {
    let found = locate(program).ok_or_else(|| ToolError::NotFound {
        program: program.to_owned(),
    })?;
    let mut command = command(&found, credentials);
    command.args(arguments);
    let mappings = descriptors.into_iter();
    let mappings = mappings.map(|(parent_fd, child_fd)| FdMapping {
        parent_fd,
        child_fd,
    });
    command
        .fd_mappings(mappings.collect())
        .map_err(|_| ToolError::Descriptors {
            program: found.clone(),
        })?;
    finish(&found, command, limit).await
}

/// Starts it and reads what it says until it ends.
pub(super) async fn finish(
    program: &Path,
    mut command: std::process::Command,
    limit: Duration,
) -> Result<ToolOutput, ToolError> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn(program, command)?;
    let group = child.id().and_then(|pid| i32::try_from(pid).ok());
    let group = group.and_then(Pid::from_raw);
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(SpawnError::NoPipe.into());
    };
    let run = async {
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let mut stdout = stdout.take(MAX_TOOL_OUTPUT);
        let mut stderr = stderr.take(STDERR_TAIL as u64);
        let printed = async {
            stdout.read_to_end(&mut output).await?;
            // Whoever prints so much may never stop.
            if output.len() as u64 == MAX_TOOL_OUTPUT {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            Ok(())
        };
        tokio::try_join!(printed, stderr.read_to_end(&mut errors))?;
        let exit = Exit::from(child.wait().await?);
        let stderr = crate::spec::printable(String::from_utf8_lossy(&errors).trim());
        Ok::<_, io::Error>(ToolOutput {
            exit,
            stdout: output,
            stderr,
        })
    };
    let mut run = std::pin::pin!(run);
    let outcome = tokio::time::timeout(limit, &mut run).await;
    // It may go on in both cases, and what it started with it.
    if !matches!(outcome, Ok(Ok(_))) {
        end_group(group);
    }
    match outcome {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) if error.kind() == io::ErrorKind::FileTooLarge => {
            Err(ToolError::TooMuchOutput {
                program: program.to_owned(),
            })
        }
        Ok(Err(source)) => Err(ToolError::Output {
            program: program.to_owned(),
            source,
        }),
        Err(_) => Err(ToolError::Timeout {
            program: program.to_owned(),
            limit,
        }),
    }
}
