//! How QEMU calls the types of what the host renders.

use crate::spec::plan::Transport;
use crate::spec::request::{HostDevice, LaunchRequest};

/// QEMU's device types for a device of the host.
pub(super) fn host_device_types(
    request: &LaunchRequest,
    device: &HostDevice,
    transport: Transport,
) -> Vec<String> {
    let suffix = transport.device_suffix();
    match device.kind.as_str() {
        "net" => vec![format!("virtio-net-{suffix}")],
        "share-9p" => vec![format!("virtio-9p-{suffix}")],
        "disk" if request.data_disk(&device.id).is_some() => vec![format!("virtio-blk-{suffix}")],
        "disk" => vec![format!("virtio-scsi-{suffix}"), "scsi-hd".to_owned()],
        _ => Vec::new(),
    }
}

/// QOM type of a CPU model (QEMU, `CPU_RESOLVING_TYPE` of each target).
pub fn cpu_type(model: &str, architecture: &str) -> String {
    match architecture {
        "aarch64" => format!("{model}-arm-cpu"),
        other => format!("{model}-{other}-cpu"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_model_has_the_type_of_its_target() {
        assert_eq!(cpu_type("EPYC", "x86_64"), "EPYC-x86_64-cpu");
        assert_eq!(cpu_type("max", "aarch64"), "max-arm-cpu");
    }
}
