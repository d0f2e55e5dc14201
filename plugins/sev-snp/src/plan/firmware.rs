//! Which firmware the guest starts with, and whether that firmware measures a kernel.
//!
//! OVMF goes to QEMU as one file (`-bios`): a flash chip is a read-only slot, and KVM has none for
//! protected guests. Its tables say whether it can start an SNP guest and whether it takes hashes of
//! kernel, initrd and command line. An IGVM file brings its own pages; QEMU knows no place for
//! hashes in it, and the file's ID block would replace one from a setting.

use casemate_backend::answer::{
    invalid_request, note, quoted, unsuitable_file, unsupported_host, warn,
};
use casemate_backend::bindings::casemate::tee::facts::FactError;
use casemate_backend::bindings::casemate::tee::types::{
    Error, Finding, Firmware, HostContext, HostFile, Origin,
};
use casemate_backend::boot::file_of_role;
use casemate_backend::files::{Bytes, Files};
use casemate_firmware::suitable::{self, SnpFirmware};
use casemate_firmware::{Guest, igvm, ovmf, remedy};

use crate::facts::{Facts, IGVM_OBJECT, IGVM_SINCE};
use crate::settings::{FIRMWARE, FirmwareChoice, ID_BLOCK, POLICY, Settings};

const COMBINED: &str = "firmware";
const IGVM: &str = "igvm";
/// For flash chips, which SNP guests cannot have.
const FLASH: [&str; 2] = ["firmware-code", "firmware-vars"];

/// The choice, inspected.
#[derive(Debug)]
pub(crate) enum Chosen<'a> {
    Bios {
        file: &'a HostFile,
        inspected: SnpFirmware,
    },
    Igvm(&'a HostFile),
}

/// What becomes of a kernel that QEMU loads.
#[derive(Debug)]
pub(crate) enum KernelMeasurement {
    /// Its hash is part of the launch measurement.
    Hashes,
    /// Only what runs in the guest (an SVSM with a vTPM) can measure it.
    ByTheGuest,
    Impossible(Error),
}

/// What `kernel-hashes` is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KernelHashes {
    On,
    /// There is no kernel, or nowhere to put hashes.
    LeftOut,
}

pub(crate) fn choose<'a>(
    host: &'a HostContext,
    settings: &Settings,
    facts: &Facts,
    files: &impl Files,
) -> Result<Chosen<'a>, Error> {
    let (combined, igvm) = (file_of_role(host, COMBINED), file_of_role(host, IGVM));
    refuse_flash(host)?;
    let rank = |file: Option<&HostFile>| file.map(|file| rank(file.origin));
    let takes_igvm = match settings.firmware.value {
        FirmwareChoice::Bios => false,
        FirmwareChoice::Igvm => true,
        FirmwareChoice::Auto => rank(igvm) > rank(combined),
    };
    let (wanted, other) = if takes_igvm {
        ((IGVM, igvm), combined)
    } else {
        ((COMBINED, combined), igvm)
    };
    if let Some(unused) = other.filter(|file| file.origin == Origin::Request) {
        return Err(invalid_request(
            &unused.role,
            &format!(
                "the request names {} as {}, but the guest starts with its {}",
                quoted(&unused.label),
                unused.role,
                wanted.0
            ),
            "leave the file out, or set firmware to the kind that takes it",
        ));
    }
    let (role, Some(file)) = wanted else {
        return Err(missing(wanted.0, settings));
    };
    if file.size == 0 {
        return Err(unsuitable_file(
            role,
            &format!("{role} {} is empty", quoted(&file.label)),
            remedy::image_for(if takes_igvm {
                Guest::SnpIgvm
            } else {
                Guest::Snp
            }),
        ));
    }
    if takes_igvm {
        inspect_igvm(file, settings, facts, files)
    } else {
        inspect_ovmf(file, files)
    }
}

fn rank(origin: Origin) -> u8 {
    match origin {
        Origin::BuiltIn => 0,
        Origin::Operator => 1,
        Origin::Request => 2,
    }
}

/// The operator's flash images stand there for other backends; a caller's would be a wish dropped.
fn refuse_flash(host: &HostContext) -> Result<(), Error> {
    for role in FLASH {
        if let Some(file) = file_of_role(host, role)
            && file.origin == Origin::Request
        {
            return Err(invalid_request(
                role,
                &format!(
                    "the request names {} as {role}, and an SEV-SNP guest has no flash chip",
                    quoted(&file.label)
                ),
                "name one combined image as firmware",
            ));
        }
    }
    Ok(())
}

fn missing(role: &str, settings: &Settings) -> Error {
    if role == IGVM {
        return invalid_request(
            IGVM,
            "firmware is igvm, but there is no igvm file",
            &format!(
                "{}, or set {FIRMWARE} to bios",
                remedy::image_for(Guest::SnpIgvm)
            ),
        );
    }
    let said = match settings.firmware.value {
        FirmwareChoice::Auto => "",
        FirmwareChoice::Bios | FirmwareChoice::Igvm => "firmware is bios, but ",
    };
    unsupported_host(
        COMBINED,
        &format!("{said}there is no firmware file for SEV-SNP guests"),
        remedy::image_for(Guest::Snp),
    )
}

