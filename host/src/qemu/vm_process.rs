//! A VM's QEMU and its launcher: started, held, waited for, found again after a restart.
//!
//! The launcher (`casemate-launch`) is QEMU's parent. It drops privileges, keeps console and stderr
//! in capped files, and writes down how QEMU ended, also while no daemon runs. The daemon holds
//! QEMU by a pidfd, whether it started it or an earlier daemon did, so that there is one way to
//! wait and one to signal, and neither can hit another process.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use casemate_launcher::exit;
use casemate_launcher::log::Transcript;
use casemate_launcher::reply::{Enforcement, Reply};
use casemate_launcher::spec::{Caps, KEEP, Landlock, LaunchSpec, Limits, LogFiles, User};
use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

use super::process::{self, Credentials, Exit, ProcessIdentity, SpawnError};

/// First number of the launcher's own descriptors, above those that QEMU gets.
const FIRST_LAUNCHER_FD: i32 = 200;
/// Open files of a QEMU: disks, vhost queues and connections of the guest take some hundreds.
const OPEN_FILES: u64 = 16_384;
/// Processes and threads of a VM's user: vCPUs, I/O threads, the launcher.
const PROCESSES: u64 = 4_096;
/// What is kept of stderr: QEMU's own errors have a few lines.
const STDERR_HEAD: u64 = 8 << 10;
const STDERR_TAIL: u64 = 8 << 10;
/// A launcher answers within milliseconds; QEMU's program may come from a slow disk.
const LAUNCHER_TIME: Duration = Duration::from_secs(30);
/// How long a launcher may take to write down how QEMU ended: it drains two pipes.
const EXIT_TIME: Duration = Duration::from_secs(5);

/// Files that a launcher writes for one start of a VM.
#[derive(Debug)]
pub struct LogSet {
    pub console_head: File,
    pub console_tail: File,
    pub stderr_head: File,
    pub stderr_tail: File,
    pub exit: File,
}

/// What a QEMU is started as.
#[derive(Debug)]
pub struct Launch<'a> {
    pub program: &'a Path,
    pub arguments: &'a [String],
    pub credentials: &'a Credentials,
    /// Beside the user's own group.
    pub groups: Vec<u32>,
    /// Given to QEMU under the numbers that they are listed with.
    pub descriptors: Vec<(OwnedFd, i32)>,
    /// Number of the console's pipe in QEMU.
    pub console_fd: i32,
    /// Bytes of the console that are kept, of its begin and of its end each.
    pub console_cap: u64,
    /// Bytes of the longest file that QEMU may write.
    pub file_size: u64,
    pub landlock: Option<Landlock>,
}

/// A launcher that waits for its orders: it may be put into its cgroup before QEMU exists.
#[derive(Debug)]
pub struct Launcher {
    child: Child,
    control: UnixStream,
    identity: ProcessIdentity,
    spec: LaunchSpec,
    logs: LogSet,
}

