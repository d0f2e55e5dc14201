//! What a VM's cgroup keeps from the host, asked of the kernel: a process in it connects, sends and
//! listens, as QEMU's user network does, while others listen on the host's addresses.
//!
//! All of it happens in two network namespaces that stand for the host and for another machine, so
//! that this machine's network is left alone.

mod net;
pub(crate) mod probe;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_host::confine::{ConfineError, Confinement, Outbound, Place, PlaceLimits};
use casemate_host::spec::VmId;

use net::{HOST_V4, HOST_V6, LATER_V4, OTHER_V4, OTHER_V6, TwoMachines};
use probe::{Answer, Probe};

/// Where the listeners are, on every address.
const PORT: u16 = 4711;
const STUB: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);
/// Programs that the kernel takes on one hook of a cgroup.
const MOST_PROGRAMS: usize = 64;

/// A VM's cgroup, with the folder of this test's daemon where one was made.
struct Confined {
    confinement: Confinement,
    /// The daemon's folder of cgroups, once it is known.
    folder: Option<PathBuf>,
}

impl Confined {
    /// None, and why on standard output, where this machine cannot show it.
    async fn new(instance: &'static str) -> Option<Self> {
        let confinement = Confinement::detect(instance).await;
        if let Err(error) = confinement.is_enforceable() {
            assert!(
                matches!(error, ConfineError::Unavailable(_)),
                "root, cgroups and no filter: {error}"
            );
            println!("skipped: {error}");
            return None;
        }
        Some(Self {
            confinement,
            folder: None,
        })
    }

    async fn place(&mut self, id: VmId, probe: &Probe) -> Place {
        let limits = PlaceLimits {
            memory_bytes: Some(1 << 30),
            tasks: Some(64),
        };
        let place = self
            .confinement
            .place(id, probe.pid(), limits)
            .await
            .expect("it is placed");
        if place.unit.is_none() {
            self.folder = place.cgroup.parent().map(Path::to_owned);
        }
        place
    }

    /// Where all went well.
    async fn end(self, place: Place, probe: Probe) {
        drop(probe);
        place.remove().await.expect("an empty cgroup goes");
        let end = std::time::Instant::now() + Duration::from_secs(5);
        while place.exists() {
            assert!(std::time::Instant::now() < end, "{place:?} stays");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.confinement.leave();
        if let Some(folder) = &self.folder {
            assert!(!folder.exists(), "{} stays", folder.display());
        }
    }
}

/// Processes of a failed test are killed by then, and cgroups that are made by hand do not go by
/// themselves.
impl Drop for Confined {
    fn drop(&mut self) {
        let Some(folder) = &self.folder else {
            return;
        };
        for cgroup in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            // Files of the cgroup are no directories.
            let _ = std::fs::remove_dir(cgroup.path());
        }
        let _ = std::fs::remove_dir(folder);
    }
}

