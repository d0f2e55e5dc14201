//! Programs that are run: their output to a log, their end awaited, Ctrl-C passed on.
//!
//! Each program leads its own process group, so that a terminal's Ctrl-C reaches only us, and so
//! that a stop reaches all of what it started (Cargo's compilers among them).

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::interrupt::Interrupted;
use crate::report::Step;
use crate::run::Run;

/// How long a program that was asked to stop may take before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// What of a log is shown when its program failed: enough for a compiler's last error.
const TAIL_LINES: usize = 25;
/// Upper bound of what is read back of a log; a line of it is shown, and a tail after failure.
const TAIL_BYTES: u64 = 16 * 1024;
/// A log that has grown beyond this is begun anew: only recent runs are ever of interest.
const LOG_LIMIT: u64 = 4 * 1024 * 1024;

/// What Ctrl-C means to a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenInterrupted {
    /// It is stopped.
    Stop,
    /// It runs to its end, because half of its work is worse than none: dpkg configuring packages.
    Finish,
}

/// The only place that makes a [`Command`].
#[expect(
    clippy::disallowed_methods,
    reason = "the rule is the daemon's; starting programs is what this crate does"
)]
pub fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.stdin(Stdio::null());
    command
}

/// Runs a program with its output in `log` and its last line shown in `step`.
pub fn run(run: &Run, step: &mut Step<'_>, command: &mut Command, log: &Path) -> Result<()> {
    run_and_on_interrupt(run, step, command, log, WhenInterrupted::Stop)
}

pub fn run_and_on_interrupt(
    run: &Run,
    step: &mut Step<'_>,
    command: &mut Command,
    log: &Path,
    when_interrupted: WhenInterrupted,
) -> Result<()> {
    run.interrupt.check()?;
    let name = name_of(command);
    let output = LogFile::append(log, command)?;
    command
        .stdout(output.duplicate()?)
        .stderr(output.duplicate()?);
    let mut child = ProcessGroup::start(command)?;
    let status = loop {
        if let Some(status) = child.poll()? {
            break status;
        }
        match (run.interrupt.pause(), when_interrupted) {
            (Ok(()), _) => {}
            (Err(_), WhenInterrupted::Finish) => {
                step.progress(&format!("stopping once {name} has finished"));
                child.wait()?;
                return Err(Interrupted.into());
            }
            (Err(interrupted), WhenInterrupted::Stop) => {
                child.stop(STOP_DEADLINE);
                return Err(interrupted.into());
            }
        }
        if let Some(line) = output.last_line() {
            step.progress(&line);
        }
    };
    // A program may see the signal before our flag is read; its complaint is not the news then.
    run.interrupt.check()?;
    if !status.success() {
        bail!(
            "{name} ended with {status}; last lines of {}:\n{}",
            log.display(),
            output.tail()
        );
    }
    Ok(())
}

