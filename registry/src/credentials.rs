//! Who this user is to a registry: the config file that `docker login` and its likes write, and the
//! programs that it names (`docker-credential-NAME`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::reference::Reference;

/// Largest config file and largest answer of a helper; both have some KiB.
const LARGEST: u64 = 1 << 20;
/// A helper may ask its user for a password or a touch of a key.
const HELPER_TIME: Duration = Duration::from_secs(60);
/// Under which the public registry of Docker is kept.
const DOCKER: (&str, &str) = ("docker.io", "https://index.docker.io/v1/");
/// User name of a helper's answer that is a token for another token.
const TOKEN_USER: &str = "<token>";
/// What a helper says of a registry that it does not know.
const NOT_FOUND: &str = "credentials not found";

/// No message has a part of a secret.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("the credentials in {path:?} cannot be read", path = .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path:?} is no config of Docker's: {reason}", path = .path.display())]
    Form { path: PathBuf, reason: String },
    #[error("{program:?} is named in {path:?} and is no name of a credential helper", path = .path.display())]
    HelperName { path: PathBuf, program: String },
    #[error("the credential helper {program} cannot be run")]
    HelperStart {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("the credential helper {program} did not answer within {} s", .time.as_secs())]
    HelperTime { program: String, time: Duration },
    #[error("the credential helper {program} failed: {reason}")]
    Helper { program: String, reason: String },
}

/// Is overwritten when dropped, and never shown.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl std::ops::Deref for Secret {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

/// What is shown to a registry, or to who gives out its tokens.
#[derive(Clone)]
pub enum Credential {
    Password {
        user: String,
        password: Secret,
    },
    /// Is exchanged for the token of one registry (OAuth 2.0, `refresh_token`).
    Identity(Secret),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::Identity(_) => "Identity",
        })
    }
}

/// `config.json` of Docker. Podman and others read and write it too.
#[derive(Debug, Default)]
pub struct DockerConfig {
    path: PathBuf,
    content: Content,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Content {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<Secret>,
    username: Option<String>,
    password: Option<Secret>,
    identitytoken: Option<Secret>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth")
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: Secret,
}

impl DockerConfig {
    /// `$DOCKER_CONFIG/config.json`, or `~/.docker/config.json`.
    pub fn path(docker_config: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
        let given = docker_config.filter(|path| !path.as_os_str().is_empty());
        let folder =
            given.or_else(|| Some(home.filter(|home| home.is_absolute())?.join(".docker")));
        Some(folder?.join("config.json"))
    }

    /// A file that is not there has no credentials.
    pub fn read(path: &Path) -> Result<Self, CredentialError> {
        let unreadable = |source| CredentialError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let text = match std::fs::File::open(path) {
            Ok(file) => {
                use std::io::Read as _;
                let mut text = Zeroizing::new(Vec::new());
                let read = file.take(LARGEST + 1).read_to_end(&mut text);
                read.map_err(unreadable)?;
                text
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(unreadable(error)),
        };
        if text.len() as u64 > LARGEST {
            return Err(unreadable(io::Error::other("it is larger than 1 MiB")));
        }
        let content = serde_json::from_slice(&text).map_err(|error| CredentialError::Form {
            path: path.to_owned(),
            // The parser's own words may repeat a value.
            reason: format!("at line {}, column {}", error.line(), error.column()),
        })?;
        Ok(Self {
            path: path.to_owned(),
            content,
        })
    }

    /// A helper of the registry comes before what the file itself holds, as for Docker.
    pub async fn credential(
        &self,
        reference: &Reference,
    ) -> Result<Option<Credential>, CredentialError> {
        let registry = reference.registry();
        let helper = of_registry(&self.content.cred_helpers, registry);
        match helper.or(self.content.creds_store.as_ref()) {
            Some(name) => self.ask_helper(name, registry).await,
            None => match of_registry(&self.content.auths, registry) {
                Some(auth) => self.in_file(auth),
                None => Ok(None),
            },
        }
    }

    fn in_file(&self, auth: &Auth) -> Result<Option<Credential>, CredentialError> {
        let present = |text: &&Secret| !text.is_empty();
        if let Some(token) = auth.identitytoken.as_ref().filter(present) {
            return Ok(Some(Credential::Identity(token.clone())));
        }
        if let (Some(user), Some(password)) = (&auth.username, &auth.password) {
            return Ok(Some(Credential::Password {
                user: user.clone(),
                password: password.clone(),
            }));
        }
        let Some(encoded) = auth.auth.as_ref().filter(present) else {
            return Ok(None);
        };
        let form = || CredentialError::Form {
            path: self.path.clone(),
            reason: "an `auth` is not base64 of USER:PASSWORD".to_owned(),
        };
        let decoded = STANDARD.decode(encoded.trim()).map_err(|_| form())?;
        let decoded = String::from_utf8(decoded).map_err(|_| form())?;
        let decoded = Zeroizing::new(decoded);
        let (user, password) = decoded.split_once(':').ok_or_else(form)?;
        Ok(Some(Credential::Password {
            user: user.to_owned(),
            password: Secret::new(password.trim_end_matches('\0').to_owned()),
        }))
    }

    async fn ask_helper(
        &self,
        name: &str,
        registry: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        let program = format!("docker-credential-{name}");
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_name) {
            return Err(CredentialError::HelperName {
                path: self.path.clone(),
                program,
            });
        }
        let asked = if registry == DOCKER.0 {
            DOCKER.1
        } else {
            registry
        };
        let answer = tokio::time::timeout(HELPER_TIME, run_helper(&program, asked)).await;
        let answer = answer.map_err(|_| CredentialError::HelperTime {
            program: program.clone(),
            time: HELPER_TIME,
        })?;
        let (is_done, output) = answer.map_err(|source| CredentialError::HelperStart {
            program: program.clone(),
            source,
        })?;
        if !is_done {
            // A helper writes why to standard output, and there is no secret in that.
            let said: String = String::from_utf8_lossy(&output)
                .chars()
                .filter(|one| !one.is_control())
                .take(200)
                .collect();
            if said.to_lowercase().contains(NOT_FOUND) {
                return Ok(None);
            }
            return Err(CredentialError::Helper {
                program,
                reason: said,
            });
        }
        let answer: HelperAnswer =
            serde_json::from_slice(&output).map_err(|_| CredentialError::Helper {
                program,
                reason: "its answer is no JSON with Username and Secret".to_owned(),
            })?;
        Ok(Some(match answer.username == TOKEN_USER {
            true => Credential::Identity(answer.secret),
            false => Credential::Password {
                user: answer.username,
                password: answer.secret,
            },
        }))
    }
}

/// Keys are hosts, or addresses of older forms with them.
fn of_registry<'a, Value>(table: &'a BTreeMap<String, Value>, registry: &str) -> Option<&'a Value> {
    let exact = table.get(registry);
    let docker = (registry == DOCKER.0)
        .then(|| table.get(DOCKER.1))
        .flatten();
    exact.or(docker).or_else(|| {
        let mut keys = table.iter();
        let found = keys.find(|(key, _)| {
            let key = key.strip_prefix("https://").unwrap_or(key);
            let key = key.strip_prefix("http://").unwrap_or(key);
            key.split('/').next() == Some(registry)
        });
        found.map(|(_, value)| value)
    })
}

