//! What takes a host of its own: memory that runs out, reboots, power cuts, a clock that is set.
//! Each test boots one, so they run only where they are asked for: `cargo xtask system-vm`.
//!
//! QEMU is the fake one: it is to take more memory than it may, and an emulator in an emulated host
//! takes minutes to boot a guest. What is asked is the host's kernel, and the daemon through its
//! own command.

mod boots;
mod clock;
mod memory;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use casemate_integration::artifacts;
use casemate_integration::daemon::Setup;
use serde_json::Value;
use xtask::system_vm::VARIABLE;
use xtask::system_vm::machine::{Ended, Outage, SystemVm};

/// What the machine keeps over its reboots.
const STATE: &str = "/mnt/disk/state";
const LOG: &str = "/mnt/disk/casemated.log";
const GRPC_PORT: i64 = 7001;
/// Agents' ports.
const PORTS: std::ops::RangeInclusive<u16> = 6100..=6120;
const GUEST_MEMORY: u64 = 64 << 20;
/// Emulated, on a machine that does other things beside it.
const PATIENCE: Duration = Duration::from_secs(240);

/// A host with a daemon on it.
struct Host {
    machine: SystemVm,
    setup: Setup,
    begun: Instant,
}

impl Host {
    /// Boots it, without a daemon. None, and why on standard output, where none is wanted.
    fn boot() -> Option<Self> {
        let Some(image) = std::env::var_os(VARIABLE) else {
            println!("skipped: no host of the tests' own ({VARIABLE} is not set)");
            return None;
        };
        let begun = Instant::now();
        let mut setup = Setup::new();
        setup.use_fake_qemu(&serde_json::json!({}));
        for (key, value) in [
            ("state_dir", STATE),
            ("network.ports", "6100-6120"),
            ("vm.memory", "64M"),
        ] {
            setup.set(key, value);
        }
        setup.set("grpc.port", GRPC_PORT);
        setup.set("on_shutdown", "leave");
        setup.set("max_memory", 0);
        let mut machine = SystemVm::new(&PathBuf::from(image)).expect("a machine");
        machine.boot(Duration::ZERO).expect("it boots");
        let mut host = Self {
            machine,
            setup,
            begun,
        };
        host.say("booted");
        Some(host)
    }

    /// Figures, for whoever reads the output.
    fn say(&mut self, what: &str) {
        println!("  {:6.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    fn end_and_boot(&mut self, outage: Outage, off: Duration) {
        let before = self.machine.boot_id().to_owned();
        self.machine.restart(outage, off).expect("it boots");
        assert_ne!(self.machine.boot_id(), before);
        let time = self.machine.boot_time().as_secs_f64();
        self.say(&format!(
            "booted again in {time:.1} s after a {outage:?}, off for {off:?}"
        ));
    }

    fn try_run(&mut self, script: &str) -> Ended {
        match self.machine.run(script, PATIENCE) {
            Ok(ended) => ended,
            Err(error) => panic!("{error:#}\n{}", self.log()),
        }
    }

    /// What a script prints, which has to succeed.
    fn run(&mut self, script: &str) -> String {
        let ended = self.try_run(script);
        assert_eq!(ended.code, 0, "{script}\n{}\n{}", ended.output, self.log());
        ended.output
    }

    fn log(&mut self) -> String {
        match self.machine.run(&format!("tail -c 6000 {LOG}"), PATIENCE) {
            Ok(ended) => format!("=== log of casemated ===\n{}", ended.output),
            Err(error) => format!("no log: {error:#}"),
        }
    }

    /// Starts the daemon with the config as it is now, and waits until it answers.
    fn start_daemon(&mut self) {
        let config = self.setup.write_config();
        let begun = Instant::now();
        self.run(&format!(
            "setsid {} --config {} >> {LOG} 2>&1 &\n\
             for try in $(seq 300); do\n\
                 {} vm list > /dev/null 2>&1 && exit\n\
                 sleep 0.2\n\
             done\n\
             exit 1",
            artifacts::program("casemated").display(),
            config.display(),
            casemate(),
        ));
        self.say(&format!(
            "daemon ready in {:.1} s",
            begun.elapsed().as_secs_f64()
        ));
    }

    fn daemon_pid(&mut self) -> String {
        self.run(&format!("cat {STATE}/lock"))
    }

    /// What a verb answers, as JSON.
    fn ask(&mut self, arguments: &str) -> Value {
        let text = self.run(&format!("{} {arguments}", casemate()));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn create(&mut self, name: &str, arguments: &str) -> Value {
        let vm = self.ask(&format!("vm create --name {name} {arguments}"));
        assert_eq!(vm["state"], "running", "{vm}");
        vm
    }

    /// All VMs, by name.
    fn vms(&mut self) -> BTreeMap<String, Value> {
        let vms = self.ask("vm list");
        let vms = vms.as_array().expect("an array");
        vms.iter()
            .map(|vm| (vm["name"].as_str().expect("a name").to_owned(), vm.clone()))
            .collect()
    }

    /// Asks until it is so.
    fn wait_for<T>(&mut self, what: &str, mut probe: impl FnMut(&mut Self) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = probe(self) {
                return found;
            }
            assert!(Instant::now() < end, "{what} does not come\n{}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What the QEMUs that are started from now on do.
    fn script(&mut self, script: &Value) {
        let file = self.setup.folder.path().join("fake/fake-qemu.script");
        self.run(&format!("echo '{script}' > {}", file.display()));
    }

    fn record(&mut self, vm: &Value) -> Value {
        let id = vm["id"].as_str().expect("an id");
        let text = self.run(&format!("cat {STATE}/records/{id}/vm.json"));
        serde_json::from_str(&text).expect("JSON")
    }

    /// Ids that have a folder in the state directory, by folder.
    fn folders(&mut self) -> Vec<String> {
        let text = self.run(&format!(
            "cd {STATE} && ls -d records/* vms/* 2>/dev/null || true"
        ));
        text.lines().map(str::to_owned).collect()
    }
}

/// The command line client of this build, with JSON as its answer.
fn casemate() -> String {
    format!(
        "{} --endpoint http://127.0.0.1:{GRPC_PORT} --format json",
        artifacts::program("casemate").display()
    )
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}
