//! The launch digest of a guest that starts from an IGVM file: its directives for SEV-SNP.
//!
//! Measuring tools take directives in the order of the file. QEMU holds a run of pages back until
//! another run begins, and feeds parameters at once (backends/igvm.c, `qigvm_process_mem_page`), so
//! that parameters that follow a run come before it. Where that makes a difference, both values are
//! told: the tools have been held against hardware, and QEMU's code has been read.
//!
//! KVM adds the registers of the vCPUs itself, at the end of the launch and at an address of its own.
//! A file whose registers stand elsewhere has a digest that KVM would not measure, and is refused.

use casemate_backend::answer::{quoted, unsuitable_file};
use casemate_backend::bindings::casemate::tee::types::{Error, HostFile};
use casemate_backend::files::{Bytes, Digests};
use casemate_backend::register::hex;
use casemate_firmware::igvm::{self, Directive, IdBlock, PageContent};
use casemate_firmware::{ReadAt as _, remedy, suitable};

use super::chain::{self, Digest, LaunchDigest, PAGE_SIZE, PageType, TooManyPages};
use super::vmsa::{self, Stated};
use super::{IGVM_ROLE, too_many_pages};
use crate::settings::SNP_ACTIVE;

/// CR0 with which KVM starts a vCPU: ET, and NE or not, and PE for a guest that starts in protected
/// mode. With others KVM would measure other registers than the file has.
const CR0: [u64; 2] = [0x30, 0x31];

/// A file, measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) in_file_order: Digest,
    pub(crate) in_qemus_order: Digest,
    /// SEV_FEATURES of the registers that it brings.
    pub(crate) features: u64,
    pub(crate) id_block: Option<IdBlock>,
}

pub(crate) fn measure(file: &HostFile, files: &impl Digests) -> Result<Measured, Error> {
    let bytes = Bytes::of(file, files);
    let broken = |error: igvm::IgvmError| {
        unsuitable_file(
            IGVM_ROLE,
            &format!("{}: {error}", quoted(&file.label)),
            remedy::for_igvm_error(&error),
        )
    };
    let headers = igvm::inspect(&bytes).map_err(broken)?;
    let platform = suitable::for_snp_igvm(&headers).map_err(|reason| {
        unsuitable_file(
            IGVM_ROLE,
            &format!("{}: {reason}", quoted(&file.label)),
            remedy::for_unsuitable(&reason),
        )
    })?;
    let directives = igvm::directives(&bytes, platform.compatibility_mask).map_err(broken)?;
    let registers = check_registers(file, &directives, |offset| {
        bytes.read_at(u64::from(offset), PAGE_SIZE as u32)
    })?;
    let in_file_order = chain(&directives, file, files)?;
    let in_qemus_order = chain(&as_qemu_feeds(directives.clone()), file, files)?;
    let id_block = directives.into_iter().find_map(|one| match one {
        Directive::IdBlock(block) => Some(block),
        _ => None,
    });
    if let Some(block) = &id_block
        && ![in_file_order, in_qemus_order].contains(&block.digest)
    {
        return Err(unsuitable_file(
            IGVM_ROLE,
            &format!(
                "the ID block of {} is for a guest with the launch digest {}, and the file has {}",
                quoted(&file.label),
                hex(&block.digest),
                hex(&in_file_order)
            ),
            "sign the file again, or take one whose ID block is its own",
        ));
    }
    Ok(Measured {
        in_file_order,
        in_qemus_order,
        features: registers.features,
        id_block,
    })
}

/// The order in which QEMU feeds them: a run of adjacent pages of one kind waits until a page that
/// is not its next comes, or the file ends; what is no page does not wait.
fn as_qemu_feeds(directives: Vec<Directive>) -> Vec<Directive> {
    let mut fed = Vec::with_capacity(directives.len());
    let mut run: Vec<Directive> = Vec::new();
    for directive in directives {
        match (&directive, run.last()) {
            (Directive::Page { .. }, None) => run.push(directive),
            (Directive::Page { .. }, Some(last)) => {
                if !continues(last, &directive) {
                    fed.append(&mut run);
                }
                run.push(directive);
            }
            _ => fed.push(directive),
        }
    }
    // The registers are measured last in any case.
    let registers = fed
        .iter()
        .position(|one| matches!(one, Directive::VpContext { .. }))
        .map(|at| fed.remove(at));
    fed.append(&mut run);
    fed.extend(registers);
    fed
}

fn continues(last: &Directive, next: &Directive) -> bool {
    let (
        Directive::Page {
            gpa: last_gpa,
            content: last_content,
            index: last_index,
        },
        Directive::Page {
            gpa,
            content,
            index,
        },
    ) = (last, next)
    else {
        return false;
    };
    let is_same_kind = match (last_content, content) {
        (PageContent::Measured(one), PageContent::Measured(other)) => {
            one.is_some() == other.is_some()
        }
        (one, other) => one == other,
    };
    is_same_kind
        && last_gpa.checked_add(PAGE_SIZE) == Some(*gpa)
        && last_index.checked_add(1) == Some(*index)
}