impl Launcher {
    pub fn spawn(launch: Launch<'_>, logs: LogSet) -> Result<Self, SpawnError> {
        let program = locate().ok_or(SpawnError::NoLauncher)?;
        let (control, theirs) = UnixStream::pair().map_err(SpawnError::Control)?;
        // The launcher is root as long as the daemon is; it changes to the VM's user itself.
        let mut command = process::command(&program, &Credentials::Daemon);
        command
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut numbers = FIRST_LAUNCHER_FD..;
        let mut mappings = Vec::new();
        let mut pass = |file: &File| -> Result<i32, SpawnError> {
            let child_fd = numbers.next().unwrap_or(FIRST_LAUNCHER_FD);
            let parent_fd = file.try_clone().map_err(SpawnError::Control)?.into();
            mappings.push(FdMapping {
                parent_fd,
                child_fd,
            });
            Ok(child_fd)
        };
        let console = LogFiles {
            head: pass(&logs.console_head)?,
            tail: pass(&logs.console_tail)?,
        };
        let stderr = LogFiles {
            head: pass(&logs.stderr_head)?,
            tail: pass(&logs.stderr_tail)?,
        };
        let exit = pass(&logs.exit)?;
        let descriptors = launch.descriptors.iter().map(|(_, number)| *number);
        let spec = LaunchSpec {
            program: launch.program.to_owned(),
            arguments: launch.arguments.to_vec(),
            user: match launch.credentials {
                Credentials::Daemon => None,
                Credentials::User { uid, gid } => Some(User {
                    uid: *uid,
                    gid: *gid,
                    groups: launch.groups,
                }),
            },
            descriptors: descriptors.collect(),
            console,
            stderr,
            exit,
            console_fd: launch.console_fd,
            caps: Caps {
                console_head: launch.console_cap,
                console_tail: launch.console_cap,
                stderr_head: STDERR_HEAD,
                stderr_tail: STDERR_TAIL,
            },
            limits: Limits {
                open_files: OPEN_FILES,
                processes: match launch.credentials {
                    // The daemon's own user has other processes.
                    Credentials::Daemon => None,
                    Credentials::User { .. } => Some(PROCESSES),
                },
                locked_memory: None,
                file_size: Some(launch.file_size),
            },
            landlock: launch.landlock,
        };
        for (parent_fd, child_fd) in launch.descriptors {
            mappings.push(FdMapping {
                parent_fd,
                child_fd,
            });
        }
        command
            .fd_mappings(mappings)
            .map_err(|error| SpawnError::Descriptors(error.to_string()))?;
        // It outlives its handle: a daemon that ends lets go of it.
        let child = tokio::process::Command::from(command)
            .spawn()
            .map_err(|source| SpawnError::Start { program, source })?;
        let pid = child.id().ok_or_else(|| gone("no pid"))?;
        // Not reaped yet, so the pid is its own.
        let identity = ProcessIdentity::of(pid).map_err(SpawnError::Gone)?;
        control.set_nonblocking(true).map_err(SpawnError::Control)?;
        Ok(Self {
            child,
            control,
            identity,
            spec,
            logs,
        })
    }

    pub fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    /// Ends a launcher that is not needed after all.
    pub async fn give_up(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "the launcher cannot be ended");
        }
    }

    /// Has QEMU started. A launcher that fails or does not answer is gone when this returns.
    pub async fn start(self) -> Result<QemuProcess, SpawnError> {
        let mut line = serde_json::to_vec(&self.spec)
            .map_err(|error| SpawnError::Control(io::Error::other(error)))?;
        line.push(b'\n');
        let control = watched(self.control).map_err(SpawnError::Control)?;
        let exchange = async {
            let mut rest = &line[..];
            while !rest.is_empty() {
                let written = control
                    .async_io(Interest::WRITABLE, |mut control| control.write(rest))
                    .await?;
                rest = &rest[written..];
            }
            control
                .async_io(Interest::READABLE, |control| Reply::receive(control))
                .await
        };
        let answer = tokio::time::timeout(LAUNCHER_TIME, exchange).await;
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let (reply, pidfd) = answer.map_err(SpawnError::Control)?;
        let (started, pidfd) = match (reply, pidfd) {
            (Reply::Started(started), Some(pidfd)) => (started, pidfd),
            (Reply::Started(_), None) => return Err(gone("no pidfd")),
            (Reply::Failed(failed), _) => {
                return Err(SpawnError::Launcher {
                    step: failed.step,
                    error: crate::spec::printable(&failed.error),
                    errno: failed.errno,
                });
            }
        };
        // A QEMU that ended already is noticed by whoever waits for it; what it was started as is
        // still worth having.
        let identity = ProcessIdentity::of(started.pid).unwrap_or(ProcessIdentity {
            pid: started.pid,
            start_time: 0,
            boot_id: String::new(),
        });
        Ok(QemuProcess {
            pidfd: watched(pidfd).map_err(SpawnError::Control)?,
            identity,
            launcher: HeldLauncher::Child {
                child: self.child,
                identity: self.identity,
            },
            control: Some(control.into_inner()),
            sandbox: Some(started.landlock),
            logs: Some(self.logs),
            exit: None,
            launcher_due: None,
            ends_with_daemon: true,
        })
    }
}

