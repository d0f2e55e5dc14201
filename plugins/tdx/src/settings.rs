//! The settings of this backend: their announcement and their reading, side by side so that key,
//! form and default stay one thing.

use casemate_backend::announce::{MEMORY_ID, memory_id, memory_id_setting};
use casemate_backend::bindings::casemate::tee::types::{Error, HostContext, SettingSpec, Value};
use casemate_backend::memory::Backing;
use casemate_backend::settings::{
    SetBy, Sourced, Words, boolean, bytes, flags, host_path, identifier, one_of, optional_unsigned,
    same_id, spec, spec_of_words, text,
};

pub(crate) const MEMORY_BACKEND: &str = "memory-backend";
pub(crate) const GUARD_ID: &str = "tdx-id";
pub(crate) const ATTRIBUTES: &str = "tdx-attributes";
pub(crate) const SEPT_VE_DISABLE: &str = "tdx-sept-ve-disable";
pub(crate) const MR_OWNER: &str = "tdx-mrowner";
pub(crate) const MR_OWNER_CONFIG: &str = "tdx-mrownerconfig";
pub(crate) const QUOTE_SOCKET: &str = "quote-generation-socket";
pub(crate) const QUOTE_PORT: &str = "quote-generation-port";
const PAGE_ORDER: &str = "mrtd-page-order";
pub(crate) const RTMR0: &str = "tdx-rtmr0";
pub(crate) const RTMR1_SEPARATOR: &str = "tdx-rtmr1-separator";
pub(crate) const INITRD_ARGUMENT: &str = "tdx-initrd-argument";

const DEFAULT_GUARD_ID: &str = "tdx0";
/// SEPT_VE_DISABLE alone: QEMU's own default.
pub(crate) const DEFAULT_ATTRIBUTES: u64 = 1 << 28;
/// MRCONFIGID, MROWNER and MROWNERCONFIG (TD_PARAMS of TDH.MNG.INIT), and RTMRs: SHA-384 each.
pub(crate) const REGISTER_BYTES: usize = 48;

/// In which order pages are added to a guest and measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageOrder {
    /// Each page is measured as soon as it is added.
    OnePass,
    /// All pages of a section are added before any is measured.
    TwoPass,
}

/// Where the firmware puts `initrd=initrd` in the command line of a kernel that has an initrd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitrdArgument {
    First,
    Last,
}

/// Every setting, read and typed.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub memory_id: String,
    pub memory_backend: Backing,
    pub guard_id: String,
    pub attributes: Sourced<u64>,
    pub sept_ve_disable: Sourced<bool>,
    pub mr_owner: Option<Vec<u8>>,
    pub mr_owner_config: Option<Vec<u8>>,
    pub quote_socket: Option<Sourced<String>>,
    pub quote_port: Option<Sourced<u64>>,
    /// `None`: `auto`.
    pub page_order: Option<PageOrder>,
    pub rtmr0: Option<Vec<u8>>,
    /// `None`: `auto`.
    pub rtmr1_separator: Option<bool>,
    /// `None`: `auto`.
    pub initrd_argument: Option<InitrdArgument>,
}

impl Settings {
    /// Reads what the host passed. A key that is not there has its default; an unknown key is not
    /// ours to judge.
    pub fn read(host: &HostContext) -> Result<Self, Error> {
        let settings = Self {
            memory_id: memory_id(host)?,
            memory_backend: one_of(host, MEMORY_BACKEND, MEMORY_BACKENDS)?.value,
            guard_id: identifier(host, GUARD_ID, DEFAULT_GUARD_ID)?,
            attributes: flags(host, ATTRIBUTES, DEFAULT_ATTRIBUTES)?,
            sept_ve_disable: boolean(host, SEPT_VE_DISABLE, true)?,
            mr_owner: bytes(host, MR_OWNER, REGISTER_BYTES)?,
            mr_owner_config: bytes(host, MR_OWNER_CONFIG, REGISTER_BYTES)?,
            quote_socket: host_path(host, QUOTE_SOCKET)?,
            quote_port: optional_unsigned(host, QUOTE_PORT)?,
            page_order: one_of(host, PAGE_ORDER, PAGE_ORDERS)?.value,
            rtmr0: bytes(host, RTMR0, REGISTER_BYTES)?,
            rtmr1_separator: one_of(host, RTMR1_SEPARATOR, SEPARATORS)?.value,
            initrd_argument: one_of(host, INITRD_ARGUMENT, INITRD_ARGUMENTS)?.value,
        };
        if settings.memory_id == settings.guard_id {
            return Err(same_id(MEMORY_ID, GUARD_ID, &settings.guard_id));
        }
        Ok(settings)
    }
}

