//! WatchVms: every change in its order, numbers that only grow, and a reader that is too slow is
//! told so instead of holding up a VM. With the scripted QEMU, for the number of changes.

use std::collections::BTreeMap;
use std::time::Duration;

use casemate_integration::daemon::{Daemon, Setup, Verb};
use casemate_integration::http::Request;
use casemate_integration::processes;
use casemate_proto::v1;
use casemate_proto::v1::vm_service_client::VmServiceClient;
use casemate_proto::v1::watch_vms_response::Change;
use rustix::process::Signal;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tonic::transport::Channel;
use tonic::{Code, Streaming};
use tonic_types::StatusExt as _;

const PATIENCE: Duration = Duration::from_secs(60);
const SMALLEST_WINDOW: u32 = 65_535;

fn setup() -> Setup {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({}));
    setup
}

fn named(name: &str) -> v1::VmSpec {
    v1::VmSpec {
        name: name.to_owned(),
        ..v1::VmSpec::default()
    }
}

struct Watch(Streaming<v1::WatchVmsResponse>);

impl Watch {
    /// A watch of one VM, or of all with an empty id.
    async fn of(daemon: &Daemon, id: &str) -> Result<Self, tonic::Status> {
        let request = v1::WatchVmsRequest { id: id.to_owned() };
        let answer = daemon.vms().await.watch_vms(request).await?;
        Ok(Self(answer.into_inner()))
    }

    async fn next(&mut self) -> v1::WatchVmsResponse {
        let next = tokio::time::timeout(PATIENCE, self.0.message()).await;
        next.expect("in time").expect("no error").expect("no end")
    }

    /// Everything up to the change that `last` recognises, that one included.
    async fn until(&mut self, last: impl Fn(&Change) -> bool) -> Vec<(u64, Change)> {
        let mut seen = Vec::new();
        loop {
            let message = self.next().await;
            let change = message.change.expect("a change");
            let is_last = last(&change);
            seen.push((message.generation, change));
            if is_last {
                return seen;
            }
        }
    }
}

fn is_synchronized(change: &Change) -> bool {
    matches!(change, Change::Synchronized(true))
}

fn removed(id: &str) -> impl Fn(&Change) -> bool {
    move |change| matches!(change, Change::Removed(gone) if gone == id)
}

/// The states that one VM went through, and that each number is greater than the one before it.
fn states(seen: &[(u64, Change)], id: &str) -> Vec<v1::VmState> {
    let own = seen.iter().filter_map(|(generation, change)| match change {
        Change::Vm(vm) if vm.id == id => {
            assert_eq!(vm.generation, *generation);
            Some((*generation, vm.state()))
        }
        _ => None,
    });
    let own: Vec<(u64, v1::VmState)> = own.collect();
    assert!(own.is_sorted_by(|one, two| one.0 < two.0), "{own:?}");
    let mut states: Vec<v1::VmState> = own.into_iter().map(|(_, state)| state).collect();
    states.dedup();
    states
}

