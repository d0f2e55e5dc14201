//! VMs of the packaged service: each in a scope of its own, alive through every end of the daemon,
//! and gone with its unit when it is removed or stopped.

use std::path::PathBuf;
use std::time::Duration;

use casemate_integration::artifacts;
use casemate_integration::daemon::{Setup, agent_answer, eventually};
use casemate_integration::leftovers;
use casemate_proto::v1;
use casemate_proto::v1::vm_service_client::VmServiceClient;
use rustix::process::Signal;
use tonic::transport::Channel;

use super::{Service, UNIT, WATCHDOG, property, run, signal, wait_until};

/// What a QEMU may take beside its guest's memory, whatever its plan.
const QEMU_MEMORY: u64 = 320 << 20;
const GUEST_MEMORY: u64 = 256 << 20;

impl Service {
    /// A client of the daemon that runs now: each has ports of its own.
    async fn client(&self) -> VmServiceClient<Channel> {
        let path = self.setup.state_dir().join("endpoints.json");
        let text = std::fs::read_to_string(path).expect("it is ready");
        let endpoints: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let address = endpoints["grpc"].as_str().expect("an address");
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("a URL");
        VmServiceClient::new(endpoint.connect().await.expect("the daemon answers"))
    }

    async fn create(&self, name: &str, nonce: &str) -> Vm {
        let spec = v1::VmSpec {
            name: name.to_owned(),
            environment: [("NONCE".to_owned(), nonce.to_owned())].into(),
            ..v1::VmSpec::default()
        };
        let request = v1::CreateVmRequest {
            spec: Some(spec),
            ..Default::default()
        };
        let answer = self.client().await.create_vm(request).await;
        let answer = answer.expect("it is created").into_inner();
        Vm::of(&answer.vm.expect("a VM"))
    }

    async fn get(&self, id: &str) -> v1::Vm {
        let request = v1::GetVmRequest { id: id.to_owned() };
        let answer = self.client().await.get_vm(request).await;
        answer.expect("it is there").into_inner().vm.expect("a VM")
    }

    async fn remove(&self, id: &str) {
        let request = v1::RemoveVmRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        let answer = self.client().await.remove_vm(request).await;
        answer.expect("it is removed");
    }

    /// Waits for another daemon than `before`, which said that it is ready.
    fn wait_for_another(&self, before: &str) {
        wait_until("another daemon", || {
            !["0", before].contains(&property(UNIT, "MainPID").as_str())
                && property(UNIT, "ActiveState") == "active"
        });
    }
}

/// A VM that runs: who it is, by /proc.
struct Vm {
    id: String,
    unit: String,
    qemu: u32,
    launcher: u32,
    /// Of its QEMU; a pid alone may be another process's by now.
    started: String,
    agent_address: String,
}

impl Vm {
    fn of(vm: &v1::Vm) -> Self {
        assert_eq!(vm.state(), v1::VmState::Running, "{}", vm.detail);
        Self {
            id: vm.id.clone(),
            unit: format!("casemate-vm-{}.scope", vm.id),
            qemu: vm.pid,
            launcher: stat(vm.pid, 4).parse().expect("a pid"),
            started: stat(vm.pid, 22),
            agent_address: vm.agent_address.clone(),
        }
    }

    fn cgroup(&self) -> PathBuf {
        PathBuf::from(format!(
            "/sys/fs/cgroup{}",
            property(&self.unit, "ControlGroup")
        ))
    }

    /// Guest, QEMU, and what the plan says on top, in the words of systemd.
    fn memory_limit(&self, service: &Service) -> String {
        let record = service.setup.state_dir().join("records").join(&self.id);
        let launch = std::fs::read_to_string(record.join("launch.json")).expect("a record");
        let launch: serde_json::Value = serde_json::from_str(&launch).expect("JSON");
        let more = &launch["plan"]["memory_overhead_bytes"];
        (GUEST_MEMORY + QEMU_MEMORY + more.as_u64().expect("a number")).to_string()
    }

    fn is_in_a_scope_of_its_own(&self, service: &Service) {
        let program = std::fs::read_link(format!("/proc/{}/exe", self.launcher));
        let program = program.expect("the launcher runs");
        assert!(program.ends_with("casemate-launch"), "{program:?}");
        let wanted = format!("/casemate.slice/{}", self.unit);
        for pid in [self.qemu, self.launcher] {
            let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
            let cgroup = cgroup.expect("it runs");
            assert!(cgroup.trim_end().ends_with(&wanted), "{pid}: {cgroup}");
        }
        assert_eq!(pids(&self.cgroup()), sorted(vec![self.qemu, self.launcher]));
        // The daemon is alone in the service's.
        let services = format!("/sys/fs/cgroup{}", property(UNIT, "ControlGroup"));
        let daemon: u32 = property(UNIT, "MainPID").parse().expect("a pid");
        assert_eq!(pids(&PathBuf::from(services)), [daemon]);
        let memory = self.memory_limit(service);
        for (name, wanted) in [
            ("Slice", "casemate.slice"),
            ("MemoryMax", memory.as_str()),
            ("TasksMax", "4096"),
            ("CollectMode", "inactive-or-failed"),
        ] {
            assert_eq!(property(&self.unit, name), wanted, "{name}");
        }
    }

    /// What the kernel holds it to, where this kernel's hierarchy has the controllers.
    fn is_limited_by_the_kernel(&self, service: &Service) {
        let memory = self.memory_limit(service);
        for (file, wanted) in [("memory.max", memory.as_str()), ("pids.max", "4096")] {
            match std::fs::read_to_string(self.cgroup().join(file)) {
                Ok(limit) => assert_eq!(limit.trim(), wanted, "{file}"),
                Err(error) => println!("skipped: {file} of the scope: {error}"),
            }
        }
    }

