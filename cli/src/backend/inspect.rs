//! `casemate backend inspect`: what a component is. It is neither compiled nor run; of one in a
//! registry the manifest and its config are read, and what they say is the registry's word; with a key
//! it is fetched, and says itself what it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_host::backend::inspect::Inspected;
use casemate_host::backend::signature::{Detached, MAX_FILE, TrustedKeys};
use casemate_registry::manifest::Interfaces;
use casemate_registry::{Digest, Reference, Registry};
use serde::Serialize;

use super::component;
use super::pin::{Named, named};
use super::refused::Refused;
use super::trust::{self, HostArguments};
use crate::arguments::Format;
use crate::error::CliError;
use crate::json;
use crate::screen::{Screen, Tinted, Tone};
use crate::waiting;

#[derive(Debug, clap::Args)]
pub(crate) struct InspectArguments {
    /// A reference, or the file of a component.
    #[arg(value_name = "REFERENCE|FILE")]
    wanted: String,

    /// Public key, or its file, by which signatures are judged; may be given several times.
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<String>,

    #[command(flatten)]
    hosts: HostArguments,
}

#[derive(Debug, Default, Serialize)]
struct Page {
    path: Option<PathBuf>,
    reference: Option<String>,
    manifest: Option<String>,
    sha256: String,
    size: u64,
    version: Option<String>,
    /// Version of the contract; null: it is no backend.
    contract: Option<String>,
    imports: Vec<String>,
    exports: Vec<String>,
    annotations: BTreeMap<String, String>,
    signatures: Vec<Signature>,
}

#[derive(Debug, Serialize)]
struct Signature {
    form: &'static str,
    /// Null where no key is given.
    valid: Option<bool>,
    key: Option<String>,
}

pub(crate) async fn run(
    arguments: &InspectArguments,
    timeout: Duration,
    screen: &Screen,
) -> Result<(), CliError> {
    let inspecting = inspect(arguments, timeout);
    let page = waiting::shown_of("asking the registry", inspecting).await?;
    match screen.format {
        Format::Data(_) => screen.write_value(&json::value(&page)?),
        Format::Table => screen.write_raw(page.text(screen).as_bytes()),
    }
}

async fn inspect(arguments: &InspectArguments, timeout: Duration) -> Result<Page, Refused> {
    let keys = match arguments.keys.as_slice() {
        [] => None,
        keys => Some(TrustedKeys::read(keys)?),
    };
    match named(&arguments.wanted)? {
        Named::File(path) => of_file(&path, keys.as_ref()),
        Named::Reference(reference) => {
            of_reference(arguments, &reference, keys.as_ref(), timeout).await
        }
    }
}

fn of_file(path: &Path, keys: Option<&TrustedKeys>) -> Result<Page, Refused> {
    let what = path.display().to_string();
    let bytes = component::read(path)?;
    let inspected = component::look_into(&what, &bytes)?;
    let contract = inspected.contract().map(str::to_owned);
    let signatures = component::signatures_beside(path)?;
    let metadata = inspected.metadata.clone();
    let texts = [
        ("description", metadata.description),
        ("authors", metadata.authors),
        ("licenses", metadata.licenses),
        ("source", metadata.source),
        ("homepage", metadata.homepage),
        ("revision", metadata.revision),
    ];
    let texts = texts
        .into_iter()
        .filter_map(|(name, text)| Some((name.to_owned(), text?)));
    Ok(Page {
        path: Some(path.to_owned()),
        reference: None,
        manifest: None,
        sha256: Digest::of(&bytes).hex(),
        size: bytes.len() as u64,
        version: metadata.version,
        contract,
        imports: inspected.imports,
        exports: inspected.exports,
        annotations: texts.collect(),
        signatures: judged(&signatures, keys, |one| Some((one, bytes.as_slice()))),
    })
}

/// The component itself is fetched only where its signature is to be judged.
async fn of_reference(
    arguments: &InspectArguments,
    reference: &Reference,
    keys: Option<&TrustedKeys>,
    timeout: Duration,
) -> Result<Page, Refused> {
    let credential = trust::credential(reference).await?;
    let transport = arguments.hosts.transport(timeout)?;
    let mut registry = Registry::reading(transport, reference, credential)?;
    let artifact = registry.resolve().await?;
    let Interfaces {
        exports, imports, ..
    } = registry.config(&artifact).await?.component;
    let signatures = registry.signatures(&artifact, MAX_FILE).await?;
    let signatures = signatures.into_iter().map(|(form, bytes)| Detached {
        form: component::of_stored(form),
        place: format!("of {reference}"),
        bytes,
    });
    let signatures: Vec<_> = signatures.collect();
    let bytes = match keys {
        Some(_) => {
            let wanted = casemate_registry::Component {
                largest: component::largest(),
                refuse: casemate_host::backend::not_a_component,
                progress: &|_, _| {},
            };
            Some(registry.component(&artifact, &wanted).await?)
        }
        None => None,
    };
    // Where the component is at hand, it says it itself.
    let (shown, version) = match &bytes {
        Some(bytes) => {
            let inspected = component::look_into(&reference.to_string(), bytes)?;
            let own = inspected.metadata.version.clone();
            (inspected, own.or(artifact.version.text()))
        }
        None => {
            let announced = Inspected {
                imports,
                exports,
                ..Inspected::default()
            };
            (announced, artifact.version.text())
        }
    };
    Ok(Page {
        path: None,
        reference: Some(reference.to_string()),
        manifest: Some(artifact.manifest.digest.to_string()),
        sha256: artifact.sha256().hex(),
        size: artifact.layer.size,
        version,
        contract: shown.contract().map(str::to_owned),
        imports: shown.imports,
        exports: shown.exports,
        annotations: artifact.annotations.clone(),
        signatures: judged(&signatures, keys, |one| Some((one, bytes.as_deref()?))),
    })
}

