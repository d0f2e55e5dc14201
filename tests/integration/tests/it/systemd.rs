//! The packaged units under a real systemd: start, reload, watchdog, restart, and what of a VM
//! outlives them. They manage units, so they run only where that is what the machine is for:
//! `cargo xtask systemd -- cargo test --workspace --test it -- systemd:: confine::`.

mod vms;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use casemate_host::confine::{Confinement, Outbound, PlaceLimits};
use casemate_host::spec::VmId;
use casemate_integration::artifacts;
use casemate_integration::daemon::Setup;

use crate::confine::probe::Probe;

/// What `cargo xtask systemd` sets.
const IN_BOX: &str = "CASEMATE_SYSTEMD_BOX";
const UNIT: &str = "casemated.service";
/// Where units are for as long as this systemd runs.
const UNITS: &str = "/run/systemd/system";
const PATIENCE: Duration = Duration::from_secs(60);
/// There is one unit, so tests take turns.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// Shorter than the packaged one, so that it can be waited for.
const WATCHDOG: Duration = Duration::from_secs(3);

/// Its output, where it went well.
fn systemctl(arguments: &[&str]) -> Result<String, String> {
    #[expect(clippy::disallowed_methods, reason = "the test's own units")]
    let mut command = Command::new("systemctl");
    let output = command.args(arguments).output().expect("systemctl starts");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn run(arguments: &[&str]) -> String {
    systemctl(arguments).unwrap_or_else(|error| panic!("systemctl {arguments:?}: {error}"))
}

fn property(unit: &str, name: &str) -> String {
    run(&["show", "--value", "--property", name, unit])
        .trim()
        .to_owned()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what} does not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn signal(pid: &str, signal: rustix::process::Signal) {
    let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a pid"), signal).expect("it is there");
}

/// The packaged service with the built program and a config of the test's. Dropped, it is stopped,
/// and so are the VMs that it left.
struct Service {
    /// With the config and the state directory.
    setup: Setup,
    unit: PathBuf,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

impl Service {
    /// None, and why on standard output, outside the box.
    async fn install(setup: Setup) -> Option<Self> {
        if std::env::var_os(IN_BOX).is_none() {
            println!("skipped: no systemd of the tests' own ({IN_BOX} is not set)");
            return None;
        }
        let turn = TURN.lock().await;
        let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging");
        let unit = Path::new(UNITS).join(UNIT);
        std::fs::create_dir_all(unit.with_extension("service.d")).expect("a folder");
        std::fs::copy(packaging.join(UNIT), &unit).expect("it is packaged");
        std::fs::copy(
            packaging.join("casemate.slice"),
            Path::new(UNITS).join("casemate.slice"),
        )
        .expect("it is packaged");
        let change = format!(
            "[Service]\nExecStart=\nExecStart={} --config {}\nWatchdogSec={}\n",
            artifacts::program("casemated").display(),
            setup.write_config().display(),
            WATCHDOG.as_secs()
        );
        let drop_in = unit.with_extension("service.d").join("test.conf");
        std::fs::write(drop_in, change).expect("a file");
        run(&["daemon-reload"]);
        Some(Self {
            setup,
            unit,
            _turn: turn,
        })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = systemctl(&["status", "--full", "--lines=40", UNIT]);
            println!("{}", log.unwrap_or_else(|error| error));
        }
        let _ = systemctl(&["kill", "--signal=CONT", UNIT]);
        let _ = systemctl(&["stop", UNIT]);
        let _ = systemctl(&["stop", "casemate-vm-*.scope"]);
        let _ = std::fs::remove_file(&self.unit);
        let _ = std::fs::remove_dir_all(self.unit.with_extension("service.d"));
        let _ = systemctl(&["daemon-reload"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_tells_systemd_how_it_is_and_scopes_outlive_it() {
    let Some(_service) = Service::install(Setup::new()).await else {
        return;
    };
    // With `Type=notify` this returns when the daemon said that it is ready.
    run(&["start", UNIT]);
    assert_eq!(property(UNIT, "ActiveState"), "active");
    let status = property(UNIT, "StatusText");
    assert!(status.starts_with("Serving gRPC at 127.0.0.1:"), "{status}");

    // A reload is seen to begin and to end: the time of the last change is another one.
    let changed = || property(UNIT, "StateChangeTimestampMonotonic");
    let before = changed();
    run(&["reload", UNIT]);
    wait_until("the end of the reload", || {
        changed() != before && property(UNIT, "StatusText") == status
    });
    wait_until("the end of the reload", || {
        property(UNIT, "SubState") == "running"
    });

    let vm = Probe::here();
    let scope = a_scope_is_the_vms_own(&vm).await;
    // It lives on through every end of the daemon, in the same scope and behind the same filter.
    let vm_lives = |after: &str| {
        assert_eq!(property(&scope.unit, "ActiveState"), "active", "{after}");
        assert_eq!(
            scope.place.pids().expect("a list"),
            [vm.pid()],
            "after {after}"
        );
        assert!(
            scope
                .place
                .is_filtered(&Outbound::default())
                .expect("an answer"),
            "after {after}"
        );
    };

    // Longer than the watchdog's patience: it is fed.
    let pid = || property(UNIT, "MainPID");
    let first = pid();
    tokio::time::sleep(2 * WATCHDOG).await;
    assert_eq!(pid(), first, "{}", property(UNIT, "Result"));
    // A daemon that hangs is ended, and another one started.
    signal(&first, rustix::process::Signal::STOP);
    wait_until("another daemon", || {
        pid() != first && property(UNIT, "ActiveState") == "active"
    });
    assert_eq!(property(UNIT, "NRestarts"), "1");
    vm_lives("the watchdog");

    let second = pid();
    signal(&second, rustix::process::Signal::KILL);
    wait_until("another daemon", || {
        !["0", second.as_str()].contains(&pid().as_str())
            && property(UNIT, "ActiveState") == "active"
    });
    vm_lives("SIGKILL");

    run(&["restart", UNIT]);
    vm_lives("a restart");

    run(&["stop", UNIT]);
    assert_eq!(property(UNIT, "Result"), "success");
    assert_eq!(property(UNIT, "ActiveState"), "inactive");
    vm_lives("the end of the service");

    // A scope goes with its last process, whichever way that ends.
    drop(vm);
    wait_until("the end of the scope", || !scope.place.exists());
    wait_until("the end of the unit", || {
        property(&scope.unit, "LoadState") == "not-found"
    });
}

struct Scope {
    place: casemate_host::confine::Place,
    unit: String,
}

async fn a_scope_is_the_vms_own(vm: &Probe) -> Scope {
    let confinement = Confinement::detect("systemd").await;
    assert!(
        matches!(confinement, Confinement::Systemd(_)),
        "{confinement:?}"
    );
    // As a process that the daemon has just started.
    let service = format!(
        "/sys/fs/cgroup{}/cgroup.procs",
        property(UNIT, "ControlGroup")
    );
    std::fs::write(&service, vm.pid().to_string()).expect("it can be moved");
    let id = VmId::random();
    let limits = PlaceLimits {
        memory_bytes: Some(512 << 20),
        tasks: Some(100),
    };
    let place = confinement.place(id, vm.pid(), limits).await;
    let place = place.expect("it is placed");
    place
        .filter_outbound(&Outbound::default())
        .expect("it is filtered");
    let unit = place.unit.clone().expect("a scope");
    assert_eq!(unit, format!("casemate-vm-{id}.scope"));
    for (name, wanted) in [
        ("ActiveState", "active"),
        ("Slice", "casemate.slice"),
        ("MemoryMax", "536870912"),
        ("TasksMax", "100"),
        ("CollectMode", "inactive-or-failed"),
        ("Delegate", "no"),
    ] {
        assert_eq!(property(&unit, name), wanted, "{name}");
    }
    assert!(
        !place.cgroup.to_string_lossy().contains(UNIT),
        "{place:?} is the service's"
    );
    let left = std::fs::read_to_string(&service).expect("a list");
    assert!(
        left.lines().all(|pid| pid != vm.pid().to_string()),
        "{left}"
    );
    assert_eq!(confinement.find(id), Some(place.clone()));
    let nobody = confinement
        .place(VmId::random(), u32::MAX >> 1, limits)
        .await
        .expect_err("there is no such process");
    println!("a process that is gone: {nobody}");
    Scope { place, unit }
}