/// The registers that the file brings are those that KVM will measure, and last.
fn check_registers(
    file: &HostFile,
    directives: &[Directive],
    read: impl Fn(u32) -> Result<Vec<u8>, String>,
) -> Result<Stated, Error> {
    let refused = |what: &str| {
        unsuitable_file(
            IGVM_ROLE,
            &format!("{} {what}", quoted(&file.label)),
            "build the file for KVM: registers of one vCPU, after all pages, at 0xfffffffff000",
        )
    };
    let contexts = directives.iter().enumerate();
    let contexts = contexts.filter_map(|(position, one)| match one {
        Directive::VpContext { gpa, offset, index } => Some((position, *gpa, *offset, *index)),
        _ => None,
    });
    let contexts: Vec<_> = contexts.collect();
    let &[(position, gpa, offset, index)] = contexts.as_slice() else {
        return Err(refused(&format!(
            "has registers (VMSA) of {} vCPUs, and KVM measures those of the first alone from a file",
            contexts.len()
        )));
    };
    if index != 0 {
        return Err(refused(&format!(
            "has registers (VMSA) of vCPU {index}, and a guest starts with those of vCPU 0"
        )));
    }
    if gpa != vmsa::GPA {
        return Err(refused(&format!(
            "has its registers (VMSA) at {gpa:#x}, and KVM measures them at {:#x}",
            vmsa::GPA
        )));
    }
    let is_page = |one: &Directive| match one {
        Directive::Page { .. } | Directive::Parameters { .. } => true,
        Directive::VpContext { .. } | Directive::IdBlock(_) => false,
    };
    if directives.iter().skip(position).any(is_page) {
        return Err(refused(
            "has pages after its registers (VMSA), and KVM measures registers last",
        ));
    }
    let stated = read(offset)
        .ok()
        .and_then(|page| vmsa::stated(&page))
        .ok_or_else(|| refused("cannot be read where its registers (VMSA) are"))?;
    if !CR0.contains(&stated.cr0) {
        return Err(refused(&format!(
            "starts its vCPU with CR0 {:#x}, and KVM starts one with 0x30 or 0x31",
            stated.cr0
        )));
    }
    if stated.features & SNP_ACTIVE == 0 {
        return Err(refused(&format!(
            "starts its vCPU with SEV_FEATURES {:#x}, in which SNP is not active",
            stated.features
        )));
    }
    Ok(stated)
}

fn chain(directives: &[Directive], file: &HostFile, files: &impl Digests) -> Result<Digest, Error> {
    let full = |TooManyPages| too_many_pages(IGVM_ROLE, file);
    let zeros = chain::contents(&[0; PAGE_SIZE as usize]);
    let mut digest = LaunchDigest::new();
    for directive in directives {
        match directive {
            Directive::Page { gpa, content, .. } => {
                let (kind, contents) = match content {
                    PageContent::Measured(None) => (PageType::Normal, zeros),
                    PageContent::Measured(Some(offset)) => {
                        (PageType::Normal, page_digest(file, files, *offset)?)
                    }
                    PageContent::Unmeasured => (PageType::Unmeasured, [0; 48]),
                    PageContent::Secrets => (PageType::Secrets, [0; 48]),
                    PageContent::Cpuid => (PageType::Cpuid, [0; 48]),
                };
                digest.page(kind, *gpa, &contents).map_err(full)?;
            }
            Directive::Parameters { gpa, size } => digest
                .uncounted_pages(PageType::Unmeasured, *gpa, *size)
                .map_err(full)?,
            Directive::VpContext { gpa, offset, .. } => {
                let contents = page_digest(file, files, *offset)?;
                digest.page(PageType::Vmsa, *gpa, &contents).map_err(full)?;
            }
            Directive::IdBlock(_) => {}
        }
    }
    Ok(digest.value())
}

/// The SHA-384 of the page of the file at `offset`, which the host computes.
fn page_digest(file: &HostFile, files: &impl Digests, offset: u32) -> Result<Digest, Error> {
    let digest = files.digest(file.id, "sha-384", &[(u64::from(offset), PAGE_SIZE)]);
    let digest = digest.and_then(|digest| {
        let digest: Result<Digest, _> = digest.try_into();
        digest.map_err(|_| "the host gave a digest of another length".to_owned())
    });
    digest.map_err(|reason| {
        unsuitable_file(
            IGVM_ROLE,
            &format!("{} cannot be measured: {reason}", quoted(&file.label)),
            "see that the file can be read, and is not changed while it is",
        )
    })
}
