//! The policy of a VM, for both services.

use casemate_attestation::{Measurement, PolicyFormat};

use super::refusal::Refusal;
use super::refused::Refused;
use crate::vm::attestation::Policy;
use crate::vm::manager::VmManager;
use crate::vm::status::VmStatus;

/// The policy of `vm` with the files that config names now.
pub(super) fn of(
    manager: &VmManager,
    vm: &VmStatus,
    format: PolicyFormat,
) -> Result<Policy, Refused> {
    let measurement = measurement_of(vm)?;
    let live = manager.host().live();
    let make = || live.attestation.policy(measurement, format);
    // It reads files.
    Ok(tokio::task::block_in_place(make)?)
}

/// What is known of a VM's registers; a backend that measures nothing has none.
fn measurement_of(vm: &VmStatus) -> Result<&Measurement, Refusal> {
    let planned = vm.planned.as_ref();
    if let Some(planned) = planned
        && planned.measurement.is_none()
    {
        return Err(Refusal::NotMeasuredThen);
    }
    planned
        .and_then(|planned| planned.measurement.as_deref())
        .filter(|measurement| !measurement.registers.is_empty())
        .ok_or_else(|| Refusal::NoMeasurement {
            backend: planned.map_or_else(String::new, |planned| planned.backend.clone()),
        })
}
