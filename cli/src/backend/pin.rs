//! `casemate backend pin`: which component is meant, for the lock file and for the daemon's config.

use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_registry::{OrderedVersion, Reference};
use serde::Serialize;
use serde_json::json;

use super::component;
use super::fetch::{Locked, Wanted, fetch};
use super::lock::Pinned;
use super::refused::Refused;
use super::trust::{self, Downgrade, HostArguments, Trust, TrustArguments};
use crate::arguments::Format;
use crate::error::CliError;
use crate::screen::Screen;

/// Where packages have components, and where they are looked for.
const FOLDER: &str = "/usr/lib/casemate/backends";

#[derive(Debug, clap::Args)]
pub(crate) struct PinArguments {
    /// A reference, or the file of a component.
    #[arg(value_name = "REFERENCE|FILE")]
    wanted: String,

    /// Name of the backend; the last part of the repository or the file's name otherwise.
    #[arg(long)]
    name: Option<String>,

    /// Where the daemon is to find the component; the file itself, or
    /// /usr/lib/casemate/backends/NAME.wasm.
    #[arg(long, value_name = "FILE")]
    path: Option<PathBuf>,

    /// Pin a version that is older than the pinned one, or than its tag says.
    #[arg(long)]
    allow_downgrade: bool,

    #[command(flatten)]
    trust: TrustArguments,

    #[command(flatten)]
    hosts: HostArguments,
}

/// The lines for the config file.
#[derive(Debug, Serialize)]
struct ForConfig {
    backend: [Backend; 1],
}

#[derive(Clone, Debug, Serialize)]
struct Backend {
    name: String,
    path: String,
    sha256: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    signature_keys: Vec<String>,
}

/// What may be named by its path or by a reference: a file that is there is meant.
pub(super) enum Named {
    File(PathBuf),
    Reference(Reference),
}

pub(super) fn named(text: &str) -> Result<Named, Refused> {
    let path = Path::new(text);
    if path.exists() {
        return Ok(Named::File(path.to_owned()));
    }
    match text.parse() {
        Ok(reference) => Ok(Named::Reference(reference)),
        Err(error) => Err(Refused::Neither {
            wanted: text.to_owned(),
            reason: error.to_string(),
        }),
    }
}

pub(crate) async fn run(
    arguments: &PinArguments,
    timeout: Duration,
    screen: &Screen,
) -> Result<(), CliError> {
    let (pinned, backend) = pin(arguments, timeout, screen).await?;
    if let Format::Data(_) = screen.format {
        return screen.write_value(&json!({
            "backend": backend,
            "reference": pinned.reference,
            "version": pinned.version,
            "manifest": pinned.manifest.map(|digest| digest.to_string()),
            "size": pinned.size,
            "key": pinned.key,
        }));
    }
    let lines = ForConfig { backend: [backend] };
    let text = toml::to_string(&lines).map_err(|error| CliError::Unshowable {
        reason: error.to_string(),
    })?;
    screen.write_text(&text)
}

async fn pin(
    arguments: &PinArguments,
    timeout: Duration,
    screen: &Screen,
) -> Result<(Pinned, Backend), Refused> {
    let downgrade = Downgrade::of(arguments.allow_downgrade);
    let mut trust = arguments.trust.read_to_write(downgrade)?;
    let wanted = named(&arguments.wanted)?;
    let (mut pinned, usual_path) = match &wanted {
        Named::File(path) => (of_file(arguments, path, &trust)?, component::absolute(path)),
        Named::Reference(reference) => {
            let pinned = of_reference(arguments, reference, &trust, timeout, screen).await?;
            let path = Path::new(FOLDER).join(format!("{}.wasm", pinned.name));
            (pinned, path)
        }
    };
    let path = arguments.path.as_deref().map(component::absolute);
    let backend = Backend {
        name: pinned.name.clone(),
        path: path.unwrap_or(usual_path).display().to_string(),
        sha256: pinned.sha256.hex(),
        signature_keys: arguments.trust.key_sources(),
    };
    if let Named::Reference(reference) = &wanted {
        trust.remark(reference, pinned.key.is_some(), screen);
    }
    // Others may have pinned something while this was fetched.
    let held = trust.lock.hold()?;
    trust.lock = trust.lock.again()?;
    check_again(&trust, &wanted, &arguments.wanted, &pinned)?;
    if let Some(key) = signed_before(&pinned, &trust) {
        screen.write_remark(&format!(
            "{} was pinned with a signature by {key}: name the --key, so that one is asked for\n",
            pinned.name
        ));
        let before = trust.lock.of_name(&pinned.name);
        if before.is_some_and(|before| before.sha256 == pinned.sha256) {
            pinned.key = Some(key);
        }
    }
    let before = trust.lock.pin(pinned.clone());
    trust.lock.write()?;
    drop(held);
    screen.write_remark(&told(&pinned, before.as_ref(), &trust));
    Ok((pinned, backend))
}

