//! `casemate`: the command line client of `casemated`.
//!
//! It decides nothing, and keeps nothing but names of hosts ([`contexts`]). It turns arguments into
//! calls of the gRPC API (`casemate.v1`), waits, and shows the answer as text for people, or as JSON
//! or YAML for programs; what is in that is documented in [`json`].
//!
//! Whatever comes from the daemon, and most of all what a guest wrote on its console, is text from
//! outside: it does not reach a terminal before control characters are taken out ([`plain_text`]).
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Output, Verb};
use client::Client;
use connection::Connection;
use contexts::ContextsFile;
use error::CliError;
use screen::Screen;

mod arguments;
mod backend;
mod byte_size;
mod client;
mod config;
mod connection;
mod context;
mod contexts;
mod doctor;
mod error;
mod findings;
mod interrupt;
mod json;
mod man;
mod measure;
mod plain_text;
mod plan;
mod refusal;
mod resolve;
mod screen;
mod spec;
mod vm;
mod waiting;
mod yaml;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let screen = Screen::of_this_process(arguments.format.format());
    match run(arguments, &screen) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the output has seen enough (`casemate vm list | head -1`).
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Nobody is left to be told if standard error cannot be written.
            let _ = std::io::stderr().write_all(screen.error_report(&error).as_bytes());
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(arguments: Arguments, screen: &Screen) -> Result<(), CliError> {
    if matches!(arguments.format, Output::Corim | Output::Trustee)
        && !arguments.verb.renders_policies()
    {
        return Err(CliError::NoPolicy);
    }
    let Arguments {
        connection,
        format,
        timeout,
        verb,
    } = arguments;
    let client = || {
        let contexts = ContextsFile::of_this_user().read()?;
        let connection = Connection::resolve(&connection, &connection::variable, &contexts)?;
        Client::new(&connection, timeout)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    runtime.block_on(async {
        match verb {
            Verb::Vm(verb) => vm::run(verb, format, client()?, screen).await,
            Verb::Backend(verb) => backend::run(verb, client, timeout, screen).await,
            Verb::Plan(plan) => plan::run(&plan, client()?, screen).await,
            Verb::Measure(wanted) => measure::run(*wanted, format, screen).await,
            Verb::Config(config::ConfigVerb::Explain(explain)) => {
                config::explain(&explain, client()?, screen).await
            }
            Verb::Config(config::ConfigVerb::Default) => config::print_default(screen),
            Verb::Doctor(arguments) => doctor::run(arguments, client()?, screen).await,
            Verb::Context(verb) => context::run(&verb, &connection, screen),
            Verb::Completions(completions) => completions.print(screen),
            Verb::Man(man) => man.write(screen),
        }
    })
}
