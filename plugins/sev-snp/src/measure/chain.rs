//! The launch digest: a chain of SHA-384 over one record for each page that is put into the guest
//! (AMD 56860, section 8.17.2, "Measurement", table "Layout of the PAGE_INFO Structure").

use sha2::{Digest as _, Sha384};

/// Bytes of a page of the guest.
pub(crate) const PAGE_SIZE: u64 = 0x1000;

/// Bytes of a SHA-384.
pub(crate) const DIGEST_SIZE: usize = 48;

/// Bytes of PAGE_INFO, as it states them itself.
const PAGE_INFO_SIZE: u16 = 0x70;

/// Most pages of one launch: 1 GiB. Each costs one SHA-384 here and a command of the firmware on the
/// host; a file that wants more is broken, and would use up the time of the call.
pub(crate) const MOST_PAGES: u64 = 1 << 18;

pub(crate) type Digest = [u8; DIGEST_SIZE];

/// PAGE_TYPE of a page. The contents of all but the first two are not part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageType {
    Normal = 1,
    Vmsa = 2,
    Zero = 3,
    Unmeasured = 4,
    Secrets = 5,
    Cpuid = 6,
}

/// A launch would have more pages than [`MOST_PAGES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyPages;

/// The digest of what was put into the guest so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LaunchDigest {
    digest: Digest,
    pages: u64,
}

impl LaunchDigest {
    pub(crate) fn new() -> Self {
        Self {
            digest: [0; DIGEST_SIZE],
            pages: 0,
        }
    }

    pub(crate) fn value(&self) -> Digest {
        self.digest
    }

    /// One page. `contents` is the SHA-384 of what is in it, or zeros for a type whose contents are
    /// not measured.
    pub(crate) fn page(
        &mut self,
        kind: PageType,
        gpa: u64,
        contents: &Digest,
    ) -> Result<(), TooManyPages> {
        if self.pages == MOST_PAGES {
            return Err(TooManyPages);
        }
        self.pages += 1;
        let mut hasher = Sha384::new();
        hasher.update(self.digest);
        hasher.update(contents);
        hasher.update(PAGE_INFO_SIZE.to_le_bytes());
        // PAGE_TYPE, IMI_PAGE, permissions of VMPL 3, 2 and 1, a reserved byte: a guest's first
        // memory is not for migration, and VMPL 0 gives permissions later.
        hasher.update([kind as u8, 0, 0, 0, 0, 0]);
        hasher.update(gpa.to_le_bytes());
        self.digest = hasher.finalize().into();
        Ok(())
    }

    /// Pages from `gpa` on whose contents are not measured. A rest is a page too.
    pub(crate) fn uncounted_pages(
        &mut self,
        kind: PageType,
        gpa: u64,
        size: u64,
    ) -> Result<(), TooManyPages> {
        let pages = size.div_ceil(PAGE_SIZE);
        if pages > MOST_PAGES {
            return Err(TooManyPages);
        }
        for page in 0..pages {
            let gpa = gpa.wrapping_add(page * PAGE_SIZE);
            self.page(kind, gpa, &[0; DIGEST_SIZE])?;
        }
        Ok(())
    }

    /// Pages from `gpa` on, by the SHA-384 of each, one after the other.
    pub(crate) fn normal_pages(&mut self, gpa: u64, contents: &[u8]) -> Result<(), TooManyPages> {
        let (digests, _) = contents.as_chunks::<DIGEST_SIZE>();
        for (page, digest) in (0..).zip(digests) {
            self.page(PageType::Normal, gpa.wrapping_add(page * PAGE_SIZE), digest)?;
        }
        Ok(())
    }
}

/// The SHA-384 of a page.
pub(crate) fn contents(page: &[u8]) -> Digest {
    Sha384::digest(page).into()
}
