//! Starts a launcher as the daemon does, and looks at what it left.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use casemate_launcher::exit::Exit;
use casemate_launcher::log::Transcript;
use casemate_launcher::reply::{Failed, Reply, Started};
use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A shell takes numbers of one digit only.
pub(crate) const CONSOLE: i32 = 9;
pub(crate) const CONSOLE_FILES: [i32; 2] = [20, 21];
pub(crate) const STDERR_FILES: [i32; 2] = [22, 23];
pub(crate) const EXIT_FILE: i32 = 24;
/// What the launcher is called where it is started as another user.
const STAGED: &str = "casemate-launch";
/// A user that nothing else on the machine runs as.
pub(crate) const UID: u32 = 61_234;
/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether this is root, and a word for the log when it is not.
pub(crate) fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: {test}: only root can give another user to a process");
    }
    root
}

/// Waits until `done` yields something.
pub(crate) fn eventually<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A launch to be made: the spec and what is inherited.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) spec: Value,
    pub(crate) files: Files,
    /// Inherited under these numbers, beside the launcher's own files.
    pub(crate) inherited: Vec<(OwnedFd, i32)>,
    /// Whom the launcher itself is started as.
    pub(crate) as_user: Option<u32>,
}

/// The launcher's files, as the daemon holds them.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) console: [File; 2],
    pub(crate) stderr: [File; 2],
    pub(crate) exit: File,
}

impl Files {
    /// Files without a name, in `folder`.
    pub(crate) fn below(folder: &Path) -> Self {
        let file = || tempfile::tempfile_in(folder).unwrap();
        Self {
            console: [file(), file()],
            stderr: [file(), file()],
            exit: file(),
        }
    }

    pub(crate) fn console(&self) -> Transcript {
        Transcript::read(&self.console[0], &self.console[1]).unwrap()
    }

    /// The console of a child that did not say much.
    pub(crate) fn console_text(&self) -> String {
        String::from_utf8(self.console().head).unwrap()
    }

    pub(crate) fn stderr_text(&self) -> String {
        let transcript = Transcript::read(&self.stderr[0], &self.stderr[1]).unwrap();
        String::from_utf8(transcript.head).unwrap()
    }
}

/// A folder in which every user may start the program.
fn staged(program: &Path) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path(), open).unwrap();
    let place = folder.path().join(STAGED);
    std::fs::copy(program, &place).unwrap();
    folder
}

impl Launch {
    pub(crate) fn new(program: &str, arguments: &[&str]) -> Self {
        let spec = json!({
            "program": program,
            "arguments": arguments,
            "user": null,
            "descriptors": [],
            "console": {"head": CONSOLE_FILES[0], "tail": CONSOLE_FILES[1]},
            "stderr": {"head": STDERR_FILES[0], "tail": STDERR_FILES[1]},
            "exit": EXIT_FILE,
            "console_fd": CONSOLE,
            "caps": {
                "console_head": 16 << 10, "console_tail": 64 << 10,
                "stderr_head": 4 << 10, "stderr_tail": 8 << 10,
            },
            "limits": {"open_files": 512, "processes": null, "locked_memory": null},
            "landlock": null,
        });
        Self {
            spec,
            files: Files::below(&std::env::temp_dir()),
            inherited: Vec::new(),
            as_user: None,
        }
    }

    pub(crate) fn shell(script: &str) -> Self {
        Self::new("/bin/sh", &["-c", script])
    }

    pub(crate) fn set(mut self, pointer: &str, value: Value) -> Self {
        *self.spec.pointer_mut(pointer).expect("it is in the spec") = value;
        self
    }

