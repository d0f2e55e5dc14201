//! Other people's programs that sign components: `openssl`, which makes what `cosign sign-blob --key`
//! makes, and minisign.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::artifacts;

/// A pair of keys.
#[derive(Debug)]
pub struct Signer {
    folder: TempDir,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Cosign,
    Minisign,
}

impl Signer {
    pub fn cosign() -> Self {
        let signer = Self::new(Kind::Cosign);
        let (key, public) = (signer.path("key"), signer.path("pub"));
        let curve = [
            "ecparam",
            "-name",
            "prime256v1",
            "-genkey",
            "-noout",
            "-out",
        ];
        run(program("openssl").args(curve).arg(&key));
        run(program("openssl")
            .args(["ec", "-pubout", "-in"])
            .arg(&key)
            .arg("-out")
            .arg(public));
        signer
    }

    /// None, and why on standard output, where there is no minisign.
    pub fn minisign() -> Option<Self> {
        let signer = Self::new(Kind::Minisign);
        let mut command = minisign()?;
        command.args(["-G", "-W", "-p"]).arg(signer.path("pub"));
        run(command.arg("-s").arg(signer.path("key")));
        Some(signer)
    }

    fn new(kind: Kind) -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            kind,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The private one.
    pub fn key(&self) -> PathBuf {
        self.path("key")
    }

    pub fn public_key(&self) -> PathBuf {
        self.path("pub")
    }

    /// Where a signature of `file` lies.
    pub fn beside(&self, file: &Path) -> PathBuf {
        let ending = match self.kind {
            Kind::Cosign => "sig",
            Kind::Minisign => "minisig",
        };
        PathBuf::from(format!("{}.{ending}", file.display()))
    }

    /// Writes a signature beside the file.
    pub fn sign(&self, file: &Path) -> PathBuf {
        let signature = self.beside(file);
        match self.kind {
            Kind::Cosign => {
                let mut command = program("openssl");
                command
                    .args(["dgst", "-sha256", "-sign"])
                    .arg(self.path("key"));
                let der = run(command.arg(file));
                std::fs::write(&signature, STANDARD.encode(der)).expect("a file");
            }
            Kind::Minisign => {
                let mut command = minisign().expect("it was there when the keys were made");
                command.args(["-S", "-W", "-s"]).arg(self.path("key"));
                run(command.arg("-m").arg(file).arg("-x").arg(&signature));
            }
        }
        signature
    }
}

fn program(name: impl AsRef<std::ffi::OsStr>) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "programs that sign for the tests"
    )]
    Command::new(name)
}

fn minisign() -> Option<Command> {
    let path = artifacts::distribution("minisign")?;
    let mut command = program(&path);
    command.env("LD_LIBRARY_PATH", path.with_file_name("lib"));
    Some(command)
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output.stdout
}
