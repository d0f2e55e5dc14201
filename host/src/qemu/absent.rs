//! What is said of something that a plan has and the installed QEMU has not: what it is, the QEMU
//! that is there, and, where the backend tells, the QEMU that has it.

use super::check::{CheckError, Lack};
use crate::spec::first_version::QemuVersion;

/// What else can be done, behind what to do about QEMU.
const OTHERWISE: &str = "or choose another backend, machine or CPU";

/// `what` follows on QEMU's name and version `installed`: `has no object type "x"`. `first` is the
/// version that has it first.
pub(super) fn absent(installed: &str, what: &str, first: Option<QemuVersion>) -> CheckError {
    let found = QemuVersion::of_installed(installed);
    let (more, remedy) = match first {
        None => (String::new(), "install a QEMU that has it".to_owned()),
        // Distributions build without what they do not support, so a newer one may not help.
        Some(first) if found.is_some_and(|found| found >= first) => (
            format!("; QEMU {first} is the first that can have it, and this one is built without"),
            "install a QEMU that is built with it".to_owned(),
        ),
        Some(first) => (
            format!("; QEMU {first} is the first that has it"),
            format!("install QEMU {first} or newer"),
        ),
    };
    CheckError::Unsupported {
        lack: Lack::Qemu,
        what: format!("QEMU {installed} {what}{more}"),
        remedy: format!("{remedy}, {OTHERWISE}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_thing_the_qemu_that_is_there_and_the_one_that_has_it() {
        for (installed, first, what, remedy) in [
            (
                "7.2.22",
                Some("9.1"),
                "QEMU 7.2.22 has no object type \"x\"; QEMU 9.1 is the first that has it",
                "install QEMU 9.1 or newer, or choose another backend, machine or CPU",
            ),
            (
                "9.0.4",
                Some("10.1"),
                "QEMU 9.0.4 has no object type \"x\"; QEMU 10.1 is the first that has it",
                "install QEMU 10.1 or newer, or choose another backend, machine or CPU",
            ),
            (
                "10.1.0",
                Some("10.1"),
                "QEMU 10.1.0 has no object type \"x\"; QEMU 10.1 is the first that can have it, and this one is built without",
                "install a QEMU that is built with it, or choose another backend, machine or CPU",
            ),
            (
                "11.1.3",
                None,
                "QEMU 11.1.3 has no object type \"x\"",
                "install a QEMU that has it, or choose another backend, machine or CPU",
            ),
        ] {
            let first = first.and_then(QemuVersion::parse);
            let CheckError::Unsupported {
                lack,
                what: said,
                remedy: advice,
            } = absent(installed, "has no object type \"x\"", first)
            else {
                panic!("{installed}: it is another error");
            };
            assert_eq!(lack, Lack::Qemu);
            assert_eq!(said, what);
            assert_eq!(advice, remedy);
        }
    }
}