#[tokio::test]
async fn every_change_comes_in_its_order() {
    use v1::VmState::{Creating, Paused, Removing, Running, Starting, Stopped, Stopping};
    let daemon = setup().start();
    let before = daemon.create(named("before")).await.expect("it runs");
    let mut all = Watch::of(&daemon, "").await.expect("it streams");
    let present = all.until(is_synchronized).await;
    assert_eq!(states(&present, &before.id), [Running]);
    assert_eq!(
        present.len(),
        2,
        "one VM, and that this was all: {present:?}"
    );
    let mut one = Watch::of(&daemon, &before.id).await.expect("it streams");
    one.until(is_synchronized).await;

    let vm = daemon.create(named("after")).await.expect("it runs");
    for verb in [Verb::Pause, Verb::Resume, Verb::Stop, Verb::Start] {
        daemon.act(verb, &vm.id).await.expect("it is done");
    }
    daemon.remove(&vm.id).await.expect("it goes");
    let seen = all.until(removed(&vm.id)).await;
    let own = states(&seen, &vm.id);
    assert_eq!(
        own,
        [
            Creating, Starting, Running, Paused, Running, Stopping, Stopped, Starting, Running,
            Stopping, Removing
        ]
    );
    let greatest = seen.iter().map(|(generation, _)| *generation).max();
    assert_eq!(
        seen.last().map(|(generation, _)| *generation),
        greatest,
        "removed comes last"
    );
    // What a watch tells is what a list tells.
    let mut told = BTreeMap::new();
    for (_, change) in present.into_iter().chain(seen) {
        match change {
            Change::Vm(vm) => drop(told.insert(vm.id.clone(), vm)),
            Change::Removed(id) => drop(told.remove(&id)),
            Change::Synchronized(_) => {}
        }
    }
    let listed = daemon.list().await;
    assert_eq!(told.into_values().collect::<Vec<_>>(), listed);

    // The other watch heard nothing of all that, and ends with its VM's removal as last word.
    daemon.remove(&before.id).await.expect("it goes");
    let seen = one.until(removed(&before.id)).await;
    for (_, change) in &seen {
        match change {
            Change::Vm(vm) => assert_eq!(vm.id, before.id),
            Change::Removed(id) => assert_eq!(*id, before.id),
            Change::Synchronized(_) => panic!("once is enough"),
        }
    }
    assert_eq!(states(&seen, &before.id), [Stopping, Removing]);
    let unknown = Watch::of(&daemon, &before.id).await;
    assert_eq!(
        unknown.map(drop).expect_err("it is gone").code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn numbers_grow_over_every_end_of_the_daemon() {
    let mut setup = setup();
    setup.set("on_shutdown", "leave");
    let mut daemon = setup.start();
    let vm = daemon.create(named("lasting")).await.expect("it runs");
    let mut last = vm.generation;
    for is_crash in [true, false, true] {
        daemon.act(Verb::Pause, &vm.id).await.expect("it pauses");
        let resumed = daemon.act(Verb::Resume, &vm.id).await.expect("it goes on");
        assert!(resumed.generation > last);
        last = resumed.generation;
        let mut watch = Watch::of(&daemon, "").await.expect("it streams");
        watch.until(is_synchronized).await;
        if is_crash {
            daemon.kill();
        } else {
            assert_eq!(daemon.stop(), Some(0));
        }
        // A watch that loses its daemon does not look as if nothing happened any more.
        let end = loop {
            match tokio::time::timeout(PATIENCE, watch.0.message())
                .await
                .expect("in time")
            {
                Ok(Some(_)) => {}
                end => break end,
            }
        };
        end.expect_err("an error, and no quiet end");
        daemon.restart();
        let mut watch = Watch::of(&daemon, "").await.expect("it streams");
        let present = watch.until(is_synchronized).await;
        for (generation, _) in &present {
            assert!(*generation > last, "{generation} after {last}");
        }
        last = present
            .iter()
            .map(|(generation, _)| *generation)
            .max()
            .expect("there are some");
    }
    // The end that no call asked for is told too.
    let mut watch = Watch::of(&daemon, &vm.id).await.expect("it streams");
    watch.until(is_synchronized).await;
    processes::signal(vm.pid, Signal::KILL);
    let seen = watch
        .until(|change| matches!(change, Change::Vm(vm) if vm.state() == v1::VmState::Exited))
        .await;
    let Some((_, Change::Vm(exited))) = seen.last() else {
        panic!("{seen:?}");
    };
    let exit = exited.last_exit.as_ref().expect("how it ended");
    assert_eq!(exit.signal, Some(9));
}

/// A reader that takes nothing while thousands of changes happen.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_cut_off_and_holds_up_nobody() {
    let mut setup = setup();
    setup.allow_any_call_rate();
    let daemon = setup.start();
    let vm = daemon.create(named("busy")).await.expect("it runs");
    // The smallest windows that HTTP/2 has: what a reader has not taken soon waits in the daemon.
    let narrow = Channel::from_shared(daemon.endpoint()).expect("a valid URL");
    let narrow = narrow
        .initial_stream_window_size(SMALLEST_WINDOW)
        .initial_connection_window_size(SMALLEST_WINDOW);
    let channel = narrow.connect().await.expect("the daemon answers");
    let watched = VmServiceClient::new(channel)
        .watch_vms(v1::WatchVmsRequest::default())
        .await;
    let mut slow = Watch(watched.expect("it streams").into_inner());
    slow.until(is_synchronized).await;
    let mut client = daemon.vms().await;
    let quick = tokio::spawn({
        let mut quick = Watch::of(&daemon, "").await.expect("it streams");
        let id = vm.id.clone();
        async move { quick.until(removed(&id)).await.len() }
    });
    // Beside the windows, the daemon's HTTP/2 holds some hundreds, and its watch 1,024.
    const PAIRS: usize = 2_000;
    for _ in 0..PAIRS {
        let id = vm.id.clone();
        client
            .pause_vm(v1::PauseVmRequest {
                id,
                ..Default::default()
            })
            .await
            .expect("it pauses");
        let id = vm.id.clone();
        client
            .resume_vm(v1::ResumeVmRequest {
                id,
                ..Default::default()
            })
            .await
            .expect("it goes on");
    }
    daemon.remove(&vm.id).await.expect("it goes");
    let heard = tokio::time::timeout(PATIENCE, quick)
        .await
        .expect("in time");
    assert!(heard.expect("no panic") > 2 * PAIRS, "who reads hears all");
    let status = loop {
        match tokio::time::timeout(PATIENCE, slow.0.message())
            .await
            .expect("in time")
        {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a quiet end"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Aborted, "{status}");
    let info = status
        .get_details_error_info()
        .expect("what kind of error it is");
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        ("WATCH_TOO_SLOW", "casemate")
    );
    assert!(status.message().contains("remedy: "), "{status}");
    // It may come again.
    let mut again = Watch::of(&daemon, "").await.expect("it streams");
    assert_eq!(again.until(is_synchronized).await.len(), 1);
}

/// The same over HTTP, where an event says it. Its VM has labels, so that an event is large: what a
/// reader has not taken waits in sockets first, which hold megabytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_over_http_is_told_so_by_an_event() {
    const PAIRS: usize = 2_000;
    let mut setup = setup();
    setup.set("http.stream_time", "10m");
    setup.allow_any_call_rate();
    let daemon = setup.start();
    let labels = (0..60).map(|number| (format!("label-{number}"), "x".repeat(250)));
    let spec = v1::VmSpec {
        labels: labels.collect(),
        ..named("busy")
    };
    let vm = daemon.create(spec).await.expect("it runs");
    let slow = Request::get("/v1/events").begin(daemon.http).await;
    let mut slow = slow.expect("a connection");
    let mut begin = [0; 4096];
    slow.read_exact(&mut begin).await.expect("it streams");
    for _ in 0..PAIRS {
        for verb in [Verb::Pause, Verb::Resume] {
            daemon.act(verb, &vm.id).await.expect("it is done");
        }
    }
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, slow.read_to_end(&mut rest));
    read.await.expect("in time").expect("it ends");
    let rest = String::from_utf8_lossy(&rest);
    let (_, error) = rest.split_once("event: error\n").expect("an error");
    assert!(
        error.contains("urn:casemate:error:watch-too-slow"),
        "{error}"
    );
}
