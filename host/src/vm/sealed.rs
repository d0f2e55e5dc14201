//! Copies in memory of the files that VMs start from, which nobody can write to.
//!
//! What is measured has to be what is started. A descriptor alone is not enough: whoever may write to
//! the file can rewrite it in place, between the digest and QEMU's reading or while QEMU has it
//! mapped. So the bytes are copied once into a sealed memfd, and that copy is what the backend reads,
//! what is hashed, and what QEMU gets. A file that is replaced or rewritten later changes nothing for
//! a VM that was planned before.
//!
//! VMs that start from the same file share its copy. It is used again for as long as the file is what
//! it was (`Stamp`); if somebody managed to change the file without that showing, the next VM gets
//! the bytes of before, and its measurement is of these. The kernel frees a copy when the last QEMU
//! that has it is gone and it is no longer kept here.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags};
use tokio::sync::{OnceCell, Semaphore};

use crate::backend::digests::{Stamp, is_sealed};
use crate::spec::request::RequestFile;

/// Largest file that is copied: QEMU reads kernels and initrds of less than 2 GiB only.
pub const LARGEST_COPY: u64 = (2 << 30) - 1;
/// Copies that are kept for the next VM, and their bytes together. More is kept by the VMs that run.
const MOST_KEPT: usize = 16;
const MOST_KEPT_BYTES: u64 = 512 << 20;
/// How long a copy is kept that no VM was made of.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// Files that are copied at once: each may take the memory of the largest.
const AT_ONCE: usize = 2;
/// How long a copy may take. A file system that does not answer keeps a thread, and one VM.
const COPY_TIME: Duration = Duration::from_secs(60);
/// Piece in which a file is copied.
const PIECE: usize = 1 << 20;

#[derive(Debug)]
struct Kept {
    stamp: Stamp,
    copy: Copy,
    used: Instant,
}

/// Filled by the first VM that wants it, while others wait.
type Copy = Arc<OnceCell<(Arc<File>, u64)>>;

/// The copies at hand.
#[derive(Debug)]
pub struct SealedFiles {
    /// The one that was used last is last. Never held while anything is waited for.
    kept: Arc<Mutex<Vec<Kept>>>,
    turns: Semaphore,
    /// Somebody waits to let go of what is kept.
    is_watched: Arc<AtomicBool>,
}

impl Default for SealedFiles {
    fn default() -> Self {
        Self {
            kept: Arc::default(),
            turns: Semaphore::new(AT_ONCE),
            is_watched: Arc::default(),
        }
    }
}

impl SealedFiles {
    /// `file` with its content sealed. One that could not be opened stays as it is: it is an error
    /// only where a plan needs it.
    pub async fn sealed(&self, file: RequestFile) -> RequestFile {
        let Ok(handle) = &file.handle else {
            return file;
        };
        match self.copy_of(handle).await {
            Ok((copy, size)) => RequestFile {
                handle: Ok(copy),
                size,
                ..file
            },
            Err(error) => RequestFile {
                handle: Err(Arc::new(error)),
                size: 0,
                ..file
            },
        }
    }

    async fn copy_of(&self, handle: &Arc<File>) -> std::io::Result<(Arc<File>, u64)> {
        if is_sealed(handle) {
            return Ok((Arc::clone(handle), handle.metadata()?.len()));
        }
        let stamp = Stamp::of(handle)?;
        // A file that has just changed may change again without that showing.
        if !stamp.is_settled() {
            return self.copied(handle).await;
        }
        let copy = self.kept(stamp);
        let filled = copy.get_or_try_init(|| async {
            let copied = self.copied(handle).await?;
            if Stamp::of(handle)? == stamp {
                Ok(copied)
            } else {
                Err(std::io::Error::other("it changed while it was read"))
            }
        });
        let filled = filled.await.map(|(copy, size)| (Arc::clone(copy), *size));
        forget(&mut self.lock(), Instant::now());
        self.forget_later();
        filled
    }

    /// The place of a copy, which may be empty yet.
    fn kept(&self, stamp: Stamp) -> Copy {
        let mut kept = self.lock();
        let place = kept.iter().position(|known| known.stamp == stamp);
        let copy = match place {
            Some(place) => kept.remove(place).copy,
            None => Copy::default(),
        };
        kept.push(Kept {
            stamp,
            copy: Arc::clone(&copy),
            used: Instant::now(),
        });
        copy
    }

    async fn copied(&self, handle: &Arc<File>) -> std::io::Result<(Arc<File>, u64)> {
        let turn = self.turns.acquire().await.map_err(std::io::Error::other)?;
        let source = Arc::clone(handle);
        let copying = tokio::task::spawn_blocking(move || sealed_copy(&source));
        let copied = tokio::time::timeout(COPY_TIME, copying).await;
        drop(turn);
        match copied {
            Ok(copied) => {
                let (copy, size) = copied.map_err(std::io::Error::other)??;
                Ok((Arc::new(copy), size))
            }
            Err(_) => Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                format!("it was not read within {} s", COPY_TIME.as_secs()),
            )),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So that a daemon whose VMs are long made gives the memory back. One task waits for all.
    fn forget_later(&self) {
        if self.is_watched.swap(true, Ordering::AcqRel) {
            return;
        }
        let (kept, is_watched) = (Arc::downgrade(&self.kept), Arc::clone(&self.is_watched));
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(KEPT_FOR).await;
                let Some(kept) = kept.upgrade() else { return };
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                forget(&mut kept, Instant::now());
                if kept.is_empty() {
                    // Under the lock: whoever puts something in after this looks after this.
                    is_watched.store(false, Ordering::Release);
                    return;
                }
            }
        });
    }
}

