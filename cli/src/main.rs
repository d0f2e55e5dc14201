//! `casemate`: the command line client of `casemated`.
//!
//! It holds no state and decides nothing. It turns arguments into one call of the gRPC API
//! (`casemate.v1`), waits, and shows the answer as text for people or as JSON for programs; the
//! JSON's fields are documented in [`json`].
//!
//! Whatever comes from the daemon, and most of all what a guest wrote on its console, is text from
//! outside: it does not reach a terminal before control characters are taken out ([`plain_text`]).
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Output, Verb};
use client::Client;
use error::CliError;
use screen::Screen;

mod arguments;
mod backend;
mod byte_size;
mod client;
mod config;
mod doctor;
mod error;
mod findings;
mod interrupt;
mod json;
mod measure;
mod plain_text;
mod plan;
mod refusal;
mod resolve;
mod screen;
mod spec;
mod vm;
mod waiting;

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
    if let Verb::Completions(completions) = &arguments.verb {
        return completions.print(screen);
    }
    if let Verb::Config(config::ConfigVerb::Default) = &arguments.verb {
        return config::print_default(screen);
    }
    if matches!(arguments.format, Output::Corim | Output::Trustee)
        && !arguments.verb.renders_policies()
    {
        return Err(CliError::NoPolicy);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    runtime.block_on(async {
        let client = Client::new(&arguments.endpoint, arguments.timeout)?;
        match arguments.verb {
            Verb::Vm(verb) => vm::run(verb, arguments.format, client, screen).await,
            Verb::Backend(verb) => backend::run(verb, client, screen).await,
            Verb::Plan(plan) => plan::run(&plan, client, screen).await,
            Verb::Measure(wanted) => measure::run(*wanted, arguments.format, screen).await,
            Verb::Config(config::ConfigVerb::Explain(explain)) => {
                config::explain(&explain, client, screen).await
            }
            Verb::Doctor(arguments) => doctor::run(arguments, client, screen).await,
            // Answered above, without a runtime.
            Verb::Completions(_) | Verb::Config(config::ConfigVerb::Default) => Ok(()),
        }
    })
}