fn inspect_ovmf<'a>(file: &'a HostFile, files: &impl Files) -> Result<Chosen<'a>, Error> {
    let bytes = Bytes::of(file, files);
    let image = ovmf::inspect(&bytes).map_err(|error| {
        unsuitable_file(
            COMBINED,
            &format!("{}: {error}", quoted(&file.label)),
            remedy::for_ovmf_error(&error, Guest::Snp),
        )
    })?;
    let inspected = suitable::for_snp(&image).map_err(|reason| {
        unsuitable_file(
            COMBINED,
            &format!("{}: {reason}", quoted(&file.label)),
            remedy::for_unsuitable(&reason),
        )
    })?;
    Ok(Chosen::Bios { file, inspected })
}

fn inspect_igvm<'a>(
    file: &'a HostFile,
    settings: &Settings,
    facts: &Facts,
    files: &impl Files,
) -> Result<Chosen<'a>, Error> {
    if facts.igvm == Err(FactError::Absent) {
        return Err(unsupported_host(
            IGVM,
            &format!("this QEMU is built without {IGVM_OBJECT}, so it reads no IGVM file"),
            &format!(
                "install QEMU {IGVM_SINCE} or newer that is built with libigvm, or set {FIRMWARE} \
                 to bios"
            ),
        ));
    }
    if settings.id_block.is_some() {
        return Err(invalid_request(
            ID_BLOCK,
            "an ID block is given, and the guest starts from an IGVM file, whose own would replace \
             it",
            &format!("put the ID block into the IGVM file, or set {FIRMWARE} to bios"),
        ));
    }
    let bytes = Bytes::of(file, files);
    let inspected = igvm::inspect(&bytes).map_err(|error| {
        unsuitable_file(
            IGVM,
            &format!("{}: {error}", quoted(&file.label)),
            remedy::for_igvm_error(&error),
        )
    })?;
    let platform = suitable::for_snp_igvm(&inspected).map_err(|reason| {
        unsuitable_file(
            IGVM,
            &format!("{}: {reason}", quoted(&file.label)),
            remedy::for_unsuitable(&reason),
        )
    })?;
    // QEMU starts the launch with the setting, and takes the file's policy too late.
    if let Some(policy) = inspected.policy(&platform)
        && policy != settings.policy.value
    {
        return Err(invalid_request(
            POLICY,
            &format!(
                "the guest's policy is {:#x}, and the IGVM file {} is made for {policy:#x}",
                settings.policy.value,
                quoted(&file.label)
            ),
            &format!("set {POLICY} to {policy:#x}"),
        ));
    }
    Ok(Chosen::Igvm(file))
}

impl Chosen<'_> {
    pub(crate) fn kernel_measurement(&self) -> KernelMeasurement {
        match self {
            Self::Igvm(_) => KernelMeasurement::ByTheGuest,
            Self::Bios { file, inspected } => match &inspected.kernel_hashes {
                Ok(_) => KernelMeasurement::Hashes,
                Err(reason) => KernelMeasurement::Impossible(unsuitable_file(
                    COMBINED,
                    &format!(
                        "{}: {reason}, so the kernel would not be part of the launch \
                         measurement",
                        quoted(&file.label)
                    ),
                    remedy::for_kernel_hashes(reason),
                )),
            },
        }
    }

    /// On exactly when there is a kernel and the firmware takes its hash: QEMU aborts on hashes
    /// without a kernel, and a kernel without hashes could be anybody's.
    pub(super) fn for_boot(
        &self,
        loads_kernel: bool,
        findings: &mut Vec<Finding>,
    ) -> Result<KernelHashes, Error> {
        match (loads_kernel, self.kernel_measurement()) {
            (false, _) => {
                findings.push(note(
                    "boot.not-measured",
                    "boot",
                    "the launch measurement covers the firmware, and not what it loads from the disk",
                    "verify what the disk boots from within the guest, or boot from a kernel",
                ));
                Ok(KernelHashes::LeftOut)
            }
            (true, KernelMeasurement::Hashes) => Ok(KernelHashes::On),
            (true, KernelMeasurement::ByTheGuest) => {
                findings.push(warn(
                    "boot.not-measured",
                    "kernel",
                    "the launch measurement covers the IGVM file, and not kernel, initrd and command \
                     line",
                    "see that the verifier asks the guest's vTPM as well, or set firmware to bios",
                ));
                Ok(KernelHashes::LeftOut)
            }
            (true, KernelMeasurement::Impossible(error)) => Err(error),
        }
    }

    pub(crate) fn in_words(&self) -> String {
        match self {
            Self::Bios { file, .. } => format!(
                "the guest starts with OVMF {}, which takes the hash of a kernel",
                quoted(&file.label)
            ),
            Self::Igvm(file) => format!(
                "the guest starts with the IGVM file {}, and a kernel is measured by its vTPM alone",
                quoted(&file.label)
            ),
        }
    }

    pub(super) fn into_firmware(self) -> Firmware {
        match self {
            Self::Bios { file, .. } => Firmware::Bios(file.id),
            Self::Igvm(file) => Firmware::Igvm(file.id),
        }
    }
}
