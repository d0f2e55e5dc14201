//! The object that protects the guest, `sev-snp-guest` (QEMU, qapi/qom.json, `SevSnpGuestProperties`).

use casemate_backend::answer::{invalid_request, quoted, unsupported_host, warn};
use casemate_backend::bindings::casemate::tee::facts::FactError;
use casemate_backend::bindings::casemate::tee::types::{
    Error, Finding, LaunchRequest, Property, Typed, Value,
};
use casemate_backend::identity;
use casemate_backend::memory::property;

use super::HOST_DATA;
use super::firmware::{Chosen, KernelHashes};
use crate::facts::{Facts, OBJECT, SEV_DEVICE};
use crate::settings::{
    AUTHOR_KEY, AuthorKey, CBITPOS, ID_AUTH, ID_BLOCK, REDUCED_PHYS_BITS, Settings,
};

/// HOST_DATA of SNP_LAUNCH_FINISH.
pub(crate) const HOST_DATA_BYTES: usize = 32;
/// QEMU's range.
const REDUCED_PHYS_BITS_RANGE: std::ops::RangeInclusive<u64> = 1..=63;
/// Version of the ID block that there is, and where it and the policy stand in it (AMD 56860,
/// "Structure of the ID Block").
const ID_BLOCK_VERSION: u32 = 1;
const VERSION_AT: usize = 0x50;
const POLICY_AT: usize = 0x58;
/// Where the author's key stands in the ID authentication information.
const AUTHOR_KEY_AT: std::ops::Range<usize> = 0x880..0xc84;

pub(super) fn object(
    request: &LaunchRequest,
    facts: &Facts,
    settings: &Settings,
    firmware: &Chosen<'_>,
    kernel_hashes: KernelHashes,
    findings: &mut Vec<Finding>,
) -> Result<Typed, Error> {
    let mut properties = vec![
        property(
            "cbitpos",
            Value::Unsigned(cbitpos(facts, settings, findings)?),
        ),
        property(
            "reduced-phys-bits",
            Value::Unsigned(reduced_phys_bits(settings, findings)?),
        ),
        property("policy", Value::Unsigned(settings.policy.value)),
        property("sev-device", Value::HostPath(SEV_DEVICE.to_owned())),
    ];
    if kernel_hashes == KernelHashes::On {
        properties.push(property("kernel-hashes", Value::Boolean(true)));
    }
    if let Some(identity) = &request.identity {
        let carried = identity::carried(identity, HOST_DATA_BYTES, HOST_DATA)?;
        properties.push(property(HOST_DATA, Value::Bytes(carried)));
    }
    properties.extend(id_block(settings, firmware)?);
    if settings.vcek_disabled {
        properties.push(property("vcek-disabled", Value::Boolean(true)));
    }
    if let Some(workarounds) = &settings.workarounds {
        properties.push(property(
            "guest-visible-workarounds",
            Value::Bytes(workarounds.clone()),
        ));
    }
    Ok(Typed {
        kind: OBJECT.to_owned(),
        id: Some(settings.guard_id.clone()),
        properties,
    })
}

/// The position of the encryption bit: CPUID's, since QEMU refuses another and hosts differ.
pub(crate) fn cbitpos(
    facts: &Facts,
    settings: &Settings,
    findings: &mut Vec<Finding>,
) -> Result<u64, Error> {
    match (&facts.sev_leaf, &settings.cbitpos) {
        (Ok((eax, ebx)), set) => {
            // EAX bit 1: SEV; EBX bits 5:0: the position.
            let position = u64::from(ebx & 0x3f);
            if eax & 0b10 == 0 || position == 0 {
                return Err(unsupported_host(
                    "cpuid",
                    "CPUID tells of no encryption bit: this CPU has no SEV",
                    "use a host with a CPU that has SEV-SNP",
                ));
            }
            if let Some(set) = set
                && set.value != position
            {
                findings.push(warn(
                    "cpu.cbitpos-differs",
                    CBITPOS,
                    &format!(
                        "{CBITPOS} is {}, and CPUID says {position}, which is used",
                        set.value
                    ),
                    &format!("remove {CBITPOS} from the configuration"),
                ));
            }
            Ok(position)
        }
        (Err(reason), Some(set)) if (1..=63).contains(&set.value) => {
            findings.push(warn(
                "cpu.cbitpos-unchecked",
                CBITPOS,
                &format!(
                    "{CBITPOS} is taken as it is, because CPUID {}",
                    why_not(reason)
                ),
                cpuid_remedy(reason),
            ));
            Ok(set.value)
        }
        (Err(_), Some(set)) => Err(invalid_request(
            CBITPOS,
            &format!("{CBITPOS} is {}, wanted is 1 to 63", set.value),
            "grant cpuid 0x8000001f to sev-snp, and remove the setting",
        )),
        (Err(reason), None) => Err(unsupported_host(
            "cpuid",
            &format!(
                "the position of the encryption bit is not known, because CPUID {}",
                why_not(reason)
            ),
            cpuid_remedy(reason),
        )),
    }
}

