//! The config: what a file, variables and the command line say, checked, and with the source of
//! each value.
//!
//! ```text
//!  --set KEY=VALUE ─┐
//!  CASEMATE_*       ├─ Candidate ──▶ Effective ──▶ Config ──▶ one struct for each module
//!  MANAGER_*        │  (canonical    (strongest     (serde,
//!  file             │   form)         source)        cross checks)
//!  defaults        ─┘
//! ```
//!
//! Each module declares its keys beside the struct that reads them (`KEYS`). The predecessor's names
//! are known to `environment::predecessor` alone. All that is wrong is reported at once.

mod clients;
pub mod document;
pub mod environment;
pub mod explain;
mod file;
pub mod form;
pub mod key;
pub mod problem;
pub mod sources;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::api::access::clients::{ClientConfig, Mark};
use crate::api::config::{GrpcListener, HttpListener, Limits, Listener};
use crate::backend::BackendConfig;
use crate::backend::settings::{SharedRank, SharedSetting};
use crate::lease::CapacityLimits;
use crate::spec::Origin;
use crate::vm::attestation::AttestationConfig;
use crate::vm::config::{DiskConfig, NetworkConfig, QemuConfig, VmDefaults};
use crate::vm::images::{self, ImagesConfig};
use environment::Given;
use environment::predecessor::BackendChoice;
use form::Form;
use key::Key;
pub use problem::{ConfigError, ConfigErrors, Warning};
use sources::{Candidate, Effective, Source};

/// Keys of the daemon as a whole.
pub const KEYS: &[Key] = &[
    Key::new(
        "state_dir",
        Form::Path,
        "/var/lib/casemate",
        "State directory: records, and a folder for each VM. The daemon's own user, mode 0711.",
    )
    .at_restart(),
    Key::new(
        "secrets_dir",
        Form::Path,
        "/run/casemate",
        "Where environment, secrets and certificates of VMs lie while these exist, if it is on a tmpfs; else \
         they lie in the state directory. What lies in memory goes with the host's boot.",
    )
    .at_restart(),
    Key::unset(
        "instance_id",
        Form::Text,
        "a random UUID that is kept in the state directory",
        "host-1",
        "Name of this daemon in `/health` and in the metrics.",
    )
    .at_restart(),
    Key::new(
        "log",
        Form::LogFilter,
        "info",
        "What is logged to standard error: `debug`, `info`, `warn`, `error`, or a filter such as \
         `info,casemate_host::vm=debug`.",
    ),
    Key::new(
        "max_vms",
        Form::Count(0, u32::MAX as u64),
        "10",
        "VMs that may exist with a process at once; 0 means no limit.",
    ),
    Key::new(
        "max_vcpus",
        Form::Count(0, u32::MAX as u64),
        "0",
        "vCPUs of all VMs with a process together; 0 means no limit.",
    ),
    Key::unset(
        "max_memory",
        Form::Size,
        "the memory of the host",
        "64G",
        "Memory of all VMs with a process together, with what their backends say they take beside the \
         guest's; 0 means no limit.",
    ),
    Key::new(
        "on_shutdown",
        Form::OneOf(&["leave", "stop-vms"]),
        "leave",
        "What a daemon that is told to end does with its VMs: `leave` them running, for the next one \
         to take over, or stop them all.",
    ),
    Key::new(
        "shutdown_time",
        Form::Duration,
        "60s",
        "How long `on_shutdown = \"stop-vms\"` waits for all VMs together before it kills them.",
    ),
    Key::new(
        "on_boot",
        Form::OneOf(&["leave", "start"]),
        "leave",
        "What becomes of VMs that ran when the host went down: `leave` them exited, or `start` them \
         again.",
    )
    .at_restart(),
    Key::unset(
        "default_backend",
        Form::Text,
        "the one confidential backend whose checks pass on this host",
        "plain-kvm",
        "Backend of VMs whose request names none. Sources that name different ones are an error.",
    ),
    Key::unset(
        "backend_signature_keys",
        Form::Text,
        "no signature is asked for",
        "/etc/casemate/keys/cosign.pub",
        "Public keys of which one has to have signed every backend's component, or paths of their \
         files, separated by `:`; a backend's own `signature_keys` comes before.",
    ),
    Key::new(
        "insecure",
        Form::Boolean,
        "false",
        "Accepts listeners off loopback without TLS and authentication: whoever reaches them can run \
         VMs.",
    )
    .at_restart(),
];

