//! Backends in OCI registries and their mirrors.
//!
//! A component is stored as `wkg` stores one: an image manifest with a config of its own media type
//! and one layer of `application/wasm`. Its detached signature is a second artifact that refers to
//! the first (`subject`), so that `wkg`, which takes one layer, still pulls the component.
//!
//! Nothing of a component is parsed here. Sizes are checked before a body is asked for and counted
//! while it comes, digests are of what came, and no other host is talked to than the one that was
//! named, unless its name was given.
//!
//! ```text
//!  Reference ──▶ Registry::resolve ──▶ Artifact ──▶ Registry::component ──▶ bytes
//!                manifest: size,        config,      layer: size, beginning,
//!                digest, form           versions     digest
//! ```
#![forbid(unsafe_code)]

pub use address::{Host, HostError};
pub use artifact::{Artifact, Published};
pub use client::{Component, Registry};
pub use credentials::{Credential, CredentialError, DockerConfig};
pub use digest::{Digest, DigestError};
pub use error::RegistryError;
pub use manifest::SignatureForm;
pub use mirror::Mirror;
pub use reference::{Reference, ReferenceError};
pub use transport::{Options, Transport};
pub use version::OrderedVersion;

mod address;
pub mod artifact;
mod auth;
mod client;
mod credentials;
mod digest;
mod error;
pub mod manifest;
mod mirror;
mod push;
mod reference;
mod transport;
mod version;
