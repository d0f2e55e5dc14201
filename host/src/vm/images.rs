//! Files that a request names, opened below the operator's image roots.
//!
//! A name is looked up below each root in turn and opened once, by the kernel's own rules
//! (`openat2`): no step of the way leaves the root, whatever is renamed meanwhile, and none goes
//! through a magic link of `/proc`. What was opened is judged and used, and never found again by its
//! name. A kernel without `openat2` opens nothing: there is no weaker way.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::Deserialize;

use super::config::paths;
use crate::config::form::Form;
use crate::config::key::Key;
use crate::spec::Origin;
use crate::spec::files::{FileAuthority, FileName};

/// Where requests find their files.
pub const ROOTS: &str = "images.roots";

/// Keys of this module, in the order of the documented file.
pub const KEYS: &[Key] = &[Key::new(
    ROOTS,
    Form::Text,
    "/var/lib/casemate/images",
    "Folders with the files that a request may name, separated by `:`; the first one that has the \
     name counts. Links may not lead out of a root. Empty: none.",
)
.empty_is_a_value()];

/// Tries at a way that somebody changes while it is walked. The kernel says so (EAGAIN) rather than
/// to be wrong; one that changes so often is no accident.
const TRIES: usize = 64;

/// File systems whose files are the kernel's own words and switches, by their magic (statfs(2)).
const PSEUDO: [(u64, &str); 21] = [
    (0x0000_1cd1, "devpts"),
    (0x0000_9fa0, "proc"),
    (0x0027_e0eb, "cgroup"),
    (0x0904_1934, "anonymous inodes"),
    (0x1980_0202, "mqueue"),
    (0x4249_4e4d, "binfmt_misc"),
    (0x4341_5d53, "smackfs"),
    (0x5049_5045, "pipefs"),
    (0x534f_434b, "sockfs"),
    (0x6165_676c, "pstore"),
    (0x6265_6570, "configfs"),
    (0x6265_6572, "sysfs"),
    (0x6367_7270, "cgroup2"),
    (0x6462_6720, "debugfs"),
    (0x6e73_6673, "nsfs"),
    (0x7363_6673, "securityfs"),
    (0x7472_6163, "tracefs"),
    (0x9584_58f6, "hugetlbfs"),
    (0xcafe_4a11, "bpf"),
    (0xde5e_81e4, "efivarfs"),
    (0xf97c_ff8c, "selinuxfs"),
];

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{name:?} is in none of the image roots ({roots})")]
    NotFound { name: String, roots: String },
    #[error("there is no {path:?}", path = .path.display())]
    Absent { path: PathBuf },
    #[error("{name:?} is a name below an image root, and the config has none")]
    NoRoots { name: String },
    #[error("the image root {root:?} cannot be opened: {source}", root = .root.display())]
    Root { root: PathBuf, source: Errno },
    #[error("{name:?} leads out of the image root {root:?}", root = .root.display())]
    Outside { name: String, root: PathBuf },
    #[error("{name:?} is an absolute path, and the VM's caller names what lies below image roots")]
    NotAllowed { name: String },
    #[error("{path:?} goes through a magic link, or through too many links", path = .path.display())]
    Links { path: PathBuf },
    #[error("{path:?} was changed each time that it was to be opened", path = .path.display())]
    Restless { path: PathBuf },
    #[error("{path:?} is {what}, and no regular file", path = .path.display())]
    NotRegular { path: PathBuf, what: &'static str },
    #[error("{path:?} lies on {file_system}, which holds no images", path = .path.display())]
    Pseudo {
        path: PathBuf,
        file_system: &'static str,
    },
    #[error("this kernel cannot keep a name below its root: it has no openat2")]
    NoOpenat2,
    #[error("{path:?} cannot be opened: {source}", path = .path.display())]
    Open { path: PathBuf, source: Errno },
}

impl ImageError {
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotFound { .. } | Self::Absent { .. } => {
                "put the file there, or name one that is there"
            }
            Self::NoRoots { .. } | Self::Root { .. } => {
                "set `images.roots` in the config file to folders that are there"
            }
            Self::NotAllowed { .. } => "give a name below one of the image roots",
            Self::Outside { .. } => "put the file itself below the root, in place of the link",
            Self::Links { .. }
            | Self::NotRegular { .. }
            | Self::Pseudo { .. }
            | Self::Restless { .. } => "name a regular file of an ordinary file system",
            Self::NoOpenat2 => {
                "run Linux 5.6 or newer, and see that no filter of system calls forbids openat2"
            }
            Self::Open { .. } => "see that the daemon may read it",
        }
    }
}

