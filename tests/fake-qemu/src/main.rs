//! A process that behaves like QEMU at the edges the daemon uses.
//!
//! It stands in where the real one cannot show what a test asks about: fifty machines at once, or
//! a death at a chosen step of a launch. It understands the few options that matter (monitor,
//! console, name, UUID, machine, accelerator, user network, `-S`) and ignores all others, and it
//! speaks QMP on the socket that it was given. There is no guest behind it.
//!
//! The daemon clears the environment of what it starts, so a test talks to this program through
//! files beside the path it is started by: `fake-qemu.script` (see [`script`]) says where to
//! misbehave, and `fake-qemu.starts` (see [`starts`]) collects what was started and how.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "QEMU's output and its death are what this program imitates"
)]

use std::io::BufReader;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

use console::Console;
use descriptors::Sets;
use guest::{Cue, Guest, RunState};
use options::Options;
use qmp::{Monitor, Session};
use script::{OnReconnect, Reached, Script, Stage};
use wire::Wire;

mod console;
mod descriptors;
mod guest;
mod machine;
mod options;
mod qmp;
mod schema;
mod script;
mod starts;
mod types;
mod usernet;
mod wire;

fn main() -> ExitCode {
    let argv: Vec<String> = std::env::args().collect();
    if argv.iter().any(|argument| argument == "--version") {
        println!("QEMU emulator version 10.0.2 (fake)");
        println!("Copyright (c) nobody");
        return ExitCode::SUCCESS;
    }
    match run(&argv) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("fake-qemu: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(argv: &[String]) -> Result<(), String> {
    let folder = folder_of_this_program(argv)?;
    let options = Options::parse(argv.get(1..).unwrap_or_default())?;
    starts::record(&folder, argv, &options);
    let script = Script::beside(&folder)?;
    let script = if options.is_probe() {
        script.for_probe()
    } else {
        script
    };

    let wire = Arc::new(Wire::default());
    let state = if options.starts_stopped {
        RunState::Prelaunch
    } else {
        RunState::Running
    };
    let guest = Arc::new(Guest::new(state, options.actions, Arc::clone(&wire)));
    listen_to_signals(&script, &guest)?;
    if script.reach(Stage::Start) == Reached::CloseMonitor {
        // There never is one.
        script::hang();
    }

    let sets = Sets::of(&options.descriptors)?;
    let console = match &options.console {
        Some(console) => Console::open(console, &sets, &options.name)?,
        None => Console::none(),
    };
    let mut monitor = Monitor {
        machine: machine::Machine::new(&options, sets)?,
        guest,
        console,
        refusals_left: script.refused_forwards(),
        script,
        wire,
    };
    if state == RunState::Running {
        monitor.console.begin(monitor.script.console());
    }

    match &options.monitor {
        options::Monitor::Stdio => {
            monitor.wire.connect_stdio();
            // QEMU itself outlives its standard input. A fake that did the same would outlive a
            // test that broke off.
            Session::new(&mut monitor).serve(std::io::stdin());
            Ok(())
        }
        options::Monitor::Descriptor(number) => {
            serve(descriptors::listener(*number)?, &mut monitor)
        }
        options::Monitor::Path(path) => {
            let listener = UnixListener::bind(path)
                .map_err(|error| format!("cannot listen on {}: {error}", path.display()))?;
            serve(listener, &mut monitor)
        }
        options::Monitor::None => script::hang(),
    }
}

/// One client at a time, as QEMU's own socket: the next one waits in the queue until this one
/// hangs up, and is greeted anew then.
fn serve(listener: UnixListener, monitor: &mut Monitor) -> Result<(), String> {
    // The flag belongs to the socket, and whoever made it may have set it.
    listener
        .set_nonblocking(false)
        .map_err(|error| format!("cannot use the monitor's socket: {error}"))?;
    let mut kept = Vec::new();
    let mut greeted_before = false;
    loop {
        let (stream, _) = listener
            .accept()
            .map_err(|error| format!("cannot accept on the monitor's socket: {error}"))?;
        match monitor.script.on_reconnect() {
            OnReconnect::HangUp if greeted_before => continue,
            OnReconnect::Silent if greeted_before => {
                kept.push(stream);
                continue;
            }
            _ => {}
        }
        let Ok(writer) = stream.try_clone() else {
            continue;
        };
        monitor.wire.connect(writer);
        Session::new(monitor).serve(BufReader::new(stream));
        monitor.wire.disconnect();
        greeted_before = true;
        if monitor.script.on_reconnect() == OnReconnect::Refuse {
            break;
        }
    }
    // Whoever passed the socket may hold it still, and then a client waits in vain.
    drop(listener);
    script::hang();
}

/// The path it was started by, and not the file behind it, so that a link gives each test its own
/// folder.
fn folder_of_this_program(argv: &[String]) -> Result<PathBuf, String> {
    let called = argv
        .first()
        .map(PathBuf::from)
        .filter(|path| path.components().count() > 1);
    let program = match called {
        Some(path) => path,
        None => std::env::current_exe()
            .map_err(|error| format!("cannot find its own executable: {error}"))?,
    };
    Ok(program.parent().unwrap_or(Path::new("/")).to_path_buf())
}

/// QEMU's own signals, and those by which a test tells the guest what to do.
fn listen_to_signals(script: &Script, guest: &Arc<Guest>) -> Result<(), String> {
    let wanted = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGALRM];
    let mut signals = signal_hook::iterator::Signals::new(wanted)
        .map_err(|error| format!("cannot handle signals: {error}"))?;
    let ignored = script.ignores("sigterm");
    let guest = Arc::clone(guest);
    thread::spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGUSR1 => guest.cue(Cue::ShutDown),
                SIGUSR2 => guest.cue(Cue::Panic),
                SIGALRM => guest.cue(Cue::Reset),
                _ if ignored => {}
                signal => {
                    eprintln!("fake-qemu: terminating on signal {signal}");
                    guest.end_by_signal();
                }
            }
        }
    });
    Ok(())
}
