//! The state directory: who may see what of it, records that survive, and folders of VMs.
//!
//! ```text
//! state_dir           0711  root: an unprivileged QEMU walks through it, and lists nothing
//! ├── lock            held while a daemon runs
//! ├── instance-id
//! ├── endpoints.json  where this daemon listens; there while it is ready
//! ├── records/        0700  ID/vm.json and the monitor's socket: the daemon's alone
//! └── vms/            0711
//!     └── ID/         0750  root's, with the group of that VM's QEMU: shares, console, variables
//! ```
//!
//! A VM's user can read its folder and write to its own files in it, but it can make nothing there:
//! a QEMU that was taken over could otherwise plant links, or a tree too deep to delete. Where the
//! daemon is not root, the folder is its own, with mode 0700.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::spec::VmId;
use crate::spec::facts::FactRecord;
use crate::spec::plan::LaunchPlan;
use crate::spec::request::RequestRecord;

/// Format of `vm.json`. Older formats are read for ever, newer ones are refused.
pub const RECORD_FORMAT: u32 = 1;

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

fn io_error(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        path,
        operation,
        source,
    }
}

/// What is kept of a VM, beside the guest's own files. No secret is in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VmRecord {
    pub format: u32,
    pub id: VmId,
    pub name: String,
    pub backend: String,
    pub backend_sha256: String,
    /// Technology, as the backend calls it; empty in records of before it was kept.
    #[serde(default)]
    pub tee: String,
    pub qemu_version: String,
    /// RFC 3339, UTC.
    pub created_at: String,
    pub expires_at: Option<String>,
    pub vcpus: u32,
    pub memory_bytes: u64,
    /// What the backend was asked, without the bytes of files and without secrets.
    pub request: RequestRecord,
    pub plan: LaunchPlan,
    /// The facts that the plan was made from: with the request it can be replayed.
    pub facts: FactRecord,
    pub command: Vec<String>,
    pub agent_address: Option<String>,
    pub process: Option<crate::qemu::process::ProcessIdentity>,
}

/// The locked state directory of a running daemon.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes or checks the directory and takes its lock.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
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
        lock.set_len(0)
            .map_err(io_error(&lock_path, "writing the lock"))?;
        (&lock)
            .write_all(std::process::id().to_string().as_bytes())
            .map_err(io_error(&lock_path, "writing the lock"))?;
        for (name, mode) in [("records", 0o700), ("vms", 0o711)] {
            let folder = path.join(name);
            if !folder.exists() {
                create_dir(&folder, mode)?;
            }
            check_private(&folder, mode)?;
        }
        Ok(Self { path, _lock: lock })
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

    /// Makes the record folder of a new VM.
    pub fn create_record(&self, id: VmId) -> Result<RecordFolder, StoreError> {
        let path = self.record_dir(id);
        create_dir(&path, 0o700)?;
        let handle = rustix::fs::open(
            &path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|error| io_error(&path, "opening it")(error.into()))?;
        Ok(RecordFolder {
            path,
            handle,
            is_kept: false,
        })
    }

    /// Makes the folder of a new VM.
    pub fn create_vm_folder(&self, id: VmId, access: FolderAccess) -> Result<VmFolder, StoreError> {
        let path = self.vm_dir(id);
        create_dir(&path, 0o700)?;
        let folder = VmFolder { path, access };
        folder.open_to_user(&folder.path)?;
        Ok(folder)
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
            let content = match std::fs::read(path.join("vm.json")) {
                Ok(bytes) => match parse_record(&bytes) {
                    Ok(record) => LeftContent::Record(Box::new(record)),
                    Err(reason) => LeftContent::Broken(reason),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => LeftContent::Nothing,
                Err(error) => LeftContent::Broken(error.to_string()),
            };
            left.push(LeftRecord { path, id, content });
        }
        Ok(left)
    }

    /// Deletes what belongs to a VM of an earlier daemon whose process is gone.
    pub fn delete_left(&self, id: VmId) -> Result<(), StoreError> {
        for path in [
            self.path.join("vms").join(id.to_string()),
            self.record_dir(id),
        ] {
            remove_tree(&path)?;
        }
        Ok(())
    }
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
    Record(Box<VmRecord>),
    /// The daemon ended before it wrote one, and so before it started anything.
    Nothing,
    /// Newer than this daemon, or damaged.
    Broken(String),
}

fn parse_record(bytes: &[u8]) -> Result<VmRecord, String> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let format: Format = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if format.format > RECORD_FORMAT {
        return Err(format!(
            "it has format {}, and this casemated reads up to {RECORD_FORMAT}: upgrade casemated",
            format.format
        ));
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
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

/// The daemon's own folder of one VM. Dropping it deletes it: the record goes last.
#[derive(Debug)]
pub struct RecordFolder {
    path: PathBuf,
    handle: OwnedFd,
    is_kept: bool,
}

impl RecordFolder {
    pub fn write(&self, record: &VmRecord) -> Result<(), StoreError> {
        let path = self.path.join("vm.json");
        let bytes = serde_json::to_vec_pretty(record)
            .map_err(|error| io_error(&path, "writing the record")(io::Error::other(error)))?;
        write_atomically(&path, &bytes)
    }

    /// The monitor's listening socket. It is reached through the folder's descriptor, because a
    /// socket path may have 107 bytes only, and a state directory more.
    pub fn listen(&self) -> Result<UnixListener, StoreError> {
        UnixListener::bind(self.socket_path())
            .map_err(io_error(&self.path, "making the QMP socket"))
    }

    pub fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.socket_path())
    }

    /// Leaves the record where it is, for the next daemon.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }

    fn socket_path(&self) -> String {
        use std::os::fd::AsRawFd as _;
        format!("/proc/self/fd/{}/qmp.sock", self.handle.as_fd().as_raw_fd())
    }
}