/// Most memory of a VM, far above any machine.
const MAX_MEMORY: u64 = 1 << 46;

/// Every declared key, in the order of the documented file.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter()
        .chain(crate::api::config::KEYS)
        .chain(crate::vm::config::KEYS)
        .chain(crate::vm::images::KEYS)
        .chain(crate::vm::attestation::KEYS)
}

pub fn declared(name: &str) -> Option<&'static Key> {
    keys().find(|key| key.name == name)
}

/// Form of a declared key, or of one in a table that takes any.
fn form_of(name: &str) -> Option<Form> {
    declared(name)
        .map(|key| key.form)
        .or_else(|| key::open_form(name))
}

/// The known name that differs least from `name`.
pub fn closest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    // An absurdly long name is close to nothing, and comparing it would take its time.
    let name: String = name.chars().take(128).collect();
    known
        .min_by_key(|known| strsim::damerau_levenshtein(known, &name))
        .unwrap_or_default()
        .to_owned()
}

/// From where a config is read, again and again.
#[derive(Clone, Debug)]
pub struct Inputs {
    pub file: ConfigFile,
    /// `KEY=VALUE`, from the command line.
    pub flags: Vec<String>,
    pub environment: Vec<Given>,
}

#[derive(Clone, Debug)]
pub enum ConfigFile {
    /// Somebody named it: it has to be there.
    Named(PathBuf),
    /// Where it lies by convention; it may be missing.
    Usual(PathBuf),
}

/// A config with the sources of its values.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    pub effective: Effective,
    pub warnings: Vec<Warning>,
}

/// All of it, as the modules read it.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    pub state_dir: PathBuf,
    pub secrets_dir: PathBuf,
    #[serde(default)]
    pub instance_id: Option<String>,
    pub log: String,
    pub max_vms: u64,
    pub max_vcpus: u64,
    #[serde(default, deserialize_with = "crate::vm::config::optional_size")]
    pub max_memory: Option<u64>,
    pub on_shutdown: OnShutdown,
    #[serde(deserialize_with = "crate::vm::config::duration")]
    pub shutdown_time: Duration,
    pub on_boot: OnBoot,
    /// What plans may take by name.
    #[serde(default)]
    pub leases: BTreeMap<String, u64>,
    #[serde(default)]
    pub default_backend: Option<String>,
    #[serde(default)]
    pub backend_signature_keys: Option<String>,
    pub insecure: bool,
    pub grpc: GrpcListener,
    pub http: HttpListener,
    pub limits: Limits,
    pub qemu: QemuConfig,
    pub network: NetworkConfig,
    pub disk: DiskConfig,
    pub images: ImagesConfig,
    pub attestation: AttestationConfig,
    pub vm: VmDefaults,
    #[serde(skip)]
    pub backends: Vec<BackendConfig>,
    /// Who may call; none: whoever reaches a listener.
    #[serde(skip)]
    pub clients: Vec<ClientConfig>,
}

/// The arrays of tables, which only the file has.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub backends: Vec<BackendConfig>,
    pub clients: Vec<ClientConfig>,
}

impl Config {
    /// Limits of what VMs take together. What the kernel counts by name needs no word here; one
    /// that is here comes first.
    pub fn capacity(&self) -> CapacityLimits {
        let mut leases = crate::probe::counted().capacity;
        leases.extend(self.leases.clone());
        CapacityLimits {
            vms: self.max_vms,
            vcpus: self.max_vcpus,
            memory_bytes: self.max_memory.unwrap_or_else(crate::probe::memory_bytes),
            leases,
        }
    }
}