/// Runs a program that takes a moment and returns what it printed.
pub fn capture(run: &Run, command: &mut Command) -> Result<String> {
    run.interrupt.check()?;
    let name = name_of(command);
    let output = command
        .process_group(0)
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    run.interrupt.check()?;
    if !output.status.success() {
        bail!(
            "{name} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout).with_context(|| format!("{name} printed no text"))
}

/// Whether a program of this name is on the search path.
pub fn is_on_path(name: &str) -> bool {
    find_on_path(name).is_some()
}

/// Where a program lies. The folders of system programs count, whether or not they are listed.
pub fn find_on_path(name: &str) -> Option<PathBuf> {
    let listed = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&listed)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn name_of(command: &Command) -> String {
    Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy()
        .into_owned()
}

/// A running program and what it started. Dropped, all of it is ended.
#[derive(Debug)]
pub struct ProcessGroup {
    child: Child,
    ended: Option<ExitStatus>,
}

impl ProcessGroup {
    pub fn start(command: &mut Command) -> Result<Self> {
        let name = name_of(command);
        let child = command
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, ended: None })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the program says, once, where its output is a pipe.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// How the program ended, if it did.
    pub fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().context("cannot wait for a child")?;
        }
        Ok(self.ended)
    }

    pub fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.child.wait().context("cannot wait for a child")?;
        self.ended = Some(status);
        Ok(status)
    }

    /// Waits for a program whose output goes straight to the terminal; its exit code. Interrupted,
    /// it gets `deadline` to end by itself what it has started.
    pub fn exit_code(mut self, run: &Run, deadline: Duration) -> Result<u8> {
        loop {
            if let Some(status) = self.poll()? {
                // A signal ended it where there is no code; that is a failure like any other.
                let code = status.code().and_then(|code| u8::try_from(code).ok());
                return Ok(code.unwrap_or(1));
            }
            if let Err(interrupted) = run.interrupt.pause() {
                self.stop(deadline);
                return Err(interrupted.into());
            }
        }
    }

    /// Asks only the program itself to end: one that cleans up needs its children for that.
    pub fn ask_to_end(&self) {
        if let (None, Some(pid)) = (self.ended, Pid::from_raw(self.pid().cast_signed())) {
            // One that ended a moment ago is what is wanted.
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
    }

    /// Waits until `deadline` has passed; says how the program ended, if it did.
    pub fn wait_at_most(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            if let Ok(Some(status)) = self.poll() {
                return Some(status);
            }
            if Instant::now() >= end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGTERM to the whole group, and SIGKILL to what is left after `deadline`.
    pub fn stop(&mut self, deadline: Duration) {
        if self.ended.is_none() {
            self.signal_group(Signal::TERM);
            self.wait_at_most(deadline);
        }
        self.kill();
    }

    /// SIGKILL to the program alone, as a crash of it would be; what it started lives on.
    pub fn kill_leader(&mut self) -> Result<()> {
        if self.ended.is_none() {
            self.child.kill().context("cannot kill a child")?;
            self.wait()?;
        }
        Ok(())
    }

    fn kill(&mut self) {
        // The group outlives its leader while any member is left.
        self.signal_group(Signal::KILL);
        if self.ended.is_none() {
            // SIGKILL cannot be refused, so this wait is short.
            let _ = self.wait();
        }
    }

    /// Lets the program live on after this value is gone.
    pub fn leave_running(mut self) {
        self.ended = Some(ExitStatus::default());
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(group) = Pid::from_raw(self.pid().cast_signed()) {
            // A group without members is what is wanted.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.stop(STOP_DEADLINE);
        }
    }
}

/// A log that programs append to, and where the present one began.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    path: PathBuf,
    begin: u64,
}

impl LogFile {
    /// Opens a log and writes the command into it.
    pub fn append(path: &Path, command: &Command) -> Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        if length > LOG_LIMIT {
            file.set_len(0)
                .with_context(|| format!("cannot empty {}", path.display()))?;
        }
        writeln!(file, "\n$ {command:?}")
            .with_context(|| format!("cannot write to {}", path.display()))?;
        let begin = file
            .seek(SeekFrom::End(0))
            .with_context(|| format!("cannot measure {}", path.display()))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            begin,
        })
    }

    pub fn duplicate(&self) -> Result<File> {
        self.file
            .try_clone()
            .with_context(|| format!("cannot duplicate {}", self.path.display()))
    }

    /// The last lines that were written since the log was opened here.
    pub fn tail(&self) -> String {
        let text = self.end_of_log();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        lines[from..].join("\n")
    }

    fn last_line(&self) -> Option<String> {
        let text = self.end_of_log();
        let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
        Some(line.trim().chars().filter(|c| !c.is_control()).collect())
    }

    /// Read through a handle of its own: the writers share the other one's position.
    fn end_of_log(&self) -> String {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            let length = file.seek(SeekFrom::End(0))?;
            let from = self.begin.max(length.saturating_sub(TAIL_BYTES));
            file.seek(SeekFrom::Start(from))?;
            file.take(TAIL_BYTES).read_to_end(&mut bytes)
        });
        match read {
            Ok(_) => String::from_utf8_lossy(&bytes).replace('\r', "\n"),
            Err(_) => String::new(),
        }
    }
}
