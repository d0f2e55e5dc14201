//! `casemate backend pull`: a component, and its signature, into a folder.

use std::path::PathBuf;
use std::time::Duration;

use casemate_registry::Reference;
use serde_json::json;

use super::component;
use super::fetch::{Fetched, Locked, Wanted, fetch};
use super::refused::Refused;
use super::trust::{Downgrade, HostArguments, MirrorArguments, TrustArguments};
use crate::arguments::Format;
use crate::error::CliError;
use crate::screen::{Screen, Tone};

#[derive(Debug, clap::Args)]
pub(crate) struct PullArguments {
    // No comment of documentation: the brackets would be links.
    #[arg(
        help = "What to fetch: HOST[:PORT]/REPOSITORY:TAG or HOST[:PORT]/REPOSITORY@sha256:DIGEST"
    )]
    reference: Reference,

    /// Folder to write NAME.wasm to, and its signature beside it.
    #[arg(long, short, value_name = "FOLDER", default_value = ".")]
    output: PathBuf,

    /// Take a version that is older than the one in the lock file, or than its tag says.
    #[arg(long)]
    allow_downgrade: bool,

    #[command(flatten)]
    trust: TrustArguments,

    #[command(flatten)]
    mirrors: MirrorArguments,

    #[command(flatten)]
    hosts: HostArguments,
}

pub(crate) async fn run(
    arguments: &PullArguments,
    timeout: Duration,
    screen: &Screen,
) -> Result<(), CliError> {
    let (path, fetched) = pull(arguments, timeout, screen).await?;
    let path = path.display().to_string();
    let size = fetched.bytes.len();
    let sha256 = fetched.sha256.hex();
    let manifest = fetched.manifest.map(|digest| digest.to_string());
    if let Format::Data(_) = screen.format {
        return screen.write_value(&json!({
            "path": path,
            "from": fetched.from,
            "version": fetched.version.text(),
            "manifest": manifest,
            "sha256": sha256,
            "size": size,
            "key": fetched.key,
        }));
    }
    let plain = |text: String| (text, Tone::Plain);
    let text = screen.block(&[
        ("path", plain(path)),
        ("from", plain(fetched.from)),
        ("version", plain(fetched.version.text().unwrap_or_default())),
        ("sha256", plain(sha256)),
        ("size", plain(size.to_string())),
        ("signed by", plain(fetched.key.unwrap_or_default())),
    ]);
    screen.write_raw(text.as_bytes())
}

async fn pull(
    arguments: &PullArguments,
    timeout: Duration,
    screen: &Screen,
) -> Result<(PathBuf, Fetched), Refused> {
    let reference = &arguments.reference;
    let downgrade = Downgrade::of(arguments.allow_downgrade);
    let trust = arguments.trust.read(downgrade)?;
    let transport = arguments.hosts.transport(timeout)?;
    let fetched = fetch(
        &Wanted {
            reference,
            trust: &trust,
            locked: Locked::Content,
            transport: &transport,
            mirrors: &arguments.mirrors.read()?,
        },
        screen,
    )
    .await?;
    if trust.lock.of_reference(reference).is_none() {
        trust.remark(reference, fetched.key.is_some(), screen);
    }
    let name = trust.lock.name_of(reference, fetched.sha256)?;
    let path = arguments.output.join(format!("{name}.wasm"));
    component::write(&path, &fetched.bytes, &fetched.signatures)?;
    Ok((path, fetched))
}
