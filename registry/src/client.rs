//! One repository of one registry (OCI distribution specification 1.1): reading. [`crate::push`] is
//! the other direction.

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};

use crate::address::Address;
use crate::artifact::Artifact;
use crate::auth;
use crate::credentials::Credential;
use crate::digest::Digest;
use crate::error::RegistryError;
use crate::manifest::{
    ComponentConfig, Descriptor, INDEX, Index, MANIFEST, Manifest, SIGNATURE_ARTIFACT,
    SignatureForm,
};
use crate::reference::Reference;
use crate::transport::{Answer, Ask, Length, Transport, refused};

/// Registries take none that is larger, and need not (specification, "Pushing manifests").
const LARGEST_MANIFEST: u64 = 4 << 20;
/// The names of what a component imports and exports.
const LARGEST_CONFIG: u64 = 1 << 20;
/// What refers to a component as its signature and is looked at, with one signature of each form:
/// who may push could add any number.
const MOST_SIGNATURES: usize = 64;
/// By how many bytes a file is told from another kind.
const BEGINNING: usize = 8;

#[derive(Debug)]
pub struct Registry {
    pub(crate) transport: Transport,
    base: Address,
    pub(crate) reference: Reference,
    credential: Option<Credential>,
    authorization: Option<HeaderValue>,
    access: &'static str,
}

/// What a component may be, before anybody looks into it.
#[derive(Clone, Copy)]
pub struct Component<'a> {
    pub largest: u64,
    /// What it is by its beginning, where that is no component's.
    pub refuse: fn(&[u8]) -> Option<&'static str>,
    /// Hears how much of how much there is.
    pub progress: &'a dyn Fn(u64, u64),
}

impl std::fmt::Debug for Component<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Component")
            .field("largest", &self.largest)
            .finish_non_exhaustive()
    }
}

impl Component<'_> {
    /// Before anything of it is asked for.
    pub fn check_size(&self, what: &str, size: u64) -> Result<(), RegistryError> {
        match size > self.largest {
            true => Err(RegistryError::TooLarge {
                what: what.to_owned(),
                size,
                limit: self.largest,
            }),
            false => Ok(()),
        }
    }

    /// With the first bytes, and again with all of it.
    pub fn check_beginning(&self, what: &str, content: &[u8]) -> Result<(), RegistryError> {
        match (self.refuse)(content) {
            Some(found) => Err(RegistryError::NotAComponent {
                what: what.to_owned(),
                found,
            }),
            None => Ok(()),
        }
    }

    /// The body of an answer, and its digest held against the one that is wanted.
    pub(crate) async fn read(
        &self,
        answer: Answer,
        what: &str,
        length: Length,
        wanted: Digest,
    ) -> Result<Vec<u8>, RegistryError> {
        let (Length::Exactly(total) | Length::AtMost(total)) = length;
        let mut is_checked = false;
        let content = answer
            .body(what, length, |content| {
                (self.progress)(content.len() as u64, total);
                if !is_checked && content.len() >= BEGINNING {
                    is_checked = true;
                    self.check_beginning(what, content)?;
                }
                Ok(())
            })
            .await?;
        check_digest(what, wanted, &content)?;
        self.check_beginning(what, &content)?;
        Ok(content)
    }
}

pub(crate) fn check_digest(
    what: &str,
    expected: Digest,
    content: &[u8],
) -> Result<(), RegistryError> {
    let actual = Digest::of(content);
    match actual == expected {
        true => Ok(()),
        false => Err(RegistryError::DigestMismatch {
            what: what.to_owned(),
            expected,
            actual,
        }),
    }
}

impl Registry {
    pub fn reading(
        transport: Transport,
        reference: &Reference,
        credential: Option<Credential>,
    ) -> Result<Self, RegistryError> {
        Self::open(transport, reference, credential, "pull")
    }

    pub fn writing(
        transport: Transport,
        reference: &Reference,
        credential: Option<Credential>,
    ) -> Result<Self, RegistryError> {
        Self::open(transport, reference, credential, "pull,push")
    }