    /// Starts the launcher, which waits for its spec.
    pub(crate) fn start(self) -> Launcher {
        let (control, theirs) = UnixStream::pair().unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        let files = &self.files;
        let own = [
            (&files.console[0], CONSOLE_FILES[0]),
            (&files.console[1], CONSOLE_FILES[1]),
            (&files.stderr[0], STDERR_FILES[0]),
            (&files.stderr[1], STDERR_FILES[1]),
            (&files.exit, EXIT_FILE),
        ];
        let mut mappings: Vec<_> = own
            .into_iter()
            .map(|(file, child_fd)| FdMapping {
                parent_fd: file.as_fd().try_clone_to_owned().unwrap(),
                child_fd,
            })
            .collect();
        mappings.extend(
            self.inherited
                .into_iter()
                .map(|(parent_fd, child_fd)| FdMapping {
                    parent_fd,
                    child_fd,
                }),
        );
        let built = Path::new(env!("CARGO_BIN_EXE_casemate-launch"));
        // The folder of the build may be closed to other users. What has been started needs no name.
        let staged = self.as_user.map(|_| staged(built));
        let program = staged
            .as_ref()
            .map_or(built.to_owned(), |folder| folder.path().join(STAGED));
        let mut command = Command::new(program);
        command
            .env("SECRET_OF_THE_DAEMON", "1")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .fd_mappings(mappings)
            .unwrap();
        if let Some(uid) = self.as_user {
            for (file, _) in own {
                std::os::unix::fs::fchown(file, Some(uid), Some(uid)).unwrap();
            }
            command.uid(uid).gid(uid);
        }
        Launcher {
            // A process that another test is starting may have the copy open for writing.
            process: eventually("a start", || match command.spawn() {
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => None,
                started => Some(started.unwrap()),
            }),
            control: Some(control),
            files: self.files,
            pidfd: None,
        }
    }

    /// Starts the launcher and hands it its spec.
    pub(crate) fn send(self) -> Launcher {
        let line = format!("{}\n", self.spec);
        let mut launcher = self.start();
        launcher.say(&line);
        launcher
    }

    /// Starts a child and keeps it.
    pub(crate) fn run(self) -> Running {
        let mut launcher = self.send();
        let started = launcher.started();
        launcher.say("keep\n");
        Running { launcher, started }
    }

    /// Runs a child to its end.
    pub(crate) fn run_to_the_end(self) -> (Exit, Files) {
        let mut running = self.run();
        let exit = running.launcher.exit();
        let files = Files::below(&std::env::temp_dir());
        (exit, std::mem::replace(&mut running.launcher.files, files))
    }
}

/// A launcher whose child was kept.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) launcher: Launcher,
    pub(crate) started: Started,
}

/// A launcher. Its end is the end of its child, too.
#[derive(Debug)]
pub(crate) struct Launcher {
    pub(crate) process: Child,
    pub(crate) control: Option<UnixStream>,
    pub(crate) files: Files,
    pub(crate) pidfd: Option<OwnedFd>,
}

impl Launcher {
    pub(crate) fn say(&mut self, words: &str) {
        let control = self.control.as_mut().expect("not hung up");
        // A launcher that refuses a spec may be gone before it has heard all of it.
        let _ = control.write_all(words.as_bytes());
    }

    pub(crate) fn started(&mut self) -> Started {
        match Reply::receive(self.control.as_ref().unwrap()).unwrap() {
            (Reply::Started(started), Some(pidfd)) => {
                self.pidfd = Some(pidfd);
                started
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn failed(mut self) -> Failed {
        let (reply, pidfd) = Reply::receive(self.control.as_ref().unwrap()).unwrap();
        assert!(pidfd.is_none());
        // It ends by itself, and nothing more comes.
        assert_eq!(self.process.wait().unwrap().code(), Some(1));
        let mut rest = Vec::new();
        let read = self.control.as_mut().unwrap().read_to_end(&mut rest);
        // Words that it did not read make a reset of the end.
        assert!(read.map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |_| true));
        assert!(rest.is_empty());
        assert_eq!(Exit::read(&self.files.exit).unwrap(), None);
        match reply {
            Reply::Failed(failed) => failed,
            Reply::Started(started) => panic!("{started:?}"),
        }
    }

    /// Waits for the launcher's end, and reads what it wrote down.
    pub(crate) fn exit(&mut self) -> Exit {
        let status = eventually("the launcher's end", || self.process.try_wait().unwrap());
        assert_eq!(status.code(), Some(0));
        Exit::read(&self.files.exit)
            .unwrap()
            .expect("it is written")
    }

    pub(crate) fn signal_child(&self, signal: Signal) {
        rustix::process::pidfd_send_signal(self.pidfd.as_ref().unwrap(), signal).unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.pidfd {
            let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A field of `/proc/PID/status`.
pub(crate) fn status(pid: u32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no {field} in {status}"))
        .trim()
        .to_owned()
}

pub(crate) fn descriptors(pid: u32) -> BTreeSet<i32> {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .file_name()
                .to_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect()
}

/// Soft and hard limit of that name.
pub(crate) fn limit(pid: u32, name: &str) -> [String; 2] {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix(name));
    let mut words = line.unwrap().split_whitespace();
    [words.next().unwrap().into(), words.next().unwrap().into()]
}
