//! `casemate backend`: what the daemon has loaded, and how a component gets to where it loads it
//! from. The second needs no daemon: pulling is not the work of a privileged program.

use std::time::Duration;

use clap::Subcommand;

use crate::client::Client;
use crate::doctor;
use crate::error::CliError;
use crate::screen::Screen;

mod build;
mod component;
mod fetch;
mod inspect;
mod loaded;
mod lock;
mod new;
mod pin;
mod pull;
mod push;
pub(crate) mod refused;
mod trust;
mod verify;
mod watch;

#[derive(Debug, Subcommand)]
pub(crate) enum BackendVerb {
    /// List all backends.
    #[command(visible_alias = "ls")]
    List,
    /// Show one backend: its settings, what it is granted, and whether this host can run it.
    Show(loaded::ShowArguments),
    /// Say whether a backend can start VMs on this host now, as `doctor` does of all.
    Check(loaded::ShowArguments),
    /// Have the daemon read its config and its backends anew, and say what changed.
    Reload,
    /// Show what reloads make of the backends, as it happens.
    Watch,
    /// Make a project of a backend that builds, passes its tests and conforms as it comes.
    New(new::NewArguments),
    /// Build a backend's crate into a component, and print the lines for the daemon's config.
    Build(build::BuildArguments),
    /// Put a component, and its signature, into a registry.
    ///
    /// It lies there as wkg lays components out, and its signature beside it. Who this user is to
    /// the registry is taken from Docker's config.
    Push(push::PushArguments),
    /// Fetch a component from a registry or a mirror, checked before anything of it is parsed.
    Pull(pull::PullArguments),
    /// Pin a component in the lock file, and print the lines for the daemon's config.
    Pin(pin::PinArguments),
    /// Hold a component's file against a digest, a lock file and keys.
    Verify(verify::VerifyArguments),
    /// Show what a component is, without running it.
    Inspect(inspect::InspectArguments),
}

pub(crate) async fn run(
    verb: BackendVerb,
    client: impl FnOnce() -> Result<Client, CliError>,
    timeout: Duration,
    screen: &Screen,
) -> Result<(), CliError> {
    match verb {
        BackendVerb::List => loaded::list(client()?, screen).await,
        BackendVerb::Show(arguments) => loaded::show(arguments, client()?, screen).await,
        BackendVerb::Check(arguments) => doctor::of(Some(arguments.name), client()?, screen).await,
        BackendVerb::Reload => loaded::reload(client()?, screen).await,
        BackendVerb::Watch => watch::run(client()?, screen).await,
        BackendVerb::New(arguments) => new::run(&arguments, screen),
        BackendVerb::Build(arguments) => build::run(&arguments, screen).await,
        BackendVerb::Push(arguments) => push::run(&arguments, timeout, screen).await,
        BackendVerb::Pull(arguments) => pull::run(&arguments, timeout, screen).await,
        BackendVerb::Pin(arguments) => pin::run(&arguments, timeout, screen).await,
        BackendVerb::Verify(arguments) => verify::run(&arguments, screen),
        BackendVerb::Inspect(arguments) => inspect::run(&arguments, timeout, screen).await,
    }
}
