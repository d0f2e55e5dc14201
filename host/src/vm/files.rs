//! Files of a request: opened once. What was opened is what a backend reads and what QEMU gets.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::VmDefaults;
use super::error::CreateError;
use super::sealed;
use crate::backend::settings::{SettingInput, SettingValue};
use crate::qemu::process::Credentials;
use crate::regular_file;
use crate::spec::Origin;
use crate::spec::plan::{Finding, Severity, Value};
use crate::spec::request::{DiskImage, RequestFile, Setting};

/// Opens every file that config names, every built-in one that is there, and the files of settings.
///
/// A built-in default that is missing is left out. One that was named and is missing keeps its
/// place, so that a backend chooses as it would with the file, and the plan that needs it fails.
/// `described` is firmware that fits the backend, best first: it comes before the built-in default,
/// and is one itself.
pub fn open(
    defaults: &VmDefaults,
    settings: Vec<(SettingInput, Origin)>,
    disk: Option<&DiskImage>,
    described: &[PathBuf],
) -> (Vec<RequestFile>, Vec<Setting>) {
    let mut files = Vec::new();
    let mut next_id = 1;
    let mut add = |role: &str, path: &Path, origin: Origin| -> Option<u32> {
        let opened = regular_file::open(path);
        let opened = opened.and_then(|file| Ok((file.metadata()?.len(), file)));
        let (handle, size) = match opened {
            Ok((size, handle)) => (Ok(Arc::new(handle)), size),
            Err(_) if origin == Origin::BuiltIn => return None,
            Err(error) => (Err(Arc::new(error)), 0),
        };
        let id = next_id;
        next_id += 1;
        files.push(RequestFile {
            id,
            role: role.to_owned(),
            path: path.to_owned(),
            size,
            origin,
            handle,
        });
        Some(id)
    };
    // A disk of an earlier start stays over the image that it was made for.
    let is_replaced = |role: &str| role == "disk" && disk.is_some();
    for (role, path, origin) in defaults.files() {
        if is_replaced(role) {
            continue;
        }
        let is_open_choice = role == "firmware" && origin == Origin::BuiltIn;
        let is_described = is_open_choice
            && described
                .iter()
                .any(|path| add(role, path, origin).is_some());
        if !is_described {
            add(role, path, origin);
        }
    }
    if let Some(disk) = disk {
        add("disk", &disk.path, Origin::Operator);
    }
    let mut resolved = Vec::new();
    for (input, origin) in settings {
        let value = match input.value {
            SettingValue::Plain(value) => value,
            SettingValue::File(path) => {
                match add(&format!("setting:{}", input.key), &path, origin) {
                    Some(id) => Value::File(id),
                    None => continue,
                }
            }
        };
        resolved.push(Setting {
            key: input.key,
            value,
            origin,
        });
    }
    (files, resolved)
}

/// The error of a file that is needed and could not be opened.
pub fn missing(file: &RequestFile) -> Option<CreateError> {
    let source = file.open().err()?;
    Some(CreateError::File {
        role: file.role.clone(),
        path: file.path.clone(),
        source,
    })
}

/// Findings of a check, in which the host tells of files that were named and cannot be opened: a
/// backend only sees that they are empty.
pub fn with_missing(findings: Vec<Finding>, files: &[RequestFile]) -> Vec<Finding> {
    let mut findings = findings;
    for file in files {
        let Some(error) = file.open().err() else {
            continue;
        };
        let is_needed =
            |finding: &Finding| finding.subject == file.role && finding.severity == Severity::Fail;
        let severity = if findings.iter().any(is_needed) {
            Severity::Fail
        } else {
            Severity::Warn
        };
        findings.retain(|finding| finding.subject != file.role);
        findings.push(Finding {
            id: "file.unusable".to_owned(),
            severity,
            subject: file.role.clone(),
            detail: crate::spec::printable(&format!(
                "{} cannot be used: {error}",
                file.path.display()
            )),
            remedy: match file.role.strip_prefix("setting:") {
                Some(key) => format!("put the file there, or set the backend's `{key}` to another"),
                None => format!(
                    "put the file there, or set `{}` to another one",
                    VmDefaults::file_key(&file.role)
                ),
            },
        });
    }
    findings
}

/// Descriptors for QEMU, and the path under which QEMU opens each.
#[derive(Debug)]
pub struct Passed {
    pub descriptors: Vec<(OwnedFd, i32)>,
    pub paths: BTreeMap<u32, String>,
}

/// First descriptor number that files get in QEMU; below are the standard three and the host's own.
const FIRST_FD: i32 = 10;

