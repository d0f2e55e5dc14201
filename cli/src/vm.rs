//! `casemate vm`: the life of VMs.

use casemate_proto::v1::VmState;
use clap::Subcommand;

use crate::client::Client;
use crate::error::CliError;
use crate::screen::{Screen, Tone};

mod create;
mod list;
mod logs;
mod remove;
mod show;

/// Where a VM is wanted: its ID, the beginning of its ID if only one VM has it, or its name if only
/// one VM has it.
#[derive(Debug, Subcommand)]
pub(crate) enum VmVerb {
    /// Start a VM and wait until it runs.
    Create(Box<create::CreateArguments>),
    /// List all VMs.
    #[command(visible_alias = "ls")]
    List,
    /// Show all about one VM.
    Show(show::ShowArguments),
    /// Stop VMs and delete all that belongs to them.
    #[command(visible_alias = "rm")]
    Remove(remove::RemoveArguments),
    /// Print what the guest wrote on its console.
    Logs(logs::LogsArguments),
}

pub(crate) async fn run(verb: VmVerb, client: Client, screen: &Screen) -> Result<(), CliError> {
    match verb {
        VmVerb::Create(arguments) => create::run(&arguments, client, screen).await,
        VmVerb::List => list::run(client, screen).await,
        VmVerb::Show(arguments) => show::run(&arguments, client, screen).await,
        VmVerb::Remove(arguments) => remove::run(arguments, client, screen).await,
        VmVerb::Logs(arguments) => logs::run(&arguments, client, screen).await,
    }
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
    }
}

fn state_tone(state: VmState) -> Tone {
    match state {
        VmState::Running => Tone::Good,
        VmState::Lost => Tone::Bad,
        VmState::Creating | VmState::Starting | VmState::Stopping | VmState::Removing => {
            Tone::Attention
        }
        VmState::Exited | VmState::Unspecified => Tone::Dim,
    }
}

fn yes_or_no(answer: bool) -> &'static str {
    if answer { "yes" } else { "no" }
}
