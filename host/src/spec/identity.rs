//! The identity of a VM: a digest that its guest's attestation reports carry, so that a relying
//! party can tell that the host passed what was asked for. `docs/identity.md` is for people.
//!
//! It is decided once, at the first start: by the request, else by the operator, else it is the
//! digest of the configuration that the guest gets, which anybody who knows that can compute.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::printable;
use super::request::Secret;

/// First line of the canonical form; another form has another one.
const CONFIGURATION_HEADER: &str = "casemate-config-v1\n";
/// Algorithms that a request may name, with the bytes that a digest of each has. 64 is what the
/// longest digest and the largest field of a report have.
const ALGORITHMS: [(&str, RangeInclusive<usize>); 4] = [
    ("raw", 1..=64),
    ("sha-256", 32..=32),
    ("sha-384", 48..=48),
    ("sha-512", 64..=64),
];

/// Who said what the identity is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdentitySource {
    Request,
    /// `vm.identity`; the only source that there was when records did not name it.
    #[default]
    Operator,
    /// Nobody: it is the digest of what the guest is configured with.
    Configuration,
}

impl IdentitySource {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Operator => "operator",
            Self::Configuration => "configuration",
        }
    }
}

/// A digest that binds a VM to what it is for. A backend carries it or fails the plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `raw` for bytes of which nobody said what they are.
    pub algorithm: String,
    #[serde(with = "super::plan::base64_bytes")]
    pub digest: Vec<u8>,
    #[serde(default)]
    pub source: IdentitySource,
}

/// An identity that no VM can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    #[error("{algorithm:?} is none of {known}", known = algorithms())]
    Algorithm { algorithm: String },
    #[error("a digest of {algorithm} has {wanted} bytes, and this one has {found}")]
    Length {
        algorithm: &'static str,
        wanted: String,
        found: usize,
    },
}

fn algorithms() -> String {
    ALGORITHMS.map(|(name, _)| name).join(", ")
}

impl Identity {
    /// What a request names.
    pub fn of_request(algorithm: &str, digest: Vec<u8>) -> Result<Self, IdentityError> {
        let known = ALGORITHMS.into_iter().find(|(name, _)| *name == algorithm);
        let Some((algorithm, lengths)) = known else {
            return Err(IdentityError::Algorithm {
                algorithm: printable(algorithm),
            });
        };
        if !lengths.contains(&digest.len()) {
            return Err(IdentityError::Length {
                algorithm,
                wanted: match (lengths.start(), lengths.end()) {
                    (start, end) if start == end => start.to_string(),
                    (start, end) => format!("{start} to {end}"),
                },
                found: digest.len(),
            });
        }
        Ok(Self {
            algorithm: algorithm.to_owned(),
            digest,
            source: IdentitySource::Request,
        })
    }

    /// What the operator sets for all VMs.
    pub fn of_operator(digest: Vec<u8>) -> Self {
        Self {
            algorithm: "raw".to_owned(),
            digest,
            source: IdentitySource::Operator,
        }
    }

    /// SHA-256 of the canonical form: the header, each line `NAME=value` of the environment in the
    /// order of their bytes, a NUL, and `ca.pem`. No name and no value holds a newline or a NUL, so
    /// no two configurations have one form. `AGENT_CVM_ID` is no part of it: the daemon chooses it.
    pub fn of_configuration(
        environment: &[(String, Secret<String>)],
        ca: Option<&Secret<Vec<u8>>>,
    ) -> Self {
        let mut lines: Vec<&(String, Secret<String>)> = environment.iter().collect();
        lines.sort_by(|one, other| line(one).cmp(line(other)));
        // Fed in parts: a buffer of the whole would be one more copy of the secrets.
        let mut hasher = Sha256::new();
        hasher.update(CONFIGURATION_HEADER);
        for (name, value) in lines {
            hasher.update(name);
            hasher.update("=");
            hasher.update(value.reveal());
            hasher.update("\n");
        }
        hasher.update(b"\0");
        if let Some(ca) = ca {
            hasher.update(ca.reveal());
        }
        Self {
            algorithm: "sha-256".to_owned(),
            digest: hasher.finalize().to_vec(),
            source: IdentitySource::Configuration,
        }
    }

    /// Lower-case hexadecimal, as `sha256sum` prints it.
    pub fn digest_hex(&self) -> String {
        hex::encode(&self.digest)
    }
}

/// The bytes of a variable's line. The order of names alone is another one: `=` sorts behind digits.
fn line((name, value): &(String, Secret<String>)) -> impl Iterator<Item = u8> {
    name.bytes().chain(*b"=").chain(value.reveal().bytes())
}

/// Which identity a VM is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IdentityWish {
    /// The operator's or that of its configuration, where the backend guards its guests.
    #[default]
    Usual,
    /// The request's, whatever the backend is: one that cannot carry it refuses.
    Named(Identity),
    /// That of its first start, which may have had none. Never made anew: what it was made from
    /// lies in the VM's shares alone by then.
    Kept(Option<Identity>),
}

