//! The lock file: which component is meant, for whoever pulls next. It belongs beside the config that
//! it was made for, under version control.

use std::path::{Path, PathBuf};

use casemate_registry::{Digest, OrderedVersion, Reference};
use serde::{Deserialize, Serialize};

use super::component;
use super::refused::Refused;
use super::trust::Downgrade;

/// Where it lies, if nobody says otherwise.
pub(super) const FILE: &str = "casemate-backends.lock";
/// A hundred backends have some 40 KiB.
const LARGEST: u64 = 1 << 20;
/// Of the file's form.
const VERSION: u32 = 1;
const HEAD: &str = "# Written by `casemate backend pin`. Keep it under version control.\n";

#[derive(Clone, Debug)]
pub(super) struct Lock {
    path: PathBuf,
    is_there: bool,
    content: Content,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    #[serde(default, rename = "backend", skip_serializing_if = "Vec::is_empty")]
    backends: Vec<Pinned>,
}

/// One component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pinned {
    pub(super) name: String,
    /// Where it came from; none: from a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reference: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) manifest: Option<Digest>,
    #[serde(with = "hexadecimal")]
    pub(super) sha256: Digest,
    pub(super) size: u64,
    /// Whose signature was checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
}

/// As in the daemon's config: digits alone.
mod hexadecimal {
    use casemate_registry::Digest;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&digest.hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(from)?;
        Digest::from_hex(&text).map_err(serde::de::Error::custom)
    }
}

impl Pinned {
    fn reference(&self) -> Option<Reference> {
        self.reference.as_deref()?.parse().ok()
    }

    pub(super) fn from(&self) -> &str {
        self.reference.as_deref().unwrap_or("a file")
    }

    fn ordered(&self) -> OrderedVersion {
        OrderedVersion::lowest([self.version.as_deref()])
    }
}

