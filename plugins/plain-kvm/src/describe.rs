//! What this backend is, and the most that it may have.

use crate::bindings::casemate::tee::types::{BackendInfo, Need, Protection, TypeUse};
use crate::settings;

pub(crate) const MEMORY_BACKEND_RAM: &str = "memory-backend-ram";
pub(crate) const MEMORY_BACKEND_MEMFD: &str = "memory-backend-memfd";

pub fn describe() -> BackendInfo {
    BackendInfo {
        tee: "none".to_owned(),
        protection: Protection::None,
        name: "plain-kvm".to_owned(),
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
        objects: vec![
            TypeUse {
                kind: MEMORY_BACKEND_RAM.to_owned(),
                properties: Vec::new(),
                paths: Vec::new(),
            },
            TypeUse {
                kind: MEMORY_BACKEND_MEMFD.to_owned(),
                properties: vec!["share".to_owned()],
                paths: Vec::new(),
            },
        ],
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
