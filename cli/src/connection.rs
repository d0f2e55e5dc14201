//! How the daemon is reached, and who says so: the command line, then the environment, then a
//! context, then the default, each value by itself.
//!
//! A context that the command line names comes before the environment. The files of a context go
//! with its endpoint: where somebody else names the endpoint, none of them is used, so that no
//! host gets what is another's.

use std::path::{Path, PathBuf};

use crate::client::{Address, Reach, Token};
use crate::contexts::{Context, Contexts};
use crate::error::CliError;

const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:7001";

pub(crate) const OPTIONS: &str = "Connection";

/// Global options, which `context set` keeps.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ConnectionArguments {
    /// Address of the daemon: http://HOST:PORT, https://HOST:PORT or unix:///PATH.
    ///
    /// Or CASEMATE_ENDPOINT; http://127.0.0.1:7001, if nobody says otherwise.
    #[arg(long, global = true, help_heading = OPTIONS, value_name = "URL")]
    pub(crate) endpoint: Option<String>,

    /// Context that says how to reach the daemon; `context use` names one for all commands.
    ///
    /// Or CASEMATE_CONTEXT.
    #[arg(long, global = true, help_heading = OPTIONS, value_name = "NAME")]
    pub(crate) context: Option<String>,

    /// PEM certificates of the authorities that may have signed the daemon's; the system's, if this
    /// is left out.
    ///
    /// Or CASEMATE_CA_CERT.
    #[arg(long, global = true, help_heading = OPTIONS, value_name = "FILE")]
    pub(crate) ca_cert: Option<PathBuf>,

    /// PEM certificate that this client shows the daemon.
    ///
    /// Or CASEMATE_CLIENT_CERT.
    #[arg(long, global = true, help_heading = OPTIONS, value_name = "FILE")]
    pub(crate) client_cert: Option<PathBuf>,

    /// PEM key of that certificate.
    ///
    /// Or CASEMATE_CLIENT_KEY.
    #[arg(long, global = true, help_heading = OPTIONS, value_name = "FILE")]
    pub(crate) client_key: Option<PathBuf>,

    /// File of the token that says who calls.
    ///
    /// Or the token itself in CASEMATE_TOKEN. It is sent to nothing but https:// and this machine.
    #[arg(long, global = true, help_heading = OPTIONS, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// Who said a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Flag(&'static str),
    Variable(&'static str),
    Context(String),
    /// `context use`.
    CurrentContext,
    Default,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Variable(name) => f.write_str(name),
            Self::Context(name) => write!(f, "context {name}"),
            Self::CurrentContext => f.write_str("context use"),
            Self::Default => f.write_str("default"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sourced<Value> {
    pub(crate) value: Value,
    pub(crate) source: Source,
}

/// Where the token is; it is read when it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenPlace {
    File(PathBuf),
    /// Its value.
    Variable(Secret),
}

/// Shows nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

const ENDPOINT_VARIABLE: &str = "CASEMATE_ENDPOINT";
const CONTEXT_VARIABLE: &str = "CASEMATE_CONTEXT";
const TOKEN_VARIABLE: &str = "CASEMATE_TOKEN";

/// What is in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) context: Option<Sourced<String>>,
    pub(crate) endpoint: Sourced<String>,
    pub(crate) ca_cert: Option<Sourced<PathBuf>>,
    pub(crate) client_cert: Option<Sourced<PathBuf>>,
    pub(crate) client_key: Option<Sourced<PathBuf>>,
    pub(crate) token: Option<Sourced<TokenPlace>>,
}

/// The candidates for one value, strongest first.
struct Candidates<'a> {
    context: Option<(&'a str, &'a Context, Rank)>,
    variable: &'a dyn Fn(&'static str) -> Option<String>,
}

/// Whether a context comes before the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rank {
    BeforeVariables,
    AfterVariables,
}

impl Candidates<'_> {
    fn first<Value: Clone + From<String>>(
        &self,
        flag: (&'static str, Option<&Value>),
        variable: &'static str,
        of_context: impl Fn(&Context) -> Option<&Value>,
    ) -> Option<Sourced<Value>> {
        let (flag, given) = flag;
        if let Some(value) = given {
            return Some(Sourced {
                value: value.clone(),
                source: Source::Flag(flag),
            });
        }
        let in_context = |rank| {
            let (name, context, _) = self.context.filter(|(_, _, found)| *found == rank)?;
            Some(Sourced {
                value: of_context(context)?.clone(),
                source: Source::Context(name.to_owned()),
            })
        };
        let in_variable = || {
            Some(Sourced {
                value: Value::from((self.variable)(variable)?),
                source: Source::Variable(variable),
            })
        };
        in_context(Rank::BeforeVariables)
            .or_else(in_variable)
            .or_else(|| in_context(Rank::AfterVariables))
    }
}

