//! What the tests about arguments share: the way from a request to a paused QEMU, through the
//! library that `casemated` is made of, without a daemon around it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use casemate_host::backend::settings::SettingValue;
use casemate_host::backend::{
    BackendConfig, BackendEngine, CallError, Limits, LoadedBackend, PlanOutcome,
};
use casemate_host::config::{ConfigFile, Inputs};
use casemate_host::qemu::check::{CheckedPlan, Knowledge, check};
use casemate_host::qemu::process::Credentials;
use casemate_host::qemu::qmp::{MAX_LINE_IDLE, Qmp, QmpError};
use casemate_host::qemu::schema::Qemu;
use casemate_host::spec::facts::FactSource;
use casemate_host::spec::plan::{LaunchPlan, Property, Value};
use casemate_host::spec::request::{Boot, HostDevice, LaunchRequest, Setting};
use casemate_host::vm::facts::HostFacts;
use casemate_host::vm::shares::{CERTIFICATES_SHARE, ENVIRONMENT_SHARE};
use casemate_integration::artifacts;
use command_fds::{CommandFdExt as _, FdMapping};
use serde_json::{Value as Json, json};
use std::process::Stdio;
use tokio::process::Child;

/// Number of the listening QMP socket in QEMU, as the daemon chooses it.
pub(crate) const QMP_FD: i32 = 3;
/// A QMP of the test's own, for a command line that has none on `QMP_FD`; its id is `test`.
pub(crate) const QMP_SOCKET: &str = "socket,id=test,fd=3,server=on,wait=off";
/// A start, an answer or an end of a QEMU on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// `plain-kvm` with the packaged grants, and one installed QEMU.
pub(crate) struct Bench {
    pub(crate) backend: LoadedBackend,
    pub(crate) qemu: Arc<Qemu>,
}

impl Bench {
    /// `settings` are the operator's.
    pub(crate) async fn new(qemu: &Path, settings: toml::Table) -> Self {
        let mut entry = artifacts::packaged_backend("plain-kvm");
        entry.insert("settings".to_owned(), settings.into());
        let config: BackendConfig = entry.try_into().expect("the packaged entry is valid");
        let engine = BackendEngine::new(Limits::default()).expect("the engine starts");
        let backend = LoadedBackend::load(&engine, &config, &[])
            .await
            .expect("it loads");
        let qemu = Arc::new(Qemu::new(qemu.to_owned(), Credentials::Daemon));
        Self { backend, qemu }
    }

    /// Settings of a request: built-in, operator's and its own, as the daemon passes them.
    pub(crate) fn settings(&self, request: &BTreeMap<String, String>) -> Vec<Setting> {
        let merged = self
            .backend
            .settings_for(request)
            .expect("the settings are valid");
        merged
            .into_iter()
            .map(|(input, origin)| match input.value {
                SettingValue::Plain(value) => Setting {
                    key: input.key,
                    value,
                    origin,
                },
                SettingValue::File(path) => panic!("plain-kvm has no file setting: {path:?}"),
            })
            .collect()
    }

    pub(crate) fn host_facts(&self) -> Arc<HostFacts> {
        Arc::new(HostFacts::new(Arc::clone(&self.qemu)))
    }

    pub(crate) async fn plan(
        &self,
        request: &LaunchRequest,
        facts: Arc<dyn FactSource>,
    ) -> Result<PlanOutcome, CallError> {
        self.backend.plan(request, facts).await
    }

    /// The host's own check, against this QEMU and the packaged grants.
    pub(crate) async fn check(
        &self,
        request: &LaunchRequest,
        plan: LaunchPlan,
    ) -> anyhow::Result<CheckedPlan> {
        let knowledge = Knowledge::gather(&self.qemu, &plan, request).await?;
        Ok(check(
            plan,
            request,
            self.backend.permissions(),
            &self.backend.info().first_versions,
            knowledge,
        )?)
    }

    pub(crate) async fn checked(&self, request: &LaunchRequest) -> anyhow::Result<CheckedPlan> {
        let outcome = self.plan(request, self.host_facts()).await?;
        self.check(request, outcome.plan).await
    }
}

