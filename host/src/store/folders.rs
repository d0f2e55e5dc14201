//! The folders of one VM, as guards: until they are told to stay, dropping them deletes them, the
//! record last.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use super::record::{LaunchRecord, VmRecord};
use super::{StoreError, create_dir, io_error, log_failure, write_atomically};

/// Starts whose console is kept.
pub const KEPT_STARTS: u32 = 3;

/// Everything of a VM on disk.
#[derive(Debug)]
pub struct VmFiles {
    /// The VM's own folder, and that of its shares; made when it has a user.
    folder: VmFolder,
    shares: VmFolder,
    record: RecordFolder,
    is_kept: bool,
}

impl VmFiles {
    pub(super) fn new(
        record: RecordFolder,
        folder: PathBuf,
        shares: PathBuf,
    ) -> Result<Self, StoreError> {
        let access = FolderAccess::Daemon;
        Ok(Self {
            folder: VmFolder {
                path: folder,
                access,
            },
            shares: VmFolder {
                path: shares,
                access,
            },
            record,
            is_kept: false,
        })
    }

    pub fn record(&self) -> &RecordFolder {
        &self.record
    }

    pub fn folder(&self) -> &VmFolder {
        &self.folder
    }

    pub fn shares(&self) -> &VmFolder {
        &self.shares
    }

    /// Makes what is missing of the VM's folders, for a QEMU with `access`.
    pub fn make_folders(&mut self, access: FolderAccess) -> Result<(), StoreError> {
        for folder in [&mut self.folder, &mut self.shares] {
            folder.access = access;
            if !folder.path.exists() {
                create_dir(&folder.path, 0o700)?;
            }
            folder.open_to_user(&folder.path)?;
        }
        Ok(())
    }

    /// From now on dropping deletes nothing.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }

    /// Deletes all of it, the record last; whether it is gone. Files that cannot be deleted keep
    /// their record, so that the next daemon knows whose they are.
    pub fn delete(&mut self) -> bool {
        self.is_kept = true;
        let is_deleted = self.shares.delete() & self.folder.delete();
        is_deleted && self.record.delete()
    }
}

impl Drop for VmFiles {
    fn drop(&mut self) {
        if !self.is_kept {
            self.delete();
        }
    }
}

/// The daemon's own folder of one VM.
#[derive(Debug)]
pub struct RecordFolder {
    path: PathBuf,
    handle: OwnedFd,
}

impl RecordFolder {
    pub(super) fn open(path: PathBuf) -> Result<Self, StoreError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let handle = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|error| io_error(&path, "opening it")(error.into()))?;
        Ok(Self { path, handle })
    }

    /// The same folder, for another task.
    pub fn try_clone(&self) -> Result<Self, StoreError> {
        Ok(Self {
            path: self.path.clone(),
            handle: self
                .handle
                .try_clone()
                .map_err(io_error(&self.path, "opening it"))?,
        })
    }

    pub fn write(&self, record: &VmRecord) -> Result<(), StoreError> {
        self.write_json("vm.json", record)
    }

    pub fn write_launch(&self, launch: &LaunchRecord) -> Result<(), StoreError> {
        self.write_json("launch.json", launch)
    }

    fn write_json(&self, name: &str, value: &impl serde::Serialize) -> Result<(), StoreError> {
        let path = self.path.join(name);
        let bytes = serde_json::to_vec_pretty(value)
            .map_err(|error| io_error(&path, "writing the record")(io::Error::other(error)))?;
        write_atomically(&path, &bytes)
    }

    /// The monitor's listening socket. It is reached through the folder's descriptor, because a
    /// socket path may have 107 bytes only, and a state directory more.
    pub fn listen(&self) -> Result<UnixListener, StoreError> {
        // One of an earlier QEMU of this VM, which is gone: nobody else can make anything here.
        self.remove_file("qmp.sock")?;
        UnixListener::bind(self.socket_path())
            .map_err(io_error(&self.path, "making the QMP socket"))
    }

    /// Never waits, and neither does the stream: a QEMU that was taken over may leave connections
    /// unaccepted until the queue is full, which is [`io::ErrorKind::WouldBlock`].
    pub fn connect(&self) -> io::Result<UnixStream> {
        let address = SocketAddrUnix::new(self.socket_path())?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &address)?;
        Ok(UnixStream::from(socket))
    }

    /// A new, empty file.
    pub fn create_file(&self, name: &str) -> Result<File, StoreError> {
        self.remove_file(name)?;
        let path = self.path.join(name);
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error(&path, "making it"))
    }

    /// A file that is there; none where it is not.
    pub fn open_file(&self, name: &str) -> Result<Option<File>, StoreError> {
        let path = self.path.join(name);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(&path, "opening it")(error)),
        }
    }

    pub fn remove_file(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error(&path, "deleting it")(error))
            }
            _ => Ok(()),
        }
    }

    /// Whether it never came to a record.
    pub fn is_bare(&self) -> bool {
        std::fs::read_dir(&self.path)
            .is_ok_and(|entries| entries.flatten().all(|entry| entry.file_name() == "vm.new"))
    }

    /// Of a launcher that writes here.
    pub fn cannot_log(&self, source: io::Error) -> StoreError {
        io_error(&self.path, "making the logs")(source)
    }

    fn socket_path(&self) -> String {
        format!("/proc/self/fd/{}/qmp.sock", self.handle.as_fd().as_raw_fd())
    }

    fn delete(&self) -> bool {
        // The record itself is the last file: as long as there is anything, there is its record.
        if let Ok(entries) = std::fs::read_dir(&self.path) {
            for entry in entries.flatten() {
                if entry.file_name() != "vm.json" {
                    log_failure(std::fs::remove_file(entry.path()), &entry.path());
                }
            }
        }
        log_failure(std::fs::remove_dir_all(&self.path), &self.path);
        !self.path.exists()
    }
}

/// A folder that belongs to a VM.
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
}

impl VmFolder {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the VM's user look into a folder, and nobody else.
    fn open_to_user(&self, path: &Path) -> Result<(), StoreError> {
        let FolderAccess::Group(group) = self.access else {
            return Ok(());
        };
        std::os::unix::fs::lchown(path, None, Some(group))
            .map_err(io_error(path, "changing its owner"))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o750))
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
            FolderAccess::Group(user) => std::os::unix::fs::lchown(path, Some(user), Some(user))
                .map_err(io_error(path, "changing its owner")),
        }
    }

    fn delete(&self) -> bool {
        log_failure(std::fs::remove_dir_all(&self.path), &self.path);
        !self.path.exists()
    }
}