/// A descriptor that the runtime waits for.
fn watched<T: OwnsDescriptor>(descriptor: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: those types own their descriptor and never change it, and an `AsyncFd` owns them: it
    // stays open and the same for as long.
    unsafe { AsyncFd::register(descriptor) }.map_err(io::Error::from)
}

/// What keeps one descriptor open for as long as it lives.
trait OwnsDescriptor: AsRawFd {}
impl OwnsDescriptor for OwnedFd {}
impl OwnsDescriptor for UnixStream {}

fn gone(message: &str) -> SpawnError {
    SpawnError::Gone(io::Error::other(message.to_owned()))
}

/// The launcher's program: the one that was installed with this daemon, before any other.
fn locate() -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    let beside = own
        .as_deref()
        .and_then(Path::parent)
        .map(|folder| folder.join(casemate_launcher::PROGRAM));
    beside
        .filter(|path| path.is_file())
        .or_else(|| process::locate(Path::new(casemate_launcher::PROGRAM)))
        .or_else(|| {
            let installed = Path::new("/usr/libexec/casemate").join(casemate_launcher::PROGRAM);
            installed.is_file().then_some(installed)
        })
}

#[derive(Debug)]
enum HeldLauncher {
    /// Started by this daemon, which reaps it.
    Child {
        child: Child,
        identity: ProcessIdentity,
    },
    /// Started by an earlier daemon; it is alive.
    Adopted {
        pidfd: AsyncFd<OwnedFd>,
        identity: ProcessIdentity,
    },
    /// None, or gone.
    Absent,
}

/// A running QEMU. Dropping it kills the process, so that no path after a spawn leaks one, until
/// the VM is committed to; from then on dropping it lets go of it.
#[derive(Debug)]
pub struct QemuProcess {
    pidfd: AsyncFd<OwnedFd>,
    identity: ProcessIdentity,
    launcher: HeldLauncher,
    control: Option<UnixStream>,
    sandbox: Option<Enforcement>,
    logs: Option<LogSet>,
    exit: Option<Exit>,
    /// When a launcher that outlives QEMU is ended.
    launcher_due: Option<tokio::time::Instant>,
    ends_with_daemon: bool,
}

impl QemuProcess {
    /// Takes over a QEMU of an earlier daemon, which `pidfd` holds. It outlives this daemon too.
    pub fn adopt(
        identity: ProcessIdentity,
        pidfd: OwnedFd,
        launcher: Option<&ProcessIdentity>,
        logs: Option<LogSet>,
    ) -> io::Result<Self> {
        let held = launcher.and_then(|identity| Some((identity.hold()?, identity.clone())));
        Ok(Self {
            pidfd: watched(pidfd)?,
            identity,
            launcher: match held {
                Some((pidfd, identity)) => HeldLauncher::Adopted {
                    pidfd: watched(pidfd)?,
                    identity,
                },
                None => HeldLauncher::Absent,
            },
            control: None,
            sandbox: None,
            logs,
            exit: None,
            launcher_due: None,
            ends_with_daemon: false,
        })
    }

    pub fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    pub fn launcher_identity(&self) -> Option<&ProcessIdentity> {
        match &self.launcher {
            HeldLauncher::Child { identity, .. } | HeldLauncher::Adopted { identity, .. } => {
                Some(identity)
            }
            HeldLauncher::Absent => None,
        }
    }

    /// How much of the file system is closed to it.
    pub fn sandbox(&self) -> Option<Enforcement> {
        self.sandbox
    }

    /// From now on QEMU outlives the daemon, however that ends. Until then it ends with it.
    pub fn commit(&mut self) -> io::Result<()> {
        if let Some(mut control) = self.control.take() {
            control.write_all(format!("{KEEP}\n").as_bytes())?;
        }
        self.ends_with_daemon = false;
        Ok(())
    }

