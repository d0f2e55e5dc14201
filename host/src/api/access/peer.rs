//! The other end of a connection.

use std::net::SocketAddr;

use crate::api::tls::{ClientCertificate, TlsPeer};

/// How far the socket reaches that a connection came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// A loopback address or a UNIX socket: programs of this host.
    Host,
    /// Other machines, perhaps.
    Network,
}

/// Whose connection a request came by.
#[derive(Clone, Debug)]
pub struct Peer {
    /// None by a UNIX socket, and of a client that has left already.
    pub address: Option<SocketAddr>,
    /// The user of a UNIX socket's other end, by the kernel's word.
    pub uid: Option<u32>,
    pub reach: Reach,
    pub tls: Option<TlsPeer>,
}

impl Peer {
    pub fn certificate(&self) -> Option<&ClientCertificate> {
        self.tls.as_ref()?.certificate.as_deref()
    }

    /// SHA-256 of the certificate, hexadecimal.
    pub fn fingerprint(&self) -> Option<&str> {
        Some(&self.certificate()?.fingerprint)
    }

    /// For messages.
    pub(super) fn described(&self) -> String {
        if let Some(fingerprint) = self.fingerprint() {
            return format!("the certificate with SHA-256 {fingerprint}");
        }
        match (self.uid, self.address) {
            (Some(uid), _) => format!("user {uid} without a token"),
            (None, Some(address)) => format!("{} without a token", address.ip()),
            (None, None) => "the caller without a token".to_owned(),
        }
    }
}
