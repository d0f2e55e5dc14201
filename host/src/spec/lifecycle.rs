//! What may be asked of a VM in which state: the whole table, as pure data.
//!
//! Two layers: what is *desired* of a VM, which is kept, and the phase that is *observed*. A user's
//! stop changes the desire first, so that no restart policy revives what somebody stopped.

use serde::{Deserialize, Serialize};

use super::plan::Ability;

/// What a VM is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Desired {
    Running,
    Stopped,
    Absent,
}

/// What a VM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Planned and prepared; nothing runs yet.
    Creating,
    /// QEMU is there, the guest is not.
    Starting,
    /// QEMU said so over QMP.
    Running,
    Paused,
    /// Power button, quit, signals.
    Stopping,
    /// Down because somebody asked for it.
    Stopped,
    /// QEMU ended by itself.
    Exited,
    /// It could not be started again.
    Failed,
    /// QEMU is there and does not answer.
    Unresponsive,
    /// Its process cannot be proven to be this VM's.
    Lost,
    /// Its process is gone, or going; its files are being deleted.
    Removing,
}

impl Phase {
    pub const ALL: [Self; 11] = [
        Self::Creating,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Stopped,
        Self::Exited,
        Self::Failed,
        Self::Unresponsive,
        Self::Lost,
        Self::Removing,
    ];

    /// Stable name for APIs, metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Exited => "exited",
            Self::Failed => "failed",
            Self::Unresponsive => "unresponsive",
            Self::Lost => "lost",
            Self::Removing => "removing",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Start,
    Stop,
    Restart,
    Pause,
    Resume,
    Reset,
    Remove,
    /// Sets when the VM is removed.
    ExtendTtl,
}

