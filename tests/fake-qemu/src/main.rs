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
    clippy::exit,
    reason = "QEMU's output and its death are what this program imitates"
)]

use std::io::{BufReader, Write};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, exit};
use std::sync::Arc;
use std::thread;

use options::{Monitor, Options};
use qmp::{Session, Wire};
use script::{Script, Stage};

mod machine;
mod options;
mod qmp;
mod schema;
mod script;
mod starts;
mod types;
mod usernet;

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
    end_on_sigterm(&script, &wire)?;
    script.reach(Stage::Start);

    if let Some(path) = &options.console {
        write_console(path, &options.name)?;
    }
    let mut machine = machine::Machine::new(&options)?;

    match &options.monitor {
        Monitor::Stdio => {
            wire.connect(Box::new(std::io::stdout()));
            // QEMU itself outlives its standard input. A fake that did the same would outlive a
            // test that broke off.
            Session::new(&mut machine, &script, &wire).serve(std::io::stdin());
            Ok(())
        }
        Monitor::Descriptor(number) => serve(&listener_of(*number)?, machine, &script, &wire),
        Monitor::Path(path) => {
            let listener = UnixListener::bind(path)
                .map_err(|error| format!("cannot listen on {}: {error}", path.display()))?;
            serve(&listener, machine, &script, &wire)
        }
        Monitor::None => loop {
            thread::park();
        },
    }
}

/// One client at a time, as QEMU's own socket: the next one waits in the queue until this one
/// hangs up.
fn serve(
    listener: &UnixListener,
    mut machine: machine::Machine,
    script: &Script,
    wire: &Arc<Wire>,
) -> Result<(), String> {
    // The flag belongs to the socket, and whoever made it may have set it.
    listener
        .set_nonblocking(false)
        .map_err(|error| format!("cannot use the monitor's socket: {error}"))?;
    loop {
        let (stream, _) = listener
            .accept()
            .map_err(|error| format!("cannot accept on the monitor's socket: {error}"))?;
        let Ok(writer) = stream.try_clone() else {
            continue;
        };
        wire.connect(Box::new(writer));
        Session::new(&mut machine, script, wire).serve(BufReader::new(stream));
        wire.disconnect();
    }
}

fn listener_of(number: i32) -> Result<UnixListener, String> {
    let link = format!("/proc/self/fd/{number}");
    if number <= 2 || Path::new(&link).symlink_metadata().is_err() {
        return Err(format!(
            "-chardev socket: {number} is not a descriptor that was passed"
        ));
    }
    // SAFETY: the descriptor is open, it is none of the standard streams, and nothing else in this
    // program has opened a descriptor that lives up to here.
    Ok(unsafe { UnixListener::from_raw_fd(number) })
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

fn write_console(path: &Path, name: &str) -> Result<(), String> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| writeln!(file, "fake console of {name}"))
        .map_err(|error| format!("cannot open console {}: {error}", path.display()))
}

fn end_on_sigterm(script: &Script, wire: &Arc<Wire>) -> Result<(), String> {
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM])
        .map_err(|error| format!("cannot handle SIGTERM: {error}"))?;
    let ignored = script.ignores("sigterm");
    let wire = Arc::clone(wire);
    thread::spawn(move || {
        for _ in signals.forever() {
            if ignored {
                continue;
            }
            wire.send(&qmp::shutdown_event(qmp::ShutdownCause::HostSignal));
            exit(0);
        }
    });
    Ok(())
}
