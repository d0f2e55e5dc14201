//! The QEMU Machine Protocol: one client's session, and the events that go to it.

use std::fmt;
use std::io::{Read, Write};
use std::process::exit;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::machine::{Machine, RunState};
use crate::script::{Script, Stage};
use crate::{schema, types};

/// The writing half of the present client, if there is one. The thread that waits for signals
/// writes too, hence the lock.
#[derive(Default)]
pub(crate) struct Wire {
    client: Mutex<Option<Box<dyn Write + Send>>>,
}

impl fmt::Debug for Wire {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl Wire {
    pub(crate) fn connect(&self, client: Box<dyn Write + Send>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client);
    }

    pub(crate) fn disconnect(&self) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A client that hung up is noticed by the reading half.
    pub(crate) fn send(&self, message: &Value) {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = client.as_mut() {
            let _ = client.write_all(format!("{message}\r\n").as_bytes());
            let _ = client.flush();
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum ShutdownCause {
    Guest,
    Quit,
    HostSignal,
}

pub(crate) fn shutdown_event(cause: ShutdownCause) -> Value {
    let (guest, reason) = match cause {
        ShutdownCause::Guest => (true, "guest-shutdown"),
        ShutdownCause::Quit => (false, "host-qmp-quit"),
        ShutdownCause::HostSignal => (false, "host-signal"),
    };
    let mut shutdown = event("SHUTDOWN");
    shutdown["data"] = json!({"guest": guest, "reason": reason});
    shutdown
}

fn event(name: &str) -> Value {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    json!({
        "timestamp": {
            "seconds": since_epoch.as_secs(),
            "microseconds": since_epoch.subsec_micros(),
        },
        "event": name,
    })
}

/// Why a command failed, in QMP's terms.
#[derive(Debug)]
struct Failure {
    class: &'static str,
    description: String,
}

impl Failure {
    fn generic(description: impl Into<String>) -> Self {
        Self {
            class: "GenericError",
            description: description.into(),
        }
    }

    fn not_found(description: impl Into<String>) -> Self {
        Self {
            class: "DeviceNotFound",
            description: description.into(),
        }
    }
}

/// What to do once the answer is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Afterwards {
    Nothing,
    BeginRunning,
    Pause,
    PowerDown,
    Quit,
}

/// One client, from greeting to hang-up.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    machine: &'a mut Machine,
    script: &'a Script,
    wire: &'a Wire,
    negotiated: bool,
}

impl<'a> Session<'a> {
    pub(crate) fn new(machine: &'a mut Machine, script: &'a Script, wire: &'a Wire) -> Self {
        Self {
            machine,
            script,
            wire,
            negotiated: false,
        }
    }