impl Lock {
    pub(super) fn read(path: &Path) -> Result<Self, Refused> {
        let refused = |reason: String| Refused::Lock {
            path: path.to_owned(),
            what: "read",
            reason,
        };
        let bytes = casemate_host::regular_file::read(path, LARGEST);
        let bytes = bytes.map_err(|error| refused(error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|_| refused("it is no text".to_owned()))?;
        let content: Content =
            toml::from_str(&text).map_err(|error| refused(error.message().to_owned()))?;
        if content.version != VERSION {
            return Err(refused(format!(
                "it is of version {}, and this casemate knows {VERSION}",
                content.version
            )));
        }
        for pinned in &content.backends {
            if let Some(reference) = &pinned.reference
                && let Err(error) = reference.parse::<Reference>()
            {
                return Err(refused(error.to_string()));
            }
            component::check_name(&pinned.name).map_err(|error| refused(error.to_string()))?;
            // A version that is none would hold nothing.
            if let Some(version) = &pinned.version
                && OrderedVersion::of(version).text().is_none()
            {
                return Err(refused(format!("{version:?} is no version such as 1.2.0")));
            }
        }
        Ok(Self {
            path: path.to_owned(),
            is_there: true,
            content,
        })
    }

    /// A file that is not there pins nothing.
    pub(super) fn read_if_there(path: &Path) -> Result<Self, Refused> {
        match path.try_exists() {
            Ok(false) => Ok(Self {
                path: path.to_owned(),
                is_there: false,
                content: Content {
                    version: VERSION,
                    backends: Vec::new(),
                },
            }),
            _ => Self::read(path),
        }
    }

    pub(super) fn shown(&self) -> String {
        self.path.display().to_string()
    }

    /// What is pinned under that very reference: by its manifest's digest where it has one, else by its
    /// tag.
    pub(super) fn of_reference(&self, reference: &Reference) -> Option<&Pinned> {
        let mut all = self.of_name_and_tag(reference);
        match reference.digest() {
            None => all.next(),
            Some(digest) => {
                let mut all = self.of_repository(reference);
                all.find(|pinned| pinned.manifest == Some(digest))
            }
        }
    }

    fn of_repository(&self, reference: &Reference) -> impl Iterator<Item = &Pinned> {
        let all = self.content.backends.iter();
        let name = reference.name();
        all.filter(move |pinned| {
            let pinned = pinned.reference();
            pinned.is_some_and(|pinned| pinned.name() == name)
        })
    }

    fn of_name_and_tag(&self, reference: &Reference) -> impl Iterator<Item = &Pinned> {
        let tag = reference.tag().map(str::to_owned);
        self.of_repository(reference).filter(move |pinned| {
            let pinned = pinned.reference();
            tag.is_some() && pinned.is_some_and(|pinned| pinned.tag() == tag.as_deref())
        })
    }

    /// All that is pinned under that very reference.
    pub(super) fn exactly(&self, reference: &Reference) -> impl Iterator<Item = &Pinned> {
        let by_digest = reference.digest().and(self.of_reference(reference));
        self.of_name_and_tag(reference).chain(by_digest)
    }

    pub(super) fn of_content(&self, sha256: Digest) -> Option<&Pinned> {
        let mut all = self.content.backends.iter();
        all.find(|pinned| pinned.sha256 == sha256)
    }

    /// Another component under the same reference than the one that was pinned is refused.
    pub(super) fn check_content(
        &self,
        reference: &Reference,
        actual: Digest,
    ) -> Result<(), Refused> {
        let mut pins = self.exactly(reference).peekable();
        let first = pins.peek().map(|pinned| pinned.sha256);
        match first {
            Some(expected) if !pins.any(|pinned| pinned.sha256 == actual) => Err(Refused::Pin {
                what: reference.to_string(),
                expected,
                actual,
                by: self.shown(),
            }),
            _ => Ok(()),
        }
    }

    /// A version of the same repository that is older than a pinned one, or may be, is refused. What is
    /// pinned under that very reference was taken as it is; what is pinned elsewhere says nothing here.
    pub(super) fn check_version(
        &self,
        reference: &Reference,
        sha256: Digest,
        found: &OrderedVersion,
        downgrade: Downgrade,
    ) -> Result<(), Refused> {
        let is_same = |pinned: &Pinned| pinned.sha256 == sha256;
        if downgrade == Downgrade::Allowed || self.exactly(reference).any(is_same) {
            return Ok(());
        }
        // What is pinned already is no newer for being sold under another tag.
        let found = match self.of_repository(reference).find(|one| is_same(one)) {
            Some(pinned) => {
                &OrderedVersion::lowest([found.text().as_deref(), pinned.version.as_deref()])
            }
            None => found,
        };
        let mut all = self.of_repository(reference);
        let newer =
            all.find(|pinned| !is_same(pinned) && found.may_be_older_than(&pinned.ordered()));
        match newer {
            None => Ok(()),
            Some(pinned) => Err(Refused::Older {
                what: reference.to_string(),
                found: found.to_string(),
                pinned: pinned.ordered().to_string(),
                by: self.shown(),
            }),
        }
    }

    /// As [`Self::check_version`], of a file, which is known by its backend's name.
    pub(super) fn check_named_version(
        &self,
        name: &str,
        sha256: Digest,
        found: &OrderedVersion,
        downgrade: Downgrade,
        what: &str,
    ) -> Result<(), Refused> {
        if downgrade == Downgrade::Allowed {
            return Ok(());
        }
        let other = self.of_name(name).filter(|pinned| pinned.sha256 != sha256);
        match other {
            Some(pinned) if found.may_be_older_than(&pinned.ordered()) => Err(Refused::Older {
                what: what.to_owned(),
                found: found.to_string(),
                pinned: pinned.ordered().to_string(),
                by: self.shown(),
            }),
            _ => Ok(()),
        }
    }

    /// The name under which that very content is pinned.
    pub(super) fn check_file(
        &self,
        what: &str,
        name: &str,
        sha256: Digest,
    ) -> Result<&str, Refused> {
        match (self.of_content(sha256), self.of_name(name)) {
            // Under whatever name, unless the file has that of another.
            (Some(pinned), None) => Ok(&pinned.name),
            (Some(_), Some(pinned)) if pinned.sha256 == sha256 => Ok(&pinned.name),
            (_, Some(pinned)) => Err(Refused::Pin {
                what: what.to_owned(),
                expected: pinned.sha256,
                actual: sha256,
                by: self.shown(),
            }),
            (None, None) => Err(Refused::NotPinned {
                what: what.to_owned(),
                lock: self.shown(),
            }),
        }
    }

    pub(super) fn is_there(&self) -> bool {
        self.is_there
    }

    pub(super) fn of_name(&self, name: &str) -> Option<&Pinned> {
        let mut all = self.content.backends.iter();
        all.find(|pinned| pinned.name == name)
    }

    /// Under which the component is kept: as it is pinned, else as its repository is called. A backend
    /// of that name from elsewhere is not overwritten.
    pub(super) fn name_of<'a>(
        &'a self,
        reference: &'a Reference,
        sha256: Digest,
    ) -> Result<&'a str, Refused> {
        let mut pins = self.exactly(reference);
        if let Some(pinned) = pins.find(|pinned| pinned.sha256 == sha256) {
            return Ok(&pinned.name);
        }
        let name = reference.short_name();
        let is_other = |pinned: &&Pinned| {
            let from = pinned.reference();
            let is_same = from.is_some_and(|from| from.name() == reference.name());
            pinned.sha256 != sha256 && !is_same
        };
        match self.of_name(name).filter(is_other) {
            Some(pinned) => Err(Refused::NameTaken {
                what: reference.to_string(),
                name: name.to_owned(),
                lock: self.shown(),
                from: pinned.from().to_owned(),
            }),
            None => Ok(name),
        }
    }

    /// Nobody else pins anything until what is given back is dropped.
    pub(super) fn hold(&self) -> Result<std::fs::File, Refused> {
        let held = || {
            let folder = std::fs::File::open(component::folder_of(&self.path))?;
            folder.lock()?;
            Ok(folder)
        };
        held().map_err(|source: std::io::Error| Refused::Unwritable {
            path: self.path.clone(),
            source,
        })
    }

    /// As it is by now.
    pub(super) fn again(&self) -> Result<Self, Refused> {
        Self::read_if_there(&self.path)
    }

    /// In the place of what had the name before, which is given back.
    pub(super) fn pin(&mut self, pinned: Pinned) -> Option<Pinned> {
        let mut all = self.content.backends.iter_mut();
        if let Some(before) = all.find(|one| one.name == pinned.name) {
            return Some(std::mem::replace(before, pinned));
        }
        self.content.backends.push(pinned);
        self.content
            .backends
            .sort_by(|one, other| one.name.cmp(&other.name));
        None
    }

    pub(super) fn write(&self) -> Result<(), Refused> {
        let text = toml::to_string(&self.content).map_err(|error| Refused::Lock {
            path: self.path.clone(),
            what: "written",
            reason: error.to_string(),
        })?;
        component::write_whole(&self.path, format!("{HEAD}{text}").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned(name: &str, reference: &str, version: &str, content: &str) -> Pinned {
        Pinned {
            name: name.to_owned(),
            reference: Some(reference.to_owned()),
            version: Some(version.to_owned()),
            manifest: Some(Digest::of(b"manifest")),
            sha256: Digest::of(content.as_bytes()),
            size: 4,
            key: None,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let mut lock = Lock::read_if_there(&path).unwrap();
        assert_eq!(
            lock.pin(pinned("b", "r.example/b:1.0.0", "1.0.0", "b")),
            None
        );
        assert_eq!(
            lock.pin(pinned("a", "r.example/a:1.0.0", "1.0.0", "a")),
            None
        );
        let old = lock.pin(pinned("a", "r.example/a:1.1.0", "1.1.0", "c"));
        assert_eq!(old.unwrap().version.as_deref(), Some("1.0.0"));
        lock.write().unwrap();
        let read = Lock::read(&path).unwrap();
        assert_eq!(read.content.backends, lock.content.backends);
        assert_eq!(read.content.backends.len(), 2);
    }

    #[test]
    fn a_pin_holds_content_and_version() {
        let folder = tempfile::tempdir().unwrap();
        let mut lock = Lock::read_if_there(&folder.path().join(FILE)).unwrap();
        lock.pin(pinned("a", "r.example/a:1.1.0", "1.1.0", "a"));
        lock.pin(pinned("a-old", "r.example/a:0.9.0", "0.9.0", "old"));
        lock.pin(pinned("b", "r.example/b:1.0.0", "1.0.0", "b of another"));
        let digest = |content: &str| Digest::of(content.as_bytes());
        for (reference, version, content, holds) in [
            ("r.example/a:1.1.0", "1.1.0", "a", true),
            ("r.example/a:1.1.0", "1.1.0", "b", false),
            ("r.example/a:1.2.0", "1.2.0", "b", true),
            ("r.example/a:1.0.0", "1.0.0", "b", false),
            ("r.example/a:latest", "latest", "b", false),
            // The very component, under another tag.
            ("r.example/a:latest", "latest", "a", true),
            // An old one that is pinned too, and is no newer for the tag that it is sold under.
            ("r.example/a:0.9.0", "0.9.0", "old", true),
            ("r.example/a:1.2.0", "1.2.0", "old", false),
            ("r.example/a:latest", "latest", "old", false),
            // What another repository is trusted with.
            ("r.example/a:1.0.0", "1.0.0", "b of another", false),
            ("r.example/other:1.0.0", "1.0.0", "b", true),
            ("other.example/a:1.1.0", "1.1.0", "b", true),
        ] {
            let reference: Reference = reference.parse().unwrap();
            let version = OrderedVersion::of(version);
            let sha256 = digest(content);
            let checked = lock.check_content(&reference, sha256).and_then(|()| {
                lock.check_version(&reference, sha256, &version, Downgrade::Refused)
            });
            assert_eq!(checked.is_ok(), holds, "{reference} {version} {content}");
        }
        let older: Reference = "r.example/a:1.0.0".parse().unwrap();
        let version = OrderedVersion::of("1.0.0");
        let allowed = lock.check_version(&older, digest("b"), &version, Downgrade::Allowed);
        assert!(allowed.is_ok());
    }

    #[test]
    fn what_is_no_lock_file_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let entry = |name: &str, version: &str| {
            let sha256 = Digest::of(b"").hex();
            format!(
                "version = 1\n[[backend]]\nname = '{name}'\nversion = \"{version}\"\n\
                 sha256 = '{sha256}'\nsize = 1"
            )
        };
        std::fs::write(&path, entry("a", "1.0.0")).unwrap();
        assert!(Lock::read(&path).is_ok());
        for text in [
            "",
            "version = 2",
            "version = 1\n[[backend]]\nname = 'a'",
            "version = 1\n[[backend]]\nname = 'a'\nsha256 = '00'\nsize = 1",
            "version = 1\nother = 1",
            &entry("a", "one"),
            &entry("a", "\\u001b]0;x\\u0007"),
            &entry("../a", "1.0.0"),
            "\u{1}",
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Lock::read_if_there(&path).unwrap_err();
            assert_eq!(error.id().as_str(), "lock-file", "{text}");
        }
    }
}
