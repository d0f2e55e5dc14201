//! Keys of the listeners, and of what clients may do how often.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::tls::TlsConfig;
use crate::config::form::Form;
use crate::config::key::Key;

pub const KEYS: &[Key] = &[
    Key::new(
        "limits.calls_per_second",
        Form::Count(0, MOST_CALLS),
        "1000",
        "Calls and HTTP requests of one client in a second, over a longer time; 0 means no limit. A \
         client is a `[[client]]`, else a certificate, else an address.",
    ),
    Key::new(
        "limits.call_burst",
        Form::Count(1, MOST_CALLS),
        "2000",
        "Calls that a client may make at once before it is held to `limits.calls_per_second`.",
    ),
    Key::new(
        "grpc.host",
        Form::Host,
        "127.0.0.1",
        "Address of the gRPC listener.",
    )
    .at_restart(),
    Key::new(
        "grpc.port",
        Form::Port,
        "7001",
        "Port of the gRPC listener; 0 means a free one.",
    )
    .at_restart(),
    socket_key("grpc.socket", "/run/casemate/grpc.sock"),
    group_key("grpc.socket_group"),
    Key::new(
        "grpc.reflection",
        Form::OneOf(&["loopback", "on", "off"]),
        "loopback",
        "Whether gRPC describes itself: to callers of a loopback address or of the socket, to all, or \
         to nobody. Where clients are configured it takes the role viewer.",
    )
    .at_restart(),
    Key::new(
        "grpc.timeout",
        Form::Duration,
        "60s",
        "How long a call may take that brings no deadline of its own.",
    ),
    tls_key("grpc.server_cert", SERVER_CERT),
    tls_key("grpc.server_key", SERVER_KEY),
    tls_key("grpc.server_ca_certs", SERVER_CA_CERTS),
    tls_key("grpc.client_ca_certs", CLIENT_CA_CERTS),
    tls_key("grpc.client_crl", CLIENT_CRL),
    Key::new(
        "http.host",
        Form::Host,
        "127.0.0.1",
        "Address of the HTTP listener.",
    )
    .at_restart(),
    Key::new(
        "http.port",
        Form::Port,
        "7003",
        "Port of the HTTP listener; 0 means a free one.",
    )
    .at_restart(),
    socket_key("http.socket", "/run/casemate/http.sock"),
    group_key("http.socket_group"),
    Key::new(
        "http.stream_time",
        Form::Duration,
        "1h",
        "How long a stream (server-sent events, a console) may last; whoever wants more of it \
         connects again.",
    ),
    tls_key("http.server_cert", SERVER_CERT),
    tls_key("http.server_key", SERVER_KEY),
    tls_key("http.server_ca_certs", SERVER_CA_CERTS),
    tls_key("http.client_ca_certs", CLIENT_CA_CERTS),
    tls_key("http.client_crl", CLIENT_CRL),
];

/// Beyond this a limit limits nothing.
const MOST_CALLS: u64 = 1_000_000;

const SERVER_CERT: TlsFile = TlsFile {
    without: "no TLS",
    example: "/etc/casemate/tls/server.pem",
    doc: "Certificate of the listener (PEM). With its key it turns TLS on.",
};
const SERVER_KEY: TlsFile = TlsFile {
    without: "no TLS",
    example: "/etc/casemate/tls/server.key",
    doc: "Private key of the certificate (PEM, without passphrase).",
};
const SERVER_CA_CERTS: TlsFile = TlsFile {
    without: "the certificate is sent alone",
    example: "/etc/casemate/tls/intermediates.pem",
    doc: "Certificates that are sent along with the listener's own, for clients that only know the \
          root (PEM).",
};
const CLIENT_CA_CERTS: TlsFile = TlsFile {
    without: "clients need no certificate",
    example: "/etc/casemate/tls/clients-ca.pem",
    doc: "What a client's certificate has to chain to (PEM). Turns client authentication on: where \
          no `[[client]]` has a token, nobody is served without a certificate.",
};
const CLIENT_CRL: TlsFile = TlsFile {
    without: "no certificate is revoked",
    example: "/etc/casemate/tls/clients.crl",
    doc: "Lists of revoked certificates (PEM), one for each authority of a client's chain. A chain \
          with an authority that has no list here, or an outdated one, is refused.",
};

struct TlsFile {
    without: &'static str,
    example: &'static str,
    doc: &'static str,
}

const fn tls_key(name: &'static str, file: TlsFile) -> Key {
    Key::unset(name, Form::Path, file.without, file.example, file.doc).of_tls()
}

const fn socket_key(name: &'static str, example: &'static str) -> Key {
    Key::unset(
        name,
        Form::Path,
        "no such socket",
        example,
        "Path of a UNIX socket that is served beside the address, without TLS: the kernel says whose \
         the call is. Without a `[[client]]` only root and the daemon's own user are served.",
    )
    .at_restart()
}

const fn group_key(name: &'static str) -> Key {
    Key::unset(
        name,
        Form::Text,
        "the socket is its owner's alone (mode 0600)",
        "casemate",
        "Group, by name or number, that may connect to the socket (mode 0660).",
    )
    .at_restart()
}

/// Where to listen, and with which certificates.
#[derive(Clone, Debug, Deserialize)]
pub struct Listener {
    pub host: IpAddr,
    pub port: u16,
    #[serde(default)]
    pub socket: Option<PathBuf>,
    #[serde(default)]
    pub socket_group: Option<String>,
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
pub struct GrpcListener {
    #[serde(flatten)]
    pub listener: Listener,
    pub reflection: Reflection,
    #[serde(deserialize_with = "crate::vm::config::duration")]
    pub timeout: Duration,
}

/// The listener of HTTP requests, some of which are answered by streams.
#[derive(Clone, Debug, Deserialize)]
pub struct HttpListener {
    #[serde(flatten)]
    pub listener: Listener,
    #[serde(deserialize_with = "crate::vm::config::duration")]
    pub stream_time: Duration,
}

/// To whom gRPC describes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reflection {
    /// To whoever came by a loopback address or a UNIX socket.
    Loopback,
    On,
    Off,
}

/// What one client may take of the daemon.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Limits {
    pub calls_per_second: u32,
    pub call_burst: u32,
}