fn cpuid_remedy(reason: &FactError) -> &'static str {
    match reason {
        FactError::Denied => "add cpuid 0x8000001f to the grants of sev-snp",
        FactError::Absent | FactError::Failed(_) => "use a host with a CPU that has SEV-SNP",
    }
}

fn why_not(reason: &FactError) -> String {
    match reason {
        FactError::Denied => "may not be read by the backend".to_owned(),
        FactError::Absent => "is not there on this architecture".to_owned(),
        FactError::Failed(reason) => format!("could not be read: {reason}"),
    }
}

pub(crate) fn reduced_phys_bits(
    settings: &Settings,
    findings: &mut Vec<Finding>,
) -> Result<u64, Error> {
    let bits = settings.reduced_phys_bits.value;
    if !REDUCED_PHYS_BITS_RANGE.contains(&bits) {
        return Err(invalid_request(
            REDUCED_PHYS_BITS,
            &format!("{REDUCED_PHYS_BITS} is {bits}, wanted is 1 to 63"),
            "leave it out: 1 is right on every host",
        ));
    }
    if bits != 1 {
        findings.push(warn(
            "cpu.reduced-phys-bits",
            REDUCED_PHYS_BITS,
            &format!("the guest loses {bits} address bits, and 1 is enough on every host"),
            &format!("remove {REDUCED_PHYS_BITS} from the configuration"),
        ));
    }
    Ok(bits)
}

/// QEMU takes either half alone, and the firmware then fails the launch or checks nothing.
fn id_block(settings: &Settings, firmware: &Chosen<'_>) -> Result<Vec<Property>, Error> {
    let (block, auth) = match (&settings.id_block, &settings.id_auth) {
        (None, None) if settings.author_key.value == AuthorKey::On => {
            return Err(invalid_request(
                AUTHOR_KEY,
                "the author key is to be checked, but there is no ID block that it could be of",
                &format!("give {ID_BLOCK} and {ID_AUTH}"),
            ));
        }
        (None, None) => return Ok(Vec::new()),
        (Some(block), Some(auth)) => (block, auth),
        (Some(_), None) => return Err(half(ID_BLOCK, ID_AUTH)),
        (None, Some(_)) => return Err(half(ID_AUTH, ID_BLOCK)),
    };
    debug_assert!(matches!(firmware, Chosen::Bios { .. }), "refused before");
    let version = block
        .get(VERSION_AT..VERSION_AT + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_le_bytes);
    if version != Some(ID_BLOCK_VERSION) {
        return Err(invalid_request(
            ID_BLOCK,
            &format!(
                "the ID block has version {}, wanted is {ID_BLOCK_VERSION}",
                version.unwrap_or_default()
            ),
            "make the ID block with a tool for SEV-SNP",
        ));
    }
    let policy = block
        .get(POLICY_AT..POLICY_AT + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_le_bytes);
    if policy != Some(settings.policy.value) {
        return Err(invalid_request(
            ID_BLOCK,
            &format!(
                "the ID block is for policy {:#x}, and the guest has {:#x}, which the firmware \
                 refuses",
                policy.unwrap_or_default(),
                settings.policy.value
            ),
            "set sev-snp-policy to the ID block's, or make an ID block for this policy",
        ));
    }
    let has_author = auth
        .get(AUTHOR_KEY_AT)
        .is_some_and(|key| key.iter().any(|byte| *byte != 0));
    let author_key = match settings.author_key.value {
        AuthorKey::Auto => has_author,
        AuthorKey::Off => false,
        AuthorKey::On if has_author => true,
        AuthorKey::On => {
            return Err(invalid_request(
                AUTHOR_KEY,
                &format!(
                    "the author key is to be checked, but {} has none",
                    quoted(ID_AUTH)
                ),
                "sign the ID key with an author key, or leave the setting out",
            ));
        }
    };
    let mut properties = vec![
        property("id-block", Value::Bytes(block.clone())),
        property("id-auth", Value::Bytes(auth.clone())),
    ];
    if author_key {
        properties.push(property("author-key-enabled", Value::Boolean(true)));
    }
    Ok(properties)
}

fn half(given: &str, wanted: &str) -> Error {
    invalid_request(
        given,
        &format!("{given} is given without {wanted}, and either means nothing alone"),
        &format!("give both {ID_BLOCK} and {ID_AUTH}, or neither ({wanted} is missing)"),
    )
}
