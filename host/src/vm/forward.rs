//! The forward of a host port to the agent's port in the guest, set while the guest does not run
//! yet: QEMU itself binds it, so that two VMs can never share one. What counts is what QEMU lists,
//! not what was asked for.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::json;

use super::error::Stage;
use super::launch::{Failure, at};
use super::live::Live;
use crate::lease::PortLease;
use crate::qemu::qmp::{Qmp, QmpError};

/// A host address that reaches the agent.
#[derive(Debug)]
pub struct Forwarded {
    pub address: SocketAddr,
    /// None where the kernel chose the port.
    pub lease: Option<PortLease>,
}

/// `held` is the port that the VM had before, and gets again if it can.
pub(super) async fn agent(
    live: &Live,
    qmp: &Qmp,
    held: Option<PortLease>,
) -> Result<Option<Forwarded>, Failure> {
    let network = &live.network;
    let mut busy = BTreeSet::new();
    let mut held = held;
    loop {
        let lease = match (held.take(), &live.ports) {
            (Some(lease), _) => Some(lease),
            (None, Some(ports)) => Some(ports.take(&busy)?),
            (None, None) => None,
        };
        let port = lease.as_ref().map_or(0, PortLease::port);
        let line = format!(
            "hostfwd_add {} tcp:{}:{port}-:{}",
            network.id, network.host_address, network.agent_port
        );
        let answer = human(qmp, &line).await?;
        if answer.trim().is_empty() {
            let listed = human(qmp, "info usernet").await?;
            let address = listed_forward(&listed, network.agent_port)
                .filter(|address| port == 0 || address.port() == port);
            let Some(address) = address else {
                return Err(at(Stage::Forwarding)(QmpError::Protocol {
                    during: "info usernet".to_owned(),
                    what: crate::spec::printable(&listed),
                }));
            };
            return Ok(Some(Forwarded { address, lease }));
        }
        // With a port of a range, another program may hold it: the next one is tried. The range
        // is finite, and so is this loop. Any other refusal would be the same for each port.
        if lease.is_none() || !answer.contains("ould not set up host forwarding rule") {
            return Err(at(Stage::Forwarding)(QmpError::Refused {
                command: line,
                description: crate::spec::printable(answer.trim()),
            }));
        }
        busy.insert(port);
    }
}

async fn human(qmp: &Qmp, line: &str) -> Result<String, Failure> {
    let answer = qmp
        .execute("human-monitor-command", json!({"command-line": line}))
        .await
        .map_err(at(Stage::Forwarding))?;
    Ok(answer.as_str().unwrap_or_default().to_owned())
}

/// Source address of the forward to `guest_port` in `info usernet`.
fn listed_forward(listing: &str, guest_port: u16) -> Option<SocketAddr> {
    listing.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        match fields.as_slice() {
            ["TCP[HOST_FORWARD]", _, address, port, _, to, ..] if to.parse() == Ok(guest_port) => {
                let address = if *address == "*" { "0.0.0.0" } else { address };
                Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?))
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::listed_forward;

    /// As QEMU 7.2 and 10.0 print it.
    #[test]
    fn the_forward_is_read_from_what_qemu_lists() {
        let listing = "Hub -1 (vmnic):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n  TCP[HOST_FORWARD]  13       127.0.0.1  6100       10.0.2.15  7002     0     0\n  UDP[236 sec]       14       10.0.2.15 34129         1.1.1.1    53     0     0\n";
        assert_eq!(
            listed_forward(listing, 7002),
            Some("127.0.0.1:6100".parse().unwrap())
        );
        assert_eq!(listed_forward(listing, 7003), None);
        let any =
            "  TCP[HOST_FORWARD]  12               *  6101       10.0.2.15  7002     0     0\n";
        assert_eq!(
            listed_forward(any, 7002),
            Some("0.0.0.0:6101".parse().unwrap())
        );
        assert_eq!(listed_forward("", 7002), None);
    }
}
