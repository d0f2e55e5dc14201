//! Components as files: read with a limit, and written as a whole or not at all.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use casemate_host::backend::inspect::{Inspected, inspect};
use casemate_host::backend::signature::{self, Detached, Form};
use casemate_host::backend::{Limits, Tier, not_a_component};
use casemate_host::regular_file::{self, ReadError};
use casemate_registry::SignatureForm;
use tempfile::NamedTempFile;

use super::refused::Refused;

/// A daemon that runs as another user reads it.
const MODE: u32 = 0o644;
/// Longest name of a backend: it is a part of file names and of metrics.
const LONGEST_NAME: usize = 63;

/// The most that a daemon loads, in any tier.
pub(super) fn largest() -> u64 {
    Tier::Std.limits(Limits::default()).component_bytes as u64
}

/// The bytes of a file that begins as a component does.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Refused> {
    let bytes = regular_file::read(path, largest()).map_err(|error| match error {
        ReadError::Io(source) => Refused::Unreadable {
            path: path.to_owned(),
            source,
        },
        ReadError::TooLarge => Refused::TooLarge {
            path: path.to_owned(),
            limit: largest(),
        },
    })?;
    match not_a_component(&bytes) {
        None => Ok(bytes),
        Some(found) => Err(Refused::NotAComponent {
            what: path.display().to_string(),
            found,
        }),
    }
}

/// What it says of itself.
pub(super) fn look_into(what: &str, bytes: &[u8]) -> Result<Inspected, Refused> {
    inspect(bytes).map_err(|error| Refused::Component {
        what: what.to_owned(),
        reason: error.to_string(),
    })
}

/// Signatures beside a component, of whatever form.
pub(super) fn signatures_beside(path: &Path) -> Result<Vec<Detached>, Refused> {
    let mut found = Vec::new();
    for form in Form::ALL {
        found.extend(signature::read_beside(form, path)?);
    }
    Ok(found)
}

pub(super) fn stored(form: Form) -> SignatureForm {
    match form {
        Form::Cosign => SignatureForm::Cosign,
        Form::Minisign => SignatureForm::Minisign,
    }
}

pub(super) fn of_stored(form: SignatureForm) -> Form {
    match form {
        SignatureForm::Cosign => Form::Cosign,
        SignatureForm::Minisign => Form::Minisign,
    }
}

/// The component and its signatures. All of them are there before the first takes its place; they come
/// first, because a component that is there has them. A signature that lay beside the very same bytes
/// stays.
pub(super) fn write(path: &Path, bytes: &[u8], signatures: &[Detached]) -> Result<(), Refused> {
    std::fs::create_dir_all(folder_of(path)).map_err(unwritable(path))?;
    let is_same = regular_file::read(path, largest()).is_ok_and(|before| before == bytes);
    let staged = signatures.iter().map(|signature| {
        let beside = signature.form.beside(path);
        Ok((stage(&beside, &signature.bytes)?, beside))
    });
    let mut staged = staged.collect::<Result<Vec<_>, Refused>>()?;
    staged.push((stage(path, bytes)?, path.to_owned()));
    for (file, path) in staged {
        persist(file, &path)?;
    }
    for form in Form::ALL {
        if !is_same && !signatures.iter().any(|one| one.form == form) {
            remove(&form.beside(path))?;
        }
    }
    Ok(())
}

/// A signature of what lay there before is none of what lies there now.
fn remove(path: &Path) -> Result<(), Refused> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Refused::Unwritable {
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

pub(super) fn write_whole(path: &Path, content: &[u8]) -> Result<(), Refused> {
    persist(stage(path, content)?, path)
}

pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn unwritable(path: &Path) -> impl FnOnce(std::io::Error) -> Refused {
    |source| Refused::Unwritable {
        path: path.to_owned(),
        source,
    }
}

/// The content, beside its place.
fn stage(path: &Path, content: &[u8]) -> Result<NamedTempFile, Refused> {
    let written = || -> std::io::Result<NamedTempFile> {
        let mut file = NamedTempFile::new_in(folder_of(path))?;
        file.write_all(content)?;
        file.as_file()
            .set_permissions(Permissions::from_mode(MODE))?;
        file.as_file().sync_all()?;
        Ok(file)
    };
    written().map_err(unwritable(path))
}

fn persist(file: NamedTempFile, path: &Path) -> Result<(), Refused> {
    let moved = || -> std::io::Result<()> {
        file.persist(path)?;
        // The name, too, is to outlive a power cut.
        File::open(folder_of(path))?.sync_all()
    };
    moved().map_err(unwritable(path))
}

pub(super) fn check_name(name: &str) -> Result<(), Refused> {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let is_name = (1..=LONGEST_NAME).contains(&name.len())
        && name.bytes().all(is_letter)
        && !name.starts_with('.');
    match is_name {
        true => Ok(()),
        false => Err(Refused::Name {
            name: name.to_owned(),
        }),
    }
}

/// Of a file: its name without the ending.
pub(super) fn name_of(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy());
    stem.map_or_else(String::new, |stem| stem.into_owned())
}

/// As the daemon's config has it, which is read in another folder.
pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
