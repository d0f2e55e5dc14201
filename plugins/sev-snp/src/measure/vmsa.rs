//! The save area of a vCPU (VMSA) as QEMU and KVM make it: the registers after a reset, in the layout
//! of AMD APM volume 2, table B-4.
//!
//! The values are those of an x86 reset (APM volume 2, table 14-1), but for what KVM sets for every
//! protected guest: EFER.SVME, CR4.MCE, and the features in SEV_FEATURES.

use super::chain::{self, Digest, PAGE_SIZE};

/// Where KVM says that a VMSA lies (`INITIAL_VMSA_GPA`, arch/x86/kvm/svm/sev.c).
pub(crate) const GPA: u64 = 0xffff_ffff_f000;

/// Where the first vCPU starts.
const RESET_VECTOR: u32 = 0xffff_fff0;

/// Offsets within the page.
const CR0: usize = 0x158;
const SEV_FEATURES: usize = 0x3b0;

/// What differs between vCPUs and guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// Family, model and stepping as CPUID leaf 1 has them in EAX; a reset leaves them in RDX.
    pub(crate) signature: u32,
    /// SEV_FEATURES.
    pub(crate) features: u64,
}

/// SHA-384 of the first vCPU's.
pub(crate) fn of_first(start: Start) -> Digest {
    page(start, RESET_VECTOR)
}

/// SHA-384 of any further vCPU's, which starts where the firmware wants it.
pub(crate) fn of_further(start: Start, reset_address: u32) -> Digest {
    page(start, reset_address)
}

fn page(start: Start, address: u32) -> Digest {
    let mut page = Page::zeros();
    // Selector, attributes, limit and base of each segment.
    for offset in [0x00, 0x20, 0x30, 0x40, 0x50] {
        page.segment(offset, 0, 0x93, 0);
    }
    page.segment(0x10, 0xf000, 0x9b, address & 0xffff_0000);
    page.segment(0x60, 0, 0, 0); // GDTR
    page.segment(0x70, 0, 0x82, 0); // LDTR
    page.segment(0x80, 0, 0, 0); // IDTR
    page.segment(0x90, 0, 0x8b, 0); // TR
    for (offset, value) in [
        (0xd0, 0x1000),                       // EFER
        (0x148, 0x40),                        // CR4
        (CR0, 0x10),                          // CR0
        (0x160, 0x400),                       // DR7
        (0x168, 0xffff_0ff0),                 // DR6
        (0x170, 0x2),                         // RFLAGS
        (0x178, u64::from(address & 0xffff)), // RIP
        (0x268, 0x0007_0406_0007_0406),       // G_PAT
        (0x310, u64::from(start.signature)),  // RDX
        (SEV_FEATURES, start.features),
        (0x3e8, 0x1), // XCR0
    ] {
        page.put(offset, &value.to_le_bytes());
    }
    page.put(0x408, &0x1f80_u32.to_le_bytes()); // MXCSR
    page.put(0x410, &0x37f_u16.to_le_bytes()); // x87 control word
    chain::contents(&page.0)
}

struct Page(Vec<u8>);

impl Page {
    fn zeros() -> Self {
        Self(vec![0; PAGE_SIZE as usize])
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(offset..offset + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn segment(&mut self, offset: usize, selector: u16, attributes: u16, base: u32) {
        self.put(offset, &selector.to_le_bytes());
        self.put(offset + 2, &attributes.to_le_bytes());
        self.put(offset + 4, &0xffff_u32.to_le_bytes());
        self.put(offset + 8, &u64::from(base).to_le_bytes());
    }
}

/// What a VMSA that a file brings says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stated {
    pub(crate) cr0: u64,
    pub(crate) features: u64,
}

pub(crate) fn stated(page: &[u8]) -> Option<Stated> {
    let field = |offset: usize| {
        let bytes = page.get(offset..offset + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    Some(Stated {
        cr0: field(CR0)?,
        features: field(SEV_FEATURES)?,
    })
}
