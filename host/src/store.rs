//! The state directory: who may see what of it, records that survive, and folders of VMs.
//!
//! ```text
//! state_dir           0711  root: an unprivileged QEMU walks through it, and lists nothing
//! ├── lock            held while a daemon runs
//! ├── instance-id
//! ├── generation      no generation number below it is given out again
//! ├── endpoints.json  where this daemon listens; there while it is ready
//! ├── records/        0700  ID/: the daemon's alone
//! │   └── ID/         vm.json, launch.json, the monitor's socket, console, how QEMU ended
//! └── vms/            0711
//!     └── ID/         0750  root's, with the group of that VM's QEMU: disk, firmware variables
//! secrets_dir         0711  on a tmpfs where there is one; else the shares lie in vms/ID
//! └── INSTANCE-ID/ID/ 0750  the shares: environment and certificates
//! ```
//!
//! A VM's user can read its folder and write to its own files in it, but it can make nothing there:
//! a QEMU that was taken over could otherwise plant links, or a tree too deep to delete. Where the
//! daemon is not root, the folder is its own, with mode 0700.

mod deadline;
mod folders;
mod record;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};

use crate::regular_file::{self, ReadError};
use crate::spec::VmId;

pub use deadline::{BootTime, Deadline, Now};
pub use folders::{FolderAccess, KEPT_STARTS, RecordFolder, VmFiles, VmFolder};
pub use record::{
    ExitRecord, FoundRecord, IdempotencyRecord, LaunchRecord, ProcessRecord, Progress,
    RECORD_FORMAT, RecordError, VmRecord, WITH_DAEMON,
};

/// Bytes of a record: a plan has a MiB at most, and facts have some.
const MAX_RECORD: u64 = 16 << 20;
/// Generation numbers that one daemon may give out: one for each change, so never all.
const GENERATIONS: u64 = 1 << 40;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("state directory {path:?}: {operation} failed", path = .path.display())]
    Io {
        path: PathBuf,
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("state directory {path:?} belongs to user {owner}, not to user {wanted}: another user could plant records in it; change its owner or set another `state_dir`", path = .path.display())]
    Owner {
        path: PathBuf,
        owner: u32,
        wanted: u32,
    },
    #[error("state directory {path:?} has mode {mode:04o}, so others can change it: set mode 0711", path = .path.display())]
    Mode { path: PathBuf, mode: u32 },
    #[error("state directory {path:?} is in use by another casemated: {holder}", path = .path.display())]
    Locked { path: PathBuf, holder: String },
    #[error("{path:?} is not a directory", path = .path.display())]
    NotADirectory { path: PathBuf },
}

impl StoreError {
    /// Whether there is no room, which is the operator's to make.
    pub fn is_full(&self) -> bool {
        let Self::Io { source, .. } = self else {
            return false;
        };
        matches!(
            source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }
}

fn io_error(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        path,
        operation,
        source,
    }
}

/// The locked state directory of a running daemon.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Where shares lie; none: in the VM's own folder.
    secrets: Option<PathBuf>,
    _lock: Lock,
}

/// Unlocks by itself: closing alone would leave the lock to a child that another thread has just
/// forked, until that child's exec closes its copy.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

