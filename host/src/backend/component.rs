//! The load pipeline: from a path in config to a backend in service.
//!
//! The order is fixed and each step has its own error: read once, size, digest pin, signature, kind of
//! file, complexity, compile those bytes, tier, contract version, link, probe `describe`, settings and
//! grants.
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
use super::complexity::{self, TooComplex};
use super::describe::{self, BackendInfo, DescribeError};
use super::digests::DigestCache;
use super::engine::{BackendEngine, Limits};
use super::imports::{Access, CallState};
use super::settings::{self, PlacedError, SettingError, SettingInput, SharedSetting};
use super::signature::{SignatureError, TrustedKeys};
use super::tier::Tier;
use super::wasi;
use crate::regular_file::{self, ReadError};
use crate::spec::permissions::Permissions;
use crate::spec::{Origin, printable_start};

/// Prefix of the contract's names in a component.
const PACKAGE: &str = "casemate:tee/";
/// The version of the contract that this host was built with. By semantic versioning it serves all
/// of its major version: later minors only add functions to what a component may import, and one
/// that needs such a function does not link.
const SERVED: ContractVersion = ContractVersion { major: 1, minor: 0 };
/// Who has to be upgraded.
const HOST: &str = "the host";
const BACKEND: &str = "the backend";
/// Characters of what the compiler or linker says, which quotes the component.
const MOST_SAID: usize = 2_000;
/// Of imports that are not offered, those that are named, and how much of a name: a list of backends
/// has them all.
const MOST_NAMES: usize = 50;
const LONGEST_NAME: usize = 200;
/// Bytes of what a component says of itself; real ones say some 10 KiB. Lists of backends have it all.
const MOST_DESCRIBED: usize = 512 << 10;
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
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("{path:?} is {found}, not a WebAssembly component", path = .path.display())]
    NotAComponent { path: PathBuf, found: &'static str },
    #[error("{path:?} is more than a backend is", path = .path.display())]
    TooComplex {
        path: PathBuf,
        #[source]
        source: TooComplex,
    },
    #[error("{path:?} is not a valid component: {message}", path = .path.display())]
    Invalid { path: PathBuf, message: String },
    #[error("it imports {imports}, which the `{}` tier does not offer: {hint}", .tier.as_str())]
    UndeclaredImports {
        tier: Tier,
        imports: String,
        hint: &'static str,
    },
    #[error(
        "it was built against {PACKAGE}backend@{found}, and this host serves {SERVED}: {who} must be upgraded"
    )]
    ApiVersion { found: String, who: &'static str },
    #[error("it exports no {PACKAGE}backend@{}.x interface, so it is no backend", SERVED.major)]
    NoBackendExport,
    #[error("it does not fit the contract {PACKAGE}backend@{}.x: {message}", SERVED.major)]
    Link { message: String },
    #[error("its `describe` failed: {0}")]
    Probe(#[source] Fault),
    #[error("its `describe` breaks a rule: {0}")]
    Describe(#[source] DescribeError),
    #[error("{0}")]
    Setting(#[source] PlacedError),
    #[error("it takes the place of {of:?} ({wanted}), and is another technology ({own})")]
    Canary {
        of: String,
        own: String,
        wanted: String,
    },
    #[error("loading it failed: {0}")]
    Panicked(String),
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
            Self::Signature(_) => {
                "put the component and its signature there as its vendor published both, compare the keys with the vendor's, and reload casemated (SIGHUP)"
            }
            Self::TooLarge { .. }
            | Self::TooComplex { .. }
            | Self::NotAComponent { .. }
            | Self::Invalid { .. } => {
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
            Self::Canary { .. } => {
                "mend `[backend.canary]` in the config file, and reload casemated (SIGHUP)"
            }
            Self::Panicked(_) => "report it, and use another version of the backend",
        }
    }
}

/// A backend in service.
pub struct LoadedBackend {
    name: Arc<str>,
    path: PathBuf,
    sha256: String,
    /// Announced and granted.
    permissions: Arc<Permissions>,
    operator_settings: Vec<SettingInput>,
    tier: Tier,
    limits: Limits,
    digests: Arc<DigestCache>,
    component: ProbedComponent,
}

/// What a component's bytes alone decide: its code, and what it says of itself.
#[derive(Clone)]
struct ProbedComponent {
    api_version: String,
    optional: Optional,
    info: BackendInfo,
    pre: TeeBackendPre<CallState>,
}

enum Code {
    Known(Box<ProbedComponent>),
    New(Component),
}

impl ProbedComponent {
    async fn probe(
        engine: &BackendEngine,
        component: &Component,
        tier: Tier,
        name: &Arc<str>,
    ) -> Result<Self, LoadError> {
        let (api_version, optional) = check_interfaces(engine, component, tier)?;
        let pre = link(engine, component, tier).map_err(|error| of_version(error, &api_version))?;
        let of_tier = engine.limits(tier);
        let limits = Limits {
            output_bytes: of_tier.output_bytes.min(MOST_DESCRIBED),
            ..of_tier
        };
        let (wit, _) = call::run(&pre, name, limits, Access::None, |instance, store| {
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
        Ok(Self {
            api_version,
            optional,
            info,
            pre,
        })
    }
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
    /// Runs the whole pipeline.
    pub async fn load(
        engine: &BackendEngine,
        config: &BackendConfig,
        shared: &[SharedSetting],
    ) -> Result<Self, LoadError> {
        Self::load_after(engine, config, shared, &[]).await
    }

    /// As `load`; but what serves one of `before` and has the same bytes is neither compiled nor
    /// probed again. Compilation happens on a blocking thread.
    pub async fn load_after(
        engine: &BackendEngine,
        config: &BackendConfig,
        shared: &[SharedSetting],
        before: &[Arc<Self>],
    ) -> Result<Self, LoadError> {
        let tier = config.tier;
        let limits = engine.limits(tier);
        let path = config.path.clone();
        let pin = Pin::of(config);
        let keys = config.signature_keys.clone();
        let compiler = engine.clone();
        let known: Vec<Arc<Self>> = before.to_vec();
        let read = tokio::task::spawn_blocking(move || {
            let bytes = read_capped(&path, limits.component_bytes)?;
            let sha256 = hex::encode(Sha256::digest(&bytes));
            pin.verify(&path, &sha256)?;
            if let Some(keys) = keys {
                TrustedKeys::read(&keys)?.verify_beside(&path, &bytes)?;
            }
            if let Some(same) = known
                .iter()
                .find(|backend| backend.sha256 == sha256 && backend.tier == tier)
            {
                return Ok((sha256, Code::Known(Box::new(same.component.clone()))));
            }
            let component = compile(&compiler, &path, &bytes)?;
            Ok::<_, LoadError>((sha256, Code::New(component)))
        })
        .await;
        let (sha256, code) = match read {
            Ok(result) => result?,
            Err(panic) => {
                return Err(LoadError::Invalid {
                    path: config.path.clone(),
                    message: printable_start(&format!("the compiler failed: {panic}"), MOST_SAID),
                });
            }
        };
        let name: Arc<str> = config.name.as_str().into();
        let component = match code {
            Code::Known(component) => *component,
            Code::New(component) => ProbedComponent::probe(engine, &component, tier, &name).await?,
        };
        let info = &component.info;
        let operator_settings = settings::from_config(&info.settings, &config.settings, shared)
            .map_err(LoadError::Setting)?;
        let permissions = Arc::new(describe::effective(info, &config.grants));
        Ok(Self {
            name,
            path: config.path.clone(),
            sha256,
            permissions,
            operator_settings,
            tier,
            limits,
            digests: Arc::clone(engine.digests()),
            component,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is of the same name and bytes.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        self.name == other.name && self.sha256 == other.sha256
    }

    /// Whether it has the same settings, those among them that all backends share.
    pub fn is_configured_as(&self, other: &Self) -> bool {
        self.operator_settings == other.operator_settings
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Of the bytes that were compiled, hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    pub fn api_version(&self) -> &str {
        &self.component.api_version
    }

    pub fn tier(&self) -> Tier {
        self.tier
    }

    pub fn info(&self) -> &BackendInfo {
        &self.component.info
    }

    pub fn permissions(&self) -> &Arc<Permissions> {
        &self.permissions
    }

    /// Settings for one call: built-in defaults, then the operator's, then the request's.
    pub fn settings_for(
        &self,
        request: &std::collections::BTreeMap<String, String>,
    ) -> Result<Vec<(SettingInput, Origin)>, SettingError> {
        settings::merge(
            &self.component.info.settings,
            &self.operator_settings,
            request,
        )
    }

    /// The same backend with all that it announces granted: for facts that nobody looks up.
    #[must_use]
    pub fn granted_as_announced(self) -> Self {
        let announced = self.component.info.announced.clone();
        self.with_permissions(announced)
    }

    /// The same backend with these permissions in the place of config's: for a host that is made up,
    /// and whose facts say themselves what may be asked.
    #[must_use]
    pub fn with_permissions(self, permissions: Permissions) -> Self {
        Self {
            permissions: Arc::new(permissions),
            ..self
        }
    }

    pub(super) fn name_handle(&self) -> &Arc<str> {
        &self.name
    }

    /// What it announces and config does not grant.
    pub fn ungranted(&self) -> Vec<String> {
        describe::ungranted(&self.component.info, &self.permissions)
    }

    /// What `grants` have and it does not announce.
    pub fn unannounced(&self, grants: &Permissions) -> Vec<String> {
        describe::unannounced(&self.component.info, grants)
    }

    /// What it exports beside `backend`.
    pub fn optional(&self) -> Optional {
        self.component.optional
    }

    pub(super) fn digests(&self) -> &Arc<DigestCache> {
        &self.digests
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn pre(&self) -> &TeeBackendPre<CallState> {
        &self.component.pre
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

/// What a file is by its beginning, where that is no component's.
pub fn not_a_component(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
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
    }
}

fn compile(engine: &BackendEngine, path: &Path, bytes: &[u8]) -> Result<Component, LoadError> {
    if let Some(found) = not_a_component(bytes) {
        return Err(LoadError::NotAComponent {
            path: path.to_owned(),
            found,
        });
    }
    complexity::check(bytes).map_err(|source| LoadError::TooComplex {
        path: path.to_owned(),
        source,
    })?;
    Component::from_binary(engine.wasmtime(), bytes).map_err(|error| LoadError::Invalid {
        path: path.to_owned(),
        message: printable_start(&format!("{error:#}"), MOST_SAID),
    })
}

/// Tier and contract version, before anything of the component runs or is linked: the linker's own
/// messages name neither.
fn check_interfaces(
    engine: &BackendEngine,
    component: &Component,
    tier: Tier,
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
        } else if !tier.offers(name) {
            strange.push(printable_start(name, LONGEST_NAME));
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
    let strange_version = versions.into_iter().find_map(|version| {
        let who = match ContractVersion::of(&version) {
            Some(found) if found.major == SERVED.major => return None,
            Some(found) if found > SERVED => HOST,
            _ => BACKEND,
        };
        Some(LoadError::ApiVersion {
            found: printable_start(&version, LONGEST_NAME),
            who,
        })
    });
    if let Some(error) = strange_version {
        return Err(error);
    }
    if !strange.is_empty() {
        let hint = tier.hint(&strange);
        let more = strange.len().saturating_sub(MOST_NAMES);
        strange.truncate(MOST_NAMES);
        let mut imports = strange.join(", ");
        if more > 0 {
            imports.push_str(&format!(" and {more} more"));
        }
        return Err(LoadError::UndeclaredImports {
            tier,
            imports,
            hint,
        });
    }
    match backend {
        Some(backend) => Ok((backend, optional)),
        None => Err(LoadError::NoBackendExport),
    }
}

/// Major and minor version of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ContractVersion {
    major: u64,
    minor: u64,
}

impl ContractVersion {
    /// None for what promises nothing: pre-releases, and what is no version.
    fn of(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(major)), Some(Some(minor)), Some(Some(_patch)), None) => {
                Some(Self { major, minor })
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for ContractVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.x, as of {}.{}", self.major, self.major, self.minor)
    }
}

/// What does not link because the component is newer than this host is told as such.
fn of_version(error: LoadError, found: &str) -> LoadError {
    match ContractVersion::of(found) {
        Some(version) if version > SERVED => LoadError::ApiVersion {
            found: printable_start(found, LONGEST_NAME),
            who: HOST,
        },
        _ => error,
    }
}

fn link(
    engine: &BackendEngine,
    component: &Component,
    tier: Tier,
) -> Result<TeeBackendPre<CallState>, LoadError> {
    let message = |error: wasmtime::Error| LoadError::Link {
        message: printable_start(&format!("{error:#}"), MOST_SAID),
    };
    let mut linker = Linker::new(engine.wasmtime());
    TeeBackend::add_to_linker::<_, HasSelf<_>>(&mut linker, |state: &mut CallState| state)
        .map_err(message)?;
    match tier {
        Tier::Strict => {}
        Tier::Std => wasi::add_to_linker(&mut linker).map_err(message)?,
    }
    TeeBackendPre::new(linker.instantiate_pre(component).map_err(message)?).map_err(message)
}
