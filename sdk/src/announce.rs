//! What backends announce alike: facts, settings, the QEMU that has a type.

use crate::bindings::casemate::tee::types::{Error, Extra, HostContext, Need, SettingSpec};
use crate::settings::{SetBy, identifier, spec, text};

/// Id of the object that backs guest memory: a setting of every backend.
pub const MEMORY_ID: &str = "memory-id";
const DEFAULT_MEMORY_ID: &str = "ram1";

const IDENTITY: &str = "identity";
const NO_IDENTITY: &str = "none";

pub fn need(fact: &str, pattern: &str, reason: &str) -> Need {
    Need {
        fact: fact.to_owned(),
        pattern: pattern.to_owned(),
        reason: reason.to_owned(),
    }
}

/// What has to be announced for [`crate::facts::QemuFacts::gather`] and [`crate::facts::has_type`].
pub fn qemu_needs() -> [Need; 3] {
    [
        need("qemu-version", "", "whether QEMU is new enough"),
        need(
            "qemu-machine",
            "*",
            "the versioned name of the machine, so that a plan means the same after an upgrade of \
             QEMU",
        ),
        need(
            "qemu-type",
            "*",
            "whether QEMU has the machine, the CPU model and the objects",
        ),
    ]
}

/// The first QEMU that has a type, for the host's message about one without it.
pub fn since(kind: &str, version: &str) -> Extra {
    Extra {
        key: format!("qemu-since:{kind}"),
        value: version.to_owned(),
    }
}

/// No report of the technology carries an identity: the host then gives VMs none. A request in which
/// a caller names one all the same is to be refused.
pub fn no_identity() -> Extra {
    extra(IDENTITY, NO_IDENTITY)
}

/// Whether that is announced.
pub(crate) fn announces_no_identity(extras: &[Extra]) -> bool {
    let mut extras = extras.iter();
    extras.any(|extra| extra.key == IDENTITY && extra.value == NO_IDENTITY)
}

/// A key with a value, such as `corim.vendor`.
pub fn extra(key: &str, value: &str) -> Extra {
    Extra {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

pub fn memory_id_setting() -> SettingSpec {
    spec(
        MEMORY_ID,
        "text",
        Some(text(DEFAULT_MEMORY_ID)),
        "Id of the object that backs guest memory.",
        SetBy::Operator,
    )
}

pub fn memory_id(host: &HostContext) -> Result<String, Error> {
    identifier(host, MEMORY_ID, DEFAULT_MEMORY_ID)
}
