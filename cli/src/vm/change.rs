//! What can be done to a VM that is there, and `casemate vm start`, `stop`, `restart`, `pause`,
//! `resume`, `reset`, `extend` and `remove`, which do it: to several VMs at once, each reported,
//! because one that fails must not keep the others.

use std::collections::HashMap;
use std::time::Duration;

use casemate_proto::v1::{ListVmsRequest, Vm};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::arguments::{self, Format};
use crate::client::Client;
use crate::error::CliError;
use crate::screen::Screen;
use crate::vm::state_name;
use crate::{json, plain_text, resolve, spec, waiting};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Start(Acceptance),
    Stop(Manner),
    Restart(Manner, Acceptance),
    Pause,
    Resume,
    Reset,
    Extend(Life),
    Remove,
}

/// A change, and what the VM has to be for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changing {
    pub(crate) change: Change,
    pub(crate) expected_generation: Option<u64>,
}

/// How long a VM stays from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Seconds(u32),
    Forever,
}

impl Life {
    pub(crate) fn ttl_seconds(self) -> Option<u32> {
        match self {
            Self::Seconds(seconds) => Some(seconds),
            Self::Forever => None,
        }
    }
}

/// How a VM is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// The guest is asked first.
    Asked,
    Forced,
}

/// How a change is spoken of.
#[derive(Debug)]
pub(crate) struct Words {
    pub(crate) one: &'static str,
    several: &'static str,
    /// Also the JSON field that says whether it is so.
    done: &'static str,
}

