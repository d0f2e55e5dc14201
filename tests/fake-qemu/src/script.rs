//! Where this run is to misbehave: the file `fake-qemu.script` beside the program.
//!
//! ```json
//! {
//!   "die_at": "cont",
//!   "exit_code": 3,
//!   "exit_signal": 11,
//!   "stderr": "qemu-system-x86_64: something is wrong",
//!   "delay_ms": {"greeting": 50, "cont": 200},
//!   "late_ms": {"query-status": 3000},
//!   "hang_at": "hostfwd",
//!   "stall_at": "cont",
//!   "close_qmp_at": "uuid",
//!   "on_reconnect": "refuse",
//!   "ignore": ["system_powerdown", "quit", "sigterm"],
//!   "guard": "/objects/other",
//!   "wrong_uuid": "6f1c8a52-0000-4000-8000-00000000dead",
//!   "hostfwd_refuse": 2,
//!   "console_text": "Linux version 6.1\n",
//!   "console_flood": {"bytes": 200000000, "line": "spam"},
//!   "eat_mib": 1024,
//!   "objects": {"igvm-cfg": {"file": "str"}}
//! }
//! ```
//!
//! All of it is optional, and without the file all is well. A stage is `start` (before the monitor
//! listens), `greeting`, `capabilities`, `hostfwd`, `cont`, `resume` (a `cont` that is not the
//! first), `stop-command`, `status`, `uuid`, `set-action`, `reset`, `powerdown`, `quit` (each in
//! place of its answer) or `running` (after the first `cont` was answered; 200 ms later, unless
//! `delay_ms` says otherwise). A delay comes first, then the hang, then the closing of the monitor,
//! then the death. The delay of `powerdown` is the guest's: how long it takes to shut down.
//!
//! - `exit_signal` is the signal that it dies by at `die_at`, in place of an exit code.
//! - `late_ms` has a delay for each command by its own name, at every call.
//! - `hang_at` answers no more; `stall_at` gives this one answer, and reads nothing after it.
//! - `close_qmp_at` hangs up on the client, and the machine lives on.
//! - `on_reconnect` is what a second client finds: `greet` (as QEMU does, and as it is without the
//!   key), `silent` (never a word), `hang-up` (closed at once) or `refuse` (nobody listens).
//! - What is ignored is acknowledged and has no effect. `sigterm` stands for SIGINT and SIGHUP too.
//! - `guard` is what the machine says of its `confidential-guest-support`, and `wrong_uuid` what it
//!   says of its UUID, whatever it was started with.
//! - `hostfwd_refuse` is how many forwards are refused before the first one is made, as if the port
//!   had been taken between a check and its use.
//! - `console_text`, then `console_flood`, is what the guest writes once it runs.
//! - `eat_mib` is memory that it takes when it runs, at the time of the stage `running`, and keeps.
//!
//! - `objects` are types for `object-add` with their members, beside those that it has: what no
//!   QEMU of a distribution is built with.
//!
//! Signals are a guest's own cues, at any time: SIGUSR1 it shuts down, SIGUSR2 it panics, SIGALRM
//! it reboots. A guest that does not run does so when it does.
//!
//! An unknown key or stage is an error, so that a typing mistake does not pass as health.
//!
//! Probing runs (`-M none`) are left alone unless `"probes": true` is there: a daemon that cannot
//! probe QEMU never comes to the launch that a test is about.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::exit;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::Value;

use crate::schema;
use crate::wire::Wire;

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
    Resume,
    StopCommand,
    Status,
    Uuid,
    SetAction,
    Reset,
    PowerDown,
    Quit,
    Running,
}

/// What a stage leaves of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Reached {
    GoOn,
    CloseMonitor,
}

/// What a second client finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnReconnect {
    Greet,
    Silent,
    HangUp,
    Refuse,
}

/// What the guest writes on its console.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Output {
    pub(crate) text: String,
    pub(crate) flood_line: String,
    pub(crate) flood_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script {
    die_at: Option<Stage>,
    hang_at: Option<Stage>,
    stall_at: Option<Stage>,
    close_at: Option<Stage>,
    exit_code: i32,
    exit_signal: Option<i32>,
    stderr: String,
    delays: BTreeMap<Stage, Duration>,
    late: BTreeMap<String, Duration>,
    on_reconnect: OnReconnect,
    ignored: Vec<String>,
    guard: Option<String>,
    wrong_uuid: Option<String>,
    refused_forwards: u64,
    console: Output,
    eat_mib: u64,
    objects: Objects,
    applies_to_probes: bool,
}