    fn open(
        transport: Transport,
        reference: &Reference,
        credential: Option<Credential>,
        access: &'static str,
    ) -> Result<Self, RegistryError> {
        Ok(Self {
            base: transport.base(reference.api_host())?,
            transport,
            reference: reference.clone(),
            credential,
            authorization: None,
            access,
        })
    }

    /// What the reference stands for now.
    pub async fn resolve(&mut self) -> Result<Artifact, RegistryError> {
        let what = self.reference.to_string();
        let wanted = self.reference.wanted().unwrap_or_default();
        let content = self.manifest(&what, &wanted, MANIFEST).await?;
        if let Some(digest) = self.reference.digest() {
            check_digest(&what, digest, &content)?;
        }
        Artifact::read(&self.reference, &content)
    }

    /// The component, which is what the manifest says.
    pub async fn component(
        &mut self,
        artifact: &Artifact,
        component: &Component<'_>,
    ) -> Result<Vec<u8>, RegistryError> {
        let what = artifact.reference.to_string();
        let layer = &artifact.layer;
        component.check_size(&what, layer.size)?;
        let answer = self.blob(&what, layer.digest).await?;
        let length = Length::Exactly(layer.size);
        component.read(answer, &what, length, layer.digest).await
    }

    /// What the config says that the component imports and exports.
    pub async fn config(&mut self, artifact: &Artifact) -> Result<ComponentConfig, RegistryError> {
        let what = format!("the config of {}", artifact.reference);
        let content = self.small(&what, &artifact.config, LARGEST_CONFIG).await?;
        serde_json::from_slice(&content).map_err(|error| RegistryError::Form {
            what,
            reason: format!("it is no config of a component: {error}"),
        })
    }

    /// Detached signatures that refer to the artifact, of at most that size each. Anybody who may push
    /// can add one: what cannot be read hides none of the others, and is told where there are none.
    pub async fn signatures(
        &mut self,
        artifact: &Artifact,
        largest: u64,
    ) -> Result<Vec<(SignatureForm, Vec<u8>)>, RegistryError> {
        let what = format!("a signature of {}", artifact.reference);
        let index = self.referrers(artifact.manifest.digest).await?;
        let of_kind = |one: &&Descriptor| one.artifact_type.as_deref() == Some(SIGNATURE_ARTIFACT);
        let referrers = index.manifests.iter().filter(of_kind);
        let mut signatures = Vec::new();
        let mut unreadable = None;
        for referrer in referrers.take(MOST_SIGNATURES) {
            let found = self.signatures_in(&what, referrer, artifact, largest);
            match found.await {
                Ok(found) => signatures.extend(found),
                // It answers no more.
                Err(error @ RegistryError::Unreachable { .. }) => return Err(error),
                Err(error) => unreadable = unreadable.or(Some(error)),
            }
        }
        match unreadable {
            Some(error) if signatures.is_empty() => Err(error),
            _ => Ok(signatures),
        }
    }

    async fn signatures_in(
        &mut self,
        what: &str,
        referrer: &Descriptor,
        artifact: &Artifact,
        largest: u64,
    ) -> Result<Vec<(SignatureForm, Vec<u8>)>, RegistryError> {
        let name = referrer.digest.to_string();
        let content = self.manifest(what, &name, MANIFEST).await?;
        check_digest(what, referrer.digest, &content)?;
        let manifest: Manifest =
            serde_json::from_slice(&content).map_err(|error| RegistryError::Form {
                what: what.to_owned(),
                reason: format!("its manifest is none: {error}"),
            })?;
        let subject = manifest.subject.map(|subject| subject.digest);
        let mut signatures = Vec::new();
        if subject != Some(artifact.manifest.digest) {
            return Ok(signatures);
        }
        for layer in &manifest.layers {
            let Some(form) = SignatureForm::of(&layer.media_type) else {
                continue;
            };
            if !signatures.iter().any(|(known, _)| *known == form) {
                signatures.push((form, self.small(what, layer, largest).await?));
            }
        }
        Ok(signatures)
    }

