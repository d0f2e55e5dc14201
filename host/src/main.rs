//! `casemated`: the life of the daemon, and nothing else.

use std::path::PathBuf;
use std::process::ExitCode;

use casemate_host::app::App;
use casemate_host::backend::catalog::chain;
use casemate_host::config::Config;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// A wrong config file, as in sysexits(3).
const EX_CONFIG: u8 = 78;

/// Runs confidential virtual machines.
#[derive(Debug, Parser)]
#[command(name = "casemated", version)]
#[command(
    after_help = "Exit codes: 0 ended by a signal, 1 failed, 2 usage, 78 config file.\n\
                        Logs go to standard error; what they show is set with `log` in the config file."
)]
struct Arguments {
    /// Config file (TOML).
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/casemate/casemate.toml"
    )]
    config: PathBuf,
    /// Check the config file and exit.
    #[arg(long)]
    check_config: bool,
}

#[expect(clippy::print_stderr, reason = "before there is a log")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("casemated: {}", chain(&error));
            return ExitCode::from(EX_CONFIG);
        }
    };
    if arguments.check_config {
        return ExitCode::SUCCESS;
    }
    if let Err(error) = init_log(&config.log) {
        eprintln!("casemated: `log` is {:?}: {error}", config.log);
        return ExitCode::from(EX_CONFIG);
    }
    forbid_core_dumps();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    let served = runtime.block_on(serve(config));
    // A blocking call that hangs must not hold the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: Config) -> Result<(), String> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| error.to_string())?;
    let stop = async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => return,
                _ = terminate.recv() => return,
                // A terminal that closes must not end the VMs.
                _ = hangup.recv() => tracing::warn!("SIGHUP: the config file is not reloaded yet; restart casemated"),
            }
        }
    };
    let app = App::build(config).await.map_err(|error| chain(&error))?;
    app.run(stop).await.map_err(|error| chain(&error))
}

fn init_log(filter: &str) -> Result<(), String> {
    use std::io::IsTerminal as _;
    let filter =
        tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|error| error.to_string())
}

/// Secrets are in memory. QEMU inherits the limit; a core that the kernel pipes to a program does
/// not ask for it, which is why this process is made not dumpable as well (core(5)).
fn forbid_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core dumps stay possible");
    }
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps stay possible");
    }
}
