//! `casemate backend watch`: what reloads make of the backends, a line for each, the backends as they
//! are first.

use casemate_proto::v1::WatchBackendsResponse;
use casemate_proto::v1::watch_backends_response::Change;
use jiff::Timestamp;
use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr as _;

use super::loaded::{SHORT_DIGEST, status_tone};
use crate::arguments::Format;
use crate::client::Client;
use crate::error::CliError;
use crate::screen::{Screen, Tone};
use crate::{interrupt, json, plain_text};

/// So that most names of later backends are below the others.
const NARROWEST_NAME: usize = 12;
/// Widths of `2026-01-02T12:00:00Z` and of the longest state, `reload-refused`.
const TIME_WIDTH: usize = 20;
const STATE_WIDTH: usize = 14;

pub(super) async fn run(client: Client, screen: &Screen) -> Result<(), CliError> {
    interrupt::ends_the_program()?;
    let mut client = client.kept_alive();
    let mut changes = client.watch_backends().await?;
    if screen.format == Format::Table {
        let state = format!("{:STATE_WIDTH$}", "STATUS");
        let header = columns("TIME", "NAME", &state, "VERSION");
        screen.write_raw(format!("{}\n", screen.tint(&header, Tone::Dim)).as_bytes())?;
    }
    while let Some(answer) = changes.next().await.map_err(CliError::of_watch)? {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        match screen.format {
            Format::Data(_) => screen.write_one_value(&value(answer, &now)?)?,
            Format::Table => {
                if let Some(line) = line(&answer, &now, screen) {
                    screen.write_raw(line.as_bytes())?;
                }
            }
        }
    }
    Err(changes.broken_off())
}

/// With what the interface has in it; the time is when it was seen here.
fn value(answer: WatchBackendsResponse, now: &str) -> Result<Value, CliError> {
    let mut value = json!({"time": now});
    match answer.change {
        Some(Change::Backend(backend)) => value["backend"] = json::value(&backend)?,
        Some(Change::Removed(name)) => value["removed"] = Value::String(name),
        Some(Change::Synchronized(is_so)) => value["synchronized"] = Value::Bool(is_so),
        Some(Change::ReloadRefused(subject)) => value["reload_refused"] = Value::String(subject),
        // Of a later daemon.
        None => {}
    }
    Ok(value)
}

/// `state` comes padded, because a colour takes no place.
fn columns(time: &str, name: &str, state: &str, rest: &str) -> String {
    // A character may take two places.
    let padding = " ".repeat(NARROWEST_NAME.saturating_sub(name.width()));
    format!("{time:TIME_WIDTH$}  {name}{padding}  {state}  {rest}")
        .trim_end()
        .to_owned()
}

fn line(answer: &WatchBackendsResponse, now: &str, screen: &Screen) -> Option<String> {
    let (name, state, tone, rest) = match answer.change.as_ref()? {
        Change::Backend(backend) if backend.error.is_empty() => {
            let digest: String = backend.sha256.chars().take(SHORT_DIGEST).collect();
            let rest = format!("{} {digest}", backend.version);
            (
                &backend.name,
                &*backend.status,
                status_tone(&backend.status),
                rest,
            )
        }
        Change::Backend(backend) => {
            let tone = status_tone(&backend.status);
            (&backend.name, &*backend.status, tone, backend.error.clone())
        }
        Change::Removed(name) => (name, "removed", Tone::Attention, String::new()),
        Change::ReloadRefused(subject) => {
            let rest = "nothing was changed; the log of the daemon says why".to_owned();
            (subject, "reload-refused", Tone::Bad, rest)
        }
        Change::Synchronized(_) => return None,
    };
    let name = match plain_text::stripped(name) {
        name if name.is_empty() => "-".to_owned(),
        name => name,
    };
    let state = screen.tint(
        &format!("{:STATE_WIDTH$}", plain_text::stripped(state)),
        tone,
    );
    Some(columns(now, &name, &state, &plain_text::stripped(&rest)) + "\n")
}

#[cfg(test)]
mod tests {
    use casemate_proto::v1::Backend;

    use super::*;
    use crate::screen::piped;

    const NOW: &str = "2026-01-02T12:00:00Z";

    fn backend(status: &str, error: &str) -> Change {
        Change::Backend(Backend {
            name: "tdx".to_owned(),
            status: status.to_owned(),
            error: error.to_owned(),
            version: "1.2.0".to_owned(),
            sha256: "0123456789abcdef".to_owned(),
            ..Backend::default()
        })
    }

    fn answer(change: Change) -> WatchBackendsResponse {
        WatchBackendsResponse {
            change: Some(change),
        }
    }

    #[test]
    fn a_change_is_a_line() {
        let screen = piped(Format::Table);
        let lines: Vec<String> = [
            backend("in-service", ""),
            Change::Synchronized(true),
            backend("failed", "not a\nWebAssembly component"),
            Change::ReloadRefused("tdx".to_owned()),
            Change::ReloadRefused(String::new()),
            Change::Removed("td\x1b[2Jx".to_owned()),
        ]
        .into_iter()
        .filter_map(|change| line(&answer(change), NOW, &screen))
        .collect();
        assert_eq!(
            lines.concat(),
            format!(
                "{NOW}  tdx           in-service      1.2.0 0123456789ab\n\
                 {NOW}  tdx           failed          not a WebAssembly component\n\
                 {NOW}  tdx           reload-refused  nothing was changed; the log of the daemon says why\n\
                 {NOW}  -             reload-refused  nothing was changed; the log of the daemon says why\n\
                 {NOW}  td[2Jx        removed\n"
            )
        );
    }

    #[test]
    fn a_change_is_an_object() {
        for (change, wanted) in [
            (
                Change::Synchronized(true),
                json!({"time": NOW, "synchronized": true}),
            ),
            (
                Change::Removed("a".to_owned()),
                json!({"time": NOW, "removed": "a"}),
            ),
            (
                Change::ReloadRefused("a".to_owned()),
                json!({"time": NOW, "reload_refused": "a"}),
            ),
        ] {
            assert_eq!(value(answer(change), NOW).unwrap(), wanted);
        }
        let served = value(answer(backend("in-service", "")), NOW).unwrap();
        assert_eq!(served["backend"]["status"], "in-service");
    }
}
