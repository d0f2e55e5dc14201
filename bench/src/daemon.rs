//! A `casemated` that is measured: the real program, with a config of its own, as a guard.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use casemate_proto::v1::vm_service_client::VmServiceClient;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::transport::{Channel, Endpoint};

use crate::site::{Site, text};

/// Far more than any budget: what is slow is measured, and only what hangs is given up.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// The daemon ends its VMs first, and gives all of them together a minute.
const STOP_DEADLINE: Duration = Duration::from_secs(70);
/// Between two looks at a daemon that starts: a fraction of a percent of the budget.
const READY_POLL: Duration = Duration::from_millis(1);
const STOP_POLL: Duration = Duration::from_millis(10);
/// Enough users for a thousand VMs; with a few to spare for those that are on their way out.
const UIDS: &str = "1900000000-1900001999";
/// A guest that is emulated does not hear its power button within any sensible time.
const POWERDOWN_TIME: &str = "1s";
const LOG_TAIL_LINES: usize = 25;

/// Which QEMU a daemon starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Emulator {
    /// The program of the tests that speaks QMP and does nothing else, so that what is left is
    /// the daemon's own cost.
    Scripted,
    /// The installed one, emulating.
    Real(&'static Path),
}

/// The only place that makes a [`Command`].
#[expect(
    clippy::disallowed_methods,
    reason = "the rule is the daemon's; starting programs is how they are measured"
)]
pub(crate) fn program(path: &Path) -> Command {
    let mut command = Command::new(path);
    command.stdin(Stdio::null());
    command
}

/// A running daemon and its folder. Dropped, it and its VMs are ended.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    grpc: SocketAddr,
    http: SocketAddr,
    ready_after: Duration,
    /// After the process, which is ended by then.
    folder: TempDir,
}

impl Daemon {
    /// Starts a daemon with these backends, of which the first is the default.
    pub(crate) async fn start(
        site: &Site,
        emulator: Emulator,
        backends: Vec<toml::Table>,
    ) -> Result<Self> {
        let folder = folder()?;
        let config = config(site, emulator, backends, folder.path())?;
        let config_path = folder.path().join("casemate.toml");
        std::fs::write(&config_path, config.to_string()).context("cannot write the config")?;
        let log = std::fs::File::create(folder.path().join("casemated.log"))
            .context("cannot make the daemon's log")?;
        let mut command = program(&site.daemon);
        command
            .arg("--config")
            .arg(&config_path)
            // Variables of whoever measures are not meant for this daemon.
            .env_clear()
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(log);
        let started = Instant::now();
        let child = command.spawn().context("cannot start casemated")?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut daemon = Self {
            child,
            grpc: nowhere,
            http: nowhere,
            ready_after: Duration::ZERO,
            folder,
        };
        daemon.wait_until_ready(started).await?;
        Ok(daemon)
    }

    async fn wait_until_ready(&mut self, started: Instant) -> Result<()> {
        let file = self.folder.path().join("state/endpoints.json");
        loop {
            if let Some((grpc, http)) = endpoints(&file)
                && let Ok((200, _)) = get_http(http, "/ready").await
            {
                (self.grpc, self.http) = (grpc, http);
                self.ready_after = started.elapsed();
                return Ok(());
            }
            let ended = self.child.try_wait().context("cannot wait for casemated")?;
            if let Some(status) = ended {
                bail!("casemated ended with {status}:\n{}", self.log_tail());
            }
            ensure!(
                started.elapsed() < READY_DEADLINE,
                "casemated is not ready after {} s:\n{}",
                READY_DEADLINE.as_secs(),
                self.log_tail()
            );
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// From the start of the process to the first `/ready` that said yes.
    pub(crate) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    pub(crate) async fn channel(&self) -> Result<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc))
            .context("the daemon's address makes no URL")?;
        endpoint.connect().await.context("cannot reach casemated")
    }

    pub(crate) async fn vms(&self) -> Result<VmServiceClient<Channel>> {
        Ok(VmServiceClient::new(self.channel().await?))
    }

    /// One number of `/metrics`; 0 while nothing was counted.
    pub(crate) async fn metric(&self, name: &str) -> Result<f64> {
        let (status, text) = get_http(self.http, "/metrics").await?;
        ensure!(status == 200, "/metrics answered {status}");
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Ok(value.unwrap_or(0.0))
    }

    /// Resident memory in KiB, as proc(5) has it.
    pub(crate) fn resident_kib(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        text.lines()
            .find_map(|line| {
                line.strip_prefix("VmRSS:")?
                    .strip_suffix("kB")?
                    .trim()
                    .parse()
                    .ok()
            })
            .with_context(|| format!("{path} has no VmRSS"))
    }

    /// Processor time of all its threads so far, to the nanosecond as the scheduler counts it.
    pub(crate) fn cpu_milliseconds(&self) -> Result<f64> {
        let path = format!("/proc/{}/task", self.child.id());
        let threads = std::fs::read_dir(&path).with_context(|| format!("cannot list {path}"))?;
        let nanoseconds = threads.flatten().filter_map(|thread| {
            // A thread that ended meanwhile has no file any more.
            let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<f64>().ok()
        });
        Ok(nanoseconds.sum::<f64>() / 1e6)
    }

    /// What a failure that a client sees is often explained by.
    pub(crate) fn log_tail(&self) -> String {
        let path = self.folder.path().join("casemated.log");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    fn end(&mut self) -> std::io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        // Not reaped yet, so the pid is the daemon's own.
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            kill_process(pid, Signal::TERM)?;
        }
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            if asked.elapsed() > STOP_DEADLINE {
                self.child.kill()?;
                self.child.wait()?;
            } else {
                std::thread::sleep(STOP_POLL);
            }
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.end().is_err() {
            // It went away by itself, which is what is wanted.
            let _ = self.child.kill();
        }
    }
}