/// Whether it did what it was to, and what it wrote.
async fn run_helper(program: &str, registry: &str) -> io::Result<(bool, Zeroizing<Vec<u8>>)> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the user's own config names the program; the daemon has no part in it"
    )]
    let mut command = Command::new(program);
    let mut child = command
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // One that knows without being asked may have closed it.
        let _ = input.write_all(format!("{registry}\n").as_bytes()).await;
    }
    let mut output = Zeroizing::new(Vec::new());
    if let Some(pipe) = child.stdout.take() {
        pipe.take(LARGEST).read_to_end(&mut output).await?;
    }
    Ok((child.wait().await?.success(), output))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<DockerConfig, CredentialError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        DockerConfig::read(&path)
    }

    fn told(credential: Option<Credential>) -> String {
        match credential {
            None => "nobody".to_owned(),
            Some(Credential::Password { user, password }) => format!("{user} {}", &*password),
            Some(Credential::Identity(token)) => format!("token {}", &*token),
        }
    }

    #[tokio::test]
    async fn the_forms_that_docker_writes_are_read() {
        let text = r#"{"auths": {
            "r.example:5000": {"auth": "dXNlcjpwYTpzcw=="},
            "https://old.example/v2/": {"username": "u", "password": "p"},
            "t.example": {"auth": "", "identitytoken": "abc"},
            "empty.example": {},
            "https://index.docker.io/v1/": {"auth": "ZDpk"}
        }, "HttpHeaders": {}}"#;
        let config = config(text).unwrap();
        for (registry, who) in [
            ("r.example:5000", "user pa:ss"),
            ("r.example", "nobody"),
            ("old.example", "u p"),
            ("t.example", "token abc"),
            ("empty.example", "nobody"),
            ("docker.io", "d d"),
        ] {
            let reference = format!("{registry}/a:1").parse().unwrap();
            let credential = config.credential(&reference).await.unwrap();
            assert_eq!(told(credential), who, "{registry}");
        }
    }

    #[tokio::test]
    async fn what_is_no_config_is_told_without_what_is_in_it() {
        let reference = "r.example/a:1".parse().unwrap();
        for text in [
            r#"{"auths": {"r.example": {"auth": "SECRET!"}}}"#,
            r#"{"auths": {"r.example": {"auth": "U0VDUkVU"}}}"#,
            r#"{"auths": {"r.example": {"auth": ["SECRET"]}}}"#,
            r#"{"credHelpers": {"r.example": "../SECRET"}}"#,
            "SECRET",
        ] {
            let error = match config(text) {
                Ok(config) => config.credential(&reference).await.unwrap_err(),
                Err(error) => error,
            };
            let is_helper = matches!(error, CredentialError::HelperName { .. });
            assert!(
                is_helper || !error.to_string().contains("SECRET"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_lies_where_docker_has_it() {
        let path = |given: Option<&str>, home: Option<&str>| {
            let path = DockerConfig::path(given.map(Into::into), home.map(Into::into));
            path.map(|path| path.display().to_string())
        };
        assert_eq!(path(Some("d"), None).as_deref(), Some("d/config.json"));
        assert_eq!(
            path(Some(""), Some("/h")).as_deref(),
            Some("/h/.docker/config.json")
        );
        assert_eq!(path(None, Some("h")), None);
        let missing = DockerConfig::read(Path::new("/nowhere/config.json"));
        assert!(missing.is_ok());
    }
}
