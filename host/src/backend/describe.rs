//! What a backend tells about itself, checked, and held against what config grants.

use std::collections::{BTreeMap, BTreeSet};

use super::bindings::casemate::tee::types;
use super::bindings::exports::casemate::tee::backend as wit;
use super::settings;
use crate::spec::first_version::{FirstVersions, QemuVersion};
use crate::spec::permissions::{FactPattern, Permissions, TypeGrant};
use crate::spec::plan::Value;

/// Most entries of any list in `describe`; a real backend has some dozens.
const MAX_ENTRIES: usize = 256;
/// Longest text in `describe`.
const MAX_TEXT: usize = 4_096;

/// An extra that says from which QEMU on there is a type or a property: `qemu-since:x-guest`,
/// `qemu-since:x-guest.policy`.
const FIRST_VERSION: &str = "qemu-since:";
/// The extra that says that the technology carries no identity, by the one value that it has.
const IDENTITY: &str = "identity";
const NO_IDENTITY: &str = "none";

/// A `describe` that the host cannot use. The vendor must act.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DescribeError {
    #[error("{field} is {value:?}; wanted is {wanted}")]
    Field {
        field: String,
        value: String,
        wanted: &'static str,
    },
    #[error("{field} has {count} entries, more than {MAX_ENTRIES}")]
    TooMany { field: &'static str, count: usize },
    #[error("{field} names {value:?} twice")]
    Duplicate { field: &'static str, value: String },
    #[error("tee \"none\" goes with protection `none`, not with `guard`")]
    GuardOfNothing,
    #[error(
        "setting {key:?}: kind {kind:?} is none of boolean, integer, unsigned, size, text, bytes, bytes:N, file, host-path, one-of:a|b"
    )]
    SettingKind { key: String, kind: String },
    #[error("setting {key:?}: its default is not of its kind {kind}")]
    SettingDefault { key: String, kind: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// No plan has a guard.
    None,
    /// Every plan has one.
    Guard,
}