/// Makes each file of `wanted` openable for a QEMU with `credentials`.
///
/// QEMU opens `/proc/self/fd/N` again, which asks for permission on the file itself. A file that
/// QEMU's user may not read is passed as a sealed copy in memory.
pub fn pass(
    files: &[RequestFile],
    wanted: impl Fn(u32) -> bool,
    credentials: Credentials,
) -> Result<Passed, CreateError> {
    let mut passed = Passed {
        descriptors: Vec::new(),
        paths: BTreeMap::new(),
    };
    for (number, file) in (FIRST_FD..).zip(files.iter().filter(|file| wanted(file.id))) {
        let error = |source| CreateError::File {
            role: file.role.clone(),
            path: file.path.clone(),
            source,
        };
        let handle = file.open().map_err(error)?;
        let descriptor = if is_readable(handle, credentials).map_err(error)? {
            handle.try_clone().map_err(error)?.into()
        } else {
            sealed::sealed_copy(handle).map_err(error)?.0.into()
        };
        passed.descriptors.push((descriptor, number));
        passed
            .paths
            .insert(file.id, format!("/proc/self/fd/{number}"));
    }
    Ok(passed)
}

fn is_readable(file: &File, credentials: Credentials) -> std::io::Result<bool> {
    Ok(match credentials {
        Credentials::Daemon => true,
        Credentials::User { .. } => file.metadata()?.mode() & 0o004 != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _, Write as _};
    use std::os::unix::fs::PermissionsExt as _;

    fn defaults(flags: &[&str]) -> VmDefaults {
        let inputs = crate::config::Inputs {
            file: crate::config::ConfigFile::Usual("/no/such/file".into()),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            environment: Vec::new(),
        };
        inputs.load().unwrap().config.vm
    }

    #[test]
    fn a_named_file_that_is_missing_is_an_error_and_a_built_in_one_is_left_out() {
        let (files, _) = open(&defaults(&[]), Vec::new(), None, &[]);
        assert!(files.iter().all(|file| file.origin == Origin::BuiltIn));
        assert!(!files.iter().any(|file| file.role == "kernel"));
        let defaults = defaults(&["vm.kernel=/no/such/kernel"]);
        let (files, _) = open(&defaults, Vec::new(), None, &[]);
        let kernel = files.iter().find(|file| file.role == "kernel").unwrap();
        match missing(kernel) {
            Some(CreateError::File { role, .. }) => assert_eq!(role, "kernel"),
            other => panic!("{other:?}"),
        }
        // It does not stand in the way of a launch that does not need it.
        pass(&files, |id| id != kernel.id, Credentials::Daemon).unwrap();
        pass(&files, |id| id == kernel.id, Credentials::Daemon).unwrap_err();
    }

    #[test]
    fn described_firmware_comes_after_what_somebody_named_and_before_a_built_in_file() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        for name in ["named", "first", "second"] {
            std::fs::write(path(name), name).unwrap();
        }
        let named = format!("vm.firmware={}", path("named").display());
        let missing = format!("vm.firmware={}", path("missing").display());
        for (flags, described, chosen) in [
            (&[][..], &["first", "second"][..], Some("first")),
            (&[], &["missing", "second"], Some("second")),
            (&[named.as_str()], &["first"], Some("named")),
            // It stands for what somebody wants, and a plan that needs it fails.
            (&[missing.as_str()], &["first"], Some("missing")),
        ] {
            let described: Vec<PathBuf> = described.iter().map(|name| path(name)).collect();
            let (files, _) = open(&defaults(flags), Vec::new(), None, &described);
            let firmware: Vec<_> = files
                .iter()
                .filter(|file| file.role == "firmware")
                .collect();
            let found: Vec<_> = firmware.iter().map(|file| file.label()).collect();
            assert_eq!(found, Vec::from_iter(chosen), "{flags:?}");
            let origin = if flags.is_empty() {
                Origin::BuiltIn
            } else {
                Origin::Operator
            };
            assert!(
                firmware.iter().all(|file| file.origin == origin),
                "{flags:?}"
            );
        }
    }

    #[test]
    fn a_private_file_reaches_another_user_as_a_sealed_copy() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("kernel");
        std::fs::write(&path, b"content").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let handle = regular_file::open(&path).unwrap();
        let file = RequestFile {
            id: 7,
            role: "kernel".to_owned(),
            path,
            size: 7,
            origin: Origin::Operator,
            handle: Ok(Arc::new(handle)),
        };
        let user = Credentials::User {
            uid: 65_534,
            gid: 65_534,
        };
        let passed = pass(std::slice::from_ref(&file), |_| true, user).unwrap();
        assert_eq!(passed.paths[&7], "/proc/self/fd/10");
        let mut copy = File::from(passed.descriptors.into_iter().next().unwrap().0);
        let mut content = String::new();
        copy.rewind().unwrap();
        copy.read_to_string(&mut content).unwrap();
        assert_eq!(content, "content");
        assert!(copy.write_all(b"x").is_err());
        let own = pass(&[file], |_| false, Credentials::Daemon).unwrap();
        assert!(own.descriptors.is_empty());
    }
}