impl Change {
    pub(crate) fn words(self) -> &'static Words {
        match self {
            Self::Start(_) => &Words {
                one: "start the VM",
                several: "start the VMs",
                done: "started",
            },
            Self::Stop(_) => &Words {
                one: "stop the VM",
                several: "stop the VMs",
                done: "stopped",
            },
            Self::Restart(..) => &Words {
                one: "restart the VM",
                several: "restart the VMs",
                done: "restarted",
            },
            Self::Pause => &Words {
                one: "pause the VM",
                several: "pause the VMs",
                done: "paused",
            },
            Self::Resume => &Words {
                one: "resume the VM",
                several: "resume the VMs",
                done: "resumed",
            },
            Self::Reset => &Words {
                one: "reset the VM",
                several: "reset the VMs",
                done: "reset",
            },
            Self::Extend(_) => &Words {
                one: "set the VM's time to live",
                several: "set the VMs' times to live",
                done: "extended",
            },
            Self::Remove => &Words {
                one: "remove the VM",
                several: "remove the VMs",
                done: "removed",
            },
        }
    }

    /// Whether it is for a state, and does nothing to a VM that has it.
    fn is_idempotent(self) -> bool {
        match self {
            Self::Start(_) | Self::Stop(_) | Self::Pause | Self::Resume => true,
            Self::Restart(..) | Self::Reset | Self::Extend(_) | Self::Remove => false,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct VmsArguments {
    /// IDs, unique beginnings of IDs, or unique names.
    #[arg(value_name = "ID", required = true)]
    vms: Vec<String>,

    /// Refuse unless this is the VM's generation, as `vm show` says it: nothing has changed since.
    /// Only with one ID.
    #[arg(long, value_name = "N")]
    expect_generation: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExtendArguments {
    #[command(flatten)]
    pub(crate) wanted: VmsArguments,

    #[command(flatten)]
    life: LifeArguments,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct LifeArguments {
    /// Remove the VMs when this time is over, counted from now, such as 90s or 1h30m.
    #[arg(long, value_name = "TIME", value_parser = arguments::duration)]
    ttl: Option<Duration>,

    /// Let the VMs stay.
    #[arg(long)]
    forever: bool,
}

impl ExtendArguments {
    pub(crate) fn life(&self) -> Life {
        match self.life.ttl {
            Some(ttl) => Life::Seconds(spec::whole_seconds(ttl)),
            // clap asks for one of the two.
            None => Life::Forever,
        }
    }
}

/// What a VM that starts may be measured as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acceptance {
    /// What it was measured as before.
    AsBefore,
    Any,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StartArguments {
    #[command(flatten)]
    pub(crate) wanted: VmsArguments,

    #[command(flatten)]
    pub(crate) accept: AcceptArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AcceptArguments {
    /// Start VMs also if they would be measured otherwise than before; verifiers then need their
    /// new policy.
    #[arg(long)]
    accept_measurement: bool,
}

impl AcceptArguments {
    pub(crate) fn acceptance(&self) -> Acceptance {
        if self.accept_measurement {
            Acceptance::Any
        } else {
            Acceptance::AsBefore
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct RestartArguments {
    #[command(flatten)]
    pub(crate) stop: StopArguments,

    #[command(flatten)]
    pub(crate) accept: AcceptArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StopArguments {
    #[command(flatten)]
    pub(crate) wanted: VmsArguments,

    /// Do not ask the guest to shut down; what it has not written to its disk is lost.
    #[arg(long)]
    force: bool,
}

impl StopArguments {
    pub(crate) fn manner(&self) -> Manner {
        if self.force {
            Manner::Forced
        } else {
            Manner::Asked
        }
    }
}

/// How it went with one argument.
struct Outcome {
    wanted: String,
    /// None if no VM fits the argument.
    before: Option<Vm>,
    result: Result<Option<Vm>, CliError>,
}

pub(crate) async fn run(
    change: Change,
    arguments: VmsArguments,
    mut client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    if arguments.expect_generation.is_some() && arguments.vms.len() != 1 {
        return Err(CliError::GenerationOfOne {
            wanted: arguments.vms.len(),
        });
    }
    let changing = Changing {
        change,
        expected_generation: arguments.expect_generation,
    };
    let vms = client.list_vms(ListVmsRequest::default()).await?;
    let doing = match arguments.vms.as_slice() {
        [_] => change.words().one,
        _ => change.words().several,
    };
    let all = change_all(changing, &arguments.vms, &vms, &client);
    let mut outcomes = waiting::shown(doing, all).await;

    if screen.format != Format::Table {
        let values: Result<Vec<Value>, CliError> = outcomes
            .iter()
            .map(|outcome| value(change, outcome))
            .collect();
        screen.write_value(&Value::Array(values?))?;
        return verdict(change, &outcomes);
    }
    // One error of one VM is all that there is to say.
    if outcomes.len() == 1
        && let Some(Outcome {
            result: Err(error), ..
        }) = outcomes.pop_if(|outcome| outcome.result.is_err())
    {
        return Err(error);
    }
    let mut lines = String::new();
    for outcome in &outcomes {
        match (&outcome.result, &outcome.before) {
            (Err(error), None) => screen.write_remark(&screen.error_report(error)),
            (Err(error), Some(_)) => {
                let about = plain_text::stripped(&outcome.wanted);
                screen.write_remark(&screen.error_report_about(&about, error));
            }
            (Ok(after), Some(before)) => lines.push_str(&line(change, before, after.as_ref())),
            (Ok(_), None) => {}
        }
    }
    screen.write_raw(lines.as_bytes())?;
    verdict(change, &outcomes)
}

/// An argument that fits no VM keeps nothing from the others; two arguments that fit the same VM
/// change it once.
async fn change_all(
    changing: Changing,
    wanted: &[String],
    vms: &[Vm],
    client: &Client,
) -> Vec<Outcome> {
    type Running = JoinHandle<Result<Option<Vm>, CliError>>;
    let mut changes: HashMap<String, Running> = HashMap::new();
    let mut found = Vec::new();
    for wanted in wanted {
        let resolved = resolve::one(vms, wanted);
        if let Ok(vm) = &resolved {
            changes.entry(vm.id.clone()).or_insert_with(|| {
                let (mut client, id) = (client.clone(), vm.id.clone());
                tokio::spawn(async move { client.change_vm(changing, id).await })
            });
        }
        found.push((wanted.clone(), resolved));
    }
    let mut outcomes = Vec::new();
    for (wanted, resolved) in found {
        let (before, result) = match resolved {
            Err(error) => (None, Err(error)),
            Ok(vm) => match changes.remove(&vm.id) {
                // Counted at its first argument.
                None => continue,
                Some(running) => {
                    let result = running.await.unwrap_or_else(|error| {
                        Err(CliError::Runtime(std::io::Error::other(error)))
                    });
                    (Some(vm.clone()), result)
                }
            },
        };
        outcomes.push(Outcome {
            wanted,
            before,
            result,
        });
    }
    outcomes
}

/// A VM whose generation is the same was left as it was, and its state says why.
fn line(change: Change, before: &Vm, after: Option<&Vm>) -> String {
    let id = plain_text::stripped(&before.id);
    match after {
        Some(after) if change.is_idempotent() && after.generation == before.generation => {
            format!("already {} {id}\n", state_name(after.state()))
        }
        _ => format!("{} {id}\n", change.words().done),
    }
}

fn value(change: Change, outcome: &Outcome) -> Result<Value, CliError> {
    let mut value = json!({
        "wanted": outcome.wanted,
        "id": outcome.before.as_ref().map(|vm| &vm.id),
    });
    value[change.words().done] = Value::Bool(outcome.result.is_ok());
    if change != Change::Remove {
        let after = outcome.result.as_ref().ok().and_then(Option::as_ref);
        value["vm"] = json::value(&after)?;
    }
    value["error"] = outcome
        .result
        .as_ref()
        .err()
        .map_or(Value::Null, CliError::to_json);
    Ok(value)
}

fn verdict(change: Change, outcomes: &[Outcome]) -> Result<(), CliError> {
    let errors: Vec<&CliError> = outcomes
        .iter()
        .filter_map(|outcome| outcome.result.as_ref().err())
        .collect();
    let Some(worst) = errors.iter().max_by_key(|error| error.exit_code()) else {
        return Ok(());
    };
    Err(CliError::NotAllDone {
        done: change.words().done,
        failed: errors.len(),
        wanted: outcomes.len(),
        worst: worst.exit_code(),
        id: match change {
            Change::Remove => casemate_catalogue::ErrorId::VmsNotRemoved,
            _ => worst.id(),
        },
    })
}

#[cfg(test)]
mod tests {
    use casemate_proto::v1::VmState;

    use super::*;

    fn outcome(result: Result<Option<Vm>, CliError>) -> Outcome {
        Outcome {
            wanted: "a".to_owned(),
            before: None,
            result,
        }
    }

    fn missing() -> CliError {
        CliError::NoSuchVm {
            wanted: "a".to_owned(),
        }
    }

    #[test]
    fn the_worst_code_counts() {
        for (change, words, id) in [
            (Change::Remove, "removed", "vms-not-removed"),
            (Change::Stop(Manner::Asked), "stopped", "answer-incomplete"),
        ] {
            assert!(verdict(change, &[outcome(Ok(None))]).is_ok());
            let broken = CliError::Incomplete {
                doing: change.words().one,
                missing: "VM",
            };
            let outcomes = [
                outcome(Err(missing())),
                outcome(Ok(None)),
                outcome(Err(broken)),
            ];
            let error = verdict(change, &outcomes).unwrap_err();
            assert_eq!(error.exit_code(), 8);
            assert_eq!(error.to_string(), format!("2 of 3 VMs were not {words}"));
            let value = error.to_json();
            assert_eq!(value["id"], id);
            assert_eq!(value["remedy"], "see the errors of the single VMs");
        }
    }

    #[test]
    fn a_line_says_what_was_done_or_why_nothing_was() {
        let vm = |generation, state: VmState| Vm {
            id: "aa11\x1b".to_owned(),
            generation,
            state: state.into(),
            ..Vm::default()
        };
        let (running, stopped) = (VmState::Running, VmState::Stopped);
        for (change, after, expected) in [
            (
                Change::Start(Acceptance::AsBefore),
                Some(vm(8, running)),
                "started aa11\n",
            ),
            (
                Change::Start(Acceptance::AsBefore),
                Some(vm(7, running)),
                "already running aa11\n",
            ),
            (
                Change::Stop(Manner::Forced),
                Some(vm(7, VmState::Exited)),
                "already exited aa11\n",
            ),
            (
                Change::Stop(Manner::Asked),
                Some(vm(9, stopped)),
                "stopped aa11\n",
            ),
            (Change::Pause, Some(vm(8, VmState::Paused)), "paused aa11\n"),
            // The daemon need not call it a change.
            (Change::Reset, Some(vm(7, running)), "reset aa11\n"),
            (Change::Remove, None, "removed aa11\n"),
        ] {
            let before = vm(7, running);
            assert_eq!(
                line(change, &before, after.as_ref()),
                expected,
                "{change:?}"
            );
        }
    }

    #[test]
    fn an_outcome_is_json_with_the_vm_as_it_is_then() {
        let done = Outcome {
            before: Some(Vm {
                id: "aa11".to_owned(),
                ..Vm::default()
            }),
            ..outcome(Ok(Some(Vm::default())))
        };
        let stopped = value(Change::Stop(Manner::Asked), &done).unwrap();
        let keys: Vec<&String> = stopped.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["wanted", "id", "stopped", "vm", "error"]);
        assert_eq!(stopped["id"], "aa11");
        assert_eq!(stopped["stopped"], true);
        assert_eq!(stopped["vm"]["restarts"], 0);
        let failed = value(Change::Reset, &outcome(Err(missing()))).unwrap();
        assert_eq!(failed["reset"], false);
        assert_eq!(failed["vm"], Value::Null);
        assert_eq!(failed["error"]["id"], "vm-name-unknown");
        assert_eq!(value(Change::Remove, &done).unwrap().get("vm"), None);
    }
}