    /// The same process, in the same place, and the daemon of now answers for it.
    async fn runs(&self, service: &Service, after: &str) {
        self.is_there(after);
        let vm = eventually("the VM is running", super::PATIENCE, || async {
            let vm = service.get(&self.id).await;
            (vm.state() == v1::VmState::Running).then_some(vm)
        })
        .await;
        assert_eq!(vm.pid, self.qemu, "after {after}");
        assert_eq!(vm.agent_address, self.agent_address, "after {after}");
        self.is_in_a_scope_of_its_own(service);
    }

    fn is_there(&self, after: &str) {
        assert_eq!(stat(self.qemu, 22), self.started, "after {after}");
        assert_eq!(
            property(&self.unit, "ActiveState"),
            "active",
            "after {after}"
        );
    }

    fn is_gone(&self) {
        for pid in [self.qemu, self.launcher] {
            wait_until("the end of the processes", || {
                !PathBuf::from(format!("/proc/{pid}")).exists()
            });
        }
        wait_until("the end of the unit", || {
            property(&self.unit, "LoadState") == "not-found"
        });
        let listed = run(&["list-units", "--all", "--plain", "--no-legend", &self.unit]);
        assert_eq!(listed.trim(), "");
        let slice = "/sys/fs/cgroup/casemate.slice";
        assert!(!PathBuf::from(slice).join(&self.unit).exists());
    }
}

/// A field of /proc/PID/stat, counted as proc(5) does.
fn stat(pid: u32, field: usize) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name may have spaces and brackets.
    let (_, rest) = text.rsplit_once(") ").expect("a name");
    let mut fields = rest.split(' ');
    fields
        .nth(field - 3)
        .expect("the field is there")
        .to_owned()
}

fn pids(cgroup: &std::path::Path) -> Vec<u32> {
    let text = std::fs::read_to_string(cgroup.join("cgroup.procs")).expect("a cgroup");
    sorted(
        text.lines()
            .map(|pid| pid.parse().expect("a pid"))
            .collect(),
    )
}

fn sorted(mut pids: Vec<u32>) -> Vec<u32> {
    pids.sort_unstable();
    pids
}

/// Every end that a daemon can have, and the one after it.
async fn ends_of_the_daemon(service: &Service, vms: &[&Vm]) {
    let pid = || property(UNIT, "MainPID");
    let all_run = async |after: &str| {
        for vm in vms {
            vm.runs(service, after).await;
        }
    };
    run(&["restart", UNIT]);
    all_run("a restart").await;

    let before = pid();
    signal(&before, Signal::KILL);
    service.wait_for_another(&before);
    all_run("SIGKILL").await;

    run(&["stop", UNIT]);
    assert_eq!(property(UNIT, "ActiveState"), "inactive");
    for vm in vms {
        vm.is_there("a stop");
    }
    run(&["start", UNIT]);
    all_run("a stop and a start").await;

    let before = pid();
    signal(&before, Signal::STOP);
    tokio::time::sleep(WATCHDOG).await;
    service.wait_for_another(&before);
    all_run("the watchdog").await;
}

/// Fake QEMU for one VM, because it says by which signal it was ended in an instant; the real one,
/// with a guest, for another.
#[tokio::test(flavor = "multi_thread")]
async fn vms_outlive_every_end_of_the_daemon_and_go_without_a_trace() {
    let mut setup = Setup::new();
    setup.use_fake_qemu(&serde_json::json!({}));
    setup.set("on_shutdown", "leave");
    let Some(mut service) = Service::install(setup).await else {
        return;
    };
    run(&["start", UNIT]);
    let one = service.create("one", "").await;
    let two = service.create("two", "").await;
    // From now on VMs have the real QEMU; the two keep what they have.
    let qemu = artifacts::qemus().remove(0);
    service.setup.set("qemu.binary", qemu.display().to_string());
    service.setup.write_config();
    run(&["reload", UNIT]);
    let real = eventually("the reload", super::PATIENCE, || async {
        let vm = service.create("real", "nonce-of-the-real-one").await;
        let program = std::fs::read_link(format!("/proc/{}/exe", vm.qemu)).expect("it runs");
        if program == qemu {
            return Some(vm);
        }
        service.remove(&vm.id).await;
        None
    })
    .await;
    for vm in [&one, &two, &real] {
        vm.is_in_a_scope_of_its_own(&service);
    }
    one.is_limited_by_the_kernel(&service);
    assert!(
        agent_answer(&real.agent_address)
            .await
            .contains("nonce-of-the-real-one")
    );

    ends_of_the_daemon(&service, &[&one, &two, &real]).await;
    // The guest itself never noticed.
    assert!(
        agent_answer(&real.agent_address)
            .await
            .contains("nonce-of-the-real-one")
    );

    service.remove(&real.id).await;
    real.is_gone();
    service.remove(&one.id).await;
    one.is_gone();
    two.runs(&service, "the removal of others").await;

    // The operator's way: the scope is a unit like any other.
    run(&["stop", &two.unit]);
    let vm = eventually("the end is seen", Duration::from_secs(30), || async {
        let vm = service.get(&two.id).await;
        (vm.state() == v1::VmState::Exited).then_some(vm)
    })
    .await;
    let exit = vm.last_exit.expect("it ended");
    assert_eq!(exit.reason, "host-signal", "{}", vm.detail);
    assert_eq!((exit.code, exit.signal), (Some(0), None), "{}", vm.detail);
    two.is_gone();
    service.remove(&two.id).await;
    leftovers::assert_nothing_left(&service.setup.state_dir());
}
