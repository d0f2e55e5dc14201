//! What a backend may do: the intersection of what it announces and what config grants.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::facts::FactQuestion;

/// A fact a backend may ask for. A `*` at the end of the pattern stands for any rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FactPattern {
    pub fact: String,
    #[serde(default)]
    pub pattern: String,
}

impl FactPattern {
    pub fn matches(&self, question: &FactQuestion) -> bool {
        self.fact == question.function() && matches_pattern(&self.pattern, &question.argument())
    }

    /// Whether everything that `other` matches is matched by this pattern too.
    pub fn covers(&self, other: &FactPattern) -> bool {
        if self.fact != other.fact {
            return false;
        }
        match (
            self.pattern.strip_suffix('*'),
            other.pattern.strip_suffix('*'),
        ) {
            (Some(own), Some(theirs)) => theirs.starts_with(own),
            (Some(own), None) => other.pattern.starts_with(own),
            (None, Some(_)) => false,
            (None, None) => self.pattern == other.pattern,
        }
    }
}

fn matches_pattern(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => text.starts_with(prefix),
        None => pattern == text,
    }
}

/// Properties of one object or device type that may be set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypeGrant {
    /// All properties that may be set, by full path (`quote-generation-socket.path`).
    #[serde(default)]
    pub properties: BTreeSet<String>,
    /// Those of them that QEMU opens, writes or connects to: only files and granted host paths.
    #[serde(default)]
    pub paths: BTreeSet<String>,
}

/// What config grants to one backend, or what a backend announces: the same shape, so that both
/// can be compared and shown side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permissions {
    #[serde(default)]
    pub facts: Vec<FactPattern>,
    #[serde(default)]
    pub objects: BTreeMap<String, TypeGrant>,
    #[serde(default)]
    pub devices: BTreeMap<String, TypeGrant>,
    /// String-typed properties of `-machine`.
    #[serde(default, rename = "machine-texts")]
    pub machine_texts: BTreeSet<String>,
    /// Absolute paths that a plan may name. A `*` at the end stands for any rest without `..`.
    /// Never announced: the paths of a host are the operator's to say.
    #[serde(default, rename = "host-paths")]
    pub host_paths: BTreeSet<String>,
}

impl Permissions {
    pub fn allows_fact(&self, question: &FactQuestion) -> bool {
        self.facts.iter().any(|pattern| pattern.matches(question))
    }

    pub fn allows_host_path(&self, path: &str) -> bool {
        is_plain_absolute(path)
            && self
                .host_paths
                .iter()
                .any(|pattern| matches_pattern(pattern, path))
    }
}

/// Whether `path` is absolute and has no empty, `.` or `..` segment: what it says is what it opens,
/// links aside.
pub fn is_plain_absolute(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|rest| {
        !rest.is_empty()
            && rest
                .split('/')
                .all(|segment| !matches!(segment, "" | "." | ".."))
            && !path.contains(char::is_control)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(fact: &str, pattern: &str) -> FactPattern {
        FactPattern {
            fact: fact.to_owned(),
            pattern: pattern.to_owned(),
        }
    }

    #[test]
    fn patterns_match_literally_or_by_prefix() {
        let question = FactQuestion::Cpuid {
            leaf: 0x8000_001f,
            subleaf: 0,
        };
        assert!(fact("cpuid", "0x8000001f").matches(&question));
        assert!(fact("cpuid", "0x80*").matches(&question));
        assert!(!fact("cpuid", "0x8000001").matches(&question));
        assert!(!fact("device", "*").matches(&question));
        assert!(fact("qemu-version", "").matches(&FactQuestion::QemuVersion));
    }

    #[test]
    fn a_grant_covers_what_it_is_wider_than() {
        assert!(fact("read-text", "/sys/*").covers(&fact("read-text", "/sys/module/*")));
        assert!(fact("read-text", "/sys/*").covers(&fact("read-text", "/sys/a")));
        assert!(!fact("read-text", "/sys/module/*").covers(&fact("read-text", "/sys/*")));
        assert!(!fact("read-text", "/sys/a").covers(&fact("read-text", "/sys/a*")));
        assert!(!fact("device", "/sys/*").covers(&fact("read-text", "/sys/a")));
    }

    #[test]
    fn host_paths_need_a_grant_and_a_plain_form() {
        let permissions = Permissions {
            host_paths: ["/run/qgs/*", "/dev/one"].map(str::to_owned).into(),
            ..Permissions::default()
        };
        for (path, allowed) in [
            ("/run/qgs/socket", true),
            ("/dev/one", true),
            ("/dev/one2", false),
            ("/run/qgs/../../etc/shadow", false),
            ("/run/qgs//x", false),
            ("/run/qgs/./x", false),
            ("run/qgs/x", false),
            ("/run/qgs/x\ny", false),
            ("", false),
            ("/", false),
        ] {
            assert_eq!(permissions.allows_host_path(path), allowed, "{path:?}");
        }
    }
}
