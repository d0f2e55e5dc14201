//! `casemated`: the life of the daemon, and nothing else.

use std::path::PathBuf;
use std::process::ExitCode;

use casemate_host::app::notify::Notifier;
use casemate_host::app::{self, App, BuildError, LogFilter, RunError};
use casemate_host::config::{ConfigErrors, ConfigFile, Inputs, Loaded, environment, explain};
use casemate_host::vm::catalogued::Catalogued;
use casemate_host::vm::reloading::Reloads;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Where the config file lies unless somebody names it.
const USUAL_FILE: &str = "/etc/casemate/casemate.toml";

/// Runs confidential virtual machines.
#[derive(Debug, Parser)]
#[command(name = "casemated", version)]
#[command(
    after_help = "Exit codes: 0 ended by a signal, 1 failed, 2 usage, 78 config.\n\
                        SIGHUP reads the config anew. Logs go to standard error; `log` in the config says what.\n\
                        Variables CASEMATE_… and MANAGER_… set keys too: docs/configuration.md lists them."
)]
struct Arguments {
    /// Config file (TOML); else that of CASEMATE_CONFIG, else /etc/casemate/casemate.toml if it is there.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set a key of the config; stronger than variables and the file.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Check config, backends and files, say what is wrong, and exit.
    #[arg(long, conflicts_with = "explain_config")]
    check_config: bool,
    /// Print every value that a start would use, with its source, and exit.
    #[arg(long)]
    explain_config: bool,
}

impl Arguments {
    fn into_inputs(self) -> Inputs {
        let file = match self.config.or_else(environment::config_file) {
            Some(path) => ConfigFile::Named(path),
            None => ConfigFile::Usual(PathBuf::from(USUAL_FILE)),
        };
        Inputs {
            file,
            flags: self.set,
            environment: environment::of_this_process(),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (check, explain) = (arguments.check_config, arguments.explain_config);
    let inputs = arguments.into_inputs();
    let loaded = match inputs.load() {
        Ok(loaded) => loaded,
        Err(errors) => return refuse_config(&errors),
    };
    if explain {
        return print_explanation(&loaded);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(source) => {
            return fail(&BuildError::Process {
                what: "a runtime",
                source,
            });
        }
    };
    if check {
        return runtime.block_on(check_config(&loaded));
    }
    let log = match init_log(&loaded.config.log) {
        Ok(log) => log,
        Err(error) => {
            return fail(&BuildError::Process {
                what: "a log",
                source: std::io::Error::other(error),
            });
        }
    };
    forbid_core_dumps();
    #[cfg(debug_assertions)]
    if let Some(text) = environment::failpoint()
        && !casemate_host::failpoint::arm(&text)
    {
        tracing::warn!(text, "no failpoint; it is NAME:COUNT");
    }
    let served = runtime.block_on(serve(inputs, loaded, log));
    // A blocking call that hangs must not hold the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(ServeError::Build(error)) => fail(&error),
        Err(ServeError::Run(error)) => fail(&error),
    }
}

/// The last words of a daemon that does not serve, for whoever started it.
#[expect(clippy::print_stderr, reason = "where the log goes too")]
fn fail(error: &impl Catalogued) -> ExitCode {
    eprintln!("casemated: {}", error.report());
    exit_code(error)
}

#[expect(clippy::print_stderr, reason = "before there is a log")]
fn refuse_config(errors: &ConfigErrors) -> ExitCode {
    for error in &errors.0 {
        eprintln!("casemated: {}", error.report());
    }
    // They differ in what is wrong, and not in what that means for who started the program.
    errors.0.first().map_or(ExitCode::FAILURE, exit_code)
}

fn exit_code(error: &impl Catalogued) -> ExitCode {
    ExitCode::from(error.id().entry().exit_code().unwrap_or(1))
}

#[expect(clippy::print_stdout, reason = "what the flag asks for")]
fn print_explanation(loaded: &Loaded) -> ExitCode {
    let rows = explain::rows(&loaded.effective, &loaded.config, &[]);
    print!("{}", explain::text(&rows));
    ExitCode::SUCCESS
}

/// A start would succeed, so the exit code says so; what would not work is printed.
#[expect(clippy::print_stderr, reason = "what the flag asks for")]
async fn check_config(loaded: &Loaded) -> ExitCode {
    match app::check(loaded).await {
        Ok(problems) => {
            for problem in problems {
                eprintln!("casemated: warning: {problem}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

enum ServeError {
    Build(BuildError),
    Run(RunError),
}

async fn serve(inputs: Inputs, loaded: Loaded, log: LogFilter) -> Result<(), ServeError> {
    let listen = |kind| {
        signal(kind).map_err(|source| {
            ServeError::Build(BuildError::Process {
                what: "a signal handler",
                source,
            })
        })
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let (reloads, queue) = Reloads::new();
    let signalled = reloads.clone();
    let stop = async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => return,
                _ = terminate.recv() => return,
                _ = hangup.recv() => signalled.signal(),
            }
        }
    };
    let app = App::build(inputs, loaded, log, reloads)
        .await
        .map_err(ServeError::Build)?;
    let notifier = Notifier::new(&environment::service_manager());
    app.run(stop, queue, notifier)
        .await
        .map_err(ServeError::Run)
}

fn init_log(filter: &str) -> Result<LogFilter, String> {
    use std::io::IsTerminal as _;
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    let (filter, handle) = tracing_subscriber::reload::Layer::new(filter);
    tracing_subscriber::registry()
        .with(filter)
        .with(
            tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(std::io::stderr().is_terminal()),
        )
        .try_init()
        .map_err(|error| error.to_string())?;
    Ok(LogFilter::new(move |filter| {
        let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
        handle.reload(filter).map_err(|error| error.to_string())
    }))
}

/// The limit by which no core is written: a piped one ignores 0 and honours 1 (core(5)).
const NO_CORE: u64 = 1;

/// Secrets are in memory.
fn forbid_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core dumps stay possible");
    }
    let none = Rlimit {
        current: Some(NO_CORE),
        maximum: Some(NO_CORE),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "core dumps stay possible");
    }
}
