//! The documents of an OCI registry, as far as a backend's are concerned: image manifest, the config
//! of a component, index of referrers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Config of a component, and the layer that is the component.
pub const COMPONENT_CONFIG: &str = "application/vnd.wasm.config.v0+json";
pub const COMPONENT_LAYER: &str = "application/wasm";
/// Of an artifact that has nothing to say in its config: `{}`.
pub const EMPTY_CONFIG: &str = "application/vnd.oci.empty.v1+json";
pub const EMPTY: &[u8] = b"{}";
/// A detached signature of the component in `subject`.
pub const SIGNATURE_ARTIFACT: &str = "application/vnd.casemate.signature.v1";

pub const TITLE: &str = "org.opencontainers.image.title";
pub const VERSION: &str = "org.opencontainers.image.version";
pub const DESCRIPTION: &str = "org.opencontainers.image.description";
pub const LICENSES: &str = "org.opencontainers.image.licenses";
pub const SOURCE: &str = "org.opencontainers.image.source";
pub const REVISION: &str = "org.opencontainers.image.revision";
pub const AUTHORS: &str = "org.opencontainers.image.authors";
pub const URL: &str = "org.opencontainers.image.url";
pub const CREATED: &str = "org.opencontainers.image.created";

const SCHEMA: u32 = 2;

/// How a signature is stored, by the tool that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureForm {
    Cosign,
    Minisign,
}

impl SignatureForm {
    const ALL: [Self; 2] = [Self::Cosign, Self::Minisign];

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Cosign => "application/vnd.casemate.signature.cosign-blob.v1",
            Self::Minisign => "application/vnd.casemate.signature.minisign.v1",
        }
    }

    pub(crate) fn of(media_type: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|form| form.media_type() == media_type)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub fn of(media_type: &str, content: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(content),
            size: content.len() as u64,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    pub fn of_component(
        config: Descriptor,
        layer: Descriptor,
        annotations: BTreeMap<String, String>,
    ) -> Self {
        Self {
            schema_version: SCHEMA,
            media_type: Some(MANIFEST.to_owned()),
            artifact_type: None,
            config,
            layers: vec![layer],
            subject: None,
            annotations,
        }
    }

    pub fn of_signature(subject: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: SCHEMA,
            media_type: Some(MANIFEST.to_owned()),
            artifact_type: Some(SIGNATURE_ARTIFACT.to_owned()),
            config: Descriptor::of(EMPTY_CONFIG, EMPTY),
            layers,
            subject: Some(subject),
            annotations: BTreeMap::new(),
        }
    }

    /// The one layer that is the component, or what it is instead.
    pub fn component(&self) -> Result<&Descriptor, String> {
        if self.schema_version != SCHEMA {
            return Err(format!("its manifest is of schema {}", self.schema_version));
        }
        if let Some(media_type) = self.media_type.as_deref().filter(|one| *one != MANIFEST) {
            return Err(format!(
                "its manifest is {media_type:?}, and {MANIFEST:?} is wanted"
            ));
        }
        if self.config.media_type != COMPONENT_CONFIG {
            let found = &self.config.media_type;
            return Err(format!(
                "its config is {found:?}, and {COMPONENT_CONFIG:?} is wanted"
            ));
        }
        let [layer] = self.layers.as_slice() else {
            return Err(format!(
                "it has {} layers, and one is wanted",
                self.layers.len()
            ));
        };
        if layer.media_type != COMPONENT_LAYER {
            let found = &layer.media_type;
            return Err(format!(
                "its layer is {found:?}, and {COMPONENT_LAYER:?} is wanted"
            ));
        }
        Ok(layer)
    }
}

/// Manifests that refer to one, and their kinds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub manifests: Vec<Descriptor>,
}

impl Index {
    pub fn new() -> Self {
        Self {
            schema_version: SCHEMA,
            media_type: Some(INDEX.to_owned()),
            manifests: Vec::new(),
        }
    }
}

impl Default for Index {
    fn default() -> Self {
        Self::new()
    }
}

/// Config of a component, as `wkg` writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentConfig {
    pub created: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    pub architecture: String,
    pub os: String,
    pub layer_digests: Vec<Digest>,
    pub component: Interfaces,
}

/// What a component imports and exports, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interfaces {
    pub exports: Vec<String>,
    pub imports: Vec<String>,
    #[serde(default)]
    pub target: Option<String>,
}
