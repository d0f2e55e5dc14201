//! `casemate backend verify`: a file, held against digest, lock and keys, without a network.

use std::path::PathBuf;

use casemate_registry::Digest;
use serde_json::json;

use super::component;
use super::refused::Refused;
use super::trust::{Downgrade, TrustArguments};
use crate::arguments::Format;
use crate::error::CliError;
use crate::screen::{Screen, Tinted, Tone};

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArguments {
    /// The component; its signature is looked for beside it.
    file: PathBuf,

    #[command(flatten)]
    trust: TrustArguments,
}

/// What holds. What does not is an error.
struct Verdict {
    sha256: Digest,
    size: u64,
    given: bool,
    pinned_as: Option<String>,
    key: Option<String>,
}

pub(crate) fn run(arguments: &VerifyArguments, screen: &Screen) -> Result<(), CliError> {
    let verdict = verify(arguments)?;
    let path = arguments.file.display().to_string();
    let sha256 = verdict.sha256.hex();
    if let Format::Data(_) = screen.format {
        return screen.write_value(&json!({
            "path": path,
            "sha256": sha256,
            "size": verdict.size,
            "sha256_given": verdict.given,
            "pinned_as": verdict.pinned_as,
            "key": verdict.key,
        }));
    }
    let held = |holds: Option<String>, otherwise: &str| -> Tinted {
        match holds {
            Some(text) => (text, Tone::Good),
            None => (otherwise.to_owned(), Tone::Attention),
        }
    };
    let given = verdict.given.then(|| "the given one".to_owned());
    let text = screen.block(&[
        ("path", (path, Tone::Plain)),
        ("sha256", (sha256, Tone::Plain)),
        ("digest", held(given, "not compared: no --sha256")),
        (
            "pinned as",
            held(verdict.pinned_as, "not compared: no lock file"),
        ),
        ("signed by", held(verdict.key, "not checked: no --key")),
    ]);
    screen.write_raw(text.as_bytes())
}

fn verify(arguments: &VerifyArguments) -> Result<Verdict, Refused> {
    let trust = arguments.trust.read(Downgrade::Refused)?;
    let what = arguments.file.display().to_string();
    let bytes = component::read(&arguments.file)?;
    let sha256 = Digest::of(&bytes);
    if let Some(expected) = trust.sha256.filter(|expected| *expected != sha256) {
        return Err(Refused::Pin {
            what,
            expected,
            actual: sha256,
            by: "--sha256".to_owned(),
        });
    }
    // It would say of any file that it holds.
    if trust.sha256.is_none() && trust.keys.is_none() && !trust.lock.is_there() {
        return Err(Refused::NotPinned {
            what,
            lock: trust.lock.shown(),
        });
    }
    let pinned_as = match trust.lock.is_there() {
        false => None,
        true => {
            let name = component::name_of(&arguments.file);
            Some(trust.lock.check_file(&what, &name, sha256)?.to_owned())
        }
    };
    let key = match &trust.keys {
        Some(keys) => Some(keys.verify_beside(&arguments.file, &bytes)?),
        None => None,
    };
    Ok(Verdict {
        sha256,
        size: bytes.len() as u64,
        given: trust.sha256.is_some(),
        pinned_as,
        key: super::trust::key_id(key),
    })
}
