//! Which check a rule belongs to that the host found broken. The host says where in the answer and
//! which rule; `tests/it/broken.rs` holds this to what it really says.

use casemate_host::backend::Violation;

use crate::catalogue::{self as checks, Check};
use crate::draft::Draft;

/// A rule of the shape of a plan or of findings (`host/src/backend/convert.rs`).
pub(crate) fn of_plan(violation: &Violation, draft: &Draft) -> &'static Check {
    let (at, rule) = (violation.argument.as_str(), violation.rule.as_str());
    if at == "guard" && rule.contains("is the id of no object") {
        return &checks::GUARD_IS_OBJECT;
    }
    if rule.ends_with("is not of this request") || rule.contains("already a file of this request") {
        return &checks::FILES_OF_REQUEST;
    }
    if at.starts_with("findings[") {
        return &checks::FINDINGS_FORM;
    }
    if at.ends_with(".id") || at.starts_with("id ") || rule == "an object needs an id" {
        return &checks::IDS;
    }
    match at {
        "guard" => &checks::GUARD_AS_PROMISED,
        "identity-carrier" if draft.identity.is_some() => &checks::IDENTITY_WHOLE,
        "identity-carrier" => &checks::NO_IDENTITY,
        "abilities" => &checks::ABILITIES,
        "leases" => &checks::LEASES,
        "devices.transport" | "memory-overhead-bytes" => &checks::TRANSPORT,
        "devices.refused" => &checks::REFUSED_KINDS,
        "boot" | "boot.kernel" | "boot.initrd" => &checks::BOOT,
        _ if at.starts_with("extras.") => &checks::NO_EXTRAS,
        _ if at.starts_with("findings ") => &checks::NO_FAIL,
        _ if at.starts_with("findings") => &checks::FINDINGS_FORM,
        _ => &checks::FORM,
    }
}

/// A rule about what a plan may name (`host/src/qemu/check.rs`).
pub(crate) fn of_judgement(at: &str, rule: &str) -> &'static Check {
    let is_of_path = rule.starts_with("QEMU takes it as a path")
        || rule.starts_with("QEMU opens or writes")
        || rule.starts_with("a file or host path goes only into")
        || rule.starts_with("host path ");
    let is_of_grant = rule.contains("must announce it");
    if rule == "the request names this file, and the plan does not use it" {
        return &checks::FILES_USED;
    }
    if at.starts_with("devices.virtio-properties") {
        return &checks::HOST_OWNED;
    }
    if is_of_path {
        return &checks::PATHS;
    }
    match at {
        "machine" => &checks::MACHINE_NAMED,
        "cpu" => &checks::CPU_NAMED,
        "machine.id" | "cpu.id" => &checks::IDS,
        "boot.kernel" => &checks::BOOT,
        "memory-backend.size" => &checks::HOST_OWNED,
        _ if at.starts_with("machine.") && rule.starts_with("the host renders it") => {
            &checks::HOST_OWNED
        }
        _ if at.starts_with("machine.") || at.starts_with("cpu.") => &checks::TEXTS_ANNOUNCED,
        _ if at.starts_with("smp.") || at.starts_with("memory.") => &checks::HOST_OWNED,
        _ if at.starts_with("firmware.") => &checks::FIRMWARE_OPTIONS,
        _ if at.starts_with("extra-devices") && is_of_grant => &checks::DEVICES_ANNOUNCED,
        _ if is_of_grant || at == "memory-backend" => &checks::OBJECTS_ANNOUNCED,
        _ => &checks::FORM,
    }
}

/// A rule about registers (`host/src/backend/registers.rs`).
pub(crate) fn of_registers(violation: &Violation) -> &'static Check {
    let rule = violation.rule.as_str();
    let is_value = rule.starts_with("a digest of zeros")
        || rule.starts_with("it has ")
        || rule.starts_with("a claim without")
        || rule.contains("bytes are more than");
    let is_honesty = rule.starts_with("a choice has two values") || rule.ends_with("is empty");
    if is_value {
        &checks::REGISTER_VALUES
    } else if is_honesty {
        &checks::REGISTERS_HONEST
    } else {
        &checks::REGISTERS_FORM
    }
}
