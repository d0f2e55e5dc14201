//! What a child says, in any amount, and on a disk that is full.

use std::process::Command;

use serde_json::json;

use crate::harness::{Files, Launch, eventually, status};

const FLOOD: u64 = 200_000_000;
/// A launcher has its program, its stack and one buffer.
const MOST_MEMORY_KIB: u64 = 12 << 10;

#[test]
fn a_flood_stays_within_the_caps_and_in_constant_memory() {
    let script = format!(
        "echo first; yes 'a line of the guest' | head -c {FLOOD}; echo last; exec sleep 1000"
    );
    // The console is a pipe, so that the shell can give it to all of them.
    let mut running = Launch::shell(&format!("exec >&9; {script}")).run();
    let launcher = &mut running.launcher;
    let total = FLOOD + "first\nlast\n".len() as u64;
    let transcript = eventually("the end of the flood", || {
        let transcript = launcher.files.console();
        (transcript.total == total).then_some(transcript)
    });
    let peak = status(launcher.process.id(), "VmHWM");
    let peak: u64 = peak.strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(peak < MOST_MEMORY_KIB, "{peak} KiB");
    assert_eq!(transcript.head.len(), 16 << 10);
    assert!(
        transcript
            .head
            .starts_with(b"first\na line of the guest\na line")
    );
    assert_eq!(transcript.tail.len(), 64 << 10);
    assert!(transcript.tail.ends_with(b"last\n"));
    assert_eq!(transcript.omitted, total - (16 << 10) - (64 << 10));
    let sizes = launcher
        .files
        .console
        .each_ref()
        .map(|file| file.metadata().unwrap().len());
    assert!(
        sizes[0] == 16 << 10 && sizes[1] < (64 << 10) + 100,
        "{sizes:?}"
    );
}

#[test]
fn both_streams_are_read_to_the_end() {
    // More than a pipe holds, from a child that is gone at once.
    let (exit, files) =
        Launch::shell("yes | head -c 60000 >&9; yes no | head -c 60000 >&2; exit 1")
            .set("/caps/console_head", json!(0))
            .set("/caps/stderr_head", json!(100_000))
            .set("/caps/stderr_tail", json!(0))
            .run_to_the_end();
    assert_eq!(exit.code, Some(1));
    let console = files.console();
    assert_eq!((console.head.len(), console.tail.len()), (0, 60_000));
    assert_eq!(files.stderr_text().len(), 60_000);
}

/// A file system with room for a few pages.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(folder.path())
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then_some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn a_full_disk_stops_nothing_and_is_counted() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: nothing can be mounted here");
        return;
    };
    const SAID: u64 = 2_000_000;
    for (head, tail) in [(0, 1 << 20), (1 << 20, 0), (16 << 10, 1 << 20)] {
        let mut launch = Launch::shell(&format!("yes | head -c {SAID} >&9; exit 8"))
            .set("/caps/console_head", json!(head))
            .set("/caps/console_tail", json!(tail));
        launch.files = Files::below(disk.0.path());
        let mut running = launch.run();
        // The room for the exit was taken in advance, so it is there on the same disk.
        let exit = running.launcher.exit();
        assert_eq!(exit.code, Some(8), "{head} {tail}");
        assert!(exit.console_dropped > 0);
        let total = running.launcher.files.console().total;
        assert_eq!(total + exit.console_dropped, SAID);
    }
}
