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
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use tokio::sync::Mutex;

use crate::backend::digests::{Stamp, is_sealed};
use crate::spec::request::RequestFile;

/// Largest file that is copied: QEMU reads kernels and initrds of less than 2 GiB only.
pub const LARGEST_COPY: u64 = (2 << 30) - 1;
/// Copies that are kept for the next VM, and their bytes together. More is kept by the VMs that run.
const MOST_KEPT: usize = 16;
const MOST_KEPT_BYTES: u64 = 512 << 20;
/// Piece in which a file is copied.
const PIECE: usize = 1 << 20;

#[derive(Debug)]
struct Kept {
    stamp: Stamp,
    copy: Arc<File>,
    size: u64,
}

/// The copies at hand. Copying holds the lock, so that of many VMs that start at once from a new file
/// one copies it and the others wait.
#[derive(Debug, Default)]
pub struct SealedFiles {
    /// The one that was used last is last.
    kept: Mutex<Vec<Kept>>,
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
        let before = Stamp::of(handle)?;
        let mut kept = self.kept.lock().await;
        let known = kept.iter().position(|known| known.stamp == before);
        if let Some(index) = known.filter(|_| before.is_settled()) {
            let known = kept.remove(index);
            let found = (Arc::clone(&known.copy), known.size);
            kept.push(known);
            return Ok(found);
        }
        let source = Arc::clone(handle);
        let copied = tokio::task::spawn_blocking(move || sealed_copy(&source)).await;
        let (copy, size) = copied.map_err(std::io::Error::other)??;
        let copy = Arc::new(copy);
        // A file that changes while it is copied, or has just changed, is copied again next time.
        if before.is_settled() && Stamp::of(handle)? == before {
            kept.push(Kept {
                stamp: before,
                copy: Arc::clone(&copy),
                size,
            });
            forget(&mut kept);
        }
        Ok((copy, size))
    }
}

/// Lets go of what was not used for longest, until the rest fits.
fn forget(kept: &mut Vec<Kept>) {
    let bytes = |kept: &[Kept]| kept.iter().map(|one| one.size).sum::<u64>();
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

    #[test]
    fn no_more_is_kept_than_allowed() {
        let file = tempfile::tempfile().unwrap();
        let one = |size| Kept {
            stamp: Stamp::of(&file).unwrap(),
            copy: Arc::new(file.try_clone().unwrap()),
            size,
        };
        let mut kept: Vec<Kept> = (0..MOST_KEPT as u64 + 1).map(one).collect();
        forget(&mut kept);
        assert_eq!(kept.len(), MOST_KEPT);
        assert_eq!(kept[0].size, 1, "the oldest goes");
        let mut kept: Vec<Kept> = [MOST_KEPT_BYTES / 2, MOST_KEPT_BYTES / 2, 1]
            .map(one)
            .into();
        forget(&mut kept);
        assert_eq!(kept.len(), 2);
        // A single large one is used again all the same.
        let mut kept = vec![one(MOST_KEPT_BYTES + 1)];
        forget(&mut kept);
        assert_eq!(kept.len(), 1);
    }
}
