//! Putting a component, and its signature, into a registry.

use hyper::header::LOCATION;
use hyper::{Method, StatusCode};

use crate::address::Address;
use crate::artifact::{Artifact, Published};
use crate::client::{Registry, head, referrers_tag};
use crate::digest::Digest;
use crate::error::RegistryError;
use crate::manifest::{
    Descriptor, EMPTY, INDEX, MANIFEST, Manifest, SIGNATURE_ARTIFACT, SignatureForm,
};
use crate::transport::{Ask, refused};

const BLOB: &str = "application/octet-stream";
/// With it a registry says that it lists the manifest as a referrer.
const LISTED: &str = "oci-subject";

impl Registry {
    /// The component under its reference, with detached signatures. What lay there before is no longer
    /// named by its tag, which comes last: whoever finds the component by it finds its signatures.
    pub async fn push(
        &mut self,
        published: &Published,
        signatures: &[(SignatureForm, &[u8])],
    ) -> Result<Artifact, RegistryError> {
        let what = self.reference.to_string();
        let json = |error: serde_json::Error| RegistryError::Form {
            what: what.clone(),
            reason: error.to_string(),
        };
        let config = serde_json::to_vec(&published.config()).map_err(json)?;
        let manifest = serde_json::to_vec(&published.manifest(&config)).map_err(json)?;
        self.push_blob(&published.component).await?;
        self.push_blob(&config).await?;
        let digest = Digest::of(&manifest).to_string();
        self.push_manifest(&digest, MANIFEST, &manifest).await?;
        let artifact = Artifact::read(&self.reference, &manifest)?;
        for (form, signature) in signatures {
            self.push_signature(&artifact, *form, signature).await?;
        }
        if let Some(tag) = self.reference.tag().map(str::to_owned) {
            self.push_manifest(&tag, MANIFEST, &manifest).await?;
        }
        Ok(artifact)
    }

    /// A detached signature, beside those that refer to the artifact already.
    async fn push_signature(
        &mut self,
        artifact: &Artifact,
        form: SignatureForm,
        signature: &[u8],
    ) -> Result<Digest, RegistryError> {
        let what = format!("a signature of {}", artifact.reference);
        let json = |error: serde_json::Error| RegistryError::Form {
            what: what.clone(),
            reason: error.to_string(),
        };
        self.push_blob(EMPTY).await?;
        self.push_blob(signature).await?;
        let layer = Descriptor::of(form.media_type(), signature);
        let manifest = Manifest::of_signature(artifact.manifest.clone(), vec![layer]);
        let manifest = serde_json::to_vec(&manifest).map_err(json)?;
        let digest = Digest::of(&manifest);
        let is_listed = self
            .push_manifest(&digest.to_string(), MANIFEST, &manifest)
            .await?;
        if is_listed {
            return Ok(digest);
        }
        // A registry without the API of referrers: the list is kept under a tag.
        let subject = artifact.manifest.digest;
        let mut index = self.referrers(subject).await?;
        if !index.manifests.iter().any(|one| one.digest == digest) {
            index.manifests.push(Descriptor {
                artifact_type: Some(SIGNATURE_ARTIFACT.to_owned()),
                ..Descriptor::of(MANIFEST, &manifest)
            });
            let index = serde_json::to_vec(&index).map_err(json)?;
            self.push_manifest(&referrers_tag(subject), INDEX, &index)
                .await?;
        }
        Ok(digest)
    }

    /// Whether the registry lists it as a referrer.
    async fn push_manifest(
        &mut self,
        name: &str,
        media_type: &str,
        content: &[u8],
    ) -> Result<bool, RegistryError> {
        let what = self.reference.to_string();
        let answer = self
            .ask(Ask {
                method: Method::PUT,
                body: Some((media_type, content)),
                ..Ask::get(self.url(&format!("manifests/{name}")))
            })
            .await?;
        match answer.status {
            StatusCode::CREATED => Ok(answer.headers.contains_key(LISTED)),
            _ => Err(refused(answer, &what, self.is_known()).await),
        }
    }

    async fn push_blob(&mut self, content: &[u8]) -> Result<(), RegistryError> {
        let what = self.reference.to_string();
        let digest = Digest::of(content);
        let there = self.url(&format!("blobs/{digest}"));
        match self.ask(head(there)).await {
            Ok(answer) if answer.status == StatusCode::OK => return Ok(()),
            // It lies with another service, and is there.
            Err(RegistryError::Redirect { .. }) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
        let begin = Ask {
            method: Method::POST,
            body: Some((BLOB, b"")),
            ..Ask::get(self.url("blobs/uploads/"))
        };
        let begun = begin.url.clone();
        let answer = self.ask(begin).await?;
        if answer.status != StatusCode::ACCEPTED {
            return Err(refused(answer, &what, self.is_known()).await);
        }
        let location = answer.headers.get(LOCATION);
        let location = location.and_then(|value| begun.join(value.to_str().ok()?));
        let location = location.ok_or_else(|| RegistryError::Form {
            what: what.clone(),
            reason: "the registry does not say where to upload it".to_owned(),
        })?;
        self.check_upload(&begun, &location)?;
        let location = location.with_query(&format!("digest={digest}"));
        let answer = self
            .ask(Ask {
                method: Method::PUT,
                body: Some((BLOB, content)),
                ..Ask::get(location)
            })
            .await?;
        match answer.status {
            StatusCode::CREATED => Ok(()),
            _ => Err(refused(answer, &what, self.is_known()).await),
        }
    }

    /// What is uploaded goes to the registry, and with it who this user is.
    fn check_upload(&self, from: &Address, to: &Address) -> Result<(), RegistryError> {
        match from.origin() == to.origin() {
            true => Ok(()),
            false => Err(RegistryError::Redirect {
                from: self.reference.registry().to_owned(),
                to: to.authority(),
            }),
        }
    }
}