impl Action {
    pub const ALL: [Self; 8] = [
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Pause,
        Self::Resume,
        Self::Reset,
        Self::Remove,
        Self::ExtendTtl,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reset => "reset",
            Self::Remove => "remove",
            Self::ExtendTtl => "extend-ttl",
        }
    }

    /// What the plan has to allow.
    fn needs(self) -> Option<Ability> {
        match self {
            Self::Pause | Self::Resume => Some(Ability::Pause),
            Self::Reset => Some(Ability::Reset),
            Self::Start | Self::Stop | Self::Restart | Self::Remove | Self::ExtendTtl => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    /// It is so already, or on its way.
    Ignore,
    Deny(Denial),
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The plan does not allow it.
    Ability(Ability),
    /// Not in this phase.
    Phase(Phase),
}

/// The table.
pub fn decide(action: Action, phase: Phase, abilities: &[Ability]) -> Verdict {
    use Verdict::{Accept, Ignore};
    let denied = Verdict::Deny(Denial::Phase(phase));
    let verdict = match (action, phase) {
        // Nothing is done to what is not proven to be ours.
        (_, Phase::Lost) => return denied,
        (Action::Remove, Phase::Removing) => Ignore,
        (Action::Remove, _) => Accept,
        (_, Phase::Removing) => denied,
        // Whoever creates a VM is still waiting for it: it can only be given up.
        (_, Phase::Creating) => denied,
        (Action::ExtendTtl, _) => Accept,

        (Action::Start, Phase::Stopped | Phase::Exited | Phase::Failed) => Accept,
        (Action::Start, Phase::Running | Phase::Starting) => Ignore,
        (Action::Start, Phase::Paused | Phase::Stopping | Phase::Unresponsive) => denied,

        (Action::Stop, Phase::Stopped) => Ignore,
        // Down already, but perhaps about to be restarted.
        (Action::Stop, Phase::Exited | Phase::Failed) => Accept,
        (
            Action::Stop,
            Phase::Starting
            | Phase::Running
            | Phase::Paused
            | Phase::Unresponsive
            | Phase::Stopping,
        ) => Accept,

        (Action::Restart, Phase::Stopping | Phase::Starting) => denied,
        (
            Action::Restart,
            Phase::Running
            | Phase::Paused
            | Phase::Unresponsive
            | Phase::Stopped
            | Phase::Exited
            | Phase::Failed,
        ) => Accept,

        (Action::Pause, Phase::Running) | (Action::Resume, Phase::Paused) => Accept,
        (Action::Pause, Phase::Paused) | (Action::Resume, Phase::Running) => Ignore,
        (Action::Reset, Phase::Running) => Accept,
        (
            Action::Pause | Action::Resume | Action::Reset,
            Phase::Starting
            | Phase::Stopping
            | Phase::Stopped
            | Phase::Exited
            | Phase::Failed
            | Phase::Unresponsive,
        )
        | (Action::Reset, Phase::Paused) => denied,
    };
    match action.needs() {
        Some(ability) if verdict != denied && !abilities.contains(&ability) => {
            Verdict::Deny(Denial::Ability(ability))
        }
        _ => verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ABILITIES: [Ability; 3] = [Ability::Pause, Ability::Reset, Ability::Powerdown];

    /// What an accepted action leads to, when nothing goes wrong; none: to nothing else.
    fn outcome(action: Action) -> Option<Phase> {
        Some(match action {
            Action::Start | Action::Restart | Action::Resume | Action::Reset => Phase::Running,
            Action::Stop => Phase::Stopped,
            Action::Pause => Phase::Paused,
            Action::Remove => Phase::Removing,
            Action::ExtendTtl => return None,
        })
    }

    fn any_case() -> impl Strategy<Value = (Action, Phase, Vec<Ability>)> {
        (
            proptest::sample::select(&Action::ALL[..]),
            proptest::sample::select(&Phase::ALL[..]),
            proptest::sample::subsequence(ABILITIES.to_vec(), 0..=3),
        )
    }

    proptest! {
        #[test]
        fn what_was_done_is_never_an_error_the_second_time(
            (action, phase, abilities) in any_case()
        ) {
            let is_repeatable = matches!(
                action,
                Action::Start | Action::Stop | Action::Pause | Action::Resume | Action::Remove
            );
            if let Some(after) = outcome(action)
                && is_repeatable
                && decide(action, phase, &abilities) == Verdict::Accept
            {
                prop_assert_eq!(decide(action, after, &abilities), Verdict::Ignore);
            }
        }

        #[test]
        fn a_vm_can_always_be_removed_unless_it_is_lost(
            (_, phase, abilities) in any_case()
        ) {
            let is_denied = matches!(decide(Action::Remove, phase, &abilities), Verdict::Deny(_));
            prop_assert_eq!(is_denied, phase == Phase::Lost);
        }

        #[test]
        fn nothing_is_done_to_a_lost_vm_and_nothing_but_waiting_to_one_that_goes(
            (action, _, abilities) in any_case()
        ) {
            prop_assert_eq!(
                decide(action, Phase::Lost, &abilities),
                Verdict::Deny(Denial::Phase(Phase::Lost))
            );
            prop_assert_ne!(decide(action, Phase::Removing, &abilities), Verdict::Accept);
        }

        #[test]
        fn what_the_plan_does_not_allow_is_never_done((action, phase, abilities) in any_case()) {
            if let Some(ability) = action.needs()
                && !abilities.contains(&ability)
            {
                prop_assert!(matches!(decide(action, phase, &abilities), Verdict::Deny(_)));
            }
        }

        #[test]
        fn an_ability_only_ever_allows_more((action, phase, abilities) in any_case()) {
            if decide(action, phase, &abilities) == Verdict::Accept {
                prop_assert_eq!(decide(action, phase, &ABILITIES), Verdict::Accept);
            }
        }
    }

    #[test]
    fn a_vm_that_is_down_can_be_started_and_one_that_is_up_stopped() {
        for phase in [Phase::Stopped, Phase::Exited, Phase::Failed] {
            assert_eq!(decide(Action::Start, phase, &[]), Verdict::Accept);
        }
        for phase in [Phase::Running, Phase::Paused, Phase::Unresponsive] {
            assert_eq!(decide(Action::Stop, phase, &[]), Verdict::Accept);
            assert_eq!(decide(Action::Restart, phase, &[]), Verdict::Accept);
        }
        // A second stop may be the one that forces.
        assert_eq!(decide(Action::Stop, Phase::Stopping, &[]), Verdict::Accept);
    }
}
