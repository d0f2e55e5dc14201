//! A UNIX socket in the file system: bound with its mode, in place of one that nobody serves any
//! more, and taken away at the end.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

/// Only who owns it connects.
const OWNER: u32 = 0o600;
/// The group connects as well.
const OWNER_AND_GROUP: u32 = 0o660;

/// For somebody who serves a socket to take a connection; one whose queue is full serves too.
const CONNECT_TIME: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error(
        "`{listener}.socket` is {path:?}, and something else than a socket lies there; it is not deleted",
        path = .path.display()
    )]
    NoSocket {
        listener: &'static str,
        path: PathBuf,
    },
    #[error(
        "`{listener}.socket` is {path:?}, which is served already",
        path = .path.display()
    )]
    InUse {
        listener: &'static str,
        path: PathBuf,
    },
    #[error("`{listener}.socket`: {path:?} cannot be served", path = .path.display())]
    Io {
        listener: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "`{listener}.socket_group` is {group:?}; wanted is the name or the number of a group of this host"
    )]
    NoGroup {
        listener: &'static str,
        group: String,
    },
}

impl SocketError {
    /// The key of the config that it is about.
    pub fn key(&self) -> String {
        match self {
            Self::NoSocket { listener, .. }
            | Self::InUse { listener, .. }
            | Self::Io { listener, .. } => format!("{listener}.socket"),
            Self::NoGroup { listener, .. } => format!("{listener}.socket_group"),
        }
    }
}

/// A socket that is served.
#[derive(Debug)]
pub struct LocalSocket {
    socket: UnixListener,
    // Goes after it.
    _file: SocketFile,
}

impl LocalSocket {
    /// Binds `path`, for its owner alone or for a group as well.
    pub async fn bind(
        listener: &'static str,
        path: &Path,
        group: Option<&str>,
    ) -> Result<Self, SocketError> {
        let io = |source| SocketError::Io {
            listener,
            path: path.to_owned(),
            source,
        };
        let gid = gid(listener, group)?;
        clear(listener, path).await?;
        let socket = UnixListener::bind(path).map_err(io)?;
        let file = SocketFile::of(path).map_err(io)?;
        // Who connects before this is judged by its user all the same, as every caller is.
        let mode = match gid {
            None => OWNER,
            Some(gid) => {
                std::os::unix::fs::chown(path, None, Some(gid)).map_err(io)?;
                OWNER_AND_GROUP
            }
        };
        std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(io)?;
        Ok(Self {
            socket,
            _file: file,
        })
    }

    /// What of it can be told without binding: whether there is the group, and that nothing else lies
    /// at `path`. Its folder may be made when the daemon starts, and another daemon may serve it now.
    pub fn check(
        listener: &'static str,
        path: &Path,
        group: Option<&str>,
    ) -> Result<(), SocketError> {
        gid(listener, group)?;
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => Err(SocketError::NoSocket {
                listener,
                path: path.to_owned(),
            }),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        self.socket.poll_accept(cx).map_ok(|(stream, _)| stream)
    }
}

/// Takes away a socket that nobody serves: of a daemon that was killed.
async fn clear(listener: &'static str, path: &Path) -> Result<(), SocketError> {
    let io = |source| SocketError::Io {
        listener,
        path: path.to_owned(),
        source,
    };
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NoSocket {
            listener,
            path: path.to_owned(),
        });
    }
    match tokio::time::timeout(CONNECT_TIME, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(io)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(Ok(_) | Err(_)) | Err(_) => Err(SocketError::InUse {
            listener,
            path: path.to_owned(),
        }),
    }
}

fn gid(listener: &'static str, group: Option<&str>) -> Result<Option<u32>, SocketError> {
    let Some(name) = group else {
        return Ok(None);
    };
    if let Ok(gid) = name.parse() {
        return Ok(Some(gid));
    }
    match nix::unistd::Group::from_name(name) {
        Ok(Some(group)) => Ok(Some(group.gid.as_raw())),
        Ok(None) | Err(_) => Err(SocketError::NoGroup {
            listener,
            group: crate::spec::printable(name),
        }),
    }
}

/// Deletes the socket that was bound, and no other that took its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            identity: identity(path)?,
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn a_socket_is_its_owners_or_its_groups_and_goes_with_its_guard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        let own_group = rustix::process::getegid().as_raw();
        for (group, wanted) in [(None, 0o600), (Some(own_group.to_string()), 0o660)] {
            let socket = LocalSocket::bind("grpc", &path, group.as_deref()).await;
            assert_eq!(mode(&path), wanted);
            drop(socket.unwrap());
            assert!(!path.exists());
        }
        let error = LocalSocket::bind("grpc", &path, Some("no such group")).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("`grpc.socket_group`"), "{error}");
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_nothing_else_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.sock");
        // The standard library leaves the file.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let live = LocalSocket::bind("http", &path, None).await.unwrap();
        let second = LocalSocket::bind("http", &path, None).await;
        assert!(matches!(second, Err(SocketError::InUse { .. })));
        // Another one took its place: its guard is not the first one's.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "data").unwrap();
        drop(live);
        let third = LocalSocket::bind("http", &path, None).await;
        assert!(matches!(third, Err(SocketError::NoSocket { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"data");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &link).unwrap();
        let linked = LocalSocket::bind("http", &link, None).await;
        assert!(matches!(linked, Err(SocketError::NoSocket { .. })));
    }
}
