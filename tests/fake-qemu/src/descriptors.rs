//! Descriptors that were passed to this process by number, and QEMU's sets of them (`-add-fd`).

use std::fs::File;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::OFlags;
use serde_json::{Value, json};

/// What stands before a set's number where QEMU is to open one of its descriptors.
const SET_PREFIX: &str = "/dev/fdset/";

/// One `-add-fd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) descriptor: i32,
    pub(crate) set: u32,
    pub(crate) opaque: Option<String>,
}

#[derive(Debug)]
struct Member {
    file: OwnedFd,
    set: u32,
    opaque: Option<String>,
}

/// The sets, each with one descriptor or several.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    members: Vec<Member>,
}

impl Sets {
    /// Duplicates what was passed, as QEMU does. The words of a failure are QEMU's.
    pub(crate) fn of(passed: &[Passed]) -> Result<Self, String> {
        let mut sets = Self::default();
        for one in passed {
            let number = one.descriptor;
            let failure = |reason: &str| format!("-add-fd fd={number},set={}: {reason}", one.set);
            if number <= 2 {
                return Err(failure("fd cannot be a standard I/O stream"));
            }
            let invalid = "fd is not valid or already in use";
            if !is_open(number) {
                return Err(failure(invalid));
            }
            // SAFETY: the descriptor is open, and nothing in this program closes it.
            let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
            sets.members.push(Member {
                file: rustix::io::fcntl_dupfd_cloexec(borrowed, 3).map_err(|_| failure(invalid))?,
                set: one.set,
                opaque: one.opaque.clone(),
            });
        }
        Ok(sets)
    }

    /// The set that a path names, if it is such a path.
    pub(crate) fn number_in(path: &Path) -> Option<u32> {
        path.to_str()?.strip_prefix(SET_PREFIX)?.parse().ok()
    }

    /// A descriptor of the set to write to. One that is open for reading too does not fit: QEMU
    /// wants the access mode that it would have opened the file with.
    pub(crate) fn open_for_writing(&self, set: u32) -> Result<File, &'static str> {
        let mut of_set = self
            .members
            .iter()
            .filter(|member| member.set == set)
            .peekable();
        if of_set.peek().is_none() {
            return Err("No such file or directory");
        }
        let fitting = of_set.find(|member| {
            rustix::fs::fcntl_getfl(&member.file)
                .is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::WRONLY)
        });
        fitting
            .and_then(|member| member.file.try_clone().ok())
            .map(File::from)
            .ok_or("Permission denied")
    }

    /// What `query-fdsets` answers. The numbers are this process's own, as QEMU's are.
    pub(crate) fn describe(&self) -> Value {
        use std::os::fd::AsRawFd;
        let mut numbers: Vec<u32> = self.members.iter().map(|member| member.set).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let sets = numbers.into_iter().map(|number| {
            let members = self.members.iter().filter(|member| member.set == number);
            let descriptors: Vec<Value> = members
                .map(|member| {
                    let mut entry = json!({"fd": member.file.as_raw_fd()});
                    if let Some(opaque) = &member.opaque {
                        entry["opaque"] = opaque.as_str().into();
                    }
                    entry
                })
                .collect();
            json!({"fdset-id": number, "fds": descriptors})
        });
        sets.collect()
    }
}

/// The listening socket that was passed under this number.
pub(crate) fn listener(number: i32) -> Result<UnixListener, String> {
    if number <= 2 || !is_open(number) {
        return Err(format!(
            "-chardev socket: {number} is not a descriptor that was passed"
        ));
    }
    // SAFETY: the descriptor is open, it is none of the standard streams, and it was passed for
    // this use alone.
    Ok(unsafe { UnixListener::from_raw_fd(number) })
}

fn is_open(number: i32) -> bool {
    Path::new(&format!("/proc/self/fd/{number}"))
        .symlink_metadata()
        .is_ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn passed(descriptor: i32, set: u32) -> Passed {
        Passed {
            descriptor,
            set,
            opaque: Some("o".to_owned()),
        }
    }

    #[test]
    fn a_set_is_opened_by_access_mode() {
        let (reading, writing) = std::io::pipe().unwrap();
        let both = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap();
        let sets = Sets::of(&[
            passed(reading.as_raw_fd(), 7),
            passed(writing.as_raw_fd(), 7),
            passed(both.as_raw_fd(), 8),
        ])
        .unwrap();
        assert!(sets.open_for_writing(7).is_ok());
        assert_eq!(
            sets.open_for_writing(8).err(),
            Some("Permission denied"),
            "read-write"
        );
        assert_eq!(
            sets.open_for_writing(9).err(),
            Some("No such file or directory")
        );
        assert_eq!(sets.describe()[0]["fds"].as_array().unwrap().len(), 2);
        assert_eq!(sets.describe()[1]["fdset-id"], 8);
    }

    #[test]
    fn what_was_not_passed_is_an_error() {
        for number in [0, 1, 2, 9_999] {
            assert!(Sets::of(&[passed(number, 1)]).is_err(), "{number}");
            assert!(listener(number).is_err(), "{number}");
        }
    }

    #[test]
    fn only_a_path_below_the_prefix_names_a_set() {
        for (path, expected) in [
            ("/dev/fdset/3", Some(3)),
            ("/dev/fdset/", None),
            ("/dev/fdset/x", None),
            ("/tmp/console", None),
        ] {
            assert_eq!(Sets::number_in(Path::new(path)), expected, "{path}");
        }
    }
}
