//! What a booted guest reaches over the network, by its own attempts: of this host nothing, of the
//! world everything, and its agent is reached in any case.
//!
//! `confine` asks the kernel the same of single sockets; here real QEMU's user network is between.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use casemate_integration::daemon::{Daemon, Setup, agent_answer, get_http};
use casemate_proto::v1;

use crate::confine::probe::{Answer, Probe};

/// The host's loopback, as QEMU's user network has it.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const NOBODY: [&str; 0] = [];
/// Where the other machine listens.
const PORT: u16 = 4711;
const LOOPBACK: &str = "a listener on loopback";
/// The guest hears no answer from such an address, but the listener hears the guest.
const LOOPBACK_BY_NAME: &str = "a listener on loopback, as 127.0.0.1";
const OUTSIDE: &str = "a listener on the host's own address";
/// The guest's attempts last five seconds each, all at once.
const PATIENCE: Duration = Duration::from_secs(120);

/// Another machine: a network namespace with a cable to this host.
struct OtherMachine {
    namespace: String,
    host: Ipv4Addr,
    address: Ipv4Addr,
    _listener: Probe,
}

impl OtherMachine {
    /// None, and why on standard output, where namespaces cannot be made.
    fn new(number: u8) -> Option<Self> {
        let process = std::process::id();
        let namespace = format!("casemate-reach-{process}-{number}");
        if let Err(error) = ip(&["netns", "add", &namespace]) {
            println!("skipped: no network namespace: {error}");
            return None;
        }
        // Of the network for benchmarks (RFC 2544), four addresses for each test of each process.
        let [.., third, fourth] =
            (process.wrapping_mul(4).wrapping_add(number.into()) * 4).to_be_bytes();
        let (host, address) = (
            Ipv4Addr::new(198, 19, third, fourth | 1),
            Ipv4Addr::new(198, 19, third, fourth | 2),
        );
        // An interface's name has 15 bytes at most.
        let cable = format!("cm{process}-{number}");
        let peer = ["peer", "name", "cable", "netns", &namespace];
        run(&[&["link", "add", &cable, "type", "veth"], peer.as_slice()].concat());
        run(&["addr", "add", &format!("{host}/30"), "dev", &cable]);
        run(&["link", "set", &cable, "up"]);
        let there = ["-n", &namespace];
        run(&[
            &there,
            ["addr", "add", &format!("{address}/30"), "dev", "cable"].as_slice(),
        ]
        .concat());
        run(&[&there, ["link", "set", "cable", "up"].as_slice()].concat());
        let mut listener = Probe::start(&["ip", "netns", "exec", &namespace]);
        let listens = listener.ask(&format!("listen {address}:{PORT}"));
        assert_eq!(listens, Answer::Done);
        Some(Self {
            namespace,
            host,
            address,
            _listener: listener,
        })
    }
}

impl Drop for OtherMachine {
    fn drop(&mut self) {
        // The cable goes with it.
        let _ = ip(&["netns", "del", &self.namespace]);
    }
}

