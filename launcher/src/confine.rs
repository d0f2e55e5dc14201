//! The second stage: QEMU-to-be. Restricts itself and becomes QEMU.
//!
//! What it is to do is on standard input, a file in memory. What it has to say goes to standard
//! output, a pipe that the program's execution closes: a pipe that ends after the first line is a
//! QEMU that runs.

use std::fs::File;
use std::io::{self, BufRead as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use casemate_launcher::PROGRAM;
use casemate_launcher::reply::{Enforcement, Failed, MAX_REPLY, Step};
use casemate_launcher::spec::Landlock;
use landlock::{
    ABI, Access as _, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{CONFINE, descriptors};

/// What of Landlock is asked for, at most: the newest that this was tried with. Connections over
/// TCP are left to the VM's cgroup, whose filter knows addresses; Landlock knows ports only.
const LANDLOCK: ABI = ABI::V6;
/// This program, also when its file was replaced by an upgrade, and wherever its folder is closed
/// to the user that it became.
const SELF: &str = "/proc/self/exe";

/// What the second stage is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) landlock: Option<Landlock>,
}

/// What it has to say.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    Confined(Enforcement),
    Failed(Failed),
}

/// Why there is no QEMU, as the first stage sees it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("no process for QEMU can be started")]
    Spawn(#[from] io::Error),
    #[error("the process for QEMU ended before it was QEMU")]
    Silent,
    #[error("{}", .0.error)]
    Stage(Failed),
}

/// The child that is to be QEMU; its stderr is a pipe.
#[expect(
    clippy::disallowed_methods,
    reason = "the launcher is a program of its own, and this is its one child"
)]
pub(crate) fn spawn(task: &Task) -> io::Result<Child> {
    let mut input = File::from(rustix::fs::memfd_create(PROGRAM, MemfdFlags::CLOEXEC)?);
    serde_json::to_writer(io::BufWriter::new(&input), task)?;
    io::Seek::rewind(&mut input)?;
    Command::new(SELF)
        .arg0(PROGRAM)
        .arg(CONFINE)
        .env_clear()
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// Waits until the child is QEMU.
pub(crate) fn wait_for_exec(child: &mut Child) -> Result<Enforcement, StartError> {
    let output = child.stdout.take().ok_or(StartError::Silent)?;
    // Two lines, each of which has a bounded text.
    let output = io::Read::take(output, 2 * MAX_REPLY as u64);
    let mut enforcement = None;
    for line in io::BufReader::new(output).split(b'\n') {
        match serde_json::from_slice(&line?).map_err(io::Error::from)? {
            Report::Confined(enforced) => enforcement = Some(enforced),
            Report::Failed(failed) => return Err(StartError::Stage(failed)),
        }
    }
    enforcement.ok_or(StartError::Silent)
}

pub(crate) fn run() -> ExitCode {
    // The standard output of QEMU is another; this copy is closed by exec.
    let Ok(mut report) = io::stdout().as_fd().try_clone_to_owned().map(File::from) else {
        return ExitCode::FAILURE;
    };
    let Err(failed) = become_qemu(&report);
    // Without a reader there is nobody left to be told.
    let _ = say(&mut report, &Report::Failed(failed));
    ExitCode::FAILURE
}

fn say(mut report: impl io::Write, what: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    report.write_all(&line)
}

#[expect(
    clippy::disallowed_methods,
    reason = "this process becomes QEMU; it starts none"
)]
fn become_qemu(report: &File) -> Result<std::convert::Infallible, Failed> {
    let spawn = |error: io::Error| Failed::new(Step::Spawn, &error);
    // A session of its own is also a process group of its own.
    rustix::process::setsid().map_err(|error| spawn(error.into()))?;
    let task: Task =
        serde_json::from_reader(io::stdin().lock()).map_err(|error| spawn(error.into()))?;
    let enforcement = match &task.landlock {
        Some(landlock) => {
            restrict(landlock).map_err(|error| Failed::new(Step::Landlock, &error))?
        }
        None => Enforcement::NotAsked,
    };
    say(report, &Report::Confined(enforcement)).map_err(spawn)?;
    let error = Command::new(&task.program)
        .args(&task.arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .exec();
    Err(Failed::new(Step::Exec, &error))
}

fn restrict(landlock: &Landlock) -> Result<Enforcement, RulesetError> {
    let all = AccessFs::from_all(LANDLOCK);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // Whoever may make files has no need to make devices or to execute.
    let write = all & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock);
    let mut rules = Ruleset::default()
        .handle_access(all)?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    let rights = [
        (&landlock.read, read),
        (&landlock.execute, read | AccessFs::Execute),
        (&landlock.write, write),
    ];
    for (paths, access) in rights {
        for path in paths {
            if let Ok(found) = PathFd::new(path) {
                allow(&mut rules, found, access)?;
            }
        }
    }
    let rights = [
        (&landlock.read_descriptors, read),
        (&landlock.write_descriptors, write),
    ];
    for (numbers, access) in rights {
        for number in numbers {
            if let Ok(found) = PathFd::new(descriptors::path(*number)) {
                allow(&mut rules, found, access)?;
            }
        }
    }
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Enforcement::Full,
        RulesetStatus::PartiallyEnforced => Enforcement::Partial,
        RulesetStatus::NotEnforced => Enforcement::None,
    })
}

fn allow(
    rules: &mut RulesetCreated,
    file: PathFd,
    access: BitFlags<AccessFs>,
) -> Result<(), RulesetError> {
    // The kernel refuses a folder's rights on a file.
    let is_folder = rustix::fs::fstat(&file)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir());
    let access = if is_folder {
        access
    } else {
        access & AccessFs::from_file(LANDLOCK)
    };
    match rules.add_rule(PathBeneath::new(file, access)) {
        Ok(_) => Ok(()),
        // A pipe, a socket or a file in memory is in no file system, and no rule holds for it.
        Err(error) if is_bad_descriptor(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_bad_descriptor(error: &RulesetError) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(inner) = cause {
        if let Some(error) = inner.downcast_ref::<io::Error>() {
            return error.raw_os_error() == Some(Errno::BADFD.raw_os_error());
        }
        cause = inner.source();
    }
    false
}