/// What a daemon that is told to end does with its VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnShutdown {
    Leave,
    StopVms,
}

/// What becomes of VMs that ran when the host went down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBoot {
    Leave,
    Start,
}

impl Inputs {
    /// For reloads: a file that was there has to stay there.
    pub fn pinned(self) -> Self {
        let file = match self.file {
            ConfigFile::Usual(path) if path.exists() => ConfigFile::Named(path),
            file => file,
        };
        Self { file, ..self }
    }

    /// Reads everything anew.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        let mut errors = Vec::new();
        let mut candidates = Vec::new();
        let mut tables = Tables::default();
        match self.read_file() {
            Ok(None) => {}
            Ok(Some((path, text))) => {
                let content = file::parse(path, &text, &mut errors);
                candidates.extend(content.candidates);
                tables = content.tables;
            }
            Err(error) => errors.push(error),
        }
        let environment = environment::read(&self.environment, &mut errors);
        candidates.extend(environment.candidates);
        candidates.extend(self.flags(&mut errors));
        candidates.extend(choose_backend(
            &candidates,
            environment.choices,
            &tables.backends,
            &mut errors,
        ));
        let mut effective = Effective::choose(candidates, &mut errors);
        // Where nobody set a range, a first port means all from there up.
        if !effective.is_given("network.ports")
            && let Some(first) = effective.get("network.first_port")
        {
            let (first, source) = (first.value.clone(), first.source.clone());
            let range = format!("{first}-{}", u16::MAX);
            effective.derive("network.ports", range.into(), source);
        }
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        let config = Config::from_effective(&effective, tables)
            .map_err(|error| ConfigErrors(vec![error]))?;
        config.check(&effective, &mut errors);
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        let mut warnings = environment.warnings;
        warnings.extend(unusable_files(&effective));
        warnings.extend(unusable_roots(&config, &effective));
        warnings.extend(config.unseen_clients());
        Ok(Loaded {
            config,
            effective,
            warnings,
        })
    }

    fn read_file(&self) -> Result<Option<(&Path, String)>, ConfigError> {
        match &self.file {
            ConfigFile::Named(path) => Ok(Some((path, file::read(path)?))),
            ConfigFile::Usual(path) => match file::read(path) {
                Ok(text) => Ok(Some((path, text))),
                Err(ConfigError::Unreadable { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound =>
                {
                    Ok(None)
                }
                Err(error) => Err(error),
            },
        }
    }

    fn flags(&self, errors: &mut Vec<ConfigError>) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for text in &self.flags {
            let Some((key, value)) = text.split_once('=') else {
                errors.push(ConfigError::Flag {
                    text: crate::spec::printable(text),
                });
                continue;
            };
            let Some(form) = form_of(key) else {
                errors.push(ConfigError::UnknownKey {
                    place: "--set".to_owned(),
                    key: crate::spec::printable(key),
                    closest: closest(key, keys().map(|known| known.name)),
                });
                continue;
            };
            match form.parse(value) {
                Some(value) => candidates.push(Candidate {
                    key: key.to_owned(),
                    value,
                    source: Source::Flag,
                }),
                None => errors.push(ConfigError::Value {
                    place: format!("--set {key}"),
                    value: crate::spec::printable(value),
                    wanted: form.wanted(),
                }),
            }
        }
        candidates
    }
}

