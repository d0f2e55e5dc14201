//! What a verifier will see of a guest: the launch digest, and the claims that the report carries
//! beside it.
//!
//! Only the firmware, the boot inputs, the CPU model and the guard's properties of the plan count, so
//! that a plan with nothing else is measured too (`casemate measure`).

mod chain;
mod hashes;
mod igvm;
mod ovmf;
pub(crate) mod profile;
mod signature;
mod vmsa;

use casemate_backend::answer::{invalid_request, quoted, unsuitable_file};
use casemate_backend::bindings::casemate::tee::types::{
    Alternative, BootInputs, Error, Firmware, HostFile, Input, Launch, LaunchRequest, Register,
    RegisterValue, Typed, Value,
};
use casemate_backend::boot::file_of_role;
use casemate_backend::files::Digests;
use casemate_backend::identity;
use casemate_backend::memory;
use casemate_backend::register::{
    CORIM, RAW, SHA_384, Source, TRUSTEE, bytes_of, computed, hex, input, named, one_of,
    property_of, unknown,
};
use casemate_firmware::{Guest, remedy};

use self::hashes::{KernelHashes, Sha256Digest};
use self::ovmf::Guests;
pub use self::profile::MeasureFacts;
use self::profile::Profile;
use self::vmsa::Start;
use crate::facts::OBJECT;
use crate::plan::HOST_DATA;
use crate::plan::guest::HOST_DATA_BYTES;
use crate::settings::{GUEST_FEATURES, ID_BLOCK, MEASURED_VMSAS, MeasuredVmsas, Settings};

const FIRMWARE_ROLE: &str = "firmware";
const IGVM_ROLE: &str = "igvm";

/// Where the launch digest stands in an ID block (AMD 56860, "Structure of the ID Block").
const ID_BLOCK_DIGEST: std::ops::Range<usize> = 0..48;

/// Every register of the guest.
pub fn measure(
    request: &LaunchRequest,
    launch: &Launch,
    facts: &MeasureFacts,
    files: &impl Digests,
) -> Result<Vec<Register>, Error> {
    let settings = Settings::read(&request.host)?;
    let profile = Profile::of(&settings, facts)?;
    memory::check_vcpus(request.vcpus)?;
    let plan = &launch.plan;
    let digest = match plan.firmware {
        Firmware::Bios(id) => {
            let file = file_of_id(request, id)?;
            of_ovmf(request, launch, file, &profile, files)?
        }
        Firmware::Igvm(id) => {
            let file = file_of_id(request, id)?;
            of_igvm(request, file, &settings, &profile, files)?
        }
        Firmware::None | Firmware::Pflash(_) => {
            return Err(unsuitable_file(
                FIRMWARE_ROLE,
                "an SEV-SNP guest starts with OVMF in one file or from an IGVM file, and the plan \
                 has neither",
                remedy::image_for(Guest::Snp),
            ));
        }
    };
    let guard = plan.objects.iter().find(|object| object.kind == OBJECT);
    let mut registers = vec![named(
        digest,
        &[
            (CORIM, "launch-digest"),
            (TRUSTEE, "snp_launch_measurement"),
        ],
    )];
    check_id_block(&settings, &registers)?;
    registers.extend(claims(request, &settings, guard)?);
    if matches!(plan.firmware, Firmware::Bios(_)) {
        registers.extend(id_claims(&settings));
    }
    Ok(registers)
}

fn file_of_id(request: &LaunchRequest, id: u32) -> Result<&HostFile, Error> {
    let mut files = request.host.files.iter();
    files.find(|file| file.id == id).ok_or_else(|| {
        unsuitable_file(
            FIRMWARE_ROLE,
            &format!("the plan starts from file {id}, which is not of the request"),
            remedy::image_for(Guest::Snp),
        )
    })
}

fn of_ovmf(
    request: &LaunchRequest,
    launch: &Launch,
    file: &HostFile,
    profile: &Profile,
    files: &impl Digests,
) -> Result<Register, Error> {
    let firmware = ovmf::layout(file, files)?;
    let model = &launch.plan.cpu.kind;
    let signature = signature(&launch.plan.cpu)?;
    let mut inputs = vec![
        file_input(FIRMWARE_ROLE, file, files)?,
        input("vcpus", &request.vcpus.to_string(), Source::Request),
        input("cpu", model, Source::Request),
        input("cpu-signature", &format!("{signature:#x}"), Source::Request),
        profile.features_input(),
        profile.vmsas_input(),
    ];
    let hashes = if launch.plan.boot.contains(BootInputs::KERNEL) {
        if let Err(reason) = &firmware.kernel_hashes {
            return Err(unsuitable_file(
                FIRMWARE_ROLE,
                &format!(
                    "{}: {reason}, so the kernel would not be part of the launch measurement",
                    quoted(&file.label)
                ),
                remedy::for_kernel_hashes(reason),
            ));
        }
        Some(kernel_hashes(request, launch, files, &mut inputs)?)
    } else {
        None
    };
    let guests = Guests {
        vcpus: request.vcpus,
        start: Start {
            signature,
            features: profile.features,
        },
        vmsas: profile.vmsas,
        kernel: hashes.as_ref(),
    };
    let digest = ovmf::digest(file, &firmware, &guests, files)?;
    Ok(computed("launch-digest", SHA_384, &digest, inputs))
}