/// Lets go of what was not used for long, and of more until the rest fits.
fn forget(kept: &mut Vec<Kept>, now: Instant) {
    kept.retain(|one| now.duration_since(one.used) < KEPT_FOR);
    let size = |one: &Kept| one.copy.get().map_or(0, |(_, size)| *size);
    let bytes = |kept: &[Kept]| kept.iter().map(size).sum::<u64>();
    while kept.len() > 1 && (kept.len() > MOST_KEPT || bytes(kept) > MOST_KEPT_BYTES) {
        kept.remove(0);
    }
}

/// A copy of all of `source` that nobody can change, and its size. It is read from its beginning,
/// whatever somebody else reads through the same descriptor.
pub fn sealed_copy(source: &File) -> std::io::Result<(File, u64)> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy = File::from(rustix::fs::memfd_create("casemate-file", flags)?);
    let mut buffer = vec![0; PIECE];
    let mut size = 0;
    loop {
        match source.read_at(&mut buffer, size) {
            Ok(0) => break,
            Ok(count) => {
                size += count as u64;
                if size > LARGEST_COPY {
                    return Err(std::io::Error::other(format!(
                        "it has more than {LARGEST_COPY} bytes, and QEMU takes no larger file"
                    )));
                }
                copy.write_all(&buffer[..count])?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    Ok((copy, size))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::path::Path;

    use super::*;
    use crate::backend::digests::SETTLED;
    use crate::spec::Origin;

    fn opened(path: &Path) -> RequestFile {
        let handle = std::fs::File::open(path).unwrap();
        RequestFile {
            id: 1,
            role: "kernel".to_owned(),
            path: path.to_owned(),
            size: handle.metadata().unwrap().len(),
            origin: Origin::Operator,
            handle: Ok(Arc::new(handle)),
        }
    }

    fn content(file: &RequestFile) -> Vec<u8> {
        let path = format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&**file.open().unwrap())
        );
        let mut content = Vec::new();
        let mut again = std::fs::File::open(path).unwrap();
        again.read_to_end(&mut content).unwrap();
        content
    }

    #[tokio::test]
    async fn what_was_planned_stays_whatever_becomes_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        std::fs::write(&path, "first").unwrap();
        let files = SealedFiles::default();
        let first = files.sealed(opened(&path)).await;
        assert!(is_sealed(first.open().unwrap()));
        // In place, with the size and the modification time of before.
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        let writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all_at(b"other", 0).unwrap();
        let times = std::fs::FileTimes::new().set_modified(modified);
        writer.set_times(times).unwrap();
        assert_eq!(content(&first), b"first");
        // The next one has the new bytes: a change a moment ago is not believed to be none.
        let second = files.sealed(opened(&path)).await;
        assert_eq!(content(&second), b"other");
        let handle = second.open().unwrap();
        assert!(handle.write_all_at(b"x", 0).is_err());
        assert!(handle.set_len(0).is_err());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(content(&first), b"first");
    }

    #[tokio::test]
    async fn vms_share_the_copy_of_a_file_that_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        std::fs::write(&path, "kernel").unwrap();
        tokio::time::sleep(SETTLED + std::time::Duration::from_millis(50)).await;
        let files = SealedFiles::default();
        let first = files.sealed(opened(&path)).await;
        let second = files.sealed(opened(&path)).await;
        let of = |file: &RequestFile| Stamp::of(file.open().unwrap()).unwrap();
        assert_eq!(of(&first), of(&second));
        // A new file under the old name is another file.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "KERNEL").unwrap();
        let third = files.sealed(opened(&path)).await;
        assert_ne!(of(&first), of(&third));
        assert_eq!(content(&third), b"KERNEL");
    }

    #[tokio::test]
    async fn of_many_who_want_a_new_file_one_copies_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("initrd");
        std::fs::write(&path, vec![1; 4 << 20]).unwrap();
        tokio::time::sleep(SETTLED + Duration::from_millis(50)).await;
        let files = Arc::new(SealedFiles::default());
        let wanting = (0..20).map(|_| {
            let (files, file) = (Arc::clone(&files), opened(&path));
            tokio::spawn(async move { files.sealed(file).await })
        });
        let wanting: Vec<_> = wanting.collect();
        let mut copies = std::collections::BTreeSet::new();
        for one in wanting {
            let file = one.await.unwrap();
            let handle = Arc::clone(file.open().unwrap());
            copies.insert(std::os::unix::fs::MetadataExt::ino(
                &handle.metadata().unwrap(),
            ));
        }
        assert_eq!(copies.len(), 1);
    }

    #[test]
    fn no_more_is_kept_than_allowed() {
        let file = Arc::new(tempfile::tempfile().unwrap());
        let stamp = Stamp::of(&file).unwrap();
        let now = Instant::now();
        let one = |size: u64| Kept {
            stamp,
            copy: Arc::new(OnceCell::new_with(Some((Arc::clone(&file), size)))),
            used: now,
        };
        let mut kept: Vec<Kept> = (0..=MOST_KEPT as u64).map(one).collect();
        forget(&mut kept, now);
        assert_eq!(kept.len(), MOST_KEPT);
        assert_eq!(kept[0].copy.get().unwrap().1, 1, "the oldest goes");
        let half = MOST_KEPT_BYTES / 2;
        let mut kept: Vec<Kept> = [half, half, 1].map(one).into();
        forget(&mut kept, now);
        assert_eq!(kept.len(), 2);
        // A single large one is used again all the same, for its time.
        let mut kept = vec![one(MOST_KEPT_BYTES + 1)];
        forget(&mut kept, now);
        assert_eq!(kept.len(), 1);
        forget(&mut kept, now + KEPT_FOR);
        assert!(kept.is_empty());
    }
}
