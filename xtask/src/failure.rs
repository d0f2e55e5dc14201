//! How a failed chore is told to a person: the step, the cause, the remedy.

use std::process::ExitCode;

use crate::interrupt::Interrupted;

/// As shells report a program that ended by SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

/// A step that failed, with what the person at the terminal can do about it.
#[derive(Debug, thiserror::Error)]
#[error("{step} failed")]
pub struct StepFailed {
    pub step: String,
    pub remedy: String,
    #[source]
    pub cause: anyhow::Error,
}

/// Names the step that an error belongs to.
pub trait InStep<T> {
    fn in_step(self, step: &str, remedy: &str) -> anyhow::Result<T>;
}

impl<T> InStep<T> for anyhow::Result<T> {
    fn in_step(self, step: &str, remedy: &str) -> anyhow::Result<T> {
        self.map_err(|cause| {
            if cause.is::<StepFailed>() {
                return cause;
            }
            anyhow::Error::new(StepFailed {
                step: step.to_owned(),
                remedy: remedy.to_owned(),
                cause,
            })
        })
    }
}

/// Prints why a chore ended early and returns the exit code that says the same.
pub fn explain(error: &anyhow::Error) -> ExitCode {
    if is_interrupted(error) {
        eprintln!("interrupted; nothing was left running");
        return ExitCode::from(EXIT_INTERRUPTED);
    }
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {}", cause.to_string().replace('\n', "\n  "));
    }
    if let Some(failed) = error.downcast_ref::<StepFailed>() {
        eprintln!("  try: {}", failed.remedy);
    }
    ExitCode::FAILURE
}

fn is_interrupted(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<Interrupted>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn an_interruption_is_seen_through_every_layer() {
        let error = Err::<(), _>(anyhow::Error::new(Interrupted))
            .context("waiting for the agent")
            .in_step("demo", "run it again")
            .expect_err("it was an error before");
        assert!(is_interrupted(&error));
    }

    #[test]
    fn the_innermost_step_keeps_its_name() {
        let error = Err::<(), _>(anyhow::anyhow!("no disk"))
            .in_step("inner", "a")
            .in_step("outer", "b")
            .expect_err("it was an error before");
        assert_eq!(error.to_string(), "inner failed");
    }
}
