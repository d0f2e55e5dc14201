//! `[[client]]` tables of the config file.
//!
//! They are read key by key, so that an error names its line, and so that what stands where a digest
//! belongs is in no message: it may be the token.

use std::collections::BTreeSet;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::file::{line_of, scalar, shown};
use super::form::Form;
use crate::api::access::Role;
use crate::api::access::clients::{ClientConfig, Mark, TokenDigest};

/// Longest name of a client; it is in every line of the audit log.
const MAX_NAME: usize = 64;

const KEYS: [&str; 7] = [
    "name",
    "roles",
    "token_sha256",
    "certificate_sha256",
    "certificate_dns",
    "certificate_uri",
    "uid",
];

/// What is wrong with a `[[client]]`.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("`client` is no array of tables; wanted is `[[client]]`, once for each client")]
    Shape,
    #[error("a `[[client]]` has no key {key:?}; the closest one is {closest:?}")]
    UnknownKey { key: String, closest: String },
    #[error(
        "the `[[client]]` has no `name`; wanted is 1 to {MAX_NAME} letters, digits, `-`, `_`, `.`, `@`"
    )]
    NoName,
    #[error(
        "`name` is {value}; wanted is 1 to {MAX_NAME} letters, digits, `-`, `_`, `.`, `@` in quotes"
    )]
    Name { value: String },
    #[error(
        "client {client:?} has no `roles`; wanted is a list of {}",
        Role::names()
    )]
    NoRoles { client: String },
    #[error(
        "client {client:?}: `roles` is {value}; wanted is a list of {}",
        Role::names()
    )]
    Roles { client: String, value: String },
    /// The value is not shown.
    #[error(
        "client {client:?}: `{key}` is not the form of a digest; wanted is a SHA-256, 64 hexadecimal digits, or a list of them"
    )]
    Digest { client: String, key: &'static str },
    #[error("client {client:?}: `{key}` is {value}; wanted is {wanted}, or a list of them")]
    Value {
        client: String,
        key: &'static str,
        value: String,
        wanted: &'static str,
    },
    #[error(
        "client {client:?} would never be recognised; give it `token_sha256`, `certificate_sha256`, `certificate_dns`, `certificate_uri` or `uid`"
    )]
    NoMark { client: String },
    #[error("two clients are named {client:?}")]
    DoubledName { client: String },
    #[error(
        "clients {first:?} and {second:?} have the same `{key}`, so nobody knows which one calls"
    )]
    DoubledMark {
        first: String,
        second: String,
        key: &'static str,
    },
}

/// Reads what stands at `client`; everything that is wrong goes to `errors`.
pub(super) fn read(
    path: &Path,
    text: &str,
    value: &Spanned<DeValue<'_>>,
    errors: &mut Vec<ConfigError>,
) -> Vec<ClientConfig> {
    let mut reader = Reader { path, text, errors };
    let DeValue::Array(tables) = value.get_ref() else {
        reader.refuse(value.span().start, ClientError::Shape);
        return Vec::new();
    };
    let mut clients: Vec<ClientConfig> = Vec::new();
    for entry in tables {
        let start = entry.span().start;
        let DeValue::Table(table) = entry.get_ref() else {
            reader.refuse(start, ClientError::Shape);
            continue;
        };
        let Some(client) = reader.client(start, table) else {
            continue;
        };
        if let Some(error) = double(&clients, &client) {
            reader.refuse(start, error);
        }
        clients.push(client);
    }
    clients
}

/// What a client has in common with one before it.
fn double(earlier: &[ClientConfig], client: &ClientConfig) -> Option<ClientError> {
    earlier.iter().find_map(|other| {
        if other.name == client.name {
            return Some(ClientError::DoubledName {
                client: client.name.clone(),
            });
        }
        let mark = client
            .marks
            .iter()
            .find(|mark| other.marks.contains(mark))?;
        Some(ClientError::DoubledMark {
            first: other.name.clone(),
            second: client.name.clone(),
            key: mark.key(),
        })
    })
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    errors: &'a mut Vec<ConfigError>,
}