/// Where requests find their files.
#[derive(Clone, Debug, Deserialize)]
pub struct ImagesConfig {
    roots: String,
    /// Who said it: the built-in root need not be there.
    #[serde(skip, default = "built_in")]
    pub origin: Origin,
}

fn built_in() -> Origin {
    Origin::BuiltIn
}

/// A file that a request named, as it was opened.
#[derive(Debug)]
pub struct Opened {
    pub file: File,
    pub path: PathBuf,
    pub size: u64,
}

impl ImagesConfig {
    pub fn roots(&self) -> impl Iterator<Item = PathBuf> {
        paths(&self.roots)
    }

    /// Roots that somebody named and that cannot be opened, and why.
    pub fn unusable_roots(&self) -> Vec<(PathBuf, Errno)> {
        let is_fatal = |error: &Errno| !self.is_missing_by_default(*error);
        self.roots()
            .filter_map(|root| {
                let error = open_root(&root).err().filter(is_fatal)?;
                Some((root, error))
            })
            .collect()
    }

    /// Roots that are there.
    pub fn usable_roots(&self) -> impl Iterator<Item = PathBuf> {
        self.roots().filter(|root| open_root(root).is_ok())
    }

    fn is_missing_by_default(&self, error: Errno) -> bool {
        self.origin == Origin::BuiltIn && error == Errno::NOENT
    }

    /// Opens the file of that name.
    pub fn open(&self, name: &FileName, authority: FileAuthority) -> Result<Opened, ImageError> {
        if name.is_absolute() {
            return open_absolute(name, authority);
        }
        let mut roots = Vec::new();
        for root in self.roots() {
            let handle = match open_root(&root) {
                Ok(handle) => handle,
                Err(error) if self.is_missing_by_default(error) => continue,
                Err(source) => return Err(ImageError::Root { root, source }),
            };
            match open_at(&handle, name.as_path(), ResolveFlags::BENEATH) {
                Ok(file) => return regular(file, root.join(name.as_path())),
                // The next one may have it.
                Err(Errno::NOENT | Errno::NOTDIR) => roots.push(root.display().to_string()),
                Err(Errno::XDEV) => {
                    let name = name.as_str().to_owned();
                    return Err(ImageError::Outside { name, root });
                }
                Err(error) => return Err(refusal(error, root.join(name.as_path()))),
            }
        }
        let name = name.as_str().to_owned();
        Err(if roots.is_empty() {
            ImageError::NoRoots { name }
        } else {
            ImageError::NotFound {
                name,
                roots: roots.join(", "),
            }
        })
    }
}

fn open_absolute(name: &FileName, authority: FileAuthority) -> Result<Opened, ImageError> {
    let path = name.as_path().to_owned();
    // A record that somebody edited gives nobody more than its own word.
    if authority == FileAuthority::BelowRoots {
        return Err(ImageError::NotAllowed {
            name: name.as_str().to_owned(),
        });
    }
    match open_at(rustix::fs::CWD, &path, ResolveFlags::empty()) {
        Ok(file) => regular(file, path),
        Err(error) => Err(refusal(error, path)),
    }
}

fn open_root(root: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(root, flags, Mode::empty())
}

/// Never waits for a writer of a pipe, and takes no terminal.
fn open_at(folder: impl AsFd, path: &Path, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 1;
    loop {
        match rustix::fs::openat2(&folder, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < TRIES => tries += 1,
            outcome => return outcome,
        }
    }
}

fn refusal(error: Errno, path: PathBuf) -> ImageError {
    match error {
        Errno::NOENT | Errno::NOTDIR => ImageError::Absent { path },
        Errno::LOOP => ImageError::Links { path },
        Errno::AGAIN => ImageError::Restless { path },
        // Nobody is at the other end of it: a socket, or a device that is none.
        Errno::NXIO => ImageError::NotRegular {
            path,
            what: "a socket or a device",
        },
        Errno::NOSYS => ImageError::NoOpenat2,
        source => ImageError::Open { path, source },
    }
}