    pub(crate) fn serve(mut self, input: impl Read) {
        self.script.reach(Stage::Greeting);
        self.wire.send(&json!({"QMP": {
            "version": schema::version(),
            "capabilities": ["oob"],
        }}));
        for message in serde_json::Deserializer::from_reader(input).into_iter::<Value>() {
            match message {
                Ok(message) => self.answer(&message),
                Err(error) if error.is_syntax() => {
                    let failure = Failure::generic(format!("JSON parse error, {error}"));
                    self.wire.send(&failure_message(&failure, None));
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn answer(&mut self, message: &Value) {
        if self.script.hangs_when_running() && self.machine.state == RunState::Running {
            loop {
                thread::park();
            }
        }
        let id = message.get("id");
        let command = message.get("execute").or_else(|| message.get("exec-oob"));
        let Some(command) = command.and_then(Value::as_str) else {
            let failure = Failure::generic("QMP input lacks member 'execute'");
            self.wire.send(&failure_message(&failure, id));
            return;
        };
        match self.execute(command, &message["arguments"]) {
            Ok((value, afterwards)) => {
                let mut reply = json!({"return": value});
                if let Some(id) = id {
                    reply["id"] = id.clone();
                }
                // QEMU sends RESUME and STOP before the answer of the command that caused them.
                match afterwards {
                    Afterwards::BeginRunning => self.wire.send(&event("RESUME")),
                    Afterwards::Pause => self.wire.send(&event("STOP")),
                    _ => {}
                }
                self.wire.send(&reply);
                self.follow(afterwards);
            }
            Err(failure) => self.wire.send(&failure_message(&failure, id)),
        }
    }

    fn follow(&self, afterwards: Afterwards) {
        match afterwards {
            Afterwards::Nothing | Afterwards::Pause => {}
            Afterwards::BeginRunning => self.script.begin_running(),
            Afterwards::PowerDown => {
                self.wire.send(&event("POWERDOWN"));
                self.wire.send(&shutdown_event(ShutdownCause::Guest));
                exit(0);
            }
            Afterwards::Quit => {
                self.wire.send(&shutdown_event(ShutdownCause::Quit));
                exit(0);
            }
        }
    }

    fn execute(
        &mut self,
        command: &str,
        arguments: &Value,
    ) -> Result<(Value, Afterwards), Failure> {
        if !self.negotiated {
            if command != "qmp_capabilities" {
                return Err(Failure {
                    class: "CommandNotFound",
                    description: "Expecting capabilities negotiation with 'qmp_capabilities'"
                        .to_owned(),
                });
            }
            self.script.reach(Stage::Capabilities);
            self.negotiated = true;
            return Ok((json!({}), Afterwards::Nothing));
        }
        let ignored = self.script.ignores(command);
        let afterwards = match command {
            "cont" => {
                self.script.reach(Stage::Cont);
                if ignored || self.machine.state == RunState::Running {
                    Afterwards::Nothing
                } else {
                    self.machine.state = RunState::Running;
                    Afterwards::BeginRunning
                }
            }
            "stop" if !ignored && self.machine.state == RunState::Running => {
                self.machine.state = RunState::Paused;
                Afterwards::Pause
            }
            // A guest that does not run does not notice its power button.
            "system_powerdown" if !ignored && self.machine.state == RunState::Running => {
                Afterwards::PowerDown
            }
            "quit" if !ignored => Afterwards::Quit,
            "stop" | "system_powerdown" | "quit" => Afterwards::Nothing,
            _ => return Ok((self.query(command, arguments)?, Afterwards::Nothing)),
        };
        Ok((json!({}), afterwards))
    }

    /// The commands whose answer is all that they do.
    fn query(&mut self, command: &str, arguments: &Value) -> Result<Value, Failure> {
        match command {
            "query-version" => Ok(schema::version()),
            "query-status" => Ok(self.status()),
            "query-name" => Ok(json!({"name": self.machine.name})),
            "query-uuid" => Ok(json!({"UUID": self.machine.uuid})),
            "query-kvm" => Ok(json!({
                "enabled": self.machine.accelerator == "kvm",
                "present": true,
            })),
            "query-machines" => Ok(types::machines()),
            "query-qmp-schema" => Ok(schema::schema()),
            "query-commands" => Ok(schema::commands()),
            "human-monitor-command" => {
                let line = text(arguments, "command-line")?;
                Ok(self.human_command(line).into())
            }
            "object-add" => {
                self.machine
                    .add_object(arguments)
                    .map_err(Failure::generic)?;
                Ok(json!({}))
            }
            "object-del" => {
                self.machine
                    .remove_object(text(arguments, "id")?)
                    .map_err(Failure::generic)?;
                Ok(json!({}))
            }
            "qom-get" => {
                let (path, property) = (text(arguments, "path")?, text(arguments, "property")?);
                if let ("/machine", "confidential-guest-support", Some(guard)) =
                    (path, property, self.script.guard())
                {
                    return Ok(guard.into());
                }
                self.machine
                    .property(path, property)
                    .ok_or_else(|| Failure::generic(format!("Property '{property}' not found")))
            }
            "qom-list-types" => {
                let implements = arguments["implements"].as_str();
                Ok(types::list(implements))
            }
            "qom-list-properties" => {
                let name = text(arguments, "typename")?;
                types::properties(name)
                    .ok_or_else(|| Failure::not_found(format!("Class '{name}' not found")))
            }
            "device-list-properties" => {
                let name = text(arguments, "typename")?;
                types::device_properties(name)
                    .ok_or_else(|| Failure::not_found(format!("Device '{name}' not found")))
            }
            _ => Err(Failure {
                class: "CommandNotFound",
                description: format!("The command {command} has not been found"),
            }),
        }
    }

    fn status(&self) -> Value {
        let (status, running) = match self.machine.state {
            RunState::Prelaunch => ("prelaunch", false),
            RunState::Running => ("running", true),
            RunState::Paused => ("paused", false),
        };
        json!({"status": status, "running": running})
    }

    /// Answers with what the human monitor would print. Its failures are text too.
    fn human_command(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["info", "usernet"] => {
                let networks = self.machine.networks.iter();
                networks.map(crate::usernet::Network::describe).collect()
            }
            ["hostfwd_add", rest @ .., rule] if rest.len() <= 1 => {
                self.script.reach(Stage::HostForward);
                let Some(network) = self.machine.network(rest.first().copied()) else {
                    return no_such_network(rest);
                };
                match network.add_forward(rule) {
                    Ok(()) => String::new(),
                    Err(refusal) => format!("{}\r\n", refusal.message(rule)),
                }
            }
            ["hostfwd_remove", rest @ .., rule] if rest.len() <= 1 => {
                let Some(network) = self.machine.network(rest.first().copied()) else {
                    return no_such_network(rest);
                };
                if network.remove_forward(rule) {
                    format!("host forwarding rule for {rule} removed\r\n")
                } else {
                    format!("host forwarding rule for {rule} not found\r\n")
                }
            }
            [] => String::new(),
            [command, ..] => format!("unknown command: '{command}'\r\n"),
        }
    }
}

fn no_such_network(named: &[&str]) -> String {
    match named.first() {
        Some(id) => format!("unrecognized netdev id '{id}'\r\n"),
        None => "no user mode network stack\r\n".to_owned(),
    }
}

fn text<'a>(arguments: &'a Value, name: &str) -> Result<&'a str, Failure> {
    arguments[name]
        .as_str()
        .ok_or_else(|| Failure::generic(format!("Parameter '{name}' is missing")))
}

fn failure_message(failure: &Failure, id: Option<&Value>) -> Value {
    let mut message = json!({"error": {
        "class": failure.class,
        "desc": failure.description,
    }});
    if let Some(id) = id {
        message["id"] = id.clone();
    }
    message
}