/// Others may pass through it but not list it: QEMU runs as another user below it.
pub(crate) fn folder() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("casemate-bench-")
        .permissions(std::fs::Permissions::from_mode(0o711))
        .tempdir()
        .context("cannot create a temporary folder")
}

/// Where QEMU's user can start it: the build's own folder may be closed to others.
pub(crate) fn stage_fake_qemu(site: &Site, folder: &Path) -> Result<PathBuf> {
    let staged = folder.join("fake-qemu");
    std::fs::copy(&site.fake_qemu, &staged)
        .and_then(|_| std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot copy {}", site.fake_qemu.display()))?;
    Ok(staged)
}

fn config(
    site: &Site,
    emulator: Emulator,
    backends: Vec<toml::Table>,
    folder: &Path,
) -> Result<toml::Table> {
    let qemu = match emulator {
        Emulator::Scripted => stage_fake_qemu(site, folder)?,
        Emulator::Real(path) => path.to_owned(),
    };
    let state = folder.join("state");
    // The scripted one looks for its script beside its program.
    let beside = text(qemu.parent().context("a program lies in a folder")?)?;
    let (state, qemu) = (text(&state)?, text(&qemu)?);
    let (kernel, initrd) = (text(&site.kernel)?, text(&site.initrd)?);
    let default_backend = backends
        .first()
        .and_then(|backend| backend.get("name"))
        .context("a daemon is measured with one backend at least")?
        .clone();
    let mut config = toml::toml! {
        max_vms = 0
        max_memory = "0"
        on_shutdown = "stop-vms"
        [grpc]
        port = 0
        [http]
        port = 0
        [qemu]
        accelerator = "tcg"
        [network]
        ports = "any"
        [vm]
        kernel_cmdline = "console=ttyS0 quiet panic=-1"
        memory = "256M"
        vcpus = 1
    };
    config.insert("state_dir".to_owned(), state.into());
    config.insert("default_backend".to_owned(), default_backend);
    for (table, key, value) in [
        ("qemu", "binary", qemu),
        ("qemu", "uids", UIDS),
        ("qemu", "extra_paths", beside),
        ("qemu", "powerdown_time", POWERDOWN_TIME),
        ("vm", "kernel", kernel),
        ("vm", "initrd", initrd),
    ] {
        if let Some(table) = config.get_mut(table).and_then(toml::Value::as_table_mut) {
            table.insert(key.to_owned(), value.into());
        }
    }
    let backends = backends.into_iter().map(toml::Value::from).collect();
    config.insert("backend".to_owned(), toml::Value::Array(backends));
    Ok(config)
}

/// Where the daemon says that it listens; nothing while it does not say so.
fn endpoints(file: &Path) -> Option<(SocketAddr, SocketAddr)> {
    let text = std::fs::read_to_string(file).ok()?;
    let json: serde_json::Value = serde_json::from_str(&text).ok()?;
    let address = |name: &str| json[name].as_str()?.parse().ok();
    Some((address("grpc")?, address("http")?))
}

/// A plain HTTP/1.0 GET: status and body.
async fn get_http(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("{path} gave no complete answer"))?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("{path} gave no status"))?;
    Ok((status, body.to_owned()))
}
