//! A `casemated` of the tests' own: the real program, its config, its clients.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_proto::v1;
use casemate_proto::v1::backend_service_client::BackendServiceClient;
use casemate_proto::v1::vm_service_client::VmServiceClient;
use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::artifacts;
use crate::leftovers;
use crate::mute::{self, Proxy};
use crate::predecessor::manager_service_client::ManagerServiceClient;

/// Start and end of a daemon on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A config to be changed before the start.
pub struct Setup {
    pub folder: Arc<TempDir>,
    pub config: toml::Table,
    /// Variables of the daemon; none of this process's own that would configure it.
    pub variables: Vec<(String, String)>,
    /// `--set`.
    pub flags: Vec<String>,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Setup {
    /// The packaged config with free ports, TCG, the test guest and `plain-kvm` without firmware.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("casemate-it-").tempdir();
        let folder = folder.expect("a temporary folder");
        // QEMU's own user walks through it.
        let open = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(folder.path(), open).expect("the mode can be set");
        let mut setup = Self {
            config: artifacts::packaged_config(),
            folder: Arc::new(folder),
            variables: Vec::new(),
            flags: Vec::new(),
        };
        setup.set("default_backend", "plain-kvm");
        setup.set("state_dir", setup.state_dir().display().to_string());
        // On no tmpfs, whatever `/run` and `/tmp` are: what a VM has lies in one place then.
        setup.set("secrets_dir", env!("CARGO_MANIFEST_DIR"));
        setup.set("grpc.port", 0);
        setup.set("http.port", 0);
        setup.set("qemu.accelerator", "tcg");
        setup.set("network.ports", "any");
        // A test leaves nothing behind; what a daemon does without it has tests of its own.
        setup.set("on_shutdown", "stop-vms");
        setup.set("vm.kernel", artifacts::kernel().display().to_string());
        setup.set("vm.initrd", artifacts::initrd().display().to_string());
        setup.set("vm.kernel_cmdline", "console=ttyS0 quiet panic=-1");
        setup.set("vm.memory", "256M");
        setup.set("vm.vcpus", 1);
        let mut backend = setup.config["backend"][0]
            .as_table()
            .expect("a table")
            .clone();
        artifacts::pin(&mut backend, &artifacts::component("plain-kvm"));
        backend["settings"] = toml::toml! { firmware = "none" }.into();
        setup.config["backend"] = toml::Value::Array(vec![backend.into()]);
        setup
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// A test of many calls is one client, and a fast machine makes more of them than one may make.
    pub fn allow_any_call_rate(&mut self) -> &mut Self {
        self.set("limits.calls_per_second", 0)
    }

    /// Sets a dotted key, making tables on the way.
    pub fn set(&mut self, key: &str, value: impl Into<toml::Value>) -> &mut Self {
        let mut parts: Vec<&str> = key.split('.').collect();
        let last = parts.pop().expect("split yields one part at least");
        let mut table = &mut self.config;
        for part in parts {
            table = table
                .entry(part)
                .or_insert_with(|| toml::Table::new().into())
                .as_table_mut()
                .expect("a table");
        }
        table.insert(last.to_owned(), value.into());
        self
    }

    /// Adds a `[[backend]]` with the component of that name, pinned.
    pub fn add_backend(&mut self, name: &str, grants: toml::Table) -> &mut Self {
        let mut backend = toml::Table::new();
        backend.insert("name".to_owned(), name.into());
        artifacts::pin(&mut backend, &artifacts::component(name));
        backend.insert("grants".to_owned(), grants.into());
        self.config["backend"]
            .as_array_mut()
            .expect("an array")
            .push(backend.into());
        self
    }

    /// Adds a backend as it is packaged, pinned.
    pub fn add_packaged(&mut self, name: &str) -> &mut Self {
        let backend = artifacts::packaged_backend(name);
        self.config["backend"]
            .as_array_mut()
            .expect("an array")
            .push(backend.into());
        self
    }

    /// Adds a fixture whose plans have iothreads and nothing else (`sealed`, `mirror`), under a name
    /// of its own.
    pub fn add_iothreads(&mut self, component: &str, name: &str) -> &mut Self {
        self.add_backend(
            component,
            toml::toml! {
                facts = [{ fact = "qemu-machine", pattern = "q35" }]

                [objects]
                iothread = {}
                secret = { properties = ["format", "data"] }
            },
        );
        let backends = self.config["backend"].as_array_mut().expect("an array");
        let added = backends.last_mut().and_then(toml::Value::as_table_mut);
        added
            .expect("a table")
            .insert("name".to_owned(), name.into());
        self
    }

    /// Uses the scripted QEMU. Its folder holds `fake-qemu.script` and `fake-qemu.starts`.
    pub fn use_fake_qemu(&mut self, script: &serde_json::Value) -> &mut Self {
        let folder = self.folder.path().join("fake");
        std::fs::create_dir(&folder).expect("a folder");
        let program = artifacts::stage_program(&artifacts::program("fake-qemu"), &folder);
        for (name, content) in [
            ("fake-qemu.script", script.to_string()),
            ("fake-qemu.starts", String::new()),
        ] {
            let path = folder.join(name);
            std::fs::write(&path, content).expect("a file");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))
                .expect("the mode can be set");
        }
        // It reads its script and notes its starts beside its program.
        self.set("qemu.extra_paths", folder.display().to_string());
        self.set("qemu.binary", program.display().to_string())
    }

    /// Processes that the fake QEMU was started as, probes left out.
    pub fn fake_starts(folder: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(folder.join("fake/fake-qemu.starts"));
        text.expect("the file is there")
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .filter(|start: &serde_json::Value| start["probe"] != true)
            .collect()
    }

    /// Gives the daemon a variable.
    pub fn variable(&mut self, name: &str, value: &str) -> &mut Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes a key out of the config file.
    pub fn unset(&mut self, key: &str) -> &mut Self {
        let (table, name) = key.rsplit_once('.').unwrap_or(("", key));
        let table = match table {
            "" => Some(&mut self.config),
            table => self
                .config
                .get_mut(table)
                .and_then(toml::Value::as_table_mut),
        };
        if let Some(table) = table {
            table.remove(name);
        }
        self
    }

    /// Writes the config file, for a start or a reload.
    pub fn write_config(&self) -> PathBuf {
        let path = self.folder.path().join("casemate.toml");
        std::fs::write(&path, self.config.to_string()).expect("the config can be written");
        path
    }

    /// The daemon's program with this config, and no variable but those that were set.
    pub fn command(&self) -> std::process::Command {
        #[expect(clippy::disallowed_methods, reason = "the subject of the tests")]
        let mut command = std::process::Command::new(artifacts::program("casemated"));
        command.env_clear();
        command.arg("--config").arg(self.write_config());
        for flag in &self.flags {
            command.arg("--set").arg(flag);
        }
        command.envs(
            self.variables
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        );
        command.stdin(Stdio::null());
        command
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(self) -> Daemon {
        match self.try_start() {
            Ok(daemon) => daemon,
            Err(log) => panic!("casemated did not start:\n{log}"),
        }
    }

    /// Starts the daemon; its log if it ends instead.
    pub fn try_start(self) -> Result<Daemon, String> {
        let log = self.folder.path().join("casemated.log");
        let started = self.launch(&log)?;
        Ok(Daemon {
            child: started.child,
            folder: Arc::clone(&self.folder),
            state_dir: self.state_dir(),
            grpc: started.grpc,
            http: started.http,
            proxy: started.proxy,
            log,
            setup: self,
        })
    }

    /// A daemon that is ready; what it said in its log if it ends instead.
    fn launch(&self, log: &Path) -> Result<Started, String> {
        let endpoints = self.state_dir().join("endpoints.json");
        let output = std::fs::File::options().create(true).append(true).open(log);
        let output = output.expect("the log can be made");
        let before = output.metadata().map_or(0, |metadata| metadata.len());
        let mut child = self
            .command()
            .env("CANARY_OF_THE_DAEMON", "1")
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .expect("casemated starts");
        let started = Instant::now();
        loop {
            if let Ok(Some(_)) = child.try_wait() {
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let own = usize::try_from(before)
                    .ok()
                    .and_then(|before| text.get(before..));
                return Err(own.unwrap_or_default().to_owned());
            }
            if let Ok(text) = std::fs::read_to_string(&endpoints) {
                let endpoints: serde_json::Value =
                    serde_json::from_str(&text).expect("it is written atomically");
                if endpoints["pid"] != child.id() {
                    // Of one that was killed, and could not take it away.
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                let address = |name: &str| -> SocketAddr {
                    endpoints[name]
                        .as_str()
                        .expect("an address")
                        .parse()
                        .expect("an address")
                };
                return Ok(Started::reached(child, address("grpc"), address("http")));
            }
            assert!(started.elapsed() < PATIENCE, "casemated is not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

struct Started {
    child: Child,
    grpc: SocketAddr,
    http: SocketAddr,
    proxy: Option<Proxy>,
}

impl Started {
    /// A daemon with these listeners, reached as the tests reach it: without a part of its
    /// interfaces, where one is muted.
    fn reached(child: Child, grpc: SocketAddr, http: SocketAddr) -> Self {
        let proxy = mute::muted().map(|part| Proxy::start(part, grpc, http));
        let (grpc, http) = match &proxy {
            Some(proxy) => (proxy.grpc, proxy.http),
            None => (grpc, http),
        };
        Self {
            child,
            grpc,
            http,
            proxy,
        }
    }
}

/// What a VM may be asked for, but for its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Start,
    /// Accepts another measurement.
    StartAnyway,
    Stop,
    ForceStop,
    Restart,
    ForceRestart,
    Pause,
    Resume,
    Reset,
}

impl Verb {
    pub const ALL: [Self; 8] = [
        Self::Start,
        Self::Stop,
        Self::ForceStop,
        Self::Restart,
        Self::ForceRestart,
        Self::Pause,
        Self::Resume,
        Self::Reset,
    ];
}

/// A running `casemated`. Dropping it ends it, and its VMs with it, whoever is to end them.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// For the next start of it.
    pub setup: Setup,
    pub folder: Arc<TempDir>,
    pub state_dir: PathBuf,
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    /// Between the two and the daemon, where a part of the interfaces is muted.
    proxy: Option<Proxy>,
    log: PathBuf,
}

impl Daemon {
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it has in memory, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|text| text.parse().ok()).expect("a number")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.grpc)
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(self.endpoint()).expect("a valid URL");
        endpoint.connect().await.expect("the daemon answers")
    }

    pub async fn vms(&self) -> VmServiceClient<Channel> {
        VmServiceClient::new(self.channel().await)
    }

    pub async fn backends(&self) -> BackendServiceClient<Channel> {
        BackendServiceClient::new(self.channel().await)
    }

    pub async fn predecessor(&self) -> ManagerServiceClient<Channel> {
        ManagerServiceClient::new(self.channel().await)
    }

    /// Creates a VM or gives the status of the refusal.
    pub async fn create(&self, spec: v1::VmSpec) -> Result<v1::Vm, tonic::Status> {
        let request = v1::CreateVmRequest {
            spec: Some(spec),
            ..Default::default()
        };
        let answer = self.vms().await.create_vm(request).await?;
        Ok(answer.into_inner().vm.expect("a VM"))
    }

    pub async fn list(&self) -> Vec<v1::Vm> {
        let answer = self
            .vms()
            .await
            .list_vms(v1::ListVmsRequest::default())
            .await;
        answer.expect("listing works").into_inner().vms
    }

    pub async fn get(&self, id: &str) -> Result<v1::Vm, tonic::Status> {
        let answer = self
            .vms()
            .await
            .get_vm(v1::GetVmRequest { id: id.to_owned() })
            .await?;
        Ok(answer.into_inner().vm.expect("a VM"))
    }

    pub async fn remove(&self, id: &str) -> Result<(), tonic::Status> {
        self.vms()
            .await
            .remove_vm(v1::RemoveVmRequest {
                id: id.to_owned(),
                ..Default::default()
            })
            .await?;
        Ok(())
    }

    /// Asks for a change of a VM, and gives the VM as it is when that is done.
    pub async fn act(&self, verb: Verb, id: &str) -> Result<v1::Vm, tonic::Status> {
        let mut vms = self.vms().await;
        let id = id.to_owned();
        let vm = match verb {
            Verb::Start | Verb::StartAnyway => {
                let accept_measurement = verb == Verb::StartAnyway;
                let request = v1::StartVmRequest {
                    id,
                    accept_measurement,
                    ..Default::default()
                };
                vms.start_vm(request).await?.into_inner().vm
            }
            Verb::Stop | Verb::ForceStop => {
                let force = verb == Verb::ForceStop;
                let request = v1::StopVmRequest {
                    id,
                    force,
                    ..Default::default()
                };
                vms.stop_vm(request).await?.into_inner().vm
            }
            Verb::Restart | Verb::ForceRestart => {
                let force = verb == Verb::ForceRestart;
                let request = v1::RestartVmRequest {
                    id,
                    force,
                    accept_measurement: false,
                    ..Default::default()
                };
                vms.restart_vm(request).await?.into_inner().vm
            }
            Verb::Pause => {
                vms.pause_vm(v1::PauseVmRequest {
                    id,
                    ..Default::default()
                })
                .await?
                .into_inner()
                .vm
            }
            Verb::Resume => {
                vms.resume_vm(v1::ResumeVmRequest {
                    id,
                    ..Default::default()
                })
                .await?
                .into_inner()
                .vm
            }
            Verb::Reset => {
                vms.reset_vm(v1::ResetVmRequest {
                    id,
                    ..Default::default()
                })
                .await?
                .into_inner()
                .vm
            }
        };
        Ok(vm.expect("a VM"))
    }

    /// Waits until a VM is in this state.
    pub async fn in_state(&self, id: &str, state: v1::VmState) -> v1::Vm {
        eventually(state.as_str_name(), PATIENCE, || async {
            let vm = self.get(id).await.expect("it is listed");
            (vm.state() == state).then_some(vm)
        })
        .await
    }

    /// What a verifier is told of a VM, or the status of the refusal.
    pub async fn measurement(
        &self,
        id: &str,
        format: v1::MeasurementFormat,
    ) -> Result<v1::GetMeasurementResponse, tonic::Status> {
        let request = v1::GetMeasurementRequest {
            id: id.to_owned(),
            format: format.into(),
        };
        let answer = self.vms().await.get_measurement(request).await?;
        Ok(answer.into_inner())
    }

    /// What is kept of a VM's console.
    pub async fn console(&self, id: &str) -> String {
        let request = v1::GetConsoleRequest {
            id: id.to_owned(),
            ..Default::default()
        };
        let stream = self.vms().await.get_console(request).await;
        let mut stream = stream.expect("it streams").into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.message().await.expect("a chunk") {
            bytes.extend(chunk.data);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until no VM is listed and none runs, and holds that nothing else of one is left.
    pub async fn assert_unwound(&self) {
        eventually("the unwinding", Duration::from_secs(20), || async {
            let is_gone = self.list().await.is_empty()
                && leftovers::processes_naming(&self.state_dir).is_empty();
            is_gone.then_some(())
        })
        .await;
        leftovers::assert_nothing_left(&self.state_dir);
    }

    /// An HTTP GET: status and body.
    pub async fn get_http(&self, path: &str) -> (u16, String) {
        get_http(self.http, path).await.expect("the daemon answers")
    }

    /// An HTTP request without a body: the whole answer.
    pub async fn ask_http(&self, method: &str, path: &str) -> String {
        let answer = ask_http(self.http, method, path).await;
        answer.expect("the daemon answers")
    }

    /// Ends the daemon as systemd does, and returns its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        let started = Instant::now();
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return status.code(),
                Ok(None) if started.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => return None,
            }
        }
    }

    /// Ends the daemon as a crash does. Nothing of it runs when this returns; its VMs go on.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("it can be waited for");
    }

    /// Waits until the daemon has ended by itself.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "casemated does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts the daemon again after its end, with the state directory that it had and with
    /// `setup` as it is now. Its ports may be others.
    pub fn restart(&mut self) {
        if let Err(log) = self.try_restart() {
            panic!("casemated did not start again:\n{log}");
        }
    }

    /// As `restart`; what it said in its log if it ends instead.
    pub fn try_restart(&mut self) -> Result<(), String> {
        let ended = self.child.try_wait();
        assert!(matches!(ended, Ok(Some(_))), "the daemon runs still");
        let started = self.setup.launch(&self.log)?;
        self.child = started.child;
        (self.grpc, self.http) = (started.grpc, started.http);
        self.proxy = started.proxy;
        Ok(())
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // The child is ours and not reaped, so the pid is its own.
        let _ = rustix::process::kill_process(pid.expect("a pid"), signal);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) && self.stop().is_none() {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
        // VMs that were to outlive their daemon do not outlive their test.
        leftovers::end_processes_naming(&self.state_dir);
        if std::thread::panicking() {
            eprintln!("=== log of casemated ===\n{}", self.log());
        }
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A plain HTTP/1.0 GET.
pub async fn get_http(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let answer = ask_http(address, "GET", path).await?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .or_else(|| answer.split_once("\n\n"))
        .unwrap_or_default();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    Ok((status, body.to_owned()))
}

async fn ask_http(address: SocketAddr, method: &str, path: &str) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Waits until `probe` gives something.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the agent of a booted guest answers, and returns the body.
pub async fn agent_answer(address: &str) -> String {
    let address: SocketAddr = address.parse().expect("an address");
    eventually(
        "the agent answers",
        Duration::from_secs(240),
        || async move {
            match tokio::time::timeout(Duration::from_secs(5), get_http(address, "/")).await {
                Ok(Ok((200, body))) => Some(body),
                _ => None,
            }
        },
    )
    .await
}
