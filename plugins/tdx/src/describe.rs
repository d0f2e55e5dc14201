//! What this backend is, and the most that it may have.

use casemate_backend::announce::{extra, need, qemu_needs, since};
use casemate_backend::bindings::casemate::tee::types::{BackendInfo, Protection, TypeUse};
use casemate_backend::guard;
use casemate_backend::memory::Backing;

use crate::facts::{BACKEND, CPUS_PRESENT, OBJECT, OBJECT_SINCE, QUOTE_SOCKET, TECHNOLOGY};
use crate::settings;

/// All that a plan may set of the guard.
const PROPERTIES: [&str; 9] = [
    "attributes",
    "sept-ve-disable",
    "mrconfigid",
    "mrowner",
    "mrownerconfig",
    "quote-generation-socket.type",
    "quote-generation-socket.path",
    "quote-generation-socket.cid",
    "quote-generation-socket.port",
];

pub fn describe() -> BackendInfo {
    let mut needs = guard::needs(&TECHNOLOGY);
    needs.extend([
        need(
            "socket",
            QUOTE_SOCKET,
            "whether quotes can be had, without which a guest runs and cannot be verified",
        ),
        need(
            "read-text",
            CPUS_PRESENT,
            "how many vCPUs a guest can have: KVM takes no more than there are CPUs",
        ),
    ]);
    needs.extend(qemu_needs());
    let mut objects = Backing::types().to_vec();
    objects.push(TypeUse {
        kind: OBJECT.to_owned(),
        properties: PROPERTIES.map(str::to_owned).to_vec(),
        paths: vec!["quote-generation-socket.path".to_owned()],
    });
    BackendInfo {
        tee: "tdx".to_owned(),
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
        firmware_features: vec!["intel-tdx".to_owned()],
        extras: vec![
            since(OBJECT, OBJECT_SINCE),
            extra("corim.vendor", "Intel"),
            extra("corim.model", "TDX"),
        ],
    }
}