/// All sources of the default backend have to agree: a stronger one that silently won could start
/// VMs with less protection than another asks for.
fn choose_backend(
    candidates: &[Candidate],
    switches: Vec<BackendChoice>,
    backends: &[BackendConfig],
    errors: &mut Vec<ConfigError>,
) -> Option<Candidate> {
    const KEY: &str = "default_backend";
    let named = candidates
        .iter()
        .filter(|candidate| candidate.key == KEY)
        .filter_map(|candidate| {
            let backend = candidate.value.as_str()?.to_owned();
            let source = match &candidate.source {
                source @ Source::File { .. } => format!("{source}: {KEY}"),
                Source::Flag => format!("--set {KEY}"),
                source => source.to_string(),
            };
            Some((source, backend))
        });
    let switched = environment::settle(switches);
    let all: Vec<(String, String)> = named
        .chain(
            switched
                .iter()
                .map(|choice| (choice.source.clone(), choice.backend.clone())),
        )
        .collect();
    let (first, first_backend) = all.first()?;
    for (second, second_backend) in &all[1..] {
        if second_backend != first_backend {
            errors.push(ConfigError::BackendConflict {
                first: first.clone(),
                first_backend: first_backend.clone(),
                second: second.clone(),
                second_backend: second_backend.clone(),
            });
            return None;
        }
    }
    if !backends
        .iter()
        .any(|backend| backend.name == *first_backend)
    {
        let names: Vec<&str> = backends
            .iter()
            .map(|backend| backend.name.as_str())
            .collect();
        errors.push(ConfigError::UnknownBackend {
            place: first.clone(),
            name: first_backend.clone(),
            known: if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            },
        });
        return None;
    }
    let is_named = candidates.iter().any(|candidate| candidate.key == KEY);
    let choice = switched.into_iter().next()?;
    (!is_named).then(|| Candidate {
        key: KEY.to_owned(),
        value: choice.backend.into(),
        source: Source::Predecessor(choice.source),
    })
}

impl Config {
    /// The structs of the modules, from values in effect.
    pub fn from_effective(effective: &Effective, tables: Tables) -> Result<Self, ConfigError> {
        let mut config: Self = effective.table().try_into()?;
        config.backends = tables.backends;
        if let Some(keys) = &config.backend_signature_keys {
            let keys: Vec<String> = keys.split(':').map(str::to_owned).collect();
            for backend in &mut config.backends {
                backend.signature_keys.get_or_insert_with(|| keys.clone());
            }
        }
        config.clients = tables.clients;
        if effective.is_given(images::ROOTS) {
            config.images.origin = Origin::Operator;
        }
        config.vm.origins = effective
            .entries()
            .filter(|(key, _)| key.starts_with("vm."))
            .map(|(key, entry)| {
                let origin = match &entry.source {
                    Source::Default => Origin::BuiltIn,
                    Source::Predecessor(name) if environment::predecessor::is_wish(name) => {
                        Origin::BuiltIn
                    }
                    _ => Origin::Operator,
                };
                (key.to_owned(), origin)
            })
            .collect();
        Ok(config)
    }

    /// Rules that concern more than one value: for a config that was read, and for what a reload
    /// makes of it.
    pub fn check(&self, effective: &Effective, errors: &mut Vec<ConfigError>) {
        let source = |key: &str| {
            effective
                .get(key)
                .map_or_else(String::new, |entry| format!("{}: {key}", entry.source))
        };
        const MIB: u64 = 1 << 20;
        if self.vm.memory == 0 || !self.vm.memory.is_multiple_of(MIB) || self.vm.memory > MAX_MEMORY
        {
            errors.push(ConfigError::Value {
                place: source("vm.memory"),
                value: self.vm.memory.to_string(),
                wanted: "a multiple of 1 MiB up to 64 TiB".to_owned(),
            });
        }
        let mut ids = vec![
            crate::vm::shares::ENVIRONMENT_SHARE,
            crate::vm::shares::CERTIFICATES_SHARE,
        ];
        for (key, id) in [
            ("network.id", &self.network.id),
            ("disk.id", &self.disk.id),
            ("disk.scsi_id", &self.disk.scsi_id),
        ] {
            if ids.contains(&id.as_str()) {
                errors.push(ConfigError::Value {
                    place: source(key),
                    value: id.clone(),
                    wanted: format!(
                        "an id that no other device has (taken are {})",
                        ids.join(", ")
                    ),
                });
            }
            ids.push(id);
        }
        for (listener, key, config) in [
            ("gRPC", "grpc.host", &self.grpc.listener),
            ("HTTP", "http.host", &self.http.listener),
        ] {
            let address = config.address();
            let is_closed =
                config.tls.is_on() && (config.tls.client_ca_certs.is_some() || self.has_tokens());
            if !self.insecure && !is_loopback(address.ip()) && !is_closed {
                errors.push(ConfigError::Exposed {
                    listener,
                    address,
                    place: effective
                        .get(key)
                        .map_or_else(String::new, |entry| format!("{key} from {}", entry.source)),
                });
            }
        }
    }

