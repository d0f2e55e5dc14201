//! Two machines: network namespaces with a cable between them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};

use super::probe::Probe;

pub(crate) const HOST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const OTHER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Added while the filter is there already.
pub(crate) const LATER_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
pub(crate) const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(crate) const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// The name of the cable's end, on either side.
const CABLE: &str = "cable";

/// Dropped, both are gone.
pub(crate) struct TwoMachines {
    host: String,
    other: String,
}

impl TwoMachines {
    /// None, and why on standard output, where namespaces cannot be made.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let pid = std::process::id();
        let machines = Self {
            host: format!("casemate-{name}-{pid}-host"),
            other: format!("casemate-{name}-{pid}-other"),
        };
        if let Err(error) = ip(&["netns", "add", &machines.host]) {
            println!("skipped: no network namespace: {error}");
            return None;
        }
        let (host, other) = (machines.host.as_str(), machines.other.as_str());
        run(&["netns", "add", other]);
        let peer = ["peer", "name", CABLE, "netns", other];
        let pair = ["-n", host, "link", "add", CABLE, "type", "veth"];
        run(&[pair.as_slice(), peer.as_slice()].concat());
        for (machine, v4, v6) in [(host, HOST_V4, HOST_V6), (other, OTHER_V4, OTHER_V6)] {
            run(&["-n", machine, "link", "set", "lo", "up"]);
            run(&["-n", machine, "link", "set", CABLE, "up"]);
            let v4 = format!("{v4}/24");
            run(&["-n", machine, "addr", "add", &v4, "dev", CABLE]);
            // Without the wait for a duplicate, so that it can be used at once.
            let v6 = format!("{v6}/64");
            run(&["-n", machine, "addr", "add", &v6, "dev", CABLE, "nodad"]);
        }
        // Groups and broadcast leave by the cable.
        run(&["-n", host, "route", "add", "default", "dev", CABLE]);
        Some(machines)
    }

    pub(crate) fn on_host(&self) -> Probe {
        Probe::start(&["ip", "netns", "exec", &self.host])
    }

    pub(crate) fn on_other(&self) -> Probe {
        Probe::start(&["ip", "netns", "exec", &self.other])
    }

    pub(crate) fn add_address_later(&self) {
        let address = format!("{LATER_V4}/32");
        run(&["-n", &self.host, "addr", "add", &address, "dev", CABLE]);
    }

    /// The index of the cable on the host.
    pub(crate) fn host_interface(&self) -> u32 {
        let shown = ip(&["-n", &self.host, "-o", "link", "show", CABLE]).expect("it is there");
        let (index, _) = shown.split_once(':').expect("an index first");
        index.parse().expect("a number")
    }
}

impl Drop for TwoMachines {
    fn drop(&mut self) {
        for machine in [&self.host, &self.other] {
            // The first attempt may have failed before the second was made.
            let _ = ip(&["netns", "del", machine]);
        }
    }
}

fn run(arguments: &[&str]) {
    ip(arguments).unwrap_or_else(|error| panic!("ip {arguments:?}: {error}"));
}

fn ip(arguments: &[&str]) -> Result<String, String> {
    #[expect(clippy::disallowed_methods, reason = "the test's own network")]
    let mut command = Command::new("ip");
    let output = command
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("no `ip`: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
