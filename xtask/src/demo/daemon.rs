//! The daemon as a guard: started, awaited, and ended on every way out.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::config::state_directory;
use crate::child::{self, LogFile, ProcessGroup};
use crate::report::Step;
use crate::run::Run;

/// Compiling the backends dominates, and an unoptimised build is slow at it.
pub(crate) const READY_DEADLINE: Duration = Duration::from_secs(60);
/// The daemon removes its VMs before it ends, each with a stop ladder of its own.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Daemon {
    process: Option<ProcessGroup>,
    endpoints: Endpoints,
    endpoints_file: PathBuf,
    log: LogFile,
}

/// What the daemon writes into its state folder once it serves.
#[derive(Debug, Default)]
struct Endpoints {
    grpc: String,
    http: String,
}

impl Daemon {
    pub(crate) fn start(
        run: &Run,
        step: &mut Step<'_>,
        program: &Path,
        folder: &Path,
        config: &Path,
    ) -> Result<Self> {
        run.interrupt.check()?;
        let mut daemon = Self::spawn(program, folder, config, &[])?;
        daemon.wait_until_ready(run, step)?;
        Ok(daemon)
    }

    /// Starts the program with these variables besides ours, and does not wait for anything.
    pub(crate) fn spawn(
        program: &Path,
        folder: &Path,
        config: &Path,
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let mut command = child::program(program);
        command.arg("--config").arg(config).current_dir(folder);
        // Settings of the person's own daemon are not meant for this one.
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if ["CASEMATE_", "MANAGER_", "COCOS_"]
                .iter()
                .any(|prefix| name_text.starts_with(prefix))
            {
                command.env_remove(&name);
            }
        }
        command.envs(variables.iter().copied());
        let log = LogFile::append(&folder.join("casemated.log"), &command)?;
        command.stdout(log.duplicate()?).stderr(log.duplicate()?);
        Ok(Self {
            process: Some(ProcessGroup::start(&mut command)?),
            endpoints: Endpoints::default(),
            endpoints_file: state_directory(folder).join("endpoints.json"),
            log,
        })
    }

    fn wait_until_ready(&mut self, run: &Run, step: &mut Step<'_>) -> Result<()> {
        let started = Instant::now();
        step.progress("waiting until it serves");
        loop {
            if self.is_ready() {
                return Ok(());
            }
            if let Some(status) = self.ended()? {
                bail!("casemated ended with {status}:\n{}", self.log_tail());
            }
            if started.elapsed() > READY_DEADLINE {
                bail!(
                    "casemated did not serve within {} s:\n{}",
                    READY_DEADLINE.as_secs(),
                    self.log_tail()
                );
            }
            run.interrupt.pause()?;
        }
    }

    /// Whether it has written down where it serves.
    pub(crate) fn is_ready(&mut self) -> bool {
        match Endpoints::read(&self.endpoints_file, self.pid()) {
            Some(endpoints) => {
                self.endpoints = endpoints;
                true
            }
            None => false,
        }
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.process {
            Some(process) => process.poll(),
            None => Ok(None),
        }
    }

    /// SIGKILL to the daemon alone: what it started is left as a crash would leave it.
    pub(crate) fn kill(&mut self) -> Result<()> {
        match &mut self.process {
            Some(process) => process.kill_leader(),
            None => Ok(()),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, ProcessGroup::pid)
    }

    pub(crate) fn grpc(&self) -> &str {
        &self.endpoints.grpc
    }

    pub(crate) fn http(&self) -> &str {
        &self.endpoints.http
    }

    pub(crate) fn log_tail(&self) -> String {
        self.log.tail()
    }

    /// Ends the daemon and reports it when that did not go well.
    pub(crate) fn stop(mut self, run: &Run) -> Result<()> {
        run.interrupt.check()?;
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        process.ask_to_end();
        match process.wait_at_most(STOP_DEADLINE) {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("casemated ended with {status}:\n{}", self.log_tail()),
            None => bail!(
                "casemated did not end within {} s of SIGTERM and was killed:\n{}",
                STOP_DEADLINE.as_secs(),
                self.log_tail()
            ),
        }
    }

    pub(crate) fn leave_running(mut self) {
        if let Some(process) = self.process.take() {
            process.leave_running();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // Asked alone and first, so that it can end its VMs in order. Whatever is left after
            // the deadline goes with the process group.
            process.ask_to_end();
            process.wait_at_most(STOP_DEADLINE);
        }
    }
}

impl Endpoints {
    /// Nothing while the file is absent, half written or another daemon's.
    fn read(file: &Path, pid: u32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(file).ok()?, pid)
    }

    fn parse(text: &str, pid: u32) -> Option<Self> {
        let json: serde_json::Value = serde_json::from_str(text).context("half written").ok()?;
        if json["pid"].as_u64() != Some(u64::from(pid)) {
            return None;
        }
        Some(Self {
            grpc: json["grpc"].as_str()?.to_owned(),
            http: json["http"].as_str()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_another_daemon_do_not_count() {
        let text = r#"{"pid":7,"grpc":"127.0.0.1:1","http":"127.0.0.1:2"}"#;
        let endpoints = Endpoints::parse(text, 7).expect("complete and ours");
        assert_eq!(endpoints.grpc, "127.0.0.1:1");
        assert!(Endpoints::parse(text, 8).is_none());
        assert!(Endpoints::parse(&text[..20], 7).is_none());
    }
}
