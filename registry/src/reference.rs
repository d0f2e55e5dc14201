//! Names of artifacts: `HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST]`.
//!
//! The host is never left out: a short name that means one registry here and another there is how
//! the wrong component is pulled.

use std::fmt;
use std::str::FromStr;

use crate::address::{is_host, is_loopback};
use crate::digest::Digest;

/// Longest tag (OCI distribution specification, "Pulling manifests").
const LONGEST_TAG: usize = 128;
/// Longest host and repository together, by the same.
const LONGEST_NAME: usize = 255;
/// The name under which the public registry of Docker is known, and where its API is.
const DOCKER: (&str, &str) = ("docker.io", "registry-1.docker.io");

#[derive(Debug, thiserror::Error)]
#[error(
    "{text:?} names no artifact of a registry: {reason}; wanted is HOST[:PORT]/REPOSITORY[:TAG][@sha256:DIGEST], such as registry.example/casemate/plain-kvm:1.0.0"
)]
pub struct ReferenceError {
    text: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Host and port, as written.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Host and port of the API.
    pub fn api_host(&self) -> &str {
        if self.registry == DOCKER.0 {
            DOCKER.1
        } else {
            &self.registry
        }
    }

    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// `HOST[:PORT]/REPOSITORY`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The last part of the repository.
    pub fn short_name(&self) -> &str {
        let (_, last) = self
            .repository
            .rsplit_once('/')
            .unwrap_or(("", &self.repository));
        last
    }

    /// What a manifest is asked for by: a digest says more than a tag.
    pub(crate) fn wanted(&self) -> Option<String> {
        self.digest
            .map(|digest| digest.to_string())
            .or_else(|| self.tag.clone())
    }

    /// Whether no other machine is reached at that name.
    pub fn is_loopback(&self) -> bool {
        is_loopback(host_of(&self.registry))
    }
}

fn host_of(registry: &str) -> &str {
    let has_port = |(_, port): &(&str, &str)| port.bytes().all(|byte| byte.is_ascii_digit());
    match registry.rsplit_once(':').filter(has_port) {
        Some((host, _)) => host,
        None => registry,
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|reason| ReferenceError {
            text: text.chars().take(LONGEST_NAME).collect(),
            reason,
        })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.contains("://") {
        return Err("a scheme does not belong to it");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest = Digest::try_from(digest.to_owned());
            (rest, Some(digest.map_err(|_| "after `@` is no digest")?))
        }
        None => (text, None),
    };
    let (registry, rest) = rest.split_once('/').ok_or("it has no host")?;
    let (repository, tag) = match rest.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (rest, None),
    };
    let host = host_of(registry);
    let has_port = host.len() < registry.len();
    let port = &registry[host.len()..];
    if has_port && port[1..].parse::<u16>().is_err() {
        return Err("its port is none");
    }
    let has_host = host == "localhost" || has_port || host.contains('.') || host.starts_with('[');
    if !has_host {
        return Err("it has no host");
    }
    if !is_host(host) {
        return Err("its host is none");
    }
    if registry.len() + 1 + repository.len() > LONGEST_NAME {
        return Err("it is longer than 255 characters");
    }
    if !repository.split('/').all(is_component) {
        return Err(
            "its repository is none: parts are of a-z and 0-9, with single `.`, `_`, `-` between",
        );
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("its tag is none: up to 128 letters, digits, `.`, `_` and `-`");
    }
    if tag.is_none() && digest.is_none() {
        return Err("it has neither tag nor digest, and no tag is assumed");
    }
    Ok(Reference {
        registry: registry.to_ascii_lowercase(),
        repository: repository.to_owned(),
        tag: tag.map(str::to_owned),
        digest,
    })
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends_well = bytes.first().copied().is_some_and(is_letter)
        && bytes.last().copied().is_some_and(is_letter);
    let separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let mut separators = separators.filter(|separator| !separator.is_empty());
    ends_well
        && separators.all(|separator| {
            matches!(separator, "." | "_" | "__") || separator.bytes().all(|byte| byte == b'-')
        })
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= LONGEST_TAG
        && tag.bytes().next().is_some_and(is_word)
        && tag
            .bytes()
            .all(|byte| is_word(byte) || b".-".contains(&byte))
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is taken means what it says: it is written as it was read.
        #[test]
        fn no_text_is_taken_for_another_reference(text in "[a-zA-Z0-9:/@._\\-\\[\\] ]{0,60}|\\PC{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().to_lowercase(), text.to_lowercase());
                let again: Reference = reference.to_string().parse().unwrap();
                prop_assert_eq!(again, reference);
            }
        }
    }

    #[test]
    fn a_reference_is_read_as_it_is_written() {
        let digest = Digest::of(b"x");
        let pinned = format!("ghcr.io/a/b@{digest}");
        for (text, registry, repository, tag, loopback) in [
            (
                "registry.example/plain-kvm:1.0.0",
                "registry.example",
                "plain-kvm",
                Some("1.0.0"),
                false,
            ),
            (
                "localhost:5000/a/b__c:v1",
                "localhost:5000",
                "a/b__c",
                Some("v1"),
                true,
            ),
            ("127.0.0.1:5000/a:x", "127.0.0.1:5000", "a", Some("x"), true),
            ("[::1]:5000/a:x", "[::1]:5000", "a", Some("x"), true),
            ("build:5000/a:x", "build:5000", "a", Some("x"), false),
            (pinned.as_str(), "ghcr.io", "a/b", None, false),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.registry(), registry);
            assert_eq!(reference.repository(), repository);
            assert_eq!(reference.tag(), tag);
            assert_eq!(reference.is_loopback(), loopback, "{text}");
            assert_eq!(reference.to_string(), text);
        }
        let docker: Reference = "docker.io/a/b:1".parse().unwrap();
        assert_eq!(docker.api_host(), "registry-1.docker.io");
    }

    #[test]
    fn what_could_mean_something_else_is_refused() {
        let long = format!("r.example/{}:1", "a".repeat(250));
        let tag = format!("r.example/a:{}", "a".repeat(129));
        for (text, reason) in [
            ("plain-kvm:1.0.0", "it has no host"),
            ("casemate/plain-kvm:1.0.0", "it has no host"),
            ("https://r.example/a:1", "a scheme"),
            ("r.example/a", "neither tag nor digest"),
            ("r.example/A:1", "its repository is none"),
            ("r.example/a..b:1", "its repository is none"),
            ("r.example/../x:1", "its repository is none"),
            ("r.example//x:1", "its repository is none"),
            ("r.example/a:", "its tag is none"),
            ("r.example/a:1/2", "its tag is none"),
            ("r.example/a@sha256:00", "no digest"),
            ("r.example:99999/a:1", "its port is none"),
            ("user@r.example/a:1", "no digest"),
            ("r.exam ple/a:1", "its host is none"),
            ("0x7f.1/a:1", "its host is none"),
            (&long, "longer than 255"),
            (&tag, "its tag is none"),
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