fn run(arguments: &[&str]) {
    ip(arguments).unwrap_or_else(|error| panic!("ip {arguments:?}: {error}"));
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    #[expect(clippy::disallowed_methods, reason = "the test's own network")]
    let mut command = std::process::Command::new("ip");
    let output = command
        .args(arguments)
        .output()
        .map_err(|error| format!("no `ip`: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// What listens on this host beside the daemon, each with what it is.
struct Listeners([(&'static str, TcpListener); 3]);

impl Listeners {
    fn new(other: &OtherMachine) -> Self {
        let listen = |address: Ipv4Addr| {
            let listener = TcpListener::bind((address, 0)).expect("a port");
            listener.set_nonblocking(true).expect("it is asked");
            listener
        };
        Self([
            (LOOPBACK, listen(Ipv4Addr::LOCALHOST)),
            (LOOPBACK_BY_NAME, listen(Ipv4Addr::LOCALHOST)),
            (OUTSIDE, listen(other.host)),
        ])
    }

    fn ports(&self) -> [u16; 3] {
        self.0
            .each_ref()
            .map(|(_, listener)| listener.local_addr().expect("an address").port())
    }

    /// Those that were connected to, by their own account, since the last time.
    fn met(&self) -> Vec<&'static str> {
        let met = self.0.iter().filter(|(_, listener)| {
            let connected = std::iter::from_fn(|| listener.accept().ok());
            connected.count() > 0
        });
        met.map(|(what, _)| *what).collect()
    }
}

fn port_of(vm: &v1::Vm) -> &str {
    vm.agent_address.rsplit(':').next().expect("a port")
}

/// Addresses of this host, each with what it is.
fn of_the_host(
    daemon: &Daemon,
    neighbour: &v1::Vm,
    listeners: &Listeners,
    other: &OtherMachine,
) -> BTreeMap<String, &'static str> {
    let [loopback, by_name, outside] = listeners.ports();
    [
        (
            format!("{GATEWAY}:{}", daemon.grpc.port()),
            "the daemon's gRPC",
        ),
        (
            format!("{GATEWAY}:{}", daemon.http.port()),
            "the daemon's HTTP",
        ),
        (
            format!("{GATEWAY}:{}", port_of(neighbour)),
            "another VM's agent",
        ),
        (format!("{GATEWAY}:{loopback}"), LOOPBACK),
        (format!("127.0.0.1:{by_name}"), LOOPBACK_BY_NAME),
        (format!("{}:{outside}", other.host), OUTSIDE),
    ]
    .into()
}

/// Which of the addresses the guest connected to.
async fn reached<'a>(vm: &v1::Vm, addresses: impl Iterator<Item = &'a String>) -> Vec<String> {
    let list: Vec<&str> = addresses.map(String::as_str).collect();
    let body = ask(vm, &format!("/connect/{}", list.join(","))).await;
    assert_eq!(
        body.lines().count(),
        list.len(),
        "one line for each: {body}"
    );
    let connected = body
        .lines()
        .filter_map(|line| line.strip_suffix(" connected"));
    let mut connected: Vec<String> = connected.map(str::to_owned).collect();
    connected.sort();
    connected
}

async fn ask(vm: &v1::Vm, path: &str) -> String {
    let address = vm.agent_address.parse().expect("an address");
    let answer = tokio::time::timeout(PATIENCE, get_http(address, path)).await;
    let (status, body) = answer.expect("in time").expect("its own forward answers");
    assert_eq!(status, 200, "{body}");
    body
}

fn setup(outbound: &str) -> Setup {
    let mut setup = Setup::new();
    setup.set("network.outbound", outbound);
    // What the filter holds is asked of a VM without its daemon, too.
    setup.set("on_shutdown", "leave");
    setup
}

/// Two VMs, the first of which is asked.
async fn two_vms(daemon: &Daemon) -> (v1::Vm, v1::Vm) {
    let (one, two) = tokio::join!(
        daemon.create(v1::VmSpec::default()),
        daemon.create(v1::VmSpec::default())
    );
    let (one, two) = (one.expect("it runs"), two.expect("it runs"));
    tokio::join!(
        agent_answer(&one.agent_address),
        agent_answer(&two.agent_address)
    );
    // So that a packet for 127.0.0.1 leaves the guest.
    let routes = ask(&one, "/loopback-leaves").await;
    assert!(routes.contains("127.0.0.1 via 10.0.2.2"), "{routes}");
    (one, two)
}

async fn remove(daemon: &Daemon, vms: [&v1::Vm; 2]) {
    for vm in vms {
        daemon.remove(&vm.id).await.expect("it can be removed");
    }
    daemon.assert_unwound().await;
}

#[tokio::test]
async fn a_guest_reaches_the_world_and_nothing_of_the_host() {
    let Some(other) = OtherMachine::new(0) else {
        return;
    };
    let listeners = Listeners::new(&other);
    let mut daemon = setup("filtered").start();
    let (vm, neighbour) = two_vms(&daemon).await;
    let outside = format!("{}:{PORT}", other.address);
    let asked = |daemon: &Daemon| {
        let mut asked = of_the_host(daemon, &neighbour, &listeners, &other);
        asked.insert(outside.clone(), "another machine");
        asked
    };
    let wanted = [outside.clone()];
    let addresses = asked(&daemon);
    assert_eq!(
        reached(&vm, addresses.keys()).await,
        wanted,
        "{addresses:?}"
    );
    assert_eq!(listeners.met(), NOBODY);

    daemon.kill();
    let found = reached(&vm, addresses.keys()).await;
    assert_eq!(found, wanted, "the daemon is dead: {addresses:?}");
    assert_eq!(listeners.met(), NOBODY);

    daemon.restart();
    let listed = daemon.get(&vm.id).await.expect("it is listed");
    assert_eq!((listed.state(), listed.pid), (v1::VmState::Running, vm.pid));
    let addresses = asked(&daemon);
    let found = reached(&vm, addresses.keys()).await;
    assert_eq!(found, wanted, "the VM is adopted: {addresses:?}");
    assert_eq!(listeners.met(), NOBODY);
    remove(&daemon, [&vm, &neighbour]).await;
}

/// What the test before this one holds to be unreachable is so by the filter, and by nothing else.
#[tokio::test]
async fn an_unfiltered_guest_reaches_the_host() {
    let Some(other) = OtherMachine::new(1) else {
        return;
    };
    let listeners = Listeners::new(&other);
    let daemon = setup("unfiltered").start();
    let (vm, neighbour) = two_vms(&daemon).await;
    let mut addresses = of_the_host(&daemon, &neighbour, &listeners, &other);
    addresses.insert(format!("{}:{PORT}", other.address), "another machine");
    let nobody = format!("{GATEWAY}:1");
    let asked = addresses.keys().chain([&nobody]);
    let heard = addresses
        .iter()
        .filter(|(_, what)| **what != LOOPBACK_BY_NAME);
    let wanted: Vec<String> = heard.map(|(address, _)| address.clone()).collect();
    assert_eq!(reached(&vm, asked).await, wanted, "{addresses:?}");
    assert_eq!(listeners.met(), [LOOPBACK, LOOPBACK_BY_NAME, OUTSIDE]);
    remove(&daemon, [&vm, &neighbour]).await;
}

#[tokio::test]
async fn a_guest_without_a_way_out_answers_all_the_same() {
    let Some(other) = OtherMachine::new(2) else {
        return;
    };
    let listeners = Listeners::new(&other);
    let daemon = setup("none").start();
    let (vm, neighbour) = two_vms(&daemon).await;
    let mut addresses = of_the_host(&daemon, &neighbour, &listeners, &other);
    addresses.insert(format!("{}:{PORT}", other.address), "another machine");
    let found = reached(&vm, addresses.keys()).await;
    assert_eq!(found, Vec::<String>::new(), "{addresses:?}");
    assert_eq!(listeners.met(), NOBODY);
    remove(&daemon, [&vm, &neighbour]).await;
}
