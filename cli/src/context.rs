//! `casemate context`: hosts by name, and what is in effect now.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::arguments::Format;
use crate::client::Address;
use crate::connection::{self, Connection, ConnectionArguments, Sourced, TokenPlace};
use crate::contexts::{self, Context, Contexts, ContextsFile};
use crate::error::CliError;
use crate::screen::{Column, Content, Screen, Tinted, Tone};

const LIST_COLUMNS: &[Column] = &[
    Column::new("NAME", Content::Text),
    Column::new("ENDPOINT", Content::Text),
    Column::new("CURRENT", Content::Word),
];

const SHOW_COLUMNS: &[Column] = &[
    Column::new("WHAT", Content::Word),
    Column::new("VALUE", Content::Text),
    Column::new("SOURCE", Content::Text),
];

/// A context is a host by name: the address of its daemon, and the files for the connection.
#[derive(Debug, Subcommand)]
pub(crate) enum ContextVerb {
    /// List all contexts.
    #[command(visible_alias = "ls")]
    List,
    /// Show how a daemon would be reached now, and who says so.
    Show,
    /// Make a context, or change one: what is given is kept, the rest stays.
    ///
    /// Takes --endpoint, --ca-cert, --client-cert, --client-key and --token-file. Files are named,
    /// not copied.
    Set(NameArguments),
    /// Name the context of all commands that name none.
    Use(NameArguments),
    /// Forget a context.
    #[command(visible_alias = "rm")]
    Remove(NameArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct NameArguments {
    /// Name of the context.
    name: String,
}

pub(crate) fn run(
    verb: &ContextVerb,
    given: &ConnectionArguments,
    screen: &Screen,
) -> Result<(), CliError> {
    let file = ContextsFile::of_this_user();
    let mut contexts = file.read()?;
    match verb {
        ContextVerb::List => return list(&contexts, screen),
        ContextVerb::Show => {
            let connection = Connection::resolve(given, &connection::variable, &contexts)?;
            return show(&connection, screen);
        }
        ContextVerb::Set(NameArguments { name }) => {
            contexts::check_name(name)?;
            let context = changed(contexts.get(name).ok(), given)?;
            contexts.set(name, context);
        }
        ContextVerb::Use(NameArguments { name }) => {
            contexts.get(name)?;
            contexts.current = Some(name.clone());
        }
        ContextVerb::Remove(NameArguments { name }) => contexts.remove(name)?,
    }
    file.write(&contexts)
}

fn changed(before: Option<&Context>, given: &ConnectionArguments) -> Result<Context, CliError> {
    let endpoint = match (&given.endpoint, before) {
        (Some(endpoint), _) => endpoint.clone(),
        (None, Some(before)) => before.endpoint.clone(),
        (None, None) => {
            return Err(CliError::Endpoint {
                endpoint: "a new context without --endpoint".to_owned(),
                reason: "it names none".to_owned(),
            });
        }
    };
    Address::parse(&endpoint)?;
    // What is for one host is not sent to another.
    let before = before.filter(|before| before.endpoint == endpoint);
    let kept = |given: Option<&std::path::PathBuf>,
                of: fn(&Context) -> Option<&std::path::PathBuf>| {
        match given {
            Some(path) => connection::absolute(path).map(Some),
            None => Ok(before.and_then(of).cloned()),
        }
    };
    Ok(Context {
        endpoint,
        ca_cert: kept(given.ca_cert.as_ref(), |before| before.ca_cert.as_ref())?,
        client_cert: kept(given.client_cert.as_ref(), |before| {
            before.client_cert.as_ref()
        })?,
        client_key: kept(given.client_key.as_ref(), |before| {
            before.client_key.as_ref()
        })?,
        token_file: kept(given.token_file.as_ref(), |before| {
            before.token_file.as_ref()
        })?,
    })
}

fn list(contexts: &Contexts, screen: &Screen) -> Result<(), CliError> {
    let is_current = |name: &str| contexts.current.as_deref() == Some(name);
    match screen.format {
        Format::Data(_) => {
            let mut values = Vec::new();
            for (name, context) in contexts.iter() {
                values.push(json!({
                    "name": name,
                    "current": is_current(name),
                    "endpoint": context.endpoint,
                    "ca_cert": context.ca_cert,
                    "client_cert": context.client_cert,
                    "client_key": context.client_key,
                    "token_file": context.token_file,
                }));
            }
            screen.write_value(&Value::Array(values))
        }
        Format::Table => {
            let plain = |text: &str| (text.to_owned(), Tone::Plain);
            let rows: Vec<Vec<Tinted>> = contexts
                .iter()
                .map(|(name, context)| {
                    let current = if is_current(name) { "yes" } else { "" };
                    vec![plain(name), plain(&context.endpoint), plain(current)]
                })
                .collect();
            screen.write_table(LIST_COLUMNS, &rows)
        }
    }
}

/// Of the token only where it is.
fn show(connection: &Connection, screen: &Screen) -> Result<(), CliError> {
    let path = |found: &Option<Sourced<std::path::PathBuf>>| {
        found
            .as_ref()
            .map(|found| (found.value.display().to_string(), found.source.to_string()))
    };
    let token = connection.token.as_ref().map(|token| {
        let place = match &token.value {
            TokenPlace::File(path) => path.display().to_string(),
            TokenPlace::Variable(_) => "(not shown)".to_owned(),
        };
        (place, token.source.to_string())
    });
    let Sourced { value, source } = &connection.endpoint;
    let context = connection.context.as_ref();
    let values = [
        (
            "context",
            context.map(|context| (context.value.clone(), context.source.to_string())),
        ),
        ("endpoint", Some((value.clone(), source.to_string()))),
        ("ca_cert", path(&connection.ca_cert)),
        ("client_cert", path(&connection.client_cert)),
        ("client_key", path(&connection.client_key)),
        ("token", token),
    ];
    match screen.format {
        Format::Data(_) => {
            let mut shown = json!({});
            for (name, value) in values {
                shown[name] = value.map_or(
                    Value::Null,
                    |(value, source)| json!({"value": value, "source": source}),
                );
            }
            screen.write_value(&shown)
        }
        Format::Table => {
            let rows: Vec<Vec<Tinted>> = values
                .into_iter()
                .map(|(name, value)| {
                    let (value, source) = value.unwrap_or_default();
                    vec![
                        (name.to_owned(), Tone::Plain),
                        (value, Tone::Plain),
                        (source, Tone::Dim),
                    ]
                })
                .collect();
            screen.write_table(SHOW_COLUMNS, &rows)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_one_host_is_not_kept_for_another() {
        let given = |endpoint: Option<&str>| ConnectionArguments {
            endpoint: endpoint.map(str::to_owned),
            ..ConnectionArguments::default()
        };
        let before = Context {
            endpoint: "https://a.example:7001".to_owned(),
            ca_cert: Some("/a/ca".into()),
            client_cert: None,
            client_key: None,
            token_file: Some("/a/token".into()),
        };
        for (endpoint, is_kept) in [
            (None, true),
            (Some("https://a.example:7001"), true),
            (Some("https://b.example:7001"), false),
        ] {
            let context = changed(Some(&before), &given(endpoint)).unwrap();
            assert_eq!(context.token_file.is_some(), is_kept, "{endpoint:?}");
            assert_eq!(context.ca_cert.is_some(), is_kept, "{endpoint:?}");
        }
    }
}
