//! Where this run is to misbehave: the file `fake-qemu.script` beside the program.
//!
//! ```json
//! {
//!   "die_at": "cont",
//!   "exit_code": 3,
//!   "stderr": "qemu-system-x86_64: something is wrong",
//!   "delay_ms": {"greeting": 50, "cont": 200},
//!   "hang_at": "hostfwd",
//!   "ignore": ["system_powerdown", "quit", "sigterm"],
//!   "guard": "/objects/other"
//! }
//! ```
//!
//! All of it is optional, and without the file all is well. A stage is `start` (before the monitor
//! listens), `greeting`, `capabilities`, `hostfwd`, `cont` (each in place of its answer) or
//! `running` (after `cont` was answered; 200 ms later, unless `delay_ms` says otherwise). A delay
//! comes first, then the hang, then the death. What is ignored is acknowledged and has no effect.
//! `guard` is what the machine says of its `confidential-guest-support`, whatever it was started with.
//! An unknown key or stage is an error, so that a typing mistake does not pass as health.
//!
//! Probing runs (`-M none`) are left alone unless `"probes": true` is there: a daemon that cannot
//! probe QEMU never comes to the launch that a test is about.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::exit;
use std::thread;
use std::time::Duration;

use serde_json::Value;

const FILE_NAME: &str = "fake-qemu.script";

/// Long enough for the daemon to have seen the machine run.
const RUNNING_DELAY: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    Start,
    Greeting,
    Capabilities,
    HostForward,
    Cont,
    Running,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script {
    die_at: Option<Stage>,
    hang_at: Option<Stage>,
    exit_code: i32,
    stderr: String,
    delays: BTreeMap<Stage, Duration>,
    ignored: Vec<String>,
    guard: Option<String>,
    applies_to_probes: bool,
}

impl Script {
    pub(crate) fn beside(folder: &Path) -> Result<Self, String> {
        let path = folder.join(FILE_NAME);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map_err(|error| format!("{}: {error}", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::healthy()),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        }
    }

    /// The script as far as it concerns a probing run.
    pub(crate) fn for_probe(self) -> Self {
        if self.applies_to_probes {
            self
        } else {
            Self::healthy()
        }
    }

    fn healthy() -> Self {
        Self {
            die_at: None,
            hang_at: None,
            exit_code: 1,
            stderr: String::new(),
            delays: BTreeMap::new(),
            ignored: Vec::new(),
            guard: None,
            applies_to_probes: false,
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let members = value.as_object().ok_or("not a JSON object")?;
        let mut script = Self::healthy();
        for (key, value) in members {
            let wrong = || format!("{key}: {value} is not of the form wanted");
            match key.as_str() {
                "die_at" => script.die_at = Some(Stage::of(value)?),
                "hang_at" => script.hang_at = Some(Stage::of(value)?),
                "exit_code" => {
                    let code = value.as_i64().and_then(|code| i32::try_from(code).ok());
                    script.exit_code = code.ok_or_else(wrong)?;
                }
                "stderr" => value
                    .as_str()
                    .ok_or_else(wrong)?
                    .clone_into(&mut script.stderr),
                "delay_ms" => {
                    for (stage, delay) in value.as_object().ok_or_else(wrong)? {
                        let delay = delay.as_u64().ok_or_else(wrong)?;
                        let stage = Stage::of(&Value::String(stage.clone()))?;
                        script.delays.insert(stage, Duration::from_millis(delay));
                    }
                }
                "ignore" => {
                    for name in value.as_array().ok_or_else(wrong)? {
                        script
                            .ignored
                            .push(name.as_str().ok_or_else(wrong)?.to_owned());
                    }
                }
                "guard" => script.guard = Some(value.as_str().ok_or_else(wrong)?.to_owned()),
                "probes" => script.applies_to_probes = value.as_bool().ok_or_else(wrong)?,
                _ => return Err(format!("{key}: no such key")),
            }
        }
        Ok(script)
    }

    /// Whether a command, or `sigterm`, is to have no effect.
    pub(crate) fn ignores(&self, name: &str) -> bool {
        self.ignored.iter().any(|ignored| ignored == name)
    }

    /// The guard that the machine is to claim in place of its own.
    pub(crate) fn guard(&self) -> Option<&str> {
        self.guard.as_deref()
    }

    /// Waits, hangs or dies here if the script says so.
    pub(crate) fn reach(&self, stage: Stage) {
        if let Some(delay) = self.delays.get(&stage) {
            thread::sleep(*delay);
        }
        if self.hang_at == Some(stage) {
            loop {
                thread::park();
            }
        }
        if self.die_at == Some(stage) {
            self.die();
        }
    }

    /// Called once `cont` was answered. A death comes on its own, while the monitor still answers.
    pub(crate) fn begin_running(&self) {
        if self.die_at != Some(Stage::Running) {
            return;
        }
        let delay = self.delays.get(&Stage::Running).copied();
        let script = self.clone();
        thread::spawn(move || {
            thread::sleep(delay.unwrap_or(RUNNING_DELAY));
            script.die();
        });
    }

    /// Whether the monitor is to answer nothing more after `cont`.
    pub(crate) fn hangs_when_running(&self) -> bool {
        self.hang_at == Some(Stage::Running)
    }

    fn die(&self) -> ! {
        if !self.stderr.is_empty() {
            eprintln!("{}", self.stderr.trim_end_matches('\n'));
        }
        exit(self.exit_code);
    }
}

impl Stage {
    fn of(name: &Value) -> Result<Self, String> {
        match name.as_str() {
            Some("start") => Ok(Self::Start),
            Some("greeting") => Ok(Self::Greeting),
            Some("capabilities") => Ok(Self::Capabilities),
            Some("hostfwd") => Ok(Self::HostForward),
            Some("cont") => Ok(Self::Cont),
            Some("running") => Ok(Self::Running),
            _ => Err(format!("{name} is no stage")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_script_is_healthy() {
        assert_eq!(Script::parse("{}"), Ok(Script::healthy()));
    }

    #[test]
    fn a_full_script_is_understood() {
        let script = Script::parse(
            r#"{"die_at":"cont","exit_code":3,"stderr":"x","delay_ms":{"greeting":5},
                "hang_at":"hostfwd","ignore":["quit"]}"#,
        )
        .unwrap();
        assert_eq!(script.die_at, Some(Stage::Cont));
        assert_eq!(script.hang_at, Some(Stage::HostForward));
        assert_eq!(script.exit_code, 3);
        assert_eq!(
            script.delays.get(&Stage::Greeting),
            Some(&Duration::from_millis(5))
        );
        assert!(script.ignores("quit"));
        assert!(!script.ignores("system_powerdown"));
        assert_eq!(script.for_probe(), Script::healthy());
    }

    #[test]
    fn mistakes_are_errors() {
        for text in [
            "",
            "[]",
            r#"{"dies_at":"cont"}"#,
            r#"{"die_at":"later"}"#,
            r#"{"exit_code":"3"}"#,
            r#"{"delay_ms":{"cont":-1}}"#,
            r#"{"ignore":"quit"}"#,
        ] {
            assert!(Script::parse(text).is_err(), "{text}");
        }
    }
}
