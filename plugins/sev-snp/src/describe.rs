//! What this backend is, and the most that it may have.

use casemate_backend::announce::{extra, need, qemu_needs, since};
use casemate_backend::bindings::casemate::tee::types::{BackendInfo, Protection, TypeUse};
use casemate_backend::guard;
use casemate_backend::memory::Backing;

use crate::facts::{
    BACKEND, IGVM_OBJECT, IGVM_SINCE, OBJECT, OBJECT_SINCE, POLICY_BITS, SEV_DEVICE, SEV_LEAF,
    SMT_ACTIVE, TECHNOLOGY,
};
use crate::measure::profile::VMSA_FEATURES;
use crate::settings;

/// All that a plan may set of the guard. `sev-device` is a path.
const PROPERTIES: [&str; 11] = [
    "cbitpos",
    "reduced-phys-bits",
    "policy",
    "sev-device",
    "kernel-hashes",
    "host-data",
    "id-block",
    "id-auth",
    "author-key-enabled",
    "vcek-disabled",
    "guest-visible-workarounds",
];

pub fn describe() -> BackendInfo {
    let (group, attribute) = POLICY_BITS;
    let (features_group, features) = VMSA_FEATURES;
    let mut needs = guard::needs(&TECHNOLOGY);
    needs.extend([
        need(
            "cpuid",
            &format!("{SEV_LEAF:#x}"),
            "the position of the encryption bit, which no default can know",
        ),
        need(
            "device",
            SEV_DEVICE,
            "whether QEMU can talk to the SEV firmware",
        ),
        need(
            "kvm-device-attribute",
            &format!("{group}/{attribute}"),
            "which bits of a guest policy KVM takes",
        ),
        need(
            "kvm-device-attribute",
            &format!("{features_group}/{features}"),
            "whether QEMU alone decides on features that are part of the launch measurement",
        ),
        need(
            "read-text",
            SMT_ACTIVE,
            "whether a policy without SMT can be kept",
        ),
    ]);
    needs.extend(qemu_needs());
    let mut objects = Backing::types().to_vec();
    objects.push(TypeUse {
        kind: OBJECT.to_owned(),
        properties: PROPERTIES.map(str::to_owned).to_vec(),
        paths: vec!["sev-device".to_owned()],
    });
    BackendInfo {
        tee: "sev-snp".to_owned(),
        protection: Protection::Guard,
        name: BACKEND.to_owned(),
        vendor: "Casemate".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        architectures: vec!["x86_64".to_owned()],
        needs,
        objects,
        devices: Vec::new(),
        machine_texts: Vec::new(),
        settings: settings::announced(),
        firmware_features: vec!["amd-sev-snp".to_owned()],
        extras: vec![
            since(OBJECT, OBJECT_SINCE),
            since(IGVM_OBJECT, IGVM_SINCE),
            extra("corim.vendor", "AMD"),
            extra("corim.model", "SEV-SNP"),
        ],
    }
}