impl Protection {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Guard => "guard",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Need {
    pub pattern: FactPattern,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingKind {
    Boolean,
    Integer,
    Unsigned,
    Size,
    Text,
    Bytes { exact: Option<usize> },
    File,
    HostPath,
    OneOf(Vec<String>),
}

#[derive(Clone, Debug)]
pub struct SettingSpec {
    pub key: String,
    pub kind: SettingKind,
    /// As the backend wrote it, for people.
    pub kind_text: String,
    pub default: Option<Value>,
    pub description: String,
    pub per_request: bool,
}

#[derive(Clone, Debug)]
pub struct BackendInfo {
    pub tee: String,
    pub protection: Protection,
    /// Whether reports about its guests have a place for an identity: of what protects nothing there
    /// are none, and not every technology has the place.
    pub carries_identity: bool,
    pub name: String,
    pub vendor: String,
    pub version: String,
    pub architectures: Vec<String>,
    pub needs: Vec<Need>,
    /// Announced objects, devices and machine texts; its `facts` are those of `needs`.
    pub announced: Permissions,
    pub settings: Vec<SettingSpec>,
    pub firmware_features: Vec<String>,
    /// How policies name the environment, where it says so.
    pub corim_vendor: Option<String>,
    pub corim_model: Option<String>,
    /// For messages alone.
    pub first_versions: FirstVersions,
}

pub(super) fn from_wit(info: wit::BackendInfo) -> Result<BackendInfo, DescribeError> {
    bounded("needs", info.needs.len())?;
    bounded("objects", info.objects.len())?;
    bounded("devices", info.devices.len())?;
    bounded("machine-texts", info.machine_texts.len())?;
    bounded("settings", info.settings.len())?;
    bounded("architectures", info.architectures.len())?;
    bounded("firmware-features", info.firmware_features.len())?;
    bounded("extras", info.extras.len())?;
    let tee = word("tee", info.tee)?;
    let protection = match info.protection {
        types::Protection::None => Protection::None,
        types::Protection::Guard => Protection::Guard,
    };
    if tee == "none" && protection == Protection::Guard {
        return Err(DescribeError::GuardOfNothing);
    }
    let needs = info
        .needs
        .into_iter()
        .map(|need| {
            let fact = word("needs.fact", need.fact)?;
            let pattern = text("needs.pattern", need.pattern)?;
            let reason = text("needs.reason", need.reason)?;
            Ok(Need {
                pattern: FactPattern { fact, pattern },
                reason,
            })
        })
        .collect::<Result<Vec<_>, DescribeError>>()?;
    let announced = Permissions {
        facts: needs.iter().map(|need| need.pattern.clone()).collect(),
        objects: type_uses("objects", info.objects)?,
        devices: type_uses("devices", info.devices)?,
        machine_texts: info
            .machine_texts
            .into_iter()
            .map(|name| word("machine-texts", name))
            .collect::<Result<_, _>>()?,
        host_paths: BTreeSet::new(),
    };
    let settings = info
        .settings
        .into_iter()
        .map(setting)
        .collect::<Result<Vec<_>, _>>()?;
    let mut keys = BTreeSet::new();
    if let Some(twice) = settings
        .iter()
        .find(|setting| !keys.insert(setting.key.clone()))
    {
        return Err(DescribeError::Duplicate {
            field: "settings",
            value: twice.key.clone(),
        });
    }
    Ok(BackendInfo {
        tee,
        protection,
        carries_identity: carries_identity(&info.extras)? && protection == Protection::Guard,
        name: text("name", info.name)?,
        vendor: text("vendor", info.vendor)?,
        version: text("version", info.version)?,
        architectures: words("architectures", info.architectures)?,
        needs,
        announced,
        settings,
        firmware_features: words("firmware-features", info.firmware_features)?,
        corim_vendor: told("corim.vendor", &info.extras)?,
        corim_model: told("corim.model", &info.extras)?,
        first_versions: first_versions(info.extras)?,
    })
}

/// What of its announcements config grants. Host paths are config's alone.
pub(super) fn effective(info: &BackendInfo, grants: &Permissions) -> Permissions {
    let types = |announced: &BTreeMap<String, TypeGrant>, granted: &BTreeMap<String, TypeGrant>| {
        announced
            .iter()
            .filter_map(|(kind, announced)| {
                let granted = granted.get(kind)?;
                let properties: BTreeSet<String> = announced
                    .properties
                    .intersection(&granted.properties)
                    .cloned()
                    .collect();
                // A property is a path if either side says so: the stricter word holds.
                let paths = announced.paths.union(&granted.paths).cloned().collect();
                Some((kind.clone(), TypeGrant { properties, paths }))
            })
            .collect()
    };
    Permissions {
        // A need is granted as a whole or not at all.
        facts: info
            .announced
            .facts
            .iter()
            .filter(|need| grants.facts.iter().any(|grant| grant.covers(need)))
            .cloned()
            .collect(),
        objects: types(&info.announced.objects, &grants.objects),
        devices: types(&info.announced.devices, &grants.devices),
        machine_texts: info
            .announced
            .machine_texts
            .intersection(&grants.machine_texts)
            .cloned()
            .collect(),
        host_paths: grants.host_paths.clone(),
    }
}

/// What it announces and is not granted, each as a person would look for it.
pub(super) fn ungranted(info: &BackendInfo, effective: &Permissions) -> Vec<String> {
    difference(&info.announced, effective, |need| {
        effective.facts.contains(need)
    })
}

/// What config grants and it never asks for: a typing mistake, or what an earlier version wanted.
pub(super) fn unannounced(info: &BackendInfo, grants: &Permissions) -> Vec<String> {
    difference(grants, &info.announced, |grant| {
        info.announced.facts.iter().any(|need| grant.covers(need))
    })
}

/// What `these` have and the others have not.
fn difference(
    these: &Permissions,
    others: &Permissions,
    has_fact: impl Fn(&FactPattern) -> bool,
) -> Vec<String> {
    let facts = these.facts.iter().filter(|fact| !has_fact(fact));
    let facts = facts.map(|fact| format!("fact {} {:?}", fact.fact, fact.pattern));
    let mut missing: Vec<String> = facts.collect();
    for (word, these, others) in [
        ("object", &these.objects, &others.objects),
        ("device", &these.devices, &others.devices),
    ] {
        for (kind, grant) in these {
            let Some(other) = others.get(kind) else {
                missing.push(format!("{word} {kind}"));
                continue;
            };
            let properties = grant.properties.difference(&other.properties);
            missing.extend(properties.map(|name| format!("property {name} of {word} {kind}")));
        }
    }
    let texts = these.machine_texts.difference(&others.machine_texts);
    missing.extend(texts.map(|name| format!("machine text {name}")));
    missing
}

fn type_uses(
    field: &'static str,
    uses: Vec<types::TypeUse>,
) -> Result<BTreeMap<String, TypeGrant>, DescribeError> {
    let mut map = BTreeMap::new();
    for used in uses {
        bounded(field, used.properties.len())?;
        bounded(field, used.paths.len())?;
        let kind = word(field, used.kind)?;
        let properties = property_names(field, used.properties)?;
        let paths = property_names(field, used.paths)?;
        if let Some(path) = paths.iter().find(|path| !properties.contains(*path)) {
            return Err(DescribeError::Field {
                field: format!("{field}.paths of {kind}"),
                value: path.clone(),
                wanted: "a name that is in `properties` too",
            });
        }
        if map
            .insert(kind.clone(), TypeGrant { properties, paths })
            .is_some()
        {
            return Err(DescribeError::Duplicate { field, value: kind });
        }
    }
    Ok(map)
}

/// An unknown key tells of something that this host does not ask for; one that it knows and cannot
/// read would be missed when it is needed.
fn first_versions(extras: Vec<types::Extra>) -> Result<FirstVersions, DescribeError> {
    let mut versions = FirstVersions::default();
    for types::Extra { key, value } in extras {
        let Some(name) = key.strip_prefix(FIRST_VERSION) else {
            continue;
        };
        if property_names("extras", vec![name.to_owned()]).is_err() {
            return Err(DescribeError::Field {
                field: "extras.key".to_owned(),
                value: shown(&key),
                wanted: "`qemu-since:` and a type, or a type, a dot and a property",
            });
        }
        let Some(version) = QemuVersion::parse(&value) else {
            return Err(DescribeError::Field {
                field: format!("extras.{key}"),
                value: shown(&value),
                wanted: "a version of QEMU in two numbers, such as 9.1",
            });
        };
        if versions.insert(name.to_owned(), version).is_some() {
            return Err(DescribeError::Duplicate {
                field: "extras",
                value: key,
            });
        }
    }
    Ok(versions)
}

fn carries_identity(extras: &[types::Extra]) -> Result<bool, DescribeError> {
    match told(IDENTITY, extras)? {
        None => Ok(true),
        Some(value) if value == NO_IDENTITY => Ok(false),
        Some(value) => Err(DescribeError::Field {
            field: format!("extras.{IDENTITY}"),
            value: shown(&value),
            wanted: "`none`, or no such key",
        }),
    }
}

/// The value of a key that stands there once at most.
fn told(key: &str, extras: &[types::Extra]) -> Result<Option<String>, DescribeError> {
    let mut values = extras.iter().filter(|extra| extra.key == key);
    let found = values.next();
    if values.next().is_some() {
        return Err(DescribeError::Duplicate {
            field: "extras",
            value: key.to_owned(),
        });
    }
    let value = found.map(|extra| extra.value.clone());
    value.map(|value| text("extras", value)).transpose()
}

fn setting(spec: types::SettingSpec) -> Result<SettingSpec, DescribeError> {
    let key = word("settings.key", spec.key)?;
    let kind = settings::parse_kind(&spec.kind).ok_or_else(|| DescribeError::SettingKind {
        key: key.clone(),
        kind: shown(&spec.kind),
    })?;
    let default = match spec.default {
        None => None,
        Some(value) => {
            let value = settings::default_from_wit(value);
            bounded_default(&key, &value)?;
            if !settings::is_of_kind(&value, &kind) {
                return Err(DescribeError::SettingDefault {
                    key,
                    kind: shown(&spec.kind),
                });
            }
            Some(value)
        }
    };
    Ok(SettingSpec {
        key,
        kind,
        kind_text: spec.kind,
        default,
        description: text("settings.description", spec.description)?,
        per_request: spec.per_request,
    })
}

/// Defaults are shown whole.
fn bounded_default(key: &str, default: &Value) -> Result<(), DescribeError> {
    let length = match default {
        Value::Text(text) | Value::HostPath(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        _ => 0,
    };
    if length > MAX_TEXT {
        return Err(DescribeError::Field {
            field: format!("settings.default of {key}"),
            value: format!("{length} bytes"),
            wanted: "at most 4096 bytes",
        });
    }
    Ok(())
}

fn bounded(field: &'static str, count: usize) -> Result<(), DescribeError> {
    if count > MAX_ENTRIES {
        return Err(DescribeError::TooMany { field, count });
    }
    Ok(())
}

/// A value that does not fit, as a message shows it.
fn shown(value: &str) -> String {
    crate::spec::printable_start(value, 80)
}

fn text(field: &str, value: String) -> Result<String, DescribeError> {
    if value.len() > MAX_TEXT || value.chars().any(char::is_control) {
        return Err(DescribeError::Field {
            field: field.to_owned(),
            value: shown(&value),
            wanted: "text without control characters, at most 4096 bytes",
        });
    }
    Ok(value)
}

/// A name that appears in config, URLs and tables.
fn word(field: &str, value: String) -> Result<String, DescribeError> {
    let fits = !value.is_empty()
        && value.len() <= 128
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._+".contains(&b));
    if fits {
        return Ok(value);
    }
    Err(DescribeError::Field {
        field: field.to_owned(),
        value: shown(&value),
        wanted: "1 to 128 letters, digits, `-`, `.`, `_` or `+`",
    })
}

/// Property paths, in which `*` stands for any index of a list (`host-nodes.*`).
fn property_names(field: &str, names: Vec<String>) -> Result<BTreeSet<String>, DescribeError> {
    for name in &names {
        for segment in name.split('.').filter(|segment| *segment != "*") {
            word(field, segment.to_owned())?;
        }
    }
    Ok(names.into_iter().collect())
}

fn words(field: &str, values: Vec<String>) -> Result<Vec<String>, DescribeError> {
    values.into_iter().map(|value| word(field, value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(properties: &[&str], paths: &[&str]) -> TypeGrant {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        TypeGrant {
            properties: set(properties),
            paths: set(paths),
        }
    }

    #[test]
    fn effective_permissions_are_announced_and_granted() {
        let pattern = |fact: &str, pattern: &str| FactPattern {
            fact: fact.to_owned(),
            pattern: pattern.to_owned(),
        };
        let info = BackendInfo {
            tee: "x".to_owned(),
            protection: Protection::None,
            carries_identity: false,
            name: String::new(),
            vendor: String::new(),
            version: String::new(),
            corim_vendor: None,
            corim_model: None,
            architectures: Vec::new(),
            needs: Vec::new(),
            announced: Permissions {
                facts: vec![
                    pattern("read-text", "/sys/module/*"),
                    pattern("qemu-version", ""),
                ],
                objects: [
                    ("a".to_owned(), grant(&["x", "y"], &["y"])),
                    ("b".to_owned(), grant(&["x"], &[])),
                ]
                .into(),
                ..Permissions::default()
            },
            settings: Vec::new(),
            firmware_features: Vec::new(),
            first_versions: FirstVersions::default(),
        };
        let granted = Permissions {
            facts: vec![pattern("read-text", "/sys/*"), pattern("cpuid", "*")],
            objects: [
                ("a".to_owned(), grant(&["x", "z"], &["x"])),
                ("c".to_owned(), grant(&["x"], &[])),
            ]
            .into(),
            ..Permissions::default()
        };
        let effective = effective(&info, &granted);
        assert_eq!(effective.facts, [pattern("read-text", "/sys/module/*")]);
        assert_eq!(effective.objects.len(), 1);
        assert_eq!(effective.objects["a"], grant(&["x"], &["x", "y"]));
    }

    #[test]
    fn an_identity_is_carried_unless_the_one_word_says_otherwise() {
        let read = |extras: &[(&str, &str)]| {
            let extras = extras.iter().map(|(key, value)| types::Extra {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
            });
            carries_identity(&extras.collect::<Vec<_>>()).map_err(|error| error.to_string())
        };
        assert_eq!(read(&[]), Ok(true));
        assert_eq!(read(&[("identity.x", "none"), ("x", "none")]), Ok(true));
        assert_eq!(read(&[("identity", "none")]), Ok(false));
        for value in ["", "None", "host-data", "none\u{1b}"] {
            let refused = read(&[("identity", value)]).expect_err(value);
            assert!(refused.starts_with("extras"), "{refused}");
            assert!(!refused.contains('\u{1b}'), "{refused:?}");
        }
        let twice = read(&[("identity", "none"), ("identity", "none")]);
        assert_eq!(twice, Err("extras names \"identity\" twice".to_owned()));
    }

    #[test]
    fn first_versions_are_read_or_their_key_is_named() {
        let read = |extras: &[(&str, &str)]| {
            let extras = extras.iter().map(|(key, value)| types::Extra {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
            });
            first_versions(extras.collect())
        };
        let versions = read(&[
            ("corim.vendor", "any text"),
            ("qemu-since:x-guest", "9.1"),
            ("qemu-since:x-guest.socket.path", "10.1"),
            ("qemu-since:x-guest.nodes.*", "11.0"),
        ]);
        let versions = versions.expect("all of them are sound");
        for (found, wanted) in [
            (versions.of_type("x-guest"), Some("9.1")),
            (versions.of_property("x-guest", "socket.path"), Some("10.1")),
            (versions.of_property("x-guest", "nodes.*"), Some("11.0")),
            (versions.of_property("x-guest", "policy"), None),
            (versions.of_type("corim.vendor"), None),
        ] {
            let found = found.map(|version| version.to_string());
            assert_eq!(found.as_deref(), wanted);
        }
        let broken: &[(&[(&str, &str)], &str)] = &[
            (
                &[("qemu-since:x-guest", "9.1.0")],
                "extras.qemu-since:x-guest is \"9.1.0\"; wanted is a version",
            ),
            (&[("qemu-since:x-guest", "")], "extras.qemu-since:x-guest"),
            (&[("qemu-since:x-guest", "soon\u{1b}")], "\"soon\u{fffd}\""),
            (&[("qemu-since:", "9.1")], "\"qemu-since:\""),
            (&[("qemu-since:x guest", "9.1")], "\"qemu-since:x guest\""),
            (&[("qemu-since:x..y", "9.1")], "\"qemu-since:x..y\""),
            (
                &[("qemu-since:x", "9.1"), ("qemu-since:x", "9.2")],
                "extras names \"qemu-since:x\" twice",
            ),
        ];
        for (extras, part) in broken {
            let error = read(extras).expect_err(part).to_string();
            assert!(error.contains(part), "wanted is {part:?}: {error}");
        }
    }
}
