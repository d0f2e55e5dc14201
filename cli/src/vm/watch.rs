//! `casemate vm watch`: every change as it happens, one on each line, the VMs as they are first.

use std::collections::{HashMap, HashSet};

use casemate_proto::v1::watch_vms_response::Change;
use casemate_proto::v1::{ListVmsRequest, Vm, WatchVmsRequest, WatchVmsResponse};
use jiff::Timestamp;
use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr as _;

use crate::arguments::Format;
use crate::client::{Client, known};
use crate::error::CliError;
use crate::screen::{Screen, Tone};
use crate::vm::filter::Filter;
use crate::vm::{state_name, state_tone};
use crate::{interrupt, json, plain_text, resolve};

/// So that most names of later VMs are below the others.
const NARROWEST_NAME: usize = 12;

/// Widths of what is always as long: `2026-01-02T12:00:00Z`, an ID, `unresponsive`.
const TIME_WIDTH: usize = 20;
const ID_WIDTH: usize = 36;
const STATE_WIDTH: usize = 12;

#[derive(Debug, clap::Args)]
pub(crate) struct WatchArguments {
    /// ID, unique beginning of an ID, or unique name of the only VM to watch; then this ends when
    /// the VM is removed.
    #[arg(value_name = "ID")]
    vm: Option<String>,
}

pub(crate) async fn run(
    arguments: &WatchArguments,
    client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    interrupt::ends_the_program()?;
    let client = client.kept_alive();
    print(arguments.vm.as_deref(), Filter::default(), client, screen).await
}

/// A line or an object for each change of that VM, or of those that fit.
pub(super) async fn print(
    wanted: Option<&str>,
    filter: Filter,
    mut client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    let vms = client.list_vms(ListVmsRequest::default()).await?;
    let only = match wanted {
        None => None,
        Some(wanted) => Some(resolve::one(&vms, wanted)?),
    };
    let request = WatchVmsRequest {
        id: only.map(|vm| vm.id.clone()).unwrap_or_default(),
    };
    let mut changes = client.watch_vms(request).await?;
    let shown = only.map_or(vms.as_slice(), std::slice::from_ref);
    let mut lines = Lines::new(shown);
    let mut interest = Interest::new(filter);
    if screen.format == Format::Table {
        screen.write_raw(lines.header(screen).as_bytes())?;
    }
    while let Some(answer) = changes.next().await.map_err(CliError::of_watch)? {
        if !interest.is_in(answer.change.as_ref()) {
            continue;
        }
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        match screen.format {
            Format::Data(_) => screen.write_one_value(&value(&answer, &now)?)?,
            Format::Table => {
                if let Some(line) = lines.line(&answer, &now, screen) {
                    screen.write_raw(line.as_bytes())?;
                }
            }
        }
        if let (Some(Change::Removed(id)), Some(only)) = (&answer.change, only)
            && *id == only.id
        {
            return Ok(());
        }
    }
    Err(changes.broken_off())
}

/// Which changes are shown: of VMs that fit, and of those that did until now.
struct Interest {
    filter: Filter,
    /// IDs of VMs that fit.
    fitting: HashSet<String>,
}

impl Interest {
    fn new(filter: Filter) -> Self {
        Self {
            filter,
            fitting: HashSet::new(),
        }
    }

    fn is_in(&mut self, change: Option<&Change>) -> bool {
        if self.filter.admits_all() {
            return true;
        }
        match change {
            Some(Change::Vm(vm)) if self.filter.admits(vm) => {
                self.fitting.insert(vm.id.clone());
                true
            }
            Some(Change::Vm(Vm { id, .. }) | Change::Removed(id)) => self.fitting.remove(id),
            Some(Change::Synchronized(_)) | None => true,
        }
    }
}

/// With what the interface has in it; the time is when it was seen here.
fn value(answer: &WatchVmsResponse, now: &str) -> Result<Value, CliError> {
    let mut value = json!({"time": now, "generation": answer.generation});
    match &answer.change {
        Some(Change::Vm(vm)) => value["vm"] = json::value(&known(vm.clone()))?,
        Some(Change::Removed(id)) => value["removed"] = Value::String(id.clone()),
        Some(Change::Synchronized(is_so)) => value["synchronized"] = Value::Bool(*is_so),
        // Of a later daemon.
        None => {}
    }
    Ok(value)
}

struct Lines {
    /// By ID, because a removal only has that.
    names: HashMap<String, String>,
    name_width: usize,
}

impl Lines {
    fn new(vms: &[Vm]) -> Self {
        let mut lines = Self {
            names: HashMap::new(),
            name_width: NARROWEST_NAME,
        };
        for vm in vms {
            lines.learn(vm);
        }
        lines
    }

    fn learn(&mut self, vm: &Vm) {
        let name = plain_text::stripped(&vm.name);
        self.name_width = self.name_width.max(name.width());
        self.names.insert(vm.id.clone(), name);
    }

    fn header(&self, screen: &Screen) -> String {
        let state = format!("{:STATE_WIDTH$}", "STATE");
        let header = self.columns("TIME", "NAME", "ID", &state, "DETAIL");
        format!("{}\n", screen.tint(&header, Tone::Dim))
    }

    /// `state` comes padded, because a colour takes no place.
    fn columns(&self, time: &str, name: &str, id: &str, state: &str, detail: &str) -> String {
        // A character may take two places.
        let padding = " ".repeat(self.name_width.saturating_sub(name.width()));
        format!("{time:TIME_WIDTH$}  {name}{padding}  {id:ID_WIDTH$}  {state}  {detail}")
            .trim_end()
            .to_owned()
    }

