//! Contexts: hosts by name, each with how its daemon is reached. They are kept in one file of the
//! user, which holds names of files and no secret.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::CliError;

/// As a VM's name.
const MAX_NAME: usize = 63;

/// Only its user reads what hosts there are.
const FOLDER_MODE: u32 = 0o700;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    pub(crate) endpoint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_cert: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client_cert: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client_key: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that `context use` named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

impl Contexts {
    pub(crate) fn get(&self, name: &str) -> Result<&Context, CliError> {
        self.contexts
            .get(name)
            .ok_or_else(|| CliError::ContextUnknown {
                name: name.to_owned(),
            })
    }

    pub(crate) fn set(&mut self, name: &str, context: Context) {
        self.contexts.insert(name.to_owned(), context);
    }

    /// Then no context is the current one, if it was this.
    pub(crate) fn remove(&mut self, name: &str) -> Result<(), CliError> {
        self.get(name)?;
        self.contexts.remove(name);
        self.current.take_if(|current| current == name);
        Ok(())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Context)> {
        self.contexts
            .iter()
            .map(|(name, context)| (name.as_str(), context))
    }
}

/// What `context set` takes.
pub(crate) fn check_name(name: &str) -> Result<(), CliError> {
    let is_name = (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if is_name {
        return Ok(());
    }
    Err(CliError::ContextName {
        name: name.to_owned(),
    })
}

/// The file that the contexts are in.
#[derive(Debug, Clone)]
pub(crate) struct ContextsFile {
    /// None where the user has no home.
    path: Option<PathBuf>,
}

impl ContextsFile {
    /// `$XDG_CONFIG_HOME`, else `~/.config`; a path that is not absolute is none, as the
    /// specification has it.
    pub(crate) fn of_this_user() -> Self {
        Self::below(
            std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from),
            std::env::var_os("HOME").map(PathBuf::from),
        )
    }

    fn below(config_home: Option<PathBuf>, home: Option<PathBuf>) -> Self {
        let absolute = |path: &PathBuf| path.is_absolute();
        let folder = config_home
            .filter(absolute)
            .or_else(|| Some(home.filter(absolute)?.join(".config")));
        Self {
            path: folder.map(|folder| folder.join("casemate").join("contexts.toml")),
        }
    }

    /// No file holds no contexts.
    pub(crate) fn read(&self) -> Result<Contexts, CliError> {
        let Some(path) = &self.path else {
            return Ok(Contexts::default());
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Contexts::default());
            }
            Err(error) => return Err(refused(path, "read", &error)),
        };
        toml::from_str(&text).map_err(|error| refused(path, "read", &error.message()))
    }

    /// As a whole or not at all, for its user alone.
    pub(crate) fn write(&self, contexts: &Contexts) -> Result<(), CliError> {
        let Some(path) = &self.path else {
            return Err(refused(
                Path::new("contexts.toml"),
                "written",
                &"neither XDG_CONFIG_HOME nor HOME is an absolute path",
            ));
        };
        let folder = path.parent().unwrap_or(path);
        let text = toml::to_string(contexts).map_err(|error| refused(path, "written", &error))?;
        let written = || -> std::io::Result<()> {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(FOLDER_MODE)
                .create(folder)?;
            // It is made with mode 0600.
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok(())
        };
        written().map_err(|error| refused(path, "written", &error))
    }
}

fn refused(path: &Path, what: &'static str, reason: &dyn std::fmt::Display) -> CliError {
    CliError::ContextsFile {
        path: path.to_owned(),
        what,
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn context(endpoint: &str) -> Context {
        Context {
            endpoint: endpoint.to_owned(),
            ca_cert: Some("/ca".into()),
            client_cert: None,
            client_key: None,
            token_file: None,
        }
    }

    #[test]
    fn what_is_written_is_read_and_its_users_alone() {
        let home = tempfile::tempdir().unwrap();
        let file = ContextsFile::below(None, Some(home.path().to_owned()));
        assert_eq!(file.read().unwrap(), Contexts::default());
        let mut contexts = Contexts::default();
        contexts.set("one", context("http://one:1"));
        contexts.set("two", context("http://two:1"));
        contexts.current = Some("one".to_owned());
        file.write(&contexts).unwrap();
        assert_eq!(file.read().unwrap(), contexts);
        let path = home.path().join(".config/casemate/contexts.toml");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);

        // Also where others could read it before; and nothing else is left beside it.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        contexts.remove("one").unwrap();
        assert_eq!(contexts.current, None);
        file.write(&contexts).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(path.parent().unwrap().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_none_is_told_with_its_name() {
        let home = tempfile::tempdir().unwrap();
        let file = ContextsFile::below(Some(home.path().to_owned()), None);
        let folder = home.path().join("casemate");
        std::fs::create_dir(&folder).unwrap();
        for text in [
            "current = 1",
            "[contexts.a]\n",
            "endpoint = 'x'",
            "no toml",
            "\u{1}",
        ] {
            std::fs::write(folder.join("contexts.toml"), text).unwrap();
            let error = file.read().unwrap_err();
            assert_eq!(error.id().as_str(), "contexts-file", "{text}");
            assert!(error.to_string().contains("contexts.toml"), "{error}");
        }
    }

    #[test]
    fn only_an_absolute_path_is_a_home() {
        let path = |config: Option<&str>, home: Option<&str>| {
            let file = ContextsFile::below(config.map(Into::into), home.map(Into::into));
            file.path.map(|path| path.display().to_string())
        };
        let of_home = Some("/h/.config/casemate/contexts.toml".to_owned());
        assert_eq!(path(None, Some("/h")), of_home);
        assert_eq!(path(Some(""), Some("/h")), of_home);
        assert_eq!(path(Some("c"), Some("/h")), of_home);
        assert_eq!(
            path(Some("/c"), Some("/h")),
            Some("/c/casemate/contexts.toml".to_owned())
        );
        assert_eq!(path(None, Some("h")), None);
        let error = ContextsFile::below(None, None).write(&Contexts::default());
        assert_eq!(error.unwrap_err().id().as_str(), "contexts-file");
    }

    #[test]
    fn names_have_a_form() {
        for name in ["prod", "a.b_c-1"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "a b", "a/b", "größe", &"a".repeat(64)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
