//! vCPUs and memory, and how far they may grow.
//!
//! QEMU refuses `maxmem` equal to the memory size with slots, `maxmem` without slots, and `maxcpus`
//! below the count; each of these is found here, where the message can name the setting.

use casemate_backend::answer::{invalid_request, note};
use casemate_backend::bindings::casemate::tee::types::{Error, Finding, Origin, Property, Value};
use casemate_backend::memory::{MIB, MOST_VCPUS, check_size, check_vcpus, property};

use crate::settings::{MAX_CPUS, MAX_MEMORY, MEMORY_SLOTS, Settings};

/// ACPI_MAX_RAM_SLOTS of QEMU's PC machines.
const MOST_MEMORY_SLOTS: u64 = 256;

pub(super) fn smp(
    vcpus: u32,
    settings: &Settings,
    findings: &mut Vec<Finding>,
) -> Result<Vec<Property>, Error> {
    check_vcpus(vcpus)?;
    let vcpus = u64::from(vcpus);
    let most = &settings.max_cpus;
    if most.value > MOST_VCPUS {
        return Err(invalid_request(
            MAX_CPUS,
            &format!("maxcpus is {}, wanted is at most {MOST_VCPUS}", most.value),
            "set maxcpus to a number in this range",
        ));
    }
    if most.value > vcpus {
        return Ok(vec![property("maxcpus", Value::Unsigned(most.value))]);
    }
    if most.value < vcpus {
        if most.is_named() {
            return Err(invalid_request(
                MAX_CPUS,
                &format!(
                    "maxcpus is {}, below the {vcpus} vCPUs asked for",
                    most.value
                ),
                "raise maxcpus or ask for fewer vCPUs",
            ));
        }
        findings.push(note(
            "smp.maxcpus-left-out",
            MAX_CPUS,
            &format!(
                "the default of {} for maxcpus is below the {vcpus} vCPUs asked for, so none can be \
                 added later",
                most.value
            ),
            "set maxcpus where vCPUs are to be added to the running guest",
        ));
    }
    Ok(Vec::new())
}

pub(super) fn memory(
    memory_bytes: u64,
    settings: &Settings,
    findings: &mut Vec<Finding>,
) -> Result<Vec<Property>, Error> {
    check_size(memory_bytes)?;
    let slots = &settings.memory_slots;
    let most = &settings.max_memory;
    if slots.value > MOST_MEMORY_SLOTS {
        return Err(invalid_request(
            MEMORY_SLOTS,
            &format!(
                "memory-slots is {}, wanted is at most {MOST_MEMORY_SLOTS}",
                slots.value
            ),
            "set memory-slots to a number in this range",
        ));
    }
    if most.is_named() && !most.value.is_multiple_of(MIB) {
        return Err(invalid_request(
            MAX_MEMORY,
            &format!(
                "max-memory is {} bytes, wanted is a multiple of 1 MiB",
                most.value
            ),
            "round max-memory to whole MiB",
        ));
    }
    if most.is_named() && most.value < memory_bytes {
        return Err(invalid_request(
            MAX_MEMORY,
            &format!(
                "max-memory is {} bytes, below the {memory_bytes} bytes of memory asked for",
                most.value
            ),
            "raise max-memory or ask for less memory",
        ));
    }
    if slots.value == 0 {
        return without_growth_by_wish(most.origin, findings);
    }
    if most.value <= memory_bytes {
        findings.push(note(
            "memory.growth-left-out",
            MAX_MEMORY,
            &format!(
                "max-memory of {} bytes leaves nothing to add to the {memory_bytes} bytes asked for",
                most.value
            ),
            "raise max-memory where memory is to be added to the running guest",
        ));
        return Ok(Vec::new());
    }
    Ok(vec![
        property("slots", Value::Unsigned(slots.value)),
        property("maxmem", Value::Unsigned(most.value)),
    ])
}

/// No slots means no growth. A caller who asks for growth in the same breath is told so.
fn without_growth_by_wish(
    most_said_by: Origin,
    findings: &mut Vec<Finding>,
) -> Result<Vec<Property>, Error> {
    const DETAIL: &str = "memory-slots is 0, so memory cannot grow to max-memory";
    const REMEDY: &str = "set memory-slots to at least 1, or leave max-memory out";
    match most_said_by {
        Origin::Request => Err(invalid_request(MAX_MEMORY, DETAIL, REMEDY)),
        Origin::Operator => {
            findings.push(note("memory.growth-left-out", MAX_MEMORY, DETAIL, REMEDY));
            Ok(Vec::new())
        }
        Origin::BuiltIn => Ok(Vec::new()),
    }
}
