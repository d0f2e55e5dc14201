//! Content of the two 9p shares: `environment` with the secrets beside it, and the certificates.
//!
//! The file `environment` has one `NAME=value` a line, which is why a value with a newline is
//! refused: it could set any other variable.

use std::collections::BTreeMap;
use std::path::Path;

use zeroize::Zeroizing;

use super::error::CreateError;
use crate::spec::VmId;
use crate::spec::request::{Certificates, Secret, VmSpec};
use crate::store::VmFolder;

/// Tags and ids of the shares, as the predecessor's guests mount them.
pub const ENVIRONMENT_SHARE: &str = "env_share";
pub const CERTIFICATES_SHARE: &str = "certs_share";
/// Most variables and longest value; a share is configuration, not data.
pub const MAX_VARIABLES: usize = 256;
pub const MAX_VALUE: usize = 64 << 10;

/// Folder of the secrets, in the share of `environment`.
pub const SECRETS: &str = "secrets";
/// Most secrets, the largest one, and all together: keys and tokens, not data.
pub const MAX_SECRETS: usize = 64;
pub const MAX_SECRET: usize = 64 << 10;
pub const MAX_ALL_SECRETS: usize = 256 << 10;
/// Longest name, as of a VM's.
pub const MAX_SECRET_NAME: usize = 63;

/// What is wrong with a secret; its content is no part of it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecretError {
    #[error(
        "{name:?} is no name of a file: 1 to {MAX_SECRET_NAME} letters, digits, `.`, `_` and `-`, not starting with `.`"
    )]
    Name { name: String },
    #[error("{name} is larger than {} KiB", MAX_SECRET >> 10)]
    TooLarge { name: String },
    #[error("together they are larger than {} KiB", MAX_ALL_SECRETS >> 10)]
    TooLargeTogether,
    #[error("there are more than {MAX_SECRETS}")]
    TooMany,
}

pub fn check_secrets(secrets: &[(String, Secret<Vec<u8>>)]) -> Result<(), SecretError> {
    if secrets.len() > MAX_SECRETS {
        return Err(SecretError::TooMany);
    }
    let mut all = 0;
    for (name, content) in secrets {
        let fits = (1..=MAX_SECRET_NAME).contains(&name.len())
            && !name.starts_with('.')
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !fits {
            return Err(SecretError::Name {
                name: crate::spec::printable(name),
            });
        }
        let size = content.reveal().len();
        if size > MAX_SECRET {
            return Err(SecretError::TooLarge { name: name.clone() });
        }
        all += size;
    }
    if all > MAX_ALL_SECRETS {
        return Err(SecretError::TooLargeTogether);
    }
    Ok(())
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum VariableError {
    #[error("{name:?} is no variable name: letters, digits and `_`, not starting with a digit")]
    Name { name: String },
    #[error("the value of {name} holds {what}, which would break the line in `environment`")]
    Value { name: String, what: &'static str },
    #[error("the value of {name} is longer than {} KiB", MAX_VALUE >> 10)]
    TooLong { name: String },
    #[error("AGENT_CVM_ID is the VM's id, which the daemon sets")]
    Reserved,
    #[error("{name} is set twice")]
    Twice { name: String },
    #[error("more than {MAX_VARIABLES} variables")]
    TooMany,
}

/// Checks a list of variables. The value is never part of an error.
pub fn check_variables(variables: &[(String, Secret<String>)]) -> Result<(), VariableError> {
    if variables.len() > MAX_VARIABLES {
        return Err(VariableError::TooMany);
    }
    for (index, (name, value)) in variables.iter().enumerate() {
        let fits = name.len() <= 128
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !fits {
            return Err(VariableError::Name {
                name: crate::spec::printable(name),
            });
        }
        if name == "AGENT_CVM_ID" {
            return Err(VariableError::Reserved);
        }
        if variables[..index].iter().any(|(other, _)| other == name) {
            return Err(VariableError::Twice { name: name.clone() });
        }
        let value = value.reveal();
        let what = if value.contains('\0') {
            Some("a NUL")
        } else if value.contains([
            '\n', '\r', '\u{85}', '\u{2028}', '\u{2029}', '\u{b}', '\u{c}',
        ]) {
            Some("a line break")
        } else {
            None
        };
        if let Some(what) = what {
            return Err(VariableError::Value {
                name: name.clone(),
                what,
            });
        }
        if value.len() > MAX_VALUE {
            return Err(VariableError::TooLong { name: name.clone() });
        }
    }
    Ok(())
}

/// The folders of the shares, by device id: made from `spec` at the first start, and found again at
/// later ones, when the secrets are nowhere else.
pub fn provide(
    folder: &VmFolder,
    spec: &VmSpec,
    has_secrets: bool,
    id: VmId,
) -> Result<BTreeMap<String, String>, CreateError> {
    let environment_dir = folder.path().join("env");
    let certificates_dir = folder.path().join("certs");
    if !environment_dir.join("environment").exists() {
        // A first start has the secrets at hand.
        if has_secrets && !spec.has_secrets() {
            return Err(CreateError::SecretsGone);
        }
        // Half-made by a start that failed.
        for dir in [&environment_dir, &certificates_dir] {
            let _ = std::fs::remove_dir_all(dir);
        }
        let certificates_dir = folder.create_dir("certs")?;
        for (name, content) in certificates(&spec.certificates) {
            folder.create_file(&certificates_dir.join(name), 0o400, content)?;
        }
        let environment_dir = folder.create_dir("env")?;
        if !spec.secrets.is_empty() {
            let secrets_dir = folder.create_dir(&format!("env/{SECRETS}"))?;
            for (name, content) in &spec.secrets {
                folder.create_file(&secrets_dir.join(name), 0o400, content.reveal())?;
            }
        }
        // The last of them: where it is, all are.
        let content = environment(spec, &id.to_string());
        folder.create_file(
            &environment_dir.join("environment"),
            0o400,
            content.as_bytes(),
        )?;
    }
    Ok([
        (ENVIRONMENT_SHARE.to_owned(), text(&environment_dir)?),
        (CERTIFICATES_SHARE.to_owned(), text(&certificates_dir)?),
    ]
    .into())
}

/// QEMU's options are text.
pub(super) fn text(path: &Path) -> Result<String, CreateError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| CreateError::StateDirNotUtf8 {
            path: path.to_owned(),
        })
}

