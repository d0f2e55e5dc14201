//! Files of a request: opened once. What was opened is what a backend reads and what QEMU gets.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::VmDefaults;
use super::error::CreateError;
use super::images::{ImagesConfig, Opened};
use super::sealed;
use crate::backend::settings::{SettingInput, SettingValue};
use crate::qemu::process::Credentials;
use crate::regular_file;
use crate::spec::Origin;
use crate::spec::files::{FileWishes, OwnFile};
use crate::spec::plan::{Finding, Severity, Value};
use crate::spec::request::{DataDiskFile, DiskImage, RequestFile, Setting};

/// The operator's files, and what of them is not for this VM.
#[derive(Clone, Copy)]
pub struct Operators<'a> {
    pub defaults: &'a VmDefaults,
    /// Firmware that fits the backend, best first: it comes before the built-in default, and is one
    /// itself.
    pub described: &'a [PathBuf],
    /// What the disk of an earlier start lies over.
    pub disk: Option<&'a DiskImage>,
    /// Whether the request has another file in place of the one with this role.
    pub is_replaced: &'a dyn Fn(&str) -> bool,
}

impl<'a> Operators<'a> {
    /// Of a VM that brings no files.
    pub fn all(defaults: &'a VmDefaults, described: &'a [PathBuf]) -> Self {
        Self {
            defaults,
            described,
            disk: None,
            is_replaced: &|_| false,
        }
    }
}

impl std::fmt::Debug for Operators<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operators").finish_non_exhaustive()
    }
}

