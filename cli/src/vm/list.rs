//! `casemate vm list`.

use casemate_proto::v1::{Vm, WatchVmsRequest};
use jiff::Timestamp;

use crate::arguments::Format;
use crate::client::Client;
use crate::error::CliError;
use crate::screen::{Column, Content, LAST_TO_GO, Screen, Tinted, Tone};
use crate::vm::filter::Filter;
use crate::vm::live::{self, View};
use crate::vm::{exit, label_words, restart_policy_name, state_name, state_tone, watch, yes_or_no};
use crate::{byte_size, interrupt, json};

/// What goes first on a narrow terminal is what is mostly the same for all VMs of a host.
const COLUMNS: &[Column] = &[
    Column::new("ID", Content::Id),
    Column::new("NAME", Content::Text),
    Column::new("STATE", Content::Word),
    Column::if_wide("BACKEND", Content::Word, 7),
    Column::if_wide("TEE", Content::Word, 8),
    Column::if_wide("CONFIDENTIAL", Content::Word, LAST_TO_GO),
    Column::if_wide("VCPUS", Content::Number, 5),
    Column::if_wide("MEMORY", Content::Number, 4),
    Column::if_wide("AGENT", Content::Word, 3),
    Column::if_wide("AGE", Content::Number, 1),
    Column::if_wide("UP", Content::Number, 2),
    Column::if_wide("RESTART", Content::Word, 9),
    Column::if_wide("LAST EXIT", Content::Word, 6),
    Column::if_wide("LABELS", Content::Text, 10),
];

#[derive(Debug, clap::Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    filter: Filter,

    /// Go on with every change: the list is drawn anew on a terminal, and a line or an object for
    /// each change is printed elsewhere, as by `vm watch`.
    #[arg(long)]
    watch: bool,
}

pub(crate) async fn run(
    arguments: ListArguments,
    mut client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    if arguments.watch {
        interrupt::ends_the_program()?;
        client = client.kept_alive();
        if !screen.is_redrawn() {
            return watch::print(None, arguments.filter, client, screen).await;
        }
        let changes = client.watch_vms(WatchVmsRequest::default()).await?;
        return live::draw(View::List(arguments.filter), changes, screen).await;
    }
    let mut vms = client.list_vms(arguments.filter.request()).await?;
    if arguments.filter.is_impossible() {
        vms.clear();
    }
    match screen.format {
        Format::Data(_) => screen.write_value(&json::value(&vms)?),
        Format::Table => {
            let vms: Vec<&Vm> = vms.iter().collect();
            screen.write_raw(table(&vms, screen).as_bytes())
        }
    }
}

pub(super) fn table(vms: &[&Vm], screen: &Screen) -> String {
    let now = Timestamp::now();
    let rows: Vec<Vec<Tinted>> = vms.iter().map(|vm| row(vm, now)).collect();
    screen.table(COLUMNS, &rows)
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
        (label_words(&vm.labels), Tone::Plain),
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

    use unicode_width::UnicodeWidthStr as _;

    use super::*;
    use crate::screen::{piped, wide};

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
            labels: [("team".to_owned(), "blue".to_owned())].into(),
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
                "team=blue",
            ]
        );
        assert_eq!(table.lines().count(), 2);
    }

    /// A width, and what is left of the table there.
    #[test]
    fn a_list_fits_its_terminal() {
        let now: Timestamp = "2026-01-02T12:00:00Z".parse().unwrap();
        let vm = |id: &str, name: &str, state: VmState| Vm {
            id: format!("{id}-0000-4000-8000-000000000001"),
            name: name.to_owned(),
            state: state.into(),
            backend: "plain-kvm".to_owned(),
            tee: "none".to_owned(),
            vcpus: 2,
            memory_bytes: 2 << 30,
            agent_address: "127.0.0.1:6100".to_owned(),
            created_at: "2026-01-02T11:59:00Z".to_owned(),
            labels: [("team".to_owned(), "青".to_owned())].into(),
            ..Vm::default()
        };
        let vms = [
            vm("6f1c8a52", "web", VmState::Running),
            vm(
                "7a1c8a52",
                "日本語の長い名前のとても長いＶＭ",
                VmState::Unresponsive,
            ),
        ];
        let rows: Vec<Vec<Tinted>> = vms.iter().map(|vm| row(vm, now)).collect();
        let columns = |width: u16| -> Vec<String> {
            let text = wide(Format::Table, width).table(COLUMNS, &rows);
            for line in text.lines() {
                assert!(
                    line.width() <= usize::from(width),
                    "{width}: {line}\n{text}"
                );
            }
            let header = text.lines().next().unwrap_or_default();
            header
                .split("  ")
                .filter(|word| !word.is_empty())
                .map(|word| word.trim().to_owned())
                .collect()
        };
        assert_eq!(columns(40), ["ID", "NAME", "STATE"]);
        assert_eq!(columns(60), ["ID", "NAME", "STATE", "CONFIDENTIAL"]);
        assert_eq!(columns(80)[..4], ["ID", "NAME", "STATE", "CONFIDENTIAL"]);
        assert_eq!(columns(200).len(), COLUMNS.len());
        let narrow = wide(Format::Table, 40).table(COLUMNS, &rows);
        assert!(
            narrow.lines().nth(1).unwrap().starts_with("6f1c8a52  web"),
            "{narrow}"
        );
        // Without a terminal nothing is cut, and a VM is a line.
        let piped = piped(Format::Table).table(COLUMNS, &rows);
        assert_eq!(piped.lines().count(), 3);
        assert!(
            piped.contains("日本語の長い名前のとても長いＶＭ"),
            "{piped}"
        );
    }
}
