//! A console's first and last part are kept within the cap, whatever the guest writes and whether a
//! daemon runs, over the VM's last starts and after its end.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use casemate_integration::daemon::{Daemon, Setup, Verb, agent_answer, eventually, get_http};
use casemate_proto::v1;
use serde_json::json;

/// How long the guest floods its console while no daemon runs.
const FLOOD_TIME: Duration = Duration::from_secs(60);
/// Of head and tail each.
const CAP: u64 = 64 << 10;
/// What the tail's file has beside its bytes: a header of some numbers.
const HEADER: u64 = 4096;
/// A guest that does nothing but write, under TCG, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes with, before each piece, how many were not kept.
#[derive(Debug, Default)]
struct Console {
    text: String,
    /// Where in the text something is missing, and how much.
    gaps: Vec<(usize, u64)>,
}

impl Console {
    fn add(&mut self, piece: &v1::GetConsoleResponse) {
        if piece.omitted_bytes > 0 {
            self.gaps.push((self.text.len(), piece.omitted_bytes));
        }
        self.text.push_str(&String::from_utf8_lossy(&piece.data));
    }
}

async fn stream(
    daemon: &Daemon,
    request: v1::GetConsoleRequest,
) -> tonic::Streaming<v1::GetConsoleResponse> {
    let answer = daemon.vms().await.get_console(request).await;
    answer.expect("it streams").into_inner()
}

async fn read(daemon: &Daemon, request: v1::GetConsoleRequest) -> Console {
    let mut stream = stream(daemon, request).await;
    let mut console = Console::default();
    while let Some(piece) = stream.message().await.expect("a piece") {
        console.add(&piece);
    }
    console
}

fn of(vm: &v1::Vm) -> v1::GetConsoleRequest {
    v1::GetConsoleRequest {
        id: vm.id.clone(),
        ..v1::GetConsoleRequest::default()
    }
}

/// Sizes of all console files of a VM.
fn sizes(daemon: &Daemon, vm: &v1::Vm) -> Vec<(PathBuf, u64)> {
    let folder = std::fs::read_dir(daemon.state_dir.join("records").join(&vm.id));
    let entries = folder.expect("it is there").flatten();
    let consoles =
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("console-"));
    consoles
        .map(|entry| (entry.path(), entry.metadata().expect("its size").len()))
        .collect()
}

fn assert_capped(daemon: &Daemon, vm: &v1::Vm, cap: u64) {
    let sizes = sizes(daemon, vm);
    assert!(sizes.len() >= 2, "head and tail: {sizes:?}");
    assert!(
        sizes.iter().all(|(_, size)| *size <= cap + HEADER),
        "{sizes:?}"
    );
}

/// The numbers of whole lines, which follow each other.
fn assert_counts_up(text: &str) -> u64 {
    let mut lines: Vec<&str> = text.lines().collect();
    // Both ends may be cut.
    lines.remove(0);
    lines.pop();
    let numbers = lines
        .iter()
        .map(|line| line.trim().parse::<u64>().expect("a number"));
    let numbers: Vec<u64> = numbers.collect();
    assert!(numbers.len() > 1_000, "{} lines", numbers.len());
    assert!(
        numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "a line is missing"
    );
    numbers[0]
}

