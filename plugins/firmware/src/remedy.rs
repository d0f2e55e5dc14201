//! Where the right file is to be had. One sentence for each reason, without a final period, that
//! somebody can carry out.

use crate::igvm::IgvmError;
use crate::ovmf::OvmfError;
use crate::suitable::{Guest, NoKernelHashes, Unsuitable};
use crate::tdvf::SectionFault;

const READ: &str = "see why the file cannot be read: its disk, its file system or its permissions";
const SNP: &str = "use OVMF.amdsev.fd of Debian's package ovmf-amdsev, or build \
                   OvmfPkg/AmdSev/AmdSevX64.dsc of edk2-stable202405 or newer";
const SNP_WITHOUT_KERNEL: &str = "use OVMF.amdsev.fd of Debian's package ovmf-amdsev, or build \
                                  OvmfPkg/OvmfPkgX64.dsc of edk2-stable202205 or newer";
const SNP_HASHES: &str = "use OVMF.amdsev.fd of Debian's package ovmf-amdsev, which has room for \
                          the hashes, or start the guest without a kernel of its own";
const SNP_WHOLE: &str = "use the combined image, such as OVMF.amdsev.fd of Debian's package \
                         ovmf-amdsev, and not the code or the variables alone (OVMF_CODE, OVMF_VARS)";
const TDX: &str = "use OVMF.inteltdx.ms.fd of Debian's package ovmf-inteltdx, or build \
                   OvmfPkg/IntelTdx/IntelTdxX64.dsc of edk2";
const TDX_WHOLE: &str = "use the combined image, such as OVMF.inteltdx.ms.fd of Debian's package \
                         ovmf-inteltdx, and not the code or the variables alone (OVMF_CODE, \
                         OVMF_VARS)";
const IGVM: &str = "build COCONUT-SVSM for QEMU (its target qemu) and use the file \
                    coconut-qemu.igvm";
const IGVM_AGAIN: &str = "copy the file again from where it was built, or build COCONUT-SVSM for \
                          QEMU (its target qemu) and use the file coconut-qemu.igvm";

/// What to do where [`crate::ovmf::inspect`] failed.
#[must_use]
pub fn for_ovmf_error(error: &OvmfError, guest: Guest) -> &'static str {
    match error {
        OvmfError::Read(_) => READ,
        OvmfError::TooSmall { .. }
        | OvmfError::NoTable { .. }
        | OvmfError::TableLength { .. }
        | OvmfError::EntryBroken { .. }
        | OvmfError::TableRest { .. }
        | OvmfError::EntryShort { .. } => image_for(guest),
    }
}

/// What to do where [`crate::igvm::inspect`] failed.
#[must_use]
pub fn for_igvm_error(error: &IgvmError) -> &'static str {
    match error {
        IgvmError::Read(_) => READ,
        IgvmError::TotalSize { .. } | IgvmError::Checksum { .. } => IGVM_AGAIN,
        IgvmError::TooSmall { .. }
        | IgvmError::Magic { .. }
        | IgvmError::Version { .. }
        | IgvmError::HeadersMisplaced { .. }
        | IgvmError::HeadersTooLong { .. }
        | IgvmError::HeaderCut { .. }
        | IgvmError::PlatformLate { .. }
        | IgvmError::PlatformLength { .. }
        | IgvmError::PlatformMask { .. }
        | IgvmError::PlatformRepeated { .. }
        | IgvmError::DirectiveUnknown { .. }
        | IgvmError::DirectiveLength { .. }
        | IgvmError::PageUnsupported { .. }
        | IgvmError::ParameterAreaMissing { .. }
        | IgvmError::ParameterAreaRepeated { .. } => IGVM,
        IgvmError::ContentOutsideFile { .. } => IGVM_AGAIN,
    }
}

/// Where a file for such a guest is to be had.
#[must_use]
pub fn image_for(guest: Guest) -> &'static str {
    match guest {
        Guest::Snp => SNP,
        Guest::SnpIgvm => IGVM,
        Guest::Tdx => TDX,
    }
}

/// What to do about a file that was understood.
#[must_use]
pub fn for_unsuitable(reason: &Unsuitable) -> &'static str {
    match reason {
        Unsuitable::BiosSize { guest, .. } => match guest {
            Guest::Snp => SNP_WHOLE,
            Guest::SnpIgvm => IGVM,
            Guest::Tdx => TDX_WHOLE,
        },
        Unsuitable::NoResetBlock
        | Unsuitable::ResetAddressZero
        | Unsuitable::NoSevMetadata
        | Unsuitable::SevMetadata(_)
        | Unsuitable::NoSevSections
        | Unsuitable::UnknownSevSection { .. }
        | Unsuitable::EmptySevSection { .. }
        | Unsuitable::UnalignedSevSection { .. } => SNP_WITHOUT_KERNEL,
        Unsuitable::Overlap { guest, .. } => image_for(*guest),
        Unsuitable::KernelHashes(reason) => for_kernel_hashes(reason),
        Unsuitable::TdxSection {
            fault: SectionFault::DataOutsideFile,
            ..
        } => TDX_WHOLE,
        Unsuitable::NoTdxMetadata
        | Unsuitable::TdxMetadata(_)
        | Unsuitable::FewTdxSections { .. }
        | Unsuitable::TdxSection { .. }
        | Unsuitable::NoResetVector
        | Unsuitable::NoHandOffBlock => TDX,
        Unsuitable::IgvmArchitecture { .. }
        | Unsuitable::IgvmPageSize { .. }
        | Unsuitable::NoSnpPlatform { .. }
        | Unsuitable::SnpPlatformVersion { .. }
        | Unsuitable::NoDirectives => IGVM,
    }
}

/// What to do about a firmware that would do for a guest without a kernel of its own.
#[must_use]
pub fn for_kernel_hashes(reason: &NoKernelHashes) -> &'static str {
    match reason {
        NoKernelHashes::NoEntry
        | NoKernelHashes::AreaEmpty
        | NoKernelHashes::AreaTooSmall { .. }
        | NoKernelHashes::NoSection
        | NoKernelHashes::OutsideSection { .. } => SNP_HASHES,
    }
}
