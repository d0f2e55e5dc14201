//! `casemate vm list`.

use casemate_proto::v1::Vm;
use jiff::Timestamp;
use serde_json::Value;

use crate::arguments::Format;
use crate::client::Client;
use crate::error::CliError;
use crate::screen::{Column, Content, Screen, Tinted, Tone};
use crate::vm::{exit, restart_policy_name, state_name, state_tone, yes_or_no};
use crate::{byte_size, json};

/// What goes first on a narrow terminal is what is mostly the same for all VMs of a host.
const COLUMNS: &[Column] = &[
    Column::new("ID", Content::Word),
    Column::new("NAME", Content::Text),
    Column::new("STATE", Content::Word),
    Column::if_wide("BACKEND", Content::Word, 7),
    Column::if_wide("TEE", Content::Word, 8),
    Column::new("CONFIDENTIAL", Content::Word),
    Column::if_wide("VCPUS", Content::Number, 5),
    Column::if_wide("MEMORY", Content::Number, 4),
    Column::if_wide("AGENT", Content::Word, 3),
    Column::if_wide("AGE", Content::Number, 1),
    Column::if_wide("UP", Content::Number, 2),
    Column::if_wide("RESTART", Content::Word, 9),
    Column::if_wide("LAST EXIT", Content::Word, 6),
];

pub(crate) async fn run(mut client: Client, screen: &Screen) -> Result<(), CliError> {
    let vms = client.list_vms().await?;
    match screen.format {
        Format::Json => {
            let values: Vec<Value> = vms.iter().map(json::vm).collect();
            screen.write_json(&Value::Array(values))
        }
        Format::Table => {
            let now = Timestamp::now();
            let rows: Vec<Vec<Tinted>> = vms.iter().map(|vm| row(vm, now)).collect();
            screen.write_table(COLUMNS, &rows)
        }
    }
}

fn row(vm: &Vm, now: Timestamp) -> Vec<Tinted> {
    let state = vm.state();
    let confidential = if vm.confidential {
        Tone::Good
    } else {
        Tone::Plain
    };
    vec![
        (vm.id.clone(), Tone::Plain),
        (vm.name.clone(), Tone::Plain),
        (state_name(state).to_owned(), state_tone(state)),
        (vm.backend.clone(), Tone::Plain),
        (vm.tee.clone(), Tone::Plain),
        (yes_or_no(vm.confidential).to_owned(), confidential),
        (vm.vcpus.to_string(), Tone::Plain),
        (byte_size::display(vm.memory_bytes), Tone::Plain),
        (vm.agent_address.clone(), Tone::Plain),
        (age(&vm.created_at, now), Tone::Plain),
        (age(&vm.started_at, now), Tone::Plain),
        (restart(vm), Tone::Plain),
        (
            vm.last_exit.as_ref().map(exit::words).unwrap_or_default(),
            Tone::Plain,
        ),
    ]
}

/// The policy, and how often it was made use of.
fn restart(vm: &Vm) -> String {
    let policy = restart_policy_name(vm.restart_policy());
    match vm.restarts {
        0 => policy.to_owned(),
        restarts => format!("{policy} ({restarts})"),
    }
}

/// The two largest units at most, because nobody asks for the seconds of a day-old VM. A clock that
/// was set back, here or there, makes no negative ages.
pub(super) fn age(created_at: &str, now: Timestamp) -> String {
    let Ok(created_at) = created_at.parse::<Timestamp>() else {
        return String::new();
    };
    let seconds = now
        .as_second()
        .saturating_sub(created_at.as_second())
        .max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{:02}s", seconds % 60),
        (0, hours, _) => format!("{hours}h{:02}m", minutes % 60),
        (days, ..) => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use casemate_proto::v1::{Exit, RestartPolicy, VmState};

    use super::*;
    use crate::screen::piped;

    #[test]
    fn ages_are_short() {
        let now: Timestamp = "2026-01-02T12:00:00Z".parse().unwrap();
        for (created_at, expected) in [
            ("2026-01-02T12:00:00Z", "0s"),
            ("2026-01-02T11:59:15.25Z", "45s"),
            ("2026-01-02T11:55:55Z", "4m05s"),
            ("2026-01-02T08:30:00Z", "3h30m"),
            ("2025-12-30T11:00:00Z", "3d01h"),
            ("2026-01-02T12:00:09Z", "0s"),
            ("", ""),
            ("yesterday", ""),
        ] {
            assert_eq!(age(created_at, now), expected, "{created_at}");
        }
    }

    #[test]
    fn a_row_is_a_line() {
        let now: Timestamp = "2026-01-02T12:00:00Z".parse().unwrap();
        let mut vm = Vm {
            id: "6f1c8a52-0000-4000-8000-000000000001".to_owned(),
            backend: "plain-kvm".to_owned(),
            tee: "none".to_owned(),
            vcpus: 2,
            memory_bytes: 2 << 30,
            agent_address: "127.0.0.1:6100".to_owned(),
            created_at: "2026-01-02T11:59:00Z".to_owned(),
            started_at: "2026-01-02T11:59:15Z".to_owned(),
            restarts: 2,
            last_exit: Some(Exit {
                signal: Some(9),
                ..Exit::default()
            }),
            ..Vm::default()
        };
        vm.set_state(VmState::Running);
        vm.set_restart_policy(RestartPolicy::OnFailure);
        let table = piped(Format::Table).table(COLUMNS, &[row(&vm, now)]);
        let line = table.lines().nth(1).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            words,
            [
                "6f1c8a52-0000-4000-8000-000000000001",
                "-",
                "running",
                "plain-kvm",
                "none",
                "no",
                "2",
                "2",
                "GiB",
                "127.0.0.1:6100",
                "1m00s",
                "45s",
                "on-failure",
                "(2)",
                "signal",
                "9",
                "(SIGKILL)",
            ]
        );
        assert_eq!(table.lines().count(), 2);
    }
}