impl Reader<'_> {
    fn refuse(&mut self, at: usize, source: ClientError) {
        let line = line_of(self.text, at);
        self.errors.push(ConfigError::Client {
            place: format!("{}:{line}", self.path.display()),
            source,
        });
    }

    /// One table, or nothing where it was refused.
    fn client(&mut self, start: usize, table: &DeTable<'_>) -> Option<ClientConfig> {
        let before = self.errors.len();
        for (key, _) in table {
            if !KEYS.contains(&key.get_ref().as_ref()) {
                self.refuse(
                    key.span().start,
                    ClientError::UnknownKey {
                        key: crate::spec::printable(key.get_ref()),
                        closest: super::closest(key.get_ref(), KEYS.into_iter()),
                    },
                );
            }
        }
        let name = self.name(start, table)?;
        let roles = self.roles(&name, start, table);
        let mut marks = Vec::new();
        for key in [Digest::Token, Digest::Certificate] {
            marks.extend(self.digests(&name, key, table));
        }
        for key in [Word::Dns, Word::Uri, Word::Uid] {
            marks.extend(self.words(&name, key, table));
        }
        if self.errors.len() > before {
            return None;
        }
        if marks.is_empty() {
            self.refuse(start, ClientError::NoMark { client: name });
            return None;
        }
        Some(ClientConfig { name, roles, marks })
    }

    fn name(&mut self, start: usize, table: &DeTable<'_>) -> Option<String> {
        let Some(value) = table.get("name") else {
            self.refuse(start, ClientError::NoName);
            return None;
        };
        let is_name = |name: &str| {
            (1..=MAX_NAME).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b))
        };
        match value.get_ref() {
            DeValue::String(name) if is_name(name) => Some(name.clone().into_owned()),
            _ => {
                let shown = shown(self.text, value.span());
                self.refuse(value.span().start, ClientError::Name { value: shown });
                None
            }
        }
    }

    fn roles(&mut self, name: &str, start: usize, table: &DeTable<'_>) -> BTreeSet<Role> {
        let Some(value) = table.get("roles") else {
            let client = name.to_owned();
            self.refuse(start, ClientError::NoRoles { client });
            return BTreeSet::new();
        };
        let roles: Option<BTreeSet<Role>> = match value.get_ref() {
            DeValue::Array(roles) => roles
                .iter()
                .map(|role| match role.get_ref() {
                    DeValue::String(role) => Role::parse(role),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        roles.filter(|roles| !roles.is_empty()).unwrap_or_else(|| {
            let (client, value) = (name.to_owned(), value.span());
            let (at, value) = (value.start, shown(self.text, value));
            self.refuse(at, ClientError::Roles { client, value });
            BTreeSet::new()
        })
    }

    fn digests(&mut self, name: &str, key: Digest, table: &DeTable<'_>) -> Vec<Mark> {
        let mut marks = Vec::new();
        for value in one_or_more(table.get(key.name())) {
            let digest = scalar(value.get_ref()).and_then(|value| Form::Sha256.read(&value));
            let mark = digest.as_ref().and_then(toml::Value::as_str);
            match mark.and_then(|digest| key.mark(digest)) {
                Some(mark) => marks.push(mark),
                None => {
                    let (client, key) = (name.to_owned(), key.name());
                    self.refuse(value.span().start, ClientError::Digest { client, key });
                }
            }
        }
        marks
    }

    fn words(&mut self, name: &str, key: Word, table: &DeTable<'_>) -> Vec<Mark> {
        let mut marks = Vec::new();
        for value in one_or_more(table.get(key.name())) {
            match scalar(value.get_ref()).and_then(|value| key.mark(&value)) {
                Some(mark) => marks.push(mark),
                None => {
                    let error = ClientError::Value {
                        client: name.to_owned(),
                        key: key.name(),
                        value: shown(self.text, value.span()),
                        wanted: key.wanted(),
                    };
                    self.refuse(value.span().start, error);
                }
            }
        }
        marks
    }
}

/// The value, or those of a list. An empty list names nothing.
fn one_or_more<'a, 'b>(value: Option<&'a Spanned<DeValue<'b>>>) -> Vec<&'a Spanned<DeValue<'b>>> {
    match value {
        None => Vec::new(),
        Some(value) => match value.get_ref() {
            DeValue::Array(values) => values.iter().collect(),
            _ => vec![value],
        },
    }
}

/// Keys that hold a SHA-256.
#[derive(Clone, Copy)]
enum Digest {
    Token,
    Certificate,
}

impl Digest {
    fn name(self) -> &'static str {
        match self {
            Self::Token => "token_sha256",
            Self::Certificate => "certificate_sha256",
        }
    }

    fn mark(self, hexadecimal: &str) -> Option<Mark> {
        match self {
            Self::Token => TokenDigest::from_hex(hexadecimal).map(Mark::Token),
            Self::Certificate => Some(Mark::Certificate(hexadecimal.to_owned())),
        }
    }
}

/// Keys that hold something else.
#[derive(Clone, Copy)]
enum Word {
    Dns,
    Uri,
    Uid,
}

impl Word {
    fn name(self) -> &'static str {
        match self {
            Self::Dns => "certificate_dns",
            Self::Uri => "certificate_uri",
            Self::Uid => "uid",
        }
    }

    fn wanted(self) -> &'static str {
        match self {
            Self::Dns => "a DNS name as it stands in the certificate",
            Self::Uri => "a URI as it stands in the certificate",
            Self::Uid => "a user's number",
        }
    }

    fn mark(self, value: &toml::Value) -> Option<Mark> {
        let word = value.as_str().filter(|text| {
            !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
        });
        match self {
            // Names of hosts are the same in any case.
            Self::Dns => word.map(|name| Mark::Dns(name.to_ascii_lowercase())),
            Self::Uri => word
                .filter(|uri| uri.contains(':'))
                .map(|uri| Mark::Uri(uri.to_owned())),
            Self::Uid => value
                .as_integer()
                .and_then(|uid| u32::try_from(uid).ok())
                .map(Mark::Uid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    const DIGEST: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn parse(text: &str) -> (Vec<ClientConfig>, Vec<String>) {
        let mut errors = Vec::new();
        let content = file::parse(Path::new("/c.toml"), text, &mut errors);
        let errors = errors.iter().map(ToString::to_string).collect();
        (content.tables.clients, errors)
    }

    #[test]
    fn a_client_is_read_with_all_that_it_is_recognised_by() {
        let (clients, errors) = parse(&format!(
            "[[client]]\nname = \"ci\"\nroles = [\"operator\", \"secrets\"]\ntoken_sha256 = \"{}\"\n\
             certificate_sha256 = [\"{DIGEST}\"]\ncertificate_dns = [\"CI.example\", \"b\"]\n\
             certificate_uri = \"spiffe://a/b\"\nuid = 0\n",
            DIGEST.to_uppercase()
        ));
        assert_eq!(errors, [""; 0]);
        let [client] = clients.as_slice() else {
            panic!("{clients:?}")
        };
        assert_eq!(client.name, "ci");
        let roles: Vec<Role> = client.roles.iter().copied().collect();
        assert_eq!(roles, [Role::Operator, Role::Secrets]);
        assert_eq!(
            client.marks,
            [
                Mark::Token(TokenDigest::from_hex(DIGEST).unwrap()),
                Mark::Certificate(DIGEST.to_owned()),
                Mark::Dns("ci.example".to_owned()),
                Mark::Dns("b".to_owned()),
                Mark::Uri("spiffe://a/b".to_owned()),
                Mark::Uid(0),
            ]
        );
        // The digest of a token is for nobody's eyes.
        let shown = format!("{:?}", client.marks[0]);
        assert_eq!(shown, "Token(TokenDigest)");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_without_a_token() {
        const HEAD: &str = "[[client]]\nname = \"ci\"\nroles = [\"viewer\"]\n";
        let digest = format!("token_sha256 = \"{DIGEST}\"\n");
        let cases: &[(String, &[&str])] = &[
            ("client = 1\n".to_owned(), &["/c.toml:1", "[[client]]"]),
            (
                "[client]\nname = \"x\"\n".to_owned(),
                &["/c.toml:1", "[[client]]"],
            ),
            (
                format!("{HEAD}{digest}rolls = []\n"),
                &["/c.toml:5", "\"rolls\"", "closest one is \"roles\""],
            ),
            (
                format!("[[client]]\nroles = [\"viewer\"]\n{digest}"),
                &["/c.toml:1", "no `name`"],
            ),
            (
                format!("[[client]]\nname = \"a b\"\nroles = [\"viewer\"]\n{digest}"),
                &["/c.toml:2", "`name` is \"a b\""],
            ),
            (
                format!("[[client]]\nname = \"ci\"\n{digest}"),
                &[
                    "/c.toml:1",
                    "\"ci\" has no `roles`",
                    "viewer, operator, admin, secrets",
                ],
            ),
            (
                format!("[[client]]\nname = \"ci\"\nroles = [\"root\"]\n{digest}"),
                &[
                    "/c.toml:3",
                    "`roles` is [\"root\"]",
                    "viewer, operator, admin, secrets",
                ],
            ),
            (
                format!("[[client]]\nname = \"ci\"\nroles = []\n{digest}"),
                &["/c.toml:3", "`roles` is []"],
            ),
            (
                HEAD.to_owned(),
                &["/c.toml:1", "never be recognised", "token_sha256"],
            ),
            (
                format!("{HEAD}token_sha256 = \"a-token-itself\"\n"),
                &[
                    "/c.toml:4",
                    "\"ci\"",
                    "`token_sha256`",
                    "64 hexadecimal digits",
                ],
            ),
            (
                format!("{HEAD}certificate_sha256 = \"AB:CD\"\n"),
                &["/c.toml:4", "`certificate_sha256`"],
            ),
            (
                format!("{HEAD}certificate_uri = \"no uri\"\n"),
                &["/c.toml:4", "`certificate_uri` is \"no uri\""],
            ),
            (format!("{HEAD}uid = -1\n"), &["/c.toml:4", "`uid` is -1"]),
            (format!("{HEAD}uid = \"root\"\n"), &["`uid` is \"root\""]),
            (
                format!("{HEAD}uid = 1\n{HEAD}uid = 2\n"),
                &["/c.toml:5", "two clients are named \"ci\""],
            ),
            (
                format!("{HEAD}{digest}[[client]]\nname = \"b\"\nroles = [\"viewer\"]\n{digest}"),
                &["/c.toml:5", "\"ci\" and \"b\"", "`token_sha256`"],
            ),
        ];
        for (text, parts) in cases {
            let (_, errors) = parse(text);
            let [error] = errors.as_slice() else {
                panic!("{text}: {errors:?}")
            };
            for part in *parts {
                assert!(error.contains(part), "{part} in {error}");
            }
            assert!(!error.contains("a-token-itself"), "{error}");
        }
    }
}