    /// Waits until the process has ended and its launcher has written down how. Cancel-safe, and
    /// repeatable.
    pub async fn wait(&mut self) -> Exit {
        if let Some(exit) = self.exit {
            return exit;
        }
        // A pidfd is readable from the end of its process on.
        if let Err(error) = self.pidfd.readable().await {
            tracing::error!(pid = self.identity.pid, %error, "QEMU cannot be waited for");
        }
        // Kept over calls: whoever waits is interrupted by requests.
        let due = *self
            .launcher_due
            .get_or_insert_with(|| tokio::time::Instant::now() + EXIT_TIME);
        if tokio::time::timeout_at(due, self.launcher.ended())
            .await
            .is_err()
        {
            // It has QEMU's user, and a QEMU that was taken over may have stopped it.
            tracing::warn!(pid = self.identity.pid, "its launcher does not end: killed");
            self.launcher.kill();
            self.launcher.ended().await;
        }
        let exit = match &self.logs {
            Some(logs) => recorded_exit(&logs.exit),
            None => Exit::Unknown,
        };
        self.exit = Some(exit);
        exit
    }

    /// Sends a signal, if the process is still there.
    pub fn signal(&self, signal: Signal) {
        if self.exit.is_none()
            && let Err(error) =
                rustix::process::pidfd_send_signal(self.pidfd.get_ref().as_fd(), signal)
        {
            tracing::debug!(pid = self.identity.pid, %error, "signal not sent");
        }
    }

    /// Ends the process without asking it, and waits for it.
    pub async fn kill(&mut self) -> Exit {
        self.signal(Signal::KILL);
        self.wait().await
    }

    /// The last lines of stderr. To be asked after the end, when all has been read.
    pub fn last_words(&self) -> String {
        self.logs.as_ref().map(last_words).unwrap_or_default()
    }
}

impl Drop for QemuProcess {
    fn drop(&mut self) {
        if self.ends_with_daemon {
            self.signal(Signal::KILL);
        }
    }
}

impl HeldLauncher {
    fn kill(&mut self) {
        let killed = match self {
            Self::Child { child, .. } => child.start_kill(),
            Self::Adopted { pidfd, .. } => {
                rustix::process::pidfd_send_signal(pidfd.get_ref().as_fd(), Signal::KILL)
                    .map_err(io::Error::from)
            }
            Self::Absent => Ok(()),
        };
        if let Err(error) = killed {
            tracing::warn!(%error, "the launcher cannot be killed");
        }
    }

    async fn ended(&mut self) {
        match self {
            Self::Child { child, .. } => {
                if let Err(error) = child.wait().await {
                    tracing::warn!(%error, "the launcher cannot be waited for");
                }
            }
            Self::Adopted { pidfd, .. } => drop(pidfd.readable().await),
            Self::Absent => {}
        }
    }
}

/// How QEMU ended, as its launcher saw it.
pub fn recorded_exit(file: &File) -> Exit {
    match exit::Exit::read(file) {
        Ok(Some(exit)) => match (exit.code, exit.signal) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Unknown,
        },
        Ok(None) => Exit::Unknown,
        Err(error) => {
            tracing::warn!(%error, "how QEMU ended cannot be read");
            Exit::Unknown
        }
    }
}

/// Whether its launcher ended this QEMU because the daemon was gone before it had committed to it.
pub fn is_abandoned(file: &File) -> bool {
    exit::Exit::read(file).is_ok_and(|exit| exit.is_some_and(|exit| exit.abandoned))
}

fn last_words(logs: &LogSet) -> String {
    let bytes = match Transcript::read(&logs.stderr_head, &logs.stderr_tail) {
        Ok(transcript) => [transcript.head, transcript.tail].concat(),
        Err(error) => {
            tracing::warn!(%error, "QEMU's stderr cannot be read");
            return String::new();
        }
    };
    let surplus = bytes.len().saturating_sub(STDERR_TAIL as usize);
    String::from_utf8_lossy(&bytes[surplus..])
        .lines()
        .map(crate::spec::printable)
        .filter(|line| !line.trim().is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}