impl Drop for RecordFolder {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        log_failure(std::fs::remove_dir_all(&self.path), &self.path);
    }
}

/// A VM's own folder. Dropping it deletes it.
#[derive(Debug)]
pub struct VmFolder {
    path: PathBuf,
    access: FolderAccess,
}

/// Who may look into a VM's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderAccess {
    /// The daemon alone, as which QEMU runs too.
    Daemon,
    /// The group of this number, which is the VM's own, as is the user of the same number.
    Group(u32),
    /// This user, where QEMU's group is another: the folder has to be its own.
    Owner(u32),
}

impl VmFolder {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the VM's user look into a folder, and nobody else.
    fn open_to_user(&self, path: &Path) -> Result<(), StoreError> {
        let (user, group, mode) = match self.access {
            FolderAccess::Daemon => return Ok(()),
            FolderAccess::Group(group) => (None, Some(group), 0o750),
            FolderAccess::Owner(user) => (Some(user), Some(user), 0o700),
        };
        std::os::unix::fs::lchown(path, user, group)
            .map_err(io_error(path, "changing its owner"))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .map_err(io_error(path, "setting its mode"))
    }

    /// A folder in it for the VM to read.
    pub fn create_dir(&self, name: &str) -> Result<PathBuf, StoreError> {
        let path = self.path.join(name);
        create_dir(&path, 0o700)?;
        self.open_to_user(&path)?;
        Ok(path)
    }

    /// A new file at `path`, below this folder, that belongs to the VM's user.
    pub fn create_file(&self, path: &Path, mode: u32, content: &[u8]) -> Result<File, StoreError> {
        let mut file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .map_err(io_error(path, "making it"))?;
        file.write_all(content)
            .map_err(io_error(path, "writing it"))?;
        self.adopt(path)?;
        Ok(file)
    }

    /// Hands a file over to the VM's user.
    pub fn adopt(&self, path: &Path) -> Result<(), StoreError> {
        match self.access {
            FolderAccess::Daemon => Ok(()),
            FolderAccess::Group(user) | FolderAccess::Owner(user) => {
                std::os::unix::fs::lchown(path, Some(user), Some(user))
                    .map_err(io_error(path, "changing its owner"))
            }
        }
    }
}

impl VmFolder {
    /// Deletes the folder; whether it is gone.
    pub fn delete(&self) -> bool {
        log_failure(std::fs::remove_dir_all(&self.path), &self.path);
        !self.path.exists()
    }
}

impl Drop for VmFolder {
    fn drop(&mut self) {
        if self.path.exists() {
            self.delete();
        }
    }
}

fn log_failure(result: io::Result<()>, path: &Path) {
    if let Err(error) = result
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::error!(path = %path.display(), %error, "it could not be deleted");
    }
}

fn remove_tree(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error(path, "deleting it")(error))
        }
        _ => Ok(()),
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
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io_error(&temporary, "making it"))?;
    file.write_all(content)
        .map_err(io_error(&temporary, "writing it"))?;
    file.sync_all()
        .map_err(io_error(&temporary, "syncing it"))?;
    std::fs::rename(&temporary, path).map_err(io_error(path, "renaming it"))?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error(folder, "syncing it"))
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
            StateDir::open(&path),
            Err(StoreError::Mode { mode: 0o777, .. })
        ));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(
            StateDir::open(&path),
            Err(StoreError::Mode { mode: 0o755, .. })
        ));
        std::fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/tmp", &path).unwrap();
        assert!(matches!(
            StateDir::open(&path),
            Err(StoreError::NotADirectory { .. })
        ));
    }

    #[test]
    fn one_daemon_holds_a_state_directory_and_the_second_names_it() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state");
        let first = StateDir::open(&path).unwrap();
        match StateDir::open(&path) {
            Err(StoreError::Locked { holder, .. }) => {
                assert_eq!(holder, format!("process {}", std::process::id()));
            }
            other => panic!("{other:?}"),
        }
        let id = first.instance_id().unwrap();
        drop(first);
        assert_eq!(StateDir::open(&path).unwrap().instance_id().unwrap(), id);
    }

    #[test]
    fn a_record_of_a_newer_format_is_refused_with_the_reason() {
        let error = parse_record(br#"{"format": 99, "new": true}"#).unwrap_err();
        assert!(
            error.contains("format 99") && error.contains("upgrade"),
            "{error}"
        );
        assert!(parse_record(b"{}").is_err());
        assert!(parse_record(b"{\"format\":1}").is_err());
    }

    #[test]
    fn a_long_state_directory_does_not_break_the_monitor_socket() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("s".repeat(120));
        let state = StateDir::open(&path).unwrap();
        let record = state.create_record(VmId::random()).unwrap();
        let _listener = record.listen().unwrap();
        record.connect().unwrap();
    }
}
