//! Descriptors that were inherited by number.
//!
//! Nothing here takes a number for its own by assertion: a file is opened again through
//! `/proc/self/fd`, a free number is taken by `F_DUPFD`, and only numbers that were inherited are
//! closed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// Where a process finds its own descriptors.
const OWN_DESCRIPTORS: &str = "/proc/self/fd";
/// Standard input, output and error.
const STANDARD: std::ops::RangeInclusive<i32> = 0..=2;

/// What this process inherited, without the standard streams. To be asked before anything is
/// opened.
#[derive(Debug)]
pub(crate) struct Inherited(BTreeSet<i32>);

impl Inherited {
    pub(crate) fn list() -> io::Result<Self> {
        let mut numbers = BTreeSet::new();
        for entry in std::fs::read_dir(OWN_DESCRIPTORS)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.parse().ok());
            numbers.extend(number.filter(|number| !STANDARD.contains(number)));
        }
        // The folder's own descriptor was among them, and is closed now.
        numbers.retain(|number| std::fs::symlink_metadata(path(*number)).is_ok());
        Ok(Self(numbers))
    }

    /// Closes all but `kept`. To be called before anything is opened, or a number may be another's
    /// by then.
    pub(crate) fn close_all_but(&mut self, kept: &[i32]) {
        let stray: Vec<_> = self.0.iter().copied().collect();
        self.close(stray.into_iter().filter(|number| !kept.contains(number)));
    }

    /// Closes those of `numbers` that are still open since the start.
    pub(crate) fn close(&mut self, numbers: impl IntoIterator<Item = i32>) {
        for number in numbers {
            if self.0.remove(&number) {
                // The only error is a number that was closed before.
                let _ = nix::unistd::close(number);
            }
        }
    }

    pub(crate) fn contains(&self, number: i32) -> bool {
        self.0.contains(&number)
    }
}

/// The file behind an inherited descriptor, for reading and writing, with a descriptor of its own
/// that no child gets.
pub(crate) fn open_again(number: i32) -> io::Result<File> {
    File::options().read(true).write(true).open(path(number))
}

/// Where the file behind a descriptor can be opened again.
pub(crate) fn path(number: i32) -> String {
    format!("{OWN_DESCRIPTORS}/{number}")
}

/// Takes `number`, which must be free, so that nothing else gets it.
pub(crate) fn take(number: i32) -> io::Result<OwnedFd> {
    let null = File::open("/dev/null")?;
    let taken = rustix::io::fcntl_dupfd_cloexec(&null, number)?;
    if taken.as_raw_fd() == number {
        return Ok(taken);
    }
    Err(io::Error::other(format!("descriptor {number} is not free")))
}
