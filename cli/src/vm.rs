//! `casemate vm`: the life of VMs.

use std::collections::BTreeMap;

use casemate_proto::v1::{RestartPolicy, VmIdentity, VmState};
use clap::Subcommand;

use crate::arguments::Output;
use crate::client::Client;
use crate::error::CliError;
use crate::screen::{Screen, Tone};

pub(crate) use change::{Acceptance, Change, Changing, Manner};

mod change;
mod create;
mod exit;
mod filter;
mod list;
mod live;
mod logs;
mod measurement;
mod show;
mod wait;
mod watch;

/// Where a VM is wanted: its ID, the beginning of its ID if only one VM has it, or its name if only
/// one VM has it.
#[derive(Debug, Subcommand)]
pub(crate) enum VmVerb {
    /// Make a VM, start it and wait until it runs.
    Create(Box<create::CreateArguments>),
    /// List VMs: all, or those that fit.
    #[command(visible_alias = "ls")]
    List(list::ListArguments),
    /// Show all about one VM.
    Show(show::ShowArguments),
    /// Print every change of VMs as it happens, the VMs as they are first.
    Watch(watch::WatchArguments),
    /// Start VMs that are down, and wait until they run.
    ///
    /// Each is planned anew and gets a new QEMU, on its own disk. One that runs is left as it is.
    Start(change::StartArguments),
    /// Stop VMs and keep them: their disks stay, and `vm start` starts them again.
    ///
    /// The guest is asked to shut down, and QEMU is ended if it does not. One that is down is left
    /// as it is, and is not started again by its restart policy.
    Stop(change::StopArguments),
    /// Stop VMs, then start them.
    Restart(change::RestartArguments),
    /// Stop the vCPUs of VMs; memory and devices stay.
    Pause(change::VmsArguments),
    /// Let the vCPUs of paused VMs go on.
    Resume(change::VmsArguments),
    /// Boot guests again in the same QEMU, as the reset button does.
    Reset(change::VmsArguments),
    /// Set when VMs are removed, counted from now.
    Extend(change::ExtendArguments),
    /// Stop VMs and delete all that belongs to them.
    #[command(visible_alias = "rm")]
    Remove(change::VmsArguments),
    /// Print what the guest wrote on its console.
    Logs(logs::LogsArguments),
    /// Print what a verifier will see of a VM: `--format table`, `json`, `yaml`, `corim` or
    /// `trustee`.
    Measurement(measurement::MeasurementArguments),
}

pub(crate) async fn run(
    verb: VmVerb,
    format: Output,
    client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    match verb {
        VmVerb::Create(arguments) => create::run(&arguments, client, screen).await,
        VmVerb::List(arguments) => list::run(arguments, client, screen).await,
        VmVerb::Show(arguments) => show::run(&arguments, client, screen).await,
        VmVerb::Watch(arguments) => watch::run(&arguments, client, screen).await,
        VmVerb::Logs(arguments) => logs::run(&arguments, client, screen).await,
        VmVerb::Measurement(arguments) => {
            measurement::run(&arguments, format, client, screen).await
        }
        VmVerb::Start(start) => {
            let change = Change::Start(start.accept.acceptance());
            change::run(change, start.wanted, client, screen).await
        }
        VmVerb::Stop(stop) => {
            let change = Change::Stop(stop.manner());
            change::run(change, stop.wanted, client, screen).await
        }
        VmVerb::Restart(restart) => {
            let change = Change::Restart(restart.stop.manner(), restart.accept.acceptance());
            change::run(change, restart.stop.wanted, client, screen).await
        }
        VmVerb::Pause(wanted) => change::run(Change::Pause, wanted, client, screen).await,
        VmVerb::Resume(wanted) => change::run(Change::Resume, wanted, client, screen).await,
        VmVerb::Reset(wanted) => change::run(Change::Reset, wanted, client, screen).await,
        VmVerb::Extend(extend) => {
            let change = Change::Extend(extend.life());
            change::run(change, extend.wanted, client, screen).await
        }
        VmVerb::Remove(wanted) => change::run(Change::Remove, wanted, client, screen).await,
    }
}

/// As `--restart` takes it.
pub(crate) fn restart_policy_name(policy: RestartPolicy) -> &'static str {
    match policy {
        RestartPolicy::Unspecified | RestartPolicy::Never => "never",
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::Always => "always",
    }
}

/// As `--identity` takes it, with who said it.
pub(crate) fn identity_words(identity: &VmIdentity) -> String {
    let VmIdentity {
        algorithm,
        digest,
        source,
    } = identity;
    format!("{algorithm}:{digest} ({source})")
}

pub(crate) fn state_name(state: VmState) -> &'static str {
    match state {
        VmState::Unspecified => "unspecified",
        VmState::Creating => "creating",
        VmState::Starting => "starting",
        VmState::Running => "running",
        VmState::Stopping => "stopping",
        VmState::Exited => "exited",
        VmState::Removing => "removing",
        VmState::Lost => "lost",
        VmState::Failed => "failed",
        VmState::Paused => "paused",
        VmState::Stopped => "stopped",
        VmState::Unresponsive => "unresponsive",
    }
}

/// `a=1, b=2`.
fn label_words(labels: &BTreeMap<String, String>) -> String {
    let words: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    words.join(", ")
}

fn state_tone(state: VmState) -> Tone {
    match state {
        VmState::Running => Tone::Good,
        VmState::Lost | VmState::Failed | VmState::Unresponsive => Tone::Bad,
        VmState::Creating
        | VmState::Starting
        | VmState::Paused
        | VmState::Stopping
        | VmState::Removing => Tone::Attention,
        VmState::Exited | VmState::Stopped | VmState::Unspecified => Tone::Dim,
    }
}

fn yes_or_no(answer: bool) -> &'static str {
    if answer { "yes" } else { "no" }
}
