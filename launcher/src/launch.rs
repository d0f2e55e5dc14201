//! The first stage: reads the spec, gives up its rights, starts QEMU and says so.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use casemate_launcher::exit::Exit;
use casemate_launcher::log::{CreateError, Writer};
use casemate_launcher::reply::{Failed, Reply, Started, Step};
use casemate_launcher::spec::{LaunchSpec, LogFiles, MAX_SPEC, SpecError};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::confine::{self, StartError, Task};
use crate::descriptors::{self, Inherited};
use crate::privileges::{self, PrivilegeError};
use crate::watch::{Control, Stream, Watch};

/// How much of the spec is read at a time.
const READ: usize = 64 << 10;

/// Why there is no QEMU.
#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("signals cannot be ignored")]
    Signals(#[source] io::Error),
    #[error("the inherited descriptors cannot be listed")]
    Inherited(#[source] io::Error),
    #[error("descriptor {0} was not inherited")]
    NotInherited(i32),
    #[error("descriptor {0} cannot be taken over")]
    TakeOver(i32, #[source] io::Error),
    #[error("the log of {0} cannot be made")]
    Log(&'static str, #[source] CreateError),
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    #[error("there is no pipe for the console")]
    Pipe(#[source] io::Error),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("QEMU cannot be held")]
    Hold(#[source] io::Error),
}

impl LaunchError {
    fn step(&self) -> Step {
        match self {
            Self::Spec(_) => Step::Spec,
            Self::Signals(_) | Self::Inherited(_) | Self::NotInherited(_) | Self::TakeOver(..) => {
                Step::Descriptors
            }
            Self::Log(..) => Step::Log,
            Self::Privileges(_) => Step::Privileges,
            Self::Start(StartError::Stage(failed)) => failed.step,
            Self::Pipe(_) | Self::Start(_) | Self::Hold(_) => Step::Spawn,
        }
    }
}

pub(crate) fn run() -> ExitCode {
    let control = io::stdin();
    match launch() {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(watch)) => watch.run(),
        Err(error) => {
            let reply = Reply::Failed(Failed::new(error.step(), &error));
            // A daemon that is gone by now has started nothing.
            let _ = reply.send(&control, None);
            ExitCode::FAILURE
        }
    }
}

/// A QEMU that runs, or nothing when nobody asked for one.
fn launch() -> Result<Option<Watch>, LaunchError> {
    let mut inherited = Inherited::list().map_err(LaunchError::Inherited)?;
    let Some(FirstLine { line, rest }) = read_line()? else {
        return Ok(None);
    };
    let spec = LaunchSpec::parse(&line)?;
    drop(line);
    // All descriptors are settled before anything is opened that could get one of their numbers.
    let known = [&spec.descriptors[..], &spec.launcher_descriptors()].concat();
    if let Some(number) = known.iter().find(|number| !inherited.contains(**number)) {
        return Err(LaunchError::NotInherited(*number));
    }
    inherited.close_all_but(&known);
    let console_end = descriptors::take(spec.console_fd)
        .map_err(|error| LaunchError::TakeOver(spec.console_fd, error))?;
    let own = |number| {
        descriptors::open_again(number).map_err(|error| LaunchError::TakeOver(number, error))
    };
    let open_log = |files: LogFiles| Ok::<_, LaunchError>((own(files.head)?, own(files.tail)?));
    let console_files = open_log(spec.console)?;
    let stderr_files = open_log(spec.stderr)?;
    let exit = own(spec.exit)?;
    inherited.close(spec.launcher_descriptors());
    ignore_signals().map_err(LaunchError::Signals)?;
    leave_the_daemon();

    let caps = spec.caps;
    let create = |name, (head, tail): (File, File), head_cap, tail_cap| {
        Writer::create(head, head_cap, tail, tail_cap)
            .map_err(|error| LaunchError::Log(name, error))
    };
    let console_log = create(
        "the console",
        console_files,
        caps.console_head,
        caps.console_tail,
    )?;
    let stderr_log = create("stderr", stderr_files, caps.stderr_head, caps.stderr_tail)?;
    Exit::reserve(&exit);

    privileges::give_up(spec.user.as_ref(), &spec.limits)?;
    let console = console_pipe(console_end).map_err(LaunchError::Pipe)?;
    let task = Task {
        program: spec.program,
        arguments: spec.arguments,
        landlock: spec.landlock,
    };
    let mut child = confine::spawn(&task).map_err(StartError::Spawn)?;
    drop(task);
    // QEMU has its copies. One that stayed here would keep a socket of a dead QEMU answering, and
    // the console's pipe open.
    drop(console.inner);
    inherited.close(spec.descriptors);

    let held = hold(&mut child);
    let (pidfd, stderr, landlock) = match held {
        Ok(held) => held,
        Err(error) => {
            // It is no QEMU and holds nothing but itself.
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
    };
    let started = Reply::Started(Started {
        pid: child.id(),
        landlock,
    });
    // A daemon that is gone by now has not said `keep`, which is what the watch acts upon.
    let _ = started.send(io::stdin(), Some(&pidfd));
    Ok(Some(Watch::new(
        child,
        pidfd,
        Stream::new(console.outer, console_log),
        Stream::new(stderr, stderr_log),
        Control::new(rest),
        exit,
    )))
}

/// What the daemon said first, without the end of its line, and what was read behind it.
struct FirstLine {
    line: Vec<u8>,
    rest: Vec<u8>,
}

/// Nothing when the daemon hung up without a word.
fn read_line() -> Result<Option<FirstLine>, SpecError> {
    let mut control = File::from(
        io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(SpecError::Unreadable)?,
    );
    let mut line = Vec::new();
    loop {
        let before = line.len();
        if before >= MAX_SPEC {
            return Err(SpecError::TooLong);
        }
        line.resize(before + READ.min(MAX_SPEC - before), 0);
        let read = match control.read(&mut line[before..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            // A daemon that was killed with unread words behind it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(SpecError::Unreadable(error)),
            Ok(0) if before == 0 => return Ok(None),
            Ok(0) => return Err(SpecError::CutShort),
            Ok(read) => read,
        };
        line.truncate(before + read);
        if let Some(end) = line[before..].iter().position(|byte| *byte == b'\n') {
            let rest = line.split_off(before + end + 1);
            line.pop();
            return Ok(Some(FirstLine { line, rest }));
        }
    }
}

/// The launcher has to outlive whatever ends QEMU, or nobody would write down how it ended.
fn ignore_signals() -> io::Result<()> {
    // A handler that does nothing and not SIG_IGN, which QEMU would inherit. SIGPIPE is ignored by
    // Rust's own start, and given back its default in a child.
    let nobody = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&nobody))?;
    }
    Ok(())
}

/// No terminal and no folder of the daemon's is held.
fn leave_the_daemon() {
    // Fails for the leader of a process group; then QEMU, which starts a session too, is still
    // apart from the daemon's.
    let _ = rustix::process::setsid();
    // The root is always there.
    let _ = rustix::process::chdir("/");
}

/// The console's pipe, whose write end QEMU inherits under its number. It is made by the user that
/// QEMU runs as, who can then also open it again.
struct ConsolePipe {
    outer: OwnedFd,
    inner: OwnedFd,
}

fn console_pipe(mut taken: OwnedFd) -> io::Result<ConsolePipe> {
    let (outer, inner) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // Unlike the original, this copy is passed on.
    rustix::io::dup2(&inner, &mut taken)?;
    Ok(ConsolePipe {
        outer,
        inner: taken,
    })
}

/// Everything that is known of a child before it is waited for.
fn hold(
    child: &mut Child,
) -> Result<(OwnedFd, OwnedFd, casemate_launcher::reply::Enforcement), LaunchError> {
    // The child is not reaped yet, so this pid cannot be another process's.
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| LaunchError::Hold(io::Error::other("a pid that is none")))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .map_err(|error| LaunchError::Hold(error.into()))?;
    let stderr = child
        .stderr
        .take()
        .ok_or_else(|| LaunchError::Hold(io::Error::other("no pipe for stderr")))?;
    let landlock = confine::wait_for_exec(child)?;
    Ok((pidfd, stderr.into(), landlock))
}