/// Members of object types by name, each with its type's name.
pub(crate) type Objects = BTreeMap<String, BTreeMap<String, String>>;

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
            Self {
                objects: self.objects,
                ..Self::healthy()
            }
        }
    }

    fn healthy() -> Self {
        Self {
            die_at: None,
            hang_at: None,
            stall_at: None,
            close_at: None,
            exit_code: 1,
            exit_signal: None,
            stderr: String::new(),
            delays: BTreeMap::new(),
            late: BTreeMap::new(),
            on_reconnect: OnReconnect::Greet,
            ignored: Vec::new(),
            guard: None,
            wrong_uuid: None,
            refused_forwards: 0,
            console: Output::default(),
            eat_mib: 0,
            objects: Objects::new(),
            applies_to_probes: false,
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let members = value.as_object().ok_or("not a JSON object")?;
        let mut script = Self::healthy();
        for (key, value) in members {
            script
                .take(key, value)?
                .ok_or_else(|| format!("{key}: {value} is not of the form wanted"))?;
        }
        Ok(script)
    }

    /// `None` where the value has not the form that the key wants.
    fn take(&mut self, key: &str, value: &Value) -> Result<Option<()>, String> {
        match key {
            "die_at" => self.die_at = Some(Stage::of(value)?),
            "hang_at" => self.hang_at = Some(Stage::of(value)?),
            "stall_at" => self.stall_at = Some(Stage::of(value)?),
            "close_qmp_at" => self.close_at = Some(Stage::of(value)?),
            "delay_ms" => {
                let Some(delays) = delays(value) else {
                    return Ok(None);
                };
                for (stage, delay) in delays {
                    self.delays.insert(Stage::of(&stage.into())?, delay);
                }
            }
            "late_ms" => {
                let Some(delays) = delays(value) else {
                    return Ok(None);
                };
                for (command, delay) in delays {
                    if schema::arguments_of(&command).is_none() {
                        return Err(format!("{key}: there is no command {command}"));
                    }
                    self.late.insert(command, delay);
                }
            }
            _ => return self.take_plain(key, value),
        }
        Ok(Some(()))
    }

    fn take_plain(&mut self, key: &str, value: &Value) -> Result<Option<()>, String> {
        let text = || value.as_str().map(str::to_owned);
        let number = || value.as_i64().and_then(|number| i32::try_from(number).ok());
        Ok(match key {
            "exit_code" => number().map(|code| self.exit_code = code),
            "exit_signal" => number()
                .filter(|signal| (1..=64).contains(signal))
                .map(|signal| self.exit_signal = Some(signal)),
            "stderr" => text().map(|text| self.stderr = text),
            "ignore" => value.as_array().and_then(|names| {
                let names = names.iter().map(|name| name.as_str().map(str::to_owned));
                self.ignored = names.collect::<Option<_>>()?;
                Some(())
            }),
            "guard" => text().map(|text| self.guard = Some(text)),
            "wrong_uuid" => text().map(|text| self.wrong_uuid = Some(text)),
            "hostfwd_refuse" => value.as_u64().map(|count| self.refused_forwards = count),
            "on_reconnect" => OnReconnect::of(value).map(|what| self.on_reconnect = what),
            "console_text" => text().map(|text| self.console.text = text),
            "eat_mib" => value.as_u64().map(|size| self.eat_mib = size),
            "objects" => serde_json::from_value(value.clone())
                .ok()
                .map(|objects| self.objects = objects),
            "console_flood" => value.as_object().and_then(|flood| {
                let (bytes, line) = (flood.get("bytes")?, flood.get("line")?);
                self.console.flood_bytes = bytes.as_u64()?;
                line.as_str()?.clone_into(&mut self.console.flood_line);
                (flood.len() == 2).then_some(())
            }),
            "probes" => value
                .as_bool()
                .map(|applies| self.applies_to_probes = applies),
            _ => return Err(format!("{key}: no such key")),
        })
    }

    /// Whether a command, or `sigterm`, is to have no effect.
    pub(crate) fn ignores(&self, name: &str) -> bool {
        self.ignored.iter().any(|ignored| ignored == name)
    }

    /// The guard that the machine is to claim in place of its own.
    pub(crate) fn guard(&self) -> Option<&str> {
        self.guard.as_deref()
    }

    /// The UUID that the machine is to claim in place of its own.
    pub(crate) fn wrong_uuid(&self) -> Option<&str> {
        self.wrong_uuid.as_deref()
    }

    /// How many forwards are to be refused.
    pub(crate) fn refused_forwards(&self) -> u64 {
        self.refused_forwards
    }

    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    pub(crate) fn on_reconnect(&self) -> OnReconnect {
        self.on_reconnect
    }

    pub(crate) fn console(&self) -> &Output {
        &self.console
    }

    /// Waits, hangs, closes or dies here if the script says so.
    pub(crate) fn reach(&self, stage: Stage) -> Reached {
        // The guest takes its time to shut down, and the monitor answers meanwhile.
        if stage != Stage::PowerDown {
            thread::sleep(self.delay(stage));
        }
        if self.hang_at == Some(stage) {
            hang();
        }
        if self.close_at == Some(stage) {
            return Reached::CloseMonitor;
        }
        if self.die_at == Some(stage) {
            self.die();
        }
        Reached::GoOn
    }

    /// Called once the stage's answer is out: whether nothing is to be read any more.
    pub(crate) fn stalls_after(&self, stage: Stage) -> bool {
        self.stall_at == Some(stage)
    }

    pub(crate) fn delay(&self, stage: Stage) -> Duration {
        self.delays.get(&stage).copied().unwrap_or_default()
    }

    pub(crate) fn sleep_before(&self, command: &str) {
        if let Some(late) = self.late.get(command) {
            thread::sleep(*late);
        }
    }

    /// Called once the first `cont` was answered. What happens comes on its own, while the monitor
    /// still answers.
    pub(crate) fn begin_running(&self, wire: &Arc<Wire>) {
        let is_quiet = self.die_at != Some(Stage::Running)
            && self.close_at != Some(Stage::Running)
            && self.eat_mib == 0;
        if is_quiet {
            return;
        }
        let delay = self.delays.get(&Stage::Running).copied();
        let script = self.clone();
        let wire = Arc::clone(wire);
        thread::spawn(move || {
            thread::sleep(delay.unwrap_or(RUNNING_DELAY));
            // Written to, page by page: memory that is only mapped is nobody's.
            let eaten: Vec<Vec<u8>> = (0..script.eat_mib).map(|_| vec![1; 1 << 20]).collect();
            if script.close_at == Some(Stage::Running) {
                wire.hang_up();
            }
            if script.die_at == Some(Stage::Running) {
                script.die();
            }
            if !eaten.is_empty() {
                hang();
            }
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
        if let Some(signal) = self.exit_signal {
            // A core of this program helps nobody.
            let none = Rlimit {
                current: Some(0),
                maximum: Some(0),
            };
            let _ = setrlimit(Resource::Core, none);
            // Gives the signal its default action back first: the runtime has a handler of its own
            // for SIGSEGV.
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
        exit(self.exit_code);
    }
}

/// Answers nothing any more, and lives.
pub(crate) fn hang() -> ! {
    loop {
        thread::park();
    }
}

fn delays(value: &Value) -> Option<Vec<(String, Duration)>> {
    let members = value.as_object()?.iter();
    members
        .map(|(name, delay)| Some((name.clone(), Duration::from_millis(delay.as_u64()?))))
        .collect()
}

impl OnReconnect {
    fn of(name: &Value) -> Option<Self> {
        match name.as_str()? {
            "greet" => Some(Self::Greet),
            "silent" => Some(Self::Silent),
            "hang-up" => Some(Self::HangUp),
            "refuse" => Some(Self::Refuse),
            _ => None,
        }
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
            Some("resume") => Ok(Self::Resume),
            Some("stop-command") => Ok(Self::StopCommand),
            Some("status") => Ok(Self::Status),
            Some("uuid") => Ok(Self::Uuid),
            Some("set-action") => Ok(Self::SetAction),
            Some("reset") => Ok(Self::Reset),
            Some("powerdown") => Ok(Self::PowerDown),
            Some("quit") => Ok(Self::Quit),
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
                "hang_at":"hostfwd","ignore":["quit"],"exit_signal":6,"late_ms":{"query-uuid":9},
                "stall_at":"resume","close_qmp_at":"uuid","on_reconnect":"silent",
                "wrong_uuid":"u","hostfwd_refuse":2,"console_text":"t",
                "console_flood":{"bytes":7,"line":"l"},"eat_mib":5}"#,
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
        assert_eq!(script.exit_signal, Some(6));
        assert_eq!(script.late["query-uuid"], Duration::from_millis(9));
        assert!(script.stalls_after(Stage::Resume));
        assert_eq!(script.reach(Stage::Uuid), Reached::CloseMonitor);
        assert_eq!(script.reach(Stage::Status), Reached::GoOn);
        assert_eq!(script.on_reconnect(), OnReconnect::Silent);
        assert_eq!(script.wrong_uuid(), Some("u"));
        assert_eq!(script.refused_forwards(), 2);
        assert_eq!(script.console().text, "t");
        assert_eq!(script.console().flood_bytes, 7);
        assert_eq!(script.console().flood_line, "l");
        assert_eq!(script.eat_mib, 5);
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
            r#"{"ignore":[1]}"#,
            r#"{"exit_signal":0}"#,
            r#"{"exit_signal":"SEGV"}"#,
            r#"{"late_ms":{"query-stat":1}}"#,
            r#"{"on_reconnect":"wait"}"#,
            r#"{"hostfwd_refuse":-1}"#,
            r#"{"console_flood":{"bytes":1}}"#,
            r#"{"console_flood":{"bytes":1,"line":"a","rate":1}}"#,
        ] {
            assert!(Script::parse(text).is_err(), "{text}");
        }
    }
}
