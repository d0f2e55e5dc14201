//! What a guest boots from: which of the request's files QEMU gets.

use crate::answer::{invalid_request, note, quoted, unsuitable_file, unsupported_host};
use crate::bindings::casemate::tee::types::{
    BootInputs, Error, Finding, HostContext, HostFile, LaunchRequest, Origin,
};

pub fn file_of_role<'a>(host: &'a HostContext, role: &str) -> Option<&'a HostFile> {
    host.files.iter().find(|file| file.role == role)
}

/// Kernel, initrd and command line that QEMU loads; nothing where the guest boots from its disk.
pub fn inputs(request: &LaunchRequest, findings: &mut Vec<Finding>) -> Result<BootInputs, Error> {
    match request.boot.as_str() {
        "kernel" => from_kernel(request),
        "disk" => from_disk(request, findings),
        other => Err(invalid_request(
            "boot",
            &format!("boot is {}, wanted is kernel or disk", quoted(other)),
            "set boot to kernel or disk",
        )),
    }
}

fn from_kernel(request: &LaunchRequest) -> Result<BootInputs, Error> {
    let Some(kernel) = file_of_role(&request.host, "kernel") else {
        return Err(unsupported_host(
            "kernel",
            "boot is kernel, but there is no kernel file",
            "name a kernel, set a default one, or boot from disk",
        ));
    };
    if kernel.size == 0 {
        return Err(unsuitable_file(
            "kernel",
            &format!("kernel {} is empty", quoted(&kernel.label)),
            "name a kernel image (bzImage)",
        ));
    }
    let mut inputs = BootInputs::KERNEL;
    if file_of_role(&request.host, "initrd").is_some() {
        inputs |= BootInputs::INITRD;
    }
    if !request.kernel_cmdline.is_empty() {
        inputs |= BootInputs::CMDLINE;
    }
    Ok(inputs)
}

fn from_disk(request: &LaunchRequest, findings: &mut Vec<Finding>) -> Result<BootInputs, Error> {
    let has_disk = file_of_role(&request.host, "disk").is_some()
        || request.devices.iter().any(|device| device.kind == "disk");
    if !has_disk {
        return Err(unsupported_host(
            "disk",
            "boot is disk, but there is no disk",
            "name a disk, set a default one, or boot from a kernel",
        ));
    }
    for role in ["kernel", "initrd"] {
        let Some(file) = file_of_role(&request.host, role) else {
            continue;
        };
        // Kernel and initrd of the config stand there for the VMs that boot from a kernel.
        if file.origin == Origin::Request {
            return Err(invalid_request(
                role,
                &format!(
                    "boot is disk, but the request names {role} {}",
                    quoted(&file.label)
                ),
                &format!("leave {role} out, or set boot to kernel"),
            ));
        }
    }
    if file_of_role(&request.host, "initrd").is_some()
        && file_of_role(&request.host, "kernel").is_none()
    {
        findings.push(note(
            "boot.initrd-unused",
            "initrd",
            "there is an initrd without a kernel, which a boot from disk does not use",
            "remove the default initrd, or set a default kernel too",
        ));
    }
    Ok(BootInputs::empty())
}

/// Said by `check` where nothing at all is configured to boot from.
pub fn no_default(host: &HostContext) -> Option<Finding> {
    let bootable = host
        .files
        .iter()
        .any(|file| file.role == "kernel" || file.role == "disk");
    if bootable {
        return None;
    }
    Some(note(
        "boot.no-default",
        "kernel",
        "no kernel and no disk is configured, so each request must name one",
        "set a default kernel or disk",
    ))
}
