//! What a component is held against, and which hosts are talked to: options that several verbs have.

use std::path::PathBuf;
use std::time::Duration;

use casemate_host::backend::signature::{TrustedKey, TrustedKeys};
use casemate_registry::{
    Credential, Digest, DockerConfig, Host, Mirror, Options, Reference, Transport,
};

use super::lock::{FILE, Lock};
use super::refused::Refused;
use crate::screen::Screen;

const REGISTRY_OPTIONS: &str = "Options of registries";

#[derive(Debug, clap::Args)]
pub(super) struct PlainArguments {
    /// Host that is asked over plain HTTP, as this machine is anyway; may be given several times.
    ///
    /// Everybody on the way reads and changes what is sent, passwords among it.
    #[arg(long, help_heading = REGISTRY_OPTIONS, value_name = "HOST")]
    insecure_http: Vec<Host>,
}

#[derive(Debug, clap::Args)]
pub(super) struct HostArguments {
    #[command(flatten)]
    plain: PlainArguments,

    /// Host to which a download may be redirected; may be given several times.
    ///
    /// Many registries keep their content on another host. None is followed that is not named.
    #[arg(long, help_heading = REGISTRY_OPTIONS, value_name = "HOST")]
    redirect_to: Vec<Host>,
}

impl PlainArguments {
    /// What is sent is sent to nobody else.
    pub(super) fn transport(&self, timeout: Duration) -> Result<Transport, Refused> {
        self.with_redirects(timeout, &[])
    }

    fn with_redirects(&self, timeout: Duration, hosts: &[Host]) -> Result<Transport, Refused> {
        Ok(Transport::new(Options {
            timeout,
            plain_http: self.insecure_http.clone(),
            redirect_hosts: hosts.to_vec(),
        })?)
    }
}

impl HostArguments {
    pub(super) fn transport(&self, timeout: Duration) -> Result<Transport, Refused> {
        self.plain.with_redirects(timeout, &self.redirect_to)
    }
}

/// Who this user is to the registry.
pub(super) async fn credential(reference: &Reference) -> Result<Option<Credential>, Refused> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let Some(path) = DockerConfig::path(variable("DOCKER_CONFIG"), variable("HOME")) else {
        return Ok(None);
    };
    Ok(DockerConfig::read(&path)?.credential(reference).await?)
}

#[derive(Debug, clap::Args)]
pub(super) struct TrustArguments {
    /// SHA-256 that the component has to have.
    #[arg(long, value_name = "DIGEST")]
    pub(super) sha256: Option<Digest>,

    /// Public key of which a signature is asked for, or its file: cosign.pub or minisign's .pub; may
    /// be given several times, and one is enough.
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<String>,

    /// Lock file that `casemate backend pin` writes; casemate-backends.lock of this folder otherwise.
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
}

/// All that a component is held against.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) sha256: Option<Digest>,
    pub(super) keys: Option<TrustedKeys>,
    pub(super) lock: Lock,
    pub(super) downgrade: Downgrade,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Downgrade {
    Refused,
    Allowed,
}

impl Downgrade {
    pub(super) fn of(is_allowed: bool) -> Self {
        match is_allowed {
            true => Self::Allowed,
            false => Self::Refused,
        }
    }
}

impl Trust {
    /// Where it is so, that nobody has said what the component is but who keeps it.
    pub(super) fn remark(&self, reference: &Reference, is_signed: bool, screen: &Screen) {
        if self.sha256.is_none() && reference.digest().is_none() && !is_signed {
            screen.write_remark(
                "nobody but the registry says that this is the component: name its vendor's --key, \
                 or what --sha256 it has\n",
            );
        }
    }
}

impl TrustArguments {
    /// Keys and lock are read before anything is asked of anybody.
    pub(super) fn read(&self, downgrade: Downgrade) -> Result<Trust, Refused> {
        let keys = match self.keys.as_slice() {
            [] => None,
            keys => Some(TrustedKeys::read(keys)?),
        };
        Ok(Trust {
            sha256: self.sha256,
            keys,
            lock: match &self.lock {
                Some(path) => Lock::read(path)?,
                None => Lock::read_if_there(&PathBuf::from(FILE))?,
            },
            downgrade,
        })
    }

    /// The lock file that is written, which may not be there yet.
    pub(super) fn read_to_write(&self, downgrade: Downgrade) -> Result<Trust, Refused> {
        let path = self.lock.clone().unwrap_or_else(|| PathBuf::from(FILE));
        let without = Self {
            sha256: self.sha256,
            keys: self.keys.clone(),
            lock: None,
        };
        Ok(Trust {
            lock: Lock::read_if_there(&path)?,
            ..without.read(downgrade)?
        })
    }

    /// As the daemon's config names them.
    pub(super) fn key_sources(&self) -> Vec<String> {
        let sources = self.keys.iter().map(|source| {
            let path = PathBuf::from(source);
            match path.is_file() {
                true => super::component::absolute(&path).display().to_string(),
                false => source.clone(),
            }
        });
        sources.collect()
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct MirrorArguments {
    /// Mirror that is asked before the registry: an http(s) address or a folder with files
    /// SHA256.wasm; may be given several times.
    ///
    /// The digest has to be known, by --sha256 or the lock file, so a mirror need not be trusted.
    #[arg(long = "mirror", help_heading = REGISTRY_OPTIONS, value_name = "URL|FOLDER")]
    mirrors: Vec<String>,
}

impl MirrorArguments {
    pub(super) fn read(&self) -> Result<Vec<Mirror>, Refused> {
        let mirrors: Result<_, _> = self.mirrors.iter().map(|one| Mirror::parse(one)).collect();
        Ok(mirrors?)
    }
}

/// What is known of who signed.
pub(super) fn key_id(key: Option<&TrustedKey>) -> Option<String> {
    key.map(|key| key.id().to_owned())
}