impl IdentityWish {
    /// The identity itself, where it is known without a backend.
    pub fn known(&self) -> Option<&Identity> {
        match self {
            Self::Usual => None,
            Self::Named(identity) => Some(identity),
            Self::Kept(identity) => identity.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../docs/identity.md");

    /// Runs lines of the document in `folder`, as a person would, and gives the digest printed.
    fn shell(folder: &std::path::Path, script: &str) -> String {
        #[expect(clippy::disallowed_methods, reason = "the oracle")]
        let output = std::process::Command::new("sh")
            .args(["-e", "-c", script])
            .current_dir(folder)
            .output()
            .expect("there is a shell");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let text = String::from_utf8(output.stdout).expect("sha256sum prints ASCII");
        text.trim_end().trim_end_matches(" -").trim().to_owned()
    }

    /// Variables in the order of the request, and `ca.pem`.
    type Configuration = (&'static [(&'static str, &'static str)], &'static [u8]);

    fn variables(given: &[(&str, &str)]) -> Vec<(String, Secret<String>)> {
        given
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Secret::new((*value).to_owned())))
            .collect()
    }

    fn of_configuration(environment: &[(&str, &str)], ca: &[u8]) -> Identity {
        let ca = (!ca.is_empty()).then(|| Secret::new(ca.to_vec()));
        Identity::of_configuration(&variables(environment), ca.as_ref())
    }

    /// The oracle is coreutils: the document's own line, run over the files that a guest has.
    #[test]
    fn the_digest_of_a_configuration_is_what_the_documented_line_prints() {
        let is_wanted = |line: &&str| line.starts_with("{ printf ") && !line.contains("grep");
        let line = DOCUMENT.lines().find(is_wanted);
        let line = line.expect("the document has the line");
        let cases: &[Configuration] = &[
            (&[], b""),
            (&[], b"-----BEGIN CERTIFICATE-----\n"),
            (&[("A", "")], b""),
            (&[("B", "2"), ("A", "1")], b"no newline at its end"),
            // `=` sorts behind digits and before letters and `_`.
            (
                &[("A", "x"), ("A1", "x"), ("A_", "x"), ("AA", "x"), ("a", "")],
                b"\0\n\0",
            ),
            (
                &[("Q", "\"' $HOME `id` \\n %s"), ("U", "ü ∑"), ("E", "a=b=")],
                b"x",
            ),
        ];
        for (environment, ca) in cases {
            let folder = tempfile::tempdir().expect("a folder");
            let text: String = environment
                .iter()
                .map(|(name, value)| format!("{name}={value}\n"))
                .collect();
            std::fs::write(folder.path().join("environment"), text).expect("a file");
            std::fs::write(folder.path().join("ca.pem"), ca).expect("a file");
            let identity = of_configuration(environment, ca);
            let wanted = shell(folder.path(), line);
            assert_eq!(identity.digest_hex(), wanted, "{environment:?}");
            assert_eq!(identity.algorithm, "sha-256");
            assert_eq!(identity.source, IdentitySource::Configuration);
        }
    }

    #[test]
    fn the_example_of_the_document_is_true() {
        let (_, rest) = DOCUMENT.split_once("```sh\n").expect("an example");
        let (script, _) = rest.split_once("```").expect("its end");
        let folder = tempfile::tempdir().expect("a folder");
        let printed = shell(folder.path(), script);
        assert_eq!(printed.len(), 64, "{printed}");
        assert!(DOCUMENT.contains(&format!("{printed}  -\n")), "{printed}");
        // The same configuration, and the line for the guest, whose file has its id too.
        let environment = [("NONCE", "7"), ("A1", "x"), ("A", "two words")];
        let identity = of_configuration(&environment, b"a certificate\n");
        assert_eq!(identity.digest_hex(), printed);
        let is_wanted = |line: &&str| line.starts_with("{ printf ") && line.contains("grep");
        let mut commands = DOCUMENT.lines().filter_map(|line| line.strip_prefix("$ "));
        let line = commands.find(is_wanted);
        let line = line.expect("the document has the guest's line");
        let id = "AGENT_CVM_ID=00000000-0000-4000-8000-000000000000";
        let script = format!("echo {id} >> environment\n{line}");
        assert_eq!(shell(folder.path(), &script), printed);
    }

    #[test]
    fn every_part_of_a_configuration_counts() {
        let base = of_configuration(&[("A", "1"), ("B", "2")], b"ca");
        assert_eq!(of_configuration(&[("B", "2"), ("A", "1")], b"ca"), base);
        let others: &[Configuration] = &[
            (&[("A", "1"), ("B", "3")], b"ca"),
            (&[("A", "1"), ("C", "2")], b"ca"),
            (&[("A", "1")], b"ca"),
            (&[("A", "1"), ("B", "2"), ("C", "")], b"ca"),
            (&[("A", "1"), ("B", "2")], b""),
            (&[("A", "1"), ("B", "2")], b"ca\n"),
        ];
        for (environment, ca) in others {
            assert_ne!(of_configuration(environment, ca), base, "{environment:?}");
        }
    }

    /// Lengths by FIPS 180-4.
    #[test]
    fn a_request_names_a_digest_of_its_algorithms_length() {
        for (algorithm, length, is_good) in [
            ("raw", 0, false),
            ("raw", 1, true),
            ("raw", 64, true),
            ("raw", 65, false),
            ("sha-256", 31, false),
            ("sha-256", 32, true),
            ("sha-256", 33, false),
            ("sha-384", 32, false),
            ("sha-384", 48, true),
            ("sha-512", 48, false),
            ("sha-512", 64, true),
            ("", 32, false),
            ("sha256", 32, false),
            ("SHA-256", 32, false),
            ("md5\u{1b}", 16, false),
        ] {
            let identity = Identity::of_request(algorithm, vec![7; length]);
            assert_eq!(identity.is_ok(), is_good, "{algorithm} {length}");
            match identity {
                Ok(identity) => assert_eq!(identity.source, IdentitySource::Request),
                Err(error) => assert!(!error.to_string().contains('\u{1b}'), "{error}"),
            }
        }
    }
}
