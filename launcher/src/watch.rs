//! Stays beside QEMU until it ends: empties its pipes, hears whether it is to be kept, and writes
//! down its end.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitCode};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use casemate_launcher::exit::Exit;
use casemate_launcher::log::Writer;
use casemate_launcher::spec::KEEP;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;

/// What is read at a time: all that a pipe holds unless someone enlarged it.
const READ: usize = 64 << 10;
/// How long pipes are emptied after QEMU's end. They end by themselves unless another process
/// holds them.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Most bytes of a line on the control socket after the spec. The longest known is `keep`.
const MAX_LINE: usize = 256;

/// A pipe and where its bytes go.
#[derive(Debug)]
pub(crate) struct Stream {
    pipe: Option<OwnedFd>,
    log: Writer,
}

impl Stream {
    pub(crate) fn new(pipe: OwnedFd, log: Writer) -> Self {
        Self {
            pipe: Some(pipe),
            log,
        }
    }

    /// Takes what is there, once; only to be called when there is something.
    fn take(&mut self, buffer: &mut [u8]) {
        let Some(pipe) = &self.pipe else { return };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(read @ 1..) => self.log.write(&buffer[..read]),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Ok(_) | Err(_) => self.pipe = None,
        }
    }
}

/// The daemon's end of things.
#[derive(Debug)]
pub(crate) struct Control {
    line: Vec<u8>,
    state: Commitment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commitment {
    /// The VM is the daemon's: without it, QEMU ends.
    Pending,
    /// The VM is recorded, and a later daemon will find it.
    Kept,
    /// The daemon went before it said so.
    Abandoned,
}

impl Control {
    /// `begun` was read behind the spec.
    pub(crate) fn new(begun: Vec<u8>) -> Self {
        let mut control = Self {
            line: Vec::new(),
            state: Commitment::Pending,
        };
        control.hear(&begun);
        control
    }

    fn hear(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.state != Commitment::Pending {
                return;
            }
            if *byte != b'\n' {
                self.line.push(*byte);
            } else if self.line == KEEP.as_bytes() {
                self.state = Commitment::Kept;
            } else {
                // A word of a later version, which can be done without.
                self.line.clear();
            }
            if self.line.len() > MAX_LINE {
                // This is no daemon.
                self.state = Commitment::Abandoned;
            }
        }
    }

    /// Reads once; only to be called when there is something.
    fn take(&mut self, buffer: &mut [u8]) {
        match rustix::io::read(io::stdin(), &mut *buffer) {
            Ok(read @ 1..) => self.hear(&buffer[..read]),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Ok(_) | Err(_) => self.state = Commitment::Abandoned,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Watch {
    child: Child,
    pidfd: OwnedFd,
    console: Stream,
    stderr: Stream,
    control: Control,
    exit: File,
}

impl Watch {
    pub(crate) fn new(
        child: Child,
        pidfd: OwnedFd,
        console: Stream,
        stderr: Stream,
        control: Control,
        exit: File,
    ) -> Self {
        Self {
            child,
            pidfd,
            console,
            stderr,
            control,
            exit,
        }
    }

    /// Until QEMU has ended and that is written down.
    pub(crate) fn run(mut self) -> ExitCode {
        let mut buffer = vec![0; READ];
        let mut killed = false;
        let ended = loop {
            if self.control.state == Commitment::Abandoned && !killed {
                // It may have ended by itself a moment ago.
                let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
                killed = true;
            }
            if self.turn(&mut buffer, Awaited::Exit) {
                break self.child.wait();
            }
        };
        let deadline = Instant::now() + LAST_WORDS;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || (self.console.pipe.is_none() && self.stderr.pipe.is_none()) {
                break;
            }
            self.turn(&mut buffer, Awaited::LastWords(left));
        }
        let ended = ended.ok();
        let exit = Exit {
            code: ended.and_then(|status| status.code()),
            signal: ended.and_then(|status| status.signal()),
            abandoned: killed,
            ended_at: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            console_dropped: self.console.log.dropped(),
            stderr_dropped: self.stderr.log.dropped(),
        };
        match exit.write(&self.exit) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        }
    }

    /// Waits until something happens and takes at most one piece of each stream, so that a flood on
    /// one keeps nothing else waiting. Says whether QEMU has ended.
    fn turn(&mut self, buffer: &mut [u8], awaited: Awaited) -> bool {
        let stdin = io::stdin();
        let control = (self.control.state == Commitment::Pending).then(|| stdin.as_fd());
        let child = matches!(awaited, Awaited::Exit).then(|| self.pidfd.as_fd());
        let sources = [
            child,
            control,
            self.console.pipe.as_ref().map(OwnedFd::as_fd),
            self.stderr.pipe.as_ref().map(OwnedFd::as_fd),
        ];
        let [child, control, console, stderr] = ready(sources, awaited.timeout());
        if control {
            self.control.take(buffer);
        }
        if console {
            self.console.take(buffer);
        }
        if stderr {
            self.stderr.take(buffer);
        }
        child
    }
}

/// What a turn waits for beside the streams.
#[derive(Clone, Copy, Debug)]
enum Awaited {
    Exit,
    LastWords(Duration),
}

impl Awaited {
    fn timeout(self) -> Option<Timespec> {
        match self {
            Self::Exit => None,
            Self::LastWords(left) => Timespec::try_from(left).ok(),
        }
    }
}

/// Which of the sources there are have something to say, an end among it.
fn ready<const N: usize>(
    sources: [Option<BorrowedFd<'_>>; N],
    timeout: Option<Timespec>,
) -> [bool; N] {
    let mut polled: Vec<_> = sources
        .iter()
        .flatten()
        .map(|source| PollFd::from_borrowed_fd(*source, PollFlags::IN))
        .collect();
    // An interruption is a turn without news; poll fails in no other way that lasts.
    let news = rustix::event::poll(&mut polled, timeout.as_ref()).is_ok();
    let mut polled = polled.iter();
    sources.map(|source| {
        source.is_some() && polled.next().is_some_and(|fd| !fd.revents().is_empty()) && news
    })
}