/// What was pinned meanwhile is no older for that.
fn check_again(trust: &Trust, wanted: &Named, what: &str, pinned: &Pinned) -> Result<(), Refused> {
    let (lock, sha256) = (&trust.lock, pinned.sha256);
    let version = OrderedVersion::lowest([pinned.version.as_deref()]);
    if let Named::Reference(reference) = wanted {
        lock.check_version(reference, sha256, &version, trust.downgrade)?;
    }
    lock.check_named_version(&pinned.name, sha256, &version, trust.downgrade, what)
}

/// By whom the one before was signed, if that of this one was not asked.
fn signed_before(pinned: &Pinned, trust: &Trust) -> Option<String> {
    let before = trust.lock.of_name(&pinned.name)?;
    before.key.clone().filter(|_| pinned.key.is_none())
}

fn told(pinned: &Pinned, before: Option<&Pinned>, trust: &Trust) -> String {
    let short = |pinned: &Pinned| {
        let digits: String = pinned.sha256.hex().chars().take(12).collect();
        match &pinned.version {
            Some(version) => format!("{version} ({digits})"),
            None => digits,
        }
    };
    let (name, now, lock) = (&pinned.name, short(pinned), trust.lock.shown());
    match before {
        None => format!("pinned {name} {now} in {lock}\n"),
        Some(before) if before == pinned => format!("{name} {now} was pinned in {lock}\n"),
        Some(before) => format!(
            "pinned {name} {now} in {lock}, where {} from {} was\n",
            short(before),
            before.from()
        ),
    }
}

fn of_file(arguments: &PinArguments, path: &Path, trust: &Trust) -> Result<Pinned, Refused> {
    let what = path.display().to_string();
    let name = arguments.name.clone();
    let name = name.unwrap_or_else(|| component::name_of(path));
    component::check_name(&name)?;
    let bytes = component::read(path)?;
    let sha256 = casemate_registry::Digest::of(&bytes);
    if let Some(expected) = trust.sha256.filter(|expected| *expected != sha256) {
        return Err(Refused::Pin {
            what,
            expected,
            actual: sha256,
            by: "--sha256".to_owned(),
        });
    }
    let key = match &trust.keys {
        Some(keys) => Some(keys.verify_beside(path, &bytes)?),
        None => None,
    };
    let inspected = component::look_into(&what, &bytes)?;
    let version = inspected.metadata.version;
    let version = OrderedVersion::lowest([version.as_deref()]);
    trust
        .lock
        .check_named_version(&name, sha256, &version, trust.downgrade, &what)?;
    Ok(Pinned {
        name,
        reference: None,
        version: version.text(),
        manifest: None,
        sha256,
        size: bytes.len() as u64,
        key: trust::key_id(key),
    })
}

async fn of_reference(
    arguments: &PinArguments,
    reference: &Reference,
    trust: &Trust,
    timeout: Duration,
    screen: &Screen,
) -> Result<Pinned, Refused> {
    let name = arguments.name.clone();
    let name = name.unwrap_or_else(|| reference.short_name().to_owned());
    component::check_name(&name)?;
    let transport = arguments.hosts.transport(timeout)?;
    let fetched = fetch(
        &Wanted {
            reference,
            trust,
            locked: Locked::VersionOnly,
            transport: &transport,
            mirrors: &[],
        },
        screen,
    )
    .await?;
    // The name may be that of a backend from elsewhere.
    let (what, version) = (reference.to_string(), &fetched.version);
    let lock = &trust.lock;
    lock.check_named_version(&name, fetched.sha256, version, trust.downgrade, &what)?;
    Ok(Pinned {
        name,
        reference: Some(reference.to_string()),
        version: fetched.version.text(),
        manifest: fetched.manifest,
        sha256: fetched.sha256,
        size: fetched.bytes.len() as u64,
        key: fetched.key,
    })
}