    fn line(&mut self, answer: &WatchVmsResponse, now: &str, screen: &Screen) -> Option<String> {
        let (id, state, tone, detail) = match answer.change.as_ref()? {
            Change::Vm(vm) => {
                self.learn(vm);
                let state = vm.state();
                let detail = plain_text::stripped(&vm.detail);
                (&vm.id, state_name(state), state_tone(state), detail)
            }
            Change::Removed(id) => (id, "removed", Tone::Dim, String::new()),
            Change::Synchronized(_) => return None,
        };
        let name = match answer.change.as_ref()? {
            Change::Removed(id) => self.names.remove(id),
            _ => self.names.get(id).cloned(),
        };
        let name = name.filter(|name| !name.is_empty());
        let name = name.unwrap_or_else(|| "-".to_owned());
        let state = screen.tint(&format!("{state:STATE_WIDTH$}"), tone);
        let id = plain_text::stripped(id);
        Some(self.columns(now, &name, &id, &state, &detail) + "\n")
    }
}

#[cfg(test)]
mod tests {
    use casemate_proto::v1::VmState;
    use tonic::Status;

    use super::*;
    use crate::screen::piped;

    const ID: &str = "6f1c8a52-0000-4000-8000-000000000001";
    const NOW: &str = "2026-01-02T12:00:00Z";

    fn vm(name: &str, state: VmState, detail: &str) -> Vm {
        Vm {
            id: ID.to_owned(),
            name: name.to_owned(),
            state: state.into(),
            detail: detail.to_owned(),
            ..Vm::default()
        }
    }

    fn answer(change: Change) -> WatchVmsResponse {
        WatchVmsResponse {
            generation: 7,
            change: Some(change),
        }
    }

    #[test]
    fn a_change_is_a_line() {
        let screen = piped(Format::Table);
        let mut lines = Lines::new(&[vm("a-long-name-of-a-vm", VmState::Running, "")]);
        let exited = vm("a\x1b[2J", VmState::Exited, "exited:\nguest-shutdown");
        let mut text = lines.header(&screen);
        for change in [
            Change::Vm(vm("a-long-name-of-a-vm", VmState::Running, "")),
            Change::Synchronized(true),
            Change::Vm(exited),
            Change::Removed(ID.to_owned()),
            // Never heard of.
            Change::Removed(ID.to_owned()),
        ] {
            let line = lines.line(&answer(change), NOW, &screen);
            text.push_str(&line.unwrap_or_default());
        }
        let name = |name: &str| format!("{name:19}");
        assert_eq!(
            text,
            format!(
                "TIME                  {}  ID                                    STATE         DETAIL\n\
                 {NOW}  {}  {ID}  running\n\
                 {NOW}  {}  {ID}  exited        exited: guest-shutdown\n\
                 {NOW}  {}  {ID}  removed\n\
                 {NOW}  {}  {ID}  removed\n",
                name("NAME"),
                name("a-long-name-of-a-vm"),
                name("a[2J"),
                name("a[2J"),
                name("-"),
            )
        );
    }

    #[test]
    fn of_a_choice_only_what_fits_or_did_is_shown() {
        let mut interest = Interest::new(crate::vm::filter::named("web"));
        for (change, is_shown) in [
            (Change::Vm(vm("db", VmState::Running, "")), false),
            (Change::Synchronized(true), true),
            (Change::Removed(ID.to_owned()), false),
            (Change::Vm(vm("web", VmState::Running, "")), true),
            (Change::Vm(vm("db", VmState::Running, "")), true),
            (Change::Vm(vm("db", VmState::Running, "")), false),
            (Change::Vm(vm("web", VmState::Running, "")), true),
            (Change::Removed(ID.to_owned()), true),
            (Change::Removed(ID.to_owned()), false),
        ] {
            assert_eq!(interest.is_in(Some(&change)), is_shown, "{change:?}");
        }
        let mut all = Interest::new(Filter::default());
        assert!(all.is_in(Some(&Change::Removed(ID.to_owned()))));
    }

    #[test]
    fn a_change_is_an_object() {
        let value_of = |change| value(&answer(change), NOW).unwrap();
        assert_eq!(
            value_of(Change::Removed(ID.to_owned())),
            json!({"time": NOW, "generation": 7, "removed": ID})
        );
        assert_eq!(
            value_of(Change::Synchronized(true)),
            json!({"time": NOW, "generation": 7, "synchronized": true})
        );
        let running = value_of(Change::Vm(vm("a", VmState::Running, "")));
        assert_eq!(running["vm"]["state"], "running");
    }

    #[test]
    fn a_slow_reader_is_told_what_to_do() {
        let refused = |status| {
            let error = CliError::Refused {
                doing: "watch the VMs",
                status: Box::new(status),
            };
            error.of_watch()
        };
        let error = refused(Status::aborted("the reader is too slow"));
        assert_eq!(
            error.to_string(),
            "cannot watch the VMs any longer: the reader is too slow (ABORTED)"
        );
        assert!(error.details()[0].starts_with("remedy: run the command again"));
        assert!(
            error.to_json()["remedy"]
                .as_str()
                .unwrap()
                .contains("again")
        );
        assert_eq!(error.exit_code(), 6);
        assert!(matches!(
            refused(Status::internal("no")),
            CliError::Refused { .. }
        ));
    }
}
