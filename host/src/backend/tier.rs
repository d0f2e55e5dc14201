//! What a component may import beside the contract, as its operator says.

use serde::Deserialize;

use super::engine::Limits;

/// Set for each backend in config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// The contract's interfaces and nothing else.
    #[default]
    Strict,
    /// WASI 0.2 too, with nothing behind it (`wasi`): what language runtimes import whether they
    /// use it or not.
    Std,
}

/// The interfaces of WASI 0.2 that are linked in [`Tier::Std`]. HTTP is none of them: it has no use
/// without a network, and toolchains can leave it out.
const WASI: [&str; 27] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];
/// Which of their versions: all that are like the one that is linked.
const WASI_VERSION: &str = "0.2.";

/// Size of a component that brings the runtime of its language: those of JavaScript and Python have
/// 12 and 18 MiB, and a vendor's packages lie beside. It bounds the compilation too, whose time grows
/// with it.
const STD_COMPONENT_BYTES: usize = 32 << 20;
/// Memories of an instance together: runtimes begin with 9 and 13 MiB, and give back late.
const STD_MEMORY_BYTES: usize = 128 << 20;
/// All table elements together: those runtimes have 8,000, one for each function that is called by
/// its address.
const STD_TABLE_ELEMENTS: usize = 50_000;
/// Handles that an instance has at the same time: each costs the host memory that no other limit
/// counts, and runtimes have a dozen.
const STD_HANDLES: usize = 1_000;

impl Tier {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Std => "std",
        }
    }

    /// Whether a component of this tier may import `name`, which is none of the contract's.
    pub(super) fn offers(self, name: &str) -> bool {
        let Some((interface, version)) = name.split_once('@') else {
            return false;
        };
        match self {
            Self::Strict => false,
            Self::Std => WASI.contains(&interface) && version.starts_with(WASI_VERSION),
        }
    }

    /// What to do about a component that imports `names`, which this tier does not offer.
    pub(super) fn hint(self, names: &[String]) -> &'static str {
        match self {
            Self::Strict if names.iter().all(|name| Self::Std.offers(name)) => {
                "build it for wasm32-unknown-unknown, so that it imports nothing but casemate:tee/*, or set `tier = \"std\"` for this backend"
            }
            Self::Strict => {
                "build it for wasm32-unknown-unknown, so that it imports nothing but casemate:tee/*"
            }
            Self::Std => {
                "build it without them: beside casemate:tee/* there is WASI 0.2 without wasi:http"
            }
        }
    }

    /// What a call in this tier may use, where one of the other tier has `strict`. Its time is the
    /// same: a runtime begins where its tools left it, and makes a plan in milliseconds.
    pub fn limits(self, strict: Limits) -> Limits {
        match self {
            Self::Strict => strict,
            Self::Std => Limits {
                component_bytes: STD_COMPONENT_BYTES,
                memory_bytes: STD_MEMORY_BYTES,
                table_elements: STD_TABLE_ELEMENTS,
                handles: STD_HANDLES,
                ..strict
            },
        }
    }
}