fn of_igvm(
    request: &LaunchRequest,
    file: &HostFile,
    settings: &Settings,
    profile: &Profile,
    files: &impl Digests,
) -> Result<Register, Error> {
    let measured = igvm::measure(file, files)?;
    if let Some(set) = settings.guest_features
        && set != measured.features
    {
        return Err(invalid_request(
            GUEST_FEATURES,
            &format!(
                "{GUEST_FEATURES} is {set:#x}, and the registers in {} have {:#x}, which is what \
                 the guest gets",
                quoted(&file.label),
                measured.features
            ),
            "leave the setting out where a guest starts from an IGVM file",
        ));
    }
    let inputs = vec![
        file_input(IGVM_ROLE, file, files)?,
        input("vcpus", &request.vcpus.to_string(), Source::Request),
        input(
            GUEST_FEATURES,
            &format!("{:#x}", measured.features),
            Source::File,
        ),
        profile.vmsas_input(),
    ];
    // The file has registers for one vCPU, and what KVM would start the others with is not in it.
    if profile.vmsas == MeasuredVmsas::All && request.vcpus > 1 {
        return Ok(unknown(
            "launch-digest",
            SHA_384,
            &format!(
                "a host that measures the registers of all {} vCPUs measures some that the IGVM file \
                 does not have; with one vCPU, or where {MEASURED_VMSAS} is boot, the digest is known",
                request.vcpus
            ),
            inputs,
        ));
    }
    if measured.in_file_order == measured.in_qemus_order {
        return Ok(computed(
            "launch-digest",
            SHA_384,
            &measured.in_file_order,
            inputs,
        ));
    }
    let alternative = |condition: &str, value: &[u8]| Alternative {
        condition: condition.to_owned(),
        value: value.to_vec(),
    };
    Ok(one_of(
        "launch-digest",
        SHA_384,
        vec![
            alternative(
                "the loader feeds directives in the order of the file, as measuring tools do",
                &measured.in_file_order,
            ),
            alternative(
                "the loader is QEMU's, which feeds parameters before the run of pages that they \
                 follow",
                &measured.in_qemus_order,
            ),
        ],
        inputs,
    ))
}

/// Of the model, unless the plan sets what it is made of.
fn signature(cpu: &Typed) -> Result<u32, Error> {
    if let Some(set) = ["family", "model", "stepping"]
        .iter()
        .find(|name| property_of(cpu, name).is_some())
    {
        return Err(invalid_request(
            "cpu",
            &format!(
                "the plan sets {set} of the CPU model, which a measurement takes from its name"
            ),
            "name a CPU model without it",
        ));
    }
    signature::of(&cpu.kind).ok_or_else(|| {
        invalid_request(
            "cpu",
            &format!(
                "CPU model {} has no signature that is known, and it is part of the measurement",
                quoted(&cpu.kind)
            ),
            &format!("name {} or a version of one (EPYC-v4)", signature::names()),
        )
    })
}

fn kernel_hashes(
    request: &LaunchRequest,
    launch: &Launch,
    files: &impl Digests,
    inputs: &mut Vec<Input>,
) -> Result<KernelHashes, Error> {
    let boot = launch.plan.boot;
    let mut hash = |role: &str| -> Result<Sha256Digest, Error> {
        let Some(file) = file_of_role(&request.host, role) else {
            return Err(invalid_request(
                role,
                &format!("the plan starts from a {role}, and the request has none"),
                &format!("name a {role}"),
            ));
        };
        let digest = files.digest(file.id, "sha-256", &[]);
        let digest: Option<Sha256Digest> = digest.as_ref().ok().and_then(|digest| {
            let digest = digest.as_slice();
            digest.try_into().ok()
        });
        let digest = digest.ok_or_else(|| unreadable(role, file))?;
        inputs.push(input(
            role,
            &format!("sha-256:{}", hex(&digest)),
            Source::File,
        ));
        Ok(digest)
    };
    let kernel = hash("kernel")?;
    let initrd = if boot.contains(BootInputs::INITRD) {
        Some(hash("initrd")?)
    } else {
        None
    };
    let cmdline = if boot.contains(BootInputs::CMDLINE) {
        request.kernel_cmdline.as_str()
    } else {
        ""
    };
    inputs.push(input("kernel-cmdline", cmdline, Source::Request));
    Ok(KernelHashes::new(kernel, initrd, cmdline))
}

