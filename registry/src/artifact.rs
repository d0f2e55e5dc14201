//! A backend as a registry has it: what its manifest says, and what is made of a component before
//! it is pushed.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::error::RegistryError;
use crate::manifest::{
    self, COMPONENT_CONFIG, COMPONENT_LAYER, ComponentConfig, Descriptor, Interfaces, Manifest,
};
use crate::reference::Reference;
use crate::version::OrderedVersion;

/// What a manifest says. Nobody signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    pub reference: Reference,
    /// The manifest itself, as others refer to it.
    pub manifest: Descriptor,
    pub config: Descriptor,
    /// The component.
    pub layer: Descriptor,
    pub annotations: BTreeMap<String, String>,
    pub version: OrderedVersion,
}

impl Artifact {
    pub(crate) fn read(reference: &Reference, content: &[u8]) -> Result<Self, RegistryError> {
        let form = |reason: String| RegistryError::Form {
            what: reference.to_string(),
            reason,
        };
        let read: Manifest = serde_json::from_slice(content)
            .map_err(|error| form(format!("its manifest is none: {error}")))?;
        let layer = read.component().map_err(form)?.clone();
        let annotated = read.annotations.get(manifest::VERSION).map(String::as_str);
        Ok(Self {
            reference: reference.clone(),
            manifest: Descriptor::of(manifest::MANIFEST, content),
            version: OrderedVersion::lowest([annotated, reference.tag()]),
            config: read.config,
            layer,
            annotations: read.annotations,
        })
    }

    /// Of the component.
    pub fn sha256(&self) -> Digest {
        self.layer.digest
    }
}

/// What is pushed: a component, and the words about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub component: Vec<u8>,
    pub interfaces: Interfaces,
    pub annotations: BTreeMap<String, String>,
    /// RFC 3339.
    pub created: String,
}

impl Published {
    pub(crate) fn layer(&self) -> Descriptor {
        Descriptor::of(COMPONENT_LAYER, &self.component)
    }

    pub(crate) fn config(&self) -> ComponentConfig {
        ComponentConfig {
            created: self.created.clone(),
            author: None,
            architecture: "wasm".to_owned(),
            // Of every component, whether it wants WASI or not: the field must be one of Go's.
            os: "wasip2".to_owned(),
            layer_digests: vec![self.layer().digest],
            component: self.interfaces.clone(),
        }
    }

    pub(crate) fn manifest(&self, config: &[u8]) -> Manifest {
        let config = Descriptor::of(COMPONENT_CONFIG, config);
        Manifest::of_component(config, self.layer(), self.annotations.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFERENCE: &str = "r.example/a:1.2.0";

    fn manifest() -> serde_json::Value {
        let published = Published {
            component: b"\0asm".to_vec(),
            interfaces: Interfaces::default(),
            annotations: [(manifest::VERSION.to_owned(), "1.3.0".to_owned())].into(),
            created: "2026-01-01T00:00:00Z".to_owned(),
        };
        serde_json::to_value(published.manifest(b"{}")).unwrap()
    }

    fn read(manifest: &serde_json::Value) -> Result<Artifact, String> {
        let content = manifest.to_string();
        let artifact = Artifact::read(&REFERENCE.parse().unwrap(), content.as_bytes());
        artifact.map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_published_is_read() {
        let artifact = read(&manifest()).unwrap();
        assert_eq!(artifact.sha256(), Digest::of(b"\0asm"));
        assert_eq!(artifact.layer.size, 4);
        assert_eq!(
            artifact.version.text().as_deref(),
            Some("1.2.0"),
            "the tag is lower"
        );
    }

    #[test]
    fn what_is_no_backend_is_told_as_what_it_is() {
        let layer = manifest()["layers"][0].clone();
        for (pointer, value, reason) in [
            ("/schemaVersion", 1.into(), "of schema 1"),
            (
                "/mediaType",
                "application/vnd.oci.image.index.v1+json".into(),
                "its manifest is \"application/vnd.oci.image.index",
            ),
            (
                "/config/mediaType",
                "application/vnd.oci.image.config.v1+json".into(),
                "its config is \"application/vnd.oci.image.config",
            ),
            ("/layers", serde_json::json!([]), "it has 0 layers"),
            (
                "/layers",
                serde_json::json!([layer, layer]),
                "it has 2 layers",
            ),
            (
                "/layers/0/mediaType",
                "application/vnd.oci.image.layer.v1.tar".into(),
                "its layer is ",
            ),
            ("/layers/0/digest", "sha512:00".into(), "is no digest"),
            ("/layers/0/size", (-1).into(), "its manifest is none"),
            (
                "/annotations",
                serde_json::json!([1]),
                "its manifest is none",
            ),
        ] {
            let mut changed = manifest();
            *changed.pointer_mut(pointer).unwrap() = value;
            let error = read(&changed).unwrap_err();
            assert!(error.contains(reason), "{pointer}: {error}");
        }
    }
}