impl StateDir {
    /// Makes or checks the directory and takes its lock.
    ///
    /// `secrets_dir` is used where it lies on a file system in memory.
    pub fn open(path: &Path, secrets_dir: &Path) -> Result<Self, StoreError> {
        let path = std::path::absolute(path).map_err(io_error(path, "finding it"))?;
        if !path.exists() {
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))
                .map_err(io_error(&path, "making its parent"))?;
            create_dir(&path, 0o711)?;
        }
        check_private(&path, 0o711)?;
        let lock_path = path.join("lock");
        let lock = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&lock_path)
            .map_err(io_error(&lock_path, "opening the lock"))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder = std::fs::read_to_string(&lock_path).unwrap_or_default();
            let holder = crate::spec::printable(holder.trim());
            return Err(StoreError::Locked {
                path,
                holder: format!("process {holder}"),
            });
        }
        let lock = Lock(lock);
        lock.0
            .set_len(0)
            .map_err(io_error(&lock_path, "writing the lock"))?;
        (&lock.0)
            .write_all(std::process::id().to_string().as_bytes())
            .map_err(io_error(&lock_path, "writing the lock"))?;
        // Of a daemon that was killed: it is true again when this one serves.
        match std::fs::remove_file(path.join("endpoints.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(&path, "deleting endpoints.json")(error));
            }
            _ => {}
        }
        for (name, mode) in [("records", 0o700), ("vms", 0o711)] {
            let folder = path.join(name);
            if !folder.exists() {
                create_dir(&folder, mode)?;
            }
            check_private(&folder, mode)?;
        }
        let mut state = Self {
            path,
            secrets: None,
            _lock: lock,
        };
        state.secrets = state.open_secrets(secrets_dir)?;
        Ok(state)
    }

    /// Another state directory's secrets lie in a folder of another name.
    fn open_secrets(&self, secrets_dir: &Path) -> Result<Option<PathBuf>, StoreError> {
        let base = std::path::absolute(secrets_dir).map_err(io_error(secrets_dir, "finding it"))?;
        if !is_in_memory(base.parent().unwrap_or(Path::new("/"))) && !is_in_memory(&base) {
            return Ok(None);
        }
        let own = base.join(self.instance_id()?);
        for folder in [&base, &own] {
            if !folder.exists() {
                create_dir(folder, 0o711)?;
            }
            check_private(folder, 0o711)?;
        }
        Ok(Some(own))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is still there and the daemon's alone.
    pub fn check(&self) -> Result<(), StoreError> {
        check_private(&self.path, 0o711)
    }

    /// Where secrets lie in memory; none where they lie in the state directory.
    pub fn secrets(&self) -> Option<&Path> {
        self.secrets.as_deref()
    }

    /// A number below which no generation of an earlier daemon lies.
    pub fn first_generation(&self) -> Result<u64, StoreError> {
        let path = self.path.join("generation");
        let first = std::fs::read_to_string(&path)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(1_u64);
        write_atomically(
            &path,
            (first.saturating_add(GENERATIONS)).to_string().as_bytes(),
        )?;
        Ok(first)
    }

    /// A random UUID that stays with this state directory.
    pub fn instance_id(&self) -> Result<String, StoreError> {
        let path = self.path.join("instance-id");
        if let Ok(text) = std::fs::read_to_string(&path)
            && let Some(id) = VmId::parse(text.trim())
        {
            return Ok(id.to_string());
        }
        let id = VmId::random().to_string();
        write_atomically(&path, id.as_bytes())?;
        Ok(id)
    }

    /// Says where the daemon listens. The file goes with the returned guard.
    pub fn announce(&self, content: &[u8]) -> Result<Announcement, StoreError> {
        let path = self.path.join("endpoints.json");
        write_atomically(&path, content)?;
        Ok(Announcement { path })
    }

    fn record_dir(&self, id: VmId) -> PathBuf {
        self.path.join("records").join(id.to_string())
    }

    /// Makes the record folder of a new VM. Its other folders follow when it has a user.
    pub fn create_record(&self, id: VmId) -> Result<VmFiles, StoreError> {
        let path = self.record_dir(id);
        create_dir(&path, 0o700)?;
        VmFiles::new(
            RecordFolder::open(path)?,
            self.vm_dir(id),
            self.shares_dir(id),
        )
    }

    /// The folders of a VM that an earlier daemon made. Dropping them deletes nothing.
    pub fn open_record(&self, id: VmId) -> Result<VmFiles, StoreError> {
        let record = RecordFolder::open(self.record_dir(id))?;
        let mut files = VmFiles::new(record, self.vm_dir(id), self.shares_dir(id))?;
        files.keep();
        Ok(files)
    }

    fn shares_dir(&self, id: VmId) -> PathBuf {
        match &self.secrets {
            Some(secrets) => secrets.join(id.to_string()),
            None => self.vm_dir(id).join("shares"),
        }
    }

    fn vm_dir(&self, id: VmId) -> PathBuf {
        self.path.join("vms").join(id.to_string())
    }

    /// The user of a VM that an earlier daemon made.
    pub fn user_of(&self, id: VmId) -> Option<u32> {
        std::fs::symlink_metadata(self.vm_dir(id))
            .ok()
            .map(|metadata| {
                // Root's folder has the group; a folder of the VM's own has the owner, which QEMU
                // cannot change.
                if metadata.uid() == 0 {
                    metadata.gid()
                } else {
                    metadata.uid()
                }
            })
    }

    /// Records that an earlier daemon left behind. One that does not parse is reported by name and
    /// stays where it is.
    pub fn left_records(&self) -> Result<Vec<LeftRecord>, StoreError> {
        let folder = self.path.join("records");
        let mut left = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(io_error(&folder, "listing it"))? {
            let entry = entry.map_err(io_error(&folder, "listing it"))?;
            let path = entry.path();
            let id = entry.file_name().to_str().and_then(VmId::parse);
            let content = id.map_or(LeftContent::Nothing, |id| read_left(id, &path));
            left.push(LeftRecord { path, id, content });
        }
        Ok(left)
    }

    /// Folders of VMs that have no record. The record is there before any of them and goes after
    /// them, so that somebody else took it away: they are told of, and left alone.
    pub fn report_orphans(&self) -> Result<(), StoreError> {
        let vms = self.path.join("vms");
        for folder in std::iter::once(vms.as_path()).chain(self.secrets()) {
            for entry in std::fs::read_dir(folder).map_err(io_error(folder, "listing it"))? {
                let entry = entry.map_err(io_error(folder, "listing it"))?;
                let id = entry.file_name().to_str().and_then(VmId::parse);
                if let Some(id) = id
                    && !self.record_dir(id).exists()
                {
                    tracing::warn!(path = %entry.path().display(), "a VM's folder without a record");
                }
            }
        }
        Ok(())
    }
}