#[tokio::test]
async fn a_guest_that_floods_its_console_without_a_daemon_fills_the_cap_and_lives() {
    let mut setup = Setup::new();
    setup.set("on_shutdown", "leave");
    setup.set("qemu.console_size", "64K");
    let mut daemon = setup.start();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    agent_answer(&vm.agent_address).await;
    let agent = vm.agent_address.parse().expect("an address");
    let begun = get_http(agent, "/flood").await.expect("it answers");
    assert!(begun.1.contains("the flood has begun"), "{begun:?}");

    daemon.kill();
    let killed = Instant::now();
    while killed.elapsed() < FLOOD_TIME {
        assert_capped(&daemon, &vm, CAP);
        let answer = tokio::time::timeout(PATIENCE, get_http(agent, "/cmdline")).await;
        let (status, body) = answer.expect("in time").expect("the guest lives");
        assert!(status == 200 && body.contains("console=ttyS0"), "{body}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    daemon.restart();
    let listed = daemon.get(&vm.id).await.expect("it is listed");
    assert_eq!((listed.state(), listed.pid), (v1::VmState::Running, vm.pid));
    let console = read(&daemon, of(&vm)).await;
    let [(at, omitted), ..] = console.gaps[..] else {
        panic!("nothing was left out: {} bytes", console.text.len());
    };
    assert_eq!(at as u64, CAP, "the first part is whole");
    assert!(omitted > CAP, "{omitted}");
    let (head, tail) = console.text.split_at(at);
    assert!(head.contains("casemate-agent: ready"), "{head}");
    let first = assert_counts_up(tail);
    // By the guest's own count, more is missing than is kept.
    assert!(first > 20_000, "{first}");

    // A follower gets what comes, until the VM is down.
    let tail = v1::GetConsoleRequest {
        tail_bytes: 16,
        follow: true,
        ..of(&vm)
    };
    let mut followed = stream(&daemon, tail).await;
    let mut bytes = 0;
    while bytes < 2 * CAP as usize {
        let piece = followed
            .message()
            .await
            .expect("a piece")
            .expect("it goes on");
        bytes += piece.data.len() + usize::try_from(piece.omitted_bytes).expect("a size");
    }
    daemon.act(Verb::ForceStop, &vm.id).await.expect("it stops");
    while followed.message().await.expect("a piece").is_some() {}

    let after = read(&daemon, of(&vm)).await;
    assert!(after.text.starts_with(head), "the first part stays");
    assert!(after.gaps[0].1 > omitted, "{:?}", after.gaps);
    assert_capped(&daemon, &vm, CAP);
    daemon.remove(&vm.id).await.expect("it can be removed");
    daemon.assert_unwound().await;
}

/// With the scripted QEMU, because real guests would take minutes to write so much.
#[tokio::test]
async fn a_flood_of_200_megabytes_keeps_both_ends() {
    let bytes: u64 = 200 << 20;
    let mut setup = Setup::new();
    setup.use_fake_qemu(&json!({
        "console_text": "the first words\n",
        "console_flood": {"bytes": bytes, "line": "spam"},
    }));
    let daemon = setup.start();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    let console = eventually("the end of the flood", Duration::from_secs(120), || async {
        assert_capped(&daemon, &vm, 1 << 20);
        let console = read(&daemon, of(&vm)).await;
        let omitted: u64 = console.gaps.iter().map(|(_, omitted)| omitted).sum();
        (omitted + console.text.len() as u64 >= bytes).then_some(console)
    })
    .await;
    let at = console.gaps[0].0;
    assert_eq!(at, 1 << 20, "the first part is whole");
    assert!(
        console.text[..200].contains("the first words\n"),
        "{}",
        &console.text[..200]
    );
    assert!(console.text.ends_with("spam\n"));
    assert!(console.text.len() - at >= 1 << 19, "{:?}", console.gaps);
    daemon.remove(&vm.id).await.expect("it can be removed");
    daemon.assert_unwound().await;
}

/// With the scripted QEMU, whose guest writes other words at each start.
#[tokio::test]
async fn consoles_of_the_last_three_starts_are_kept() {
    let mut setup = Setup::new();
    setup.set("on_shutdown", "leave");
    setup.use_fake_qemu(&json!({"console_text": "start 1\n"}));
    let mut daemon = setup.start();
    let vm = daemon.create(v1::VmSpec::default()).await.expect("it runs");
    for start in 2..=4 {
        said(&daemon, &vm, start - 1).await;
        daemon.act(Verb::ForceStop, &vm.id).await.expect("it stops");
        // After its end it is there as before.
        said(&daemon, &vm, start - 1).await;
        let script = json!({"console_text": format!("start {start}\n")}).to_string();
        let path = daemon.folder.path().join("fake/fake-qemu.script");
        std::fs::write(path, script).expect("a file");
        daemon.act(Verb::Start, &vm.id).await.expect("it starts");
    }
    said(&daemon, &vm, 4).await;
    for is_restarted in [false, true] {
        if is_restarted {
            daemon.kill();
            daemon.restart();
        }
        for (previous, start) in [(0, Some(4)), (1, Some(3)), (2, Some(2)), (3, None)] {
            let request = v1::GetConsoleRequest {
                previous,
                ..of(&vm)
            };
            let text = read(&daemon, request).await.text;
            for number in 1..=4 {
                let is_there = text.contains(&format!("start {number}\n"));
                assert_eq!(is_there, start == Some(number), "{previous}: {text}");
            }
        }
    }
    let kept = sizes(&daemon, &vm);
    assert_eq!(kept.len(), 6, "head and tail of three: {kept:?}");
    daemon.remove(&vm.id).await.expect("it can be removed");
    daemon.assert_unwound().await;
}

async fn said(daemon: &Daemon, vm: &v1::Vm, start: u32) {
    eventually("its words", Duration::from_secs(30), || async {
        let console = read(daemon, of(vm)).await;
        console
            .text
            .contains(&format!("start {start}\n"))
            .then_some(())
    })
    .await;
}
