//! Where the guest's quotes are made: QEMU connects to Intel's quote generation service for each
//! one. A guest starts without it, and nobody can verify it.

use casemate_backend::answer::{invalid_request, quoted, warn};
use casemate_backend::bindings::casemate::tee::facts::FactError;
use casemate_backend::bindings::casemate::tee::types::{Error, Finding, Property, Value};
use casemate_backend::memory::property;
use casemate_backend::settings::text;

use crate::facts::{Facts, QUOTE_SOCKET as USUAL_SOCKET};
use crate::settings::{QUOTE_PORT, QUOTE_SOCKET, Settings};

/// VMADDR_CID_HOST: the host itself, as seen from QEMU.
const HOST_CID: &str = "2";
/// Intel's own default.
const USUAL_PORT: u64 = 4050;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Unix(String),
    /// A port on the host's vsock address.
    Vsock(u64),
}

pub(crate) fn service(
    facts: &Facts,
    settings: &Settings,
    findings: &mut Vec<Finding>,
) -> Result<Service, Error> {
    match (&settings.quote_socket, &settings.quote_port) {
        (Some(socket), Some(port)) => Err(invalid_request(
            QUOTE_PORT,
            &format!(
                "both {QUOTE_SOCKET} ({}) and {QUOTE_PORT} ({}) are set, and quotes are made in one \
                 place",
                quoted(&socket.value),
                port.value
            ),
            "leave one of them out",
        )),
        (Some(socket), None) => {
            let service = Service::Unix(socket.value.clone());
            if service.is_usual() {
                findings.extend(unreachable(facts, &service));
            }
            Ok(service)
        }
        (None, Some(port)) if (1..=u64::from(u32::MAX - 1)).contains(&port.value) => {
            Ok(Service::Vsock(port.value))
        }
        (None, Some(port)) => Err(invalid_request(
            QUOTE_PORT,
            &format!(
                "{QUOTE_PORT} is {}, wanted is 1 to {}",
                port.value,
                u32::MAX - 1
            ),
            &format!("set {QUOTE_PORT} to the service's port, usually {USUAL_PORT}"),
        )),
        (None, None) => Ok(match facts.quote_socket {
            Ok(()) => Service::Unix(USUAL_SOCKET.to_owned()),
            Err(_) => {
                let service = Service::Vsock(USUAL_PORT);
                findings.extend(unreachable(facts, &service));
                service
            }
        }),
    }
}

/// What is wrong at the usual socket, and where quotes are looked for all the same.
fn unreachable(facts: &Facts, service: &Service) -> Option<Finding> {
    const ID: &str = "quotes.unreachable";
    let then = match service {
        Service::Unix(_) => "a guest starts, and gets no quotes".to_owned(),
        Service::Vsock(port) => {
            format!("a guest starts, and gets quotes only if one listens on vsock port {port}")
        }
    };
    match &facts.quote_socket {
        Ok(()) => None,
        Err(FactError::Denied) => Some(warn(
            "quotes.unknown",
            QUOTE_SOCKET,
            &format!(
                "the backend may not try {USUAL_SOCKET}, so it is not known whether quotes can be \
                 had; {}",
                service.in_words()
            ),
            &format!("add socket {USUAL_SOCKET} to the grants of tdx"),
        )),
        Err(FactError::Absent) => Some(warn(
            ID,
            QUOTE_SOCKET,
            &format!("there is no quote generation service at {USUAL_SOCKET}: {then}"),
            "install and start the quote generation service (qgsd of Intel's DCAP), or say where \
             it is",
        )),
        Err(FactError::Failed(reason)) => Some(warn(
            ID,
            QUOTE_SOCKET,
            &format!(
                "the quote generation service at {USUAL_SOCKET} does not answer ({reason}): {then}"
            ),
            "start the service, and give its socket a group that QEMU's user is in",
        )),
    }
}

impl Service {
    /// The one place that is tried before.
    pub(crate) fn is_usual(&self) -> bool {
        matches!(self, Self::Unix(path) if path == USUAL_SOCKET)
    }

    pub(crate) fn in_words(&self) -> String {
        match self {
            Self::Unix(path) => format!("quotes are made at {}", quoted(path)),
            Self::Vsock(port) => format!("quotes are made at vsock port {port} of the host"),
        }
    }

    /// QEMU's `SocketAddress` (qapi/sockets.json). Its numbers are texts.
    pub(super) fn properties(&self) -> Vec<Property> {
        let at =
            |name: &str, value: Value| property(&format!("quote-generation-socket.{name}"), value);
        match self {
            Self::Unix(path) => vec![
                at("type", text("unix")),
                at("path", Value::HostPath(path.clone())),
            ],
            Self::Vsock(port) => vec![
                at("type", text("vsock")),
                at("cid", text(HOST_CID)),
                at("port", text(&port.to_string())),
            ],
        }
    }
}