fn read_left(id: VmId, path: &Path) -> LeftContent {
    let read = |name: &str| match regular_file::read(&path.join(name), MAX_RECORD) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let (vm, launch) = match (read("vm.json"), read("launch.json")) {
        (Ok(None), _) => return LeftContent::Nothing,
        (Ok(Some(vm)), Ok(launch)) => (vm, launch),
        (Err(error), _) | (_, Err(error)) => return LeftContent::Broken(error.to_string()),
    };
    match record::parse(id, &vm, launch.as_deref()) {
        Ok(found) => LeftContent::Record(Box::new(found)),
        Err(error) => LeftContent::Broken(error.to_string()),
    }
}

/// Whether `path` lies on a file system that no disk keeps (statfs(2)).
fn is_in_memory(path: &Path) -> bool {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    rustix::fs::statfs(path).is_ok_and(|status| [TMPFS_MAGIC, RAMFS_MAGIC].contains(&status.f_type))
}

#[derive(Debug)]
pub struct LeftRecord {
    pub path: PathBuf,
    /// `None`: the folder's name is no VM's.
    pub id: Option<VmId>,
    pub content: LeftContent,
}

#[derive(Debug)]
pub enum LeftContent {
    Record(Box<FoundRecord>),
    /// The daemon ended before it wrote one, and so before it started anything.
    Nothing,
    /// Newer than this daemon, or damaged.
    Broken(String),
}

/// `endpoints.json`, while it is true.
#[derive(Debug)]
pub struct Announcement {
    path: PathBuf,
}

impl Drop for Announcement {
    fn drop(&mut self) {
        log_failure(std::fs::remove_file(&self.path), &self.path);
    }
}

fn log_failure(result: io::Result<()>, path: &Path) {
    if let Err(error) = result
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::error!(path = %path.display(), %error, "it could not be deleted");
    }
}

fn create_dir(path: &Path, mode: u32) -> Result<(), StoreError> {
    std::fs::DirBuilder::new()
        .mode(mode)
        .create(path)
        .map_err(io_error(path, "making it"))?;
    // The umask may have taken bits away.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(io_error(path, "setting its mode"))
}

fn check_private(path: &Path, widest: u32) -> Result<(), StoreError> {
    let metadata = std::fs::symlink_metadata(path).map_err(io_error(path, "looking at it"))?;
    if !metadata.is_dir() {
        return Err(StoreError::NotADirectory {
            path: path.to_owned(),
        });
    }
    let wanted = rustix::process::geteuid().as_raw();
    if metadata.uid() != wanted {
        return Err(StoreError::Owner {
            path: path.to_owned(),
            owner: metadata.uid(),
            wanted,
        });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & !widest & 0o077 != 0 {
        return Err(StoreError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

/// Temporary file, fsync, rename, fsync of the folder: after a crash there is the old content or
/// the new one.
fn write_atomically(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let temporary = path.with_extension("new");
    let written = write_synced(&temporary, content)
        .and_then(|()| std::fs::rename(&temporary, path).map_err(io_error(path, "renaming it")));
    if written.is_err() {
        // On a full disk it would keep what room there is.
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error(folder, "syncing it"))
}

fn write_synced(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(io_error(path, "making it"))?;
    file.write_all(content)
        .map_err(io_error(path, "writing it"))?;
    file.sync_all().map_err(io_error(path, "syncing it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_that_others_can_change_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state");
        create_dir(&path, 0o711).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(
            StateDir::open(&path, Path::new("/no/such")),
            Err(StoreError::Mode { mode: 0o777, .. })
        ));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(
            StateDir::open(&path, Path::new("/no/such")),
            Err(StoreError::Mode { mode: 0o755, .. })
        ));
        std::fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/tmp", &path).unwrap();
        assert!(matches!(
            StateDir::open(&path, Path::new("/no/such")),
            Err(StoreError::NotADirectory { .. })
        ));
    }

    #[test]
    fn one_daemon_holds_a_state_directory_and_the_second_names_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state");
        let first = StateDir::open(&path, Path::new("/no/such")).unwrap();
        match StateDir::open(&path, Path::new("/no/such")) {
            Err(StoreError::Locked { holder, .. }) => {
                assert_eq!(holder, format!("process {}", std::process::id()));
            }
            other => panic!("{other:?}"),
        }
        let id = first.instance_id().unwrap();
        // What a child has of it between fork and exec.
        let _inherited = first._lock.0.try_clone().unwrap();
        drop(first);
        assert_eq!(
            StateDir::open(&path, Path::new("/no/such"))
                .unwrap()
                .instance_id()
                .unwrap(),
            id
        );
    }

    #[test]
    fn a_long_state_directory_does_not_break_the_monitor_socket() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("s".repeat(120));
        let state = StateDir::open(&path, Path::new("/no/such")).unwrap();
        let record = state.create_record(VmId::random()).unwrap();
        let _listener = record.record().listen().unwrap();
        record.record().connect().unwrap();
    }
}