    /// What refers to a manifest: by the API for it, or by the tag that stands for it in a registry
    /// without.
    pub(crate) async fn referrers(&mut self, digest: Digest) -> Result<Index, RegistryError> {
        let what = format!("what refers to {digest}");
        let url = self.url(&format!("referrers/{digest}"));
        let answer = self.ask(Ask::get(url)).await?;
        let content = match answer.status {
            StatusCode::OK => {
                let length = Length::AtMost(LARGEST_MANIFEST);
                Some(answer.body(&what, length, |_| Ok(())).await?)
            }
            // One without the API knows no such address.
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                self.tagged_referrers(digest).await?
            }
            _ => return Err(refused(answer, &what, self.credential.is_some()).await),
        };
        let Some(content) = content else {
            return Ok(Index::new());
        };
        serde_json::from_slice(&content).map_err(|error| RegistryError::Form {
            what,
            reason: format!("the answer is no index: {error}"),
        })
    }

    async fn tagged_referrers(&mut self, digest: Digest) -> Result<Option<Vec<u8>>, RegistryError> {
        let what = format!("what refers to {digest}");
        match self.manifest(&what, &referrers_tag(digest), INDEX).await {
            Err(RegistryError::Unknown { .. }) => Ok(None),
            result => result.map(Some),
        }
    }

    async fn manifest(
        &mut self,
        what: &str,
        name: &str,
        media_type: &'static str,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut ask = Ask::get(self.url(&format!("manifests/{name}")));
        ask.accept = Some(media_type);
        let answer = self.ask(ask).await?;
        if answer.status != StatusCode::OK {
            return Err(refused(answer, what, self.credential.is_some()).await);
        }
        answer
            .body(what, Length::AtMost(LARGEST_MANIFEST), |_| Ok(()))
            .await
    }

    async fn blob(&mut self, what: &str, digest: Digest) -> Result<Answer, RegistryError> {
        let url = self.url(&format!("blobs/{digest}"));
        let answer = self.ask(Ask::get(url)).await?;
        if answer.status != StatusCode::OK {
            return Err(refused(answer, what, self.credential.is_some()).await);
        }
        Ok(answer)
    }

    async fn small(
        &mut self,
        what: &str,
        descriptor: &Descriptor,
        largest: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        if descriptor.size > largest {
            return Err(RegistryError::TooLarge {
                what: what.to_owned(),
                size: descriptor.size,
                limit: largest,
            });
        }
        let answer = self.blob(what, descriptor.digest).await?;
        let content = answer
            .body(what, Length::Exactly(descriptor.size), |_| Ok(()))
            .await?;
        check_digest(what, descriptor.digest, &content)?;
        Ok(content)
    }

    pub(crate) fn url(&self, path: &str) -> Address {
        let repository = self.reference.repository();
        self.base.with_path(&format!("/v2/{repository}/{path}"))
    }

    pub(crate) fn is_known(&self) -> bool {
        self.credential.is_some()
    }

    /// Asks, and asks again as somebody where the registry wants to know who asks.
    pub(crate) async fn ask(&mut self, mut ask: Ask<'_>) -> Result<Answer, RegistryError> {
        ask.authorization = self.authorization.clone();
        let answer = self.transport.send(&ask).await?;
        if answer.status != StatusCode::UNAUTHORIZED || answer.url.origin() != self.base.origin() {
            return Ok(answer);
        }
        let scope = format!("repository:{}:{}", self.reference.repository(), self.access);
        let credential = self.credential.as_ref();
        let authorization = auth::answer(
            &self.transport,
            &self.base,
            &answer.headers,
            credential,
            &scope,
        )
        .await?;
        let Some(authorization) = authorization else {
            return Ok(answer);
        };
        self.authorization = Some(authorization.clone());
        ask.authorization = Some(authorization);
        self.transport.send(&ask).await
    }
}

/// The tag that stands for the API of referrers (specification, "Referrers Tag Schema").
pub(crate) fn referrers_tag(digest: Digest) -> String {
    format!("sha256-{}", digest.hex())
}

/// Whether something is there, without its content.
pub(crate) fn head(url: Address) -> Ask<'static> {
    Ask {
        method: Method::HEAD,
        ..Ask::get(url)
    }
}