const MEMORY_BACKENDS: Words<Backing> = &[("memfd", Backing::Memfd), ("ram", Backing::Ram)];

const PAGE_ORDERS: Words<Option<PageOrder>> = &[
    ("auto", None),
    ("one-pass", Some(PageOrder::OnePass)),
    ("two-pass", Some(PageOrder::TwoPass)),
];

const SEPARATORS: Words<Option<bool>> = &[("auto", None), ("yes", Some(true)), ("no", Some(false))];

const INITRD_ARGUMENTS: Words<Option<InitrdArgument>> = &[
    ("auto", None),
    ("first", Some(InitrdArgument::First)),
    ("last", Some(InitrdArgument::Last)),
];

pub(crate) fn announced() -> Vec<SettingSpec> {
    vec![
        memory_id_setting(),
        spec_of_words(
            MEMORY_BACKEND,
            MEMORY_BACKENDS,
            "What backs the part of guest memory that is shared with the host. `memfd` lets helper \
             processes map it too.",
            SetBy::Operator,
        ),
        spec(
            GUARD_ID,
            "text",
            Some(text(DEFAULT_GUARD_ID)),
            "Id of the object that protects the guest.",
            SetBy::Operator,
        ),
        spec(
            ATTRIBUTES,
            "text",
            Some(text("0x10000000")),
            "TD attributes, in hexadecimal or decimal: bits 28 (SEPT_VE_DISABLE), 30 (PKS) and 63 \
             (PERFMON). Bit 0 (DEBUG) is refused; QEMU adds bit 30 where the CPU has PKS.",
            SetBy::Request,
        ),
        spec(
            SEPT_VE_DISABLE,
            "boolean",
            Some(Value::Boolean(true)),
            "No exception where the host took a page away. Linux guests do not start without it.",
            SetBy::Request,
        ),
        spec(
            MR_OWNER,
            "bytes:48",
            None,
            "MROWNER of the guest, as its quotes tell it.",
            SetBy::Request,
        ),
        spec(
            MR_OWNER_CONFIG,
            "bytes:48",
            None,
            "MROWNERCONFIG of the guest, as its quotes tell it.",
            SetBy::Request,
        ),
        spec(
            QUOTE_SOCKET,
            "host-path",
            None,
            "UNIX socket of the quote generation service; another than the usual one needs a grant \
             in host-paths. Neither it nor quote-generation-port set: the usual socket where it \
             answers, else port 4050.",
            SetBy::Operator,
        ),
        spec(
            QUOTE_PORT,
            "unsigned",
            None,
            "Port of the quote generation service on the host's vsock address (CID 2).",
            SetBy::Operator,
        ),
        spec_of_words(
            PAGE_ORDER,
            PAGE_ORDERS,
            "Order in which the host's QEMU and KVM add pages and measure them, on which MRTD \
             depends. `auto`: one-pass from QEMU 10.1 on; for others both values are named.",
            SetBy::Operator,
        ),
        spec(
            RTMR0,
            "bytes:48",
            None,
            "RTMR0 of guests on this host, for measurements: taken from a guest that is trusted, \
             and true for VMs of the same shape on the same QEMU and firmware only.",
            SetBy::Operator,
        ),
        spec_of_words(
            RTMR1_SEPARATOR,
            SEPARATORS,
            "Whether the firmware measures the separator before a boot into RTMR1 (edk2 with \
             commit efaf893) or not. `auto`: both values of RTMR1 are named.",
            SetBy::Operator,
        ),
        spec_of_words(
            INITRD_ARGUMENT,
            INITRD_ARGUMENTS,
            "Where the firmware puts `initrd=initrd` in the command line of a kernel that has an \
             initrd: first (edk2 since the middle of 2025) or last (edk2 before). `auto`: both \
             values of RTMR2 are named.",
            SetBy::Operator,
        ),
    ]
}