fn regular(file: OwnedFd, path: PathBuf) -> Result<Opened, ImageError> {
    let open = |source| ImageError::Open {
        path: path.clone(),
        source,
    };
    let found = rustix::fs::fstat(&file).map_err(open)?;
    let what = match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => None,
        FileType::Directory => Some("a folder"),
        FileType::Fifo => Some("a pipe"),
        FileType::CharacterDevice | FileType::BlockDevice => Some("a device"),
        _ => Some("something else"),
    };
    if let Some(what) = what {
        return Err(ImageError::NotRegular { path, what });
    }
    let magic = rustix::fs::fstatfs(&file).map_err(open)?.f_type;
    // 32 bits of it count, in a field that has a sign on some machines.
    #[expect(clippy::cast_sign_loss, reason = "the low 32 bits are compared")]
    let magic = magic as u64 & 0xffff_ffff;
    if let Some((_, file_system)) = PSEUDO.iter().find(|(known, _)| *known == magic) {
        return Err(ImageError::Pseudo { path, file_system });
    }
    Ok(Opened {
        size: u64::try_from(found.st_size).unwrap_or_default(),
        file: File::from(file),
        path,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn config(roots: &[&Path], origin: Origin) -> ImagesConfig {
        let roots: Vec<String> = roots
            .iter()
            .map(|root| root.display().to_string())
            .collect();
        ImagesConfig {
            roots: roots.join(":"),
            origin,
        }
    }

    fn name(text: &str) -> FileName {
        FileName::parse(text, FileAuthority::WholeHost).expect("a name")
    }

    #[test]
    fn the_first_root_that_has_the_name_counts() {
        let temp = tempfile::tempdir().expect("a folder");
        let roots = ["one", "two"].map(|root| temp.path().join(root));
        for root in &roots {
            std::fs::create_dir(root).expect("a folder");
            std::fs::write(root.join("both"), root.display().to_string()).expect("a file");
        }
        std::fs::write(roots[1].join("second"), "2").expect("a file");
        let config = config(&[&roots[0], &roots[1]], Origin::Operator);
        for (text, root) in [("both", &roots[0]), ("second", &roots[1])] {
            let mut opened = config
                .open(&name(text), FileAuthority::BelowRoots)
                .expect(text);
            assert_eq!(opened.path, root.join(text));
            let mut content = String::new();
            opened.file.read_to_string(&mut content).expect("it reads");
            assert_eq!(content.len() as u64, opened.size);
        }
        let missing = config.open(&name("third"), FileAuthority::BelowRoots);
        let missing = missing.expect_err("it is in neither").to_string();
        for root in &roots {
            assert!(missing.contains(&root.display().to_string()), "{missing}");
        }
    }

    #[test]
    fn a_root_that_is_missing_matters_where_somebody_named_it() {
        let root = Path::new("/no/such/root");
        let open = |origin| {
            let opened = config(&[root], origin).open(&name("x"), FileAuthority::BelowRoots);
            opened.expect_err("there is nothing")
        };
        let named = open(Origin::Operator);
        assert!(matches!(named, ImageError::Root { .. }), "{named}");
        let built_in = open(Origin::BuiltIn);
        assert!(matches!(built_in, ImageError::NoRoots { .. }), "{built_in}");
        assert!(config(&[root], Origin::BuiltIn).unusable_roots().is_empty());
        assert_eq!(config(&[root], Origin::Operator).unusable_roots().len(), 1);
    }

    #[test]
    fn an_absolute_name_takes_the_authority_also_later() {
        let temp = tempfile::NamedTempFile::new().expect("a file");
        let path = temp.path().display().to_string();
        let config = config(&[], Origin::Operator);
        config
            .open(&name(&path), FileAuthority::WholeHost)
            .expect("it is there");
        config
            .open(&name(&path), FileAuthority::BelowRoots)
            .expect_err("not for this caller");
    }

    /// No kernel of a test is without it.
    #[test]
    fn without_openat2_nothing_is_opened() {
        let error = refusal(Errno::NOSYS, PathBuf::from("x"));
        assert!(matches!(error, ImageError::NoOpenat2), "{error}");
    }
}
