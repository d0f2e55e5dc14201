//! Ctrl-C: the ordinary end of a verb that has no other, and of one that leaves something behind,
//! which it says.
//!
//! The rest of the verbs have the system's own way, by which a signal ends them.

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{CliError, Left};

/// What a shell gives for a program that SIGINT ended.
const EXIT_INTERRUPTED: i32 = 130;

/// From now on Ctrl-C ends the program with 130. It does so from a thread of its own, because the
/// main one may wait for a reader that has stopped to read.
pub(crate) fn ends_the_program() -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(CliError::Runtime)?;
    let entered = runtime.enter();
    let mut interrupts = signal(SignalKind::interrupt()).map_err(CliError::Runtime)?;
    drop(entered);
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || {
            if runtime.block_on(interrupts.recv()).is_some() {
                #[expect(clippy::exit, reason = "nothing is left to be done or dropped")]
                std::process::exit(EXIT_INTERRUPTED);
            }
        })
        .map_err(CliError::Runtime)?;
    Ok(())
}

/// The work, or what it leaves where Ctrl-C comes first.
pub(crate) async fn or_left<Answer>(
    left: Left,
    work: impl Future<Output = Result<Answer, CliError>>,
) -> Result<Answer, CliError> {
    tokio::select! {
        biased;
        answer = work => answer,
        Ok(()) = tokio::signal::ctrl_c() => Err(CliError::Interrupted { left }),
    }
}
