//! The config file: its shape, its defaults, and what of it is refused.
//!
//! Each part is a struct of the module that it is for; `App::build` takes the whole apart once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::Error as _;

use crate::api::tls::TlsConfig;
use crate::backend::BackendConfig;
use crate::vm::config::{NetworkConfig, QemuConfig, VmDefaults};

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("config file {path:?} cannot be read", path = .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("config file {path:?}: {message}", path = .path.display())]
    Form { path: PathBuf, message: String },
    #[error("config file {path:?}: two backends are named {name:?}", path = .path.display())]
    DuplicateBackend { path: PathBuf, name: String },
    #[error("config file {path:?}: default_backend is {name:?}, which no `[[backend]]` has as its name", path = .path.display())]
    UnknownDefault { path: PathBuf, name: String },
    #[error(
        "{listener} would listen on {address}, which is not loopback, without TLS and authentication: anyone who reaches it could run VMs; set its `server_cert`, `server_key` and `client_ca_certs`, use a loopback address, or accept the exposure with `insecure = true`"
    )]
    Exposed {
        listener: &'static str,
        address: SocketAddr,
    },
}

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// `debug`, `info`, `warn`, `error`, or a filter expression of `tracing`.
    #[serde(default = "default_log")]
    pub log: String,
    /// VMs that may run at once; 0 means no limit.
    #[serde(default = "default_max_vms")]
    pub max_vms: usize,
    #[serde(default)]
    pub default_backend: Option<String>,
    /// Accepts listeners off loopback.
    #[serde(default)]
    pub insecure: bool,
    #[serde(default = "default_grpc")]
    pub grpc: GrpcListener,
    #[serde(default = "default_http")]
    pub http: Listener,
    #[serde(default)]
    pub qemu: QemuConfig,
    #[serde(default)]
    pub network: NetworkConfig,
    #[serde(default)]
    pub vm: VmDefaults,
    #[serde(default, rename = "backend")]
    pub backends: Vec<BackendConfig>,
}

/// An address to listen on. Port 0 means a free one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    #[serde(default = "default_host")]
    pub host: IpAddr,
    pub port: u16,
    #[serde(flatten)]
    pub tls: TlsConfig,
}

impl Listener {
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }
}

/// The listener of calls, which have deadlines.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcListener {
    #[serde(default = "default_host")]
    pub host: IpAddr,
    pub port: u16,
    /// Time of a call that brings no deadline.
    #[serde(default = "default_timeout", deserialize_with = "deserialize_seconds")]
    pub timeout: Duration,
    #[serde(flatten)]
    pub tls: TlsConfig,
}

impl GrpcListener {
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }
}

fn default_state_dir() -> PathBuf {
    PathBuf::from("/var/lib/casemate")
}

fn default_log() -> String {
    "info".to_owned()
}

fn default_max_vms() -> usize {
    10
}

fn default_host() -> IpAddr {
    IpAddr::V4(Ipv4Addr::LOCALHOST)
}

fn default_timeout() -> Duration {
    Duration::from_secs(60)
}

fn default_grpc() -> GrpcListener {
    GrpcListener {
        host: default_host(),
        port: 7001,
        timeout: default_timeout(),
        tls: TlsConfig::default(),
    }
}

fn default_http() -> Listener {
    Listener {
        host: default_host(),
        port: 7003,
        tls: TlsConfig::default(),
    }
}

impl Config {
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Form {
            path: path.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        for (index, backend) in config.backends.iter().enumerate() {
            if config.backends[..index]
                .iter()
                .any(|other| other.name == backend.name)
            {
                return Err(ConfigError::DuplicateBackend {
                    path: path.to_owned(),
                    name: backend.name.clone(),
                });
            }
        }
        if let Some(name) = &config.default_backend
            && !config.backends.iter().any(|backend| backend.name == *name)
        {
            return Err(ConfigError::UnknownDefault {
                path: path.to_owned(),
                name: name.clone(),
            });
        }
        for (listener, address, tls) in [
            ("grpc", config.grpc.address(), &config.grpc.tls),
            ("http", config.http.address(), &config.http.tls),
        ] {
            if !config.insecure && !is_loopback(address.ip()) && !tls.is_authenticated() {
                return Err(ConfigError::Exposed { listener, address });
            }
        }
        Ok(config)
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// `first-last`, both included.
pub fn parse_range<T>(text: &str) -> Option<RangeInclusive<T>>
where
    T: std::str::FromStr + PartialOrd,
{
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(first..=last)
}

/// A size in config, for serde.
pub fn deserialize_size<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::spec::byte_size::parse(&text).map_err(D::Error::custom)
}

/// Whole seconds in config, for serde.
pub fn deserialize_seconds<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<std::time::Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    crate::spec::go_duration::parse(&text).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(Path::new("c.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_is_all_defaults() {
        let config = parse("").unwrap();
        assert_eq!(config.grpc.address(), "127.0.0.1:7001".parse().unwrap());
        assert_eq!(config.http.address(), "127.0.0.1:7003".parse().unwrap());
        assert_eq!(config.grpc.timeout, Duration::from_secs(60));
        assert_eq!(config.max_vms, 10);
        assert_eq!(config.vm.memory, 2048 << 20);
        assert_eq!(config.network.ports, Some(6100..=6200));
    }

    #[test]
    fn bad_files_are_refused_with_what_to_do() {
        for (text, part) in [
            ("max_vmss = 1", "max_vmss"),
            ("max_vms = \"x\"", "max_vms"),
            ("[vm]\nmemory = \"2 G\"", "is not a size"),
            ("[network]\nports = \"9-1\"", "is not a range"),
            ("[network]\nhost_address = \"::1\"", "host_address"),
            ("[qemu]\nuids = \"0-999\"", "is not a range of two users"),
            (
                "[qemu]\nuids = \"5000-5000\"",
                "is not a range of two users",
            ),
            ("[network]\nports = \"1-70000\"", "is not a range"),
            ("[grpc]\nhost = \"0.0.0.0\"\nport = 1", "insecure = true"),
            ("[http]\nhost = \"::\"\nport = 1", "insecure = true"),
            (
                "[grpc]\nhost = \"0.0.0.0\"\nport = 1\nserver_cert = \"c\"\nserver_key = \"k\"",
                "client_ca_certs",
            ),
            ("[grpc]\nport = 1\nserver_certs = \"c\"", "server_certs"),
            ("[grpc]\nport = 1\ntimeout = \"60\"", "is not a duration"),
            ("[http]\nport = 1\ntimeout = \"60s\"", "timeout"),
            ("default_backend = \"x\"", "no `[[backend]]`"),
            (
                "[[backend]]\nname = \"a\"\npath = \"a\"\n[[backend]]\nname = \"a\"\npath = \"b\"",
                "two backends",
            ),
            (
                "[[backend]]\nname = \"a\"\npath = \"a\"\n[backend.grants]\nobject = 1",
                "object",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text:?}: {error}");
        }
        parse("insecure = true\n[grpc]\nhost = \"0.0.0.0\"\nport = 1").unwrap();
        parse("[grpc]\nhost = \"::1\"\nport = 1").unwrap();
        let config = parse("[grpc]\nhost = \"0.0.0.0\"\nport = 1\ntimeout = \"2m\"\nserver_cert = \"c\"\nserver_key = \"k\"\nclient_ca_certs = \"a\"").unwrap();
        assert!(config.grpc.tls.is_authenticated());
        assert_eq!(config.grpc.timeout, Duration::from_secs(120));
        parse("[grpc]\nhost = \"::ffff:127.0.0.1\"\nport = 1").unwrap();
    }
}
