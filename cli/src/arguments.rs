//! The command line: global options and verbs. What a verb takes is declared beside the verb.

use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::connection::ConnectionArguments;
use crate::error::CliError;
use crate::screen::Screen;
use crate::{backend, config, context, doctor, man, measure, plan, vm};

const GLOBAL_OPTIONS: &str = "Global options";

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  another failure: a file of yours, the terminal, a call that the daemon does not know
  2  the command line is wrong, or what it says of the connection
  3  no such VM or backend, nothing of that name in a registry
  4  the request is at fault (INVALID_ARGUMENT, or an ID that fits several VMs)
  5  something is used up (RESOURCE_EXHAUSTED): a limit, a port, memory
  6  this host or VM cannot do it, QEMU ended during the launch, the VM has changed since, or
     a watch was too slow (FAILED_PRECONDITION, ABORTED); `doctor` found that no VM can be
     started; the VM ended while `vm create --wait` waited
  7  the daemon cannot be reached or did not answer in time (UNAVAILABLE, DEADLINE_EXCEEDED), or
     the VM's agent did not
  8  the daemon, a registry or a backend is at fault (INTERNAL)
  9  who calls is not known to the daemon, or may not do this (UNAUTHENTICATED, PERMISSION_DENIED)
  10  the idempotency key was used for another request (ALREADY_EXISTS)
  11  a component was not taken: it is not what was pinned, signed or asked for, or no component
  130  Ctrl-C ended `vm create`, a watch or `vm logs --follow`
With several IDs, the highest code of all.
docs/errors.md lists the errors by the ID that each shows on its last line.

Environment:
  CASEMATE_ENDPOINT     where the daemon is, as --endpoint
  CASEMATE_CONTEXT      which context says so, as --context
  CASEMATE_CA_CERT      as --ca-cert
  CASEMATE_CLIENT_CERT  as --client-cert
  CASEMATE_CLIENT_KEY   as --client-key
  CASEMATE_TOKEN        the token itself; --token-file names its file
  XDG_CONFIG_HOME       casemate/contexts.toml below it holds the contexts; ~/.config, if not set
  DOCKER_CONFIG         config.json below it says who this user is to registries; ~/.docker, if not set
  SSL_CERT_FILE         PEM of the authorities that may have signed a registry's certificate
  NO_COLOR              no colours, if it is set to anything
The command line comes before the environment, the environment before a context that is not named
on the command line; `casemate context show` says what is in effect.";

/// Runs and shows VMs through the daemon casemated.
#[derive(Debug, Parser)]
#[command(name = "casemate", version, after_long_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: ConnectionArguments,

    /// How to show the answer.
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS, value_enum, default_value_t = Output::Table)]
    pub(crate) format: Output,

    /// How long to wait for an answer, or for the beginning of one that has no end.
    #[arg(long, global = true, help_heading = GLOBAL_OPTIONS, value_name = "TIME", default_value = "120s", value_parser = timeout)]
    pub(crate) timeout: Duration,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// How an answer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Data(Data),
}

/// The same values in either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    Json,
    Yaml,
}

/// What `--format` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[value(alias = "text")]
    Table,
    /// For programs: one JSON value, or one on each line from a watch.
    Json,
    /// The same as YAML; from a watch a document each.
    Yaml,
    /// Of `measure` and `vm measurement`: CoRIM (CBOR), signed where a key is configured.
    Corim,
    /// Of `measure` and `vm measurement`: reference values for Trustee's RVPS (JSON).
    Trustee,
}

impl Output {
    /// How everything but a policy is shown.
    pub(crate) fn format(self) -> Format {
        match self {
            Self::Json => Format::Data(Data::Json),
            Self::Yaml => Format::Data(Data::Yaml),
            Self::Table | Self::Corim | Self::Trustee => Format::Table,
        }
    }
}

impl Verb {
    /// Whether its answer can be a policy.
    pub(crate) fn renders_policies(&self) -> bool {
        matches!(
            self,
            Self::Measure(_) | Self::Vm(vm::VmVerb::Measurement(_))
        )
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create, run, show, watch and remove VMs, and read their consoles.
    #[command(subcommand)]
    Vm(vm::VmVerb),
    /// Show the backends that the daemon has loaded; push, pull, pin and check components.
    #[command(subcommand)]
    Backend(backend::BackendVerb),
    /// Show the QEMU command that `vm create` would run, without running it.
    Plan(Box<plan::PlanArguments>),
    /// Compute what a verifier would see of a guest, without a daemon.
    ///
    /// Prints the launch measurement of firmware, kernel, vCPUs and settings, or the policy that a
    /// verifier reads (`--format corim`, `--format trustee`). Neither QEMU nor a host of the
    /// technology is needed; what depends on the host is assumed and said, or taken from --facts.
    Measure(Box<measure::MeasureArguments>),
    /// Show the daemon's config, or print one to start from.
    #[command(subcommand)]
    Config(config::ConfigVerb),
    /// Show whether VMs can be started on the daemon's host, and if not, why and what to do.
    Doctor(doctor::DoctorArguments),
    /// Name hosts, and choose the one that commands are for.
    #[command(subcommand)]
    Context(context::ContextVerb),
    /// Print a completion script for a shell.
    Completions(CompletionsArguments),
    /// Print the manual page, or write a page of every command.
    Man(man::ManArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArguments {
    /// The shell.
    shell: Shell,
}

impl CompletionsArguments {
    pub(crate) fn print(&self, screen: &Screen) -> Result<(), CliError> {
        let mut script = Vec::new();
        let mut command = Arguments::command();
        clap_complete::generate(self.shell, &mut command, "casemate", &mut script);
        screen.write_raw(&script)
    }
}

pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text)?;
    if timeout.is_zero() {
        return Err("must be longer than nothing".to_owned());
    }
    Ok(timeout)
}

/// `90s`, `1h30m`, `2 days`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; wanted is a time such as 90s or 1h30m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn times_have_units() {
        for (text, seconds) in [("90s", 90), ("1h30m", 5400), ("2days", 172_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "90", "1 fortnight", "-1s"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(timeout("0s").is_err());
    }
}
