//! `casemate config`: what the daemon runs with, and a file to start from.

use casemate_proto::v1::ConfigValue;
use clap::Subcommand;

use crate::arguments::Format;
use crate::client::Client;
use crate::error::CliError;
use crate::json;
use crate::plain_text;
use crate::screen::{Column, Content, Screen, Tinted, Tone};

/// Made from the daemon's own declarations of its keys; a test holds it.
const DEFAULT_FILE: &str = include_str!("../../packaging/casemate.toml");

const COLUMNS: &[Column] = &[
    Column::new("KEY", Content::Word),
    Column::new("VALUE", Content::Text),
    Column::new("SOURCE", Content::Text),
];

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Print every value that the running daemon uses, and where it came from.
    Explain(ExplainArguments),
    /// Print a commented config file with every key and its default.
    Default,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArguments {
    /// Only keys that begin like this, such as `vm` or `network.ports`.
    prefix: Option<String>,
    /// Leave out what nobody set.
    #[arg(long)]
    set_only: bool,
}

impl ExplainArguments {
    fn wants(&self, value: &ConfigValue) -> bool {
        let begins = self
            .prefix
            .as_ref()
            .is_none_or(|prefix| value.key.starts_with(prefix.as_str()));
        begins && !(self.set_only && value.source == "default")
    }
}

/// `config default`, which needs no daemon.
pub(crate) fn print_default(screen: &Screen) -> Result<(), CliError> {
    screen.write_raw(DEFAULT_FILE.as_bytes())
}

pub(crate) async fn explain(
    arguments: &ExplainArguments,
    mut client: Client,
    screen: &Screen,
) -> Result<(), CliError> {
    let mut values = client.explain_config().await?;
    values.retain(|value| arguments.wants(value));
    match screen.format {
        Format::Data(_) => screen.write_value(&json::value(&values)?),
        Format::Table => {
            let rows: Vec<Vec<Tinted>> = values.iter().flat_map(rows).collect();
            screen.write_table(COLUMNS, &rows)
        }
    }
}

/// A value, and its notes on lines of their own.
fn rows(value: &ConfigValue) -> Vec<Vec<Tinted>> {
    let tone = if value.source == "default" {
        Tone::Dim
    } else {
        Tone::Plain
    };
    let text = if value.value.is_empty() {
        "-".to_owned()
    } else {
        plain_text::escaped(&value.value)
    };
    let mut rows = vec![vec![
        (value.key.clone(), tone),
        (text, tone),
        (plain_text::escaped(&value.source), tone),
    ]];
    rows.extend(value.notes.iter().map(|note| {
        vec![
            (String::new(), Tone::Plain),
            (plain_text::escaped(note), Tone::Attention),
            (String::new(), Tone::Plain),
        ]
    }));
    rows
}
