//! Several versions of a backend at a time: a canary takes the place of another backend for new VMs
//! with certain labels. A VM that is there keeps the one that it has.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::catalog::BackendConfig;

/// `[backend.canary]` of a `[[backend]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// Name of the backend whose place it takes.
    pub of: String,
    /// A VM that has all of them gets this one.
    pub labels: BTreeMap<String, String>,
}

impl Canary {
    fn takes(&self, of: &str, labels: &BTreeMap<String, String>) -> bool {
        self.of == of
            && self
                .labels
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// Why a canary can be none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CanaryError {
    #[error("it takes the place of {of:?}, which no `[[backend]]` has as its name")]
    Unknown { of: String },
    #[error("it takes its own place")]
    Itself,
    #[error("it takes the place of {of:?}, which is a canary too")]
    OfCanary { of: String },
    #[error("it has no labels, and would take all VMs")]
    NoLabels,
}

/// The canaries that can be none, by their names.
pub fn faults(configs: &[BackendConfig]) -> Vec<(String, CanaryError)> {
    let fault = |config: &BackendConfig| {
        let canary = config.canary.as_ref()?;
        let of = configs.iter().find(|other| other.name == canary.of);
        let error = match of {
            _ if canary.labels.is_empty() => CanaryError::NoLabels,
            _ if canary.of == config.name => CanaryError::Itself,
            None => CanaryError::Unknown {
                of: canary.of.clone(),
            },
            Some(of) if of.canary.is_some() => CanaryError::OfCanary {
                of: canary.of.clone(),
            },
            Some(_) => return None,
        };
        Some((config.name.clone(), error))
    };
    configs.iter().filter_map(fault).collect()
}

/// The backend that a new VM with these labels gets in place of `name`: the first canary that takes
/// it, else the one of that name.
pub(super) fn routed<'a>(
    configs: impl Iterator<Item = &'a BackendConfig>,
    name: &'a str,
    labels: &BTreeMap<String, String>,
) -> &'a str {
    let mut canaries = configs.filter_map(|config| Some((config, config.canary.as_ref()?)));
    canaries
        .find(|(_, canary)| canary.takes(name, labels))
        .map_or(name, |(config, _)| &config.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(text: &str) -> Vec<BackendConfig> {
        #[derive(Deserialize)]
        struct File {
            backend: Vec<BackendConfig>,
        }
        toml::from_str::<File>(text).unwrap().backend
    }

    const THREE: &str = "
        [[backend]]
        name = 'one'
        path = '/one'
        [[backend]]
        name = 'two'
        path = '/two'
        canary = { of = 'one', labels = { channel = 'canary', team = 'blue' } }
        [[backend]]
        name = 'three'
        path = '/three'
        canary = { of = 'one', labels = { channel = 'canary' } }
    ";

    #[test]
    fn the_first_canary_whose_labels_a_vm_has_takes_it() {
        let configs = configs(THREE);
        assert_eq!(faults(&configs), []);
        type Labels = &'static [(&'static str, &'static str)];
        let cases: [(&str, Labels, &str); 6] = [
            ("one", &[], "one"),
            ("one", &[("channel", "canary")], "three"),
            ("one", &[("channel", "canary"), ("team", "blue")], "two"),
            ("one", &[("channel", "stable"), ("team", "blue")], "one"),
            ("three", &[("channel", "canary"), ("team", "blue")], "three"),
            ("other", &[("channel", "canary")], "other"),
        ];
        for (name, labels, expected) in cases {
            let labels = labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(
                routed(configs.iter(), name, &labels),
                expected,
                "{name} {labels:?}"
            );
        }
    }

    #[test]
    fn what_can_be_no_canary_is_named() {
        let cases = [
            (
                "canary = { of = 'two', labels = { a = 'b' } }",
                CanaryError::OfCanary {
                    of: "two".to_owned(),
                },
            ),
            (
                "canary = { of = 'none', labels = { a = 'b' } }",
                CanaryError::Unknown {
                    of: "none".to_owned(),
                },
            ),
            (
                "canary = { of = 'four', labels = { a = 'b' } }",
                CanaryError::Itself,
            ),
            (
                "canary = { of = 'one', labels = {} }",
                CanaryError::NoLabels,
            ),
        ];
        for (line, expected) in cases {
            let text = format!("{THREE}\n[[backend]]\nname = 'four'\npath = '/four'\n{line}\n");
            assert_eq!(faults(&configs(&text)), [("four".to_owned(), expected)]);
        }
    }
}