fn at(address: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(address.into(), PORT)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_reaches_the_world_and_nothing_of_the_host() {
    let Some(mut confined) = Confined::new("filter").await else {
        return;
    };
    let Some(machines) = TwoMachines::new("f") else {
        return;
    };
    let (mut host, mut other) = (machines.on_host(), machines.on_other());
    for address in ["0.0.0.0:4711", "[::]:4711"] {
        assert_eq!(host.ask(&format!("listen {address}")), Answer::Done);
        assert_eq!(other.ask(&format!("listen {address}")), Answer::Done);
    }
    let id = VmId::random();
    let mut vm = machines.on_host();
    let place = confined.place(id, &vm).await;
    assert_eq!(place.pids().expect("a list"), [vm.pid()]);
    assert_eq!(confined.confinement.find(id), Some(place.clone()));
    let forwards: [SocketAddr; 2] = [
        "127.0.0.1:4712".parse().expect("an address"),
        "[::1]:4712".parse().expect("an address"),
    ];
    for forward in forwards {
        assert_eq!(vm.ask(&format!("listen {forward}")), Answer::Done);
    }

    use Answer::{Denied, Done, TimedOut};
    // What the VM does, and what becomes of it with the filter. Without it, all of it works.
    let mut questions = vec![
        (format!("tcp 127.0.0.1:{PORT}"), Denied),
        (format!("tcp 127.9.9.9:{PORT}"), Denied),
        (format!("tcp 0.0.0.0:{PORT}"), Denied),
        (format!("tcp [::1]:{PORT}"), Denied),
        (format!("tcp [::]:{PORT}"), Denied),
        (format!("tcp [::ffff:127.0.0.1]:{PORT}"), Denied),
        (format!("tcp {}", at(HOST_V4)), TimedOut),
        (format!("tcp {}", at(HOST_V6)), TimedOut),
        (format!("tcp [::ffff:{HOST_V4}]:{PORT}"), TimedOut),
        (format!("udp 127.0.0.1:{PORT}"), Denied),
        (format!("udp [::1]:{PORT}"), Denied),
        (format!("udp {}", at(HOST_V4)), Denied),
        (format!("udp {}", at(HOST_V6)), Denied),
        // Of a packet to a group the host gets a copy.
        ("udp 224.0.0.251:5353".to_owned(), Denied),
        ("udp 255.255.255.255:5353".to_owned(), Denied),
        ("udp [ff02::fb%0]:5353".to_owned(), Denied),
        (format!("tcp {}", at(OTHER_V4)), Done),
        (format!("tcp {}", at(OTHER_V6)), Done),
        (format!("udp {}", at(OTHER_V4)), Done),
        (format!("udp {}", at(OTHER_V6)), Done),
    ];
    for (question, _) in &mut questions {
        *question = question.replace("%0", &format!("%{}", machines.host_interface()));
    }
    for (question, _) in &questions {
        assert_eq!(vm.ask(question), Done, "{question}, without a filter");
    }
    let outbound = Outbound::default();
    assert!(!place.is_filtered(&outbound).expect("an answer"));

    // By a process that is gone before the first question.
    let mut attaching = Probe::here();
    let cgroup = place.cgroup.display();
    assert_eq!(attaching.ask(&format!("filter {cgroup}")), Done);
    drop(attaching);
    machines.add_address_later();

    assert!(place.is_filtered(&outbound).expect("an answer"));
    questions.push((format!("tcp {}", at(LATER_V4)), TimedOut));
    for (question, wanted) in &questions {
        assert_eq!(vm.ask(question), *wanted, "{question}");
        assert_eq!(
            host.ask(question),
            Done,
            "{question}, from outside the cgroup"
        );
    }
    for forward in forwards {
        let asked = host.ask(&format!("tcp {forward}"));
        assert_eq!(asked, Done, "the VM's own forward at {forward}");
    }
    for _ in 0..=MOST_PROGRAMS {
        place.filter_outbound(&outbound).expect("once is enough");
    }
    drop((host, other));
    confined.end(place, vm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_of_the_host_is_asked_for_names_and_nothing_else() {
    let Some(mut confined) = Confined::new("resolver").await else {
        return;
    };
    let Some(machines) = TwoMachines::new("r") else {
        return;
    };
    let mut host = machines.on_host();
    for address in ["0.0.0.0:53", "[::]:53", "0.0.0.0:4711", "[::]:4711"] {
        assert_eq!(host.ask(&format!("listen {address}")), Answer::Done);
    }
    let mut vm = machines.on_host();
    let place = confined.place(VmId::random(), &vm).await;
    let outbound = Outbound {
        resolvers: vec![STUB.into(), HOST_V6.into()],
    };
    place.filter_outbound(&outbound).expect("it is attached");
    assert!(place.is_filtered(&outbound).expect("an answer"));
    assert!(
        !place.is_filtered(&Outbound::default()).expect("an answer"),
        "another filter is there"
    );
    use Answer::{Denied, Done, TimedOut};
    for (question, wanted) in [
        (format!("udp {STUB}:53"), Done),
        (format!("tcp {STUB}:53"), Done),
        (format!("tcp [::ffff:{STUB}]:53"), Done),
        (format!("udp [{HOST_V6}]:53"), Done),
        (format!("tcp [{HOST_V6}]:53"), Done),
        (format!("udp {STUB}:{PORT}"), Denied),
        (format!("tcp {STUB}:{PORT}"), Denied),
        (format!("tcp [{HOST_V6}]:{PORT}"), TimedOut),
        ("udp 127.0.0.1:53".to_owned(), Denied),
        ("tcp 127.0.0.1:53".to_owned(), Denied),
        ("udp [::1]:53".to_owned(), Denied),
        ("tcp [::1]:53".to_owned(), Denied),
    ] {
        assert_eq!(vm.ask(&question), wanted, "{question}");
    }
    drop(host);
    confined.end(place, vm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cgroup_goes_when_it_is_empty_and_not_before() {
    let Some(mut confined) = Confined::new("life").await else {
        return;
    };
    let id = VmId::random();
    let vm = Probe::here();
    let place = confined.place(id, &vm).await;
    let record = serde_json::to_string(&place).expect("JSON");
    let place: Place = serde_json::from_str(&record).expect("the same");
    let error = place.remove().await.expect_err("it has a process");
    assert!(
        matches!(&error, ConfineError::InUse { pids, .. } if *pids == [vm.pid()]),
        "{error}"
    );
    assert_eq!(place.pids().expect("a list"), [vm.pid()]);
    let second = Probe::here();
    let again = confined
        .confinement
        .place(id, second.pid(), PlaceLimits::default())
        .await;
    assert!(again.is_err(), "a VM has one cgroup");
    confined.end(place.clone(), vm).await;
    place.remove().await.expect("it is gone already");
    assert_eq!(place.pids().expect("no list"), [0_u32; 0]);
}
