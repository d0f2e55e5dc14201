//! The QEMU Machine Protocol: one client's session.

use std::io::Read;
use std::process::exit;
use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};

use crate::console::Console;
use crate::guest::{Afterwards, Cue, Guest, RunState};
use crate::machine::Machine;
use crate::script::{Reached, Script, Stage, hang};
use crate::usernet::Refusal;
use crate::wire::Wire;
use crate::{schema, types};

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

/// Why there is no answer to send.
#[derive(Debug)]
enum Unanswered {
    Failed(Failure),
    /// The script closes the monitor here.
    Closed,
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What all clients talk to, one after the other.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) machine: Machine,
    pub(crate) guest: Arc<Guest>,
    pub(crate) console: Console,
    pub(crate) script: Script,
    pub(crate) wire: Arc<Wire>,
    /// Forwards that are still to be refused.
    pub(crate) refusals_left: u64,
}

/// One client, from greeting to hang-up.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    monitor: &'a mut Monitor,
    negotiated: bool,
}

impl<'a> Session<'a> {
    pub(crate) fn new(monitor: &'a mut Monitor) -> Self {
        Self {
            monitor,
            negotiated: false,
        }
    }

    pub(crate) fn serve(mut self, input: impl Read) {
        if self.reach(Stage::Greeting).is_err() {
            return;
        }
        self.monitor.wire.send(&json!({"QMP": {
            "version": schema::version(),
            "capabilities": ["oob"],
        }}));
        self.stall_after(Stage::Greeting);
        for message in serde_json::Deserializer::from_reader(input).into_iter::<Value>() {
            match message {
                Ok(message) => {
                    if self.answer(&message).is_err() {
                        return;
                    }
                }
                Err(error) if error.is_syntax() => {
                    let failure = Failure::generic(format!("JSON parse error, {error}"));
                    self.monitor.wire.send(&failure_message(&failure, None));
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn reach(&self, stage: Stage) -> Result<(), Unanswered> {
        match self.monitor.script.reach(stage) {
            Reached::GoOn => Ok(()),
            Reached::CloseMonitor => {
                self.monitor.wire.hang_up();
                Err(Unanswered::Closed)
            }
        }
    }

    fn stall_after(&self, stage: Stage) {
        if self.monitor.script.stalls_after(stage) {
            hang();
        }
    }

    /// Fails only where the monitor was closed.
    fn answer(&mut self, message: &Value) -> Result<(), Unanswered> {
        if self.monitor.script.hangs_when_running()
            && self.monitor.guest.state() == RunState::Running
        {
            hang();
        }
        let id = message.get("id");
        let command = message.get("execute").or_else(|| message.get("exec-oob"));
        let Some(command) = command.and_then(Value::as_str) else {
            let failure = Failure::generic("QMP input lacks member 'execute'");
            self.monitor.wire.send(&failure_message(&failure, id));
            return Ok(());
        };
        let arguments = &message["arguments"];
        self.monitor.script.sleep_before(command);
        let stage = self.stage_of(command, arguments);
        match self.execute(command, arguments, stage) {
            Ok((value, afterwards)) => {
                let mut reply = json!({"return": value});
                if let Some(id) = id {
                    reply["id"] = id.clone();
                }
                self.monitor.wire.send(&reply);
                self.follow(afterwards);
            }
            Err(Unanswered::Failed(failure)) => {
                self.monitor.wire.send(&failure_message(&failure, id));
            }
            Err(Unanswered::Closed) => return Err(Unanswered::Closed),
        }
        if let Some(stage) = stage {
            self.stall_after(stage);
        }
        Ok(())
    }

    fn stage_of(&self, command: &str, arguments: &Value) -> Option<Stage> {
        Some(match command {
            "qmp_capabilities" if !self.negotiated => Stage::Capabilities,
            "cont" if self.monitor.guest.has_run() => Stage::Resume,
            "cont" => Stage::Cont,
            "stop" => Stage::StopCommand,
            "query-status" => Stage::Status,
            "query-uuid" => Stage::Uuid,
            "set-action" => Stage::SetAction,
            "system_reset" => Stage::Reset,
            "system_powerdown" => Stage::PowerDown,
            "quit" => Stage::Quit,
            "human-monitor-command"
                if arguments["command-line"]
                    .as_str()
                    .is_some_and(|line| line.trim_start().starts_with("hostfwd_add")) =>
            {
                Stage::HostForward
            }
            _ => return None,
        })
    }

    fn follow(&self, afterwards: Afterwards) {
        match afterwards {
            Afterwards::Nothing => {}
            Afterwards::Started => {
                self.monitor.console.begin(self.monitor.script.console());
                self.monitor.script.begin_running(&self.monitor.wire);
                self.monitor.guest.play_cues();
                self.stall_after(Stage::Running);
            }
            Afterwards::Resumed => self.monitor.guest.play_cues(),
            Afterwards::PowerButton => {
                let guest = Arc::clone(&self.monitor.guest);
                let delay = self.monitor.script.delay(Stage::PowerDown);
                thread::spawn(move || {
                    thread::sleep(delay);
                    guest.cue(Cue::ShutDown);
                });
            }
            Afterwards::Exit(code) => exit(code),
        }
    }

    fn execute(
        &mut self,
        command: &str,
        arguments: &Value,
        stage: Option<Stage>,
    ) -> Result<(Value, Afterwards), Unanswered> {
        if !self.negotiated && command != "qmp_capabilities" {
            return Err(
                not_found("Expecting capabilities negotiation with 'qmp_capabilities'").into(),
            );
        }
        check_arguments(command, arguments)?;
        if let Some(stage) = stage {
            self.reach(stage)?;
        }
        let guest = &self.monitor.guest;
        let ignored = self.monitor.script.ignores(command);
        let afterwards = match command {
            "qmp_capabilities" if self.negotiated => {
                return Err(not_found(
                    "Capabilities negotiation is already complete, command ignored",
                )
                .into());
            }
            "qmp_capabilities" => {
                self.negotiated = true;
                Afterwards::Nothing
            }
            // QEMU tells of the button itself; it is the guest that takes no notice.
            "system_powerdown" if ignored => {
                guest.press_power_button();
                Afterwards::Nothing
            }
            "cont" | "stop" | "set-action" | "system_reset" | "quit" if ignored => {
                Afterwards::Nothing
            }
            "cont" => guest.cont().map_err(Failure::generic)?,
            "stop" => {
                guest.stop();
                Afterwards::Nothing
            }
            "set-action" => {
                guest.set_actions(arguments).map_err(Failure::generic)?;
                Afterwards::Nothing
            }
            "system_reset" => guest.reset(),
            "system_powerdown" => guest.press_power_button(),
            "quit" => guest.quit(),
            _ => return Ok((self.query(command, arguments)?, Afterwards::Nothing)),
        };
        Ok((json!({}), afterwards))
    }

    /// The commands whose answer is all that they do.
    fn query(&mut self, command: &str, arguments: &Value) -> Result<Value, Failure> {
        match command {
            "query-version" => Ok(schema::version()),
            "query-status" => Ok(self.status()),
            "query-name" => Ok(json!({"name": self.monitor.machine.name})),
            "query-uuid" => {
                let own = self.monitor.machine.uuid.as_str();
                Ok(json!({"UUID": self.monitor.script.wrong_uuid().unwrap_or(own)}))
            }
            "query-fdsets" => Ok(self.monitor.machine.sets.describe()),
            "query-kvm" => Ok(json!({
                "enabled": self.monitor.machine.accelerator == "kvm",
                "present": true,
            })),
            "query-machines" => Ok(types::machines()),
            "query-qmp-schema" => Ok(schema::schema(self.monitor.script.objects())),
            "query-commands" => Ok(schema::commands()),
            "human-monitor-command" => {
                let line = text(arguments, "command-line")?;
                Ok(self.human_command(line).into())
            }
            "object-add" => {
                self.monitor
                    .machine
                    .add_object(arguments)
                    .map_err(Failure::generic)?;
                Ok(json!({}))
            }
            "object-del" => {
                self.monitor
                    .machine
                    .remove_object(text(arguments, "id")?)
                    .map_err(Failure::generic)?;
                Ok(json!({}))
            }
            "qom-get" => {
                let (path, property) = (text(arguments, "path")?, text(arguments, "property")?);
                if let ("/machine", "confidential-guest-support", Some(guard)) =
                    (path, property, self.monitor.script.guard())
                {
                    return Ok(guard.into());
                }
                self.monitor
                    .machine
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
            _ => Err(not_found(&format!(
                "The command {command} has not been found"
            ))),
        }
    }

    fn status(&self) -> Value {
        let (status, running) = match self.monitor.guest.state() {
            RunState::Prelaunch => ("prelaunch", false),
            RunState::Running => ("running", true),
            RunState::Paused => ("paused", false),
            RunState::Shutdown => ("shutdown", false),
            RunState::Panicked => ("guest-panicked", false),
        };
        json!({"status": status, "running": running})
    }

    /// Answers with what the human monitor would print. Its failures are text too.
    fn human_command(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["info", "usernet"] => {
                let networks = self.monitor.machine.networks.iter();
                networks.map(crate::usernet::Network::describe).collect()
            }
            ["hostfwd_add", rest @ .., rule] if rest.len() <= 1 => {
                if self.monitor.refusals_left > 0 {
                    self.monitor.refusals_left -= 1;
                    return format!("{}\r\n", Refusal::NotBound.message(rule));
                }
                let Some(network) = self.monitor.machine.network(rest.first().copied()) else {
                    return no_such_network(rest);
                };
                match network.add_forward(rule) {
                    Ok(()) => String::new(),
                    Err(refusal) => format!("{}\r\n", refusal.message(rule)),
                }
            }
            ["hostfwd_remove", rest @ .., rule] if rest.len() <= 1 => {
                let Some(network) = self.monitor.machine.network(rest.first().copied()) else {
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

fn not_found(description: &str) -> Failure {
    Failure {
        class: "CommandNotFound",
        description: description.to_owned(),
    }
}

/// QEMU takes no argument that it does not know.
fn check_arguments(command: &str, arguments: &Value) -> Result<(), Failure> {
    let known = match schema::arguments_of(command) {
        Some(known) if command != "object-add" => known,
        _ => return Ok(()),
    };
    for name in arguments.as_object().into_iter().flat_map(|map| map.keys()) {
        if !known
            .iter()
            .any(|(member, _)| member.trim_end_matches('?') == name)
        {
            return Err(Failure::generic(format!(
                "Parameter '{name}' is unexpected"
            )));
        }
    }
    Ok(())
}

fn no_such_network(named: &[&str]) -> String {
    match named.first() {
        Some(id) => format!("unrecognized netdev id '{id}'\r\n"),
        None => "no user mode network stack\r\n".to_owned(),
    }
}

fn text<'a>(arguments: &'a Value, name: &str) -> Result<&'a str, Failure> {
    match arguments.get(name) {
        None => Err(Failure::generic(format!("Parameter '{name}' is missing"))),
        Some(value) => value.as_str().ok_or_else(|| {
            Failure::generic(format!(
                "Invalid parameter type for '{name}', expected: string"
            ))
        }),
    }
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