fn judged<'a>(
    signatures: &'a [Detached],
    keys: Option<&TrustedKeys>,
    with_content: impl Fn(&'a Detached) -> Option<(&'a Detached, &'a [u8])>,
) -> Vec<Signature> {
    let judge = |one: &'a Detached| {
        let key = keys.and_then(|keys| {
            let (one, bytes) = with_content(one)?;
            keys.verify(bytes, std::slice::from_ref(one), "it").ok()
        });
        Signature {
            form: one.form.ending(),
            valid: keys.map(|_| key.is_some()),
            key: trust::key_id(key),
        }
    };
    signatures.iter().map(judge).collect()
}

/// An annotation as a line of the page. Its name is the registry's: one that is none of OCI's form could
/// pass for another line.
fn shown_name(annotation: &str) -> String {
    /// Names of OCI's annotations have some 40.
    const LONGEST: usize = 60;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
    match annotation.contains('.')
        && annotation.chars().all(is_plain)
        && annotation.len() <= LONGEST
    {
        true => annotation.to_owned(),
        false => {
            let start: String = annotation.chars().take(LONGEST).collect();
            format!("annotation {start:?}")
        }
    }
}

impl Page {
    fn text(&self, screen: &Screen) -> String {
        let plain = |text: String| (text, Tone::Plain);
        let optional = |text: &Option<String>| plain(text.clone().unwrap_or_default());
        let path = self.path.as_ref().map(|path| path.display().to_string());
        let mut fields: Vec<(&str, Tinted)> = vec![
            ("path", optional(&path)),
            ("reference", optional(&self.reference)),
            ("manifest", optional(&self.manifest)),
            ("sha256", plain(self.sha256.clone())),
            ("size", plain(self.size.to_string())),
            ("version", optional(&self.version)),
            ("contract", optional(&self.contract)),
            ("imports", plain(self.imports.join(", "))),
            ("exports", plain(self.exports.join(", "))),
        ];
        if self.contract.is_none() {
            fields.push(("backend", ("no: it exports none".to_owned(), Tone::Bad)));
        }
        let names: Vec<String> = self
            .annotations
            .keys()
            .map(|name| shown_name(name))
            .collect();
        for (name, text) in names.iter().zip(self.annotations.values()) {
            fields.push((name, plain(text.clone())));
        }
        for signature in &self.signatures {
            let (said, tone) = match (signature.valid, &signature.key) {
                (_, Some(key)) => (format!("valid, by {key}"), Tone::Good),
                (Some(false), None) => ("not valid by these keys".to_owned(), Tone::Bad),
                _ => ("not checked: no --key".to_owned(), Tone::Attention),
            };
            fields.push(("signature", (format!("{}: {said}", signature.form), tone)));
        }
        if self.signatures.is_empty() {
            fields.push(("signature", ("none".to_owned(), Tone::Attention)));
        }
        fields.retain(|(_, (text, _))| !text.is_empty());
        screen.block(&fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::piped;

    /// What a registry says of a component cannot pass for what this program says.
    #[test]
    fn an_annotation_is_told_as_one() {
        let long = "x".repeat(100_000);
        for (name, shown) in [
            (
                "org.opencontainers.image.title",
                "org.opencontainers.image.title",
            ),
            ("signature", "annotation \"signature\""),
            (
                "a.b\nsignature:  sig: valid\u{1b}[8m",
                "annotation \"a.b\\nsignature:  sig: valid\\u{1b}[8m\"",
            ),
        ] {
            assert_eq!(shown_name(name), shown);
        }
        let page = Page {
            annotations: [
                (long, "text".to_owned()),
                ("a.b\u{1b}[8m".to_owned(), "text".to_owned()),
            ]
            .into(),
            ..Page::default()
        };
        let text = page.text(&piped(Format::Table));
        assert!(!text.contains('\u{1b}') && text.len() < 1000, "{text}");
        assert!(text.contains(&"x".repeat(60)), "{text}");
    }
}
