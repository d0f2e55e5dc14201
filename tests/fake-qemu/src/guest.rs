//! The guest that is not there: whether it runs, what ends it, and what the machine does then.
//!
//! Order of events and answers is QEMU's, held against the real one by `tests/against_qemu.rs`.

use std::collections::VecDeque;
use std::process::exit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use crate::wire::Wire;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunState {
    Prelaunch,
    Running,
    Paused,
    Shutdown,
    Panicked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnReboot {
    Reset,
    ShutDown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnShutdown {
    PowerOff,
    Pause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnPanic {
    Pause,
    ShutDown,
    ExitFailure,
    Run,
}

/// What `-no-reboot`, `-no-shutdown`, `-action` and `set-action` say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Actions {
    pub(crate) reboot: OnReboot,
    pub(crate) shutdown: OnShutdown,
    pub(crate) panic: OnPanic,
}

impl Default for Actions {
    fn default() -> Self {
        Self {
            reboot: OnReboot::Reset,
            shutdown: OnShutdown::PowerOff,
            panic: OnPanic::ShutDown,
        }
    }
}

const WATCHDOG_ACTIONS: [&str; 7] = [
    "reset",
    "shutdown",
    "poweroff",
    "pause",
    "debug",
    "none",
    "inject-nmi",
];

impl Actions {
    /// The words of a failure are QEMU's.
    pub(crate) fn set(&mut self, occasion: &str, action: &str) -> Result<(), String> {
        match (occasion, action) {
            ("reboot", "reset") => self.reboot = OnReboot::Reset,
            ("reboot", "shutdown") => self.reboot = OnReboot::ShutDown,
            ("shutdown", "poweroff") => self.shutdown = OnShutdown::PowerOff,
            ("shutdown", "pause") => self.shutdown = OnShutdown::Pause,
            ("panic", "pause") => self.panic = OnPanic::Pause,
            ("panic", "shutdown") => self.panic = OnPanic::ShutDown,
            ("panic", "exit-failure") => self.panic = OnPanic::ExitFailure,
            ("panic", "none") => self.panic = OnPanic::Run,
            // There is no watchdog here that could bite.
            ("watchdog", action) if WATCHDOG_ACTIONS.contains(&action) => {}
            ("reboot" | "shutdown" | "panic" | "watchdog", _) => {
                return Err(format!(
                    "Parameter '{occasion}' does not accept value '{action}'"
                ));
            }
            _ => return Err(format!("Parameter '{occasion}' is unexpected")),
        }
        Ok(())
    }
}

/// What a guest does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cue {
    ShutDown,
    Panic,
    Reset,
}

/// What to do once the answer is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Afterwards {
    Nothing,
    /// The guest runs for the first time.
    Started,
    /// The guest runs again.
    Resumed,
    /// The guest was told of its power button.
    PowerButton,
    Exit(i32),
}

#[derive(Debug)]
struct Inner {
    state: RunState,
    has_run: bool,
    actions: Actions,
    /// A guest that does not run does nothing; it comes to these when it does.
    cues: VecDeque<Cue>,
}

#[derive(Debug)]
pub(crate) struct Guest {
    inner: Mutex<Inner>,
    wire: Arc<Wire>,
}

