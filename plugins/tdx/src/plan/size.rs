//! vCPUs and memory that a TDX guest starts with.

use casemate_backend::answer::{invalid_request, unsupported_host, warn};
use casemate_backend::bindings::casemate::tee::facts::FactError;
use casemate_backend::bindings::casemate::tee::types::{Error, Finding, Property, Value};
use casemate_backend::facts::{Answer, known};
use casemate_backend::memory::{GIB, check_size, check_vcpus, property};

/// From about 61 GiB on, current Linux guests panic early where their memory does not end at a
/// whole GiB (unaccepted memory). The limit is a little below what was seen to fail.
const ALIGNED_FROM: u64 = 60 * GIB;

pub(super) fn check_memory(memory_bytes: u64) -> Result<(), Error> {
    check_size(memory_bytes)?;
    if memory_bytes >= ALIGNED_FROM && !memory_bytes.is_multiple_of(GIB) {
        let rounded = memory_bytes.div_ceil(GIB);
        return Err(invalid_request(
            "memory-bytes",
            &format!(
                "{memory_bytes} bytes of memory are asked for, and a TDX guest of {} GiB or more \
                 takes whole GiB: with others Linux guests end before they have started",
                ALIGNED_FROM / GIB
            ),
            &format!("ask for {rounded} GiB"),
        ));
    }
    Ok(())
}

/// One socket, one die and no threads: the only topology that guests of today's modules see, and
/// part of what is measured (the ACPI tables), so it is said and not left to QEMU's default.
pub(super) fn topology(
    vcpus: u32,
    present: &Answer<String>,
    findings: &mut Vec<Finding>,
) -> Result<Vec<Property>, Error> {
    check_vcpus(vcpus)?;
    match known(present).and_then(|list| count(list)) {
        Some(cpus) if u64::from(vcpus) > cpus => {
            return Err(unsupported_host(
                "vcpus",
                &format!(
                    "{vcpus} vCPUs are asked for, and KVM gives a TDX guest no more than the host \
                     has: {cpus}"
                ),
                "ask for fewer vCPUs",
            ));
        }
        Some(_) => {}
        None => findings.push(warn(
            "vcpus.unknown",
            "vcpus",
            "it is not known how many CPUs the host has, and KVM gives a TDX guest no more",
            match present {
                Err(FactError::Denied) => {
                    "add read-text /sys/devices/system/cpu/present to the grants of tdx"
                }
                _ => "see that there is a vCPU for each CPU at most",
            },
        )),
    }
    Ok(vec![
        property("sockets", Value::Unsigned(1)),
        property("cores", Value::Unsigned(u64::from(vcpus))),
        property("threads", Value::Unsigned(1)),
    ])
}

/// Number of CPUs in a list such as `0-3,8`.
fn count(list: &str) -> Option<u64> {
    list.trim().split(',').try_fold(0_u64, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_counted_as_the_kernel_lists_them() {
        for (list, expected) in [
            ("0\n", Some(1)),
            ("0-3", Some(4)),
            ("0-3,8\n", Some(5)),
            ("0-1,4-5,7", Some(5)),
            ("", None),
            ("3-0", None),
            ("0-", None),
            ("0-18446744073709551615", None),
        ] {
            assert_eq!(count(list), expected, "{list:?}");
        }
    }
}
