//! QEMU's user network, as far as host ports go: each forward is a listener that is really bound,
//! so that two machines cannot have the same port here either. Nothing answers behind it.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::AsRawFd;

/// The address that QEMU gives to the first guest of a user network.
const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

#[derive(Debug)]
pub(crate) struct Network {
    id: String,
    forwards: Vec<Forward>,
}

#[derive(Debug)]
struct Forward {
    listener: TcpListener,
    host: SocketAddrV4,
    guest: SocketAddrV4,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The rule cannot be read; with the reason.
    Malformed(&'static str),
    /// The port is taken, or may not be had.
    NotBound,
}

impl Refusal {
    /// QEMU's own words.
    pub(crate) fn message(&self, rule: &str) -> String {
        match self {
            Self::Malformed(reason) => {
                format!("Invalid host forwarding rule '{rule}' ({reason})")
            }
            Self::NotBound => format!("Could not set up host forwarding rule '{rule}'"),
        }
    }
}

impl Network {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            forwards: Vec::new(),
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn add_forward(&mut self, rule: &str) -> Result<(), Refusal> {
        let (host, guest) = parse_rule(rule)?;
        let listener = TcpListener::bind(host).map_err(|_| Refusal::NotBound)?;
        let port = listener.local_addr().map_err(|_| Refusal::NotBound)?.port();
        self.forwards.push(Forward {
            listener,
            host: SocketAddrV4::new(*host.ip(), port),
            guest,
        });
        Ok(())
    }

    /// Whether there was one. The rule is the host's half alone: `tcp:127.0.0.1:6100`.
    pub(crate) fn remove_forward(&mut self, rule: &str) -> bool {
        let Ok(host) = parse_host(rule) else {
            return false;
        };
        let before = self.forwards.len();
        self.forwards.retain(|forward| forward.host != host);
        self.forwards.len() < before
    }

    /// The table of `info usernet`.
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("Hub -1 ({}):\r\n", self.id);
        text.push_str(
            "  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n",
        );
        for forward in &self.forwards {
            let source = match forward.host.ip() {
                address if address.is_unspecified() => "*".to_owned(),
                address => address.to_string(),
            };
            let _ = write!(
                text,
                "  TCP[HOST_FORWARD] {:>3} {:>15} {:>5} {:>15} {:>5} {:>5} {:>5}\r\n",
                forward.listener.as_raw_fd(),
                source,
                forward.host.port(),
                forward.guest.ip().to_string(),
                forward.guest.port(),
                0,
                0
            );
        }
        text
    }
}

/// `tcp:[ADDRESS]:PORT-[ADDRESS]:PORT`.
fn parse_rule(rule: &str) -> Result<(SocketAddrV4, SocketAddrV4), Refusal> {
    let (host, guest) = rule
        .split_once('-')
        .ok_or(Refusal::Malformed("Bad host port separator"))?;
    let host = parse_host(host)?;
    let (address, port) = guest
        .split_once(':')
        .ok_or(Refusal::Malformed("Missing guest port"))?;
    let address =
        parse_address(address, GUEST_ADDRESS).ok_or(Refusal::Malformed("Bad guest address"))?;
    let port = port
        .parse()
        .ok()
        .filter(|&port| port != 0)
        .ok_or(Refusal::Malformed("Bad guest port"))?;
    Ok((host, SocketAddrV4::new(address, port)))
}

fn parse_host(rule: &str) -> Result<SocketAddrV4, Refusal> {
    let rest = rule
        .strip_prefix("tcp:")
        .or_else(|| rule.strip_prefix(':'))
        .ok_or(Refusal::Malformed("Bad protocol name"))?;
    let (address, port) = rest
        .split_once(':')
        .ok_or(Refusal::Malformed("Missing : separator"))?;
    let address = parse_address(address, Ipv4Addr::UNSPECIFIED)
        .ok_or(Refusal::Malformed("Bad host address"))?;
    let port = port
        .parse()
        .map_err(|_| Refusal::Malformed("Bad host port"))?;
    Ok(SocketAddrV4::new(address, port))
}

fn parse_address(text: &str, default: Ipv4Addr) -> Option<Ipv4Addr> {
    if text.is_empty() {
        return Some(default);
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read() {
        for (rule, expected) in [
            (
                "tcp:127.0.0.1:6100-:7002",
                Some(("127.0.0.1:6100", "10.0.2.15:7002")),
            ),
            ("tcp::0-10.0.2.9:22", Some(("0.0.0.0:0", "10.0.2.9:22"))),
            ("udp:127.0.0.1:6100-:7002", None),
            ("tcp:127.0.0.1:6100", None),
            ("tcp:127.0.0.1:x-:7002", None),
            ("tcp:localhost:6100-:7002", None),
            ("tcp:127.0.0.1:6100-:0", None),
            ("", None),
        ] {
            let parsed = parse_rule(rule).ok();
            let expected =
                expected.map(|(host, guest)| (host.parse().unwrap(), guest.parse().unwrap()));
            assert_eq!(parsed, expected, "{rule}");
        }
    }

    #[test]
    fn a_port_is_had_once() {
        let mut first = Network::new("n");
        first.add_forward("tcp:127.0.0.1:0-:7002").unwrap();
        let port = first.forwards[0].host.port();
        let rule = format!("tcp:127.0.0.1:{port}-:7002");
        let mut second = Network::new("n");
        assert_eq!(second.add_forward(&rule), Err(Refusal::NotBound));
        assert!(first.describe().contains(&format!("127.0.0.1 {port:>5}")));
        assert!(first.remove_forward(&format!("tcp:127.0.0.1:{port}")));
        assert_eq!(second.add_forward(&rule), Ok(()));
    }
}
