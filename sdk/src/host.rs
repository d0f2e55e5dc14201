//! What is looked at on every host. `check` lists all of it, `plan` stops at the first thing that is
//! missing, and both say the same about it because both read it here.

use crate::answer::{fail, note, pass, quoted, unsupported_host, warn};
use crate::bindings::casemate::tee::facts::FactError;
use crate::bindings::casemate::tee::types::{Error, Finding, HostContext, Severity};
use crate::facts::Answer;

/// One thing that was looked at.
#[derive(Debug)]
pub enum Examined {
    /// It does not stand in the way; the finding may still be a warning.
    Usable(Finding),
    /// No VM can be planned.
    Missing { id: &'static str, error: Error },
}

impl Examined {
    pub fn into_finding(self) -> Finding {
        match self {
            Self::Usable(finding) => finding,
            Self::Missing { id, error } => fail(id, &error),
        }
    }
}

/// Warnings about the host; the error where it cannot start such a VM.
pub fn remarks(examined: Vec<Examined>) -> Result<Vec<Finding>, Error> {
    let mut remarks = Vec::new();
    for examined in examined {
        match examined {
            Examined::Missing { error, .. } => return Err(error),
            Examined::Usable(finding) if finding.severity == Severity::Warn => {
                remarks.push(finding);
            }
            Examined::Usable(_) => {}
        }
    }
    Ok(remarks)
}

/// For guests of x86_64.
pub fn architecture(host: &HostContext, backend: &str) -> Examined {
    only_architecture(host, "x86_64", backend)
}

/// For guests of one architecture, as `describe` names it.
pub fn only_architecture(host: &HostContext, wanted: &str, backend: &str) -> Examined {
    const ID: &str = "host.architecture";
    if host.architecture == wanted {
        return Examined::Usable(pass(ID, "architecture", &format!("the guest is {wanted}")));
    }
    Examined::Missing {
        id: ID,
        error: unsupported_host(
            "architecture",
            &format!(
                "architecture {} is asked for, {backend} starts {wanted} guests only",
                quoted(&host.architecture)
            ),
            "choose a backend that lists this architecture",
        ),
    }
}

/// For a guest that runs under KVM or, slowly, without it.
pub fn accelerator(host: &HostContext, device: &Answer<()>, backend: &str) -> Examined {
    if host.accelerator == "tcg" {
        return Examined::Usable(note(
            "kvm.not-used",
            "accelerator",
            "guests run in QEMU's interpreter (tcg), which is many times slower than KVM",
            "set the accelerator to kvm on a host that has it",
        ));
    }
    kvm_device(host, device, backend, ", or set the accelerator to tcg")
}

/// `/dev/kvm`; `way_out` is what else could be done, at the end of a remedy.
pub(crate) fn kvm_device(
    host: &HostContext,
    device: &Answer<()>,
    backend: &str,
    way_out: &str,
) -> Examined {
    const ID: &str = "kvm.device";
    const SUBJECT: &str = "/dev/kvm";
    let missing = |message: &str, remedy: &str| Examined::Missing {
        id: ID,
        error: unsupported_host(SUBJECT, message, &format!("{remedy}{way_out}")),
    };
    match (host.accelerator.as_str(), device) {
        ("kvm", Ok(())) => Examined::Usable(pass(ID, SUBJECT, "KVM can be used")),
        ("kvm", Err(FactError::Denied)) => Examined::Usable(warn(
            ID,
            SUBJECT,
            "the backend may not look at /dev/kvm, so it is not known whether KVM can be used",
            &format!("add device /dev/kvm to the grants of {backend}"),
        )),
        ("kvm", Err(FactError::Absent)) => missing(
            "there is no /dev/kvm on this host",
            "enable virtualization in the machine's firmware and load kvm_amd or kvm_intel",
        ),
        ("kvm", Err(FactError::Failed(reason))) => missing(
            &format!("/dev/kvm is there but cannot be used: {reason}"),
            "give the daemon's user access to /dev/kvm (group kvm)",
        ),
        (other, _) => Examined::Missing {
            id: "host.accelerator",
            error: unsupported_host(
                "accelerator",
                &format!("accelerator {} is neither kvm nor tcg", quoted(other)),
                "set the accelerator to kvm or tcg",
            ),
        },
    }
}

/// The oldest QEMU that will do, and what to say where it is older.
pub fn qemu_version(version: &Answer<String>, oldest: (u32, u32), backend: &str) -> Examined {
    const ID: &str = "qemu.version";
    const SUBJECT: &str = "qemu-version";
    let (major, minor) = oldest;
    let version = match version {
        Ok(version) => version,
        Err(FactError::Denied) => {
            return Examined::Usable(warn(
                ID,
                SUBJECT,
                &format!(
                    "the backend may not ask for QEMU's version, {major}.{minor} or newer is needed"
                ),
                &format!("add qemu-version to the grants of {backend}"),
            ));
        }
        Err(FactError::Absent) => {
            return Examined::Missing {
                id: ID,
                error: unsupported_host(
                    SUBJECT,
                    "there is no QEMU on this host",
                    "install the distribution's QEMU for x86 (qemu-system-x86), or set the path of \
                     the QEMU binary",
                ),
            };
        }
        Err(FactError::Failed(reason)) => {
            return Examined::Missing {
                id: ID,
                error: unsupported_host(
                    SUBJECT,
                    &format!("QEMU did not tell its version: {reason}"),
                    "run the QEMU binary with --version to see why",
                ),
            };
        }
    };
    match major_and_minor(version) {
        None => Examined::Usable(warn(
            ID,
            SUBJECT,
            &format!(
                "{} is no version that can be compared, {major}.{minor} or newer is needed",
                quoted(version)
            ),
            "use a QEMU that was released by its project or a distribution",
        )),
        Some(found) if found < oldest => Examined::Missing {
            id: ID,
            error: unsupported_host(
                SUBJECT,
                &format!(
                    "QEMU {} is too old, {major}.{minor} or newer is needed",
                    quoted(version)
                ),
                "install a newer QEMU, or set the path of a newer QEMU binary",
            ),
        },
        Some(_) => Examined::Usable(pass(ID, SUBJECT, &format!("QEMU is {}", quoted(version)))),
    }
}

/// Major and minor number of a version, where it has both.
pub fn major_and_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        for (version, expected) in [
            ("7.2.22", Some((7, 2))),
            ("10.0.2", Some((10, 0))),
            ("11.1", Some((11, 1))),
            ("11", None),
            ("", None),
            ("v10.0", None),
            ("99999999999.1", None),
        ] {
            assert_eq!(major_and_minor(version), expected, "{version}");
        }
        assert!(major_and_minor("10.0.2") > Some((7, 2)));
    }
}
