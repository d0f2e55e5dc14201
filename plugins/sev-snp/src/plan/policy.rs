//! The guest policy, bit by bit (AMD 56860, section 4.3 "Guest Policy").
//!
//! KVM takes a fixed set of bits and refuses others with nothing but EINVAL; newer kernels publish
//! the set. The firmware refuses the rest with "Policy is not allowed". Both would end a launch after
//! QEMU has started, so every bit has its sentence here.

use casemate_backend::answer::{invalid_request, unsupported_host, warn};
use casemate_backend::bindings::casemate::tee::facts::FactError;
use casemate_backend::bindings::casemate::tee::types::{Error, Finding};

use crate::facts::{Facts, SMT_ACTIVE};
use crate::settings::POLICY;

/// Lowest versions of the firmware's ABI that the guest insists on.
const ABI_BITS: u64 = 0xffff;
const SMT: u32 = 16;
const MUST_BE_ONE: u32 = 17;
const MIGRATE_MA: u32 = 18;
const DEBUG: u32 = 19;
const SINGLE_SOCKET: u32 = 20;
const LAST_DEFINED: u32 = 25;

/// Bits that a kernel takes which does not tell: the first ones refused SINGLE_SOCKET (KVM,
/// `snp_launch_start`).
const TAKEN_BY_EVERY_KERNEL: u64 = ABI_BITS | 1 << SMT | 1 << MUST_BE_ONE;

/// What a set bit says.
const WORDS: [(u32, &str); 6] = [
    (SINGLE_SOCKET, "one socket only"),
    (21, "CXL memory allowed"),
    (22, "AES-256 XTS for memory"),
    (23, "power measurement (RAPL) disabled"),
    (24, "ciphertext hiding for DRAM"),
    (LAST_DEFINED, "page swapping disabled"),
];

fn has(policy: u64, bit: u32) -> bool {
    (policy >> bit) & 1 == 1
}

/// Whether KVM and firmware take it, and whether it still protects the guest.
pub(crate) fn check(policy: u64, facts: &Facts) -> Result<(), Error> {
    let refusal = |message: &str, remedy: &str| {
        Err(invalid_request(
            POLICY,
            &format!("policy {policy:#x} {message}"),
            remedy,
        ))
    };
    if !has(policy, MUST_BE_ONE) {
        return refusal(
            "has bit 17 clear, which is reserved and must be one",
            &format!("set bit 17: {:#x}", policy | 1 << MUST_BE_ONE),
        );
    }
    if has(policy, DEBUG) {
        return refusal(
            "has bit 19 (DEBUG) set, with which the host can decrypt the guest's memory",
            &format!("clear bit 19: {:#x}", policy & !(1 << DEBUG)),
        );
    }
    if has(policy, MIGRATE_MA) {
        return refusal(
            "has bit 18 (MIGRATE_MA) set, which KVM refuses: there is no migration agent",
            &format!("clear bit 18: {:#x}", policy & !(1 << MIGRATE_MA)),
        );
    }
    if policy >> (LAST_DEFINED + 1) != 0 {
        return refusal(
            "has bits above 25 set, which are reserved and must be zero",
            "clear bits 26 to 63",
        );
    }
    if !has(policy, SMT)
        && facts
            .smt_active
            .as_deref()
            .is_ok_and(|active| active.trim() == "1")
    {
        return Err(unsupported_host(
            POLICY,
            &format!(
                "policy {policy:#x} has bit 16 clear, which forbids SMT, and SMT is active on this \
                 host"
            ),
            &format!(
                "switch SMT off on the host, or allow it: {:#x}",
                policy | 1 << SMT
            ),
        ));
    }
    taken_by_kvm(policy, &facts.policy_bits)
}

fn taken_by_kvm(policy: u64, bits: &Result<u64, FactError>) -> Result<(), Error> {
    let (taken, remedy) = match bits {
        Ok(bits) => (
            *bits,
            "run a newer kernel, or keep to the bits that it takes",
        ),
        Err(FactError::Denied) => (
            TAKEN_BY_EVERY_KERNEL,
            "add kvm-device-attribute 1/1 to the grants of sev-snp, so that KVM can be asked",
        ),
        // A kernel that does not know the question takes what the first one took.
        Err(FactError::Absent | FactError::Failed(_)) => (
            TAKEN_BY_EVERY_KERNEL,
            "run a kernel that tells which bits it takes, or keep to 0x30000",
        ),
    };
    let refused = policy & !taken;
    if refused != 0 {
        let bits: Vec<String> = (0..u64::BITS)
            .filter(|bit| has(refused, *bit))
            .map(|bit| bit.to_string())
            .collect();
        return Err(unsupported_host(
            POLICY,
            &format!(
                "policy {policy:#x} has bits set that this host's KVM is not known to take: {}",
                bits.join(", ")
            ),
            remedy,
        ));
    }
    // The kernels that do not tell refuse a guest without SMT, too.
    if bits.is_err() && !has(policy, SMT) {
        return Err(unsupported_host(
            POLICY,
            &format!(
                "policy {policy:#x} has bit 16 clear, which forbids SMT, and this host's KVM is not \
                 known to take that"
            ),
            remedy,
        ));
    }
    Ok(())
}

/// Said where it is not known whether the host keeps what the policy asks.
pub(crate) fn remark(policy: u64, facts: &Facts) -> Option<Finding> {
    let reason = match &facts.smt_active {
        _ if has(policy, SMT) => return None,
        Ok(_) => return None,
        Err(FactError::Absent) => return None,
        Err(FactError::Denied) => "the backend may not look".to_owned(),
        Err(FactError::Failed(reason)) => reason.clone(),
    };
    Some(warn(
        "policy.smt-unknown",
        POLICY,
        &format!(
            "policy {policy:#x} forbids SMT, and it is not known whether it is active on this host: \
             {reason}"
        ),
        &format!("let sev-snp read {SMT_ACTIVE}, or switch SMT off on the host"),
    ))
}

/// What a guest with it may rely on.
pub(crate) fn in_words(policy: u64) -> String {
    let mut words = vec![
        format!("ABI {}.{} or newer", (policy >> 8) & 0xff, policy & 0xff),
        if has(policy, SMT) {
            "SMT allowed".to_owned()
        } else {
            "SMT forbidden".to_owned()
        },
        "no debugging".to_owned(),
        "no migration".to_owned(),
    ];
    words.extend(
        WORDS
            .iter()
            .filter(|(bit, _)| has(policy, *bit))
            .map(|(_, words)| (*words).to_owned()),
    );
    format!("policy {policy:#x}: {}", words.join(", "))
}
