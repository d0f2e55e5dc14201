//! A VM's console and the last words of its QEMU, in files that its launcher writes: for each of
//! the last starts the first and the last part of what the guest wrote.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use casemate_launcher::log::{Transcript, read_from};
use tokio::sync::watch;

use super::status::VmStatus;
use crate::qemu::vm_process::LogSet;
use crate::store::{KEPT_STARTS, RecordFolder, StoreError};

/// How often a follower looks for more. A console is read by people.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);
/// Most bytes of one piece, well below gRPC's limit of 4 MiB.
const PIECE: usize = 256 << 10;

/// Files of the start with this number take the place of those that are too old.
fn names(launch_number: u32) -> [String; 5] {
    let slot = launch_number % KEPT_STARTS;
    [
        format!("console-{slot}.head"),
        format!("console-{slot}.tail"),
        format!("stderr-{slot}.head"),
        format!("stderr-{slot}.tail"),
        format!("exit-{slot}.json"),
    ]
}

/// Empty files for a start.
pub(super) fn create(folder: &RecordFolder, launch_number: u32) -> Result<LogSet, StoreError> {
    let [console_head, console_tail, stderr_head, stderr_tail, exit] = names(launch_number);
    Ok(LogSet {
        console_head: folder.create_file(&console_head)?,
        console_tail: folder.create_file(&console_tail)?,
        stderr_head: folder.create_file(&stderr_head)?,
        stderr_tail: folder.create_file(&stderr_tail)?,
        exit: folder.create_file(&exit)?,
    })
}

/// The files of a start that was made; none where they are not all there.
pub(super) fn open(
    folder: &RecordFolder,
    launch_number: u32,
) -> Result<Option<LogSet>, StoreError> {
    let [console_head, console_tail, stderr_head, stderr_tail, exit] = names(launch_number);
    let files = (
        folder.open_file(&console_head)?,
        folder.open_file(&console_tail)?,
        folder.open_file(&stderr_head)?,
        folder.open_file(&stderr_tail)?,
        folder.open_file(&exit)?,
    );
    Ok(match files {
        (
            Some(console_head),
            Some(console_tail),
            Some(stderr_head),
            Some(stderr_tail),
            Some(exit),
        ) => Some(LogSet {
            console_head,
            console_tail,
            stderr_head,
            stderr_tail,
            exit,
        }),
        _ => None,
    })
}

/// Where a VM's consoles are, for whoever reads them.
#[derive(Debug, Default)]
pub struct ConsoleSource {
    folder: OnceLock<RecordFolder>,
    launches: AtomicU32,
}

impl ConsoleSource {
    pub(super) fn set(&self, folder: RecordFolder) {
        let _ = self.folder.set(folder);
    }

    pub(super) fn set_launches(&self, launches: u32) {
        self.launches.store(launches, Ordering::Release);
    }

    pub(super) fn read(
        &self,
        range: ConsoleRange,
        status: watch::Receiver<Arc<VmStatus>>,
    ) -> Result<ConsoleReader, StoreError> {
        let launches = self.launches.load(Ordering::Acquire);
        match self.folder.get() {
            Some(folder) => ConsoleReader::open(folder, launches, range, status),
            None => Ok(ConsoleReader {
                files: None,
                offset: 0,
                follows: None,
            }),
        }
    }
}

/// A piece of a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes that were not kept, right before `bytes`.
    pub omitted: u64,
    pub bytes: Vec<u8>,
}

/// A console that is being read, piece by piece.
#[derive(Debug)]
pub struct ConsoleReader {
    files: Option<Arc<(File, File)>>,
    offset: u64,
    /// Of the VM, for a reader that goes on until the VM is down.
    follows: Option<watch::Receiver<Arc<VmStatus>>>,
}

/// Where to begin and whether to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsoleRange {
    /// Bytes of the end; 0 means all that is kept.
    pub tail: u64,
    pub follow: Follow,
    /// Which start: 0 is the last one.
    pub previous: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follow {
    #[default]
    UntilNow,
    UntilDown,
}

impl ConsoleReader {
    pub(super) fn open(
        folder: &RecordFolder,
        launches: u32,
        range: ConsoleRange,
        status: watch::Receiver<Arc<VmStatus>>,
    ) -> Result<Self, StoreError> {
        let number = launches
            .checked_sub(range.previous)
            .filter(|number| *number > 0);
        let logs = match number {
            Some(number) if range.previous < KEPT_STARTS => open(folder, number)?,
            _ => None,
        };
        let files = logs.map(|logs| Arc::new((logs.console_head, logs.console_tail)));
        let offset = match &files {
            Some(files) if range.tail != 0 => total(files).saturating_sub(range.tail),
            _ => 0,
        };
        let goes_on = range.follow == Follow::UntilDown && range.previous == 0;
        Ok(Self {
            files,
            offset,
            follows: goes_on.then_some(status),
        })
    }

    /// The next piece; `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> Option<io::Result<Piece>> {
        let files = Arc::clone(self.files.as_ref()?);
        loop {
            // Asked before reading: what a VM wrote before it went down is read after that.
            let is_down = self.follows.as_ref().is_none_or(|status| {
                status.has_changed().is_err() || status.borrow().pid.is_none()
            });
            let offset = self.offset;
            let (head_and_tail, read) = (Arc::clone(&files), PIECE);
            let chunk = tokio::task::spawn_blocking(move || {
                read_from(&head_and_tail.0, &head_and_tail.1, offset, read)
            });
            let chunk = match chunk.await {
                Ok(Ok(chunk)) => chunk,
                // A launcher that has not begun yet has written no header.
                Ok(Err(_)) if is_empty(&files) && !is_down => {
                    tokio::time::sleep(FOLLOW_INTERVAL).await;
                    continue;
                }
                Ok(Err(_)) if is_empty(&files) => return None,
                Ok(Err(error)) => return Some(Err(error)),
                Err(error) => return Some(Err(io::Error::other(error))),
            };
            self.offset = chunk.next_offset;
            if !chunk.bytes.is_empty() || chunk.skipped > 0 {
                return Some(Ok(Piece {
                    omitted: chunk.skipped,
                    bytes: chunk.bytes,
                }));
            }
            if is_down {
                return None;
            }
            tokio::time::sleep(FOLLOW_INTERVAL).await;
        }
    }
}

fn is_empty(files: &(File, File)) -> bool {
    files.1.metadata().is_ok_and(|metadata| metadata.len() == 0)
}

fn total(files: &(File, File)) -> u64 {
    Transcript::read(&files.0, &files.1).map_or(0, |transcript| transcript.total)
}
