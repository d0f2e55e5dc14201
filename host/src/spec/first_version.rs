//! From which QEMU on there is a type or a property, by the word of the backend that uses it. It
//! decides nothing: whether the installed QEMU has a thing is asked of that QEMU, and this is for
//! the message where it has not.

use std::collections::BTreeMap;
use std::fmt;

/// A release of QEMU by its first two numbers, which is where features begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QemuVersion {
    major: u16,
    minor: u16,
}

impl QemuVersion {
    /// Two numbers with a dot, such as `9.1`, and nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        let version = Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
        };
        // Rust also reads `+9` and `09`.
        (version.to_string() == text).then_some(version)
    }

    /// Of a version as QEMU says it, with a third number (`10.0.2`).
    pub fn of_installed(text: &str) -> Option<Self> {
        let (release, _) = text.rsplit_once('.')?;
        Self::parse(release)
    }
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// First versions by name: `type`, or `type.property` with `*` for any index of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirstVersions(BTreeMap<String, QemuVersion>);

impl FirstVersions {
    /// What was said of the same name before, if anything was.
    pub fn insert(&mut self, name: String, version: QemuVersion) -> Option<QemuVersion> {
        self.0.insert(name, version)
    }

    pub fn of_type(&self, kind: &str) -> Option<QemuVersion> {
        self.0.get(kind).copied()
    }

    /// `path` as grants write it (`host-nodes.*`).
    pub fn of_property(&self, kind: &str, path: &str) -> Option<QemuVersion> {
        self.of_type(&format!("{kind}.{path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_two_numbers_with_a_dot() {
        for (text, wanted) in [
            ("9.1", Some((9, 1))),
            ("10.0", Some((10, 0))),
            ("", None),
            ("9", None),
            ("9.", None),
            (".1", None),
            ("9.1.0", None),
            ("09.1", None),
            ("+9.1", None),
            ("9.-1", None),
            (" 9.1", None),
            ("9.1-rc0", None),
            ("99999.1", None),
        ] {
            let wanted = wanted.map(|(major, minor)| QemuVersion { major, minor });
            assert_eq!(QemuVersion::parse(text), wanted, "{text:?}");
        }
    }

    /// In the order in which QEMU was released.
    #[test]
    fn versions_are_ordered_as_numbers() {
        let released = [
            "7.2.22", "8.0.0", "9.0.4", "9.1.0", "10.0.2", "10.1.0", "11.1.3",
        ];
        let versions = released.map(|text| QemuVersion::of_installed(text).expect(text));
        assert!(versions.is_sorted(), "{versions:?}");
        assert_eq!(versions.map(|version| version.to_string())[4], "10.0");
        for text in ["", "9", "9.1", "x.y.z", "9.1.0.1"] {
            assert_eq!(QemuVersion::of_installed(text), None, "{text:?}");
        }
    }
}
