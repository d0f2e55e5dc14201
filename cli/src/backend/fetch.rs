//! Fetching a component: every check comes before anything of it is parsed.
//!
//! 1. what is wanted is known: reference, digest by `--sha256` or the lock, keys;
//! 2. a mirror by that digest, or the registry's manifest: form, size, digest against the pin, version
//!    against the lock;
//! 3. the content: size while it comes, its beginning, its digest;
//! 4. its signature, where keys are given.

use std::cell::RefCell;

use casemate_host::backend::not_a_component;
use casemate_host::backend::signature::{Detached, Form, MAX_FILE};
use casemate_registry::{
    Artifact, Component, Digest, Mirror, OrderedVersion, Reference, Registry, RegistryError,
    Transport,
};

use super::component::{largest, of_stored};
use super::refused::Refused;
use super::trust::{self, Downgrade, Trust};
use crate::screen::Screen;
use crate::waiting::Progress;

/// A component that passed.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) bytes: Vec<u8>,
    pub(super) sha256: Digest,
    /// Those that were checked, or where nothing was to be checked the only one of each form.
    pub(super) signatures: Vec<Detached>,
    /// Whose signature it has.
    pub(super) key: Option<String>,
    pub(super) version: OrderedVersion,
    /// Of the registry; none from a mirror.
    pub(super) manifest: Option<Digest>,
    pub(super) from: String,
}

/// Whether the lock's content has to be the one that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Locked {
    Content,
    /// Another content of the same reference is what is to be pinned.
    VersionOnly,
}

#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) reference: &'a Reference,
    pub(super) trust: &'a Trust,
    pub(super) locked: Locked,
    pub(super) transport: &'a Transport,
    pub(super) mirrors: &'a [Mirror],
}

/// Content that came, from wherever.
struct Content {
    bytes: Vec<u8>,
    signatures: Vec<Detached>,
    version: OrderedVersion,
    manifest: Option<Digest>,
    from: String,
}

pub(super) async fn fetch(wanted: &Wanted<'_>, screen: &Screen) -> Result<Fetched, Refused> {
    let progress = RefCell::new(Progress::new("fetching the component"));
    let show = |done: u64, total: u64| {
        let below = format!("{} of {} KiB", done >> 10, total >> 10);
        progress.borrow_mut().show(&below);
    };
    let component = Component {
        largest: largest(),
        refuse: not_a_component,
        progress: &show,
    };
    let content = match from_mirrors(wanted, &component, screen).await? {
        Some(content) => content,
        None => from_registry(wanted, &component).await?,
    };
    drop(progress);
    let sha256 = Digest::of(&content.bytes);
    let (signatures, key) = checked(wanted, &content)?;
    if key.is_none() && signatures.len() < content.signatures.len() {
        screen.write_remark(
            "it has several signatures, and a file has room for one: name the --key whose it is to be\n",
        );
    }
    let own = check_own_version(wanted, &content, sha256)?;
    Ok(Fetched {
        sha256,
        signatures,
        key,
        // What a later version is held against is not the registry's to say.
        version: own.unwrap_or(content.version),
        manifest: content.manifest,
        from: content.from,
        bytes: content.bytes,
    })
}

impl Wanted<'_> {
    /// The digest that the content has to have, if anybody said.
    fn digest(&self) -> Option<Digest> {
        let locked = match self.locked {
            Locked::Content => self.trust.lock.of_reference(self.reference),
            Locked::VersionOnly => None,
        };
        self.trust.sha256.or(locked.map(|pinned| pinned.sha256))
    }

    /// Of the content that is announced.
    fn check_pins(&self, sha256: Digest, version: &OrderedVersion) -> Result<(), Refused> {
        if let Some(expected) = self.trust.sha256.filter(|expected| *expected != sha256) {
            return Err(Refused::Pin {
                what: self.reference.to_string(),
                expected,
                actual: sha256,
                by: "--sha256".to_owned(),
            });
        }
        let lock = &self.trust.lock;
        if self.locked == Locked::Content {
            lock.check_content(self.reference, sha256)?;
        }
        lock.check_version(self.reference, sha256, version, self.trust.downgrade)
    }

    /// A tag that is a version is a wish for that version: who keeps the registry cannot sell an older
    /// one under it. A digest is a wish for that very content, whatever its vendor calls it.
    fn check_tag(&self, sha256: Digest, own: &OrderedVersion) -> Result<(), Refused> {
        let tag = OrderedVersion::lowest([self.reference.tag()]);
        let mut pins = self.trust.lock.exactly(self.reference);
        let is_meant = self.trust.sha256.is_some()
            || self.reference.digest().is_some()
            || pins.any(|pinned| pinned.sha256 == sha256)
            || self.trust.downgrade == Downgrade::Allowed;
        match !is_meant && own.may_be_older_than(&tag) {
            true => Err(Refused::Older {
                what: self.reference.to_string(),
                found: own.to_string(),
                pinned: tag.to_string(),
                by: "its tag".to_owned(),
            }),
            false => Ok(()),
        }
    }
}

