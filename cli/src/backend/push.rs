//! `casemate backend push`: a component, and its signature, into a registry.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use casemate_host::backend::inspect::Inspected;
use casemate_host::backend::signature::{self, Detached, Form, TrustedKeys};
use casemate_registry::manifest::{
    AUTHORS, CREATED, DESCRIPTION, Interfaces, LICENSES, REVISION, SOURCE, TITLE, URL, VERSION,
};
use casemate_registry::{Artifact, Digest, OrderedVersion, Published, Reference, Registry};
use serde_json::json;

use super::component;
use super::refused::Refused;
use super::trust::{self, PlainArguments};
use crate::arguments::Format;
use crate::error::CliError;
use crate::screen::{Screen, Tone};
use crate::waiting;

#[derive(Debug, clap::Args)]
pub(crate) struct PushArguments {
    /// The component.
    file: PathBuf,

    // No comment of documentation: the brackets would be links.
    #[arg(help = "Where to: HOST[:PORT]/REPOSITORY:TAG; wkg wants a version as the tag")]
    reference: Reference,

    /// Detached signature to go along: FILE.sig of cosign sign-blob, FILE.minisig of minisign; those
    /// beside the component are taken without being named.
    #[arg(long = "signature", value_name = "FILE")]
    signatures: Vec<PathBuf>,

    /// Public key, or its file, with which the signatures are checked before they are pushed.
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<String>,

    #[command(flatten)]
    hosts: PlainArguments,
}

pub(crate) async fn run(
    arguments: &PushArguments,
    timeout: Duration,
    screen: &Screen,
) -> Result<(), CliError> {
    let pushing = push(arguments, timeout, screen);
    let (artifact, signatures) = waiting::shown_of("pushing the component", pushing).await?;
    let forms: Vec<&str> = signatures.iter().map(|form| form.ending()).collect();
    let reference = arguments.reference.to_string();
    let manifest = artifact.manifest.digest.to_string();
    let sha256 = artifact.sha256().hex();
    if let Format::Data(_) = screen.format {
        return screen.write_value(&json!({
            "reference": reference,
            "manifest": manifest,
            "sha256": sha256,
            "size": artifact.layer.size,
            "version": artifact.version.text(),
            "annotations": artifact.annotations,
            "signatures": forms,
        }));
    }
    let plain = |text: String| (text, Tone::Plain);
    let text = screen.block(&[
        ("reference", plain(reference)),
        (
            "version",
            plain(artifact.version.text().unwrap_or_default()),
        ),
        ("manifest", plain(manifest)),
        ("sha256", plain(sha256)),
        ("signatures", plain(forms.join(", "))),
    ]);
    screen.write_raw(text.as_bytes())
}

async fn push(
    arguments: &PushArguments,
    timeout: Duration,
    screen: &Screen,
) -> Result<(Artifact, Vec<Form>), Refused> {
    let reference = &arguments.reference;
    if reference.tag().is_none() || reference.digest().is_some() {
        return Err(Refused::NoTag {
            reference: reference.to_string(),
        });
    }
    let what = arguments.file.display().to_string();
    let bytes = component::read(&arguments.file)?;
    let inspected = component::look_into(&what, &bytes)?;
    if inspected.contract().is_none() {
        return Err(Refused::NoBackend { what });
    }
    let signatures = signatures(arguments)?;
    if !arguments.keys.is_empty() {
        TrustedKeys::read(&arguments.keys)?.verify(&bytes, &signatures, &what)?;
    }
    if let Some(remark) = older_than_its_tag(reference, &inspected) {
        screen.write_remark(&remark);
    }
    let credential = trust::credential(reference).await?;
    let transport = arguments.hosts.transport(timeout)?;
    let mut registry = Registry::writing(transport, reference, credential)?;
    let created = created(&mut registry, Digest::of(&bytes)).await;
    let published = published(arguments, bytes, &inspected, created);
    let stored = signatures.iter().map(|signature| {
        let form = component::stored(signature.form);
        (form, signature.bytes.as_slice())
    });
    let stored: Vec<_> = stored.collect();
    let artifact = registry.push(&published, &stored).await?;
    let forms = signatures.iter().map(|signature| signature.form);
    Ok((artifact, forms.collect()))
}

/// When it was first pushed, where the tag has the very same component: its manifest then stays the
/// same too, and a further signature comes beside those that it has.
async fn created(registry: &mut Registry, sha256: Digest) -> String {
    let there = registry.resolve().await.ok();
    let there = there.filter(|artifact| artifact.sha256() == sha256);
    let created = there.and_then(|artifact| artifact.annotations.get(CREATED).cloned());
    let is_time = |text: &String| text.parse::<jiff::Timestamp>().is_ok();
    let created = created.filter(is_time);
    created.unwrap_or_else(|| jiff::Timestamp::now().to_string())
}

fn signatures(arguments: &PushArguments) -> Result<Vec<Detached>, Refused> {
    if arguments.signatures.is_empty() {
        return component::signatures_beside(&arguments.file);
    }
    let read = arguments.signatures.iter().map(|path| {
        let form =
            Form::of_file(path).ok_or_else(|| Refused::SignatureEnding { path: path.clone() })?;
        Ok(signature::read_file(form, path)?)
    });
    read.collect()
}

/// Whoever pulls a version is refused a component that says itself that it is older.
fn older_than_its_tag(reference: &Reference, inspected: &Inspected) -> Option<String> {
    let own = OrderedVersion::lowest([inspected.metadata.version.as_deref()]);
    let tag = OrderedVersion::lowest([reference.tag()]);
    let own = own.text().filter(|_| own.may_be_older_than(&tag))?;
    Some(format!(
        "the component says that it is {own}, and by the tag {tag} nobody pulls it without \
         --allow-downgrade: give it that version, or another tag\n"
    ))
}

/// What the component says of itself becomes annotations, as `wkg publish` does it.
fn published(
    arguments: &PushArguments,
    bytes: Vec<u8>,
    inspected: &Inspected,
    created: String,
) -> Published {
    let metadata = &inspected.metadata;
    // A tag that is a version is one where the component itself says none.
    let version = metadata.version.clone();
    let version = version.or_else(|| OrderedVersion::of(arguments.reference.tag()?).text());
    let texts = [
        (TITLE, Some(component::name_of(&arguments.file))),
        (VERSION, version),
        (DESCRIPTION, metadata.description.clone()),
        (AUTHORS, metadata.authors.clone()),
        (LICENSES, metadata.licenses.clone()),
        (SOURCE, metadata.source.clone()),
        (URL, metadata.homepage.clone()),
        (REVISION, metadata.revision.clone()),
        (CREATED, Some(created.clone())),
    ];
    let annotations = texts
        .into_iter()
        .filter_map(|(name, text)| Some((name.to_owned(), text?)));
    Published {
        interfaces: Interfaces {
            exports: inspected.exports.clone(),
            imports: inspected.imports.clone(),
            target: None,
        },
        annotations: annotations.collect::<BTreeMap<_, _>>(),
        component: bytes,
        created,
    }
}