fn file_input(role: &str, file: &HostFile, files: &impl Digests) -> Result<Input, Error> {
    let digest = files
        .digest(file.id, SHA_384, &[])
        .map_err(|_| unreadable(role, file))?;
    Ok(input(
        role,
        &format!("sha-384:{}", hex(&digest)),
        Source::File,
    ))
}

fn unreadable(role: &str, file: &HostFile) -> Error {
    unsuitable_file(
        role,
        &format!("{} cannot be measured", quoted(&file.label)),
        "see that the file can be read, and is not changed while it is",
    )
}

fn too_many_pages(role: &str, file: &HostFile) -> Error {
    unsuitable_file(
        role,
        &format!(
            "{} puts more than {} pages into a guest before it runs",
            quoted(&file.label),
            chain::MOST_PAGES
        ),
        remedy::image_for(if role == IGVM_ROLE {
            Guest::SnpIgvm
        } else {
            Guest::Snp
        }),
    )
}

/// What the report carries beside the digest (AMD 56860, table "ATTESTATION_REPORT Structure"): as
/// the guard has it, else as it would have it.
fn claims(
    request: &LaunchRequest,
    settings: &Settings,
    guard: Option<&Typed>,
) -> Result<Vec<Register>, Error> {
    let policy = guard
        .and_then(|guard| property_of(guard, "policy"))
        .and_then(|property| match property.value {
            Value::Unsigned(policy) => Some(policy),
            _ => None,
        })
        .unwrap_or(settings.policy.value);
    let claim =
        |name: &str, value: &[u8]| named(computed(name, RAW, value, Vec::new()), &[(CORIM, name)]);
    let policy = claim("guest-policy", &policy.to_le_bytes());
    let host_data = match (guard, &request.identity) {
        // The firmware has zeros where nobody gives it any.
        (Some(guard), _) => match bytes_of(guard, HOST_DATA) {
            Some(bytes) => bytes.to_vec(),
            None => vec![0; HOST_DATA_BYTES],
        },
        (None, Some(identity)) => identity::carried(identity, HOST_DATA_BYTES, HOST_DATA)?,
        // It has no name in a policy then, which would keep out every VM that has an identity.
        (None, None) => {
            let reason = "each VM carries its own identity, and none is named";
            return Ok(vec![policy, unknown(HOST_DATA, RAW, reason, Vec::new())]);
        }
    };
    Ok(vec![policy, claim(HOST_DATA, &host_data)])
}

/// What the report carries of an ID block and of the keys that signed it (AMD 56860, tables
/// "Structure of the ID Block" and "ID Authentication Information Structure").
fn id_claims(settings: &Settings) -> Vec<Register> {
    let (Some(block), Some(auth)) = (&settings.id_block, &settings.id_auth) else {
        return Vec::new();
    };
    let raw = |name: &str, at: std::ops::Range<usize>| {
        let value = block.get(at).unwrap_or_default();
        named(computed(name, RAW, value, Vec::new()), &[(CORIM, name)])
    };
    let mut claims = vec![
        raw("family-id", 0x30..0x40),
        raw("image-id", 0x40..0x50),
        raw("guest-svn", 0x54..0x58),
    ];
    // A key that is not there is not part of the report.
    for (name, at) in [
        ("id-key-digest", 0x240..0x644),
        ("author-key-digest", 0x880..0xc84),
    ] {
        let key = auth.get(at).unwrap_or_default();
        if key.iter().any(|byte| *byte != 0) {
            let digest = chain::contents(key);
            let inputs = vec![input("sev-snp-id-auth", "the key in it", Source::Setting)];
            claims.push(named(
                computed(name, SHA_384, &digest, inputs),
                &[(CORIM, name)],
            ));
        }
    }
    claims
}

/// An ID block for another guest: the firmware would end the launch ("bad measurement").
fn check_id_block(settings: &Settings, registers: &[Register]) -> Result<(), Error> {
    let Some(block) = &settings.id_block else {
        return Ok(());
    };
    let wanted = block.get(ID_BLOCK_DIGEST).unwrap_or_default();
    let digest = registers.iter().find(|one| one.name == "launch-digest");
    if let Some(Register {
        value: RegisterValue::Computed(found),
        ..
    }) = digest
        && found != wanted
    {
        return Err(invalid_request(
            ID_BLOCK,
            &format!(
                "the ID block is for a guest with the launch digest {}, and this one has {}",
                hex(wanted),
                hex(found)
            ),
            "make an ID block for this guest, or give it the firmware, kernel and vCPUs that the \
             block is for",
        ));
    }
    Ok(())
}