    /// Clients that bring what no listener asks for.
    fn unseen_clients(&self) -> Vec<Warning> {
        let listeners = [&self.grpc.listener, &self.http.listener];
        let has_sockets = listeners.iter().any(|listener| listener.socket.is_some());
        let asks = |listener: &&Listener| listener.tls.client_ca_certs.is_some();
        let has_authority = listeners.iter().any(asks);
        let missing = |client: &ClientConfig| {
            let mut needs = client.marks.iter().map(|mark| match mark {
                Mark::Token(_) => None,
                Mark::Uid(_) if has_sockets => None,
                Mark::Uid(_) => Some("`grpc.socket` or `http.socket`"),
                _ if has_authority => None,
                _ => Some("`client_ca_certs` of a listener"),
            });
            // One that can be seen is enough.
            let first = needs.next()??;
            needs.all(|needs| needs.is_some()).then_some(first)
        };
        let unseen = self.clients.iter().filter_map(|client| {
            Some(Warning::UnseenClient {
                client: client.name.clone(),
                needs: missing(client)?,
            })
        });
        unseen.collect()
    }

    /// Whether somebody may call who brings a token and no certificate.
    pub fn has_tokens(&self) -> bool {
        let mut marks = self.clients.iter().flat_map(|client| &client.marks);
        marks.any(|mark| matches!(mark, Mark::Token(_)))
    }

    /// The settings that every backend is given that announces them.
    pub fn shared_settings(effective: &Effective) -> Vec<SharedSetting> {
        effective
            .entries()
            .filter_map(|(key, entry)| {
                let rank = match &entry.source {
                    Source::Default | Source::File { .. } => SharedRank::BelowOwn,
                    Source::Predecessor(_) | Source::Variable(_) | Source::Flag => {
                        SharedRank::AboveOwn
                    }
                };
                Some(SharedSetting {
                    key: key.strip_prefix(key::SETTINGS)?.to_owned(),
                    value: entry.value.clone(),
                    place: entry.source.to_string(),
                    rank,
                })
            })
            .collect()
    }
}

/// What no other machine reaches: 127.0.0.0/8, also as IPv6 writes it, and `::1`.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// Files of VMs that somebody named and that are not there now. They may come, so nothing stops.
fn unusable_files(effective: &Effective) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for (role, _) in crate::vm::config::FILES {
        let key = VmDefaults::file_key(role);
        let Some(entry) = effective.get(&key) else {
            continue;
        };
        if entry.source == Source::Default {
            continue;
        }
        let path = PathBuf::from(entry.value.as_str().unwrap_or_default());
        if let Err(error) = crate::regular_file::open(&path) {
            warnings.push(Warning::UnusableFile {
                key,
                path,
                source: entry.source.to_string(),
                reason: error.to_string(),
            });
        }
    }
    warnings
}

/// Image roots that somebody named and that are not there now, which is nobody's loss but of those
/// who name images.
fn unusable_roots(config: &Config, effective: &Effective) -> Vec<Warning> {
    let source = effective
        .get(images::ROOTS)
        .map_or_else(String::new, |entry| entry.source.to_string());
    let unusable = config.images.unusable_roots().into_iter();
    unusable
        .map(|(path, error)| Warning::UnusableRoot {
            path,
            source: source.clone(),
            reason: error.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests;
