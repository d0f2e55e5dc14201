//! Size of a guest's memory, and the object that backs it.

use crate::answer::invalid_request;
use crate::bindings::casemate::tee::types::{Error, Property, TypeUse, Typed, Value};

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// QEMU beside the guest's own memory: its heap and device models, thread stacks, user network and
/// 9p buffers take 60 to 150 MiB, and page tables 2 MiB for each GiB of guest. The rest is headroom,
/// since this is a limit and not an expectation.
pub const OVERHEAD_BYTES: u64 = 320 << 20;

/// QEMU takes counts of vCPUs as 32-bit numbers and each machine has a lower limit of its own; what
/// is above this is a mistake in any machine.
pub const MOST_VCPUS: u64 = 4096;

const RAM: &str = "memory-backend-ram";
const MEMFD: &str = "memory-backend-memfd";

/// What backs guest memory, where there is an object at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    Ram,
    /// Helper processes (vhost-user) map it, so it is shared.
    Memfd,
}

impl Backing {
    /// The object of a plan; the host sets its size.
    pub fn object(self, id: &str) -> Typed {
        let (kind, properties) = match self {
            Self::Ram => (RAM, Vec::new()),
            Self::Memfd => (MEMFD, vec![property("share", Value::Boolean(true))]),
        };
        Typed {
            kind: kind.to_owned(),
            id: Some(id.to_owned()),
            properties,
        }
    }

    /// What has to be announced for [`Backing::object`].
    pub fn types() -> [TypeUse; 2] {
        [(RAM, Vec::new()), (MEMFD, vec!["share".to_owned()])].map(|(kind, properties)| TypeUse {
            kind: kind.to_owned(),
            properties,
            paths: Vec::new(),
        })
    }
}

pub fn property(path: &str, value: Value) -> Property {
    Property {
        path: path.to_owned(),
        value,
    }
}

/// Whole MiB, and at least one.
pub fn check_size(memory_bytes: u64) -> Result<(), Error> {
    if memory_bytes == 0 || !memory_bytes.is_multiple_of(MIB) {
        return Err(invalid_request(
            "memory-bytes",
            &format!(
                "{memory_bytes} bytes of memory are asked for, wanted is a multiple of 1 MiB, and at \
                 least that"
            ),
            "round the memory size to whole MiB",
        ));
    }
    Ok(())
}

pub fn check_vcpus(vcpus: u32) -> Result<(), Error> {
    let vcpus = u64::from(vcpus);
    if vcpus == 0 || vcpus > MOST_VCPUS {
        return Err(invalid_request(
            "vcpus",
            &format!("{vcpus} vCPUs are asked for, wanted is 1 to {MOST_VCPUS}"),
            "set vcpus to a number in this range",
        ));
    }
    Ok(())
}