impl Connection {
    /// `variable` gives those that are set to something.
    pub(crate) fn resolve(
        arguments: &ConnectionArguments,
        variable: &dyn Fn(&'static str) -> Option<String>,
        contexts: &Contexts,
    ) -> Result<Self, CliError> {
        let context = named_context(arguments, variable, contexts);
        let chosen = match &context {
            None => None,
            Some(named) => {
                let rank = match named.source {
                    Source::Flag(_) => Rank::BeforeVariables,
                    _ => Rank::AfterVariables,
                };
                Some((named.value.as_str(), contexts.get(&named.value)?, rank))
            }
        };
        let candidates = Candidates {
            context: chosen,
            variable,
        };
        let endpoint = candidates
            .first(
                ("--endpoint", arguments.endpoint.as_ref()),
                ENDPOINT_VARIABLE,
                |context| Some(&context.endpoint),
            )
            .unwrap_or_else(|| Sourced {
                value: DEFAULT_ENDPOINT.to_owned(),
                source: Source::Default,
            });
        // What the environment has for its own endpoint is not sent to another one.
        let is_of_another = variable(ENDPOINT_VARIABLE).is_some()
            && !matches!(endpoint.source, Source::Variable(_));
        let candidates = Candidates {
            context: chosen.filter(|_| matches!(endpoint.source, Source::Context(_))),
            variable: if is_of_another { &|_| None } else { variable },
        };
        Ok(Self {
            ca_cert: candidates.first(
                ("--ca-cert", arguments.ca_cert.as_ref()),
                "CASEMATE_CA_CERT",
                |context| context.ca_cert.as_ref(),
            ),
            client_cert: candidates.first(
                ("--client-cert", arguments.client_cert.as_ref()),
                "CASEMATE_CLIENT_CERT",
                |context| context.client_cert.as_ref(),
            ),
            client_key: candidates.first(
                ("--client-key", arguments.client_key.as_ref()),
                "CASEMATE_CLIENT_KEY",
                |context| context.client_key.as_ref(),
            ),
            token: token_place(&candidates, arguments),
            context,
            endpoint,
        })
    }

    /// Reads the token, and refuses to send it where others could read it.
    pub(crate) fn token(&self, address: &Address) -> Result<Option<Token>, CliError> {
        let Some(Sourced { value, source }) = &self.token else {
            return Ok(None);
        };
        if matches!(
            address,
            Address::Http {
                reach: Reach::Network,
                ..
            }
        ) {
            return Err(CliError::TokenExposed {
                endpoint: self.endpoint.value.clone(),
                named_by: source.to_string(),
            });
        }
        match value {
            TokenPlace::File(path) => Token::read(path).map(Some),
            TokenPlace::Variable(secret) => match Token::parse(&secret.0) {
                Some(token) => Ok(Some(token)),
                None => Err(CliError::Token {
                    place: TOKEN_VARIABLE.to_owned(),
                }),
            },
        }
    }
}

fn named_context(
    arguments: &ConnectionArguments,
    variable: &dyn Fn(&'static str) -> Option<String>,
    contexts: &Contexts,
) -> Option<Sourced<String>> {
    let of = |value, source| Some(Sourced { value, source });
    if let Some(name) = &arguments.context {
        return of(name.clone(), Source::Flag("--context"));
    }
    if let Some(name) = variable(CONTEXT_VARIABLE) {
        return of(name, Source::Variable(CONTEXT_VARIABLE));
    }
    of(contexts.current.clone()?, Source::CurrentContext)
}

/// The variable holds the token, the others name its file.
fn token_place(
    candidates: &Candidates<'_>,
    arguments: &ConnectionArguments,
) -> Option<Sourced<TokenPlace>> {
    let secret = |name| {
        let text = (candidates.variable)(name)?;
        Some(TokenPlace::Variable(Secret(text)))
    };
    let rank = candidates.context.map(|(_, _, rank)| rank);
    let is_asked = arguments.token_file.is_some()
        || (rank == Some(Rank::BeforeVariables)
            && candidates
                .context
                .is_some_and(|(_, context, _)| context.token_file.is_some()));
    if !is_asked && let Some(value) = secret(TOKEN_VARIABLE) {
        return Some(Sourced {
            value,
            source: Source::Variable(TOKEN_VARIABLE),
        });
    }
    let without_variables = Candidates {
        context: candidates.context,
        variable: &|_| None,
    };
    let found = without_variables.first(
        ("--token-file", arguments.token_file.as_ref()),
        TOKEN_VARIABLE,
        |context| context.token_file.as_ref(),
    )?;
    Some(Sourced {
        value: TokenPlace::File(found.value),
        source: found.source,
    })
}

/// Of this process; one that is empty is as one that is not set.
pub(crate) fn variable(name: &'static str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// As `context set` keeps it: a later command may run in another folder.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path).map_err(|source| CliError::Input {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts() -> Contexts {
        let mut contexts = Contexts::default();
        contexts.set(
            "prod",
            Context {
                endpoint: "https://prod.example:7001".to_owned(),
                ca_cert: Some("/prod/ca".into()),
                client_cert: None,
                client_key: None,
                token_file: Some("/prod/token".into()),
            },
        );
        contexts
    }

    /// In the words of `context show`.
    fn words(connection: &Connection) -> (String, Option<String>, Option<String>) {
        let Sourced { value, source } = &connection.endpoint;
        let place = |place: &TokenPlace| match place {
            TokenPlace::File(path) => path.display().to_string(),
            TokenPlace::Variable(_) => "a value".to_owned(),
        };
        (
            format!("{value} by {source}"),
            connection
                .ca_cert
                .as_ref()
                .map(|ca| format!("{} by {}", ca.value.display(), ca.source)),
            connection
                .token
                .as_ref()
                .map(|token| format!("{} by {}", place(&token.value), token.source)),
        )
    }

    #[test]
    fn the_strongest_source_of_each_value_wins() {
        type Variables = &'static [(&'static str, &'static str)];
        let flags = |context: &str, endpoint: &str, token: &str| ConnectionArguments {
            context: (!context.is_empty()).then(|| context.to_owned()),
            endpoint: (!endpoint.is_empty()).then(|| endpoint.to_owned()),
            token_file: (!token.is_empty()).then(|| token.into()),
            ..ConnectionArguments::default()
        };
        let all: Variables = &[
            ("CASEMATE_ENDPOINT", "http://env:1"),
            ("CASEMATE_CA_CERT", "/env/ca"),
            ("CASEMATE_TOKEN", "hidden"),
        ];
        let prod = "https://prod.example:7001 by context prod";
        for (arguments, variables, current, expected) in [
            (
                flags("", "", ""),
                &[][..],
                None,
                ("http://127.0.0.1:7001 by default", None, None),
            ),
            (
                flags("", "", ""),
                &[],
                Some("prod"),
                (
                    prod,
                    Some("/prod/ca by context prod"),
                    Some("/prod/token by context prod"),
                ),
            ),
            (
                flags("", "", ""),
                &[("CASEMATE_CONTEXT", "prod")],
                None,
                (
                    prod,
                    Some("/prod/ca by context prod"),
                    Some("/prod/token by context prod"),
                ),
            ),
            // What is another host's is not sent there.
            (
                flags("", "http://flag:1", ""),
                &[],
                Some("prod"),
                ("http://flag:1 by --endpoint", None, None),
            ),
            (
                flags("", "http://flag:1", ""),
                all,
                None,
                ("http://flag:1 by --endpoint", None, None),
            ),
            (
                flags("", "http://flag:1", ""),
                &[("CASEMATE_TOKEN", "hidden")],
                None,
                (
                    "http://flag:1 by --endpoint",
                    None,
                    Some("a value by CASEMATE_TOKEN"),
                ),
            ),
            (
                flags("", "", ""),
                all,
                Some("prod"),
                (
                    "http://env:1 by CASEMATE_ENDPOINT",
                    Some("/env/ca by CASEMATE_CA_CERT"),
                    Some("a value by CASEMATE_TOKEN"),
                ),
            ),
            (
                flags("prod", "", ""),
                all,
                None,
                (
                    prod,
                    Some("/prod/ca by context prod"),
                    Some("/prod/token by context prod"),
                ),
            ),
            (
                flags("prod", "", "/flag/token"),
                all,
                None,
                (
                    prod,
                    Some("/prod/ca by context prod"),
                    Some("/flag/token by --token-file"),
                ),
            ),
        ] {
            let mut contexts = contexts();
            contexts.current = current.map(str::to_owned);
            let variable = |name: &'static str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let connection = Connection::resolve(&arguments, &variable, &contexts).unwrap();
            let (endpoint, ca, token) = words(&connection);
            assert_eq!(
                (endpoint.as_str(), ca.as_deref(), token.as_deref()),
                expected,
                "{arguments:?}"
            );
            assert!(!format!("{connection:?}").contains("hidden"));
        }
    }

    #[test]
    fn a_context_that_is_not_there_is_an_error() {
        let arguments = ConnectionArguments {
            context: Some("prd".to_owned()),
            ..ConnectionArguments::default()
        };
        let error = Connection::resolve(&arguments, &|_| None, &contexts()).unwrap_err();
        assert_eq!(error.id().as_str(), "context-unknown");
    }

    #[test]
    fn a_token_does_not_cross_a_network_in_the_clear() {
        for (endpoint, is_sent) in [
            ("http://127.0.0.1:7001", true),
            ("http://localhost:7001", true),
            ("unix:///run/casemate.sock", true),
            ("https://far.example:7001", true),
            ("http://far.example:7001", false),
            ("http://10.0.0.1:7001", false),
        ] {
            let arguments = ConnectionArguments {
                endpoint: Some(endpoint.to_owned()),
                ..ConnectionArguments::default()
            };
            let variable = |name: &str| (name == TOKEN_VARIABLE).then(|| "hidden".to_owned());
            let connection =
                Connection::resolve(&arguments, &variable, &Contexts::default()).unwrap();
            let token = connection.token(&Address::parse(endpoint).unwrap());
            match token {
                Ok(token) => assert!(is_sent && token.is_some(), "{endpoint}"),
                Err(error) => {
                    assert!(!is_sent, "{endpoint}");
                    assert_eq!(error.id().as_str(), "token-exposed");
                    assert!(!error.to_string().contains("hidden"));
                }
            }
        }
    }
}