impl Guest {
    pub(crate) fn new(state: RunState, actions: Actions, wire: Arc<Wire>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                state,
                has_run: state == RunState::Running,
                actions,
                cues: VecDeque::new(),
            }),
            wire,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> RunState {
        self.lock().state
    }

    pub(crate) fn has_run(&self) -> bool {
        self.lock().has_run
    }

    pub(crate) fn cont(&self) -> Result<Afterwards, String> {
        let mut inner = self.lock();
        match inner.state {
            RunState::Running => Ok(Afterwards::Nothing),
            RunState::Shutdown => Err("Resetting the Virtual Machine is required".to_owned()),
            RunState::Prelaunch | RunState::Paused | RunState::Panicked => {
                inner.state = RunState::Running;
                self.wire.event("RESUME");
                let first = !std::mem::replace(&mut inner.has_run, true);
                Ok(if first {
                    Afterwards::Started
                } else {
                    Afterwards::Resumed
                })
            }
        }
    }

    pub(crate) fn stop(&self) {
        self.halt(&mut self.lock(), RunState::Paused);
    }

    /// Only a running machine stops.
    fn halt(&self, inner: &mut Inner, state: RunState) {
        if inner.state == RunState::Running {
            inner.state = state;
            self.wire.event("STOP");
        }
    }

    pub(crate) fn reset(&self) -> Afterwards {
        let exit = self.reset_because(&mut self.lock(), "host-qmp-system-reset", Cause::Host);
        exit.map_or(Afterwards::Nothing, Afterwards::Exit)
    }

    fn reset_because(&self, inner: &mut Inner, reason: &str, cause: Cause) -> Option<i32> {
        if inner.actions.reboot == OnReboot::ShutDown {
            return self.shut_down_because(inner, reason, cause, 0);
        }
        self.wire.event_with("RESET", cause.data(reason));
        if inner.state != RunState::Running {
            inner.state = RunState::Prelaunch;
        }
        None
    }

    /// The exit code of a machine that ends.
    fn shut_down_because(
        &self,
        inner: &mut Inner,
        reason: &str,
        cause: Cause,
        code: i32,
    ) -> Option<i32> {
        self.wire.event_with("SHUTDOWN", cause.data(reason));
        match inner.actions.shutdown {
            OnShutdown::PowerOff => Some(code),
            OnShutdown::Pause => {
                self.halt(inner, RunState::Shutdown);
                None
            }
        }
    }

    /// A guest that has not run yet has nobody who looks at the button.
    pub(crate) fn press_power_button(&self) -> Afterwards {
        self.wire.event("POWERDOWN");
        if self.has_run() {
            Afterwards::PowerButton
        } else {
            Afterwards::Nothing
        }
    }

    pub(crate) fn quit(&self) -> Afterwards {
        self.wire
            .event_with("SHUTDOWN", Cause::Host.data("host-qmp-quit"));
        Afterwards::Exit(0)
    }

    /// SIGTERM and its like: ends the process whatever `set-action` said.
    pub(crate) fn end_by_signal(&self) -> ! {
        self.wire
            .event_with("SHUTDOWN", Cause::Host.data("host-signal"));
        exit(0);
    }

    /// The guest does this now, or when it runs.
    pub(crate) fn cue(&self, cue: Cue) {
        self.lock().cues.push_back(cue);
        self.play_cues();
    }

    pub(crate) fn play_cues(&self) {
        let mut inner = self.lock();
        while inner.state == RunState::Running {
            let Some(cue) = inner.cues.pop_front() else {
                return;
            };
            if let Some(code) = self.play(&mut inner, cue) {
                exit(code);
            }
        }
    }

    fn play(&self, inner: &mut Inner, cue: Cue) -> Option<i32> {
        match cue {
            Cue::ShutDown => self.shut_down_because(inner, "guest-shutdown", Cause::Guest, 0),
            Cue::Reset => self.reset_because(inner, "guest-reset", Cause::Guest),
            Cue::Panic => {
                let (action, code) = match (inner.actions.panic, inner.actions.shutdown) {
                    (OnPanic::Pause, _) | (OnPanic::ShutDown, OnShutdown::Pause) => ("pause", None),
                    (OnPanic::ShutDown, OnShutdown::PowerOff) => ("poweroff", Some(0)),
                    (OnPanic::ExitFailure, _) => ("poweroff", Some(1)),
                    (OnPanic::Run, _) => ("run", None),
                };
                self.wire
                    .event_with("GUEST_PANICKED", json!({"action": action}));
                if action == "pause" {
                    self.halt(inner, RunState::Panicked);
                }
                self.shut_down_because(inner, "guest-panic", Cause::Guest, code?)
            }
        }
    }

    pub(crate) fn set_actions(&self, arguments: &Value) -> Result<(), String> {
        let mut inner = self.lock();
        // All or nothing, as QEMU's parser does it.
        let mut actions = inner.actions;
        for (occasion, action) in arguments.as_object().into_iter().flatten() {
            let action = action.as_str().ok_or_else(|| {
                format!("Invalid parameter type for '{occasion}', expected: string")
            })?;
            actions.set(occasion, action)?;
        }
        inner.actions = actions;
        Ok(())
    }
}

/// Who wanted it: `guest` in the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Guest,
    Host,
}

impl Cause {
    fn data(self, reason: &str) -> Value {
        json!({"guest": self == Self::Guest, "reason": reason})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(actions: Actions) -> Guest {
        Guest::new(RunState::Prelaunch, actions, Arc::new(Wire::default()))
    }

    #[test]
    fn a_machine_that_is_shut_down_wants_a_reset() {
        let guest = guest(Actions {
            shutdown: OnShutdown::Pause,
            ..Actions::default()
        });
        assert_eq!(guest.cont(), Ok(Afterwards::Started));
        guest.cue(Cue::ShutDown);
        assert_eq!(guest.state(), RunState::Shutdown);
        assert!(guest.cont().is_err());
        assert_eq!(guest.reset(), Afterwards::Nothing);
        assert_eq!(guest.state(), RunState::Prelaunch);
        assert_eq!(guest.cont(), Ok(Afterwards::Resumed));
    }

    #[test]
    fn what_a_guest_does_waits_until_it_runs() {
        let guest = guest(Actions {
            panic: OnPanic::Pause,
            ..Actions::default()
        });
        guest.cue(Cue::Panic);
        assert_eq!(guest.state(), RunState::Prelaunch);
        assert_eq!(guest.cont(), Ok(Afterwards::Started));
        guest.play_cues();
        assert_eq!(guest.state(), RunState::Panicked);
        assert_eq!(guest.cont(), Ok(Afterwards::Resumed));
    }

    #[test]
    fn a_reset_ends_a_machine_that_is_not_to_reboot() {
        let guest = guest(Actions {
            reboot: OnReboot::ShutDown,
            ..Actions::default()
        });
        assert_eq!(guest.reset(), Afterwards::Exit(0));
        guest.set_actions(&json!({"reboot": "reset"})).unwrap();
        assert_eq!(guest.reset(), Afterwards::Nothing);
    }

    #[test]
    fn actions_that_qemu_does_not_know_are_refused() {
        for (arguments, refused) in [
            (json!({"reboot": "shutdown"}), false),
            (json!({"panic": "pause", "shutdown": "pause"}), false),
            (json!({"watchdog": "inject-nmi"}), false),
            (json!({}), false),
            (json!({"reboot": "poweroff"}), true),
            (json!({"watchdog": "bark"}), true),
            (json!({"start": "none"}), true),
            (json!({"reboot": 1}), true),
        ] {
            let outcome = guest(Actions::default()).set_actions(&arguments);
            assert_eq!(outcome.is_err(), refused, "{arguments}");
        }
    }
}
