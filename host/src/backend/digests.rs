//! Digests of whole files, kept: firmware, kernel and initrd are the same for most VMs of a host.
//!
//! An entry is found by what the file was: device, inode, size, and the times of its last change. A
//! time that is younger than [`SETTLED`] proves nothing, for another change may get the same one, so
//! such a file is hashed again each time; a sealed copy in memory can never change.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::SealFlags;

/// How old the last change of a file has to be. File systems take the time of a change from a clock
/// that ticks some hundred times a second; two seconds is what FAT has.
pub const SETTLED: Duration = Duration::from_secs(2);
/// Most entries. A host has a handful of images.
const MOST_ENTRIES: usize = 256;
/// Largest value that is kept: SHA-512 of 4,096 pages. The digests of a firmware's pages have some
/// ten KiB.
const LARGEST_VALUE: usize = 256 << 10;

/// What a file was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub fn of(file: &File) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether a later change would show: the last one is long enough ago.
    pub fn is_settled(&self) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let changed = u64::try_from(seconds)
            .ok()
            .zip(u32::try_from(nanoseconds).ok())
            .map(|(seconds, nanoseconds)| Duration::new(seconds, nanoseconds));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok();
        match (changed, now) {
            // A time that is still to come is none to rely on.
            (Some(changed), Some(now)) => now
                .checked_sub(changed)
                .is_some_and(|passed| passed >= SETTLED),
            _ => false,
        }
    }
}

/// Whether nobody can ever write to it.
pub fn is_sealed(file: &File) -> bool {
    let wanted = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(wanted))
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Whole,
    /// Of each page of so many bytes.
    Pages(u32),
}

#[derive(Debug)]
struct Entry {
    stamp: Stamp,
    algorithm: String,
    wanted: Wanted,
    value: Arc<[u8]>,
}

/// Shared by all backends. The newest entry is last.
#[derive(Debug, Default)]
pub(super) struct DigestCache {
    entries: Mutex<VecDeque<Entry>>,
}

/// A file whose digests may be kept, as it was before it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lasting(Stamp);

impl DigestCache {
    /// None where the digest of `file` may not be kept.
    pub(super) fn lasting(file: &File) -> Option<Lasting> {
        let stamp = Stamp::of(file).ok()?;
        (is_sealed(file) || stamp.is_settled()).then_some(Lasting(stamp))
    }

    pub(super) fn get(&self, file: Lasting, algorithm: &str, wanted: Wanted) -> Option<Arc<[u8]>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let found = entries.iter().find(|entry| {
            entry.stamp == file.0 && entry.algorithm == algorithm && entry.wanted == wanted
        });
        found.map(|entry| Arc::clone(&entry.value))
    }

    /// Keeps a digest, if the file is still what it was before it was read.
    pub(super) fn put(
        &self,
        before: Lasting,
        file: &File,
        algorithm: &str,
        wanted: Wanted,
        value: &[u8],
    ) {
        if value.len() > LARGEST_VALUE || Stamp::of(file).ok() != Some(before.0) {
            return;
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() == MOST_ENTRIES {
            entries.pop_front();
        }
        entries.push_back(Entry {
            stamp: before.0,
            algorithm: algorithm.to_owned(),
            wanted,
            value: value.into(),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn set_times(file: &File, age: Duration) {
        let times = std::fs::FileTimes::new().set_modified(SystemTime::now() - age);
        file.set_times(times).unwrap();
    }

    #[test]
    fn what_was_changed_a_moment_ago_is_not_kept_and_a_change_is_another_file() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"kernel").unwrap();
        // Its modification time can be set back, its change time cannot.
        set_times(&file, Duration::from_secs(3600));
        assert!(DigestCache::lasting(&file).is_none());
        std::thread::sleep(SETTLED + Duration::from_millis(50));
        let cache = DigestCache::default();
        let before = DigestCache::lasting(&file).expect("it is old enough");
        cache.put(before, &file, "sha-256", Wanted::Whole, b"digest");
        assert_eq!(
            cache.get(before, "sha-256", Wanted::Whole).as_deref(),
            Some(b"digest".as_slice())
        );
        for (algorithm, wanted) in [("sha-384", Wanted::Whole), ("sha-256", Wanted::Pages(4096))] {
            assert!(cache.get(before, algorithm, wanted).is_none());
        }
        // Rewritten in place, with the same size and the old modification time.
        let modified = file.metadata().unwrap().modified().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"KERNEL", 0).unwrap();
        file.set_times(std::fs::FileTimes::new().set_modified(modified))
            .unwrap();
        assert!(DigestCache::lasting(&file).is_none());
        let now = Lasting(Stamp::of(&file).unwrap());
        assert!(cache.get(now, "sha-256", Wanted::Whole).is_none());
        // A digest that was computed while it changed is not kept either.
        cache.put(before, &file, "sha-384", Wanted::Whole, b"stale");
        assert!(cache.get(before, "sha-384", Wanted::Whole).is_none());
    }

    #[test]
    fn there_are_never_more_entries_than_allowed() {
        let file = tempfile::tempfile().unwrap();
        let before = Lasting(Stamp::of(&file).unwrap());
        let cache = DigestCache::default();
        for index in 0..=MOST_ENTRIES {
            cache.put(before, &file, &index.to_string(), Wanted::Whole, b"x");
        }
        assert!(cache.get(before, "0", Wanted::Whole).is_none());
        assert!(cache.get(before, "1", Wanted::Whole).is_some());
        cache.put(
            before,
            &file,
            "large",
            Wanted::Whole,
            &[0; LARGEST_VALUE + 1],
        );
        assert!(cache.get(before, "large", Wanted::Whole).is_none());
    }
}
