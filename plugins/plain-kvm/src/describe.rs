//! What this backend is, and the most that it may have.

use casemate_backend::bindings::casemate::tee::types::{BackendInfo, Need, Protection};
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
        needs: vec![
            need("device", "/dev/kvm", "whether KVM can be used"),
            need("qemu-version", "", "whether QEMU is new enough"),
            need(
                "qemu-machine",
                "*",
                "the versioned name of the machine, so that a plan means the same after an \
                 upgrade of QEMU",
            ),
            need(
                "qemu-type",
                "*",
                "whether QEMU has the machine and the CPU model",
            ),
        ],
        objects: Backing::types().to_vec(),
        devices: Vec::new(),
        machine_texts: Vec::new(),
        settings: settings::announced(),
        firmware_features: Vec::new(),
        extras: Vec::new(),
    }
}

fn need(fact: &str, pattern: &str, reason: &str) -> Need {
    Need {
        fact: fact.to_owned(),
        pattern: pattern.to_owned(),
        reason: reason.to_owned(),
    }
}