/// The devices that the host gives to every VM.
pub(crate) fn host_devices(boot: Boot) -> Vec<HostDevice> {
    let inputs = Inputs {
        file: ConfigFile::Usual("/no/such/file".into()),
        flags: Vec::new(),
        environment: Vec::new(),
    };
    let network = inputs
        .load()
        .expect("the defaults are valid")
        .config
        .network;
    let properties = network
        .properties
        .into_iter()
        .map(|(path, value)| Property {
            path,
            value: match value {
                toml::Value::String(text) => Value::Text(text),
                toml::Value::Boolean(flag) => Value::Boolean(flag),
                other => panic!("a default of another kind: {other}"),
            },
        });
    let device = |kind: &str, id: &str| HostDevice {
        kind: kind.to_owned(),
        id: id.to_owned(),
        properties: Vec::new(),
    };
    let net = HostDevice {
        properties: properties.collect(),
        ..device("net", &network.id)
    };
    let mut devices = vec![
        net,
        device("share-9p", ENVIRONMENT_SHARE),
        device("share-9p", CERTIFICATES_SHARE),
    ];
    if boot == Boot::Disk {
        devices.push(device("disk", "disk0"));
    }
    devices
}

/// A QEMU that has built its machine and waits for `cont`. Killed when dropped.
pub(crate) struct PausedQemu {
    child: Child,
    qmp: Qmp,
}

impl PausedQemu {
    /// `arguments` say `-S` and put QMP on the socket `QMP_FD`.
    pub(crate) async fn start(
        program: &Path,
        arguments: &[String],
        mut descriptors: Vec<(OwnedFd, i32)>,
    ) -> anyhow::Result<Self> {
        // Short, because the path of a socket may have 107 bytes.
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path)?;
        let stream = UnixStream::connect(&path)?;
        stream.set_nonblocking(true)?;
        descriptors.push((listener.into(), QMP_FD));
        // Without a launcher: the arguments alone are the subject here.
        #[expect(clippy::disallowed_methods, reason = "the subject of the tests")]
        let mut command = std::process::Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mappings = descriptors
            .into_iter()
            .map(|(parent_fd, child_fd)| FdMapping {
                parent_fd,
                child_fd,
            });
        command.fd_mappings(mappings.collect())?;
        let mut child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()?;
        let (read, write) = tokio::net::UnixStream::from_std(stream)?.into_split();
        let connected = tokio::select! {
            biased;
            exit = child.wait() => Err(anyhow::anyhow!("QEMU ended with {}", exit?)),
            qmp = Qmp::connect(read, write, PATIENCE, MAX_LINE_IDLE) => qmp.map_err(anyhow::Error::from),
        };
        match connected {
            Ok((qmp, _)) => Ok(Self { child, qmp }),
            Err(error) => {
                child.start_kill()?;
                let output = child.wait_with_output().await?;
                bail!(
                    "{error}; it said: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it is not reaped")
    }

    pub(crate) async fn ask(&mut self, command: &str, arguments: Json) -> anyhow::Result<Json> {
        let answer = self.qmp.execute_within(command, arguments, PATIENCE).await;
        answer.with_context(|| format!("{command} failed"))
    }

    pub(crate) async fn get(&mut self, path: &str, property: &str) -> anyhow::Result<Json> {
        self.ask("qom-get", json!({"path": path, "property": property}))
            .await
    }

    /// A command of the human monitor.
    pub(crate) async fn human(&mut self, line: &str) -> anyhow::Result<String> {
        let answer = self
            .ask("human-monitor-command", json!({"command-line": line}))
            .await?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// Ends it, which an honest QEMU does with code 0.
    pub(crate) async fn quit(self) -> anyhow::Result<()> {
        match self.qmp.execute_within("quit", json!({}), PATIENCE).await {
            Ok(_) | Err(QmpError::Closed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let output = tokio::time::timeout(PATIENCE, self.child.wait_with_output()).await??;
        ensure!(
            output.status.success(),
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}
