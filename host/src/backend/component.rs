//! The load pipeline: from a path in config to a backend in service.
//!
//! The order is fixed and each step has its own error: read once, size, digest pin, kind of file,
//! compile those bytes, tier, contract version, link, probe `describe`, settings and grants.
//! Precompiled code is never accepted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component, HasSelf, Linker};

use super::bindings::measurement::MeasurementPart;
use super::bindings::tool::MeasurementToolPart;
use super::bindings::{TeeBackend, TeeBackendPre};
use super::call::{self, Fault};
use super::catalog::BackendConfig;
use super::describe::{self, BackendInfo, DescribeError};
use super::digests::DigestCache;
use super::engine::{BackendEngine, Limits};
use super::imports::{Access, CallState};
use super::settings::{self, PlacedError, SettingError, SettingInput, SharedSetting};
use crate::regular_file::{self, ReadError};
use crate::spec::permissions::Permissions;
use crate::spec::{Origin, printable};

/// Prefix of the contract's names in a component.
const PACKAGE: &str = "casemate:tee/";
/// Versions that this host serves: the whole of 0.1, by semantic versioning.
const SERVED: &str = "0.1";
/// Interfaces of the contract that a component may import.
const OFFERED: [&str; 4] = ["types", "files", "facts", "log"];

/// Why a component is not in service. The operator must act, or the vendor where it says so.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{path:?} cannot be read", path = .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path:?} is larger than the limit of {} MiB", .limit >> 20, path = .path.display())]
    TooLarge { path: PathBuf, limit: usize },
    #[error("no digest is pinned for {path:?}: set `sha256 = \"{actual}\"` if this is the component you mean, or `allow_unpinned = true`", path = .path.display())]
    Unpinned { path: PathBuf, actual: String },
    #[error("{path:?} has SHA-256 {actual}, but config pins {pinned}: the file was changed or replaced; put the pinned file back, or pin the new digest once you trust it", path = .path.display())]
    DigestMismatch {
        path: PathBuf,
        pinned: String,
        actual: String,
    },
    #[error("{path:?} is {found}, not a WebAssembly component", path = .path.display())]
    NotAComponent { path: PathBuf, found: &'static str },
    #[error("{path:?} is not a valid component: {message}", path = .path.display())]
    Invalid { path: PathBuf, message: String },
    #[error("it imports {}, which the `strict` tier does not offer: build it for wasm32-unknown-unknown, so that it imports nothing but {PACKAGE}*", .imports.join(", "))]
    UndeclaredImports { imports: Vec<String> },
    #[error(
        "it was built against {PACKAGE}backend@{found}, and this host serves {SERVED}.x: {who} must be upgraded"
    )]
    ApiVersion { found: String, who: &'static str },
    #[error("it exports no {PACKAGE}backend@{SERVED}.x interface, so it is no backend")]
    NoBackendExport,
    #[error("it does not fit the contract {PACKAGE}backend@{SERVED}: {message}")]
    Link { message: String },
    #[error("its `describe` failed: {0}")]
    Probe(#[source] Fault),
    #[error("its `describe` breaks a rule: {0}")]
    Describe(#[source] DescribeError),
    #[error("{0}")]
    Setting(#[source] PlacedError),
}

impl LoadError {
    /// Who acts, and how: the message says with what.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => {
                "put the component there, readable for casemated, and reload casemated (SIGHUP)"
            }
            Self::Unpinned { .. } | Self::DigestMismatch { .. } => {
                "compare the file with what its vendor published, and reload casemated (SIGHUP) when file and `sha256` agree"
            }
            Self::TooLarge { .. } | Self::NotAComponent { .. } | Self::Invalid { .. } => {
                "put the vendor's component there, and reload casemated (SIGHUP)"
            }
            Self::ApiVersion { .. } => {
                "install versions of casemated and of the backend that fit each other"
            }
            Self::UndeclaredImports { .. }
            | Self::NoBackendExport
            | Self::Link { .. }
            | Self::Probe(_)
            | Self::Describe(_) => "report it to the backend's vendor, and use another version",
            Self::Setting(_) => {
                "mend `[backend.settings]` in the config file, and reload casemated (SIGHUP)"
            }
        }
    }
}

/// A backend in service.
pub struct LoadedBackend {
    name: Arc<str>,
    path: PathBuf,
    sha256: String,
    api_version: String,
    info: BackendInfo,
    /// Announced and granted.
    permissions: Arc<Permissions>,
    operator_settings: Vec<SettingInput>,
    limits: Limits,
    optional: Optional,
    digests: Arc<DigestCache>,
    pre: TeeBackendPre<CallState>,
}

