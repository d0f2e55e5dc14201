//! What this backend is, and the most that it may have.

use casemate_backend::announce::{need, qemu_needs};
use casemate_backend::bindings::casemate::tee::types::{BackendInfo, Protection};
use casemate_backend::memory::Backing;

use crate::facts::BACKEND;
use crate::settings;

pub fn describe() -> BackendInfo {
    BackendInfo {
        tee: "none".to_owned(),
        protection: Protection::None,
        name: BACKEND.to_owned(),
        vendor: "Casemate".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        architectures: vec!["x86_64".to_owned()],
        needs: [need("device", "/dev/kvm", "whether KVM can be used")]
            .into_iter()
            .chain(qemu_needs())
            .collect(),
        objects: Backing::types().to_vec(),
        devices: Vec::new(),
        machine_texts: Vec::new(),
        settings: settings::announced(),
        firmware_features: Vec::new(),
        extras: Vec::new(),
    }
}