/// The file `environment`.
pub fn environment(spec: &VmSpec, id: &str) -> Zeroizing<String> {
    // Grown in place, it would leave copies behind.
    let size = spec
        .environment
        .iter()
        .map(|(name, value)| name.len() + value.reveal().len() + 2)
        .sum::<usize>();
    let mut text = Zeroizing::new(String::with_capacity(size + id.len() + 32));
    for (name, value) in &spec.environment {
        text.push_str(name);
        text.push('=');
        text.push_str(value.reveal());
        text.push('\n');
    }
    text.push_str("AGENT_CVM_ID=");
    text.push_str(id);
    text.push('\n');
    text
}

/// Name and content of each file of the certificate share that was given.
pub fn certificates(certificates: &Certificates) -> Vec<(&'static str, &[u8])> {
    [
        ("cert.pem", &certificates.client_certificate),
        ("key.pem", &certificates.client_key),
        ("ca.pem", &certificates.server_ca),
    ]
    .into_iter()
    .filter_map(|(name, content)| Some((name, content.as_ref()?.reveal().as_slice())))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, value: &str) -> (String, Secret<String>) {
        (name.to_owned(), Secret::new(value.to_owned()))
    }

    #[test]
    fn a_value_that_would_add_a_line_is_refused_without_showing_it() {
        for value in ["a\nX=1", "a\rX=1", "\0", "a\u{2028}X"] {
            let error = check_variables(&[variable("A", value)]).unwrap_err();
            assert!(matches!(error, VariableError::Value { .. }), "{value:?}");
            assert!(!error.to_string().contains(value), "{error}");
        }
        for name in ["", "1A", "A B", "A=", "Ä", "A\n"] {
            let error = check_variables(&[variable(name, "")]).unwrap_err();
            assert!(matches!(error, VariableError::Name { .. }), "{name:?}");
        }
        assert!(check_variables(&[variable("AGENT_CVM_ID", "x")]).is_err());
        assert!(check_variables(&[variable("A", "1"), variable("A", "2")]).is_err());
        check_variables(&[variable("A_1", "any=thing, \"ü\" ' $x"), variable("_B", "")]).unwrap();
    }

    #[test]
    fn a_secret_has_the_name_of_a_file_and_no_more_than_its_room() {
        let secret = |name: &str, size: usize| (name.to_owned(), Secret::new(vec![0x61; size]));
        let long = "a".repeat(MAX_SECRET_NAME + 1);
        for (name, fits) in [
            ("a", true),
            ("tls.key", true),
            ("-_.", true),
            (&long[1..], true),
            (&long, false),
            ("", false),
            (".", false),
            ("..", false),
            (".hidden", false),
            ("a/b", false),
            ("a b", false),
            ("ä", false),
            ("a\0", false),
        ] {
            assert_eq!(check_secrets(&[secret(name, 1)]).is_ok(), fits, "{name:?}");
        }
        let many = |count: usize, size: usize| -> Vec<_> {
            (0..count)
                .map(|number| secret(&number.to_string(), size))
                .collect()
        };
        for (secrets, wanted) in [
            (many(4, MAX_SECRET), None),
            (many(MAX_SECRETS, 0), None),
            (many(MAX_SECRETS + 1, 0), Some(SecretError::TooMany)),
            (many(5, MAX_SECRET), Some(SecretError::TooLargeTogether)),
            (
                many(1, MAX_SECRET + 1),
                Some(SecretError::TooLarge {
                    name: "0".to_owned(),
                }),
            ),
        ] {
            assert_eq!(check_secrets(&secrets).err(), wanted);
        }
    }

    #[test]
    fn the_file_has_one_line_a_variable_and_the_id() {
        let spec = VmSpec {
            environment: vec![variable("A", "1"), variable("B", "x y")],
            ..VmSpec::default()
        };
        assert_eq!(*environment(&spec, "ID"), "A=1\nB=x y\nAGENT_CVM_ID=ID\n");
    }
}
