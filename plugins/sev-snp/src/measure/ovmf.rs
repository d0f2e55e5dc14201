//! The launch digest of a guest that starts with OVMF, in the order in which QEMU puts things into
//! the guest: the image below 4 GiB, the sections of its SEV metadata as they stand there, then the
//! registers of the vCPUs, which KVM adds at the end of the launch.

use casemate_backend::answer::{quoted, unsuitable_file};
use casemate_backend::bindings::casemate::tee::types::{Error, HostFile};
use casemate_backend::files::{Bytes, Digests};
use casemate_firmware::ovmf::{self, SevSectionKind};
use casemate_firmware::suitable::{self, SnpFirmware};
use casemate_firmware::{Guest, remedy};

use super::chain::{DIGEST_SIZE, Digest, LaunchDigest, PAGE_SIZE, PageType, TooManyPages};
use super::hashes::KernelHashes;
use super::vmsa::{self, Start};
use super::{FIRMWARE_ROLE, too_many_pages};
use crate::settings::MeasuredVmsas;

/// Where the image ends.
const TOP: u64 = 1 << 32;

/// What the digest depends on, beside the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guests<'a> {
    pub(crate) vcpus: u32,
    pub(crate) start: Start,
    pub(crate) vmsas: MeasuredVmsas,
    pub(crate) kernel: Option<&'a KernelHashes>,
}

/// What is in the image, or why no SEV-SNP guest starts with it.
pub(crate) fn layout(file: &HostFile, files: &impl Digests) -> Result<SnpFirmware, Error> {
    let image = ovmf::inspect(&Bytes::of(file, files)).map_err(|error| {
        unsuitable_file(
            FIRMWARE_ROLE,
            &format!("{}: {error}", quoted(&file.label)),
            remedy::for_ovmf_error(&error, Guest::Snp),
        )
    })?;
    suitable::snp_layout(&image).map_err(|reason| {
        unsuitable_file(
            FIRMWARE_ROLE,
            &format!("{}: {reason}", quoted(&file.label)),
            remedy::for_unsuitable(&reason),
        )
    })
}

pub(crate) fn digest(
    file: &HostFile,
    firmware: &SnpFirmware,
    guest: &Guests<'_>,
    files: &impl Digests,
) -> Result<Digest, Error> {
    let pages = page_digests(file, files)?;
    // `digest-pages` told of at least as many bytes as the file has.
    let base = TOP.saturating_sub(file.size);
    chain(&pages, base, firmware, guest).map_err(|reason| match reason {
        NoDigest::TooManyPages => too_many_pages(FIRMWARE_ROLE, file),
        NoDigest::TableCut => unsuitable_file(
            FIRMWARE_ROLE,
            &format!(
                "the table of hashes in {} does not fit its page, so a kernel would not be measured",
                quoted(&file.label)
            ),
            remedy::image_for(Guest::Snp),
        ),
    })
}

/// Why there is no digest of an image that was inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoDigest {
    TooManyPages,
    TableCut,
}

impl From<TooManyPages> for NoDigest {
    fn from(TooManyPages: TooManyPages) -> Self {
        Self::TooManyPages
    }
}

/// The SHA-384 of each page of the image.
fn page_digests(file: &HostFile, files: &impl Digests) -> Result<Vec<u8>, Error> {
    if file.size == 0 || !file.size.is_multiple_of(PAGE_SIZE) || file.size > TOP {
        return Err(unsuitable_file(
            FIRMWARE_ROLE,
            &format!(
                "{} has {} bytes, and firmware is of whole pages of 4 KiB",
                quoted(&file.label),
                file.size
            ),
            remedy::image_for(Guest::Snp),
        ));
    }
    let unreadable = |reason: &str| {
        unsuitable_file(
            FIRMWARE_ROLE,
            &format!("{} cannot be measured: {reason}", quoted(&file.label)),
            "see that the file can be read, and is not changed while it is",
        )
    };
    let page_size = u32::try_from(PAGE_SIZE).unwrap_or(u32::MAX);
    let digests = files
        .digest_pages(file.id, "sha-384", page_size)
        .map_err(|reason| unreadable(&reason))?;
    let wanted = (file.size / PAGE_SIZE).saturating_mul(DIGEST_SIZE as u64);
    if digests.len() as u64 != wanted {
        return Err(unreadable("the host gave another number of pages"));
    }
    Ok(digests)
}

fn chain(
    image: &[u8],
    base: u64,
    firmware: &SnpFirmware,
    guest: &Guests<'_>,
) -> Result<Digest, NoDigest> {
    let mut digest = LaunchDigest::new();
    digest.normal_pages(base, image)?;
    for section in &firmware.sections {
        let (gpa, size) = (section.area.base, section.area.size);
        match (section.kind, guest.kernel, &firmware.kernel_hashes) {
            (SevSectionKind::KernelHashes, Some(hashes), Ok(table)) => {
                let offset = usize::try_from(table.base % PAGE_SIZE).unwrap_or(0);
                let page = hashes.page(offset).ok_or(NoDigest::TableCut)?;
                hashes_section(&mut digest, gpa, size, &page)?;
            }
            (SevSectionKind::Secrets, ..) => {
                digest.uncounted_pages(PageType::Secrets, gpa, size)?;
            }
            (SevSectionKind::Cpuid, ..) => digest.uncounted_pages(PageType::Cpuid, gpa, size)?,
            (
                SevSectionKind::Memory
                | SevSectionKind::SvsmCallingArea
                | SevSectionKind::KernelHashes
                // Refused before.
                | SevSectionKind::Unknown(_),
                ..,
            ) => digest.uncounted_pages(PageType::Zero, gpa, size)?,
        }
    }
    digest.page(PageType::Vmsa, vmsa::GPA, &vmsa::of_first(guest.start))?;
    if guest.vmsas == MeasuredVmsas::All {
        let further = vmsa::of_further(guest.start, firmware.reset_address);
        for _ in 1..guest.vcpus {
            digest.page(PageType::Vmsa, vmsa::GPA, &further)?;
        }
    }
    Ok(digest.value())
}

/// The table is in the first page; QEMU clears the rest.
fn hashes_section(
    digest: &mut LaunchDigest,
    gpa: u64,
    size: u64,
    table: &Digest,
) -> Result<(), TooManyPages> {
    let cleared = super::chain::contents(&[0; PAGE_SIZE as usize]);
    for page in 0..size.div_ceil(PAGE_SIZE) {
        let contents = if page == 0 { table } else { &cleared };
        digest.page(
            PageType::Normal,
            gpa.wrapping_add(page * PAGE_SIZE),
            contents,
        )?;
    }
    Ok(())
}