/// Opens every file that config names, every built-in one that is there, and the files of settings;
/// `own` are those of the request, which are open already.
///
/// A built-in default that is missing is left out. One that was named and is missing keeps its
/// place, so that a backend chooses as it would with the file, and the plan that needs it fails.
pub fn open(
    operators: Operators<'_>,
    own: Vec<(OwnFile, Opened)>,
    settings: Vec<(SettingInput, Origin)>,
) -> (Vec<RequestFile>, Vec<Setting>) {
    let mut files = Files::default();
    // A disk of an earlier start stays over the image that it was made for.
    let is_replaced =
        |role: &str| (operators.is_replaced)(role) || (role == "disk" && operators.disk.is_some());
    for (role, path, origin) in operators.defaults.files() {
        if is_replaced(role) {
            continue;
        }
        let is_open_choice = role == "firmware" && origin == Origin::BuiltIn;
        let is_described = is_open_choice
            && operators
                .described
                .iter()
                .any(|path| files.open(role, path, origin).is_some());
        if !is_described {
            files.open(role, path, origin);
        }
    }
    if let Some(disk) = operators.disk
        && !(operators.is_replaced)("disk")
    {
        files.open("disk", &disk.path, Origin::Operator);
    }
    for (file, opened) in own {
        files.add_own(file, opened);
    }
    let mut resolved = Vec::new();
    for (input, origin) in settings {
        let value = match input.value {
            SettingValue::Plain(value) => value,
            SettingValue::File(path) => {
                match files.open(&format!("setting:{}", input.key), &path, origin) {
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
    (files.0, resolved)
}

/// Files of a request, numbered from 1.
#[derive(Default)]
struct Files(Vec<RequestFile>);

impl Files {
    fn open(&mut self, role: &str, path: &Path, origin: Origin) -> Option<u32> {
        let opened = regular_file::open(path);
        let opened = opened.and_then(|file| Ok((file.metadata()?.len(), file)));
        let (handle, size) = match opened {
            Ok((size, handle)) => (Ok(Arc::new(handle)), size),
            Err(_) if origin == Origin::BuiltIn => return None,
            Err(error) => (Err(Arc::new(error)), 0),
        };
        Some(self.add(role, path.to_owned(), origin, handle, size))
    }

    fn add_own(&mut self, file: OwnFile, opened: Opened) {
        let Opened {
            file: handle,
            path,
            size,
        } = opened;
        let handle = Ok(Arc::new(handle));
        self.add(file.role(), path, Origin::Request, handle, size);
    }

    fn add(
        &mut self,
        role: &str,
        path: PathBuf,
        origin: Origin,
        handle: Result<Arc<File>, Arc<std::io::Error>>,
        size: u64,
    ) -> u32 {
        // No config names so many files.
        let id = u32::try_from(self.0.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        self.0.push(RequestFile {
            id,
            role: role.to_owned(),
            path,
            size,
            origin,
            handle,
        });
        id
    }
}

/// Opens the files that a request names in place of the operator's. A caller hears of one that
/// cannot be opened whether or not a plan would need it.
pub fn open_own(
    images: &ImagesConfig,
    wishes: &FileWishes,
) -> Result<Vec<(OwnFile, Opened)>, CreateError> {
    let named = OwnFile::ALL
        .iter()
        .filter_map(|file| Some((*file, wishes.own_file(*file)?)));
    named
        .map(|(file, name)| {
            let opened = images.open(name, wishes.authority);
            let opened = opened.map_err(|source| CreateError::Image {
                field: format!("files.{}", file.role()),
                source,
            });
            Ok((file, opened?))
        })
        .collect()
}

/// Opens the images of a request's data disks.
pub fn open_data_disks(
    images: &ImagesConfig,
    wishes: &FileWishes,
) -> Result<Vec<DataDiskFile>, CreateError> {
    let disks = wishes.data_disks.iter();
    disks
        .map(|disk| {
            let opened = images.open(&disk.image, wishes.authority);
            let Opened { file, path, .. } = opened.map_err(|source| CreateError::Image {
                field: format!("data_disks.{}", disk.id),
                source,
            })?;
            Ok(DataDiskFile {
                disk: disk.clone(),
                path,
                handle: Arc::new(file),
            })
        })
        .collect()
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

/// Whether QEMU's user may open the file anew.
pub(super) fn is_readable(file: &File, credentials: Credentials) -> std::io::Result<bool> {
    Ok(match credentials {
        Credentials::Daemon => true,
        Credentials::User { .. } => file.metadata()?.mode() & 0o004 != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::files::{FileAuthority, FileName};
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

    fn opened(defaults: &VmDefaults, described: &[PathBuf]) -> (Vec<RequestFile>, Vec<Setting>) {
        open(Operators::all(defaults, described), Vec::new(), Vec::new())
    }

    #[test]
    fn a_requests_kernel_takes_the_place_of_the_operators_kernel_and_initrd() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        for name in ["kernel", "initrd", "own"] {
            std::fs::write(path(name), name).unwrap();
        }
        let flag = |role: &str| format!("vm.{role}={}", path(role).display());
        let (kernel, initrd) = (flag("kernel"), flag("initrd"));
        let defaults = defaults(&[&kernel, &initrd]);
        let own = Opened {
            file: File::open(path("own")).unwrap(),
            path: path("own"),
            size: 3,
        };
        let wishes = FileWishes {
            kernel: FileName::parse("own", FileAuthority::BelowRoots).ok(),
            ..FileWishes::default()
        };
        let is_replaced = |role: &str| wishes.replaces(role);
        let operators = Operators {
            is_replaced: &is_replaced,
            ..Operators::all(&defaults, &[])
        };
        let (files, _) = open(operators, vec![(OwnFile::Kernel, own)], Vec::new());
        let found = files.iter().filter(|file| file.origin != Origin::BuiltIn);
        let found: Vec<_> = found
            .map(|file| (file.role.as_str(), file.label(), file.origin))
            .collect();
        assert_eq!(found, [("kernel", "own".to_owned(), Origin::Request)]);
    }

    #[test]
    fn a_named_file_that_is_missing_is_an_error_and_a_built_in_one_is_left_out() {
        let (files, _) = opened(&defaults(&[]), &[]);
        assert!(files.iter().all(|file| file.origin == Origin::BuiltIn));
        assert!(!files.iter().any(|file| file.role == "kernel"));
        let defaults = defaults(&["vm.kernel=/no/such/kernel"]);
        let (files, _) = opened(&defaults, &[]);
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
            let (files, _) = opened(&defaults(flags), &described);
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