/// Interfaces that a backend may export, found by their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Optional {
    pub measurement: bool,
    pub tool: bool,
}

impl std::fmt::Debug for LoadedBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedBackend")
            .field("name", &self.name)
            .field("sha256", &self.sha256)
            .finish_non_exhaustive()
    }
}

impl LoadedBackend {
    /// Runs the whole pipeline. Compilation happens on a blocking thread.
    pub async fn load(
        engine: &BackendEngine,
        config: &BackendConfig,
        shared: &[SharedSetting],
    ) -> Result<Self, LoadError> {
        let limits = engine.limits();
        let path = config.path.clone();
        let pin = Pin::of(config);
        let compiler = engine.clone();
        let compiled = tokio::task::spawn_blocking(move || {
            let bytes = read_capped(&path, limits.component_bytes)?;
            let sha256 = hex::encode(Sha256::digest(&bytes));
            pin.verify(&path, &sha256)?;
            let component = compile(&compiler, &path, &bytes)?;
            Ok::<_, LoadError>((component, sha256))
        })
        .await;
        let (component, sha256) = match compiled {
            Ok(result) => result?,
            Err(panic) => {
                return Err(LoadError::Invalid {
                    path: config.path.clone(),
                    message: printable(&format!("the compiler failed: {panic}")),
                });
            }
        };
        let (api_version, optional) = check_interfaces(engine, &component)?;
        let pre = link(engine, &component)?;
        let name: Arc<str> = config.name.as_str().into();
        let (wit, _) = call::run(&pre, &name, limits, Access::None, |instance, store| {
            Box::pin(async move {
                // A component whose optional functions do not fit is found out now, and not at the
                // first VM.
                if optional.measurement {
                    call::fitting(MeasurementPart::new(&mut *store, instance))?;
                }
                if optional.tool {
                    call::fitting(MeasurementToolPart::new(&mut *store, instance))?;
                }
                let backend = call::fitting(TeeBackend::new(&mut *store, instance))?;
                backend.casemate_tee_backend().call_describe(store).await
            })
        })
        .await
        .map_err(|fault| match fault {
            Fault::Misfit { message } => LoadError::Link { message },
            fault => LoadError::Probe(fault),
        })?;
        let info = describe::from_wit(wit).map_err(LoadError::Describe)?;
        let operator_settings = settings::from_config(&info.settings, &config.settings, shared)
            .map_err(LoadError::Setting)?;
        let permissions = Arc::new(describe::effective(&info, &config.grants));
        Ok(Self {
            name,
            path: config.path.clone(),
            sha256,
            api_version,
            info,
            permissions,
            operator_settings,
            limits,
            optional,
            digests: Arc::clone(engine.digests()),
            pre,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Of the bytes that were compiled, hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    pub fn api_version(&self) -> &str {
        &self.api_version
    }

    pub fn info(&self) -> &BackendInfo {
        &self.info
    }

    pub fn permissions(&self) -> &Arc<Permissions> {
        &self.permissions
    }

    /// Settings for one call: built-in defaults, then the operator's, then the request's.
    pub fn settings_for(
        &self,
        request: &std::collections::BTreeMap<String, String>,
    ) -> Result<Vec<(SettingInput, Origin)>, SettingError> {
        settings::merge(&self.info.settings, &self.operator_settings, request)
    }

    /// The same backend with all that it announces granted: for facts that nobody looks up.
    #[must_use]
    pub fn granted_as_announced(self) -> Self {
        Self {
            permissions: Arc::new(self.info.announced.clone()),
            ..self
        }
    }

    pub(super) fn name_handle(&self) -> &Arc<str> {
        &self.name
    }

    /// What it exports beside `backend`.
    pub fn optional(&self) -> Optional {
        self.optional
    }

    pub(super) fn digests(&self) -> &Arc<DigestCache> {
        &self.digests
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn pre(&self) -> &TeeBackendPre<CallState> {
        &self.pre
    }
}

fn read_capped(path: &Path, limit: usize) -> Result<Vec<u8>, LoadError> {
    regular_file::read(path, limit as u64).map_err(|error| match error {
        ReadError::Io(source) => LoadError::Unreadable {
            path: path.to_owned(),
            source,
        },
        ReadError::TooLarge => LoadError::TooLarge {
            path: path.to_owned(),
            limit,
        },
    })
}

enum Pin {
    Digest(String),
    Unpinned,
    Missing,
}

impl Pin {
    fn of(config: &BackendConfig) -> Self {
        match (&config.sha256, config.allow_unpinned) {
            (Some(digest), _) => Self::Digest(digest.to_ascii_lowercase()),
            (None, true) => Self::Unpinned,
            (None, false) => Self::Missing,
        }
    }

    fn verify(self, path: &Path, actual: &str) -> Result<(), LoadError> {
        match self {
            Self::Digest(pinned) if pinned == actual => Ok(()),
            Self::Digest(pinned) => Err(LoadError::DigestMismatch {
                path: path.to_owned(),
                pinned,
                actual: actual.to_owned(),
            }),
            Self::Unpinned => Ok(()),
            Self::Missing => Err(LoadError::Unpinned {
                path: path.to_owned(),
                actual: actual.to_owned(),
            }),
        }
    }
}

fn compile(engine: &BackendEngine, path: &Path, bytes: &[u8]) -> Result<Component, LoadError> {
    let found = match bytes {
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => None,
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => {
            Some("a core module (wrap it with `wasm-tools component new`)")
        }
        [0x7f, b'E', b'L', b'F', ..] => Some("machine code (precompiled code is never accepted)"),
        [] => Some("empty"),
        _ if bytes
            .iter()
            .take(64)
            .all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) =>
        {
            Some("text (compile it to the binary format)")
        }
        _ => Some("something else"),
    };
    if let Some(found) = found {
        return Err(LoadError::NotAComponent {
            path: path.to_owned(),
            found,
        });
    }
    Component::from_binary(engine.wasmtime(), bytes).map_err(|error| LoadError::Invalid {
        path: path.to_owned(),
        message: printable(&format!("{error:#}")),
    })
}

/// Tier and contract version, before anything of the component runs or is linked: the linker's own
/// messages name neither.
fn check_interfaces(
    engine: &BackendEngine,
    component: &Component,
) -> Result<(String, Optional), LoadError> {
    let ty = component.component_type();
    let version_of = |name: &str| {
        let (_, version) = name.strip_prefix(PACKAGE)?.split_once('@')?;
        Some(version.to_owned())
    };
    let mut strange = Vec::new();
    let mut versions = Vec::new();
    for (name, _) in ty.imports(engine.wasmtime()) {
        let interface = name
            .strip_prefix(PACKAGE)
            .and_then(|rest| rest.split('@').next());
        if interface.is_some_and(|interface| OFFERED.contains(&interface)) {
            versions.extend(version_of(name));
        } else {
            strange.push(printable(name));
        }
    }
    let exported = |interface: &str| {
        ty.exports(engine.wasmtime()).find_map(|(name, _)| {
            let (found, version) = name.strip_prefix(PACKAGE)?.split_once('@')?;
            (found == interface).then(|| version.to_owned())
        })
    };
    let backend = exported("backend");
    let (measurement, tool) = (exported("measurement"), exported("measurement-tool"));
    let optional = Optional {
        measurement: measurement.is_some(),
        tool: tool.is_some(),
    };
    versions.extend([backend.clone(), measurement, tool].into_iter().flatten());
    if let Some(found) = versions.into_iter().find(|version| !is_served(version)) {
        let who = if is_newer(&found) {
            "the host"
        } else {
            "the backend"
        };
        return Err(LoadError::ApiVersion {
            found: printable(&found),
            who,
        });
    }
    if !strange.is_empty() {
        return Err(LoadError::UndeclaredImports { imports: strange });
    }
    match backend {
        Some(backend) => Ok((backend, optional)),
        None => Err(LoadError::NoBackendExport),
    }
}

fn is_served(version: &str) -> bool {
    version.strip_prefix(SERVED).is_some_and(|rest| {
        rest.strip_prefix('.')
            .is_some_and(|patch| patch.bytes().all(|b| b.is_ascii_digit()))
    })
}

fn is_newer(version: &str) -> bool {
    let number = |text: &str| -> (u64, u64) {
        let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    number(version) > number(SERVED)
}

fn link(
    engine: &BackendEngine,
    component: &Component,
) -> Result<TeeBackendPre<CallState>, LoadError> {
    let message = |error: wasmtime::Error| LoadError::Link {
        message: printable(&format!("{error:#}")),
    };
    let mut linker = Linker::new(engine.wasmtime());
    TeeBackend::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut CallState| state)
        .map_err(message)?;
    TeeBackendPre::new(linker.instantiate_pre(component).map_err(message)?).map_err(message)
}
