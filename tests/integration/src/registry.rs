//! A real registry (CNCF Distribution, the package `docker-registry`) on loopback, in a folder of its
//! own.

use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::artifacts;
use crate::certificates::Leaf;
use crate::daemon::free_port;

const PATIENCE: Duration = Duration::from_secs(30);

/// Ends with its guard.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: SocketAddr,
    pub folder: TempDir,
}

impl Registry {
    /// One that lets everybody in. None, and why on standard output, where there is none.
    pub fn start() -> Option<Self> {
        Self::with("")
    }

    /// One that asks for this user, whose password is given as `htpasswd -B` writes it.
    pub fn with_user(htpasswd: &str) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let users = folder.path().join("htpasswd");
        std::fs::write(&users, htpasswd).expect("a file");
        let auth = format!(
            "auth:\n  htpasswd:\n    realm: tests\n    path: {}\n",
            users.display()
        );
        Self::in_folder(folder, &auth)
    }

    /// One that speaks TLS alone.
    pub fn over_tls(server: &Leaf) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let (certificate, key) = (folder.path().join("tls.pem"), folder.path().join("tls.key"));
        std::fs::write(&certificate, &server.certificate).expect("a file");
        std::fs::write(&key, &server.key).expect("a file");
        // It goes on with the table `http`.
        let tls = format!(
            "  tls:\n    certificate: {}\n    key: {}\n",
            certificate.display(),
            key.display()
        );
        Self::in_folder(folder, &tls)
    }

    fn with(config: &str) -> Option<Self> {
        Self::in_folder(tempfile::tempdir().expect("a folder"), config)
    }

    fn in_folder(folder: TempDir, further: &str) -> Option<Self> {
        let program = artifacts::distribution("docker-registry")?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let storage = folder.path().join("storage");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{further}",
            storage.display()
        );
        let path = folder.path().join("config.yml");
        std::fs::write(&path, config).expect("a file");
        let log = std::fs::File::create(folder.path().join("log")).expect("a file");
        #[expect(clippy::disallowed_methods, reason = "the registry of the tests")]
        let child = Command::new(program)
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the registry starts");
        let registry = Self {
            child,
            address,
            folder,
        };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            let log = std::fs::read_to_string(registry.folder.path().join("log"));
            assert!(Instant::now() < deadline, "no registry: {log:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(registry)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