/// None where no mirror is named, or none has it.
async fn from_mirrors(
    wanted: &Wanted<'_>,
    component: &Component<'_>,
    screen: &Screen,
) -> Result<Option<Content>, Refused> {
    if wanted.mirrors.is_empty() {
        return Ok(None);
    }
    let sha256 = wanted.digest().ok_or_else(|| Refused::MirrorNeedsDigest {
        what: wanted.reference.to_string(),
    })?;
    let lock = &wanted.trust.lock;
    let pinned = lock
        .of_content(sha256)
        .and_then(|pinned| pinned.version.as_deref());
    let version = OrderedVersion::lowest([pinned, wanted.reference.tag()]);
    wanted.check_pins(sha256, &version)?;
    for mirror in wanted.mirrors {
        match from_mirror(wanted, mirror, sha256, component).await {
            Ok(Some((bytes, signatures))) => {
                return Ok(Some(Content {
                    bytes,
                    signatures,
                    version,
                    manifest: None,
                    from: mirror.to_string(),
                }));
            }
            Ok(None) => screen.write_remark(&format!("{mirror} does not have it\n")),
            // The next may have it: many say so of what they do not have. What is wrong in any other
            // way is not passed over.
            Err(
                error @ (RegistryError::Unreachable { .. }
                | RegistryError::Denied { .. }
                | RegistryError::Answer { .. }),
            ) => screen.write_remark(&format!("{error}\n")),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// A component and its signatures: both, for one without the other is of no use.
async fn from_mirror(
    wanted: &Wanted<'_>,
    mirror: &Mirror,
    sha256: Digest,
    component: &Component<'_>,
) -> Result<Option<(Vec<u8>, Vec<Detached>)>, RegistryError> {
    let transport = &wanted.transport.renewed();
    let Some(bytes) = mirror.component(transport, sha256, component).await? else {
        return Ok(None);
    };
    let mut signatures = Vec::new();
    let forms = match &wanted.trust.keys {
        Some(keys) => keys.forms().collect(),
        None => Form::ALL.to_vec(),
    };
    for form in forms {
        let found = mirror
            .signature(transport, sha256, form.ending(), MAX_FILE)
            .await;
        let found = match found {
            Err(_) if wanted.trust.keys.is_none() => None,
            found => found?,
        };
        signatures.extend(found.map(|bytes| Detached {
            form,
            place: format!("of {mirror}"),
            bytes,
        }));
    }
    Ok(Some((bytes, signatures)))
}

async fn from_registry(wanted: &Wanted<'_>, component: &Component<'_>) -> Result<Content, Refused> {
    let reference = wanted.reference;
    let credential = trust::credential(reference).await?;
    // Its time begins when who this user is has been said, which may take a person.
    let transport = wanted.transport.renewed();
    let mut registry = Registry::reading(transport, reference, credential)?;
    let artifact = registry.resolve().await?;
    component.check_size(&reference.to_string(), artifact.layer.size)?;
    wanted.check_pins(artifact.sha256(), &artifact.version)?;
    let bytes = registry.component(&artifact, component).await?;
    Ok(Content {
        bytes,
        signatures: signatures(wanted, &mut registry, &artifact).await?,
        version: artifact.version.clone(),
        manifest: Some(artifact.manifest.digest),
        from: reference.to_string(),
    })
}

/// Where nobody asked for one, a registry that cannot say whether there is one is no reason to fail.
async fn signatures(
    wanted: &Wanted<'_>,
    registry: &mut Registry,
    artifact: &Artifact,
) -> Result<Vec<Detached>, Refused> {
    let found = match registry.signatures(artifact, MAX_FILE).await {
        Err(_) if wanted.trust.keys.is_none() => Vec::new(),
        found => found?,
    };
    let detached = found.into_iter().map(|(form, bytes)| Detached {
        form: of_stored(form),
        place: format!("of {}", artifact.reference),
        bytes,
    });
    Ok(detached.collect())
}

/// Signatures that are valid by a key, and that key; where there is no key, the only one of each form.
fn checked(
    wanted: &Wanted<'_>,
    content: &Content,
) -> Result<(Vec<Detached>, Option<String>), Refused> {
    let Some(keys) = &wanted.trust.keys else {
        return Ok((alone_in_their_form(&content.signatures), None));
    };
    let key = keys.verify(&content.bytes, &content.signatures, &content.from)?;
    let is_valid = |one: &&Detached| {
        let one = std::slice::from_ref(*one);
        keys.verify(&content.bytes, one, &content.from).is_ok()
    };
    let valid = content.signatures.iter().filter(is_valid).cloned();
    Ok((valid.collect(), trust::key_id(Some(key))))
}

/// Beside a component there is room for one of each form, and which of several is meant only a key says.
fn alone_in_their_form(signatures: &[Detached]) -> Vec<Detached> {
    let is_alone = |one: &&Detached| {
        let mut others = signatures.iter();
        others.all(|other| other.form != one.form || other.bytes == one.bytes)
    };
    signatures.iter().filter(is_alone).cloned().collect()
}

/// The component's own word on its version is signed with it, and comes last: it has to be parsed. None:
/// it says none.
fn check_own_version(
    wanted: &Wanted<'_>,
    content: &Content,
    sha256: Digest,
) -> Result<Option<OrderedVersion>, Refused> {
    let own = casemate_host::backend::inspect::inspect(&content.bytes);
    let own = own.ok().and_then(|inspected| inspected.metadata.version);
    let own = own.map(|own| OrderedVersion::of(&own));
    let own = own.filter(|own| own.text().is_some());
    if let Some(own) = &own {
        wanted.check_pins(sha256, own)?;
        wanted.check_tag(sha256, own)?;
    }
    Ok(own)
}
